"""The figures of a classifier, computed in one place for the Trainer's evaluations and for `dna-hf evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from ..data.errors import DataError
from ..data.problem_types import SINGLE_LABEL
from ..data.unreadable import UNREADABLE
from ..errors import needed
from ..kinds import Kind
from ..records.metrics import PROBLEM_METRICS, metric_rows
from .intervals import wilson_interval


# classes from which on a table shows the worst alone, and how many of them
MANY_CLASSES, WORST = 20, 10


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What a classifier reaches on a split.

    Each problem type has a class of its own, with its figures beside these.

    Args:
        loss: mean loss: cross entropy of single labels, in nats; binary cross entropy over all classes of several
            labels, in nats; squared error of regression.
        samples: how many images or videos the figures are means of.
        unreadable: how many samples could not be read; they count nowhere.
    """

    problem_type: ClassVar[str]

    loss: float
    samples: int
    unreadable: int = 0

    def means(self) -> dict[str, float]:
        """The figures without the numbers of samples, by name, as a record holds them."""
        names = PROBLEM_METRICS[self.problem_type]
        return {name: getattr(self, name) for name in ("loss", *(name for name in names if name != "loss"))}

    def by_name(self, kind: Kind) -> dict[str, float]:
        """All figures by name, as the Trainer logs and files hold them: the samples are called by their unit.

        Args:
            kind: kind of the model.
        """
        return self.means() | {kind.unit: self.samples, "unreadable": self.unreadable}

    def rows(self, unit: str) -> list[tuple[str, str]]:
        """Name and value of each figure, as text for a table.

        Args:
            unit: what the samples are called, in the plural.
        """
        rows = [(unit, f"{self.samples:,}"), *self.mean_rows()]
        return [*rows, ("left out, unreadable", f"{self.unreadable:,}")] if self.unreadable else rows

    def mean_rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure but the numbers of samples, as text for a table."""
        return metric_rows(self.means())


@dataclass(frozen=True, kw_only=True)
class SingleLabelFigures(Figures):
    """What a classifier of one label for each sample reaches on a split.

    Args:
        top1: part of the samples whose class has the highest score, in [0, 1].
        top5: part of the samples whose class is among the five highest scores, in [0, 1].
        mean_class_accuracy: mean of the accuracies of the classes that occur, in [0, 1].
    """

    problem_type = SINGLE_LABEL

    top1: float
    top5: float
    mean_class_accuracy: float

    def mean_rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure, with the interval of the first; see [`Figures.mean_rows`]."""
        first, *others = super().mean_rows()
        return [first, ("95 % interval of top-1", interval_text(self.top1, self.samples)), *others]


class PartFigure(Protocol):
    """What a classifier reaches on a part of its outputs: on one class, or on one output of a regression."""

    @property
    def name(self) -> str:
        """Name of the class or output."""

    @property
    def samples(self) -> int:
        """How many samples the class or output has."""

    @property
    def quality(self) -> float:
        """The figure by which parts are ranked; greater is better."""

    @staticmethod
    def header(unit: str) -> tuple[str, ...]:
        """Titles of the texts in a row: what the part is, its samples, `quality`, and others.

        Args:
            unit: what the samples are called, in the plural.
        """

    def row(self) -> tuple[str, ...]:
        """The figures as a row of a table: a text for each title of [`header`]."""

    def by_name(self, unit: str) -> dict[str, float]:
        """The figures by name, as files hold them.

        Args:
            unit: what the samples are called, in the plural.
        """


@dataclass(frozen=True)
class ClassFigure:
    """What a classifier reaches on one class.

    Args:
        name: name of the class.
        accuracy: part of the samples of the class that were given this class, in [0, 1]; nan where there are none.
        samples: how many samples the class has.
    """

    name: str
    accuracy: float
    samples: int

    @property
    def quality(self) -> float:
        """The accuracy; see [`PartFigure`]."""
        return self.accuracy

    @staticmethod
    def header(unit: str) -> tuple[str, ...]:
        """Titles of the texts in a row; see [`PartFigure`]."""
        return "class", unit, "accuracy", "95 % interval"

    def row(self) -> tuple[str, ...]:
        """The figures as a row of a table; see [`PartFigure`]."""
        accuracy, interval = f"{100 * self.accuracy:.1f} %", interval_text(self.accuracy, self.samples)
        return self.name, f"{self.samples:,}", accuracy, interval

    def by_name(self, unit: str) -> dict[str, float]:
        """The figures by name; see [`PartFigure`]."""
        return {"accuracy": self.accuracy, unit: self.samples}


@dataclass(frozen=True)
class SliceFigure:
    """What a classifier reaches on one slice of a split.

    Args:
        name: name of the slice.
        samples: how many samples the slice has.
        accuracy: part of the samples of the slice that were given their class, in [0, 1].
        low: lower end of the 95 % interval of the accuracy.
        high: upper end of the 95 % interval of the accuracy.
    """

    name: str
    samples: int
    accuracy: float
    low: float
    high: float

    @staticmethod
    def header(unit: str) -> tuple[str, ...]:
        """Titles of the texts in a row, the samples called `unit`."""
        return "slice", unit, "top-1", "95 % interval"

    def row(self) -> tuple[str, ...]:
        """The figures as a row of a table."""
        ends = f"{100 * self.low:.1f} to {100 * self.high:.1f} %"
        return self.name, str(self.samples), f"{100 * self.accuracy:.1f} %", ends

    def by_name(self, unit: str) -> dict[str, float]:
        """The figures by name, as files hold them, the samples called `unit`."""
        return {unit: self.samples, "accuracy": self.accuracy, "low": self.low, "high": self.high}


def interval_text(proportion: float, samples: int) -> str:
    """The 95 % interval of a proportion in [0, 1] that was measured on so many samples, as text."""
    low, high = wilson_interval(round(proportion * samples), samples)
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def class_table(per_class: Sequence[PartFigure], unit: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header and the rows of a table of classes or outputs, the worst first.

    Of more than `MANY_CLASSES` those with the lowest figures are shown, and the others counted.

    Args:
        per_class: figures of the classes or outputs.
        unit: what the samples are called, in the plural.
    """
    what, *titles = per_class[0].header(unit)
    there = sorted((each for each in per_class if each.samples), key=lambda each: each.quality)
    shown = there if len(there) <= MANY_CLASSES else there[:WORST]
    rows = [each.row() for each in shown]
    blank = ("",) * (len(titles) - 2)
    if len(shown) < len(there):
        rest = there[len(shown) :]
        count = f"{sum(each.samples for each in rest):,}"
        rows.append((f"{len(rest):,} more classes", count, f"{rest[0].row()[2]} or more", *blank))
    empty = [each.name for each in per_class if not each.samples]
    if empty:
        rows.append((f"none of {', '.join(empty[:3])}{', ...' if len(empty) > 3 else ''}", "0", "", *blank))
    return (f"{what}, worst first", *titles), rows


def is_readable(labels: np.ndarray) -> np.ndarray:
    """Which samples could be read.

    Args:
        labels: class of each sample (samples), `UNREADABLE` for one that could not be read; or numbers of each sample
            (samples, classes or outputs), nan for one that could not be read.

    Raises:
        DataError: if none could.
    """
    readable = labels != UNREADABLE if labels.ndim == 1 else ~np.isnan(labels).any(axis=1)
    if not readable.any():
        raise DataError("no sample of the evaluation split can be read: there is nothing to measure.")
    return readable


def compute_figures(scores: np.ndarray, labels: np.ndarray) -> SingleLabelFigures:
    """The figures of one label for each sample, in float64.

    Args:
        scores: logits or their logarithms of probabilities (samples, classes).
        labels: index of the class of each sample (samples); `UNREADABLE` for one that could not be read.

    Raises:
        DataError: if no sample could be read.
    """
    readable = is_readable(labels)
    scores, labels = scores[readable], labels[readable]
    log_probabilities = torch.from_numpy(scores).double().log_softmax(dim=1)
    # not torch's cross entropy, whose last digit differs from that of figures measured before
    loss = -log_probabilities[torch.arange(len(labels)), torch.from_numpy(labels)].mean()
    return SingleLabelFigures(
        loss=float(loss),
        **_computed("TopKAccuracy", predictions=scores, references=labels),
        mean_class_accuracy=_per_class(scores, labels)["mean_class_accuracy"],
        samples=len(labels),
        unreadable=int((~readable).sum()),
    )


def compute_class_figures(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[ClassFigure]:
    """The figures of every class, in the order of the classes.

    Args:
        scores: logits or logarithms of probabilities (samples, classes) of samples that could be read.
        labels: index of the class of each sample (samples).
        names: name of each class.
    """
    found = _per_class(scores, labels)
    return [ClassFigure(*each) for each in zip(names, found["accuracy"], found["count"], strict=True)]


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """How many samples of each class (row) were taken for each class (column).

    Args:
        scores: logits or logarithms of probabilities (samples, classes) of samples that could be read.
        labels: index of the class of each sample (samples).
    """
    confusion = np.zeros((scores.shape[1], scores.shape[1]), dtype=int)
    np.add.at(confusion, (labels, scores.argmax(axis=1)), 1)
    return confusion.tolist()


def _per_class(scores: np.ndarray, labels: np.ndarray) -> dict:
    return _computed(
        "PerClassAccuracy", predictions=scores.argmax(axis=1), references=labels, num_classes=scores.shape[1]
    )


def _computed(metric: str, **inputs: Any) -> dict:
    """A metric, by the name of its class, of what is in memory.

    It makes a folder for itself, which the cache of the user may not let it.
    """
    needed("evaluate", DataError, "measuring a classifier")
    from . import metrics

    with TemporaryDirectory() as folder:
        return getattr(metrics, metric)(keep_in_memory=True, cache_dir=folder).compute(**inputs)
