"""The figures of a classifier of several labels for each sample: average precision, and F1 at a threshold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ..data.problem_types import MULTI_LABEL
from .figures import Figures, is_readable
from .intervals import bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class MultiLabelFigures(Figures):
    """What a classifier of several labels for each sample reaches on a split.

    Args:
        map: mean of the average precisions of the classes that occur, in [0, 1].
        f1_macro: mean of the F1 scores of the classes that occur, in [0, 1].
        f1_micro: F1 score of all pairs of a sample and a class together, in [0, 1].
        threshold: probability above which a class counts as predicted, for F1.
        interval: ends of the 95 % interval of `map`, where it was asked for.
    """

    problem_type = MULTI_LABEL

    map: float
    f1_macro: float
    f1_micro: float
    threshold: float
    interval: tuple[float, float] | None = None

    def mean_rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure, with interval and threshold; see [`Figures.mean_rows`]."""
        first, *others = super().mean_rows()
        ends = [] if self.interval is None else [f"{100 * self.interval[0]:.1f} to {100 * self.interval[1]:.1f} %"]
        return [
            first,
            *(("95 % interval of mAP", text) for text in ends),
            *others,
            ("threshold of F1", f"{self.threshold:g}"),
        ]


@dataclass(frozen=True)
class LabelFigure:
    """What a classifier of several labels reaches on one class.

    Args:
        name: name of the class.
        average_precision: average precision of the class, in [0, 1]; nan where no sample has it.
        f1: F1 score of the class at the threshold, in [0, 1]; nan where no sample has it.
        samples: how many samples have the class.
    """

    name: str
    average_precision: float
    f1: float
    samples: int

    @property
    def quality(self) -> float:
        """The average precision; see [`~dna_hf.evaluation.figures.PartFigure`]."""
        return self.average_precision

    @staticmethod
    def header(unit: str) -> tuple[str, ...]:
        """Titles of the texts in a row; see [`~dna_hf.evaluation.figures.PartFigure`]."""
        return "class", unit, "average precision", "F1"

    def row(self) -> tuple[str, ...]:
        """The figures as a row of a table; see [`~dna_hf.evaluation.figures.PartFigure`]."""
        return self.name, f"{self.samples:,}", f"{100 * self.average_precision:.1f} %", f"{100 * self.f1:.1f} %"

    def by_name(self, unit: str) -> dict[str, float]:
        """The figures by name; see [`~dna_hf.evaluation.figures.PartFigure`]."""
        return {"average_precision": self.average_precision, "f1": self.f1, unit: self.samples}


def compute_multi_label_figures(scores: np.ndarray, labels: np.ndarray, threshold: float) -> MultiLabelFigures:
    """The figures of several labels for each sample.

    Args:
        scores: logits (samples, classes).
        labels: 1 for each class that a sample has, 0 for the others (samples, classes); nan for a sample that could
            not be read.
        threshold: probability above which a class counts as predicted.

    Raises:
        DataError: if no sample could be read.
    """
    readable = is_readable(labels)
    scores, labels = scores[readable].astype(np.float64), labels[readable]
    loss = functional.binary_cross_entropy_with_logits(torch.from_numpy(scores), torch.from_numpy(labels).double())
    truth, predicted = labels == 1, is_predicted(scores, threshold)
    occurs = truth.any(axis=0)
    precisions = [average_precision(*column) for column in zip(scores.T[occurs], truth.T[occurs], strict=True)]
    return MultiLabelFigures(
        loss=float(loss),
        map=float(np.mean(precisions)) if precisions else float("nan"),
        f1_macro=float(f1_score(predicted, truth)[occurs].mean()) if precisions else float("nan"),
        f1_micro=float(f1_score(predicted.reshape(-1, 1), truth.reshape(-1, 1))[0]),
        threshold=threshold,
        samples=len(labels),
        unreadable=int((~readable).sum()),
    )


def compute_label_figures(
    scores: np.ndarray, labels: np.ndarray, names: Sequence[str], threshold: float
) -> list[LabelFigure]:
    """The figures of every class, in the order of the classes.

    Args:
        scores: logits (samples, classes) of samples that could be read.
        labels: 1 for each class that a sample has, 0 for the others (samples, classes).
        names: name of each class.
        threshold: probability above which a class counts as predicted.
    """
    truth = labels == 1
    counts, scores_of_f1 = truth.sum(axis=0), f1_score(is_predicted(scores, threshold), truth)
    return [
        LabelFigure(
            name=name,
            average_precision=average_precision(scores[:, index], truth[:, index]) if counts[index] else float("nan"),
            f1=float(scores_of_f1[index]) if counts[index] else float("nan"),
            samples=int(counts[index]),
        )
        for index, name in enumerate(names)
    ]


def is_predicted(logits: np.ndarray, threshold: float) -> np.ndarray:
    """Whether the probability of each class, the sigmoid of its logit, is above a threshold."""
    return torch.from_numpy(np.asarray(logits, dtype=np.float64)).sigmoid().numpy() > threshold


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Average precision of one class: the sum of its precisions, each weighted by the recall that it adds.

    `sum_n (R_n - R_(n-1)) P_n` over the distinct scores as thresholds, from high to low, without interpolation: what
    scikit-learn's `average_precision_score` computes.

    Args:
        scores: score of each sample (samples).
        truth: whether each sample has the class (samples); at least one has it.
    """
    return weighted_precision(scores, truth)(np.ones(len(scores), dtype=int))


def weighted_precision(scores: np.ndarray, truth: np.ndarray) -> Callable[[np.ndarray], float]:
    """What gives the average precision of one class where each sample occurs so many times; nan if none has the class.

    Args:
        scores: score of each sample (samples).
        truth: whether each sample has the class (samples).
    """
    order = np.argsort(-scores, kind="stable")
    ranked, right = scores[order], truth[order]
    # equal scores are reached together
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)

    def precision(weights: np.ndarray) -> float:
        weights = weights[order]
        found, reached = np.cumsum(weights * right)[last], np.cumsum(weights)[last]
        if found[-1] == 0:
            return float("nan")
        return float((np.diff(found / found[-1], prepend=0) * found / np.maximum(reached, 1)).sum())

    return precision


def map_interval(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean average precision; see [`~dna_hf.evaluation.intervals.bootstrap_interval`].

    Args:
        scores: logits (samples, classes) of samples that could be read.
        labels: 1 for each class that a sample has, 0 for the others (samples, classes).
    """
    truth = labels == 1
    precisions = [weighted_precision(*column) for column in zip(scores.T, truth.T, strict=True) if column[1].any()]

    def mean(weights: np.ndarray) -> float:
        values = [value for value in (precision(weights) for precision in precisions) if not np.isnan(value)]
        return float(np.mean(values)) if values else float("nan")

    return bootstrap_interval(mean, len(labels))


def f1_score(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """F1 score of every class, `2 TP / (2 TP + FP + FN)`; 0 where a class is neither predicted nor true anywhere.

    Args:
        predicted: whether each class is predicted (samples, classes).
        truth: whether each sample has each class (samples, classes).
    """
    hits = (predicted & truth).sum(axis=0)
    return 2 * hits / np.maximum(predicted.sum(axis=0) + truth.sum(axis=0), 1)
