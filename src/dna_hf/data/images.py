"""Turn images into tensors: reading, augmentation and the torch data sets that a Trainer reads.

Augmentation draws from a generator seeded by (seed, epoch, row): the same image looks the same whatever the number of
workers or processes, and a resumed run sees what the uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from ..errors import first_line, needed
from .arguments import ImageDataArguments
from .augmentation import TrainingAugmentation
from .errors import DataError
from .sampling import EpochClock
from .sources import LabelledImages


ImageProcessor = PilBackend | TorchvisionBackend
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def image_processor(arguments: ImageDataArguments, image_size: tuple[int, int]) -> PilBackend:
    """The image processor of a new model: resize to (height, width) pixels, scale to [0, 1], normalise.

    With `crop_pct` below 1 the short side is resized to `min(image_size) / crop_pct` pixels, and the centre cut out.
    """
    height, width = image_size
    common: dict[str, Any] = {
        "resample": RESAMPLING[arguments.interpolation],
        "image_mean": arguments.image_mean,
        "image_std": arguments.image_std,
    }
    if arguments.crop_pct == 1:
        return ViTImageProcessorPil(size={"height": height, "width": width}, **common)
    return ViTImageProcessorPil(
        size={"shortest_edge": int(min(image_size) / arguments.crop_pct)},
        do_center_crop=True,
        crop_size={"height": height, "width": width},
        **common,
    )


def output_size(processor: Any) -> tuple[int, int]:
    """Height and width of what an image processor makes of any image, in pixels.

    Raises:
        DataError: if the size depends on the image.
    """
    cropped = processor.crop_size if getattr(processor, "do_center_crop", False) else None
    for size in (cropped, processor.size):
        if size is not None and size.get("height") and size.get("width"):
            return size["height"], size["width"]
    raise DataError(f"the image processor makes images of different sizes ({processor.size}): set do_center_crop.")


def read_image(source: dict[str, Any], name: str) -> Image.Image:
    """Decode an image `{"bytes", "path"}` to RGB, turned as its EXIF orientation says.

    Raises:
        DataError: naming the image, if it cannot be decoded.
    """
    datasets = needed("datasets", DataError, "reading images")
    try:
        return datasets.Image().decode_example(source).convert("RGB")
    # Pillow raises all of these for broken files: SyntaxError for PNG, struct errors as ValueError
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read image {source.get('path') or name}: {first_line(error)}.") from error


def read_image_file(path: str | Path) -> Image.Image:
    """Read an image file to RGB; see [`read_image`]."""
    return read_image({"path": str(path), "bytes": None}, str(path))


class _Samples(EpochClock):
    """Rows to samples `{"pixel_values": (channels, height, width), "labels": int, "rows": number of the row}`."""

    def __init__(
        self,
        images: LabelledImages,
        processor: ImageProcessor,
        augmentation: TrainingAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.images = images
        self.processor = processor
        self.augmentation = augmentation
        self.seed = seed

    def samples(
        self, numbers: list[int], sources: list[dict], labels: list[int], copies: list[int] | None = None
    ) -> list[dict[str, Any]]:
        """Decode, augment and process rows; `numbers` and `copies` seed the augmentation, errors name the rows."""
        names = [f"in row {number} of split {self.images.name!r}" for number in numbers]
        pictures = [read_image(source, name) for source, name in zip(sources, names, strict=True)]
        if self.augmentation is None:
            pixel_values = self.processor(pictures, return_tensors="pt")["pixel_values"]
        else:
            pixel_values = self._augmented(self.augmentation, pictures, numbers, copies or [0] * len(numbers))
        return [
            {"pixel_values": pixels, "labels": label, "rows": number}
            for pixels, label, number in zip(pixel_values, labels, numbers, strict=True)
        ]

    def _augmented(
        self, augmentation: TrainingAugmentation, pictures: list[Image.Image], numbers: list[int], copies: list[int]
    ) -> list[torch.Tensor]:
        """Processed tensors of augmented pictures; every copy of a row in an epoch looks different."""
        generators = [
            np.random.default_rng((self.seed, self.epoch, number, *([copy] if copy else [])))
            for number, copy in zip(numbers, copies, strict=True)
        ]
        pictures = [augmentation(picture, random) for picture, random in zip(pictures, generators, strict=True)]
        # the augmentation has resized and cropped already
        processed = self.processor(pictures, return_tensors="pt", do_resize=False, do_center_crop=False)
        return [
            augmentation.erase(pixels, random)
            for pixels, random in zip(processed["pixel_values"], generators, strict=True)
        ]


class ImageDataset(_Samples, Dataset):
    """A split with random access, by row or by (row, copy): the copies of a row are augmented differently."""

    def __len__(self) -> int:
        return len(self.images.rows)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[dict[str, Any]]:
        pairs = [index if isinstance(index, tuple) else (index, 0) for index in indices]
        numbers, copies = [row for row, _ in pairs], [copy for _, copy in pairs]
        rows = self.images.rows[numbers]
        return self.samples(numbers, rows[self.images.image_column], rows[self.images.label_column], copies)


class StreamedImageDataset(_Samples, IterableDataset):
    """A streamed split; an epoch is shuffled in a buffer when there is an augmentation, that is in training."""

    def __init__(self, *args: Any, shuffle_buffer: int = 1000, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.augmentation is not None:
            self.images.rows = self.images.rows.shuffle(seed=self.seed, buffer_size=shuffle_buffer)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        # each worker reads shards of its own, and numbers its rows apart from the others
        first, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        self.images.rows.set_epoch(self.epoch)
        classes = len(self.images.class_names)
        for position, row in enumerate(self.images.rows):
            number, label = first + step * position, row[self.images.label_column]
            if not 0 <= label < classes:
                raise DataError(
                    f"row {number} of split {self.images.name!r} has label {label}, outside the {classes} classes."
                )
            yield self.samples([number], [row[self.images.image_column]], [label])[0]


def torch_dataset(
    images: LabelledImages,
    processor: ImageProcessor,
    augmentation: TrainingAugmentation | None = None,
    *,
    seed: int = 0,
    shuffle_buffer: int = 1000,
) -> ImageDataset | StreamedImageDataset:
    """Make the torch data set of a split: of processed images, augmented and (if streamed) shuffled for training.

    Args:
        images: split to read.
        processor: image processor that makes tensors; with an augmentation it does not resize.
        augmentation: augmentation for training; `None` for evaluation.
        seed: seed of the augmentation, and of the shuffling of a streamed split.
        shuffle_buffer: images among which a streamed split is shuffled.
    """
    if images.is_stream:
        return StreamedImageDataset(images, processor, augmentation, seed, shuffle_buffer=shuffle_buffer)
    return ImageDataset(images, processor, augmentation, seed)
