"""Top-k accuracy as an `evaluate` module."""

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """
Part of the images whose true class is among the k classes of the highest score.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of float): scores (images, classes), e.g. logits.
    references (list of int): true classes.
    k (list of int): how many classes count; more than there are counts all of them. Defaults to [1, 5].

Returns:
    top{k} for every k, in [0, 1]. Between equal scores the class of the lower index ranks first.
"""


class TopKAccuracy(evaluate.Metric):
    """Top-k accuracy."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references, k=(1, 5)):  # type: ignore[no-untyped-def]
        ranking = np.argsort(-np.asarray(predictions), axis=1, kind="stable")
        hits = ranking == np.asarray(references)[:, None]
        return {f"top{count}": float(hits[:, :count].any(axis=1).mean()) for count in k}
