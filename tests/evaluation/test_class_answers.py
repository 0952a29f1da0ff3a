"""One checkpoint of each problem type and one file: all that answers says what transformers' pipeline says."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf.analysis.sight import VisualizeSettings, see
from dna_hf.data.inputs import read_image_input
from dna_hf.data.problem_types import MULTI_LABEL as MULTI
from dna_hf.data.problem_types import REGRESSION
from dna_hf.data.problem_types import SINGLE_LABEL as SINGLE
from dna_hf.demo.app import build_app
from dna_hf.demo.explore import Choices, load_explorer
from dna_hf.evaluation.class_answers import Answer, answers_of, class_scores
from dna_hf.evaluation.predict import classify
from dna_hf.kinds import load, problem_type_of
from tests.kit.command_line import run_cli
from tests.kit.models import action_model, animal_model


ANGLE = {"id2label": {0: "angle"}, "label2id": {"angle": 0}}
SIZES = {"id2label": {0: "width", 1: "height"}, "label2id": {"width": 0, "height": 1}}
# name -> fields of the configuration
CHECKPOINTS = {
    "no type": {},
    "single": {"problem_type": SINGLE},
    "multi": {"problem_type": MULTI, "threshold": 0.25},
    "multi of one": {"problem_type": MULTI, **ANGLE},
    "regression": {"problem_type": REGRESSION, **ANGLE},
    "regression of two": {"problem_type": REGRESSION, **SIZES},
    "no type, one output": ANGLE,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    for name, fields in CHECKPOINTS.items():
        model = animal_model(**fields)
        with torch.no_grad():
            # far from 0, where probabilities and values would look alike
            model.classifier.bias += torch.linspace(-7.5, 2.5, model.num_labels)
        model.save_pretrained(folder / name)
        ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / name)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / "a.png")
    return folder


@pytest.fixture(params=CHECKPOINTS)
def case(folder, request):
    """A checkpoint, what transformers' pipeline says of the picture, and the configuration."""
    path = str(folder / request.param)
    processor = ViTImageProcessorPil.from_pretrained(path)
    says = pipeline("image-classification", model=path, image_processor=processor, device="cpu")
    entries = says(str(folder / "a.png"), top_k=10)
    return path, {entry["label"]: entry["score"] for entry in entries}, says.model.config


def test_everything_says_what_the_pipeline_says(folder, case):
    path, expected, config = case
    loaded = load(path, device="cpu")
    (prediction,) = classify(loaded, [folder / "a.png"])
    assert dict(prediction.answer.scores) == pytest.approx(expected, abs=1e-6)
    explorer = load_explorer([path], "cpu")
    (shown,) = explorer.show(explorer.read(folder / "a.png"), Choices(1))
    assert shown.predictions == pytest.approx(expected, abs=1e-6)
    inputs = read_image_input(folder / "a.png", loaded.processor)
    for kind in ("attention", "relevance"):
        layer = {"layer": -1} if kind == "attention" else {}
        sight = see(loaded, inputs["pixel_values"], VisualizeSettings(kind=kind, **layer))
        assert dict(sight.answer.scores) == pytest.approx(expected, abs=1e-6)
    # as many as 1e-6 can tell apart: a softmax of these logits is another answer
    if problem_type_of(config) != SINGLE:
        with torch.no_grad():
            softmax = loaded.model(**inputs).logits[0].softmax(0).tolist()
        assert max(abs(a - b) for a, b in zip(expected.values(), softmax, strict=True)) > 0.01


def test_predict_shows_what_the_answer_is(folder, case):
    path, expected, config = case
    done = run_cli("predict", path, folder / "a.png", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    header, rows = cells[0], [row[-2:] for row in cells[2:]]
    if config.problem_type == REGRESSION:
        assert header == ["image", "output", "value"]
        # in the order of the outputs
        assert [name for name, _ in rows] == [config.id2label[number] for number in range(config.num_labels)]
        assert {name: float(value) for name, value in rows} == pytest.approx(expected, rel=1e-5)
        first = run_cli("predict", path, folder / "a.png", "--top-k", 1, "--device", "cpu")
        assert first.stdout.splitlines() == done.stdout.splitlines()[:3]
        return
    named = sorted(expected, key=expected.get, reverse=True)
    if config.problem_type == SINGLE or config.num_labels > 1 and config.problem_type is None:
        assert header == ["image", "class", "probability"]
        assert rows == [[name, f"{100 * expected[name]:.1f} %"] for name in named]
        return
    threshold = getattr(config, "threshold", 0.5)
    assert header == ["image", "class", "probability", f"above {threshold:g}"]
    assert [row[-3:] for row in cells[2:]] == [
        [name, f"{100 * expected[name]:.1f} %", "yes" if expected[name] > threshold else "no"] for name in named
    ]


def test_the_page_has_bars_for_probabilities_and_text_for_values(folder):
    pytest.importorskip("gradio")
    for name, heading in (("single", True), ("multi", False), ("regression", True)):
        app = build_app(load_explorer([str(folder / name)], "cpu"))
        (label,) = (block for block in app.blocks.values() if type(block).__name__ == "Label")
        assert label.show_heading is heading
        assert ("a class holds above 25%" in label.label) is (name == "multi")


def test_captions_and_tables_of_pictures(folder, tmp_path):
    pytest.importorskip("matplotlib")
    said = {}
    for name in ("single", "multi", "regression"):
        done = run_cli(
            *("visualize", folder / name, folder / "a.png", "--output-dir", tmp_path / name, "--device", "cpu")
        )
        assert done.returncode == 0, done.stderr
        with (tmp_path / name / "panels.csv").open() as file:
            said[name] = next(csv.DictReader(file))
    answers = {name: next(classify(load(folder / name, device="cpu"), [folder / "a.png"])).answer for name in said}
    for name, answer in answers.items():
        assert said[name]["prediction"] == answer.short
    assert float(said["single"]["probability"]) == pytest.approx(answers["single"].probability, abs=1e-6)
    assert said["multi"]["probability"] == said["regression"]["probability"] == ""


@pytest.mark.parametrize("name", ["multi", "regression"])
def test_distractors_are_for_one_class_per_image(folder, tmp_path, name):
    done = run_cli("distractors", folder / name, "--dataset", "fashion-mnist-mini", "--output-dir", tmp_path / "out")
    assert done.returncode == 2 and f"is of {CHECKPOINTS[name]['problem_type']}" in done.stderr
    assert not (tmp_path / "out").exists()


def test_words_of_an_answer():
    several = Answer([("a", 0.97), ("b", 0.81), ("c", 0.51), ("d", 0.5)], MULTI)
    assert several.classes == ("a", "b", "c") and several.short == "a, b, c"
    assert several.title == "a 97 %, b 81 %, c 51 %" and several.probability is None
    many = Answer([(name, 0.9) for name in "abcdef"], MULTI, threshold=0.89)
    assert many.short == "a, b, c, 3 more" and many.title == "a 90 %, b 90 %, c 90 %, 3 more"
    none = Answer([("a", 0.3)], MULTI, threshold=0.4)
    assert none.classes == () and none.short == "none" and none.title == "none above 0.4"
    one = Answer([("a", 0.3), ("b", 0.25)])
    assert one.classes == ("a",) and one.title == "a 30 %" and one.probability == 0.3
    values = Answer([("angle", -7.25), ("x", 1e6)], REGRESSION)
    assert values.classes == () and values.short == values.title == "angle -7.25, x 1e+06"


def test_views_of_a_video_are_averaged_as_scores():
    """The mean of the probabilities of each class, not the probability of the mean logit."""
    config = action_model(problem_type=MULTI).config
    logits = torch.tensor([[4.0, -1.0, 0.0], [-4.0, 3.0, 0.0]])
    assert class_scores(logits, config).mean(0).tolist() == pytest.approx([0.5, 0.610758, 0.5], abs=1e-6)
    # equal scores in the order of the classes
    answer = answers_of(torch.zeros(1, 3), ["fall", "walk", "sit"], config)[0]
    assert [name for name, _ in answer.scores] == ["fall", "walk", "sit"]
