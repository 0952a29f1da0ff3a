"""Nearest neighbours in the training split: what the features of a body are worth, without training anything.

The protocol is that of DINO (arXiv:2104.14294): features of unit length; the `k` training samples of the highest
cosine vote for their classes, each with the weight `exp(cosine / 0.07)`.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers.data.data_collator import default_data_collator

from ..data.arguments import HELD_OUT_NAME, ImageDataArguments, VideoDataArguments, is_held_out
from ..data.errors import DataError
from ..data.images import torch_dataset
from ..data.problem_types import SINGLE_LABEL
from ..data.sources import load_train_and_eval as load_images
from ..data.splits import Split
from ..data.summary import Announce, summarize
from ..data.unreadable import UNREADABLE
from ..data.video_sources import load_train_and_eval as load_videos
from ..data.videos import VideoDataset, split_views, view_processor
from ..kinds import CLASSIFIERS, IMAGE, VIDEO, Loaded, load
from ..records.run_facts import model_facts
from .figures import SingleLabelFigures, compute_class_figures, confusion_matrix
from .held_out import as_trained
from .image_classification import ClassificationResult


NEIGHBOURS = 20
TEMPERATURE = 0.07
# similarities that are in memory together: 256 MiB in float32
BLOCK = 2**26


@dataclass(frozen=True, kw_only=True)
class NeighbourFigures(SingleLabelFigures):
    """What the votes of neighbours reach on a split: they are no probabilities, and have no loss.

    Args:
        top1: part of the samples whose class has the most votes, in [0, 1].
        top5: part of the samples whose class is among the five with the most votes, and has some, in [0, 1].
        mean_class_accuracy: mean of the accuracies of the classes that occur, in [0, 1].
    """

    loss: float = math.nan

    def means(self) -> dict[str, float]:
        """The figures without the numbers of samples and the loss, by name."""
        return {name: value for name, value in super().means().items() if name != "loss"}


def evaluate_by_neighbours(
    checkpoint: str,
    arguments: ImageDataArguments | VideoDataArguments,
    split: str,
    *,
    k: int = NEIGHBOURS,
    seed: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    revision: str | None = None,
    announce: Announce | None = None,
) -> ClassificationResult:
    """Evaluate the features that a classifier reads, or would read, by nearest neighbours in the training split.

    Both splits are read as for evaluation, without augmentation. Of several views of a video, features are averaged.

    Args:
        checkpoint: folder, or name on the Hub, of a model of images or videos; a head is not used.
        arguments: section `data`: which data set is read, and its training split.
        split: name of the split to evaluate on.
        k: number of neighbours that vote.
        seed: seed of the training that held a part out, where the checkpoint has no record of it.
        batch_size: number of samples that go through the model together; by default 64 images or 8 videos.
        device: device to run on, e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub.
        announce: called before the model runs, with what the splits hold and with facts about the model.

    Raises:
        DataError: if the checkpoint or the data cannot be loaded, is a stream, has not one class for each sample, or
            fewer training samples than `k`, or if the split is the training split itself.
    """
    arguments, seed = as_trained([checkpoint], arguments, split, seed, revision=revision)
    loaded = load(checkpoint, wanted=CLASSIFIERS, device=device, revision=revision, needs_head=False)
    train, evaluation = _splits(arguments, split, k, seed)
    if announce is not None:
        announce(summarize(arguments, [train, evaluation]), model_facts(loaded.model))
    size = batch_size or (64 if loaded.kind is IMAGE else 8)
    references, classes, missing = _features(loaded, train, arguments, size)
    features, labels, unreadable = _features(loaded, evaluation, arguments, size)
    votes = neighbour_votes(references, classes, features, len(train.class_names), k)
    return ClassificationResult(
        kind=loaded.kind,
        figures=vote_figures(votes, labels, len(unreadable)),
        per_class=compute_class_figures(votes, labels, train.class_names),
        confusion=confusion_matrix(votes, labels),
        unreadable=[*missing, *unreadable],
    )


def _splits(
    arguments: ImageDataArguments | VideoDataArguments, split: str, k: int, seed: int | None
) -> tuple[Split, Split]:
    """The splits to find neighbours in and to evaluate on."""
    held_out = is_held_out(split)
    arguments = dataclasses.replace(arguments, eval_split=arguments.eval_split if held_out else split)
    train: Split
    evaluation: Split | None
    if isinstance(arguments, VideoDataArguments):
        train, evaluation = load_videos(arguments, seed or 0)
    elif arguments.streaming:
        raise DataError("--knn compares every image with all of the training split: leave out --streaming.")
    else:
        train, evaluation = load_images(arguments, seed or 0)
    assert evaluation is not None  # for one was asked for
    if held_out and evaluation.name != HELD_OUT_NAME:
        raise DataError(
            f"nothing of data set {arguments.dataset!r} is held out, for it has split {evaluation.name!r}: take that."
        )
    if train.problem_type != SINGLE_LABEL:
        raise DataError(f"--knn is for data of one class per sample, but this is {train.problem_type}: leave it out.")
    if k > len(train):
        raise DataError(f"--knn {k} is more than the {len(train)} {train.unit} of split {train.name!r}: lower it.")
    return train, evaluation


@torch.no_grad()
def _features(
    loaded: Loaded, split: Split, arguments: Any, batch_size: int
) -> tuple[torch.Tensor, np.ndarray, list[str]]:
    """Features (samples, width) of unit length in float32, labels (samples), and the names of what cannot be read."""
    if loaded.kind is IMAGE:
        dataset: Any = torch_dataset(split, loaded.processor, arguments=arguments)  # type: ignore[arg-type]
    else:
        dataset = VideoDataset(split, view_processor(loaded.processor, arguments), arguments)  # type: ignore[arg-type]
    found, labels = [], []
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=default_data_collator)
    for batch in tqdm(loader, desc=f"features of {split.name}", leave=False):
        found.append(functional.normalize(_pooled(loaded, batch["pixel_values"]).float().cpu(), dim=1))
        labels.append(batch["labels"].numpy())
    numbers = np.concatenate(labels)
    readable = numbers != UNREADABLE
    if not readable.any():
        raise DataError(f"nothing of split {split.name!r} can be read.")
    return torch.cat(found)[readable], numbers[readable], dataset.unreadable.names()


def _pooled(loaded: Loaded, pixel_values: torch.Tensor) -> torch.Tensor:
    """What a classifier reads (samples, width), of a video the mean over its views."""
    model: Any = loaded.model
    pixel_values, views = split_views(pixel_values) if loaded.kind is VIDEO else (pixel_values, 1)
    outputs = model.base_model(pixel_values=pixel_values.to(model.device, model.dtype))
    pooled = outputs.pooler_output if loaded.kind is VIDEO else model.pool(outputs.last_hidden_state)
    return pooled.unflatten(0, (-1, views)).mean(dim=1)


def neighbour_votes(
    references: torch.Tensor, classes: np.ndarray, features: torch.Tensor, num_classes: int, k: int
) -> np.ndarray:
    """The votes (samples, classes) of the nearest references, each `exp(cosine / TEMPERATURE)`, in float32.

    Args:
        references: features of unit length (references, width).
        classes: class of each reference (references).
        features: features of unit length (samples, width).
        num_classes: number of classes.
        k: number of references that vote on each sample; all of them, where there are fewer.
    """
    numbers = torch.from_numpy(classes)
    votes = torch.zeros(len(features), num_classes)
    for rows in torch.arange(len(features)).split(max(1, BLOCK // len(references))):
        cosines, nearest = (features[rows] @ references.T).topk(min(k, len(references)), dim=1)
        block = torch.zeros(len(rows), num_classes)
        votes[rows] = block.scatter_add_(1, numbers[nearest], (cosines / TEMPERATURE).exp())
    return votes.numpy()


def vote_figures(votes: np.ndarray, labels: np.ndarray, unreadable: int) -> NeighbourFigures:
    """The figures of votes; of equal ones the class of the lower number comes first.

    Args:
        votes: votes for each class (samples, classes).
        labels: class of each sample (samples).
        unreadable: how many samples could not be read, and have no votes.
    """
    ranking = np.argsort(-votes, axis=1, kind="stable")[:, :5]
    hits = (ranking == labels[:, None]) & (np.take_along_axis(votes, ranking, axis=1) > 0)
    accuracies = [hits[labels == label, 0].mean() for label in np.unique(labels)]
    return NeighbourFigures(
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(axis=1).mean()),
        mean_class_accuracy=float(np.mean(accuracies)),
        samples=len(labels),
        unreadable=unreadable,
    )
