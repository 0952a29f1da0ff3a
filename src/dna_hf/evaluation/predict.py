"""Classify image files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from transformers import PreTrainedModel

from ..data.errors import DataError
from ..data.images import ImageProcessor, read_image_file
from .image_classification import class_names


@dataclass
class Prediction:
    """The classes of the highest probability for one image, best first; or why it could not be read."""

    path: Path
    classes: list[tuple[str, float]]
    error: str | None = None


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, and all images inside folders, sorted.

    Raises:
        DataError: if a path does not exist, or a folder holds no image.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            known = Image.registered_extensions()
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in known and file.is_file())
            if not found:
                raise DataError(f"folder {str(path)!r} holds no image.")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"image {str(path)!r} does not exist.")
    return files


@torch.no_grad()
def classify(
    model: PreTrainedModel, processor: ImageProcessor, files: Iterable[Path], *, top_k: int = 5, batch_size: int = 32
) -> Iterator[Prediction]:
    """Classify image files in batches.

    Args:
        model: an image classifier, as [`~dna_hf.evaluation.image_classification.load_classifier`] returns it.
        processor: its image processor.
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
