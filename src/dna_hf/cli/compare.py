"""`dna-hf compare`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from .keys import parse_overrides
from .options import numbers, words
from .table import NO_FIGURE


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "compare",
        help="train several attention variants under one recipe and several seeds",
        description="Train several attention variants with the same recipe, data order and augmentation under several "
        "seeds, and print a table of accuracies, paired differences to softmax, and costs. Any key of the file can be "
        "overridden: --key value. A comparison that was stopped goes on when the command is repeated.",
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG.yaml", help="the recipe, as for train")
    parser.add_argument(
        "--variants", type=words, default=["softmax", "dna"], metavar="A,B,...", help="default: softmax,dna"
    )
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2], metavar="0,1,...", help="default: 0,1,2")
    parser.add_argument(
        "--param-matched", action="store_true", help="also train softmax attention widened to DnA's parameters"
    )
    parser.add_argument("--output_dir", "--output-dir", type=Path, help="default: runs/compare_ and the recipe's name")
    parser.set_defaults(run=run, takes_keys=True)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf compare CONFIG.yaml --variants ... --seeds ... [--key value ...]`."""
    from ..experiments.compare import FIGURE_FILE, RUNS_FILE, SUMMARY_FILE, compare, draw, summary

    output: Path = arguments.output_dir or Path("runs") / f"compare_{Path(arguments.config).stem}"
    figures = compare(
        arguments.config,
        arguments.variants,
        arguments.seeds,
        output,
        overrides=parse_overrides(rest),
        param_matched=arguments.param_matched,
    )
    print("\n" + summary(figures) + "\n")
    written = [output / RUNS_FILE, output / SUMMARY_FILE]
    try:
        draw(figures, output / FIGURE_FILE)
        written.append(output / FIGURE_FILE)
    except ImportError:
        print(NO_FIGURE, file=sys.stderr)
    print("written: " + ", ".join(map(str, written)))
    return 0
