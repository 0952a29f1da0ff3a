"""The learning rates of the paper's recipe."""

import json
import sys
from pathlib import Path

import pytest

from dna_hf.training import classification as training
from dna_hf.training.errors import ConfigurationError
from dna_hf.training.schedule import epoch_cosine


sys.path.append(str(Path(__file__).parent))
from tiny import tiny_run  # noqa: E402


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
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        tiny_run(tmp_path, **options)
