"""The `evaluate` modules against hand computation, used directly and loaded by path without a network."""

import evaluate
import numpy as np
import pytest

from dna_hf.evaluation.figures import compute_figures
from dna_hf.evaluation.metrics import PerClassAccuracy, TopKAccuracy, metric_path


SCORES = [[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2]]
LABELS = [1, 2, 0, 1]


@pytest.mark.parametrize("load", [False, True], ids=["class", "path"])
def test_top_k(load):
    metric = evaluate.load(metric_path("top_k_accuracy")) if load else TopKAccuracy(keep_in_memory=True)
    result = metric.compute(predictions=SCORES, references=LABELS, k=[1, 2, 5])
    # of the two equal scores in the last row, the lower class ranks first
    assert result == {"top1": 0.25, "top2": 0.75, "top5": 1.0}


@pytest.mark.parametrize("load", [False, True], ids=["class", "path"])
def test_per_class(load):
    metric = evaluate.load(metric_path("per_class_accuracy")) if load else PerClassAccuracy(keep_in_memory=True)
    result = metric.compute(predictions=[0, 1, 1, 0, 2], references=[0, 1, 1, 1, 0], num_classes=4)
    assert result["count"] == [2, 3, 0, 0]
    assert result["accuracy"][:2] == [0.5, 2 / 3] and np.isnan(result["accuracy"][2:]).all()
    assert result["mean_class_accuracy"] == pytest.approx((0.5 + 2 / 3) / 2)


def test_figures_need_no_cache(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "file" / "metrics")
    with pytest.raises(OSError, match="file"):
        TopKAccuracy(keep_in_memory=True)
    figures = compute_figures(np.eye(6), np.array([0, 1, 2, 0, 0, 0]))
    assert (figures.top1, figures.samples) == (0.5, 6)


def test_metrics_accumulate_batches():
    metric = TopKAccuracy()
    for scores, label in zip(SCORES, LABELS, strict=True):
        metric.add_batch(predictions=[scores], references=[label])
    assert metric.compute()["top1"] == 0.25
