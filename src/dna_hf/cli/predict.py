"""`dna-hf predict`."""

import argparse
import sys
from typing import Any

from .options import add_checkpoint, add_device, add_files, add_revision, positive
from .table import table


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "predict",
        help="classify image or video files",
        description="Classify image files, or video files with a video model, and all of them in folders.",
        allow_abbrev=False,
    )
    add_checkpoint(parser)
    add_files(parser)
    add_revision(parser)
    parser.add_argument("--top-k", type=positive, default=5, help="classes to show (default: %(default)s)")
    parser.add_argument("--batch-size", type=positive, default=32, help="images at a time (default: %(default)s)")
    add_device(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf predict CHECKPOINT FILE...`."""
    from ..evaluation.predict import classify
    from ..kinds import CLASSIFIERS, kind_of, load

    kind = kind_of(arguments.checkpoint, arguments.revision, wanted=CLASSIFIERS)
    files = kind.files(arguments.files)
    loaded = load(arguments.checkpoint, wanted=(kind,), device=arguments.device, revision=arguments.revision)
    rows, unreadable = [], []
    for prediction in classify(loaded, files, top_k=arguments.top_k, batch_size=arguments.batch_size):
        if prediction.error is not None:
            unreadable.append(prediction.error)
        for rank, (name, probability) in enumerate(prediction.classes):
            rows.append(("" if rank else str(prediction.path), name, f"{100 * probability:.1f} %"))
    if rows:
        print(table((kind.unit[:-1], "class", "probability"), rows))
    for error in unreadable:
        print(f"dna-hf: error: {error}", file=sys.stderr)
    return 2 if unreadable else 0
