"""The figures of a regression: absolute and squared errors, and the part of the variance that is explained."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.problem_types import REGRESSION
from .figures import Figures, is_readable
from .intervals import bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class RegressionFigures(Figures):
    """What a regression reaches on a split; of several outputs, the mean over them.

    Args:
        mae: mean absolute error, in the unit of the targets.
        rmse: root of the mean square error, in the unit of the targets.
        r2: coefficient of determination, at most 1: 1 - square error / square distance of the targets from their mean.
            It is nan where an output does not vary.
        interval: ends of the 95 % interval of `r2`, where it was asked for.
    """

    problem_type = REGRESSION

    mae: float
    rmse: float
    r2: float
    interval: tuple[float, float] | None = None

    def mean_rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure, with the interval of the first; see [`Figures.mean_rows`]."""
        first, *others = super().mean_rows()
        ends = [] if self.interval is None else [f"{self.interval[0]:.4f} to {self.interval[1]:.4f}"]
        return [first, *(("95 % interval of R²", text) for text in ends), *others]


@dataclass(frozen=True)
class OutputFigure:
    """What a regression reaches on one output.

    Args:
        name: name of the output.
        mae: mean absolute error, in the unit of the targets.
        rmse: root of the mean square error, in the unit of the targets.
        r2: coefficient of determination, at most 1; nan where the targets do not vary.
        mean: mean of the targets.
        deviation: standard deviation of the targets, of the whole population.
        samples: how many samples the figures are means of.
    """

    name: str
    mae: float
    rmse: float
    r2: float
    mean: float
    deviation: float
    samples: int

    @property
    def quality(self) -> float:
        """The part of the variance that is explained; see [`~dna_hf.evaluation.figures.PartFigure`]."""
        return self.r2

    @staticmethod
    def header(unit: str) -> tuple[str, ...]:
        """Titles of the texts in a row; see [`~dna_hf.evaluation.figures.PartFigure`]."""
        return "output", unit, "R²", "mean absolute error", "root mean square error", "targets, mean ± deviation"

    def row(self) -> tuple[str, ...]:
        """The figures as a row of a table; see [`~dna_hf.evaluation.figures.PartFigure`]."""
        errors = [f"{value:.4f}" for value in (self.r2, self.mae, self.rmse)]
        return self.name, f"{self.samples:,}", *errors, f"{self.mean:.4g} ± {self.deviation:.4g}"

    def by_name(self, unit: str) -> dict[str, float]:
        """The figures by name; see [`~dna_hf.evaluation.figures.PartFigure`]."""
        names = ("mae", "rmse", "r2", "mean", "deviation")
        return {name: getattr(self, name) for name in names} | {unit: self.samples}


def compute_regression_figures(scores: np.ndarray, labels: np.ndarray) -> RegressionFigures:
    """The figures of a regression, over all its outputs.

    Args:
        scores: outputs of the model (samples, outputs).
        labels: targets (samples, outputs); nan for a sample that could not be read.

    Raises:
        DataError: if no sample could be read.
    """
    readable = is_readable(labels)
    outputs = compute_output_figures(scores[readable], labels[readable], [""] * labels.shape[1])
    return RegressionFigures(
        loss=float(np.mean([each.rmse**2 for each in outputs])),
        mae=float(np.mean([each.mae for each in outputs])),
        rmse=float(np.mean([each.rmse for each in outputs])),
        r2=float(np.mean([each.r2 for each in outputs])),
        samples=int(readable.sum()),
        unreadable=int((~readable).sum()),
    )


def compute_output_figures(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[OutputFigure]:
    """The figures of every output, in the order of the outputs.

    Args:
        scores: outputs of the model (samples, outputs) of samples that could be read.
        labels: targets (samples, outputs).
        names: name of each output.
    """
    targets = labels.astype(np.float64)
    errors = scores.astype(np.float64) - targets
    squares, variance = (errors**2).mean(axis=0), targets.var(axis=0)
    # the variance of equal numbers may be off zero by rounding
    varies = targets.min(axis=0) < targets.max(axis=0)
    r2 = np.where(varies, 1 - squares / np.where(varies, variance, 1), np.nan)
    return [
        OutputFigure(
            name=name,
            mae=float(np.abs(errors[:, index]).mean()),
            rmse=float(np.sqrt(squares[index])),
            r2=float(r2[index]),
            mean=float(targets[:, index].mean()),
            deviation=float(np.sqrt(variance[index])),
            samples=len(targets),
        )
        for index, name in enumerate(names)
    ]


def r2_interval(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean R² of the outputs; see [`~dna_hf.evaluation.intervals.bootstrap_interval`].

    Args:
        scores: outputs of the model (samples, outputs) of samples that could be read.
        labels: targets (samples, outputs).
    """
    targets = labels.astype(np.float64)
    squares = (scores.astype(np.float64) - targets) ** 2

    def mean(weights: np.ndarray) -> float:
        drawn = targets[weights > 0]
        if (drawn.min(axis=0) == drawn.max(axis=0)).any():
            return float("nan")
        spread = (targets - weights @ targets / weights.sum()) ** 2
        return float(np.mean(1 - (weights @ squares) / (weights @ spread)))

    return bootstrap_interval(mean, len(targets))
