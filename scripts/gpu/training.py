"""What the trainings of a GPU session share: several models trained at once.

Models of one architecture are a [`Stack`]: their weights lie along a first dimension, and so do their batches. Such a
stack is run by `torch.func.vmap`, or model by model; each model learns what it would learn alone, because the loss is
a sum over models, AdamW works element by element, and gradients are clipped for each model on its own.

What is random in a training (order of the images, crops, flips, mixing) depends on the seed, the epoch and the step
alone: all variants see the same images under a seed, and a training that was stopped goes on exactly.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import Epoch, Images, Inputs
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional

from dna_hf import DnAViTForImageClassification
from dna_hf.data.mixing import MixingCollator
from dna_hf.models.attention_variants import DifferentialAttention
from dna_hf.training.optimizer import decay_parameter_names
from dna_hf.whole_files import whole_file


TEST_BATCH = 1000
MAX_GRADIENT_NORM = 1.0


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Learning rate of a step, relative to the peak: up in a line, down in half a cosine, as transformers' `cosine`.

    Args:
        step: number of the step, from 0.
        steps: steps of the whole training.
        warmup: steps of the warm-up.
    """
    if step < warmup:
        return step / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


class Tail(nn.Module):
    """What follows the layers of a classifier: norm, pooling, head."""

    def __init__(self, model: DnAViTForImageClassification):
        super().__init__()
        self.layernorm, self.classifier = model.dna_vit.layernorm, model.classifier
        self.pool = model.pool

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) to logits (batch, classes)."""
        return self.classifier(self.pool(self.layernorm(hidden_states)))


def pieces(model: DnAViTForImageClassification) -> list[nn.Module]:
    """The model as modules to be called one after the other: embeddings, layers, tail."""
    return [model.dna_vit.embeddings, *model.dna_vit.layers, Tail(model)]


def call(piece: nn.Module, weights: dict[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """A module with other weights than its own."""
    return functional_call(piece, weights, (states,))


def call_all(piece: nn.Module, weights: dict[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """A module with several sets of weights at once, each for its own states: all have a first dimension more."""
    return vmap(partial(call, piece))(weights, states)


class Stack:
    """Several models of one architecture.

    Args:
        models: the models; their weights are copied.
        device: where to run them.
        at_once: whether `vmap` runs all models in one go; else one after the other.
        compiler: `torch.compile` or the like, for the layers in training; one compiled layer serves them all.

    Raises:
        ValueError: for models with dropout or stochastic depth: what one draws would depend on the others.
    """

    def __init__(
        self,
        models: Sequence[DnAViTForImageClassification],
        device: torch.device,
        *,
        at_once: bool,
        compiler: Callable | None = None,
    ):
        config = models[0].config
        if config.hidden_dropout_prob or config.attention_probs_dropout_prob or config.drop_path_rate:
            raise ValueError("models of a stack draw nothing: set their dropout and drop_path_rate to 0.")
        self.device, self.at_once = device, at_once
        self.precision = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.pieces = pieces(models[0].to(device).train())
        self.weights = [
            {
                name: torch.stack([own.get_parameter(name).detach().to(device) for own in owns]).requires_grad_()
                for name, _ in owns[0].named_parameters()
            }
            for owns in zip(*map(pieces, models), strict=True)
        ]
        self.count = len(models)
        self._call = call_all if at_once else call
        self._call_layer = self._call if compiler is None else compiler(self._call)
        if compiler is not None:
            for module in models[0].modules():
                if isinstance(module, DifferentialAttention):
                    # as a number, it would be compiled into a layer of its own for each layer
                    module.lambda_init = torch.tensor(module.lambda_init, device=device)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All weights, each (models, ...)."""
        return [tensor for weights in self.weights for tensor in weights.values()]

    def logits(self, values: torch.Tensor) -> torch.Tensor:
        """Images (models, batch, channels, height, width) to logits (models, batch, classes), in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            if self.at_once:
                return self._run(self.weights, values).float()
            own = zip(*map(_apart, self.weights), strict=True)
            return torch.stack([self._run(weights, each) for weights, each in zip(own, values, strict=True)]).float()

    def _run(self, weights: Sequence[dict[str, torch.Tensor]], states: torch.Tensor) -> torch.Tensor:
        first, last = 0, len(self.pieces) - 1
        for index, (piece, own) in enumerate(zip(self.pieces, weights, strict=True)):
            # evaluation is short: it would not earn back a compilation of its own
            compiled = first < index < last and torch.is_grad_enabled()
            states = (self._call_layer if compiled else self._call)(piece, own, states)
        return states

    def optimizer(self, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
        """AdamW over the stacked weights, where those decay that usually do."""
        decaying, others = [], []
        for piece, weights in zip(self.pieces, self.weights, strict=True):
            names = set(decay_parameter_names(piece))
            for name, tensor in weights.items():
                (decaying if name in names else others).append(tensor)
        groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=learning_rate, fused=self.device.type == "cuda")

    def clip_gradients(self, norm: float) -> None:
        """Scale the gradients of each model down to a norm, as `clip_grad_norm_` does for one model."""
        for gradients in zip(*(tensor.grad.unbind() for tensor in self.tensors), strict=True):
            total = nn.utils.get_total_norm(gradients)
            torch._foreach_mul_(gradients, (norm / (total + 1e-6)).clamp(max=1.0))


def _apart(weights: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The weights of each model alone."""
    each = zip(*(tensor.unbind() for tensor in weights.values()), strict=True)
    return [dict(zip(weights, own, strict=True)) for own in each]


@dataclass(frozen=True)
class Recipe:
    """How models are trained.

    Args:
        learning_rate: peak of the learning rate.
        weight_decay: weight decay of AdamW.
        warmup: part of the steps in which the learning rate rises.
        batch_size: images of a batch.
        inputs: what models make of pixels.
        label_smoothing: part of the target that is spread over all classes.
        mixing: Mixup and CutMix, if any.
    """

    learning_rate: float
    weight_decay: float
    warmup: float
    batch_size: int
    inputs: Inputs
    label_smoothing: float = 0.0
    mixing: MixingCollator | None = None


class Training:
    """A stack in training: epoch after epoch, saved and loaded whole.

    Args:
        models: models of one architecture.
        seeds: for each model, the seed of the images that it sees.
        images: training images, on the device.
        recipe: how to train.
        at_once: see [`Stack`].
        compiler: see [`Stack`].
    """

    def __init__(
        self,
        models: Sequence[DnAViTForImageClassification],
        seeds: Sequence[int],
        images: Images,
        recipe: Recipe,
        *,
        at_once: bool,
        compiler: Callable | None = None,
    ):
        self.seeds, self.images, self.recipe = seeds, images, recipe
        self.stack = Stack(models, images.labels.device, at_once=at_once, compiler=compiler)
        self.optimizer = self.stack.optimizer(recipe.learning_rate, recipe.weight_decay)
        self.epoch, self.seconds = 0, 0.0

    def train_epoch(self, epochs: int) -> torch.Tensor:
        """Train one more epoch of `epochs`; returns the mean loss (models)."""
        batches = Epoch(self.images, self.seeds, self.epoch, self.recipe.batch_size)
        losses = torch.zeros(self.stack.count, device=self.stack.device)
        for index, (pixels, labels) in enumerate(batches):
            losses += self.step(pixels, labels, self.epoch * len(batches) + index, epochs * len(batches))
        self.epoch += 1
        return losses.cpu() / len(batches)

    def step(self, pixels: torch.Tensor, labels: torch.Tensor, step: int, steps: int) -> torch.Tensor:
        """One step of all models, of `steps` in all; returns their losses (models)."""
        factor = warmup_cosine(step, steps, math.ceil(self.recipe.warmup * steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * factor
        values = self.recipe.inputs(pixels)
        if self.recipe.mixing is None:
            losses = self._loss(self.stack.logits(values), labels)
        else:
            values, kept = self._mix(values, step)
            logits = self.stack.logits(values)
            losses = kept * self._loss(logits, labels) + (1 - kept) * self._loss(logits, labels.flip(1))
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.stack.clip_gradients(MAX_GRADIENT_NORM)
        self.optimizer.step()
        return losses.detach()

    def _mix(self, values: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix the batch of each model with its reverse; with the part (models) that images keep of themselves."""
        assert self.recipe.mixing is not None
        mixed = [
            self.recipe.mixing.mix(own, np.random.default_rng((seed, step)))
            for seed, own in zip(self.seeds, values, strict=True)
        ]
        kept = torch.tensor([part for _, part in mixed], device=values.device)
        return torch.stack([own for own, _ in mixed]), kept

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy (models)."""
        losses = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=self.recipe.label_smoothing
        )
        return losses.unflatten(0, labels.shape).mean(1)

    @torch.no_grad()
    def test(self, images: Images) -> tuple[list[float], list[float]]:
        """Mean cross entropy and top-1 accuracy of each model."""
        losses = hits = torch.zeros(self.stack.count, dtype=torch.float64, device=self.stack.device)
        for start in range(0, len(images), TEST_BATCH):
            labels = images.labels[start : start + TEST_BATCH].expand(self.stack.count, -1)
            values = self.recipe.inputs(images.pixels[start : start + TEST_BATCH])
            logits = self.stack.logits(values.expand(self.stack.count, *values.shape))
            each = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            losses = losses + each.unflatten(0, labels.shape).sum(1)
            hits = hits + (logits.argmax(-1) == labels).sum(1)
        return (losses / len(images)).tolist(), (hits / len(images)).tolist()

    def state(self) -> dict[str, Any]:
        """All that changes in training, for [`load`]; of tensors it has no copies."""
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "weights": [tensor.detach() for tensor in self.stack.tensors],
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        for tensor, saved in zip(self.stack.tensors, state["weights"], strict=True):
            tensor.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])


def measure(training: Training, steps: int) -> tuple[float, float]:
    """Seconds of the first steps, in which things are compiled and warmed up, and of a later step; changes nothing."""
    before = copy.deepcopy(training.state())
    batches = iter(Epoch(training.images, training.seeds, 0, training.recipe.batch_size))
    times = [now(training)]
    for count in (2, steps):
        for _, (pixels, labels) in zip(range(count), batches, strict=False):
            training.step(pixels, labels, 1, 100)
        times.append(now(training))
    training.load(before)
    return times[1] - times[0], (times[2] - times[1]) / steps


def now(training: Training) -> float:
    """The time, when all that was asked of the device is done."""
    if training.stack.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def save(state: dict[str, Any], path: Path) -> None:
    """Save a state whole or not at all."""
    with whole_file(path) as unfinished:
        torch.save(state, unfinished)
