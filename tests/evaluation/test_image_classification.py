"""Evaluation figures against independent computation, and the checkpoints and data they refuse."""

import math

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTModel

from dna_hf import DnAViTForImageClassification
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.images import image_processor
from dna_hf.data.sources import load_split
from dna_hf.data.unreadable import UNREADABLE
from dna_hf.evaluation.figures import ClassFigure, compute_figures
from dna_hf.evaluation.image_classification import classification_result, evaluate_checkpoint, match_classes
from dna_hf.kinds import IMAGE, VIDEO
from tests.kit.classifier import save_classifier


NAMES = load_split(ImageDataArguments(), "test").class_names


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """An untrained classifier whose classes are those of the embedded set in reverse order."""
    return save_classifier(tmp_path_factory.mktemp("checkpoint"), NAMES[::-1])


def test_figures_from_logits():
    logits = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.0, 3.0, 1.0]], dtype=np.float32)
    result = classification_result(logits, np.array([0, 1, 2]), ["a", "b", "c"], IMAGE)
    expected = [
        math.log(sum(math.exp(v) for v in row)) - row[label] for row, label in zip(logits, (0, 1, 2), strict=True)
    ]
    figures = result.figures
    assert figures.loss == pytest.approx(sum(expected) / 3, abs=1e-12)
    assert figures.top1 == pytest.approx(2 / 3) and figures.top5 == 1
    assert figures.mean_class_accuracy == pytest.approx(2 / 3)
    assert (figures.samples, figures.unreadable) == (3, 0)
    assert result.per_class[2] == ClassFigure("c", accuracy=0.0, samples=1)
    assert result.confusion == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("kind", [IMAGE, VIDEO], ids=["images", "videos"])
def test_figures_by_name(kind):
    """As the Trainer logs them and files hold them."""
    # three samples of class 0, of which two are recognised, one of class 1, none of class 2
    logits = np.array([[2.0, 0.0, -1.0], [3.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 3.0, 1.0]], dtype=np.float32)
    labels = np.array([0, 0, 0, 1])
    # one more that could not be read, whatever the model made of it
    logits, labels = np.concatenate([logits, [[9.0, 0.0, 0.0]]], dtype=np.float32), np.append(labels, UNREADABLE)
    rows = zip(logits[:4].tolist(), labels[:4], strict=True)
    losses = [math.log(sum(map(math.exp, row))) - row[label] for row, label in rows]
    assert compute_figures(logits, labels).by_name(kind) == {
        "loss": pytest.approx(sum(losses) / 4, abs=1e-12),
        "top1": 0.75,
        "top5": 1.0,
        "mean_class_accuracy": pytest.approx((2 / 3 + 1) / 2),
        kind.unit: 4,
        "unreadable": 1,
    }


def test_nothing_that_can_be_read_is_said():
    with pytest.raises(DataError, match="no sample of the evaluation split can be read"):
        compute_figures(np.zeros((2, 3), dtype=np.float32), np.array([UNREADABLE, UNREADABLE]))


def test_the_layout_of_a_report():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], dtype=np.float32)
    report = classification_result(logits, np.array([0, 1, UNREADABLE]), ["a", "b"], VIDEO).report()
    assert list(report) == ["metrics", "per_class", "measurement", "slices", "confusion", "unreadable"]
    assert list(report["metrics"]) == ["loss", "top1", "top5", "mean_class_accuracy", "videos", "unreadable"]
    assert report["per_class"] == {"a": {"accuracy": 1.0, "videos": 1}, "b": {"accuracy": 1.0, "videos": 1}}
    assert report["confusion"] == [[1, 0], [0, 1]]


def test_labels_are_matched_by_name(checkpoint):
    result = evaluate_checkpoint(str(checkpoint), ImageDataArguments(), "test", batch_size=77, device="cpu")
    model = DnAViTForImageClassification.from_pretrained(checkpoint).eval()
    images = load_split(ImageDataArguments(), "test")
    processor = image_processor(ImageDataArguments(), (28, 28))
    import datasets

    pictures = [picture.convert("RGB") for picture in images.rows.cast_column("image", datasets.Image())["image"]]
    with torch.no_grad():
        predicted = model(**processor(pictures, return_tensors="pt")).logits.argmax(1).tolist()
    hits = [model.config.id2label[p] == NAMES[label] for p, label in zip(predicted, images.rows["label"], strict=True)]
    assert result.figures.top1 == sum(hits) / 500
    assert [each.name for each in result.per_class] == NAMES[::-1]


def test_a_class_the_model_does_not_know_is_named():
    assert match_classes(["b", "a"], ["a", "b", "c"]).tolist() == [1, 0]
    with pytest.raises(DataError, match="'zebra'"):
        match_classes(["a", "zebra"], ["a", "b"])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "is not there: there is no such folder"),
        ("empty", "has no config.json: it is no checkpoint folder"),
        ("other model", "holds a vit model, but an image classifier .* is needed"),
        ("broken config", "config.json in .* is damaged"),
        ("no weights", "holds no weights"),
    ],
)
def test_what_is_no_classifier_is_refused(tmp_path, checkpoint, kind, message):
    folder = tmp_path / "checkpoint"
    if kind != "missing":
        folder.mkdir()
    if kind == "other model":
        ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(folder)
    elif kind in ("broken config", "no weights"):
        for name in ("config.json", "preprocessor_config.json"):
            text = (checkpoint / name).read_text()
            (folder / name).write_text(text[:40] if kind == "broken config" else text)
    with pytest.raises(DataError, match=message):
        evaluate_checkpoint(str(folder), ImageDataArguments(), "test")


def test_classes_of_one_name_keep_their_places():
    names = ["crane", "dog", "crane"]
    assert match_classes(names, names).tolist() == [0, 1, 2]
