"""`dna-hf analyze`."""

import argparse
import sys
from typing import Any

from .keys import ANALYZE
from .options import (
    add_batch_size,
    add_checkpoint,
    add_colours,
    add_compare,
    add_held_out_seed,
    add_output_dir,
    add_place,
    chosen,
)
from .parser import add_verb
from .summary import print_summary
from .values import positive, positive_number, whole


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "analyze",
        run,
        help="the paper's statistics of the branches of attention, as a page with figures",
        description="Measure what the branches of every attention head share over a split: intruder dimensions, "
        "trace similarity, cosines, principal angles, entropies, alpha. One HTML page that needs no network is "
        "written, with pictures of what the models look at; figures and tables lie beside it. Of a video LLM the "
        "attention of its probes is measured, on the videos and images of a file of questions.",
        keys=ANALYZE.help(),
        example="analyze runs/dna --compare runs/softmax --dataset fashion-mnist-mini --output-dir report",
    )
    add_checkpoint(parser)
    add_compare(parser)
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="split to analyse (default: test); held-out: the part of the training split that training held out; "
        "questions have none",
    )
    add_held_out_seed(parser)
    add_output_dir(parser, "-o")
    parser.add_argument(
        "--k",
        type=positive,
        metavar="N",
        help="leading directions of a branch (default: 10, or as many as every attention has)",
    )
    parser.add_argument(
        "--epsilon",
        type=positive_number,
        default=0.5,
        metavar="NUMBER",
        help="a direction is an intruder if its cosines with the other branch stay below this (default: %(default)s)",
    )
    parser.add_argument(
        "--against",
        choices=("top_k", "all"),
        default="top_k",
        help="the directions of the other branch that count: its k leading ones, or all (default: %(default)s)",
    )
    parser.add_argument(
        "--pictures", type=whole, default=12, metavar="N", help="samples to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--no-untrained",
        action="store_true",
        help="do not measure untrained models of the same configurations beside those with two branches",
    )
    add_batch_size(parser, 16, "samples of a classifier at a time")
    add_place(parser)
    add_colours(parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf analyze CHECKPOINT --dataset ... --output-dir DIR`."""
    keys = ANALYZE.for_split(arguments.split or "")
    given = keys.read(rest, arguments.parser.options)
    from ..presence import must_be_there

    for checkpoint in (arguments.checkpoint, *arguments.compare):
        must_be_there(checkpoint, arguments.revision)
    from ..analysis.analyze import AnalyzeSettings, analyze
    from ..kinds import common_kind

    checkpoints = [arguments.checkpoint, *arguments.compare]
    data = keys.section(given, common_kind(checkpoints, arguments.revision).data)
    done = analyze(
        checkpoints,
        data,
        arguments.split,
        arguments.output_dir,
        AnalyzeSettings(
            **chosen(arguments, "k", "epsilon", "against", "batch_size", "pictures", "colours"),
            untrained=not arguments.no_untrained,
        ),
        announce=print_summary,
        **chosen(arguments, "device", "revision", "seed"),
    )
    for reason in done.left_out:
        print(f"dna-hf: left out: {reason}", file=sys.stderr)
    print(f"the report: {done.page}\nbeside it: {len(done.files) - 1} figures and tables")
    return 0
