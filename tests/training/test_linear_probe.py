"""`freeze: encoder`: the head alone learns, on features that no dropout touches; in images and videos, and resumed."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn import functional

from dna_hf.kinds import load
from dna_hf.training import classification as training
from dna_hf.training.classification import build_trainer, load_run, train_classifier
from dna_hf.training.config_file import run_config
from dna_hf.training.errors import ConfigurationError
from tests.kit.paths import ROOT
from tests.kit.training import SECTIONS, interrupt, tiny_run


# dropout and drop path of the tiny model are on
PROBE = {"freeze": "encoder", "eval_strategy": "no"}
# images as they are
UNCHANGED = {"crop_scale": [1.0, 1.0], "flip_probability": 0.0}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A checkpoint to start from."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    options = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no"}
    train_classifier(tiny_run(folder, **options))
    return str(folder)


def weights_of(folder):
    return load_file(f"{folder}/model.safetensors")


def test_the_head_alone_learns(tmp_path, pretrained):
    result = train_classifier(tiny_run(tmp_path / "probe", checkpoint=pretrained, ema_decay=0.9, **PROBE))
    before, after = weights_of(pretrained), weights_of(tmp_path / "probe")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    average = weights_of(tmp_path / "probe" / "ema")
    assert {name for name in before if not torch.equal(before[name], average[name])} == changed
    record = json.loads((tmp_path / "probe" / "training.json").read_text())
    assert record["settings"]["training"]["freeze"] == "encoder"
    assert result.parameters == sum(tensor.numel() for tensor in after.values())


def test_it_is_the_logistic_regression_on_the_features(tmp_path, pretrained):
    """Steps of plain gradient descent on features without dropout, by hand."""
    options = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    options |= {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 40,
        "save_strategy": "no",
        "flip_probability": 0.0,
    }
    run = tiny_run(tmp_path / "probe", checkpoint=pretrained, crop_scale=[1.0, 1.0], **options, **PROBE)
    train_classifier(run)
    train, _, _, processor = load_run(run)
    dataset = training.task_of(run).datasets(run, train, train, processor)[1]
    batch = dataset.__getitems__(list(range(40)))
    pixels, labels = torch.stack([each["pixel_values"] for each in batch]), torch.tensor([b["labels"] for b in batch])
    start = load(pretrained, device="cpu").model
    with torch.no_grad():
        features = start.base_model(pixels).last_hidden_state[:, 0]
    head = start.classifier.requires_grad_()
    for _ in range(4):
        loss = functional.cross_entropy(head(features), labels)
        gradients = torch.autograd.grad(loss, [head.weight, head.bias])
        with torch.no_grad():
            for parameter, gradient in zip((head.weight, head.bias), gradients, strict=True):
                parameter -= 0.1 * gradient
    after = weights_of(tmp_path / "probe")
    torch.testing.assert_close(after["classifier.weight"], head.weight.detach(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(after["classifier.bias"], head.bias.detach(), atol=1e-6, rtol=1e-5)


def test_no_gradient_goes_through_the_encoder(tmp_path, pretrained):
    run = tiny_run(tmp_path, checkpoint=pretrained, **PROBE)
    train, evaluation, model, processor = load_run(run)
    trainer = build_trainer(run, model, processor, train, evaluation)
    held = [parameter for group in trainer.create_optimizer().param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.classifier.parameters()}
    hidden = []
    model.base_model.register_forward_hook(lambda module, given, made: hidden.append(made.last_hidden_state))
    batch = next(iter(trainer.get_train_dataloader()))
    model.train()
    trainer.compute_loss(model, {name: batch[name] for name in ("pixel_values", "labels")}).backward()
    assert not hidden[0].requires_grad and not model.base_model.training and model.classifier.training
    assert all(parameter.grad is None for parameter in model.base_model.parameters())


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, monkeypatch, pretrained):
    options = {"checkpoint": pretrained, **PROBE}
    train_classifier(tiny_run(tmp_path / "whole", **options))
    interrupt(monkeypatch, tmp_path / "stopped", 9, options)
    with pytest.raises(ConfigurationError, match="training.freeze = 'encoder', not None: a resumed run keeps it"):
        train_classifier(tiny_run(tmp_path / "stopped", checkpoint=pretrained, eval_strategy="no"), resume=True)
    train_classifier(tiny_run(tmp_path / "stopped", **options), resume=True)
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_two_processes_make_the_losses_of_one(tmp_path, pretrained):
    """With class weights, whose sum over a step is that over all processes and micro-batches."""
    sections = {name: dict(section) for name, section in SECTIONS.items()}
    sections["model"]["checkpoint"] = pretrained
    sections["data"] |= UNCHANGED
    sections["training"] |= {"class_weights": {"Bag": 5.0, "Coat": 0.2}, "learning_rate": 1e-2, "num_train_epochs": 1}
    sections["training"] |= {"logging_steps": 1, "save_strategy": "no", **PROBE}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections))
    train_classifier(run_config(sections, {"output_dir": str(tmp_path / "run1")}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "scripts" / "train.py"), "run.yaml", "--output_dir", "run2"]
    command += ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    head = sum(tensor.numel() for name, tensor in weights_of(pretrained).items() if name.startswith("classifier."))
    assert f"{head:,} of them trained" in result.stdout and "0.2 (Coat) to 5 (Bag)" in result.stdout
    losses = []
    for name in ("run1", "run2"):
        history = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        losses.append([entry["loss"] for entry in history if "loss" in entry])
    assert len(losses[0]) == 5 and losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"freeze": "encoder"}, "the encoder of a fresh model would stay random: give a model.checkpoint"),
        ({"freeze": "encoder", "gradient_checkpointing": True}, "gradient_checkpointing does nothing"),
        ({"freeze": "encoder", "layer_decay": 0.5}, "layer_decay does nothing for a frozen encoder"),
        ({"freeze": "decoder"}, "training.freeze must be one of encoder or null, got 'decoder'"),
    ],
)
def test_what_cannot_be_frozen_is_refused(tmp_path, options, sentence):
    with pytest.raises(ConfigurationError) as error:
        train_classifier(tiny_run(tmp_path / "run", **options))
    assert sentence in str(error.value)
