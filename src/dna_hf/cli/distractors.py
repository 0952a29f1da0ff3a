"""`dna-hf distractors`."""

import argparse
from pathlib import Path
from typing import Any

from .keys import DISTRACTORS
from .options import (
    add_batch_size,
    add_checkpoint,
    add_device,
    add_held_out_seed,
    add_output_dir,
    add_seed,
    add_split,
    chosen,
)
from .parser import add_verb
from .summary import print_summary
from .table import drawn, table
from .values import positive


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "distractors",
        run,
        help="accuracy of checkpoints when images of other classes stand around the one that counts",
        description="Put every image of a split into a cell of a grid and images of other classes into 0, 1, ... of "
        "the other cells, and measure how the accuracy falls. All checkpoints see the same pictures. A table, a "
        "figure and an example are written.",
        keys=DISTRACTORS.help(),
        example="distractors runs/softmax runs/dna --dataset fashion-mnist-mini --grid 3 --output-dir distractors",
    )
    add_checkpoint(parser, several=True)
    add_split(parser, "split to take images from")
    parser.add_argument(
        "--grid", type=positive, default=2, metavar="N", help="NxN cells, at least 2x2 (default: %(default)s)"
    )
    parser.add_argument(
        "--max-tiles", type=positive, metavar="N", help="largest number of distractors (default: all cells but one)"
    )
    parser.add_argument(
        "--target-position",
        choices=("random", "center"),
        default="random",
        help="where the image stands that counts; center needs an odd grid (default: %(default)s)",
    )
    add_seed(parser, "seed of positions and distractors")
    add_held_out_seed(parser, "--held-out-seed")
    add_batch_size(parser, 64, "pictures at a time")
    add_device(parser)
    add_output_dir(parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf distractors CHECKPOINT [CHECKPOINT ...] --dataset ... --output-dir DIR`."""
    keys = DISTRACTORS.for_split(arguments.split)
    data = keys.section(keys.read(rest, arguments.parser.options))
    from ..presence import must_be_there

    for checkpoint in arguments.checkpoints:
        must_be_there(checkpoint)
    from ..evaluation import distractors

    output: Path = arguments.output_dir
    figures = distractors.distractor_test(
        arguments.checkpoints,
        data,
        arguments.split,
        output,
        announce=print_summary,
        **chosen(arguments, "grid", "max_tiles", "target_position", "seed", "held_out_seed", "batch_size", "device"),
    )
    written = [
        output / name for name in (distractors.FIGURES_FILE, distractors.SUMMARY_FILE, distractors.EXAMPLE_FILE)
    ]
    written += drawn(distractors.draw, figures, output / distractors.FIGURE_FILE)
    print(table(*distractors.summary_rows(figures)) + "\n")
    print("written: " + ", ".join(map(str, written)))
    return 0
