"""`dna-hf predict`."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ..data.problem_types import MULTI_LABEL, REGRESSION
from .options import add_batch_size, add_checkpoint, add_files, add_place
from .parser import add_verb
from .table import table
from .values import positive


if TYPE_CHECKING:
    from ..evaluation.class_answers import Answer


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
        "--top-k",
        type=positive,
        default=5,
        metavar="N",
        help="classes to show, the likeliest first, or outputs of a regression, in their order (default: %(default)s)",
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
    rows: list[tuple[str, ...]] = []
    unreadable = []
    head: tuple[str, ...] = ()
    for prediction in classify(loaded, files, batch_size=arguments.batch_size):
        if prediction.answer is None:
            unreadable.append(prediction.error)
        else:
            head = _columns(prediction.answer)
            rows += _rows(str(prediction.path), prediction.answer, arguments.top_k)
    if rows:
        print(table((kind.unit[:-1], *head), rows))
    for error in unreadable:
        print(f"dna-hf: error: {error}", file=sys.stderr)
    return 2 if unreadable else 0


def _columns(answer: "Answer") -> tuple[str, ...]:
    """What stands beside the name of a file."""
    if answer.problem_type == REGRESSION:
        return ("output", "value")
    if answer.problem_type == MULTI_LABEL:
        return ("class", "probability", f"above {answer.threshold:g}")
    return ("class", "probability")


def _rows(path: str, answer: "Answer", top_k: int) -> list[tuple[str, ...]]:
    """An answer under these columns."""
    rows: list[tuple[str, ...]] = []
    for name, score in answer.scores[:top_k]:
        holds = ("yes" if score > answer.threshold else "no",) if answer.problem_type == MULTI_LABEL else ()
        rows.append(("" if rows else path, name, answer.text(score), *holds))
    return rows
