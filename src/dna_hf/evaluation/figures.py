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
