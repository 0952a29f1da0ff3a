"""`dna-hf analyze` of models of several labels and of a regression: answers, right answers and accuracy."""

import csv

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf.data.problem_types import MULTI_LABEL, REGRESSION
from tests.kit.command_line import run_cli
from tests.kit.models import animal_model
from tests.kit.page import Page


pytest.importorskip("matplotlib", reason="matplotlib is not installed")
# of the animals cat, dog and bird
LABELS = [["cat"], ["cat", "dog"], [], ["bird"], ["dog", "bird"], ["cat", "dog", "bird"], ["dog"], ["bird", "cat"]]
OUTPUT = {"id2label": {0: "angle"}, "label2id": {"angle": 0}}


def save(folder, model):
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in LABELS]


@torch.no_grad()
def logits_of(model, images):
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    return model(processor(images, return_tensors="pt")["pixel_values"]).logits


def analyze(folder, checkpoint, tmp_path):
    out = tmp_path / "out"
    words = ("--dataset", folder, "--pictures", 2, "--output-dir", out, "--device", "cpu", "--no-untrained")
    done = run_cli("analyze", checkpoint, *words)
    assert done.returncode == 0, done.stderr
    with (out / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, " ".join("".join(Page((out / "report.html").read_text(encoding="utf-8")).words).split())


def test_several_labels(tmp_path):
    model = save(tmp_path / "model", animal_model(problem_type=MULTI_LABEL, threshold=0.4))
    images = pictures()
    datasets.Dataset.from_dict({"image": images, "label": LABELS}).to_parquet(str(tmp_path / "data" / "test.parquet"))
    rows, page = analyze(tmp_path / "data", tmp_path / "model", tmp_path)
    names = [model.config.id2label[number] for number in range(3)]
    scores = logits_of(model, images).sigmoid().numpy()
    chosen = [{name for name, score in zip(names, own, strict=True) if score > 0.4} for own in scores]
    assert [set(row["prediction"].split(", ")) for row in rows] == [own or {"none"} for own in chosen]
    assert {row["probability"] for row in rows} == {""}
    right = np.mean([own == set(labels) for own, labels in zip(chosen, LABELS, strict=True)])
    assert f"{100 * right:.2f} %" in page and "all classes of a sample and no other" in page
    first = sorted(((score, name) for name, score in zip(names, scores[0], strict=True) if score > 0.4), reverse=True)
    said = ", ".join(f"{name} {100 * score:.0f} %" for score, name in first) or "none above 0.4"
    assert f"Right answer: cat. model: {said}." in page


def test_a_regression(tmp_path):
    model = save(tmp_path / "model", animal_model(problem_type=REGRESSION, **OUTPUT))
    images, angles = pictures(), [float(10 * number) for number in range(len(LABELS))]
    datasets.Dataset.from_dict({"image": images, "angle": angles}).to_parquet(str(tmp_path / "data" / "test.parquet"))
    checkpoint = tmp_path / "model"
    rows, page = analyze(tmp_path / "data", checkpoint, tmp_path)
    found = [float(row["prediction"].removeprefix("angle ")) for row in rows]
    assert found == pytest.approx(logits_of(model, images)[:, 0].tolist(), rel=1e-4)
    assert "not defined" in page and "which have no accuracy" in page and "Right answer: angle 0. " in page
