"""How much each class counts in the loss of a classifier, and the loss that counts so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ..data.problem_types import MULTI_LABEL
from ..data.splits import Split
from ..data.unreadable import UNREADABLE
from .errors import ConfigurationError
from .options import ClassWeights
from .yaml_file import nearest


BALANCED = "balanced"


@dataclass
class WeightedLoss:
    """A cross entropy in which classes count differently, as `compute_loss_func` of a `ClassificationTrainer`.

    Of one label per sample it is `torch.nn.CrossEntropyLoss(weight=weights)`, over all micro-batches of a step: the
    sum of the weighted losses of all samples, divided by the sum of the weights of their classes. A sample that Mixup
    or CutMix made of two has its part of both weights; label smoothing changes no weight, as in torch.

    Of several labels it is `torch.nn.BCEWithLogitsLoss(pos_weight=weights)`, likewise: the mean over samples and
    classes, in which a label that holds counts by its weight.

    Args:
        weights: weight of each class (classes), in the order of the logits.
        several: whether a sample may have several labels.
        label_smoothing: part of the soft targets that is spread over all classes, in [0, 1).
    """

    weights: torch.Tensor
    several: bool = False
    label_smoothing: float = 0.0

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The part of a micro-batch in the loss of its step.

        Args:
            outputs: output of the model, with `logits` (batch, classes).
            labels: class indices (batch), or soft targets or labels (batch, classes).
            num_items_in_batch: what the losses of the step are divided by: the sum of [`count`] over its micro-batches
                on all processes; without it, of this batch.
        """
        logits = outputs["logits"].float()
        weights = self.weights.to(logits.device)
        if self.several:
            total = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="sum")
        else:
            total = functional.cross_entropy(logits, labels, weights, reduction="sum")
        return total / (self.count(labels) if num_items_in_batch is None else num_items_in_batch)

    def summary(self, names: Sequence[str]) -> str:
        """The smallest and the largest weight, with the class that has it.

        Args:
            names: names of the classes, in the order of the logits.
        """
        low, high = int(self.weights.argmin()), int(self.weights.argmax())
        return f"{self.weights[low]:.3g} ({names[low]}) to {self.weights[high]:.3g} ({names[high]})"

    def count(self, labels: torch.Tensor) -> torch.Tensor:
        """What a batch adds to the number that the losses of a step are divided by.

        Args:
            labels: class indices (batch), or soft targets or labels (batch, classes).
        """
        if self.several:
            return torch.tensor(labels.numel(), device=labels.device)
        weights = self.weights.to(labels.device)
        if not labels.is_floating_point():
            # a video that cannot be read has no class, and counts nowhere
            return weights[labels[labels != UNREADABLE]].sum()
        # without what label smoothing has spread over all classes
        spread = self.label_smoothing / labels.shape[1] * len(labels) * weights.sum()
        return ((labels @ weights).sum() - spread) / (1 - self.label_smoothing)


def class_weights(given: ClassWeights, train: Split, problem_type: str) -> torch.Tensor:
    """The weight of each class (classes), float32.

    Args:
        given: `"balanced"`, a weight for each class in the order of the classes, or class -> weight, 1 for the others.
        train: split that is trained on, whose samples are counted for `"balanced"`.
        problem_type: what the classifier is asked for each sample: one label or several.

    Returns:
        Of one label per sample and `"balanced"`, `samples / (classes x samples of the class)`, as in scikit-learn; of
        several labels, as many times the samples without the label as with it.

    Raises:
        ConfigurationError: if they do not fit the classes, or samples cannot be counted.
    """
    names = train.class_names
    if given == BALANCED:
        return _balanced(train, problem_type)
    weights = _by_name(given, names) if isinstance(given, Mapping) else list(given)
    if len(weights) != len(names):
        raise ConfigurationError(
            f"training.class_weights has {len(weights)} numbers, but the data has {len(names)} classes: give one each."
        )
    return torch.tensor(weights, dtype=torch.float32)


def check_class_weights(given: ClassWeights) -> None:
    """See what of class weights can be seen without the data.

    Args:
        given: a word, a weight for each class in the order of the classes, or class -> weight.

    Raises:
        ValueError: for a word that is not known, no weight at all, or a weight that is not positive.
    """
    if isinstance(given, str):
        if given != BALANCED:
            raise ValueError(f"class_weights is {given!r}: give {BALANCED}, [numbers], or {{class: number}}.")
        return
    if not given:
        raise ValueError(f"class_weights is {given!r}, which weighs no class: leave it out.")
    for name, weight in given.items() if isinstance(given, Mapping) else enumerate(given):
        if not weight > 0:
            raise ValueError(f"class_weights must be positive, got {weight} for class {name!r}.")


def _by_name(given: Mapping[str | int, float], names: Sequence[str]) -> list[float]:
    # YAML reads a class called 1 as a number
    by_name = {str(name): weight for name, weight in given.items()}
    unknown = next((name for name in by_name if name not in names), None)
    if unknown is not None:
        raise ConfigurationError(f"training.class_weights has no class {unknown!r} to weigh{nearest(unknown, names)}.")
    return [by_name.get(name, 1.0) for name in names]


def _balanced(train: Split, problem_type: str) -> torch.Tensor:
    fix = "give a weight for each class instead."
    if train.is_stream:
        raise ConfigurationError(f"training.class_weights: {BALANCED} counts the samples, which a stream hides: {fix}")
    labels = torch.as_tensor(train.labels())
    if problem_type == MULTI_LABEL:
        with_label = (labels == 1).sum(dim=0)
    else:
        with_label = torch.bincount(labels, minlength=len(train.class_names))
    for name, count in zip(train.class_names, with_label.tolist(), strict=True):
        if count == 0 or (problem_type == MULTI_LABEL and count == len(labels)):
            which = "no" if count == 0 else "only"
            raise ConfigurationError(
                f"training.class_weights: {BALANCED} has no weight for class {name!r}, of which split {train.name!r} "
                f"has {which} {train.unit}: {fix}"
            )
    if problem_type == MULTI_LABEL:
        return ((len(labels) - with_label) / with_label).float()
    return (len(labels) / (len(with_label) * with_label)).float()
