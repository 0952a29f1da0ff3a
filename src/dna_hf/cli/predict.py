"""`dna-hf predict`."""

import argparse
import sys
from typing import Any

from .options import add_batch_size, add_checkpoint, add_files, add_place
from .parser import add_verb
from .table import table
from .values import positive


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "predict",
        run,
        help="classify image or video files",
        description="Classify image files, or video files with a video model, and all of them in folders.",
        example="predict runs/vit_tiny_fashion_mnist picture.png more_pictures/ --top-k 3",
        go_on="nothing was written",
    )
    add_checkpoint(parser)
    add_files(parser)
    parser.add_argument(
        "--top-k", type=positive, default=5, metavar="N", help="classes to show (default: %(default)s)"
    )
    add_batch_size(parser, 32, "images at a time; videos go one by one")
    add_place(parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf predict CHECKPOINT FILE...`."""
    from ..presence import must_be_there

    must_be_there(arguments.checkpoint, arguments.revision)
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
