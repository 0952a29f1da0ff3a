"""`dna-hf answer`."""

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from .options import add_batch_size, add_output, add_place, add_reading, chosen
from .parser import add_verb
from .table import table, write_json, write_text
from .values import name as given_name
from .values import output_file, words


if TYPE_CHECKING:
    from ..evaluation.multiple_choice import MultipleChoiceResult

# what has an effect on --reparse
REPARSED = ("reparse", "predictions", "table", "export", "output", "parser", "run", "go_on")


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "answer",
        run,
        help="accuracy of a video LLM on multiple-choice questions",
        description="Ask a video LLM the questions of a file and state how many of its answers are right, by category "
        "and view. An answer that names no option counts as wrong, and is counted on its own.",
        example="answer runs/merged questions.json --videos clips/ --predictions answers.jsonl --output figures.json",
        go_on="where --predictions names a file, go on with --resume, else repeat the command",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=given_name, nargs="?", help="folder, or name on the Hub"
    )
    parser.add_argument("questions", metavar="QUESTIONS", nargs="?", help="JSON or JSON Lines file of questions")
    parser.add_argument(
        "--reparse",
        metavar="FILE.jsonl",
        type=given_name,
        help="read the answers of a file of --predictions again, without asking the model; without CHECKPOINT and "
        "QUESTIONS",
    )
    parser.add_argument("--videos", metavar="DIR", help="folder of the videos and images (default: that of the file)")
    parser.add_argument(
        "--format",
        choices=("perception_mcq", "egoschema", "generic"),
        help="how the questions are written (default: as the file looks)",
    )
    parser.add_argument(
        "--views",
        type=words,
        metavar="NAME,...",
        help="views to ask about, e.g. ego,exo or depth (default: ego,exo of perception_mcq, else all)",
    )
    parser.add_argument("--answers", metavar="FILE.json", help="the right answers, where the file does not hold them")
    parser.add_argument("--prompt", metavar="TEXT", help="what to tell the model, with {question} and {choices}")
    add_reading(parser, max_new_tokens=128)
    add_batch_size(parser, 1, "questions at a time")
    add_place(parser)
    parser.add_argument(
        "--second-chance",
        choices=("likelihood",),
        help="where an answer names no option, take the one whose letter the model finds most likely",
    )
    parser.add_argument(
        "--predictions", metavar="FILE.jsonl", type=output_file, help="write every answer to this file"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the file of --predictions where it ends")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what to do with a question that is wrong or whose video is missing or damaged (default: %(default)s)",
    )
    for name, file, help in (
        ("--left-out", "FILE.jsonl", "write what was skipped, and why, to this file"),
        ("--table", "FILE", "write the table to this file, .csv or .json"),
        ("--export", "FILE.json", "write what the server of EgoSchema takes to this file"),
    ):
        parser.add_argument(name, metavar=file, type=output_file, help=help)
    add_output(parser, "write all figures to this file")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf answer CHECKPOINT QUESTIONS --videos DIR`, or `dna-hf answer --reparse FILE`."""
    if arguments.reparse is not None:
        return _reparse(arguments)
    for name in ("checkpoint", "questions"):
        if getattr(arguments, name) is None:
            arguments.parser.error(f"the following arguments are required: {name.upper()}")
    if arguments.resume and arguments.predictions is None:
        arguments.parser.error("--resume goes on with the file of --predictions: name it")

    from ..data.multiple_choice import load_questions
    from ..evaluation.multiple_choice import PROMPT, AnswerSettings, evaluate_questions
    from ..kinds import VIDEO_LLM, load

    settings = AnswerSettings(
        prompt=arguments.prompt or PROMPT,
        **chosen(arguments, "fps", "max_frames", "max_visual_tokens", "max_new_tokens", "second_chance", "batch_size"),
    )
    file = load_questions(
        arguments.questions,
        arguments.videos,
        **chosen(arguments, "format", "views", "answers", "on_error"),
    )
    loaded = load(arguments.checkpoint, wanted=(VIDEO_LLM,), **chosen(arguments, "device", "revision", "dtype"))
    result = evaluate_questions(
        loaded.model,
        loaded.processor,
        file.questions,
        settings,
        **chosen(arguments, "predictions", "resume", "on_error"),
    )
    left_out = [*file.skipped, *result.unreadable]
    if arguments.left_out is not None:
        write_text(arguments.left_out, "".join(json.dumps(entry) + "\n" for entry in left_out))
    about = {"checkpoint": arguments.checkpoint, "questions": file.name, "format": file.format}
    _show(arguments, result, file.name, about | {"settings": dataclasses.asdict(settings)}, left_out)
    for entry in left_out:
        print(f"dna-hf: left out: {entry['error']}", file=sys.stderr)
    return 0


def _reparse(arguments: argparse.Namespace) -> int:
    for name, value in vars(arguments).items():
        if name not in REPARSED and value != arguments.parser.get_default(name):
            word = name.upper() if name in ("checkpoint", "questions") else f"--{name.replace('_', '-')}"
            arguments.parser.error(f"{word} has no effect on --reparse, which asks no model: leave it out")

    from ..evaluation.multiple_choice import reparse
    from ..evaluation.predictions_file import write_predictions

    result = reparse(arguments.reparse)
    if arguments.predictions is not None:
        write_predictions(arguments.predictions, result.predictions)
    _show(arguments, result, arguments.reparse, {"predictions": arguments.reparse}, [])
    return 0


def _show(
    arguments: argparse.Namespace,
    result: "MultipleChoiceResult",
    title: str,
    about: dict[str, Any],
    left_out: list[dict[str, str]],
) -> None:
    """Write the files that were asked for, and print the tables."""
    from ..evaluation.answer_tables import answer_facts, answer_rows
    from ..evaluation.multiple_choice import export_choices, write_table
    from ..records.stamp import stamp

    if arguments.table is not None:
        write_table(result.table, arguments.table)
    if arguments.export is not None:
        export_choices(result.predictions, result.unreadable, arguments.export)
    if arguments.output is not None:
        rows = [dataclasses.asdict(row) for row in result.table]
        figures = {"metrics": result.metrics, "table": rows, "left_out": left_out}
        write_json(arguments.output, {**about, **stamp(), **figures})
    print(table(*answer_rows(result.table)))
    print("\n" + table((title, ""), answer_facts(result.metrics)))
