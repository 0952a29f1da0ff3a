"""What the splits of images and of videos have in common: names, classes, and which part of them is read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import first_line, needed
from .arguments import CommonDataArguments
from .errors import DataError
from .problem_types import SINGLE_LABEL


# names of one and the same split
SPLIT_ALIASES = (("train", "training"), ("validation", "valid", "val", "validate"), ("dev",), ("test", "testing"))
# the first of them that is there is evaluated on
EVAL_SPLITS = ("validation", "dev", "test")

T = TypeVar("T")
S = TypeVar("S", bound="Split")
# what reads each split of a data set, by name
Readers = Mapping[str, Callable[[], S]]


@dataclass(frozen=True)
class LeftOut:
    """A file or a row that is no sample of any split.

    Args:
        path: path of the file, or name of the row.
        reason: why it is left out, the same words for the same reason.
    """

    path: str
    reason: str


class Split(ABC):
    """Labelled samples in their order.

    Its attributes are `class_names`, which the labels index; `name`, that of the split; `unit`, what its samples are
    called in messages; `left_out`, what lies in the data set and is in no split; `notes`, sentences about what was
    decided for the user; and `problem_type`, what a model is asked for each sample, by transformers' name.
    """

    class_names: list[str]
    name: str
    unit: str
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    problem_type: str = SINGLE_LABEL

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def labels(self) -> np.ndarray:
        """Label of each sample, in order."""

    @abstractmethod
    def part(self: S, numbers: Sequence[int], name: str | None = None) -> S:
        """The samples of these numbers; under a name of its own where one is given."""

    @property
    def is_stream(self) -> bool:
        """Whether the samples can only be read one after the other: then they cannot be counted."""
        return False

    @property
    def is_stratified(self) -> bool:
        """Whether a part that is held out has its share of every class."""
        return True

    def at_most(self: S, count: int | None) -> S:
        """At most `count` samples, spread over the split, which may be sorted by class."""
        if count is None:
            return self
        return self.part(np.linspace(0, len(self) - 1, min(count, len(self)), dtype=int).tolist())


def already(value: T) -> Callable[[], T]:
    """What reads something that is there already."""
    return lambda: value


def aliases(split: str) -> tuple[str, ...]:
    """All names of a split, in small letters."""
    return next((names for names in SPLIT_ALIASES if split.lower() in names), (split.lower(),))


def find_split(splits: Iterable[str], wanted: str) -> str | None:
    """The split of a name, or of another usual name for it."""
    if wanted in set(splits):
        return wanted
    return next((name for alias in aliases(wanted) for name in splits if name.lower() == alias), None)


def read_split(readers: Readers[S], wanted: str, arguments: CommonDataArguments) -> S:
    """Read one split.

    Raises:
        DataError: if there is none of this name.
    """
    found = find_split(readers, wanted)
    if found is None:
        raise DataError(f"data set {arguments.dataset!r} has no split {wanted!r}: it has {', '.join(readers)}.")
    return readers[found]()


def read_train_and_eval(readers: Readers[S], arguments: CommonDataArguments, seed: int) -> tuple[S, S]:
    """Read the split to train on and the one to evaluate on, whole.

    Where there is no evaluation split, a part of the training split is held out.

    Args:
        readers: function that reads each split, by name.
        arguments: fields of the `data` section: names of the splits, and how much is held out.
        seed: says which samples are held out.

    Raises:
        DataError: if a split is missing, none can be held out, or the two have different classes.
    """
    train = read_split(readers, arguments.train_split, arguments)
    usual = next(filter(None, (find_split(readers, name) for name in EVAL_SPLITS)), None)
    name = arguments.eval_split or usual
    if name is None:
        return _hold_out(train, arguments, seed)
    evaluation = read_split(readers, name, arguments)
    _check_classes(train, evaluation)
    return train, evaluation


def _check_classes(train: Split, evaluation: Split) -> None:
    if train.class_names != evaluation.class_names:
        different = sorted(set(train.class_names) ^ set(evaluation.class_names))
        raise DataError(
            f"splits {train.name!r} and {evaluation.name!r} name different classes ({', '.join(different[:5])}): "
            "give class_names, or make the class folders agree."
        )
    if train.is_stream:
        return
    unseen = np.setdiff1d(evaluation.labels(), train.labels())
    if len(unseen):
        raise DataError(
            f"split {evaluation.name!r} has {train.unit} of class {train.class_names[unseen[0]]!r}, but split "
            f"{train.name!r} has none: make their classes agree."
        )


def _hold_out(train: S, arguments: CommonDataArguments, seed: int) -> tuple[S, S]:
    if train.is_stream or not 0 < arguments.validation_fraction < 1:
        raise DataError(
            f"data set {arguments.dataset!r} has no evaluation split: set eval_split"
            + ("." if train.is_stream else ", or validation_fraction to a part between 0 and 1.")
        )
    datasets = needed("datasets", DataError, "holding out a part for evaluation")
    label = datasets.ClassLabel(num_classes=len(train.class_names))
    numbered = datasets.Dataset.from_dict(
        {"number": list(range(len(train))), "label": train.labels()},
        features=datasets.Features({"number": datasets.Value("int64"), "label": label}),
    )
    try:
        parts = numbered.train_test_split(
            arguments.validation_fraction,
            seed=seed,
            stratify_by_column="label" if train.is_stratified else None,
            load_from_cache_file=False,
        )
    except ValueError as error:
        raise DataError(f"no part can be held out for evaluation: {first_line(error)}.") from error
    return train.part(parts["train"]["number"][:]), train.part(parts["test"]["number"][:], "held out")


def given_names(arguments: CommonDataArguments) -> list[str] | None:
    """The class names that were given, as a list or in a file.

    Raises:
        DataError: if the file cannot be read.
    """
    given: Any = arguments.class_names
    if not isinstance(given, str):
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read class_names from {given!r}: it is a list, or a text file with a name a line."
        ) from error
