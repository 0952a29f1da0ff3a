"""What a model is asked for each sample, and the figures that belong to it: one place asks for the problem type."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedConfig

from ..data.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..kinds import problem_type_of, threshold_of
from .figures import Figures, PartFigure, compute_class_figures, compute_figures, is_readable
from .multi_label import MultiLabelFigures, compute_label_figures, compute_multi_label_figures, map_interval
from .regression import RegressionFigures, compute_output_figures, compute_regression_figures, r2_interval


@dataclass(frozen=True)
class Problem:
    """What a model is asked for each sample.

    Args:
        problem_type: transformers' name of it, e.g. `"multi_label_classification"`.
        threshold: probability above which a class counts as predicted, of several labels for each sample.
    """

    problem_type: str = SINGLE_LABEL
    threshold: float = 0.5

    def figures(self, scores: np.ndarray, labels: np.ndarray) -> Figures:
        """The figures over all samples.

        Args:
            scores: logits (samples, classes or outputs); of single labels, logarithms of probabilities will do.
            labels: class of each sample (samples), `UNREADABLE` for one that could not be read; of several labels and
                of regression, numbers (samples, classes or outputs), nan for one that could not be read.

        Raises:
            DataError: if no sample could be read.
        """
        if self.problem_type == MULTI_LABEL:
            return compute_multi_label_figures(scores, labels, self.threshold)
        if self.problem_type == REGRESSION:
            return compute_regression_figures(scores, labels)
        return compute_figures(scores, labels)

    def with_interval(self, scores: np.ndarray, labels: np.ndarray) -> Figures:
        """The figures over all samples, with the 95 % interval of the first of them; see [`figures`]."""
        found, readable = self.figures(scores, labels), is_readable(labels)
        if isinstance(found, MultiLabelFigures):
            return replace(found, interval=map_interval(scores[readable], labels[readable]))
        if isinstance(found, RegressionFigures):
            return replace(found, interval=r2_interval(scores[readable], labels[readable]))
        return found

    def parts(self, scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Sequence[PartFigure]:
        """The figures on each class or output, in their order.

        Args:
            scores: logits of samples that could be read, as [`figures`] takes them.
            labels: classes or numbers of these samples, as [`figures`] takes them.
            names: name of each class or output.
        """
        if self.problem_type == MULTI_LABEL:
            return compute_label_figures(scores, labels, names, self.threshold)
        if self.problem_type == REGRESSION:
            return compute_output_figures(scores, labels, names)
        return compute_class_figures(scores, labels, names)


def problem_of(config: PreTrainedConfig) -> Problem:
    """What the model of a configuration is asked."""
    return Problem(problem_type_of(config), threshold_of(config))
