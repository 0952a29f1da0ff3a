"""`dna-hf compare`."""

import argparse
from pathlib import Path
from typing import Any

from .interrupt import cleaned_up
from .options import add_config, add_output_dir
from .overrides import parse_overrides
from .parser import add_verb
from .run_keys import check_run_keys
from .summary import print_summary
from .table import drawn
from .values import numbers, words


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "compare",
        run,
        keys={},
        go_on="repeat the command to go on",
        help="train several attention variants under one recipe and several seeds",
        description="Train several attention variants with the same recipe, data order and augmentation under several "
        "seeds, and print a table of accuracies, paired differences to softmax, and costs. Any key of the file can be "
        "overridden: --key value, see dna-hf train --help. A comparison that was stopped goes on when the command is "
        "repeated.",
        example="compare vit_tiny_fashion_mnist --variants softmax,dna --seeds 0,1,2",
    )
    add_config(parser, "what to train")
    parser.add_argument(
        "--variants",
        type=words,
        default=["softmax", "dna"],
        metavar="NAME,...",
        help="attention variants (default: softmax,dna)",
    )
    parser.add_argument(
        "--seeds",
        type=numbers,
        default=[0, 1, 2],
        metavar="N,...",
        help="a run of each variant for each (default: 0,1,2)",
    )
    parser.add_argument(
        "--param-matched", action="store_true", help="also train softmax attention widened to DnA's parameters"
    )
    add_output_dir(parser, required=False, help="folder to write to (default: runs/compare_ and the recipe's name)")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf compare CONFIG --variants ... --seeds ... [--key value ...]`."""
    from ..training.yaml_file import read_sections

    overrides = parse_overrides(rest)
    check_run_keys(overrides, read_sections(arguments.config))

    from ..experiments import compare, summary

    output: Path = arguments.output_dir or Path("runs") / f"compare_{Path(arguments.config).stem}"
    cleaned_up()
    figures = compare.compare(
        arguments.config,
        arguments.variants,
        arguments.seeds,
        output,
        overrides=overrides,
        param_matched=arguments.param_matched,
        report=print,
        announce=print_summary,
    )
    print("\n" + summary.summary(figures) + "\n")
    written = [output / compare.RUNS_FILE, output / compare.SUMMARY_FILE]
    written += drawn(summary.draw, figures, output / compare.FIGURE_FILE)
    print("written: " + ", ".join(map(str, written)))
    return 0
