"""What a run takes from transformers' Trainer: the best model, early stopping, precision, adapters, and wrong input.

The runs are real, on the tiny model. [`Worsen`] makes a run that gets worse at a known step, so that the best model is
not the last one whatever the numbers are.
"""

import copy
import functools
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from transformers import TrainerCallback, set_seed

from dna_hf import DnAViTForImageClassification
from dna_hf.cli import main
from dna_hf.data import sources
from dna_hf.records.digest import weights_digest
from dna_hf.training import classification as training
from dna_hf.training.errors import ConfigurationError, NonFiniteError
from dna_hf.training.trainer import ClassificationTrainer
from tests.kit.training import SECTIONS, interrupt, tiny_run


VARIANTS = ("softmax", "dna", "dna_shared_value", "differential", "cog")
PLAIN = {"drop_path_rate": 0.0, "hidden_dropout_prob": 0.0}
# one epoch of five steps, every loss logged, nothing written before the end
SHORT = {"num_train_epochs": 1, "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
# five steps, one evaluation and one checkpoint an epoch
BEST = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "save_total_limit": 1,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "num_train_epochs": 5,
}


class Worsen(TrainerCallback):
    """After a step, the model says class 0 whatever it sees, and loudly: the loss of evaluation is 4.6."""

    def __init__(self, after):
        self.after = after

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step > self.after:
            head = kwargs["model"].classifier
            head.weight.data.zero_()
            head.bias.data.zero_()
            head.bias.data[0] = 5.0


class Improve(TrainerCallback):
    """The model says class 0 with a confidence that shrinks from step to step: every evaluation is a new best."""

    def on_step_end(self, args, state, control, **kwargs):
        head = kwargs["model"].classifier
        head.weight.data.zero_()
        head.bias.data.zero_()
        head.bias.data[0] = 5.0 / state.global_step


class Watch(TrainerCallback):
    """Keeps weights, gradients as the optimizer gets them, and learning rates of every step."""

    def __init__(self):
        self.weights, self.gradients, self.rates = [], [], []

    def on_step_begin(self, args, state, control, **kwargs):
        self.weights.append({n: p.detach().clone() for n, p in kwargs["model"].named_parameters()})
        self.rates.append([group["lr"] for group in kwargs["optimizer"].param_groups])

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.gradients.append({n: p.grad.detach().clone() for n, p in kwargs["model"].named_parameters()})


@pytest.fixture(scope="module", autouse=True)
def embedded_once():
    """The embedded images are encoded once for all runs here: that takes as long as a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_embedded", functools.cache(sources._embedded))
        yield


@pytest.fixture
def prepared(monkeypatch):
    """Does something to every Trainer that a run builds, e.g. adds callbacks."""

    def prepare(*actions):
        build = training.build_trainer

        def built(*args, **kwargs):
            trainer = build(*args, **kwargs)
            for action in actions:
                trainer.add_callback(action) if isinstance(action, TrainerCallback) else action(trainer)
            return trainer

        monkeypatch.setattr(training, "build_trainer", built)

    return prepare


def watched(prepared):
    """Watch the next run; also lists that get its training batches, and a copy of its fresh model."""
    watch, batches, models = Watch(), [], []

    def record(trainer):
        collate = trainer.train_collator or trainer.data_collator
        models.append(copy.deepcopy(trainer.model))

        def recorded(samples):
            batches.append(collate(samples))
            return dict(batches[-1])

        trainer.train_collator = recorded

    prepared(watch, record)
    return watch, batches, models


def train(folder, resume=False, **options):
    return training.train_classifier(tiny_run(folder, **options), resume=resume)


def interrupted_and_resumed(monkeypatch, folder, stop, options, then=None):
    interrupt(monkeypatch, folder, stop, options)
    train(folder, resume=True, **(options if then is None else then))


def state_of(folder):
    return json.loads((Path(folder) / "trainer_state.json").read_text())


def logged(folder, name):
    """Values of every step, e.g. the losses; the last entry of an evaluation is that of the finished run."""
    return [entry[name] for entry in state_of(folder)["log_history"] if name in entry]


def evaluations(folder, name="eval_loss"):
    """(step, value) of the evaluations during training, without the final one."""
    found = [(entry["step"], entry[name]) for entry in state_of(folder)["log_history"] if name in entry]
    return found[:-1]


def checkpoints(folder):
    return sorted((path.name for path in Path(folder).glob("checkpoint-*")), key=lambda name: int(name[11:]))


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def averaged(checkpoint):
    """The averaged weights of a checkpoint under the names of the model."""
    tensors = load_file(Path(checkpoint) / "ema.safetensors")
    return {name.removeprefix("module."): t for name, t in tensors.items() if name.startswith("module.")}


# --- the best model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}], ids=["plain", "average"])
def test_the_best_model_survives_an_interruption(tmp_path, monkeypatch, prepared, options):
    """It gets worse after step 10; the run is stopped in step 17, when two checkpoints are there."""
    prepared(Worsen(after=10))
    options = BEST | options
    train(tmp_path / "straight", **options)
    interrupt(monkeypatch, tmp_path / "stopped", 17, options)
    seen = evaluations(tmp_path / "straight")
    assert [step for step, _ in seen] == [5, 10, 15, 20, 25]
    best_step, best = min(seen[:2], key=lambda pair: pair[1])
    assert all(value > best + 1 for _, value in seen[2:])
    assert checkpoints(tmp_path / "stopped") == [f"checkpoint-{best_step}", "checkpoint-15"]

    train(tmp_path / "stopped", resume=True, **options)
    for run in ("straight", "stopped"):
        folder = tmp_path / run
        assert checkpoints(folder) == [f"checkpoint-{best_step}"]
        state = state_of(folder)
        assert (state["best_metric"], state["best_global_step"]) == (best, best_step)
        assert Path(state["best_model_checkpoint"]) == folder / f"checkpoint-{best_step}"
        assert same(weights(folder), weights(folder / f"checkpoint-{best_step}"))
        # the figure of the finished run is that of the model it saved
        assert json.loads((folder / "eval_results.json").read_text())["eval_loss"] == pytest.approx(best, rel=1e-6)
        assert json.loads((folder / "training.json").read_text())["weights"] == weights_digest(weights(folder))
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    if "ema_decay" in options:
        assert same(*(weights(tmp_path / run / "ema") for run in ("straight", "stopped")))


def test_the_best_model_by_the_averaged_weights(tmp_path, prepared):
    """`metric_for_best_model: ema_loss` chooses by the evaluation of the average."""
    prepared(Worsen(after=10))
    train(tmp_path / "run", **BEST | {"ema_decay": 0.5, "metric_for_best_model": "ema_loss"})
    seen = evaluations(tmp_path / "run", "eval_ema_loss")
    best_step, best = min(seen, key=lambda pair: pair[1])
    assert best_step < 15 and seen[-1][1] > best + 1
    state = state_of(tmp_path / "run")
    assert (state["best_metric"], state["best_global_step"]) == (best, best_step)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "run" / f"checkpoint-{best_step}"))


@pytest.mark.parametrize("metric", ["loss", "ema_loss"])
def test_the_saved_average_is_that_of_the_best_model(tmp_path, prepared, metric):
    prepared(Worsen(after=10))
    train(tmp_path / "run", **BEST | {"ema_decay": 0.5, "metric_for_best_model": metric})
    best = Path(state_of(tmp_path / "run")["best_model_checkpoint"])
    assert best.name in ("checkpoint-5", "checkpoint-10")
    assert same(weights(tmp_path / "run" / "ema"), averaged(best))
    assert logged(tmp_path / "run", "eval_ema_loss")[-1] == pytest.approx(
        dict(evaluations(tmp_path / "run", "eval_ema_loss"))[int(best.name[11:])], rel=1e-6
    )


def test_the_best_of_relative_and_absolute_folders(tmp_path, monkeypatch, prepared):
    """A run started as `run` and resumed as `/.../run` keeps its best checkpoint."""
    prepared(Worsen(after=5))
    monkeypatch.chdir(tmp_path)
    options = BEST | {"num_train_epochs": 4}
    interrupt(monkeypatch, "run", 12, options)
    train(tmp_path / "run", resume=True, **options)
    assert checkpoints("run") == ["checkpoint-5"]
    assert same(weights("run"), weights("run/checkpoint-5"))


def test_a_finished_run_that_was_moved_keeps_its_best_model(tmp_path, prepared):
    prepared(Worsen(after=5))
    options = BEST | {"save_total_limit": None, "num_train_epochs": 3}
    train(tmp_path / "here", **options)
    before = weights(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    train(tmp_path / "there", resume=True, **options)
    assert same(before, weights(tmp_path / "there"))


def test_evaluations_between_checkpoints_do_not_hide_the_best_model(tmp_path, prepared):
    """Evaluated every second step, saved every fourth, best at step 2: refused, or the best model is saved."""
    prepared(Worsen(after=2))
    options = BEST | {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 4}
    try:
        train(tmp_path / "run", **options | {"num_train_epochs": 2})
    except ConfigurationError:
        return
    state = state_of(tmp_path / "run")
    assert state["best_global_step"] == 2 and state["best_model_checkpoint"] is not None
    assert json.loads((tmp_path / "run" / "eval_results.json").read_text())["eval_loss"] == state["best_metric"]


# --- early stopping -------------------------------------------------------------------------------------------------


STOPPING = BEST | {"num_train_epochs": 9}


@pytest.mark.parametrize("patience", [1, 3])
def test_a_run_stops_after_so_many_evaluations_without_a_better_one(tmp_path, prepared, patience):
    prepared(Worsen(after=5))
    train(tmp_path / "run", **STOPPING, early_stopping_patience=patience)
    assert [step for step, _ in evaluations(tmp_path / "run")] == [5 * n for n in range(1, patience + 2)]
    assert state_of(tmp_path / "run")["global_step"] == 5 * (1 + patience)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "run" / "checkpoint-5"))


def test_a_run_that_gets_better_is_not_stopped(tmp_path, prepared):
    prepared(Improve())
    train(tmp_path / "run", **BEST, early_stopping_patience=1)
    values = [value for _, value in evaluations(tmp_path / "run")]
    assert values == sorted(values, reverse=True) and len(set(values)) == 5
    assert state_of(tmp_path / "run")["global_step"] == 25


@pytest.mark.parametrize("patience", [(2, 2), (2, 3), (3, 2)], ids=["same", "longer", "shorter"])
def test_a_resumed_run_stops_where_the_uninterrupted_one_does(tmp_path, monkeypatch, prepared, patience):
    """It gets worse after step 5 and is stopped in step 12, one evaluation into its patience.

    The patience is that of the resumed run, counted from the best evaluation.
    """
    prepared(Worsen(after=5))
    first, second = (STOPPING | {"early_stopping_patience": p} for p in patience)
    interrupted_and_resumed(monkeypatch, tmp_path / "run", 12, first, second)
    assert state_of(tmp_path / "run")["global_step"] == 5 * (1 + patience[1])
    assert same(weights(tmp_path / "run"), weights(tmp_path / "run" / "checkpoint-5"))


def test_early_stopping_can_be_switched_on_when_a_run_is_resumed(tmp_path, monkeypatch, prepared):
    prepared(Worsen(after=5))
    interrupted_and_resumed(monkeypatch, tmp_path / "run", 7, STOPPING, STOPPING | {"early_stopping_patience": 2})
    assert state_of(tmp_path / "run")["global_step"] == 15


def test_a_run_that_stopped_early_does_not_train_on(tmp_path, prepared):
    prepared(Worsen(after=5))
    options = STOPPING | {"early_stopping_patience": 1, "save_total_limit": None}
    train(tmp_path / "run", **options)
    before = weights(tmp_path / "run")
    train(tmp_path / "run", resume=True, **options)
    assert state_of(tmp_path / "run")["global_step"] == 10
    assert same(before, weights(tmp_path / "run"))


def test_early_stopping_by_the_averaged_weights(tmp_path, prepared):
    prepared(Worsen(after=5))
    options = STOPPING | {"ema_decay": 0.1, "metric_for_best_model": "ema_loss", "early_stopping_patience": 1}
    train(tmp_path / "run", **options)
    assert state_of(tmp_path / "run")["global_step"] == 10


# --- precision, memory, compilation ---------------------------------------------------------------------------------


def head_types(types):
    """Collects the type of the logits in training."""

    def action(trainer):
        def hook(module, inputs, output):
            if module.training:
                types.add(output.dtype)

        trainer.model.classifier.register_forward_hook(hook)

    return action


def test_bfloat16_on_the_cpu(tmp_path, monkeypatch, prepared):
    types: set[torch.dtype] = set()
    train(tmp_path / "full", **SHORT)
    prepared(head_types(types))
    train(tmp_path / "half", **SHORT, bf16=True)
    assert types == {torch.bfloat16}
    assert {tensor.dtype for tensor in weights(tmp_path / "half").values()} == {torch.float32}
    full, half = logged(tmp_path / "full", "loss"), logged(tmp_path / "half", "loss")
    assert half != full and half == pytest.approx(full, abs=0.03)
    options = {"bf16": True, "num_train_epochs": 1, "save_steps": 2, "eval_strategy": "no"}
    train(tmp_path / "straight", **options)
    interrupted_and_resumed(monkeypatch, tmp_path / "stopped", 3, options)
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))


def test_evaluating_in_half_precision_leaves_the_weights_alone(tmp_path):
    train(tmp_path / "run", **SHORT, bf16_full_eval=True, ema_decay=0.9)
    assert {tensor.dtype for tensor in weights(tmp_path / "run" / "ema").values()} == {torch.float32}
    recorded = json.loads((tmp_path / "run" / "training.json").read_text())["weights"]
    assert recorded == weights_digest(weights(tmp_path / "run"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_checkpointing_changes_nothing(tmp_path, prepared, variant):
    """Three layers, so that Cog is not softmax; dropout and drop path draw the same numbers again."""
    calls = []

    def count(trainer):
        layer = trainer.model.dna_vit.layers[1].attention
        layer.register_forward_hook(lambda module, *_: calls.append(module.training))

    prepared(count)
    options = SHORT | {"attention_variant": variant, "num_hidden_layers": 3, "attention_probs_dropout_prob": 0.1}
    train(tmp_path / "usual", **options)
    usual = sum(calls)
    calls.clear()
    train(tmp_path / "less", **options, gradient_checkpointing=True)
    # every layer is computed twice
    assert (usual, sum(calls)) == (5, 10)
    losses = [logged(tmp_path / run, "loss") for run in ("usual", "less")]
    assert len(losses[0]) == 5 and losses[1] == pytest.approx(losses[0], abs=1e-6)
    for name, tensor in weights(tmp_path / "usual").items():
        torch.testing.assert_close(weights(tmp_path / "less")[name], tensor, atol=1e-6, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_training_has_the_losses_of_eager_training(tmp_path, variant):
    """Without random numbers: those of compiled code are others."""
    options = SHORT | PLAIN | {"attention_variant": variant, "num_hidden_layers": 3, "max_steps": 2}
    train(tmp_path / "eager", **options)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    train(tmp_path / "compiled", **options, torch_compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    losses = [logged(tmp_path / run, "loss") for run in ("eager", "compiled")]
    assert len(losses[0]) == 2 and losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert weights(tmp_path / "eager").keys() == weights(tmp_path / "compiled").keys()


def gradients_by_hand(model, batches):
    """Gradients of the mean cross entropy over all images of some batches, without the Trainer."""
    model = copy.deepcopy(model).train()
    model.zero_grad()
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    targets = torch.cat([batch["labels"] for batch in batches])
    logits = model(pixel_values=pixels).logits
    functional.cross_entropy(logits, targets).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("last", [40, 37], ids=["full", "partial"])
def test_accumulated_mixed_batches_make_the_gradient_of_one_large_batch(tmp_path, prepared, last):
    """Mixup and CutMix mix every micro-batch with itself; the step is that of all mixed images together."""
    watch, batches, models = watched(prepared)
    mixing = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing_factor": 0.1, "max_grad_norm": 0.0}
    accumulated = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "max_train_samples": last}
    train(tmp_path / "run", **SHORT | PLAIN | mixing | accumulated)
    assert len(watch.gradients) == 5
    assert any(0.1 < row.max() < 0.85 for batch in batches for row in batch["labels"])
    for step in (0, 4):
        model = models[0]
        model.load_state_dict(watch.weights[step])
        expected = gradients_by_hand(model, batches[4 * step : 4 * step + 4])
        for name, gradient in watch.gradients[step].items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=f"{step} {name}")


def test_training_drops_the_last_batch_and_evaluation_does_not(tmp_path):
    options = {"dataloader_drop_last": True, "max_train_samples": 39, "per_device_eval_batch_size": 8}
    result = train(tmp_path / "run", **SHORT | options)
    assert state_of(tmp_path / "run")["global_step"] == 4
    assert result.metrics["eval_images"] == 20


def test_a_finished_run_does_not_train_on(tmp_path):
    """It ends in the middle of an epoch; resuming it repeats the final evaluation alone."""
    options = {"max_steps": 7, "save_steps": 7, "eval_strategy": "no", "lr_scheduler_type": "constant"}
    train(tmp_path / "run", **options)
    before = weights(tmp_path / "run")
    train(tmp_path / "run", resume=True, **options)
    assert state_of(tmp_path / "run")["global_step"] == 7
    assert same(before, weights(tmp_path / "run"))


# --- optimizers and schedules by name -------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0.0, 0.01], ids=["unclipped", "clipped"])
def test_plain_gradient_descent_and_clipping(tmp_path, prepared, limit):
    """`optim: sgd` moves against the gradient; `max_grad_norm: 0` does not clip it."""
    watch, batches, models = watched(prepared)
    options = {"optim": "sgd", "lr_scheduler_type": "constant", "learning_rate": 0.1, "max_grad_norm": limit}
    train(tmp_path / "run", **SHORT | PLAIN | options)
    gradients = gradients_by_hand(models[0], batches[:1])
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    assert norm > 0.1
    factor = 0.1 * (limit / norm if limit else 1)
    for name, gradient in gradients.items():
        moved = watch.weights[0][name] - watch.weights[1][name]
        torch.testing.assert_close(moved, factor * gradient, atol=1e-6, rtol=1e-3, msg=name)


@pytest.mark.parametrize("decay", [1.0, 0.5], ids=["same", "layer-decay"])
@pytest.mark.parametrize(
    ("optim_args", "momentum", "dampening", "nesterov"),
    [
        ("momentum=0.9,nesterov=true", 0.9, 0.0, True),
        ("momentum=0.8, dampening=0.25, nesterov=False", 0.8, 0.25, False),
    ],
    ids=["nesterov", "dampening"],
)
def test_gradient_descent_with_momentum(tmp_path, prepared, optim_args, momentum, dampening, nesterov, decay):
    """Ten steps against the update by hand in float64: Sutskever et al., 2013, in the form torch documents."""
    watch = Watch()
    prepared(watch)
    options = {"optim": "sgd", "optim_args": optim_args, "learning_rate": 0.05, "weight_decay": 0.1}
    options |= {"layer_decay": decay, "num_train_epochs": 2, "decay_all": False}
    train(tmp_path / "run", **SHORT | options)
    factors = {"embeddings.": decay**3, "layers.0.": decay**2, "layers.1.": decay}
    assert len(watch.weights) == len(watch.gradients) == 10
    velocity, moved = {}, 0.0
    for step in range(9):
        rate = 0.05 * (1 - step / 10)
        for name, weight in watch.weights[step].items():
            is_vector = weight.dim() == 1 or "token" in name or "position" in name
            gradient = watch.gradients[step][name].double() + (0.0 if is_vector else 0.1) * weight.double()
            if step == 0:
                velocity[name] = gradient
            else:
                velocity[name] = momentum * velocity[name] + (1 - dampening) * gradient
            update = gradient + momentum * velocity[name] if nesterov else velocity[name]
            change = rate * next((value for part, value in factors.items() if part in name), 1.0) * update
            expected = weight.double() - change
            found = watch.weights[step + 1][name].double()
            torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-5, msg=f"{name} in step {step}")
            moved = max(moved, change.abs().max().item())
    assert moved > 1e-3


def test_a_run_with_momentum_continues_exactly(tmp_path, monkeypatch):
    options = {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true", "learning_rate": 0.05, "layer_decay": 0.5}
    train(tmp_path / "straight", **options)
    interrupted_and_resumed(monkeypatch, tmp_path / "resumed", 9, options)
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "resumed"))


def test_the_best_model_by_the_mean_over_the_classes(tmp_path):
    options = {"metric_for_best_model": "mean_class_accuracy", "greater_is_better": True, "num_train_epochs": 2}
    train(tmp_path / "run", **BEST | options)
    means = [
        entry["eval_mean_class_accuracy"]
        for entry in state_of(tmp_path / "run")["log_history"][:-1]
        if "eval_loss" in entry
    ]
    assert state_of(tmp_path / "run")["best_metric"] == max(means)


def test_constant_rate_after_a_warm_up(tmp_path, prepared):
    watch = Watch()
    prepared(watch)
    train(tmp_path / "run", **SHORT, lr_scheduler_type="constant_with_warmup", warmup_steps=2, learning_rate=1e-2)
    assert [rates[0] for rates in watch.rates] == pytest.approx([0, 5e-3, 1e-2, 1e-2, 1e-2])


def test_layer_decay_multiplies_the_schedule_of_the_paper(tmp_path, prepared):
    schedule = {"epoch_cosine": True, "lr_scheduler_kwargs": {"warmup_epochs": 2, "warmup_lr": 1e-4, "min_lr": 1e-5}}
    rates = {}
    for decay in (1.0, 0.5):
        watch = Watch()
        prepared(watch)
        train(tmp_path / f"run{decay}", **SHORT | {"num_train_epochs": 3}, **schedule, layer_decay=decay)
        rates[decay] = [sorted(set(rates), reverse=True) for rates in watch.rates][:15]
    assert all(len(step) == 1 for step in rates[1.0]) and len({step[0] for step in rates[1.0]}) > 1
    for alone, decayed in zip(rates[1.0], rates[0.5], strict=True):
        assert decayed == pytest.approx([alone[0] * 0.5**level for level in range(4)])


# --- adapters (LoRA) ------------------------------------------------------------------------------------------------


TARGETS = ["q_pos_proj", "q_neg_proj", "k_proj", "v_pos_proj", "v_neg_proj"]


def lora_trainer(folder, **options):
    """The Trainer of the tiny run with a model that peft has wrapped."""
    peft = pytest.importorskip("peft")
    options = {"num_train_epochs": 2, "logging_steps": 1, "save_steps": 4, "learning_rate": 1e-2} | options
    run = tiny_run(folder, **options)
    set_seed(0)
    train_images, eval_images = sources.load_train_and_eval(run.data, 0)
    model, processor = training.build_model(run, train_images.class_names)
    config = peft.LoraConfig(target_modules=TARGETS, modules_to_save=["classifier"], r=2)
    return training.build_trainer(run, peft.get_peft_model(model, config), processor, train_images, eval_images)


def named(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_adapters_train_save_reload_and_merge(tmp_path):
    trainer = lora_trainer(tmp_path / "run")
    peft = pytest.importorskip("peft")
    base = copy.deepcopy(trainer.model.get_base_model().state_dict())
    before = named(trainer.model)
    trainer.train()
    trainer.save_model()
    changed = {name for name, tensor in named(trainer.model).items() if not torch.equal(tensor, before[name])}
    adapters = {name for name in before if ".lora_A." in name or ".lora_B." in name}
    head = {f"base_model.model.classifier.modules_to_save.default.{name}" for name in ("weight", "bias")}
    # two layers of five projections
    assert len(adapters) == 20 and changed == adapters | head

    images = torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = trainer.model.eval()(pixel_values=images).logits
        fresh = DnAViTForImageClassification(trainer.model.get_base_model().config)
        # what was trained is in the adapter alone; the base model comes from where it came from before
        stored = {name.replace(".base_layer.", "."): tensor for name, tensor in base.items() if ".lora_" not in name}
        stored = {
            name.replace("classifier.original_module.", "classifier."): tensor
            for name, tensor in stored.items()
            if ".modules_to_save." not in name
        }
        fresh.load_state_dict(stored)
        loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "run").eval()
        torch.testing.assert_close(loaded(pixel_values=images).logits, expected, atol=0, rtol=0)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(pixel_values=images).logits, expected, atol=1e-6, rtol=1e-5)
        merged.save_pretrained(tmp_path / "merged")
        again = DnAViTForImageClassification.from_pretrained(tmp_path / "merged").eval()
        torch.testing.assert_close(again(pixel_values=images).logits, expected, atol=1e-6, rtol=1e-5)


def test_a_run_with_adapters_continues_exactly(tmp_path):
    options = {"ema_decay": 0.9}
    straight = lora_trainer(tmp_path / "straight", **options)
    straight.train()
    stopped = lora_trainer(tmp_path / "straight", **options)
    stopped.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-4"))
    assert stopped.state.global_step == 10
    assert same(dict(straight.model.state_dict()), dict(stopped.model.state_dict()))
    assert same(dict(straight.average.average.state_dict()), dict(stopped.average.average.state_dict()))


def test_what_the_trainer_adds_works_with_adapters(tmp_path):
    """Scales in the log and the file, decay by layer and for all, averages, evaluation, mixing."""
    trainer = lora_trainer(
        tmp_path / "run",
        layer_decay=0.5,
        decay_all=True,
        weight_decay=0.1,
        ema_decay=0.9,
        mixup_alpha=0.8,
        lr_scheduler_type="constant",
    )
    trainer.train()
    rates: dict[str, float] = {}
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    for group in trainer.optimizer.param_groups:
        assert not group["params"] or group["weight_decay"] == 0.1
        rates |= {names[parameter]: group["lr"] for parameter in group["params"]}
    assert len(rates) == 22
    for name, rate in rates.items():
        power = 2 if ".layers.0." in name else 1 if ".layers.1." in name else 0
        assert rate == pytest.approx(1e-2 * 0.5**power), name
    assert [e["negative_scale/mean"] for e in trainer.state.log_history if "loss" in e] == pytest.approx([0.5] * 10)
    rows = (tmp_path / "run" / "negative_scale.csv").read_text().splitlines()
    assert rows[1:3] == ["1,0,0,0.5", "1,0,1,0.5"]
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] != metrics["eval_ema_loss"]
    trained = named(trainer.model)
    with trainer.average.applied_to(trainer.model):
        trainer.save_model(str(tmp_path / "ema"))
    assert same(trained, named(trainer.model))
    saved = load_file(tmp_path / "ema" / "adapter_model.safetensors")
    name = "base_model.model.classifier.weight"
    average = dict(trainer.average.average.module.named_parameters())
    assert torch.equal(saved[name], average["base_model.model.classifier.modules_to_save.default.weight"])


def test_a_loss_that_is_not_finite_stops_a_run_with_adapters(tmp_path):
    trainer = lora_trainer(tmp_path / "run")
    parameters = dict(trainer.model.named_parameters())
    parameters["base_model.model.dna_vit.layers.1.attention.negative_scale"].data[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"step 1 .*layers\.1\.attention\.negative_scale' is not finite"):
        trainer.train()


# --- wrong input ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """Runs `dna-hf train` here; returns the exit code, stderr and the number of steps that were trained."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SECTIONS), encoding="utf-8")
    step, steps = ClassificationTrainer.training_step, []

    def counted(*args, **kwargs):
        steps.append(1)
        return step(*args, **kwargs)

    monkeypatch.setattr(ClassificationTrainer, "training_step", counted)

    def run(*words, folder=None, **options):
        options = {"output_dir": folder or tmp_path / "out"} | options
        texts = {key: value if isinstance(value, (str, Path)) else json.dumps(value) for key, value in options.items()}
        overrides = [f"--{key}={text}" for key, text in texts.items()]
        capfd.readouterr()
        code = main(["train", str(tmp_path / "run.yaml"), *words, *overrides])
        return code, capfd.readouterr().err, len(steps)

    return run


def refused(outcome, *names):
    """Exit code 2 before step 1, with one whole sentence that names something."""
    code, stderr, steps = outcome
    assert (code, steps) == (2, 0)
    assert "Traceback" not in stderr
    errors = [line for line in stderr.splitlines() if line.startswith("dna-hf: error: ")]
    assert len(errors) == 1 and errors[0] == stderr.strip().splitlines()[-1]
    for name in names:
        assert name in errors[0]
    return errors[0]


def class_folders(root, **splits):
    """Class folders with some images: `train={"a": 4}`."""
    for split, classes in splits.items():
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (28, 28), (20 * number, 0, 0)).save(folder / f"{number}.png")
    return root


def parquet(path, labels, names=None):
    kind = datasets.Value("int64") if names is None else datasets.ClassLabel(names=names)
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    images = [Image.new("RGB", (28, 28), (number, 0, 0)) for number in range(len(labels))]
    datasets.Dataset.from_dict({"image": images, "label": labels}, features=features).to_parquet(path)
    return path


@pytest.mark.parametrize("other", [{"a": 4, "c": 4}, {"a": 4, "b": 2, "c": 2}], ids=["other", "more"])
def test_class_folders_that_differ_between_splits(tmp_path, command, other):
    data = class_folders(tmp_path / "data", train={"a": 4, "b": 4}, test=other)
    refused(command(dataset=data), "'test'", "'c'", "train")


@pytest.mark.parametrize("split", [".", "train"], ids=["flat", "split"])
def test_images_without_class_folders(tmp_path, command, split):
    refused(command(dataset=class_folders(tmp_path / "data", **{split: {".": 6}})))


def test_images_without_class_folders_are_told_to_get_some(tmp_path, command):
    sentence = refused(command(dataset=class_folders(tmp_path / "data", train={".": 6})))
    assert "folder" in sentence and "one of image." not in sentence


def test_a_label_outside_the_classes(tmp_path, command):
    data = parquet(tmp_path / "data.parquet", [0, 1, 2, 5, 0, 1, 2, 0])
    refused(command(dataset=data, class_names="[a, b, c]"), "row 3", "label 5", "3 classes")
    refused(command(dataset=data), "not 0..n-1", "class_names")


def test_a_label_outside_the_classes_of_a_stream(tmp_path, command):
    data = parquet(tmp_path / "data.parquet", [5, 1, 2, 1])
    options = {"streaming": True, "max_steps": 2, "eval_strategy": "no", "class_names": "[a, b, c]"}
    refused(command(dataset=data, **options), "label 5", "3 classes")


@pytest.mark.parametrize("recipe", [{}, {"mixup_alpha": 0.8}, {"label_smoothing_factor": 0.1}], ids=str)
def test_one_class_is_nothing_to_learn(tmp_path, command, recipe):
    refused(command(dataset=parquet(tmp_path / "data.parquet", [0] * 20, ["only"]), **recipe), "class")


SCHEDULE = {"warmup_epochs": 1, "warmup_lr": 1e-4, "min_lr": 1e-5}
CONTRADICTIONS = {
    "best-without-evaluation": ({"load_best_model_at_end": True, "eval_strategy": "no"}, "load_best_model_at_end"),
    "best-other-strategy": ({"load_best_model_at_end": True, "save_strategy": "steps"}, "load_best_model_at_end"),
    "best-other-steps": (
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2, "save_steps": 3},
        "round multiple",
    ),
    "two-rates": ({"learning_rate": 1e-3, "base_learning_rate": 1e-3}, "learning_rate or base_learning_rate"),
    "mixup-text": ({"mixup_alpha": "a"}, "data.mixup_alpha must be float, got 'a'"),
    "two-precisions": ({"bf16": True, "fp16": True}, "fp16 and bf16"),
    "tracker": ({"report_to": "tracky"}, "tracky"),
    "epoch-cosine-alone": ({"epoch_cosine": True}, "lr_scheduler_kwargs"),
    "nesterov-without-momentum": ({"optim": "sgd", "optim_args": "nesterov=true"}, "nesterov needs a momentum"),
    "nesterov-dampened": (
        {"optim": "sgd", "optim_args": "momentum=0.9,dampening=0.1,nesterov=true"},
        "nesterov needs a momentum",
    ),
    "sgd-unknown": ({"optim": "sgd", "optim_args": "momentun=0.9"}, "'momentun=0.9'"),
    "sgd-decay": ({"optim": "sgd", "optim_args": "weight_decay=0.1"}, "'weight_decay=0.1'"),
    "sgd-nameless": ({"optim": "sgd", "optim_args": "0.9,true"}, "'0.9'"),
    "sgd-empty": ({"optim": "sgd", "optim_args": "momentum=0.9,"}, "''"),
    "sgd-text": ({"optim": "sgd", "optim_args": "momentum=high"}, "momentum must be a number"),
    "sgd-valueless": ({"optim": "sgd", "optim_args": "momentum"}, "momentum must be a number"),
    "sgd-large": ({"optim": "sgd", "optim_args": "momentum=9"}, "momentum must lie in"),
    "sgd-nan": ({"optim": "sgd", "optim_args": "momentum=nan"}, "momentum must lie in"),
    "sgd-switch": ({"optim": "sgd", "optim_args": "momentum=0.9,nesterov=ture"}, "true or false"),
    "two-schedules": (
        {"epoch_cosine": True, "epoch_steps": True, "lr_scheduler_kwargs": SCHEDULE},
        "epoch_cosine or epoch_steps",
    ),
    "steps-without-factors": (
        {"epoch_steps": True, "lr_scheduler_kwargs": "{steps: [0, 1], factors: [1]}"},
        "as many factors as steps",
    ),
    "plateau-without-evaluation": ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "no"}, "eval"),
    "patience-without-best": ({"early_stopping_patience": 2}, "load_best_model_at_end"),
    "patience-0": (BEST | {"early_stopping_patience": 0}, "early_stopping_patience"),
    "patience-text": (BEST | {"early_stopping_patience": "soon"}, "early_stopping_patience"),
}
CONTRADICTIONS |= {
    "fp16-cpu": ({"fp16": True}, "fp16"),
    "metric-typo": (BEST | {"metric_for_best_model": "topp1"}, "top1"),
    "metric-without-average": (BEST | {"metric_for_best_model": "ema_top1"}, "ema_decay"),
    "smoothing-1.5": ({"label_smoothing_factor": 1.5}, "label_smoothing_factor"),
    "smoothing-negative": ({"label_smoothing_factor": -0.5}, "label_smoothing_factor"),
    "scheduler-needs": ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
    "scheduler-option": ({"lr_scheduler_kwargs": {"foo": 1}}, "foo"),
    "epoch-cosine-text": (
        {"epoch_cosine": True, "lr_scheduler_kwargs": SCHEDULE | {"warmup_lr": "a"}},
        "warmup_lr",
    ),
    "nothing-left": (
        {"dataloader_drop_last": True, "max_train_samples": 7},
        "dataloader_drop_last leaves nothing of 7",
    ),
    "workers-negative": ({"dataloader_num_workers": -1}, "num_workers"),
    "patience-without-evaluation": (
        BEST | {"early_stopping_patience": 1, "save_strategy": "best", "eval_strategy": "no"},
        "eval_strategy",
    ),
    "best-never-saved": (
        BEST | {"save_strategy": "best", "eval_strategy": "no"},
        "eval_strategy",
    ),
}


@pytest.mark.parametrize(
    ("options", "name"),
    [pytest.param(*case, id=key) for key, case in CONTRADICTIONS.items()],
)
def test_options_that_cannot_be_meant(tmp_path, command, options, name):
    refused(command(**options), name)
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("options", [{"eval_strategy": "no"}, {"save_strategy": "steps"}], ids=str)
def test_a_sentence_of_transformers_is_whole(command, options):
    sentence = refused(command(load_best_model_at_end=True, **options))
    assert "but found" not in sentence or "Evaluation strategy" in sentence


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_tracker_that_is_not_installed(command):
    refused(command(report_to="wandb"), "wandb", "install")


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_an_optimizer_that_is_not_installed(command):
    refused(command(optim="adamw_bnb_8bit"), "bitsandbytes")


def test_an_output_folder_that_is_a_file(tmp_path, command):
    (tmp_path / "file").write_text("precious")
    refused(command(folder=tmp_path / "file"), "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_an_output_folder_below_a_file(tmp_path, command):
    (tmp_path / "file").write_text("precious")
    refused(command(folder=tmp_path / "file" / "run"), "output_dir", "file")


def test_an_output_folder_that_cannot_be_written(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    command = [sys.executable, "-m", "dna_hf", "train", "run.yaml", "--output_dir", str(folder)]
    if os.access(folder, os.W_OK):
        if shutil.which("setpriv") is None:
            pytest.skip("a superuser may write everywhere, and setpriv is not there to take that away")
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--", *command]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SECTIONS), encoding="utf-8")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("dna-hf: error: ") and result.stderr.count("\n") == 1
    assert "output_dir" in result.stderr and str(folder) in result.stderr


def test_the_process_says_one_sentence(tmp_path):
    """Standard error of the program itself: nothing but the sentence."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SECTIONS), encoding="utf-8")
    words = ["train", "run.yaml", "--learning_rate", "1e-3", "--base_learning_rate", "1e-3"]
    result = subprocess.run([sys.executable, "-m", "dna_hf", *words], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("dna-hf: error: ") and result.stderr.count("\n") == 1


# --- damaged checkpoints --------------------------------------------------------------------------------------------


DAMAGED = {"ema_decay": 0.9, "save_steps": 3, "num_train_epochs": 2, "eval_strategy": "no"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of ten steps that was stopped in step 8, with checkpoints 3 and 6; and the same without a stop."""
    root = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, root / "run", 8, DAMAGED)
    train(root / "straight", **DAMAGED)
    return root


def damage(path, how):
    if how == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")


DAMAGES = [
    ("ema.safetensors", "missing"),
    ("model.safetensors", "cut"),
    ("model.safetensors", "empty"),
    ("model.safetensors", "missing"),
    ("ema.safetensors", "cut"),
    ("optimizer.pt", "cut"),
    ("scheduler.pt", "empty"),
    ("rng_state.pth", "cut"),
    ("trainer_state.json", "cut"),
    ("trainer_state.json", "missing"),
    ("optimizer.pt", "missing"),
    ("scheduler.pt", "missing"),
    ("rng_state.pth", "missing"),
]


@pytest.mark.parametrize(
    ("name", "how"),
    [pytest.param(name, how, id=f"{how}-{name}") for name, how in DAMAGES],
)
def test_a_damaged_checkpoint_is_named(tmp_path, stopped, command, name, how):
    folder = shutil.copytree(stopped / "run", tmp_path / "out")
    damage(folder / "checkpoint-6" / name, how)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    refused(command("--resume", **DAMAGED), "checkpoint-6", name)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("removed", [False, True], ids=["last", "one-before"])
def test_nothing_is_lost_with_a_checkpoint(tmp_path, stopped, removed):
    """Once the damaged checkpoint is out of the way, the run continues exactly from the one before."""
    folder = shutil.copytree(stopped / "run", tmp_path / "out")
    if removed:
        damage(folder / "checkpoint-6" / "model.safetensors", "cut")
        with pytest.raises(Exception, match=r"."):
            train(folder, resume=True, **DAMAGED)
        shutil.rmtree(folder / "checkpoint-6")
    train(folder, resume=True, **DAMAGED)
    assert same(weights(folder), weights(stopped / "straight"))
    assert same(weights(folder / "ema"), weights(stopped / "straight" / "ema"))
