"""`dna-hf benchmark`."""

import argparse
import dataclasses
import sys
from typing import Any

from .options import add_config, add_output
from .overrides import parse_overrides
from .parser import add_verb
from .run_keys import check_run_keys
from .table import table, write_json
from .values import positive


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    verb = commands.add_parser(
        "benchmark", help="measure speed", description="Measure speed.", example="benchmark data --help"
    )
    parser = add_verb(
        verb.add_subparsers(title="what to measure", metavar="WHAT", required=True),
        "data",
        run,
        help="how fast a run reads its data, and whether that is fast enough for its model",
        description="Measure how many images or videos per second the loader of a run reads, how many its model "
        "trains on, and how many workers reading needs to keep up. Any key of the file can be overridden: --key "
        "value, see dna-hf train --help. Nothing is trained or saved. On a CPU, reading and training share the cores.",
        example="benchmark data vit_tiny_fashion_mnist --dataloader_num_workers 2",
        keys={},
        go_on="nothing was written",
    )
    add_config(parser, "the run whose data is read")
    parser.add_argument(
        "--seconds",
        type=positive,
        default=10,
        metavar="N",
        help="to measure each part for, at least (default: %(default)s)",
    )
    add_output(parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf benchmark data CONFIG [--key value ...]`."""
    from ..training.yaml_file import read_sections

    overrides = parse_overrides(rest)
    sections = read_sections(arguments.config)
    check_run_keys(overrides, sections)

    from ..benchmark.data import benchmark_data, fact_rows, speed_rows
    from ..training.config_file import run_config

    run = run_config(sections, overrides)
    result = benchmark_data(run, arguments.seconds)
    if arguments.output is not None:
        write_json(arguments.output, dataclasses.asdict(result))
    print(table(*speed_rows(result)))
    print("\n" + table((result.dataset.name, ""), fact_rows(result)))
    for video in result.unreadable:
        print(f"dna-hf: left out, cannot be read: {video}", file=sys.stderr)
    return 0
