"""Mixup and CutMix of a batch, with soft targets.

Sources: arXiv:1710.09412 (Mixup), arXiv:1905.04899 (CutMix); one of the two per batch, the batch mixed with itself in
reverse order, as in timm. The random numbers come from a generator seeded by (seed, epoch, rows of the batch), so that
a resumed run mixes what the uninterrupted one would have mixed, whatever the number of loader workers.
"""

from typing import Any

import numpy as np
import torch
from transformers.data.data_collator import default_data_collator

from .sampling import EpochClock


class MixingCollator:
    """Collates samples `{"pixel_values", "labels", "rows"}` and mixes them.

    Args:
        num_classes: width of the soft targets.
        mixup_alpha: parameter of the Beta distribution that Mixup draws from; 0: no Mixup.
        cutmix_alpha: parameter of the Beta distribution that CutMix draws from; 0: no CutMix.
        probability: probability that a batch is mixed at all.
        switch_probability: probability of CutMix rather than Mixup, where both are on.
        label_smoothing: part of the target that is spread over all classes.
        seed: seed of the random numbers, with the epoch and the rows of the batch.
        clock: what knows the current epoch, e.g. the data set; without one it is always epoch 0.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        probability: float = 1.0,
        switch_probability: float = 0.5,
        label_smoothing: float = 0.0,
        seed: int = 0,
        clock: EpochClock | None = None,
    ) -> None:
        self.num_classes = num_classes
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.probability = probability
        self.switch_probability = switch_probability
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.clock = clock

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `pixel_values` (batch, channels, height, width), `labels` (batch, classes) and `rows` (batch)."""
        batch = default_data_collator(samples)
        epoch = 0 if self.clock is None else self.clock.epoch
        random = np.random.default_rng((self.seed, epoch, *(int(sample["rows"]) for sample in samples)))
        pixel_values, kept = self.mix(batch["pixel_values"], random)
        targets = batch["labels"]
        # of several labels for each image they are vectors already
        if not targets.is_floating_point():
            targets = smooth_one_hot(targets, self.num_classes, self.label_smoothing)
        return batch | {"pixel_values": pixel_values, "labels": kept * targets + (1 - kept) * targets.flip(0)}

    def mix(self, pixel_values: torch.Tensor, random: np.random.Generator) -> tuple[torch.Tensor, float]:
        """Mix a batch with its reverse; returns it with the part that every image keeps of itself."""
        if random.random() >= self.probability or not (self.mixup_alpha or self.cutmix_alpha):
            return pixel_values, 1.0
        use_cutmix = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or random.random() < self.switch_probability)
        if not use_cutmix:
            kept = float(random.beta(self.mixup_alpha, self.mixup_alpha))
            return kept * pixel_values + (1 - kept) * pixel_values.flip(0), kept
        height, width = pixel_values.shape[-2:]
        top, bottom, left, right = cut_box(
            height, width, float(random.beta(self.cutmix_alpha, self.cutmix_alpha)), random
        )
        mixed = pixel_values.clone()
        mixed[..., top:bottom, left:right] = pixel_values.flip(0)[..., top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def cut_box(height: int, width: int, kept: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """A box (top, bottom, left, right) of the part `1 - kept` of an image around a random centre, clipped to it."""
    ratio = float(np.sqrt(1 - kept))
    cut_height, cut_width = int(height * ratio), int(width * ratio)
    row, column = int(random.integers(height)), int(random.integers(width))
    top, bottom = max(row - cut_height // 2, 0), min(row + cut_height // 2, height)
    left, right = max(column - cut_width // 2, 0), min(column + cut_width // 2, width)
    return top, bottom, left, right


def smooth_one_hot(labels: torch.Tensor, num_classes: int, label_smoothing: float = 0.0) -> torch.Tensor:
    """Targets (batch, classes) of labels (batch): `label_smoothing` spread over all classes, the rest on the label."""
    targets = torch.full((len(labels), num_classes), label_smoothing / num_classes)
    return targets.scatter_add_(1, labels[:, None], torch.full((len(labels), 1), 1 - label_smoothing))
