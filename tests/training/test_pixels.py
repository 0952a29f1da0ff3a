"""Images as people have them, through the commands: 16 bits, grey and with alpha, some of them unreadable."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf.data.unreadable import count_unreadable
from dna_hf.records.checkpoint_records import read_measurements
from tests.kit.command_line import run_cli
from tests.kit.paths import ROOT
from tests.kit.training import SECTIONS


PLAIN = {"crop_scale": [1.0, 1.0], "flip_probability": 0.0}


def config(folder, dataset, model=None, data=None, **training):
    """A tiny run of three epochs without randomness; `training` says more."""
    sections = {
        "model": SECTIONS["model"] | {"drop_path_rate": 0.0, "hidden_dropout_prob": 0.0} | (model or {}),
        "data": PLAIN | {"dataset": str(dataset)} | (data or {}),
        "training": SECTIONS["training"] | {"output_dir": str(folder / "out"), "save_strategy": "no"} | training,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(sections))
    return folder / "run.yaml"


def train(folder, dataset, *words, **sections):
    result = run_cli("train", config(folder, dataset, **sections), *words)
    assert result.returncode == 0, result.stderr[-2000:]
    return folder / "out"


def write_classes(folder, draw, train=30, test=20, ending="png"):
    """`draw(label, random)` makes the pictures of classes 0 and 1."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for label, name in enumerate(("dark", "bright")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw(label, random)).save(folder / split / name / f"{number}.{ending}")
    return folder


def deep(label, random):
    """Dark or bright in 16 bits; cut off at 8 bits both are white."""
    return random.uniform(*((6000, 12000), (47000, 53000))[label], (28, 28)).astype(np.uint16)


def shallow(label, random):
    return random.uniform(*((20, 60), (180, 220))[label], (28, 28, 3)).astype(np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_images_are_told_apart(ending, tmp_path):
    data = write_classes(tmp_path / "data", deep, ending=ending)
    out = train(tmp_path, data, learning_rate=1e-2)
    assert json.loads((out / "all_results.json").read_text())["eval_top1"] > 0.95


# -- channels


def coloured(label, random):
    """Classes that differ in alpha alone."""
    pixels = random.integers(0, 255, (28, 28, 4)).astype(np.uint8)
    pixels[..., 3] = (30, 220)[label]
    return pixels


@pytest.mark.parametrize("channels, draw", [(1, deep), (4, coloured)], ids=["grey", "alpha"])
def test_a_model_of_other_channels_does_everything(channels, draw, tmp_path):
    data = write_classes(tmp_path / "data", draw)
    mixing = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "erasing_probability": 0.2}
    out = train(tmp_path, data, model={"num_channels": channels}, data=mixing, learning_rate=1e-2, num_train_epochs=5)
    assert json.loads((out / "all_results.json").read_text())["eval_top1"] > 0.95
    settings = json.loads((out / "preprocessor_config.json").read_text())
    assert (settings["image_mean"], settings["do_convert_rgb"]) == ([0.5] * channels, False)
    words = ["--dataset", data, "--batch_size", 7]
    figures = tmp_path / "figures.json"
    assert run_cli("evaluate", out, *words, "--output", figures).returncode == 0
    assert json.loads(figures.read_text())["metrics"]["top1"] > 0.95
    picture = data / "test" / "bright" / "0.png"
    for verb in (
        ("predict", out, picture),
        ("visualize", out, picture, "--output-dir", tmp_path / "seen"),
        ("distractors", out, "--dataset", data, "--grid", 2, "--output-dir", tmp_path / "tiles"),
        ("analyze", out, "--dataset", data, "--max_eval_samples", 6, "--output-dir", tmp_path / "report"),
    ):
        result = run_cli(*verb)
        assert result.returncode == 0, (verb, result.stderr[-2000:])
    # the processor and the model alone
    mode = {1: "L", 4: "RGBA"}[channels]
    processor, model = AutoImageProcessor.from_pretrained(out), AutoModelForImageClassification.from_pretrained(out)
    with Image.open(picture) as opened:
        pixels = np.asarray(opened)
    shown = Image.fromarray((pixels >> 8).astype(np.uint8)) if channels == 1 else Image.fromarray(pixels)
    assert shown.mode == mode
    with torch.no_grad():
        logits = model(**processor([shown], return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] == "bright"


@pytest.mark.parametrize("mean", [[0.3], 0.3], ids=["list", "number"])
def test_a_converted_grey_model_trains(mean, tmp_path):
    """Of transformers' ViT of one channel; its processor may give one number for all channels."""
    sizes = {"image_size": 28, "patch_size": 14, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    native = ViTForImageClassification(ViTConfig(**sizes, intermediate_size=16, num_channels=1, num_labels=2))
    native.save_pretrained(tmp_path / "native")
    processor = ViTImageProcessorPil(size={"height": 28, "width": 28}, image_mean=mean, image_std=mean)
    processor.save_pretrained(tmp_path / "native")
    assert run_cli("convert", tmp_path / "native", tmp_path / "dna").returncode == 0
    data = write_classes(tmp_path / "data", deep, train=16)
    result = run_cli("train", config(tmp_path, data, learning_rate=1e-2), "--checkpoint", tmp_path / "dna")
    assert result.returncode == 2  # the sections of the run describe another model
    text = yaml.safe_load((tmp_path / "run.yaml").read_text()) | {"model": {"checkpoint": str(tmp_path / "dna")}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(text))
    result = run_cli("train", tmp_path / "run.yaml")
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads((tmp_path / "out" / "all_results.json").read_text())["eval_top1"] > 0.95
    assert run_cli("predict", tmp_path / "out", data / "test" / "dark" / "0.png").returncode == 0


@pytest.mark.parametrize(
    "model, data, sentence",
    [
        ({"num_channels": 2}, {}, "num_channels is 2: set it to one of these"),
        ({"num_channels": 1}, {"image_mean": [0.5, 0.5, 0.5]}, "image_mean has 3 numbers, but num_channels is 1"),
        ({"num_channels": 4}, {"image_std": [0.5]}, "image_std has 1 numbers, but num_channels is 4"),
        ({"num_channels": 4}, {"auto_augment": "rand-m9"}, "auto_augment is for images of three channels"),
        ({}, {"image_std": []}, "image_std is a number for each channel"),
    ],
)
def test_what_does_not_fit_the_channels_is_named(model, data, sentence, tmp_path):
    folder = write_classes(tmp_path / "data", shallow, train=4, test=2)
    result = run_cli("train", config(tmp_path, folder, model, data))
    assert result.returncode == 2 and sentence in result.stderr
    assert not (tmp_path / "out").exists()


# -- what is given goes before what a checkpoint says


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set, and a checkpoint that was trained on it with a normalisation of its own."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_classes(folder / "data", shallow, train=8, test=4)
    given = {
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.4],
        "crop_pct": 0.875,
        "interpolation": "bicubic",
    }
    return data, train(folder, data, data=given, num_train_epochs=1)


FIELDS = ("size", "crop_size", "do_center_crop", "resample", "image_mean", "image_std", "do_normalize")


@pytest.mark.parametrize(
    "given, changed",
    [
        ({}, {}),
        ({"image_mean": [0.1, 0.1, 0.1]}, {"image_mean": [0.1, 0.1, 0.1]}),
        ({"image_std": [1.0, 1.0, 1.0]}, {"image_std": [1.0, 1.0, 1.0]}),
        ({"interpolation": "bilinear"}, {"resample": 2}),
        ({"crop_pct": 0.7}, {"size": {"shortest_edge": 40}}),
        ({"crop_pct": 1.0}, {"size": {"height": 28, "width": 28}, "do_center_crop": False}),
    ],
    ids=str,
)
def test_the_preprocessing_of_a_checkpoint_is_what_was_given(given, changed, trained, tmp_path):
    data, checkpoint = trained
    before = json.loads((checkpoint / "preprocessor_config.json").read_text())
    assert (before["size"], before["resample"]) == ({"shortest_edge": 32}, 3)
    assert before["image_mean"] == [0.4, 0.5, 0.6]
    out = train(tmp_path, data, "--checkpoint", checkpoint, "--max_steps", 1, data=given)
    after = json.loads((out / "preprocessor_config.json").read_text())
    assert {name: after.get(name) for name in FIELDS} == {name: before.get(name) for name in FIELDS} | changed
    # and it was trained and evaluated on: the figures are those that the saved folder gives by itself
    figures = tmp_path / "figures.json"
    assert run_cli("evaluate", out, "--dataset", data, "--output", figures).returncode == 0
    measured = json.loads(figures.read_text())["metrics"]["loss"]
    assert measured == pytest.approx(json.loads((out / "all_results.json").read_text())["eval_loss"], abs=1e-6)


def test_a_checkpoint_without_a_processor_is_told_how_to_get_one(trained, tmp_path):
    data, checkpoint = trained
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).write_bytes((checkpoint / name).read_bytes())
    result = run_cli("train", config(tmp_path, data), "--checkpoint", tmp_path / "bare")
    assert result.returncode == 2
    assert "has no preprocessor_config.json" in result.stderr and "--image-processor" in result.stderr


# -- images that cannot be read


SKIP = {"on_error": "skip", "max_bad_fraction": 0.2}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """60 + 20 images, of which 3 + 1 cannot be read: a text, an empty file, one cut off, and floats without range."""
    folder = write_classes(tmp_path_factory.mktemp("broken") / "data", shallow, train=30, test=10)
    (folder / "train" / "dark" / "3.png").write_text("no image")
    (folder / "train" / "dark" / "4.png").write_bytes(b"")
    whole = (folder / "train" / "bright" / "0.png").read_bytes()
    (folder / "train" / "bright" / "0.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((28, 28), 7, np.float32)).save(folder / "test" / "dark" / "5.tif")
    (folder / "test" / "dark" / "5.png").unlink()
    return folder


@pytest.mark.parametrize(
    "data, training",
    [
        ({}, {}),
        ({}, {"dataloader_num_workers": 2}),
        ({"mixup_alpha": 0.5, "repeated_augmentation": 2}, {"dataloader_num_workers": 1}),
    ],
    ids=["alone", "workers", "mixup"],
)
def test_unreadable_images_are_left_out_listed_and_counted(data, training, broken, tmp_path):
    result = run_cli("train", config(tmp_path, broken, data=SKIP | data, learning_rate=1e-2, **training))
    assert result.returncode == 0, result.stderr[-2000:]
    out = tmp_path / "out"
    entries = [json.loads(line) for line in (out / "unreadable.jsonl").read_text().splitlines()]
    names = {entry["image"].partition("data/")[2] for entry in entries}
    if "repeated_augmentation" not in data:
        assert names == {"train/dark/3.png", "train/dark/4.png", "train/bright/0.png", "test/dark/5.tif"}
        assert count_unreadable(out / "unreadable.jsonl") == {"train": 3, "test": 1}
        assert "left out of train" in result.stdout and "3, see unreadable.jsonl" in result.stdout
    assert all("cannot read image" in entry["error"] for entry in entries)
    figures = json.loads((out / "all_results.json").read_text())
    assert (figures["eval_images"], figures["eval_unreadable"], figures["eval_top1"]) == (19, 1, 1.0)
    (measurement,) = read_measurements(out)
    assert (measurement.samples, measurement.unreadable) == (19, 1)


def test_the_next_image_takes_the_place_whatever_reads_it(broken, tmp_path):
    """Weights are the same with and without workers, and of a run that was resumed."""
    for name, words in (("alone", ()), ("workers", ("--dataloader_num_workers", 2))):
        (tmp_path / name).mkdir()
        train(tmp_path / name, broken, *words, data=SKIP, save_strategy="steps", save_steps=8)
    weights = (tmp_path / "alone" / "out" / "model.safetensors").read_bytes()
    assert (tmp_path / "workers" / "out" / "model.safetensors").read_bytes() == weights
    resumed = tmp_path / "workers" / "out"
    for path in (resumed / "model.safetensors", resumed / "training.json", resumed / "measurements.json"):
        path.unlink()
    for folder in resumed.glob("checkpoint-*"):
        if folder.name != "checkpoint-8":
            for path in sorted(folder.rglob("*"), reverse=True):
                path.unlink()
            folder.rmdir()
    again = run_cli("train", tmp_path / "workers" / "run.yaml", "--dataloader_num_workers", 2, "--resume")
    assert again.returncode == 0, again.stderr[-2000:]
    assert (resumed / "model.safetensors").read_bytes() == weights
    assert count_unreadable(resumed / "unreadable.jsonl") == {"train": 3, "test": 1}


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images_end_the_run(workers, broken, tmp_path):
    data = SKIP | {"max_bad_fraction": 0.02}
    result = run_cli("train", config(tmp_path, broken, data=data, dataloader_num_workers=workers))
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert (
        "2 of 60 images of split 'train' cannot be read, more than max_bad_fraction (0.02) of them; the first: "
        in last
    )
    assert "cannot read image" in last and last.count("dna-hf: error") == 1


def test_evaluation_leaves_unreadable_images_out(trained, broken, tmp_path):
    _, checkpoint = trained
    words = ["evaluate", checkpoint, "--dataset", broken, "--on_error", "skip"]
    result = run_cli(*words)
    assert result.returncode == 2 and "1 of 20 images of split 'test' cannot be read" in result.stderr
    words += ["--max_bad_fraction", "0.2", "--output", tmp_path / "figures.json", "--record"]
    before = (checkpoint / "measurements.json").read_text()
    result = run_cli(*words)
    (checkpoint / "measurements.json").write_text(before)
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads((tmp_path / "figures.json").read_text())
    counts = report["metrics"]["images"], report["metrics"]["unreadable"], report["measurement"]["unreadable"]
    assert counts == (19, 1, 1)
    assert [name.rpartition("/")[2] for name in report["unreadable"]] == ["5.tif"]
    assert "left out, unreadable" in result.stdout and "5.tif" in result.stderr
    assert sum(sum(row) for row in report["confusion"]) == 19


def test_two_processes_leave_out_and_count_the_same(broken, tmp_path):
    """Each reads half of every batch; what stands in for an unreadable image does not depend on who reads it."""
    path = config(tmp_path, broken, data=SKIP, max_steps=7, adam_epsilon=1e-3, logging_steps=1)
    assert run_cli("train", path, "--output_dir", tmp_path / "one").returncode == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "scripts" / "train.py"), str(path), "--output_dir", str(tmp_path / "two")]
    command += ["--per_device_train_batch_size", "4"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("left out of train") == 1 and "3, see unreadable.jsonl" in result.stdout
    losses = {}
    for name in ("one", "two"):
        assert count_unreadable(tmp_path / name / "unreadable.jsonl") == {"train": 3, "test": 1}
        figures = json.loads((tmp_path / name / "all_results.json").read_text())
        assert (figures["eval_images"], figures["eval_unreadable"]) == (19, 1)
        history = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        losses[name] = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses["one"]) == 7 and losses["two"] == pytest.approx(losses["one"], rel=1e-5)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_images_of_several_labels_are_left_out_too(problem, broken, tmp_path):
    for split in ("train", "test"):
        files = sorted((broken / split).glob("*/*.*"))
        table = "file_name,value\n" + "".join(f"{file.name},{int(file.parent.name == 'bright')}\n" for file in files)
        if problem == "multi_label_classification":
            table = table.replace("value", "bright,any").replace(",0\n", ",0,1\n").replace(",1\n", ",1,1\n")
            table = table.replace(",0,1,1\n", ",0,1\n").replace(",1,1,1\n", ",1,1\n")
        (tmp_path / "data" / split).mkdir(parents=True)
        for file in files:
            name = f"{file.parent.name}{file.name}"
            (tmp_path / "data" / split / name).write_bytes(file.read_bytes())
            table = table.replace(f"\n{file.name},", f"\n{name},", 1)
        (tmp_path / "data" / split / "metadata.csv").write_text(table)
    columns = ["bright", "any"] if problem == "multi_label_classification" else "value"
    data = SKIP | {"label_column": columns, "max_bad_fraction": 0.3}
    result = run_cli("train", config(tmp_path, tmp_path / "data", {"problem_type": problem}, data))
    assert result.returncode == 0, result.stderr[-2000:]
    figures = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert (figures["eval_images"], figures["eval_unreadable"]) == (19, 1)
    assert np.isfinite(figures["eval_loss"])
    words = ["--dataset", tmp_path / "data", "--on_error", "skip", "--max_bad_fraction", 0.3]
    words += ["--label_column", json.dumps(columns)] if isinstance(columns, list) else ["--label_column", columns]
    result = run_cli("evaluate", tmp_path / "out", *words, "--output", tmp_path / "figures.json")
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads((tmp_path / "figures.json").read_text())["metrics"]["unreadable"] == 1


def test_a_stream_leaves_nothing_out(broken, tmp_path):
    words = ["--streaming", "true", "--max_steps", "2", "--eval_split", "test"]
    result = run_cli("train", config(tmp_path, broken, data=SKIP), *words)
    assert result.returncode == 2 and "on_error 'skip' needs random access to the data" in result.stderr
