"""The learning rates of the paper's recipes."""

import json
import shutil

import pytest

from dna_hf.training import classification as training
from dna_hf.training.errors import ConfigurationError
from dna_hf.training.schedule import epoch_cosine, epoch_steps
from tests.kit.training import tiny_run


PAPER = {"epochs": 300, "warmup_epochs": 5, "warmup_rate": 1e-3, "min_rate": 1e-2}


@pytest.mark.parametrize(
    ("epoch", "rate"),
    # what the released script trains with, at a peak of 1e-3; the cosine ends at 1e-5
    [(0, 1e-6), (1, 1e-6), (2, 2.008e-4), (6, 9.993e-4), (151, 5.05e-4), (299, 1.011e-5)],
)
def test_rates_of_the_paper(epoch, rate):
    assert 1e-3 * epoch_cosine(epoch, **PAPER) == pytest.approx(rate, rel=5e-4)


def test_without_the_delay():
    for epoch in (0, 3, 4, 5, 100, 299):
        assert epoch_cosine(epoch, **PAPER, delayed=False) == epoch_cosine(epoch + 1, **PAPER)
    assert epoch_cosine(400, **PAPER) == pytest.approx(1e-2)


def test_rates_in_a_run(tmp_path):
    run = tiny_run(
        tmp_path / "run",
        num_train_epochs=4,
        learning_rate=1e-3,
        logging_steps=1,
        epoch_cosine=True,
        lr_scheduler_kwargs={"warmup_epochs": 2, "warmup_lr": 1e-4, "min_lr": 2e-4},
    )
    result = training.train_classifier(run)
    history = json.loads((result.output_dir / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
    # by hand: epochs 0 and 1 at the start of the warm-up, epoch 2 half way up, epoch 3 at 2 of 4 epochs of the cosine
    assert rates == pytest.approx([1e-4] * 10 + [5.5e-4] * 5 + [6e-4] * 5, rel=1e-6)


VIDEOS = {"steps": [0, 11, 14], "factors": [1, 0.1, 0.01]}


@pytest.mark.parametrize(
    ("epoch", "factor"),
    [(0, 1), (0.5, 1), (10, 1), (10.999, 1), (11, 0.1), (11.001, 0.1), (13.999, 0.1), (14, 0.01), (15, 0.01)],
)
def test_steps_of_the_paper(epoch, factor):
    assert epoch_steps(epoch, **VIDEOS) == factor


@pytest.mark.parametrize("steps_per_epoch", [1, 3, 7, 49, 3745])
def test_steps_fall_on_the_first_step_of_an_epoch(steps_per_epoch):
    for epoch, before, after in ((11, 1, 0.1), (14, 0.1, 0.01)):
        step = epoch * steps_per_epoch
        assert epoch_steps(step / steps_per_epoch, **VIDEOS) == after
        assert epoch_steps((step - 1) / steps_per_epoch, **VIDEOS) == before


def test_steps_in_a_run_and_in_a_resumed_one(tmp_path):
    options = {
        "num_train_epochs": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": 7,
        "epoch_steps": True,
        "lr_scheduler_kwargs": {"steps": [0, 1, 2.4], "factors": [1, 0.5, 0]},
    }
    training.train_classifier(tiny_run(tmp_path / "run", **options))
    # by hand: five steps an epoch, the third rate from step 2.4 x 5 = 12 on
    expected = [1e-3] * 5 + [5e-4] * 7 + [0] * 8
    assert rates_of(tmp_path / "run") == pytest.approx(expected)
    final = (tmp_path / "run" / "model.safetensors").read_bytes()
    for name in ("checkpoint-14", "checkpoint-20"):
        shutil.rmtree(tmp_path / "run" / name, ignore_errors=True)
    for name in ("model.safetensors", "training.json", "measurements.json"):
        (tmp_path / "run" / name).unlink()
    training.train_classifier(tiny_run(tmp_path / "run", **options), resume=True)
    assert rates_of(tmp_path / "run") == pytest.approx(expected)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == final


def rates_of(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["learning_rate"] for entry in history if "learning_rate" in entry]


def steps_with(**options):
    return {"epoch_steps": True, "lr_scheduler_kwargs": VIDEOS | options}


def test_base_learning_rate(tmp_path):
    run = tiny_run(tmp_path / "run", learning_rate=5e-5, base_learning_rate=5e-4, gradient_accumulation_steps=4)
    assert run.training.learning_rate == pytest.approx(5e-4 * 8 * 4 / 512)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_learning_rate": 5e-4}, "not both"),
        ({"base_learning_rate": -1.0, "learning_rate": 5e-5}, "must be positive"),
        ({"epoch_cosine": True}, "min_lr, warmup_epochs, warmup_lr"),
        ({"epoch_cosine": True, "lr_scheduler_kwargs": {"min_lr": 1e-5}}, "min_lr, warmup_epochs, warmup_lr"),
        ({"epoch_cosine": True} | steps_with(), "not both"),
        ({"epoch_steps": True}, "factors, steps"),
        ({"epoch_steps": True, "lr_scheduler_kwargs": {"steps": [0]}}, "factors, steps"),
        (steps_with(warmup=1), "factors, steps"),
        (steps_with(factors=[1, 0.1]), "as many factors as steps, got 2 and 3"),
        (steps_with(steps=[]), "steps must be numbers"),
        (steps_with(steps=11), "steps must be numbers"),
        (steps_with(steps=[0, "11", 14]), "steps must be numbers"),
        (steps_with(factors=[1, 0.1, -0.01]), "factors must be numbers"),
        (steps_with(factors=[1, True, 0.01]), "factors must be numbers"),
        (steps_with(factors=[1, float("nan"), 0.01]), "lr_scheduler_kwargs must be finite, got .*factors"),
        (steps_with(factors=[1, float("inf"), 0.01]), "lr_scheduler_kwargs must be finite, got .*factors"),
        (steps_with(steps=[1, 11, 14]), "start at 0 and increase"),
        (steps_with(steps=[0, 14, 11]), "start at 0 and increase"),
        (steps_with(steps=[0, 11, 11]), "start at 0 and increase"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        tiny_run(tmp_path, **options)
