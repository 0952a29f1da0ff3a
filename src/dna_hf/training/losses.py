"""The loss of image classification, for class indices and for soft targets."""

from typing import Any

import torch
from torch.nn import functional


def classification_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross entropy, as `compute_loss_func` of a Trainer.

    transformers' own loss takes soft targets for several labels per image and computes a binary cross entropy.

    Args:
        outputs: output of the model, with `logits` (batch, classes).
        labels: class indices (batch), or soft targets (batch, classes).
        num_items_in_batch: how many numbers the labels of all micro-batches of this step, on all processes, have; the
            loss is the mean over their images then, and over the batch without it.
    """
    logits = outputs["logits"].float()
    if not labels.is_floating_point():
        total, numbers_per_image = functional.cross_entropy(logits, labels, reduction="sum"), 1
    else:
        total, numbers_per_image = -(labels * logits.log_softmax(dim=-1)).sum(), labels.shape[1]
    images = len(labels) if num_items_in_batch is None else num_items_in_batch / numbers_per_image
    return total / images
