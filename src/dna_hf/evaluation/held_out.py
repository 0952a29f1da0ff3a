"""Evaluate on what training held out: the same samples, by what the record of the training says."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from transformers.utils import cached_file

from ..data.arguments import CommonDataArguments, is_held_out
from ..data.errors import DataError
from ..data.provenance import public_name
from ..records.checkpoint_records import TRAINING_FILE, TrainingRun, read_training


Data = TypeVar("Data", bound=CommonDataArguments)
# what says which samples there are, in which order, and which of them are held out
_DECIDING = (
    *("train_split", "validation_fraction", "eval_split", "label_column", "class_names", "label_base"),
    *("dataset_config", "dataset_revision", "image_column"),
    *("protocol", "clip_list", "video_column", "video_root", "on_error"),
    *("start_column", "end_column", "start_frame_column", "end_frame_column"),
)
# samples of the part may be left out
_READING = ("max_eval_samples",)


def as_trained(
    checkpoints: Sequence[str],
    arguments: Data,
    split: str,
    seed: int | None = None,
    *,
    revision: str | None = None,
) -> tuple[Data, int | None]:
    """The data and the seed by which the training of checkpoints held a part out.

    Args:
        checkpoints: folders, or names on the Hub; all of them must have held out the same part.
        arguments: section `data`, as it was given; what is not given is as in training.
        split: split that is asked for; nothing is changed for another than `held-out`.
        seed: seed of the training, for checkpoints without a record, or trained on other data.
        revision: commit, tag or branch on the Hub.

    Returns:
        Section `data`, and the seed, `None` for another split.

    Raises:
        DataError: if a record contradicts what is given, or another record, or there is none and no seed.
    """
    if not is_held_out(split):
        if seed is not None:
            raise DataError("a seed says which part was held out: leave it out, or take split held-out.")
        return arguments, None
    found = [_as_recorded(checkpoint, arguments, seed, revision) for checkpoint in checkpoints]
    for checkpoint, other in zip(checkpoints[1:], found[1:], strict=True):
        if other != found[0]:
            raise DataError(
                f"of checkpoints {checkpoints[0]!r} and {checkpoint!r} different parts were held out (seeds "
                f"{found[0][1]} and {other[1]}): take them one by one."
            )
    return found[0]


def _as_recorded(checkpoint: str, arguments: Data, seed: int | None, revision: str | None) -> tuple[Data, int]:
    record = _record(checkpoint, revision)
    name = public_name(arguments.dataset)
    if record is None or record.dataset.name != name:
        if seed is not None:
            return arguments, seed
        why = "has no record of its training" if record is None else f"was trained on {record.dataset.name!r}"
        raise DataError(
            f"checkpoint {checkpoint!r} {why}, which says nothing about what was held out of {name!r}: give the seed "
            "of the training (--seed), and validation_fraction where it was another."
        )
    if record.seed is None or seed not in (None, record.seed):
        raise DataError(
            f"checkpoint {checkpoint!r} was trained with seed {record.seed}, not {seed}: leave --seed out."
        )
    trained: dict[str, Any] = record.settings.get("data", {})
    given, changes = type(arguments)(dataset=arguments.dataset), {}
    for field in fields(arguments):
        if field.name not in (*_DECIDING, *_READING) or field.name not in trained:
            continue
        value, before = getattr(arguments, field.name), trained[field.name]
        if value == getattr(given, field.name):
            changes[field.name] = before
        elif value != before and field.name in _DECIDING:
            raise DataError(
                f"{field.name} is {value!r}, but checkpoint {checkpoint!r} was trained with {before!r}, and another "
                "part was held out so: leave it out."
            )
    return replace(arguments, **changes), record.seed


def _record(checkpoint: str, revision: str | None) -> TrainingRun | None:
    """The record of the training of a checkpoint, if it has one."""
    if Path(checkpoint).is_dir():
        return read_training(checkpoint)
    try:
        found = cached_file(checkpoint, TRAINING_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise DataError(f"the record of the training of {checkpoint!r} cannot be read: {error}.") from error
    return read_training(Path(found).parent) if found else None
