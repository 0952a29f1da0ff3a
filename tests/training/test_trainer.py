"""What the package adds to transformers' Trainer: averaged weights, losses, diagnostics, exact continuation."""

import csv
import itertools
import json
import logging
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

from dna_hf import DnAViTConfig, DnAViTForImageClassification
from dna_hf.records.checkpoint_records import read_measurements, read_training
from dna_hf.records.digest import weights_digest
from dna_hf.training import callbacks
from dna_hf.training import classification as training
from dna_hf.training.diagnostics import check_finite_loss, negative_scale_statistics
from dna_hf.training.errors import ConfigurationError, NonFiniteError
from dna_hf.training.losses import classification_loss
from tests.kit.command_line import run_cli
from tests.kit.paths import ROOT, shared_path
from tests.kit.training import SECTIONS, interrupt, tiny_run


RECIPE = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing_factor": 0.1, "ema_decay": 0.9, "layer_decay": 0.7}
RECIPE |= {"decay_all": True, "epoch_cosine": True, "repeated_augmentation": 3, "erasing_probability": 0.5}
RECIPE |= {"lr_scheduler_kwargs": {"warmup_epochs": 1, "warmup_lr": 1e-4, "min_lr": 1e-5}}
PLAIN = {"drop_path_rate": 0.0, "hidden_dropout_prob": 0.0}


def last_checkpoint(folder):
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))


def assert_same(first, second, where=""):
    """Equality of nested states, bit for bit."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    elif hasattr(first, "tobytes"):
        assert first.tobytes() == second.tobytes(), where
    else:
        assert first == second, where


@pytest.mark.parametrize(
    ("boundary", "accumulation", "workers", "recipe"),
    # the half of all combinations in which any three of the four take all their values together
    [
        (boundary, accumulation, workers, (boundary + (accumulation == 4) + (workers == 2)) % 2 == 1)
        for boundary, accumulation, workers in itertools.product((True, False), (1, 4), (0, 2))
    ],
    ids=lambda value: str(value),
)
def test_a_stopped_run_continues_exactly(tmp_path, monkeypatch, boundary, accumulation, workers, recipe):
    """Model, average, optimizer, schedule, random state and best metric, over 8 kinds of runs."""
    per_epoch = {1: 5, 4: 2}[accumulation]
    save_steps = per_epoch if boundary else {1: 3, 4: 1}[accumulation]
    options = (RECIPE if recipe else PLAIN) | {
        "gradient_accumulation_steps": accumulation,
        "dataloader_num_workers": workers,
        "save_steps": save_steps,
        "eval_strategy": "steps",
        "eval_steps": save_steps,
        "num_train_epochs": 2,
        "metric_for_best_model": "top1",
    }
    training.train_classifier(tiny_run(tmp_path / "straight", **options))
    interrupt(monkeypatch, tmp_path / "stopped", save_steps + 1, options)
    training.train_classifier(tiny_run(tmp_path / "stopped", **options), resume=True)

    first, second = last_checkpoint(tmp_path / "straight"), last_checkpoint(tmp_path / "stopped")
    assert first.name == second.name
    files = ["model.safetensors", *(["ema.safetensors"] if recipe else [])]
    for name in files:
        assert_same(load_file(first / name), load_file(second / name), name)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        assert_same(*(torch.load(folder / name, weights_only=False) for folder in (first, second)), name)
    states = [json.loads((folder / "trainer_state.json").read_text()) for folder in (first, second)]
    assert states[0]["best_metric"] == states[1]["best_metric"] is not None
    assert_same(
        load_file(tmp_path / "straight" / "model.safetensors"), load_file(tmp_path / "stopped" / "model.safetensors")
    )


def test_average_is_the_closed_form(tmp_path, monkeypatch):
    """After n steps: decay^(n-1) w_1 + sum over i > 1 of (1 - decay) decay^(n-i) w_i."""
    history = []

    class Record(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            history.append({name: p.detach().double().clone() for name, p in kwargs["model"].named_parameters()})

    build = training.build_trainer

    def recorded(*args, **kwargs):
        trainer = build(*args, **kwargs)
        trainer.add_callback(Record())
        return trainer

    monkeypatch.setattr(training, "build_trainer", recorded)
    result = training.train_classifier(tiny_run(tmp_path / "run", ema_decay=0.8, num_train_epochs=1))
    average = load_file(last_checkpoint(tmp_path / "run") / "ema.safetensors")
    steps = len(history)
    assert steps == 5
    for name in history[0]:
        expected = 0.8 ** (steps - 1) * history[0][name]
        expected = expected + sum(0.2 * 0.8 ** (steps - 1 - i) * history[i][name] for i in range(1, steps))
        torch.testing.assert_close(average[f"module.{name}"].double(), expected, atol=1e-6, rtol=1e-5)
    assert result.metrics["eval_ema_loss"] != result.metrics["eval_loss"]
    # the averaged model is a checkpoint of its own, the trained one is untouched
    saved = load_file(tmp_path / "run" / "ema" / "model.safetensors")
    assert_same(saved, {name.removeprefix("module."): t for name, t in average.items() if name.startswith("module.")})
    trained = load_file(tmp_path / "run" / "model.safetensors")
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor.double(), history[-1][name])
    # each with its own figures, tied to its own weights
    for folder, weights, prefix in (("run", trained, "eval"), ("run/ema", saved, "eval_ema")):
        (measurement,), run = read_measurements(tmp_path / folder), read_training(tmp_path / folder)
        for record in (measurement, run):
            record.verify(weights_digest(weights))
        assert measurement.metrics["loss"] == result.metrics[f"{prefix}_loss"]


def test_missing_average_is_said(tmp_path, monkeypatch):
    options = {"ema_decay": 0.9}
    interrupt(monkeypatch, tmp_path / "run", 9, options)
    (last_checkpoint(tmp_path / "run") / "ema.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"ema\.safetensors.* is missing"):
        training.train_classifier(tiny_run(tmp_path / "run", **options), resume=True)


def test_loss_of_soft_targets():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    targets = torch.rand(4, 3, generator=generator).softmax(1)
    by_hand = sum(
        -(targets[i, c].double() * torch.log(logits[i].exp()[c] / logits[i].exp().sum()))
        for i in range(4)
        for c in range(3)
    )
    assert classification_loss({"logits": logits}, targets).item() == pytest.approx(by_hand.item() / 4, rel=1e-6)
    # four images of three numbers here, as many elsewhere
    assert classification_loss({"logits": logits}, targets, 24).item() == pytest.approx(by_hand.item() / 8, rel=1e-6)
    labels = torch.tensor([0, 2, 1, 1])
    hard = torch.nn.functional.one_hot(labels, 3).float()
    for count in (None, 4):
        assert classification_loss({"logits": logits}, labels, count).item() == pytest.approx(
            classification_loss({"logits": logits}, hard).item(), rel=1e-6
        )


def test_accumulated_soft_losses_are_those_of_one_large_batch(tmp_path):
    """Without randomness in the model, four micro-batches of two images make the step of one batch of eight."""
    options = PLAIN | {
        "label_smoothing_factor": 0.1,
        "logging_steps": 1,
        "num_train_epochs": 2,
        "flip_probability": 0.0,
    }
    options |= {"crop_scale": [1.0, 1.0]}
    large = training.train_classifier(tiny_run(tmp_path / "large", **options))
    small = training.train_classifier(
        tiny_run(tmp_path / "small", **options, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    )
    logs = [json.loads((run.output_dir / "trainer_state.json").read_text())["log_history"] for run in (large, small)]
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert len(losses[0]) == 10
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_scales_are_logged(tmp_path):
    result = training.train_classifier(tiny_run(tmp_path / "run", logging_steps=5))
    with (result.output_dir / "negative_scale.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["layer"], row["head"]) for row in rows[:5]] == [
        ("1", "0", "0"),
        ("1", "0", "1"),
        ("1", "1", "0"),
        ("1", "1", "1"),
        ("2", "0", "0"),
    ]
    weights = load_file(result.output_dir / "model.safetensors")
    last = [float(row["value"]) for row in rows if row["epoch"] == "3"]
    saved = torch.cat([weights[f"dna_vit.layers.{i}.attention.negative_scale"] for i in range(2)])
    assert last == pytest.approx(saved.tolist())
    history = json.loads((result.output_dir / "trainer_state.json").read_text())["log_history"]
    logged = [entry["negative_scale/mean"] for entry in history if "negative_scale/mean" in entry]
    assert logged[-1] == pytest.approx(saved.mean().item(), abs=1e-4)


def test_scale_statistics_of_a_variant_without_scales():
    config = DnAViTConfig(
        attention_variant="softmax", image_size=16, patch_size=8, hidden_size=16, num_attention_heads=2
    )
    assert negative_scale_statistics(DnAViTForImageClassification(config)) == {}


@pytest.mark.parametrize("what", ["weight", "scale", "image"])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, what):
    build = training.build_trainer

    class Poison(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                parameters = dict(kwargs["model"].named_parameters())
                name = {"weight": "classifier.bias", "scale": "dna_vit.layers.1.attention.negative_scale"}[what]
                parameters[name].data[0] = float("nan")

    def poisoned(*args, **kwargs):
        trainer = build(*args, **kwargs)
        if what != "image":
            trainer.add_callback(Poison())
            return trainer
        collate = trainer.data_collator

        def spoil(samples):
            batch = collate(samples)
            batch["pixel_values"][:, 0, 0, 0] = float("inf")
            return batch

        trainer.train_collator = spoil
        return trainer

    monkeypatch.setattr(training, "build_trainer", poisoned)
    with pytest.raises(NonFiniteError) as info:
        training.train_classifier(tiny_run(tmp_path / "run"))
    message = str(info.value)
    assert ("step 1 " if what == "image" else "step 4 ") in message and "rows" in message
    expected = {
        "weight": "'classifier.bias' is not finite",
        "scale": "'dna_vit.layers.1.attention.negative_scale' is not finite",
        "image": "all parameters are finite, the gradient of",
    }
    assert expected[what] in message


def test_training_reads_repeated_images(tmp_path, monkeypatch):
    build, seen = training.build_trainer, []

    def spied(*args, **kwargs):
        trainer = build(*args, **kwargs)
        collate = trainer.data_collator

        def collated(samples):
            seen.append([sample["rows"] for sample in samples])
            return collate(samples)

        trainer.train_collator = collated
        return trainer

    monkeypatch.setattr(training, "build_trainer", spied)
    options = {"repeated_augmentation": 3, "per_device_train_batch_size": 6, "num_train_epochs": 2}
    training.train_classifier(tiny_run(tmp_path / "run", **options))
    epochs = seen[:7], seen[7:]
    assert [len(batch) for batch in epochs[0]] == [6] * 6 + [4]
    for epoch in epochs:
        for batch in epoch[:6]:
            assert batch[0] == batch[1] == batch[2] != batch[3] == batch[4] == batch[5]
    assert epochs[0] != epochs[1]


def test_a_stream_cannot_repeat_images(tmp_path):
    folder = str(shared_path("data", "cifar10"))
    options = {"dataset": folder, "streaming": True, "repeated_augmentation": 3, "max_steps": 1}
    with pytest.raises(ConfigurationError, match="repeated_augmentation needs random access"):
        training.train_classifier(tiny_run(tmp_path / "run", **options))


class FakeClock:
    """Time that passes where a test says so, on a machine as busy as it likes."""

    def __init__(self):
        self.now = 0.0

    def pass_by(self, seconds):
        self.now += seconds

    def monotonic(self):
        return self.now


@pytest.mark.parametrize("slow", [True, False])
def test_a_run_that_waits_for_its_data_says_so(tmp_path, monkeypatch, caplog, slow):
    build, clock = training.build_trainer, FakeClock()

    def build_slow(*args, **kwargs):
        trainer = build(*args, **kwargs)
        collate, compute_loss = trainer.data_collator, trainer.compute_loss

        def collated(samples):
            clock.pass_by(9 if slow else 1)
            return collate(samples)

        def computed(*args, **kwargs):
            clock.pass_by(1 if slow else 9)
            return compute_loss(*args, **kwargs)

        trainer.train_collator, trainer.compute_loss = collated, computed
        return trainer

    monkeypatch.setattr(callbacks, "time", clock)
    monkeypatch.setattr(training, "build_trainer", build_slow)
    monkeypatch.setattr(logging.getLogger("dna_hf.training.callbacks"), "propagate", True)
    with caplog.at_level("WARNING", logger="dna_hf.training.callbacks"):
        result = training.train_classifier(tiny_run(tmp_path / "run", logging_steps=5, num_train_epochs=1))
    history = json.loads((result.output_dir / "trainer_state.json").read_text())["log_history"]
    (part,) = [entry["loader_wait"] for entry in history if "loader_wait" in entry]
    assert part == pytest.approx(0.9 if slow else 0.1)
    said = [record.getMessage() for record in caplog.records if "waiting for data" in record.getMessage()]
    assert len(said) == slow
    if slow:
        assert "raise dataloader_num_workers (now 0)" in said[0]


def test_too_little_disk_is_said_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(ConfigurationError, match=r"needs about 0.2 MiB .* are free"):
        training.train_classifier(tiny_run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    # the model alone fits, 15,246 numbers
    training.train_classifier(tiny_run(tmp_path / "run", save_strategy="no", max_steps=1))
    # the model and its average do not
    with pytest.raises(ConfigurationError, match="are free"):
        training.train_classifier(tiny_run(tmp_path / "more", save_strategy="no", max_steps=1, ema_decay=0.9))


def test_finite_losses_pass():
    check_finite_loss(torch.tensor(1.5), torch.nn.Linear(2, 2), 1, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_decay", 0.0),
        ("layer_decay", 1.5),
        ("ema_decay", 1.0),
        ("ema_decay", -0.1),
        ("mixup_alpha", -1.0),
        ("mix_probability", 2.0),
    ],
)
def test_values_out_of_range(tmp_path, name, value):
    with pytest.raises(ConfigurationError, match=name):
        tiny_run(tmp_path, **{name: value})


def test_two_processes_make_the_losses_of_one(tmp_path):
    """The same global batch without randomness, 20 steps, with soft targets; `scripts/train.py` under torchrun."""
    sections = {name: dict(section) for name, section in SECTIONS.items()}
    sections["model"] |= PLAIN
    sections["data"] |= {"crop_scale": [1.0, 1.0], "flip_probability": 0.0}
    sections["training"] |= {
        "label_smoothing_factor": 0.1,
        "ema_decay": 0.9,
        "num_train_epochs": 4,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections))
    assert run_cli("train", "run.yaml", "--output_dir", "run1", cwd=tmp_path).returncode == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "scripts" / "train.py"), "run.yaml", "--output_dir", "run2"]
    command += ["--per_device_train_batch_size", "4"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("attention variant") == 1
    losses = {}
    for processes in (1, 2):
        training = json.loads((tmp_path / f"run{processes}" / "training.json").read_text())
        assert training["processes"] == processes
        state = json.loads((tmp_path / f"run{processes}" / "trainer_state.json").read_text())
        # 40 images, of which both processes together take 8 in a step
        assert state["global_step"] == 20 and state["epoch"] == pytest.approx(4)
        losses[processes] = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses[1]) == 20
    assert losses[2] == pytest.approx(losses[1], rel=1e-6)
