"""Classify files of images or videos."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedModel

from ..data.clips import Clip
from ..data.errors import DataError
from ..data.images import ImageProcessor, read_image_file
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
        return classify_images(loaded.model, loaded.processor, files, top_k=top_k, batch_size=batch_size)
    return classify_videos(loaded.model, loaded.processor, files, top_k=top_k)


@torch.no_grad()
def classify_images(
    model: PreTrainedModel, processor: ImageProcessor, files: Iterable[Path], *, top_k: int = 5, batch_size: int = 32
) -> Iterator[Prediction]:
    """Classify image files in batches.

    Args:
        model: an image classifier, as [`~dna_hf.kinds.load`] returns it.
        processor: image processor of the classifier.
        files: the images. One that cannot be read yields a prediction with an `error` and costs the others nothing.
        top_k: how many classes to return.
        batch_size: images that go through the model together.

    Yields:
        One prediction for each file, in order.
    """
    names = class_names(model)
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
            pixel_values = processor(list(pictures.values()), return_tensors="pt")["pixel_values"]
            logits = model(pixel_values=pixel_values.to(model.device, model.dtype)).logits
            values, indices = logits.float().softmax(dim=1).topk(min(top_k, logits.shape[1]))
            for path, scores, classes in zip(pictures, values.tolist(), indices.tolist(), strict=True):
                best[path] = [(names[index], score) for index, score in zip(classes, scores, strict=True)]
        for path in batch:
            yield Prediction(path, best.get(path, []), errors.get(path))


def classify_videos(
    model: PreTrainedModel, processor: Any, files: Iterable[Path], *, top_k: int = 5, timeout: float = TIMEOUT
) -> Iterator[Prediction]:
    """Classify video files.

    Args:
        model: a video classifier, as [`~dna_hf.kinds.load`] returns it.
        processor: video processor of the classifier.
        files: the videos. One that cannot be read yields a prediction with an `error` and costs the others nothing.
        top_k: how many classes to return.
        timeout: seconds after which a video counts as one that cannot be read.

    Yields:
        One prediction for each file, in order.
    """
    names = class_names(model)
    reader = VideoReader(timeout)
    try:
        for path in files:
            try:
                frames = [reader.read(Clip(str(path), 0), sampling) for sampling in processor.samplings()]
            except DataError as error:
                yield Prediction(path, [], str(error))
                continue
            views = torch.stack([view for clip in frames for view in processor.crops(clip)])
            scores = torch.from_numpy(view_scores(model, views[None], "softmax"))[0].exp()
            values, indices = scores.topk(min(top_k, len(scores)))
            yield Prediction(
                path, [(names[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)]
            )
    finally:
        reader.close()
