"""Runs with several labels for each image and with a regression: what they save, record, print and refuse."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoConfig

from dna_hf import DnAViTForImageClassification
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.images import image_processor
from dna_hf.data.problem_types import MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from dna_hf.data.sources import load_train_and_eval
from dna_hf.evaluation.image_classification import evaluate_checkpoint
from dna_hf.records.checkpoint_records import read_measurements
from dna_hf.training import classification as training
from dna_hf.training.config_file import run_config
from dna_hf.training.errors import ConfigurationError
from dna_hf.training.tasks import task_of
from dna_hf.training.yaml_file import read_sections
from tests.kit.command_line import run_cli
from tests.kit.paths import ROOT
from tests.kit.pictures import PAIRED, save_pairs, save_turned
from tests.kit.training import plain_sections, tiny_run


PLAIN = {"drop_path_rate": 0.0, "hidden_dropout_prob": 0.0}
COUNTS = {"train": 40, "test": 20}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Problem type -> keys that a data set of it needs."""
    folder = tmp_path_factory.mktemp("pictures")
    pairs, turned = save_pairs(folder / "pairs", COUNTS), save_turned(folder / "turned", COUNTS)
    return {
        SINGLE_LABEL: {},
        MULTI_LABEL: {"dataset": str(pairs), "problem_type": MULTI_LABEL},
        REGRESSION: {"dataset": str(turned), "label_column": "angle", "flip_probability": 0.0},
    }


@pytest.fixture(scope="module", params=[MULTI_LABEL, REGRESSION])
def finished(request, pictures, tmp_path_factory):
    """Problem type, folder and result of a run."""
    folder = tmp_path_factory.mktemp("run")
    keys = pictures[request.param] | {"num_train_epochs": 1, "per_device_eval_batch_size": 7}
    keys |= {"threshold": 0.3} if request.param == MULTI_LABEL else {}
    return request.param, folder, training.train_classifier(tiny_run(folder, **keys))


def data_of(pictures, problem_type):
    keys = {name: value for name, value in pictures[problem_type].items() if name in ("dataset", "label_column")}
    return ImageDataArguments(**keys)


def test_what_a_run_saves_says_what_it_is(finished):
    problem_type, folder, _ = finished
    config = AutoConfig.from_pretrained(folder)
    assert config.problem_type == problem_type
    names = [config.id2label[number] for number in range(config.num_labels)]
    assert config.threshold == (0.3 if problem_type == MULTI_LABEL else 0.5)
    assert names == (["angle"] if problem_type == REGRESSION else sorted(PAIRED))


def test_figures_are_those_of_the_saved_model(finished, pictures):
    """Against logits and labels without the Trainer, and against `dna-hf evaluate`."""
    problem_type, folder, result = finished
    _, images = load_train_and_eval(data_of(pictures, problem_type), 0, problem_type=problem_type)
    model = DnAViTForImageClassification.from_pretrained(folder).eval()
    processor = image_processor(ImageDataArguments(), (28, 28))
    pixels = [processor(row["image"].convert("RGB"), return_tensors="pt")["pixel_values"] for row in decoded(images)]
    with torch.no_grad():
        logits = model(pixel_values=torch.cat(pixels)).logits.double()
    labels = torch.tensor(images.labels()).double()
    if problem_type == MULTI_LABEL:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        predicted = logits.sigmoid() > 0.3
        hits = (predicted & (labels == 1)).sum()
        assert result.metrics["eval_f1_micro"] == pytest.approx((2 * hits / (predicted.sum() + labels.sum())).item())
    else:
        loss = ((logits - labels) ** 2).mean()
        assert result.metrics["eval_r2"] == pytest.approx((1 - loss / labels.var(correction=0)).item(), rel=1e-4)
    assert result.metrics["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)
    (recorded,) = read_measurements(folder)
    names = {MULTI_LABEL: ("map", "f1_macro", "f1_micro", "loss"), REGRESSION: ("r2", "mae", "rmse", "loss")}
    assert recorded.metrics == {name: result.metrics[f"eval_{name}"] for name in names[problem_type]}
    again = evaluate_checkpoint(str(folder), data_of(pictures, problem_type), "test", batch_size=9, device="cpu")
    assert again.figures.means() == pytest.approx(recorded.metrics, rel=1e-6)
    assert again.measurement.metrics == again.figures.means()


def decoded(images):
    import datasets

    return images.rows.cast_column("image", datasets.Image())


def test_evaluate_prints_and_writes_the_figures(finished, pictures, tmp_path, capsys):
    problem_type, folder, _ = finished
    data = [f"--{key}={value}" for key, value in pictures[problem_type].items() if key in ("dataset", "label_column")]
    words = ["evaluate", str(folder), *data, "--output", str(tmp_path / "figures.json")]
    assert run_cli(*words).returncode == 0
    content = json.loads((tmp_path / "figures.json").read_text())
    assert content["confusion"] is None
    if problem_type == MULTI_LABEL:
        assert set(content["per_class"]["Bag"]) == {"average_precision", "f1", "images"}
        assert set(content["metrics"]) == {"loss", "map", "f1_macro", "f1_micro", "images", "unreadable"}
    else:
        assert set(content["per_class"]["angle"]) == {"mae", "rmse", "r2", "mean", "deviation", "images"}
    refused = run_cli(*words, "--confusion", tmp_path / "confusion.csv")
    assert refused.returncode == 2 and f"has problem_type {problem_type}: leave it out" in refused.stderr


def test_slices_have_the_figures_of_the_problem(finished, pictures, tmp_path):
    """By number of labels, or by quartile of the angle; each slice against the figures of its rows alone."""
    problem_type, folder, _ = finished
    column = "labels" if problem_type == MULTI_LABEL else "angle"
    data = [f"--{key}={value}" for key, value in pictures[problem_type].items() if key in ("dataset", "label_column")]
    words = ["evaluate", str(folder), *data, "--output", tmp_path / "figures.json", "--slices", column]
    result = run_cli(*words)
    assert result.returncode == 0 and "slice" in result.stdout
    slices = json.loads((tmp_path / "figures.json").read_text())["slices"]
    assert sum(each["images"] for each in slices.values()) == 20
    whole = evaluate_checkpoint(str(folder), data_of(pictures, problem_type), "test", device="cpu").figures
    mean = sum(each["loss"] * each["images"] for each in slices.values()) / 20
    assert mean == pytest.approx(whole.loss, rel=1e-6)
    assert len(slices) > 1 and all(set(each) == {"images", *whole.means()} for each in slices.values())


def test_flips_of_a_regression_are_noted(tmp_path, pictures):
    for probability in (0.0, 0.5):
        run = tiny_run(tmp_path, **pictures[REGRESSION] | {"flip_probability": probability})
        train, _ = task_of(run).load(run)
        assert any("images are flipped (flip_probability 0.5)" in note for note in train.notes) == (probability > 0)


@pytest.mark.parametrize("problem_type", [MULTI_LABEL, REGRESSION])
def test_what_was_held_out_can_be_evaluated(tmp_path, pictures, problem_type):
    keys = pictures[problem_type] | {"num_train_epochs": 1, "seed": 5}
    keys |= {"dataset": str(Path(keys["dataset"], "train")), "train_split": "train"}
    result = training.train_classifier(tiny_run(tmp_path / "run", **keys))
    data = data_of(pictures, problem_type)
    data.dataset = keys["dataset"]
    again = evaluate_checkpoint(str(tmp_path / "run"), data, "held-out", device="cpu")
    assert again.figures.samples == 4
    assert again.figures.means() == pytest.approx(result.evaluation.figures.means(), rel=1e-6, nan_ok=True)


def test_the_data_are_looked_at_by_their_problem_type(tmp_path, pictures):
    folder = tmp_path / "pictures"
    (folder / "train").mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (8, 8), (90 * number, 0, 0)).save(folder / "train" / f"{number}.png")
    (folder / "train" / "metadata.csv").write_text("file_name,labels\n0.png,rose;tulip\n1.png,rose\n")
    refused = run_cli("data", folder)
    assert refused.returncode == 2 and "holds 'rose;tulip': set problem_type to multi_label" in refused.stderr
    looked = run_cli("data", folder, "--problem-type", MULTI_LABEL)
    assert looked.returncode == 0 and "tulip" in looked.stdout
    refused = run_cli("data", "moving-fashion-mnist", "--problem_type", MULTI_LABEL)
    assert refused.returncode == 2 and "--problem-type is for images" in refused.stderr


def test_a_model_of_one_class_is_not_evaluated_on_numbers(pictures, tmp_path):
    training.train_classifier(tiny_run(tmp_path / "one", num_train_epochs=1, max_train_samples=16))
    with pytest.raises(DataError, match="single_label_classification needs one column with the class of each image"):
        evaluate_checkpoint(str(tmp_path / "one"), data_of(pictures, REGRESSION), "test", device="cpu")


REFUSED = {
    "a metric of classes": (
        REGRESSION,
        {"metric_for_best_model": "top1"},
        "figures of regression are r2, mae, rmse, loss",
    ),
    "a metric of regression": (
        MULTI_LABEL,
        {"metric_for_best_model": "eval_rmse"},
        "'eval_rmse', but the figures of multi_",
    ),
    "smoothed numbers": (
        REGRESSION,
        {"label_smoothing_factor": 0.1},
        "label_smoothing_factor is 0.1, but it is for single",
    ),
    "smoothed sets": (
        MULTI_LABEL,
        {"label_smoothing_factor": 0.1},
        "label_smoothing_factor is 0.1, but it is for single",
    ),
    "mixed numbers": (REGRESSION, {"mixup_alpha": 0.8}, "mixup_alpha is 0.8, but it is for single_label"),
    "cut numbers": (REGRESSION, {"cutmix_alpha": 0.8}, "cutmix_alpha is 0.8, but it is for single_label"),
    "names of classes for the model": (MULTI_LABEL, {"id2label": {0: "a"}}, "model.id2label is told by the data"),
    "a threshold of one class": (SINGLE_LABEL, {"threshold": 0.4}, "threshold is 0.4, but it is for multi_label"),
    "a threshold of numbers": (REGRESSION, {"threshold": 0.4}, "threshold is 0.4, but it is for multi_label"),
    "a threshold that is none": (MULTI_LABEL, {"threshold": 1.5}, "threshold must lie between 0 and 1, got 1.5"),
    "a type that is none": (MULTI_LABEL, {"problem_type": "multi_label"}, "problem_type must be one of single_label"),
    "several labels of videos": (
        SINGLE_LABEL,
        {"model_type": "dna_timesformer", "problem_type": MULTI_LABEL, "dataset": "moving-fashion-mnist"},
        "problem_type multi_label_classification is for images",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_meaning_is_refused_before_the_run(tmp_path, pictures, case):
    problem_type, keys, message = REFUSED[case]
    with pytest.raises(ConfigurationError, match=message):
        training.train_classifier(tiny_run(tmp_path / "run", **pictures[problem_type] | keys))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("metric", "greater"), [("r2", True), ("rmse", False), ("eval_mae", False), ("map", True), ("ema_rmse", False)]
)
def test_which_way_is_better(tmp_path, metric, greater):
    keys = {"metric_for_best_model": metric, "ema_decay": 0.9}
    assert tiny_run(tmp_path, **keys).training.greater_is_better is greater
    assert tiny_run(tmp_path, **keys, greater_is_better=True).training.greater_is_better is True


def losses(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_mixed_sets_of_labels_make_the_step_of_one_large_batch(tmp_path, pictures):
    """Mixup mixes the vectors; without randomness in the mixing (none is mixed), 8 x 1 is 2 x 4."""
    keys = pictures[MULTI_LABEL] | PLAIN | {"flip_probability": 0.0, "crop_scale": [1.0, 1.0], "logging_steps": 1}
    keys |= {"num_train_epochs": 1, "cutmix_alpha": 1.0}
    for name, more in {
        "large": {"mix_probability": 0.0},
        "small": {"mix_probability": 0.0, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        "mixed": {},
    }.items():
        training.train_classifier(tiny_run(tmp_path / name, **keys | more))
    assert len(losses(tmp_path / "large")) == 5
    assert losses(tmp_path / "small") == pytest.approx(losses(tmp_path / "large"), rel=1e-5)
    assert losses(tmp_path / "mixed") != losses(tmp_path / "large")


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_two_processes_make_the_losses_of_one(tmp_path, pictures, problem_type):
    """Each with half of every batch, and two micro-batches a step."""
    sections = plain_sections()
    sections["training"] |= {"max_steps": 3, "save_strategy": "no", "eval_strategy": "no", "layer_decay": 1.0}
    sections["training"] |= {"label_smoothing_factor": 0.1 if problem_type == SINGLE_LABEL else 0.0}
    sections["model"] |= {"problem_type": problem_type}
    sections["data"] |= {key: value for key, value in pictures[problem_type].items() if key != "problem_type"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections))
    assert run_cli("train", "run.yaml", "--output_dir", "one", cwd=tmp_path).returncode == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "scripts" / "train.py"), "run.yaml", "--output_dir", "two"]
    command += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(losses(tmp_path / "one")) == 3
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_a_checkpoint_of_classes_goes_on_with_several_labels(tmp_path, pictures):
    training.train_classifier(tiny_run(tmp_path / "one", num_train_epochs=1, max_train_samples=16))
    assert AutoConfig.from_pretrained(tmp_path / "one").problem_type == SINGLE_LABEL
    keys = pictures[MULTI_LABEL] | {"checkpoint": str(tmp_path / "one"), "num_train_epochs": 1}
    training.train_classifier(tiny_run(tmp_path / "two", **{"attention_variant": "dna"} | keys))
    assert AutoConfig.from_pretrained(tmp_path / "two").problem_type == MULTI_LABEL


@pytest.mark.slow
def test_two_garments_in_a_picture_are_found(tmp_path):
    """A minute or two of the recipe that comes with the package, on pictures of which each has two labels."""
    pictures = save_pairs(tmp_path / "pictures", {"train": 2000, "test": 300})
    keys = {"dataset": str(pictures), "problem_type": MULTI_LABEL, "image_size": [28, 56], "crop_scale": [1.0, 1.0]}
    result = train_recipe(tmp_path / "run", num_train_epochs=12, **keys)
    assert result.metrics["eval_map"] > 0.9
    assert dict(result.facts())["mAP"] == f"{100 * result.metrics['eval_map']:.2f} %"


@pytest.mark.slow
def test_the_angle_of_a_garment_is_found(tmp_path):
    """A part of a minute of the recipe that comes with the package."""
    pictures = save_turned(tmp_path / "pictures", {"train": 1000, "test": 300})
    keys = {"dataset": str(pictures), "label_column": "angle", "flip_probability": 0.0, "crop_scale": [1.0, 1.0]}
    assert train_recipe(tmp_path / "run", num_train_epochs=8, **keys).metrics["eval_r2"] > 0.8


def train_recipe(folder, **keys):
    sections = read_sections("vit_tiny_fashion_mnist")
    return training.train_classifier(run_config(sections, keys | {"output_dir": str(folder)}))
