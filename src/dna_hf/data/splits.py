"""What the splits of images and of videos have in common: names, classes, and which part of them is read."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .arguments import HELD_OUT, HELD_OUT_NAME, CommonDataArguments, is_held_out
from .errors import DataError
from .files import LeftOut
from .label_parts import several_label_parts
from .problem_types import MULTI_LABEL, SINGLE_LABEL


# names of one and the same split
SPLIT_ALIASES = (("train", "training"), ("validation", "valid", "val", "validate"), ("dev",), ("test", "testing"))
# the first of them that is there is evaluated on
EVAL_SPLITS = ("validation", "dev", "test")

T = TypeVar("T")
S = TypeVar("S", bound="Split")
# what reads each split of a data set, by name
Readers = Mapping[str, Callable[[], S]]


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

    def class_counts(self) -> np.ndarray:
        """How many samples each class has (classes); empty where samples have no classes."""
        return np.bincount(self.labels(), minlength=len(self.class_names))

    @abstractmethod
    def part(self: S, numbers: Sequence[int], name: str | None = None) -> S:
        """The samples of these numbers; under a name of its own where one is given."""

    @abstractmethod
    def with_classes(self: S, names: list[str]) -> S:
        """The same samples, their labels numbered by other names, among which those of the data are."""

    @property
    def is_stream(self) -> bool:
        """Whether the samples can only be read one after the other: then they cannot be counted."""
        return False

    def at_most(self: S, count: int | None) -> S:
        """At most `count` samples, spread over the split, which may be sorted by class."""
        if count is None:
            return self
        return self.part(np.linspace(0, len(self) - 1, min(count, len(self)), dtype=int).tolist())


def already(value: T) -> Callable[[], T]:
    """What reads something that is there already."""
    return lambda: value


def is_alias(name: str) -> bool:
    """Whether a name is a usual one of a split, in any case of its letters."""
    return any(name.lower() in names for names in SPLIT_ALIASES)


def aliases(split: str) -> tuple[str, ...]:
    """All names of a split, in small letters."""
    return next((names for names in SPLIT_ALIASES if split.lower() in names), (split.lower(),))


def find_split(splits: Iterable[str], wanted: str) -> str | None:
    """The split of a name, or of another usual name for it."""
    if wanted in set(splits):
        return wanted
    return next((name for alias in aliases(wanted) for name in splits if name.lower() == alias), None)


def read_split(readers: Readers[S], wanted: str, arguments: CommonDataArguments, seed: int | None = None) -> S:
    """Read one split.

    Args:
        readers: function that reads each split, by name.
        wanted: name of the split; `held-out`: the part of the training split that training evaluates on.
        arguments: fields of the `data` section: names of the splits, and how much is held out.
        seed: seed of the training, which says which samples are held out.

    Raises:
        DataError: if there is none of this name, or nothing is held out.
    """
    found = find_split(readers, wanted)
    if found is not None:
        return readers[found]()
    if is_held_out(wanted):
        return held_out_part(readers, arguments, seed)
    hint = "" if usual_evaluation(readers) else f"; {HELD_OUT} is the part of it that training evaluates on"
    raise DataError(f"data set {arguments.dataset!r} has no split {wanted!r}: it has {', '.join(readers)}{hint}.")


def held_out_part(readers: Readers[S], arguments: CommonDataArguments, seed: int | None) -> S:
    """Read the part of the training split that training with the same arguments and seed evaluates on.

    Args:
        readers: function that reads each split, by name.
        arguments: fields of the `data` section: the training split, and how much is held out.
        seed: seed of the training.

    Raises:
        DataError: if training evaluates on a split of its own, or the seed is not known.
    """
    own = arguments.eval_split or usual_evaluation(readers)
    if own is not None:
        raise DataError(f"nothing of data set {arguments.dataset!r} is held out, for it has split {own!r}: take that.")
    if seed is None:
        raise DataError("which part was held out is a matter of the seed of the training: give --seed.")
    return _hold_out(read_split(readers, arguments.train_split, arguments), arguments, seed)[1]


def usual_evaluation(splits: Iterable[str]) -> str | None:
    """The split that is evaluated on where nothing is said."""
    names = list(splits)
    return next(filter(None, (find_split(names, name) for name in EVAL_SPLITS)), None)


def read_all(readers: Readers[S], train_split: str) -> dict[str, S]:
    """Read all splits, to look at them; another one than that to train on is left out if it cannot be read.

    Args:
        readers: function that reads each split, by name.
        train_split: name of the split to train on.

    Raises:
        DataError: if the split to train on cannot be read, or, where there is no such split, none can.
    """
    wanted = find_split(readers, train_split)
    splits: dict[str, S] = {}
    errors: dict[str, DataError] = {}
    for name, read in readers.items():
        try:
            splits[name] = read()
        except DataError as error:
            errors[name] = error
    if wanted in errors or not splits:
        raise errors.get(wanted or "") or next(iter(errors.values()))
    reference = splits[wanted] if wanted is not None else next(iter(splits.values()))
    unread = (LeftOut(f"split {name!r}", str(error).removesuffix(".")) for name, error in errors.items())
    reference.left_out = (*reference.left_out, *unread)
    return {name: _in_line(reference, split) for name, split in splits.items()}


def read_train_and_eval(
    readers: Readers[S], arguments: CommonDataArguments, seed: int, hold_out: bool = True
) -> tuple[S, S | None]:
    """Read the split to train on and the one to evaluate on, whole.

    Where there is no evaluation split, a part of the training split is held out.

    Args:
        readers: function that reads each split, by name.
        arguments: fields of the `data` section: names of the splits, and how much is held out.
        seed: says which samples are held out.
        hold_out: whether a part is held out where there is no evaluation split; otherwise there is none.

    Raises:
        DataError: if a split is missing, none can be held out, both are one split, or they have different classes.
    """
    name = arguments.eval_split or usual_evaluation(readers)
    if name is not None and _is_one(readers, arguments.train_split, name):
        if hold_out or arguments.eval_split:
            raise DataError(
                f"train_split and eval_split are both {find_split(readers, name)!r}: set one of them to another split "
                f"(data set {arguments.dataset!r} has {', '.join(readers)})."
            )
        name = None
    train = read_split(readers, arguments.train_split, arguments)
    if name is None:
        return _hold_out(train, arguments, seed) if hold_out else (train, None)
    evaluation = read_split(readers, name, arguments)
    evaluation = _in_line(train, evaluation)
    _check_classes(train, evaluation)
    if arguments.validation_fraction != CommonDataArguments.validation_fraction:
        idle = (
            f"validation_fraction {arguments.validation_fraction} has no effect: split {evaluation.name!r} is there."
        )
        evaluation.notes = (*evaluation.notes, idle)
    return train, evaluation


def _is_one(splits: Iterable[str], name: str, other: str) -> bool:
    """Whether two names are those of one split."""
    names = list(splits)
    found = find_split(names, name)
    return found is not None and found == find_split(names, other)


def _in_line(train: S, other: S) -> S:
    """A split with the classes of the training split, where it has no others: files may order them in any way."""
    if train.class_names == other.class_names or not set(other.class_names) <= set(train.class_names):
        return other
    return other.with_classes(train.class_names)


def _check_classes(train: Split, evaluation: Split) -> None:
    if train.class_names != evaluation.class_names:
        different = sorted(set(train.class_names) ^ set(evaluation.class_names))
        raise DataError(
            f"splits {train.name!r} and {evaluation.name!r} name different classes ({', '.join(different[:5])}): "
            "give class_names, or make the class folders agree."
        )
    if train.is_stream:
        return
    unseen = np.flatnonzero((evaluation.class_counts() > 0) & (train.class_counts() == 0))
    if len(unseen):
        raise DataError(
            f"split {evaluation.name!r} has {train.unit} of class {train.class_names[unseen[0]]!r}, but split "
            f"{train.name!r} has none: make their classes agree."
        )


def _hold_out(train: S, arguments: CommonDataArguments, seed: int) -> tuple[S, S]:
    fraction = arguments.validation_fraction
    if train.is_stream or not 0 < fraction < 1:
        raise DataError(
            f"data set {arguments.dataset!r} has no evaluation split: set eval_split"
            + ("." if train.is_stream else ", or validation_fraction to a part between 0 and 1.")
        )
    labels, random = train.labels(), np.random.default_rng(seed)
    count = math.ceil(fraction * len(train))
    note = f"{count} of {len(train)} {train.unit} of {train.name!r} are held out (validation_fraction {fraction}, "
    absent: list[int] = []
    if train.problem_type == SINGLE_LABEL:
        _check_stratified(train, labels, fraction)
        kept, held = stratified_parts(labels, count, random)
        note += f"seed {seed}, each class in proportion)."
        absent = np.setdiff1d(labels, labels[held]).tolist()
    elif train.problem_type == MULTI_LABEL:
        kept, held, absent = several_label_parts(labels, count, random)
        note += f"seed {seed}, at random, but every class where possible)."
    else:
        order = random.permutation(len(train))
        kept, held = order[count:], order[:count]
        note += f"seed {seed}, at random)."
    if absent:
        names = ", ".join(repr(train.class_names[label]) for label in absent[:5])
        note += f" None of them are of class {names}{', ...' * (len(absent) > 5)}."
    if not len(kept):
        raise DataError(f"validation_fraction {fraction} leaves none of {len(train)} {train.unit} to train on.")
    parts = train.part(kept.tolist()), train.part(held.tolist(), HELD_OUT_NAME)
    for part in parts:
        part.notes = (*part.notes, note)
    return parts


def _check_stratified(train: Split, labels: np.ndarray, fraction: float) -> None:
    """See that every class can have samples on both sides."""
    numbers, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        alone = [repr(train.class_names[number]) for number in numbers[counts < 2]]
        which = f"class {alone[0]} has only one" if len(alone) == 1 else f"each of {', '.join(alone[:5])} has only one"
        raise DataError(
            f"no part of split {train.name!r} can be held out for evaluation, for of its {train.unit} {which}: add "
            "more, take the class out, set eval_split, or turn evaluation off (eval_strategy: no)."
        )
    held = math.ceil(fraction * len(train))
    if not len(numbers) <= held <= len(train) - len(numbers):
        smallest, largest = len(numbers) / len(train), 1 - len(numbers) / len(train)
        side, fix = ("held out", f"at least {math.ceil(100 * smallest) / 100}")
        if held > len(train) - len(numbers):
            side, fix = "left to train on", f"at most {math.floor(100 * largest) / 100}"
        raise DataError(
            f"validation_fraction {fraction} of {len(train)} {train.unit} is {held}, so that fewer are {side} than "
            f"there are classes ({len(numbers)}: {', '.join(train.class_names[number] for number in numbers[:5])}"
            f"{', ...' * (len(numbers) > 5)}): set it to {fix}, set eval_split, or turn evaluation off "
            "(eval_strategy: no)."
        )


def stratified_parts(labels: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Divide samples in two, each class in proportion.

    The parts are those of `Dataset.train_test_split` with `stratify_by_column`, in the same order.

    Args:
        labels: label of each sample (samples).
        count: samples of the second part.
        random: generator of what is drawn.

    Returns:
        Numbers of the samples of the first and of the second part, shuffled.
    """
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    kept = _shares(sizes, len(labels) - count, random)
    held = _shares(sizes - kept, count, random)
    members = np.split(np.argsort(classes, kind="stable"), np.cumsum(sizes)[:-1])
    shuffled = [some[random.permutation(len(some))] for some in members]
    first = [some[:end] for some, end in zip(shuffled, kept, strict=True)]
    second = [some[end : end + more] for some, end, more in zip(shuffled, kept, held, strict=True)]
    return random.permutation(np.concatenate(first)), random.permutation(np.concatenate(second))


def _shares(sizes: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """How many of `count` samples come from each class: in proportion to the sizes, the largest remainders first."""
    exact = count * sizes / sizes.sum()
    shares = np.floor(exact)
    remainders = exact - shares
    missing = int(count - shares.sum())
    for remainder in np.unique(remainders)[::-1]:
        if missing <= 0:
            break
        (equal,) = np.where(remainders == remainder)
        some = min(len(equal), missing)
        shares[random.choice(equal, size=some, replace=False)] += 1
        missing -= some
    return shares.astype(int)


def given_names(arguments: CommonDataArguments) -> list[str] | None:
    """The class names that were given, as a list or in a file, whose empty lines do not count.

    Raises:
        DataError: if the file cannot be read, there are no names, or one is there twice.
    """
    given: Any = arguments.class_names
    if given is None:
        return None
    where = ""
    if isinstance(given, str):
        where = f" {given!r}"
        try:
            lines = Path(given).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read class_names from {given!r}: it is a list, or a text file with a name a line."
            ) from error
        names = [line.strip() for line in lines if line.strip()]
    else:
        names = list(given)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        what = f"two classes are called {twice[0]!r}" if twice else "there are no names"
        raise DataError(f"{what} in class_names{where}: give every class a name of its own.")
    return names
