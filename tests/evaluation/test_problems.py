"""The figures of several labels and of regression, against slow computation from their definitions."""

import math

import numpy as np
import pytest

from dna_hf import DnAViTConfig
from dna_hf.data.errors import DataError
from dna_hf.data.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from dna_hf.evaluation.image_classification import classification_result
from dna_hf.evaluation.intervals import DRAWS
from dna_hf.evaluation.multi_label import average_precision, weighted_precision
from dna_hf.evaluation.problems import Problem, problem_of
from dna_hf.kinds import IMAGE, problem_type_of
from dna_hf.records.metrics import METRICS, PROBLEM_METRICS


NAMES = ["rose", "tulip", "daisy", "never"]


def precision_by_thresholds(scores, truth):
    """Average precision as the sum over all distinct thresholds, each precision and recall counted anew."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [right for score, right in zip(scores, truth, strict=True) if score >= threshold]
        recall = sum(chosen) / sum(truth)
        total += (recall - recall_before) * sum(chosen) / len(chosen)
        recall_before = recall
    return total


def f1_by_counts(predicted, truth):
    pairs = list(zip(predicted, truth, strict=True))
    true, false, missed = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
    return 2 * true / (2 * true + false + missed) if true + false + missed else 0.0


@pytest.fixture(scope="module")
def several():
    """Logits of 60 samples with many ties, and labels of which the last class never occurs."""
    random = np.random.default_rng(0)
    logits = np.round(random.normal(0, 2, (60, 4)) * 2) / 2
    labels = (random.random((60, 4)) < 0.4).astype(np.float32)
    labels[:, 3] = 0
    labels[7] = 0  # a sample without any label
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("threshold", [0.5, 0.9])
def test_figures_of_several_labels(several, threshold):
    logits, labels = several
    found = classification_result(logits, labels, NAMES, IMAGE, Problem(MULTI_LABEL, threshold))
    precisions = [precision_by_thresholds(logits[:, i].tolist(), labels[:, i].tolist()) for i in range(3)]
    predicted = [[1 / (1 + math.exp(-x)) > threshold for x in row] for row in logits.tolist()]
    truth = [[bool(value) for value in row] for row in labels.tolist()]
    f1 = [f1_by_counts(*[[row[i] for row in table] for table in (predicted, truth)]) for i in range(4)]
    losses = [
        math.log(1 + math.exp(-x if y else x))
        for row, values in zip(logits.tolist(), truth, strict=True)
        for x, y in zip(row, values, strict=True)
    ]
    figures = found.figures
    assert figures.map == pytest.approx(sum(precisions) / 3, abs=1e-12)
    assert figures.f1_macro == pytest.approx(sum(f1[:3]) / 3, abs=1e-12)
    assert figures.f1_micro == pytest.approx(f1_by_counts(sum(predicted, []), sum(truth, [])), abs=1e-12)
    assert figures.loss == pytest.approx(sum(losses) / len(losses), abs=1e-9)
    assert [each.average_precision for each in found.per_class[:3]] == pytest.approx(precisions, abs=1e-12)
    assert [each.f1 for each in found.per_class[:3]] == pytest.approx(f1[:3], abs=1e-12)
    assert [each.samples for each in found.per_class] == labels.sum(axis=0).tolist()
    assert found.class_table()[1][-1] == ("none of never", "0", "", "") and found.confusion is None
    assert ("threshold of F1", f"{threshold:g}") in figures.rows("images")


def test_a_hand_counted_average_precision():
    """Ranked: right, wrong, right, wrong: precisions 1 and 2/3 at its two steps of recall."""
    logits, labels = np.array([[4.0], [3.0], [2.0], [1.0]]), np.array([[1.0], [0.0], [1.0], [0.0]])
    assert Problem(MULTI_LABEL).figures(logits, labels).map == pytest.approx((1 + 2 / 3) / 2)


def test_figures_of_regression():
    random = np.random.default_rng(1)
    targets = random.normal(5, [1, 20], (50, 2)).astype(np.float32)
    outputs = (targets + random.normal(1, 2, (50, 2))).astype(np.float32)
    found = classification_result(outputs, targets, ["age", "angle"], IMAGE, Problem(REGRESSION))
    by_hand = []
    for output, target in zip(outputs.T.tolist(), targets.T.tolist(), strict=True):
        errors = [a - b for a, b in zip(output, target, strict=True)]
        mean = math.fsum(target) / 50
        squares, spread = math.fsum(e * e for e in errors), math.fsum((t - mean) ** 2 for t in target)
        by_hand.append((math.fsum(map(abs, errors)) / 50, math.sqrt(squares / 50), 1 - squares / spread, squares / 50))
    mae, rmse, r2, squares = (sum(values) / 2 for values in zip(*by_hand, strict=True))
    assert found.figures.means() == pytest.approx({"loss": squares, "mae": mae, "rmse": rmse, "r2": r2}, rel=1e-9)
    for each, values in zip(found.per_class, by_hand, strict=True):
        assert (each.mae, each.rmse, each.r2) == pytest.approx(values[:3], rel=1e-9)
    assert found.per_class[0].row()[:2] == ("age", "50")


def test_drawn_again_is_as_if_it_were_there_as_often():
    """The weighted figures of the bootstrap against those of samples that are repeated."""
    random = np.random.default_rng(3)
    scores, truth = np.round(random.normal(size=50), 1), random.random(50) < 0.3
    targets = random.normal(size=(50, 2))
    outputs = targets + random.normal(size=(50, 2))
    found, expected = [], []
    drawn = np.random.default_rng(0)
    for _ in range(DRAWS):
        weights = np.bincount(drawn.integers(50, size=50), minlength=50)
        found.append(weighted_precision(scores, truth)(weights))
        expected.append(average_precision(scores.repeat(weights), truth.repeat(weights)))
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
    labels = truth[:, None].astype(np.float32)
    ends = np.quantile(expected, (0.025, 0.975))
    figures = Problem(MULTI_LABEL).with_interval(scores[:, None], labels)
    assert figures.interval == pytest.approx(tuple(ends)) and ends[0] < figures.map < ends[1]
    drawn = np.random.default_rng(0)
    rows = [drawn.integers(50, size=50) for _ in range(DRAWS)]
    repeated = [Problem(REGRESSION).figures(outputs[row], targets[row]).r2 for row in rows]
    figures = Problem(REGRESSION).with_interval(outputs, targets)
    assert figures.interval == pytest.approx(tuple(np.quantile(repeated, (0.025, 0.975))))
    assert ("95 % interval of R²", f"{figures.interval[0]:.4f} to {figures.interval[1]:.4f}") in figures.rows("images")


def test_an_interval_holds_what_it_should():
    """Of 60 samples of one population, nearly all intervals hold the part of its variance that is explained."""
    random, hits = np.random.default_rng(4), 0
    for _ in range(60):
        targets = random.normal(size=(120, 1))
        low, high = Problem(REGRESSION).with_interval(targets + random.normal(0, 0.5, (120, 1)), targets).interval
        hits += low < 0.75 < high
    assert 52 <= hits <= 60


def test_the_best_constant_explains_nothing():
    targets = np.array([[1.0], [2.0], [6.0]])
    assert Problem(REGRESSION).figures(np.full((3, 1), 3.0), targets).r2 == pytest.approx(0)
    assert Problem(REGRESSION).figures(targets, targets).r2 == 1
    # 0.1 three times has a variance of 1e-34
    assert math.isnan(Problem(REGRESSION).figures(targets, np.full((3, 1), 0.1)).r2)


@pytest.mark.parametrize("problem_type", [MULTI_LABEL, REGRESSION])
def test_samples_that_could_not_be_read_count_nowhere(problem_type):
    random = np.random.default_rng(2)
    scores, labels = random.normal(size=(6, 2)), (random.random((6, 2)) < 0.5).astype(np.float32)
    labels[0] = (1, 0)
    whole = Problem(problem_type).figures(scores, labels)
    nothing = np.full((1, 2), np.nan, dtype=np.float32)
    found = Problem(problem_type).figures(np.vstack([scores, [[9.0, 9.0]]]), np.vstack([labels, nothing]))
    assert found.means() == whole.means() and (found.samples, found.unreadable) == (6, 1)
    with pytest.raises(DataError, match="no sample of the evaluation split can be read"):
        Problem(problem_type).figures(np.zeros((1, 2)), nothing)


def test_what_a_configuration_asks():
    assert problem_type_of(DnAViTConfig(num_labels=3)) == SINGLE_LABEL
    # as the loss of transformers takes one output
    assert problem_type_of(DnAViTConfig(num_labels=1)) == REGRESSION
    assert problem_of(DnAViTConfig(num_labels=3, problem_type=MULTI_LABEL)) == Problem(MULTI_LABEL, 0.5)
    assert problem_of(DnAViTConfig(problem_type=MULTI_LABEL, threshold=0.3)).threshold == 0.3


def test_every_figure_has_a_name_for_tables():
    for problem_type in (SINGLE_LABEL, MULTI_LABEL, REGRESSION):
        assert set(PROBLEM_METRICS[problem_type]) <= METRICS.keys()
