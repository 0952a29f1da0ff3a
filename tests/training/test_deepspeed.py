"""Divided by DeepSpeed, a model learns what it learns on one process: two on the CPU, by the shipped files."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from dna_hf.training.adapter import load_adapted, read_description, read_tensors
from dna_hf.training.classification import train_classifier
from dna_hf.training.config_file import run_config
from tests.kit.launcher import launch
from tests.kit.paths import ROOT
from tests.kit.training import plain_sections
from tests.kit.two_processes import EACH, assert_same_training, forget_the_end, logged, train_in_one_process


pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow

SCRIPT = ROOT / "scripts" / "train.py"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of one process: its adapter, beside `run.yaml`."""
    return train_in_one_process(tmp_path_factory.mktemp("deepspeed"))


def train(one, folder, stage, *arguments, fails=False, **changes):
    """Train by `run.yaml` in two processes; returns what they have printed."""
    arguments = [one.parent / "run.yaml", "--output_dir", folder, *EACH, *arguments]
    result = launch(folder.parent, f"deepspeed_zero{stage}", SCRIPT, *arguments, changes=changes)
    assert bool(result.returncode) == fails, result.stderr[-6000:]
    return result.stdout + result.stderr


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_video_llm_is_that_of_one_process_and_resumes(one, tmp_path, stage):
    folder = tmp_path / "two"
    train(one, folder, stage)
    assert (folder / "checkpoint-2" / "zero_to_fp32.py").exists(), "accelerate did without DeepSpeed"
    assert_same_training(folder, one)
    expected = read_tensors(folder)
    forget_the_end(folder)
    train(one, folder, stage, "--resume")
    tensors = read_tensors(folder)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    # of divided weights no process sees the values that tell a base
    assert (read_description(folder).base_fingerprint is None) == (stage == 3)
    load_adapted(folder)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_video_llm_in_bfloat16_with_evaluations(tmp_path, stage):
    options = {"bf16": True, "gradient_checkpointing": True, "eval_strategy": "steps", "eval_steps": 2}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
    one = train_in_one_process(tmp_path, data={"eval_dataset": str(tmp_path / "train.json")}, **options)
    halves = ("--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2")
    train(one, tmp_path / "two", stage, *halves, mixed_precision="bf16")
    torch.testing.assert_close(logged(tmp_path / "two"), logged(one), rtol=0.01, atol=0.01)
    assert read_tensors(tmp_path / "two").keys() == read_tensors(one).keys()


def test_a_whole_language_model(one, tmp_path):
    train(one, tmp_path / "two", 3, "--learning_rates", "{language_model: 1e-3}")
    assert all(name.startswith(("model.language_model", "lm_head")) for name in read_tensors(tmp_path / "two"))


def test_what_stage_3_cannot_save_is_refused_before_it_is_trained(one, tmp_path):
    content = yaml.safe_load((ROOT / "configs" / "accelerate" / "deepspeed_zero3.yaml").read_text())[
        "deepspeed_config"
    ]
    content["zero3_save_16bit_model"] = False
    printed = train(one, tmp_path / "two", 3, fails=True, deepspeed_config=content)
    assert "ZeRO stage 3 must gather what is saved: set zero3_save_16bit_model to true" in printed
    assert not (tmp_path / "two").exists()


def test_a_classifier_is_that_of_one_process(tmp_path):
    sections = plain_sections()
    train_classifier(run_config(sections, {"output_dir": str(tmp_path / "one")}))
    expected = load_file(tmp_path / "one" / "model.safetensors")
    sections["training"]["per_device_train_batch_size"] = 4
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sections))
    result = launch(tmp_path, "deepspeed_zero2", SCRIPT, "tiny.yaml", "--output_dir", "two")
    assert result.returncode == 0, result.stderr[-6000:]
    assert (tmp_path / "two" / "checkpoint-2" / "zero_to_fp32.py").exists(), "accelerate did without DeepSpeed"
    torch.testing.assert_close(load_file(tmp_path / "two" / "model.safetensors"), expected, rtol=0, atol=1e-5)
    result = launch(tmp_path, "deepspeed_zero3", SCRIPT, "tiny.yaml", "--output_dir", "three")
    assert "ZeRO stage 3 is for video LLMs: train a classifier with stage 1 or 2" in result.stderr
    assert not (tmp_path / "three").exists()
