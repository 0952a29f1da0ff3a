"""`dna-hf analyze`."""

import argparse
import sys
from typing import Any

from .keys import data_help, parse_overrides, question_help
from .options import add_checkpoint, add_colours, add_compare, add_device, add_output_dir, add_revision, positive


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "analyze",
        help="the paper's statistics of the branches of attention, as a page with figures",
        description="Measure what the branches of every attention head share over a split: intruder dimensions,\n"
        "trace similarity, cosines, principal angles, entropies, alpha. One HTML page that needs no network is\n"
        "written, with pictures of what the models look at; figures and tables lie beside it.\n"
        "Of a video LLM the attention of its probes is measured, on the videos and images of a file of questions.",
        epilog=f"{data_help()}\n{question_help()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_checkpoint(parser)
    add_compare(parser)
    parser.add_argument("--split", help="split to analyse (default: test); questions have none")
    add_output_dir(parser, "-o")
    parser.add_argument(
        "--k", type=positive, help="leading directions of a branch (default: 10, or as many as every attention has)"
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        default=0.5,
        help="a direction is an intruder if its cosines with the other branch stay below this (default: 0.5)",
    )
    parser.add_argument(
        "--against",
        choices=("top_k", "all"),
        default="top_k",
        help="the directions of the other branch that count: its k leading ones, or all (default: %(default)s)",
    )
    parser.add_argument("--pictures", type=int, default=12, metavar="N", help="samples to draw (default: 12)")
    parser.add_argument(
        "--no-untrained",
        action="store_true",
        help="leave out the untrained models of the same configurations, for comparison",
    )
    parser.add_argument(
        "--batch-size", type=positive, default=16, help="samples of a classifier at a time (default: %(default)s)"
    )
    add_device(parser)
    add_revision(parser)
    add_colours(parser)
    parser.set_defaults(run=run, takes_keys=True)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf analyze CHECKPOINT --dataset ... --output_dir DIR`."""
    from ..analysis.analyze import AnalyzeSettings, analyze
    from ..kinds import common_kind
    from ..training.config_file import data_arguments

    checkpoints = [arguments.checkpoint, *arguments.compare]
    data = data_arguments(parse_overrides(rest), common_kind(checkpoints, arguments.revision).data)
    done = analyze(
        checkpoints,
        data,
        arguments.split,
        arguments.output_dir,
        AnalyzeSettings(
            k=arguments.k,
            epsilon=arguments.epsilon,
            against=arguments.against,
            batch_size=arguments.batch_size,
            pictures=arguments.pictures,
            untrained=not arguments.no_untrained,
            colours=arguments.colours,
        ),
        device=arguments.device,
        revision=arguments.revision,
    )
    for reason in done.left_out:
        print(f"dna-hf: left out: {reason}", file=sys.stderr)
    print(f"the report: {done.page}\nbeside it: {len(done.files) - 1} figures and tables")
    return 0
