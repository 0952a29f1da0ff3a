"""`dna-hf distractors`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from .keys import data_help, parse_overrides
from .options import add_device, add_output_dir, add_split, positive
from .table import NO_FIGURE, table


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "distractors",
        help="accuracy of checkpoints when images of other classes stand around the one that counts",
        description="Put every image of a split into a cell of a grid and images of other classes into 0, 1, ... of\n"
        "the other cells, and measure how the accuracy falls. All checkpoints see the same pictures.\n"
        "A table, a figure and an example are written.",
        epilog=data_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", help="folder, or name on the Hub")
    add_split(parser, "split to take images from")
    parser.add_argument("--grid", type=int, default=2, metavar="N", help="NxN cells (default: %(default)s)")
    parser.add_argument(
        "--max-tiles", type=int, metavar="N", help="largest number of distractors (default: all cells but one)"
    )
    parser.add_argument(
        "--target-position",
        choices=("random", "center"),
        default="random",
        help="where the image stands that counts; center needs an odd grid (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of positions and distractors (default: %(default)s)")
    parser.add_argument("--batch-size", type=positive, default=64, help="pictures at a time (default: %(default)s)")
    add_device(parser)
    add_output_dir(parser)
    parser.set_defaults(run=run, takes_keys=True)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf distractors CHECKPOINT [CHECKPOINT ...] --dataset ... --output-dir DIR`."""
    from ..evaluation.distractors import (
        EXAMPLE_FILE,
        FIGURE_FILE,
        FIGURES_FILE,
        SUMMARY_FILE,
        distractor_test,
        draw,
        summary_rows,
    )
    from ..training.config_file import data_arguments

    output: Path = arguments.output_dir
    figures = distractor_test(
        arguments.checkpoints,
        data_arguments(parse_overrides(rest)),
        arguments.split,
        output,
        grid=arguments.grid,
        max_tiles=arguments.max_tiles,
        target_position=arguments.target_position,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    print(table(*summary_rows(figures)) + "\n")
    written = [output / FIGURES_FILE, output / SUMMARY_FILE, output / EXAMPLE_FILE]
    try:
        draw(figures, output / FIGURE_FILE)
        written.append(output / FIGURE_FILE)
    except ImportError:
        print(NO_FIGURE, file=sys.stderr)
    print("written: " + ", ".join(map(str, written)))
    return 0
