"""`dna-hf predict`."""

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from .options import add_checkpoint, add_device, add_files, add_revision, positive
from .probe import is_video_model
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
    is_video = is_video_model(arguments.checkpoint, arguments.revision)
    rows, unreadable = [], []
    for prediction in _predictions(arguments, is_video):
        if prediction.error is not None:
            unreadable.append(prediction.error)
        for rank, (name, probability) in enumerate(prediction.classes):
            rows.append(("" if rank else str(prediction.path), name, f"{100 * probability:.1f} %"))
    if rows:
        print(table(("video" if is_video else "image", "class", "probability"), rows))
    for error in unreadable:
        print(f"dna-hf: error: {error}", file=sys.stderr)
    return 2 if unreadable else 0


def _predictions(arguments: argparse.Namespace, is_video: bool) -> Iterable[Any]:
    where = (arguments.checkpoint, arguments.device, arguments.revision)
    if is_video:
        from ..evaluation.video_classification import classify_videos, load_video_classifier, video_files

        files = video_files(arguments.files)
        return classify_videos(*load_video_classifier(*where), files, top_k=arguments.top_k)
    from ..evaluation.image_classification import load_classifier
    from ..evaluation.predict import classify, image_files

    files = image_files(arguments.files)
    model, processor = load_classifier(*where)
    return classify(model, processor, files, top_k=arguments.top_k, batch_size=arguments.batch_size)
