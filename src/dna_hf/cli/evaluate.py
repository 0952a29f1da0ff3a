"""`dna-hf evaluate`."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import must_be_writable
from .keys import EVALUATE, KNN
from .options import add_batch_size, add_checkpoint, add_held_out_seed, add_output, add_place, add_split, chosen
from .parser import add_verb
from .summary import print_summary
from .table import table, write_json
from .values import output_file, positive


if TYPE_CHECKING:
    from ..evaluation.image_classification import ClassificationResult
    from ..kinds import Kind


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "evaluate",
        run,
        help="top-1, top-5, loss and accuracy per class of a checkpoint",
        description="Evaluate a classifier of images or videos. Labels are matched to the model's classes by name. Of "
        "several labels for each image: mAP and F1; of a regression: R², mean absolute and root mean square error; "
        "with --knn: what the features of any model of images or videos are worth.",
        keys=EVALUATE.help(),
        example="evaluate runs/vit_tiny_fashion_mnist --dataset fashion-mnist-mini --output figures.json",
        go_on="nothing was written",
    )
    add_checkpoint(parser)
    add_split(parser, "split to evaluate on")
    add_held_out_seed(parser)
    add_batch_size(parser, None, "samples at a time (default: 64 images or 8 videos)")
    add_place(parser)
    add_output(parser)
    parser.add_argument(
        "--confusion",
        metavar="FILE.csv",
        type=output_file,
        help="also write which classes were taken for which to this file",
    )
    parser.add_argument(
        "--record", action="store_true", help="also keep the figures in the checkpoint folder, for its model card"
    )
    parser.add_argument(
        "--slices",
        metavar="COLUMN",
        help="also state the accuracy, of other problem types all figures, by the values of this column "
        "(numbers by quartile, lists by length); of images",
    )
    parser.add_argument(
        "--knn",
        metavar="K",
        type=positive,
        nargs="?",
        const=20,
        help="evaluate the features instead of the head, by the K nearest neighbours in the training split (20 "
        "without a number), each with the weight exp(cosine / 0.07); keys train_split and max_train_samples say which",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf evaluate CHECKPOINT --dataset ... [--split ...]`."""
    from ..training.errors import ConfigurationError

    keys = (EVALUATE if arguments.knn is None else KNN).for_split(arguments.split)
    given = keys.read(rest, arguments.parser.options)
    if arguments.knn is not None:
        _check_knn(arguments)
    if arguments.record and not Path(arguments.checkpoint).is_dir():
        raise ConfigurationError(f"--record writes into the checkpoint folder, but {arguments.checkpoint!r} is none.")
    from ..presence import must_be_there

    must_be_there(arguments.checkpoint, arguments.revision)
    from ..evaluation.charts import write_confusion
    from ..evaluation.image_classification import record_evaluation
    from ..kinds import CLASSIFIERS, kind_of
    from ..records.checkpoint_records import read_measurements

    if arguments.record:
        # figures that cannot be kept are not measured
        must_be_writable(arguments.checkpoint, ConfigurationError)
        read_measurements(arguments.checkpoint)
    kind = kind_of(arguments.checkpoint, arguments.revision, wanted=CLASSIFIERS)
    _check_problem(arguments)
    data = keys.section(given, kind.data)
    result = _evaluate(arguments, data, kind)
    if arguments.confusion is not None and result.confusion is not None:
        write_confusion(arguments.confusion, [each.name for each in result.per_class], result.confusion)
    if arguments.output is not None:
        report = {"checkpoint": arguments.checkpoint, "data": dataclasses.asdict(data), "split": arguments.split}
        report |= result.report() | ({} if arguments.knn is None else {"knn": arguments.knn})
        write_json(arguments.output, report)
    if arguments.record:
        record_evaluation(arguments.checkpoint, result)
    neighbours = "" if arguments.knn is None else f", {arguments.knn} nearest neighbours in {data.train_split}"
    _print(result, f"{data.dataset}, {arguments.split}{neighbours}", kind.unit)
    return 0


def _print(result: "ClassificationResult", title: str, unit: str) -> None:
    print(table(*result.class_table()))
    print("\n" + table((title, ""), result.rows()))
    if result.slices:
        print("\n" + table(result.slices[0].header(unit), [each.row() for each in result.slices]))
    for sample in result.unreadable:
        print(f"dna-hf: left out, cannot be read: {sample}", file=sys.stderr)


def _check_knn(arguments: argparse.Namespace) -> None:
    """Refuse what the figures of a classifier alone can have."""
    from ..training.errors import ConfigurationError

    for option in ("record", "slices"):
        if getattr(arguments, option):
            raise ConfigurationError(f"--{option} is for figures of a classifier, and --knn asks none: leave it out.")


def _check_problem(arguments: argparse.Namespace) -> None:
    """Refuse the confusion matrix of what has none."""
    if arguments.confusion is None or arguments.knn is not None:
        return
    from ..data.problem_types import SINGLE_LABEL
    from ..kinds import problem_type_of
    from ..pretrained import load_config
    from ..training.errors import ConfigurationError

    problem_type = problem_type_of(load_config(arguments.checkpoint, arguments.revision, ConfigurationError))
    if problem_type != SINGLE_LABEL:
        raise ConfigurationError(
            f"--confusion is for models of one class per sample, but {arguments.checkpoint!r} has problem_type "
            f"{problem_type}: leave it out."
        )


def _evaluate(arguments: argparse.Namespace, data: Any, kind: "Kind") -> "ClassificationResult":
    from ..evaluation.image_classification import evaluate_checkpoint
    from ..evaluation.video_classification import evaluate_video_checkpoint
    from ..kinds import IMAGE
    from ..training.errors import ConfigurationError

    common: dict[str, Any] = {**chosen(arguments, "device", "revision"), "announce": print_summary}
    if arguments.knn is not None:
        from ..evaluation.neighbours import evaluate_by_neighbours

        return evaluate_by_neighbours(
            arguments.checkpoint,
            data,
            arguments.split,
            k=arguments.knn,
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            **common,
        )
    if kind is IMAGE:
        return evaluate_checkpoint(
            arguments.checkpoint,
            data,
            arguments.split,
            batch_size=arguments.batch_size or 64,
            slices=arguments.slices,
            seed=arguments.seed,
            **common,
        )
    if arguments.slices is not None:
        raise ConfigurationError("--slices is for images: leave it out.")
    return evaluate_video_checkpoint(
        arguments.checkpoint,
        data,
        arguments.split,
        batch_size=arguments.batch_size or 8,
        seed=arguments.seed,
        **common,
    )
