"""`dna-hf merge`."""

import argparse
from pathlib import Path
from typing import Any

from .options import add_dtype, add_output_dir
from .table import table


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "merge",
        help="make a whole checkpoint of the adapter of a video LLM",
        description="Put what training a video LLM has changed into the checkpoint that it started from, and write "
        "the result to a folder that loads, chats and publishes like any other.",
        allow_abbrev=False,
    )
    parser.add_argument("adapter", metavar="ADAPTER", type=Path, help="folder that train wrote")
    add_output_dir(parser, "--output", help="folder to write")
    parser.add_argument("--base", metavar="NAME", help="where the base lies now (default: where it lay in training)")
    add_dtype(parser, "of the result (default: that of the base)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf merge ADAPTER --output DIR`."""
    import torch

    from ..training.adapter import merge_adapter

    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    model = merge_adapter(arguments.adapter, arguments.output_dir, arguments.base, dtype=dtype)
    facts = [("parameters", f"{model.num_parameters():,}"), ("dtype", str(model.dtype).removeprefix("torch."))]
    print(table(("merged", str(arguments.adapter)), [*facts, ("saved in", str(arguments.output_dir))]))
    return 0
