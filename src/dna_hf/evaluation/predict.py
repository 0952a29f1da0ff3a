"""Classify files of images or videos."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from ..data.errors import DataError
from ..data.image_reading import image_mode, read_image_file
from ..data.images import channels_of
from ..data.inputs import TIMEOUT
from ..data.video_folders import clip_of
from ..data.videos import VideoReader
from ..kinds import IMAGE, Loaded
from .class_answers import Answer, answers_of, answers_of_scores, class_scores
from .image_classification import class_names


@dataclass
class Prediction:
    """What a classifier says of one file, or why the file could not be read.

    Args:
        path: path of the file.
        answer: what the classifier says; `None` if the file could not be read.
        error: why the file could not be read, in a sentence; `None` if it could.
    """

    path: Path
    answer: Answer | None
    error: str | None = None


def classify(loaded: Loaded, files: Iterable[Path], *, batch_size: int = 32) -> Iterator[Prediction]:
    """Answer for files by a classifier of images or videos.

    Args:
        loaded: the classifier.
        files: files of images or videos, or folders of frames, each a video. One that cannot be read yields a
            prediction with an `error` and costs the others nothing.
        batch_size: images that go through the model together; videos go one by one, with all their views.

    Yields:
        One prediction for each file, in order.
    """
    if loaded.kind is IMAGE:
        return _classify_images(loaded, files, batch_size)
    return _classify_videos(loaded, files)


@torch.no_grad()
def _classify_images(loaded: Loaded, files: Iterable[Path], batch_size: int) -> Iterator[Prediction]:
    model = loaded.model
    mode = image_mode(channels_of(loaded.processor))
    iterator = iter(files)
    while batch := list(islice(iterator, batch_size)):
        pictures: dict[Path, Image.Image] = {}
        errors: dict[Path, str] = {}
        for path in batch:
            try:
                pictures[path] = read_image_file(path, mode)
            except DataError as error:
                errors[path] = str(error)
        answers: dict[Path, Answer] = {}
        if pictures:
            pixel_values = loaded.processor(list(pictures.values()), return_tensors="pt")["pixel_values"]
            logits = model(pixel_values=pixel_values.to(model.device, model.dtype)).logits
            answers = dict(zip(pictures, answers_of(logits, class_names(model), model.config), strict=True))
        for path in batch:
            yield Prediction(path, answers.get(path), errors.get(path))


@torch.no_grad()
def _classify_videos(loaded: Loaded, files: Iterable[Path]) -> Iterator[Prediction]:
    model, processor = loaded.model, loaded.processor
    reader = VideoReader(TIMEOUT)
    try:
        for path in files:
            try:
                clip = clip_of(path)
                frames = [reader.read(clip, sampling) for sampling in processor.samplings()]
            except DataError as error:
                yield Prediction(path, None, str(error))
                continue
            views = torch.stack([view for clip in frames for view in processor.crops(clip)])
            logits = model(pixel_values=views.to(model.device, model.dtype)).logits
            # the mean over the views
            scores = class_scores(logits, model.config).mean(dim=0, keepdim=True)
            (answer,) = answers_of_scores(scores, class_names(model), model.config)
            yield Prediction(path, answer)
    finally:
        reader.close()
