"""`dna-hf data`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.kinds_of_data import CONVERSATIONS, IMAGES, KINDS, QUESTIONS, find_kind
from ..data.problem_types import PROBLEM_TYPES
from .keys import DATA
from .options import add_output, add_output_dir
from .parser import add_verb
from .summary import print_summary
from .table import write_json
from .values import name


if TYPE_CHECKING:
    from ..data.contact_sheets import Sheet
    from ..data.file_summary import FileSummary
    from ..data.splits import Split
    from ..data.summary import DataSummary

# how long images may be decoded for their sizes and duplicates, in seconds
SECONDS = 40.0
PAGE, SHEETS = "data.html", "sheets"


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "data",
        run,
        help="what a data set holds: classes, sizes, duplicates across splits, what is left out",
        description="Say what a data set holds, without a model: where it comes from, samples of each split and "
        "class, sizes, duplicates across splits (same pixels), what is left out and why, and what is worth a look. "
        "Of a file of conversations or questions: samples, turns, videos and images.",
        keys=DATA.help(),
        example="data fashion-mnist-mini --output-dir summary",
    )
    parser.add_argument("dataset", metavar="DATASET", type=name, help="as key dataset of dna-hf train, or a file")
    parser.add_argument(
        "--kind", choices=KINDS, help="what the data set consists of (default: as its files say, which is printed)"
    )
    parser.add_argument(
        "--problem-type",
        choices=PROBLEM_TYPES,
        help="what a model is asked for each image (default: as the labels say, which is printed)",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="CHECKPOINT",
        type=name,
        help="of conversations: also encode every sample with the processor of this video LLM, and name the longest",
    )
    add_output_dir(
        parser,
        required=False,
        help="folder that gets a page with contact sheets, these as PNG, and the summary as JSON",
    )
    add_output(parser, "also write the summary to this file")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf data DATASET [--key value ...]`."""
    given = DATA.read(rest, arguments.parser.options)
    kind, reason = (arguments.kind, "") if arguments.kind is not None else find_kind(arguments.dataset)
    section = dict(zip(KINDS, (keys.section for keys in DATA.kinds), strict=True))[kind]
    data = DATA.section(given, section, dataset=arguments.dataset)
    is_file = kind in (CONVERSATIONS, QUESTIONS)
    summary: DataSummary | FileSummary
    for option, wanted in (("problem_type", IMAGES), ("checkpoint", CONVERSATIONS)):
        if getattr(arguments, option) is not None and kind != wanted:
            from ..training.errors import ConfigurationError

            name, what = option.replace("_", "-"), (f"{each.removesuffix('s')}s" for each in (wanted, kind))
            raise ConfigurationError("--{} is for {}, but these are {}: leave it out.".format(name, *what))
    splits = [] if is_file else _load(data, kind, arguments.problem_type)
    summary, sheets = (
        _of_file(data, kind, arguments.checkpoint) if is_file else _of_splits(data, splits, arguments.output_dir)
    )
    if reason:
        print(f"{kind.removesuffix('s')}s, for {reason}\n")
    print_summary(summary)
    if arguments.output is not None:
        write_json(arguments.output, summary.report())
    if arguments.output_dir is not None:
        _write(arguments.output_dir, summary, sheets)
    return 0


def _of_file(data: Any, kind: str, checkpoint: str | None) -> "tuple[FileSummary, list[Sheet]]":
    from ..data.file_summary import summarize_conversations, summarize_questions

    if kind == QUESTIONS:
        return summarize_questions(data), []
    processor = None
    if checkpoint is not None:
        from ..kinds import VIDEO_LLM, kind_of, load_processor

        kind_of(checkpoint, wanted=(VIDEO_LLM,))
        processor = load_processor(checkpoint, VIDEO_LLM)
    return summarize_conversations(data, processor), []


def _of_splits(data: Any, splits: "list[Split]", output_dir: Path | None) -> "tuple[DataSummary, list[Sheet]]":
    """What the splits hold, and contact sheets where there is a folder for them."""
    from ..data.summary import summarize

    summary = summarize(data, splits, seconds=SECONDS)
    if output_dir is None:
        return summary, []
    from ..data.contact_sheets import write_class_sheets

    return summary, write_class_sheets(output_dir / SHEETS, splits, summary)


def _load(data: Any, kind: str, problem_type: str | None) -> list["Split"]:
    """All splits, the one to train on first."""
    from ..data.splits import find_split

    splits: dict[str, Split]
    # images need no torch, which what reads videos imports
    if kind == IMAGES:
        from ..data import sources

        splits = dict(sources.load_all(data, problem_type))
    else:
        from ..data import video_sources

        splits = dict(video_sources.load_all(data))
    first = find_split(splits, data.train_split)
    return sorted(splits.values(), key=lambda split: split.name != first)


def _write(folder: Path, summary: "DataSummary | FileSummary", sheets: "list[Sheet]") -> None:
    from ..data.summary import SUMMARY_FILE, write_summary
    from ..data.summary_page import write_page

    write_summary(folder / SUMMARY_FILE, summary)
    write_page(folder / PAGE, summary, sheets)
    written = [str(folder / PAGE), str(folder / SUMMARY_FILE)]
    if sheets:
        written.append(f"{len(sheets)} contact sheets in {folder / SHEETS}")
    print("written: " + ", ".join(written))
