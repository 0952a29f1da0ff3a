"""Names of the figures of classifiers, and how they are read: what logs, records, tables and comparisons share."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..data.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL


@dataclass(frozen=True)
class Metric:
    """How a figure is called and read.

    Args:
        title: what the figure is called in tables.
        is_part: whether the figure is a part in [0, 1], which tables state in per cent.
        lower_is_better: whether a smaller value is the better one.
    """

    title: str
    is_part: bool = True
    lower_is_better: bool = False

    def text(self, value: float) -> str:
        """A value as tables state it."""
        return f"{100 * value:.2f} %" if self.is_part else f"{value:.4f}"


METRICS = {
    "top1": Metric("top-1"),
    "top5": Metric("top-5"),
    "mean_class_accuracy": Metric("mean class accuracy"),
    "map": Metric("mAP"),
    "f1_macro": Metric("F1, mean over classes"),
    "f1_micro": Metric("F1, all labels together"),
    "r2": Metric("R²", is_part=False),
    "mae": Metric("mean absolute error", is_part=False, lower_is_better=True),
    "rmse": Metric("root mean square error", is_part=False, lower_is_better=True),
    "loss": Metric("loss", is_part=False, lower_is_better=True),
}
# the figures of each problem type; the first one is what models are compared by
PROBLEM_METRICS = {
    SINGLE_LABEL: ("top1", "top5", "mean_class_accuracy", "loss"),
    MULTI_LABEL: ("map", "f1_macro", "f1_micro", "loss"),
    REGRESSION: ("r2", "mae", "rmse", "loss"),
}


def metric_rows(figures: Mapping[str, float]) -> list[tuple[str, str]]:
    """Title and text of every figure that is given by its name, in the order of the table above; others are left out.

    Args:
        figures: name -> value, as [`METRICS`] names them.
    """
    return [(metric.title, metric.text(figures[name])) for name, metric in METRICS.items() if name in figures]
