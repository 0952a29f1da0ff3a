"""The figures of a classifier, computed in one place for the Trainer's evaluations and for `dna-hf evaluate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from ..data.errors import DataError
from ..data.videos import UNREADABLE
from ..errors import needed
from ..kinds import VIDEO, Kind
from .intervals import wilson_interval


# classes from which on a table shows the worst alone, and how many of them
MANY_CLASSES, WORST = 20, 10


@dataclass(frozen=True)
class Figures:
    """What a classifier reaches on a split.

    Args:
        loss: mean cross entropy, in nats.
        top1: part of the samples whose class has the highest score, in [0, 1].
        top5: part of the samples whose class is among the five highest scores, in [0, 1].
        mean_class_accuracy: mean of the accuracies of the classes that occur, in [0, 1].
        samples: how many images or videos the figures are means of.
        unreadable: how many videos could not be read; they count nowhere.
    """

    loss: float
    top1: float
    top5: float
    mean_class_accuracy: float
    samples: int
    unreadable: int = 0

    def means(self) -> dict[str, float]:
        """The figures without the numbers of samples, by name, as a record holds them."""
        names = ("loss", "top1", "top5", "mean_class_accuracy")
        return {name: getattr(self, name) for name in names}

    def by_name(self, kind: Kind) -> dict[str, float]:
        """All figures by name, as the Trainer logs and files hold them: the samples are called by their unit.

        Args:
            kind: kind of the model; only videos may be left out where they cannot be read.
        """
        named = self.means() | {kind.unit: self.samples}
        return named | {"unreadable": self.unreadable} if kind is VIDEO else named

    def rows(self, unit: str) -> list[tuple[str, str]]:
        """Name and value of each figure, as text for a table.

        Args:
            unit: what the samples are called, in the plural.
        """
        rows = [
            (unit, f"{self.samples:,}"),
            ("top-1", f"{100 * self.top1:.2f} %"),
            ("95 % interval of top-1", interval_text(self.top1, self.samples)),
            ("top-5", f"{100 * self.top5:.2f} %"),
            ("mean class accuracy", f"{100 * self.mean_class_accuracy:.2f} %"),
            ("loss", f"{self.loss:.4f}"),
        ]
        return [*rows, ("left out, unreadable", f"{self.unreadable:,}")] if self.unreadable else rows


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


def interval_text(proportion: float, samples: int) -> str:
    """The 95 % interval of a proportion in [0, 1] that was measured on so many samples, as text."""
    low, high = wilson_interval(round(proportion * samples), samples)
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def class_table(per_class: Sequence[ClassFigure], unit: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header and the rows of a table of classes, the worst first.

    Of more than `MANY_CLASSES` classes those with the lowest accuracies are shown, and the others counted.

    Args:
        per_class: figures of the classes.
        unit: what the samples are called, in the plural.
    """
    there = sorted((each for each in per_class if each.samples), key=lambda each: each.accuracy)
    shown = there if len(there) <= MANY_CLASSES else there[:WORST]
    rows: list[tuple[str, ...]] = [
        (each.name, f"{each.samples:,}", f"{100 * each.accuracy:.1f} %", interval_text(each.accuracy, each.samples))
        for each in shown
    ]
    if len(shown) < len(there):
        rest = there[len(shown) :]
        count = f"{sum(each.samples for each in rest):,}"
        rows.append((f"{len(rest):,} more classes", count, f"{100 * rest[0].accuracy:.1f} % or more", ""))
    empty = [each.name for each in per_class if not each.samples]
    if empty:
        rows.append((f"none of {', '.join(empty[:3])}{', ...' if len(empty) > 3 else ''}", "0", "-", ""))
    return ("class, worst first", unit, "accuracy", "95 % interval"), rows


def compute_figures(scores: np.ndarray, labels: np.ndarray) -> Figures:
    """The figures of scores, in float64.

    Args:
        scores: logits or their logarithms of probabilities (samples, classes).
        labels: index of the class of each sample (samples); `UNREADABLE` for one that could not be read.

    Raises:
        DataError: if no sample could be read.
    """
    readable = labels != UNREADABLE
    if not readable.any():
        raise DataError("no sample of the evaluation split can be read: there is nothing to measure.")
    scores, labels = scores[readable], labels[readable]
    log_probabilities = torch.from_numpy(scores).double().log_softmax(dim=1)
    # not torch's cross entropy, whose last digit differs from that of figures measured before
    loss = -log_probabilities[torch.arange(len(labels)), torch.from_numpy(labels)].mean()
    return Figures(
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
