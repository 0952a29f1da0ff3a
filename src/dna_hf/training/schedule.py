"""The learning rates of the paper's recipes, for images and for videos."""

import bisect
import math
from collections.abc import Sequence
from functools import partial

import torch
from torch.optim.lr_scheduler import LambdaLR


def epoch_cosine(
    epoch: int, *, epochs: int, warmup_epochs: int, warmup_rate: float, min_rate: float, delayed: bool = True
) -> float:
    """Learning rate of an epoch, relative to the peak: linear warm-up inside a cosine over all epochs, then constant.

    Args:
        epoch: number of the epoch, counted from 0.
        epochs: number of epochs of the whole run.
        warmup_epochs: number of epochs of the linear warm-up.
        warmup_rate: rate at which the warm-up starts, relative to the peak.
        min_rate: rate at which the cosine ends, relative to the peak.
        delayed: whether the rates come an epoch late: the released script steps its schedule at the end of epoch `e`
            with `e`, so that epoch `e` has the rate of `e - 1`, and the first two epochs have the same.

    Returns:
        The factor on the peak learning rate.
    """
    time = max(epoch - 1, 0) if delayed else epoch
    if time < warmup_epochs:
        return warmup_rate + (1 - warmup_rate) * time / warmup_epochs
    return min_rate + (1 - min_rate) * (1 + math.cos(math.pi * min(time, epochs) / epochs)) / 2


def epoch_cosine_schedule(
    optimizer: torch.optim.Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: int,
    warmup_lr: float,
    min_lr: float,
) -> LambdaLR:
    """[`epoch_cosine`] as a schedule that is stepped once per optimizer step.

    Args:
        optimizer: optimizer whose default learning rate is the peak; `warmup_lr` and `min_lr` are relative to it for
            every group.
        steps_per_epoch: number of optimizer steps in an epoch.
        epochs: number of epochs of the whole run.
        warmup_epochs: number of epochs of the linear warm-up.
        warmup_lr: learning rate of the first epoch.
        min_lr: learning rate that the cosine ends at.
    """
    peak = optimizer.defaults["lr"]
    rate = partial(
        epoch_cosine,
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        warmup_rate=warmup_lr / peak,
        min_rate=min_lr / peak,
    )
    return LambdaLR(optimizer, lambda step: rate(step // steps_per_epoch))


def epoch_steps(epoch: float, *, steps: Sequence[float], factors: Sequence[float]) -> float:
    """Learning rate at a time, relative to the peak: constant from each step to the next.

    Args:
        epoch: time in epochs, counted from 0; 1.5 is the middle of the second epoch.
        steps: epochs at which the rate changes: the first is 0, and they increase.
        factors: factors on the peak learning rate, one from each of the steps on.

    Returns:
        The factor of the last step that is not after `epoch`.
    """
    return factors[bisect.bisect_right(steps, epoch) - 1]


def epoch_steps_schedule(
    optimizer: torch.optim.Optimizer, *, steps_per_epoch: int, steps: Sequence[float], factors: Sequence[float]
) -> LambdaLR:
    """[`epoch_steps`] as a schedule that is stepped once per optimizer step.

    Args:
        optimizer: optimizer; the learning rates of its groups are multiplied.
        steps_per_epoch: number of optimizer steps in an epoch.
        steps: epochs at which the rate changes: the first is 0, and they increase.
        factors: factors on the peak learning rate, one from each of the steps on.
    """
    return LambdaLR(optimizer, lambda step: epoch_steps(step / steps_per_epoch, steps=steps, factors=factors))
