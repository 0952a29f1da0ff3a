"""Evaluate an image classifier: loss, top-1, top-5 and accuracy per class."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EvalPrediction, PreTrainedModel
from transformers.data.data_collator import default_data_collator

from ..data.arguments import ImageDataArguments
from ..data.errors import DataError
from ..data.images import torch_dataset
from ..data.provenance import provenance
from ..data.sources import load_split
from ..kinds import IMAGE, load
from ..records.checkpoint_records import Measurement, record_measurement
from ..records.digest import weights_digest
from ..records.stamp import stamp
from .metrics import PerClassAccuracy, TopKAccuracy
from .slices import slice_figures, slice_rows


@dataclass
class ClassificationResult:
    """Figures of one model on one split.

    Args:
        metrics: `loss` (mean cross entropy, nats), `top1`, `top5`, `mean_class_accuracy` (in [0, 1]) and the number of
            `images` or `videos`.
        per_class: class name -> `accuracy` and the same number.
        confusion: images of a class (row) that were taken for a class (column), in the order of the model's classes.
        measurement: the figures, tied to the weights they were measured on.
        unreadable: videos that could not be read, and count nowhere.
        slices: where asked for, name of the slice -> `images`, `accuracy` and its 95 % interval from `low` to `high`.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    measurement: Measurement | None = None
    slices: dict[str, dict[str, float]] | None = None
    confusion: list[list[int]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def top_k_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`compute_metrics` of a Trainer from logits (images, classes).

    Returns:
        `top1`, `top5`, `mean_class_accuracy`, and how many `images` there were.
    """
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    per_class = PerClassAccuracy(keep_in_memory=True).compute(
        predictions=logits.argmax(axis=1), references=labels, num_classes=logits.shape[1]
    )
    return {
        **TopKAccuracy(keep_in_memory=True).compute(predictions=logits, references=labels),
        "mean_class_accuracy": per_class["mean_class_accuracy"],
        "images": len(labels),
    }


def evaluate_checkpoint(
    checkpoint: str,
    arguments: ImageDataArguments,
    split: str,
    *,
    batch_size: int = 64,
    device: str | None = None,
    revision: str | None = None,
    slices: str | None = None,
) -> ClassificationResult:
    """Evaluate a checkpoint on a split; labels are matched to the model's classes by name.

    Args:
        checkpoint: folder, or name on the Hub.
        arguments: the data.
        split: which part of it.
        batch_size: images that go through the model together.
        device: e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub.
        slices: column of the data; accuracies are also stated by its values, see [`~dna_hf.evaluation.slices`].

    Raises:
        DataError: if the checkpoint or the data cannot be loaded, the data has a class the model does not know, or
            cannot be sliced so.
    """
    if slices is not None and arguments.streaming:
        raise DataError("slices need random access to the data: leave out --streaming.")
    loaded = load(checkpoint, wanted=(IMAGE,), device=device, revision=revision)
    model, processor = loaded.model, loaded.processor
    images = load_split(arguments, split)
    # before the model runs, so that a wrong column costs nothing
    rows_of_slices = None if slices is None else slice_rows(images, slices)
    known = class_names(model)
    classes = match_classes(images.class_names, known)
    dataset = torch_dataset(images, processor)
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=default_data_collator)
    logits, labels = predict_logits(model, loader)
    result = classification_result(logits, classes[labels], known)
    if rows_of_slices is not None:
        result.slices = slice_figures(rows_of_slices, logits.argmax(axis=1) == classes[labels])
    result.measurement = Measurement(
        task="image-classification",
        dataset=provenance(arguments, images),
        split=split,
        metrics={name: value for name, value in result.metrics.items() if name != "images"},
        samples=len(labels),
        **stamp(),
        seed=None,
        weights=weights_digest(model.state_dict()),
    )
    return result


def record_evaluation(folder: str | Path, result: ClassificationResult) -> None:
    """Keep figures in the checkpoint folder that they were measured on, for its model card.

    Raises:
        ValueError: for figures that [`evaluate_checkpoint`] did not measure.
    """
    if result.measurement is None:
        raise ValueError("these figures are not tied to weights: measure them with evaluate_checkpoint.")
    record_measurement(folder, result.measurement)


def class_names(model: PreTrainedModel) -> list[str]:
    """Names of the model's classes, in the order of its logits."""
    id2label: dict = model.config.id2label or {}
    return [id2label[index] for index in sorted(id2label)]


def match_classes(names: list[str], known: list[str]) -> np.ndarray:
    """For every class of the data, the model's index of it.

    Raises:
        DataError: if the model does not know a class.
    """
    if names == known:
        return np.arange(len(names))  # in ImageNet two classes have one name
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(
            f"the model does not know {len(unknown)} of the {len(names)} classes of the data ({unknown[0]!r}); "
            f"its classes are {', '.join(known[:5])}, ...: set class_names if only the names differ."
        )
    return np.array([known.index(name) for name in names])


def predict_logits(model: PreTrainedModel, loader: Any) -> tuple[np.ndarray, np.ndarray]:
    """Run a model over batches: logits (images, classes) in float32, and labels (images)."""
    logits, labels = zip(*logits_by_batch(model, loader), strict=True)
    return np.concatenate(logits), np.concatenate(labels)


@torch.no_grad()
def logits_by_batch(model: PreTrainedModel, loader: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run a model over batches; yields logits (images, classes) in float32, and labels (images) of each."""
    for batch in tqdm(loader, desc="evaluate", leave=False):
        outputs = model(pixel_values=batch["pixel_values"].to(model.device, model.dtype))
        yield outputs.logits.float().cpu().numpy(), batch["labels"].numpy()


def classification_result(
    logits: np.ndarray, labels: np.ndarray, names: list[str], samples: str = "images"
) -> ClassificationResult:
    """Compute all figures from logits (images, classes), labels (images) and the names of the classes."""
    confusion = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    log_probabilities = torch.from_numpy(logits).double().log_softmax(dim=1)
    loss = -log_probabilities[torch.arange(len(labels)), torch.from_numpy(labels)].mean()
    top_k = TopKAccuracy(keep_in_memory=True).compute(predictions=logits, references=labels)
    per_class = PerClassAccuracy(keep_in_memory=True).compute(
        predictions=logits.argmax(axis=1), references=labels, num_classes=len(names)
    )
    return ClassificationResult(
        metrics={
            "loss": float(loss),
            **top_k,
            "mean_class_accuracy": per_class["mean_class_accuracy"],
            samples: len(labels),
        },
        per_class={
            name: {"accuracy": accuracy, samples: count}
            for name, accuracy, count in zip(names, per_class["accuracy"], per_class["count"], strict=True)
        },
        confusion=confusion.tolist(),
    )
