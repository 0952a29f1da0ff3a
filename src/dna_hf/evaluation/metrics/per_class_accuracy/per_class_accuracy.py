"""Accuracy per class, and its mean over the classes, as an `evaluate` module."""

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Part of the images of each class that were given this class, and the mean of it over the classes that occur.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of int): predicted classes.
    references (list of int): true classes.
    num_classes (int): how many classes there are.

Returns:
    mean_class_accuracy, in [0, 1]; accuracy and count, one per class, the accuracy nan for a class without images.
"""


class PerClassAccuracy(evaluate.Metric):
    """Accuracy per class."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, num_classes):  # type: ignore[no-untyped-def]
        predictions, references = np.asarray(predictions), np.asarray(references)
        count = np.bincount(references, minlength=num_classes)
        correct = np.bincount(references[predictions == references], minlength=num_classes)
        accuracy = np.where(count > 0, correct / np.maximum(count, 1), np.nan)
        return {
            "mean_class_accuracy": float(np.nanmean(accuracy)),
            "accuracy": accuracy.tolist(),
            "count": count.tolist(),
        }
