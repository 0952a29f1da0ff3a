"""Classify files of images or videos."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from transformers import PreTrainedModel

from ..data.clips import Clip
from ..data.errors import DataError
from ..data.images import read_image_file
from ..data.inputs import TIMEOUT
from ..data.videos import VideoReader
from ..kinds import IMAGE, Loaded
from .image_classification import class_names
from .video_classification import view_scores


@dataclass
class Prediction:
    """The classes of the highest probability for one file, best first; or why it could not be read."""

    path: Path
    classes: list[tuple[str, float]]
    error: str | None = None


def classify(loaded: Loaded, files: Iterable[Path], *, top_k: int = 5, batch_size: int = 32) -> Iterator[Prediction]:
    """Classify files by a classifier of images or videos.

    Args:
        loaded: the classifier.
        files: files of images or videos. One that cannot be read yields a prediction with an `error` and costs the
            others nothing.
        top_k: how many classes to return.
        batch_size: images that go through the model together; videos go one by one, with all their views.

    Yields:
        One prediction for each file, in order.
    """
    if loaded.kind is IMAGE:
        return _classify_images(loaded, files, top_k, batch_size)
    return _classify_videos(loaded, files, top_k)


@torch.no_grad()
def _classify_images(loaded: Loaded, files: Iterable[Path], top_k: int, batch_size: int) -> Iterator[Prediction]:
    model = loaded.model
    iterator = iter(files)
    while batch := list(islice(iterator, batch_size)):
        pictures: dict[Path, Image.Image] = {}
        errors: dict[Path, str] = {}
        for path in batch:
            try:
                pictures[path] = read_image_file(path)
            except DataError as error:
                errors[path] = str(error)
        best: dict[Path, list[tuple[str, float]]] = {}
        if pictures:
            pixel_values = loaded.processor(list(pictures.values()), return_tensors="pt")["pixel_values"]
            logits = model(pixel_values=pixel_values.to(model.device, model.dtype)).logits
            best = dict(zip(pictures, _best(model, logits.float().softmax(dim=1), top_k), strict=True))
        for path in batch:
            yield Prediction(path, best.get(path, []), errors.get(path))


def _classify_videos(loaded: Loaded, files: Iterable[Path], top_k: int) -> Iterator[Prediction]:
    processor = loaded.processor
    reader = VideoReader(TIMEOUT)
    try:
        for path in files:
            try:
                frames = [reader.read(Clip(str(path), 0), sampling) for sampling in processor.samplings()]
            except DataError as error:
                yield Prediction(path, [], str(error))
                continue
            views = torch.stack([view for clip in frames for view in processor.crops(clip)])
            probabilities = torch.from_numpy(view_scores(loaded.model, views[None], "softmax")).exp()
            yield Prediction(path, _best(loaded.model, probabilities, top_k)[0])
    finally:
        reader.close()


def _best(model: PreTrainedModel, probabilities: torch.Tensor, top_k: int) -> list[list[tuple[str, float]]]:
    """The likeliest classes of each row of probabilities (samples, classes), best first."""
    names = class_names(model)
    values, indices = probabilities.topk(min(top_k, probabilities.shape[1]))
    return [
        [(names[index], value) for index, value in zip(classes, scores, strict=True)]
        for classes, scores in zip(indices.tolist(), values.tolist(), strict=True)
    ]
