"""`dna-hf benchmark`."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from .keys import parse_overrides
from .options import positive
from .table import table, write_json


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser("benchmark", help="measure speed", description="Measure speed.")
    kinds = parser.add_subparsers(title="what to measure", metavar="WHAT", required=True)
    data = kinds.add_parser(
        "data",
        help="how fast a run reads its data, and whether that is fast enough for its model",
        description="Measure how many images or videos per second the loader of a run reads, how many its model "
        "trains on, and how many workers reading needs to keep up. Any key of the file can be overridden: --key "
        "value. Nothing is trained or saved. On a CPU, reading and training share the cores.",
        allow_abbrev=False,
    )
    data.add_argument("config", metavar="CONFIG.yaml", help="the run, as for train")
    data.add_argument(
        "--seconds", type=positive, default=10, help="to measure each part for, at least (default: %(default)s)"
    )
    data.add_argument("--output", metavar="FILE.json", type=Path, help="also write the figures to this file")
    data.set_defaults(run=run, takes_keys=True)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf benchmark data CONFIG.yaml [--key value ...]`."""
    from ..training.config_file import read_sections, run_config

    run = run_config(read_sections(arguments.config), parse_overrides(rest))

    from ..benchmark.data import benchmark_data

    result = benchmark_data(run, arguments.seconds)
    name = result.samples
    speeds = [
        (f"reading, {result.workers or 'no'} worker{'s' if result.workers != 1 else ''}", result.reading),
        ("reading, one core", result.one_core),
        (f"training, {result.device}", result.training),
    ]
    rows = [
        (what, f"{speed.per_second:.4g}", f"{speed.lowest:.4g} to {speed.highest:.4g}", str(speed.samples))
        for what, speed in speeds
    ]
    print(table((f"{name} of {result.batch_size} a batch", f"{name}/s", "spread", "measured on"), rows))
    facts = [("reading / training", f"{result.ratio:.2f}"), ("does the loader feed the model", result.verdict())]
    if result.decoding is not None:
        facts.append(("part of decoding in reading", f"{100 * result.decoding:.0f} %"))
    facts.append(("processor", f"{result.processor}, {result.cores} cores, {result.threads} threads of torch"))
    print("\n" + table((result.dataset.name, ""), facts))
    for video in result.unreadable:
        print(f"dna-hf: left out, cannot be read: {video}", file=sys.stderr)
    if arguments.output is not None:
        write_json(arguments.output, dataclasses.asdict(result))
    return 0
