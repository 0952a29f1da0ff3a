"""`dna-hf merge`."""

import argparse
from pathlib import Path
from typing import Any

from .options import add_dtype
from .parser import add_verb
from .table import table
from .values import empty_folder


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "merge",
        run,
        help="make a whole checkpoint of the adapter of a video LLM or classifier",
        description="Put what training a video LLM, or LoRA of a classifier, has changed into the checkpoint that it "
        "started from, and write the result to a folder that loads and publishes like any other.",
        example="merge runs/video_llm_viscop --output-dir runs/merged",
        go_on="empty the output folder and repeat the command",
    )
    parser.add_argument("adapter", metavar="ADAPTER", type=Path, help="folder that train wrote")
    parser.add_argument(
        *("--output-dir", "--output", "-o"),
        metavar="DIR",
        type=empty_folder,
        required=True,
        help="empty folder to write",
    )
    parser.add_argument(
        "--base", metavar="NAME", help="folder or name on the Hub of the base (default: where it lay in training)"
    )
    add_dtype(parser, "dtype of the result (default: that of the base)")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf merge ADAPTER --output-dir DIR`."""
    import torch

    from ..training.merge import merge_adapter

    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    model = merge_adapter(arguments.adapter, arguments.output_dir, arguments.base, dtype=dtype)
    facts = [("parameters", f"{model.num_parameters():,}"), ("dtype", str(model.dtype).removeprefix("torch."))]
    print(table(("merged", str(arguments.adapter)), [*facts, ("saved in", str(arguments.output_dir))]))
    return 0
