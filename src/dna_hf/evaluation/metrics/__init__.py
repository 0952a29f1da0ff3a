"""Metrics as `evaluate` modules that need no network: `evaluate.load(metric_path("top_k_accuracy"))` works too."""

from pathlib import Path

from .per_class_accuracy.per_class_accuracy import PerClassAccuracy
from .top_k_accuracy.top_k_accuracy import TopKAccuracy


def metric_path(name: str) -> str:
    """Folder of a metric, for `evaluate.load`."""
    return str(Path(__file__).with_name(name))


__all__ = ["PerClassAccuracy", "TopKAccuracy", "metric_path"]
