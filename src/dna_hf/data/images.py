"""Turn images into tensors: reading, augmentation and the torch data sets that a Trainer reads.

Augmentation draws from a generator seeded by (seed, epoch, row): the same image looks the same whatever the number of
workers or processes, and a resumed run sees what the uninterrupted one would have seen.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from .arguments import DataArguments
from .errors import DataError
from .sources import LabelledImages


ImageProcessor = PilBackend | TorchvisionBackend


def image_processor(arguments: DataArguments, image_size: tuple[int, int]) -> PilBackend:
    """The image processor of a new model: resize to (height, width) pixels, scale to [0, 1], normalise."""
    return ViTImageProcessorPil(
        size={"height": image_size[0], "width": image_size[1]},
        image_mean=arguments.image_mean,
        image_std=arguments.image_std,
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
    try:
        return datasets.Image().decode_example(source).convert("RGB")
    # Pillow raises all of these for broken files: SyntaxError for PNG, struct errors as ValueError
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot read image {source.get('path') or name}: {reason}") from error


def read_image_file(path: str | Path) -> Image.Image:
    """Read an image file to RGB; see [`read_image`]."""
    return read_image({"path": str(path), "bytes": None}, str(path))


class TrainingAugmentation:
    """Random resized crop and horizontal flip, as of torchvision's transforms of these names, on PIL images."""

    def __init__(self, arguments: DataArguments, image_size: tuple[int, int], resample: int) -> None:
        self.scale = arguments.crop_scale
        self.ratio = arguments.crop_ratio
        self.flip_probability = arguments.flip_probability
        self.image_size = image_size
        self.resample = Image.Resampling(resample)

    def crop_box(self, width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw a crop (left, top, right, bottom) of the wanted area and aspect ratio that lies in the image."""
        log_ratio = (math.log(self.ratio[0]), math.log(self.ratio[1]))
        for _ in range(10):
            area = width * height * random.uniform(self.scale[0], self.scale[1])
            ratio = math.exp(random.uniform(*log_ratio))
            crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                left = int(random.integers(width - crop_width, endpoint=True))
                top = int(random.integers(height - crop_height, endpoint=True))
                return left, top, left + crop_width, top + crop_height
        # the image is longer than the ratios allow: the largest centred crop
        crop_width = min(width, max(1, round(height * self.ratio[1])))
        crop_height = min(height, max(1, round(width / self.ratio[0])))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        return left, top, left + crop_width, top + crop_height

    def __call__(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        """Augment one image to `image_size`."""
        box = (0, 0, *image.size) if self.scale[0] == 1 else self.crop_box(*image.size, random)
        image = image.resize(self.image_size[::-1], self.resample, box=box)
        if random.random() < self.flip_probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image


class _Samples:
    """Rows to samples `{"pixel_values": (channels, height, width), "labels": int, "rows": number of the row}`."""

    def __init__(
        self,
        images: LabelledImages,
        processor: ImageProcessor,
        augmentation: TrainingAugmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.images = images
        self.processor = processor
        self.augmentation = augmentation
        self.seed = seed
        # in shared memory, so that persistent loader workers see the epoch change
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that the augmentation is drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch the augmentation is drawn for."""
        self._epoch.fill_(epoch)

    def samples(self, numbers: list[int], sources: list[dict], labels: list[int]) -> list[dict[str, Any]]:
        """Decode, augment and process rows; `numbers` seed the augmentation and name the rows in errors."""
        names = [f"in row {number} of split {self.images.name!r}" for number in numbers]
        pictures = [read_image(source, name) for source, name in zip(sources, names, strict=True)]
        if self.augmentation is not None:
            pictures = [
                self.augmentation(picture, np.random.default_rng((self.seed, int(self._epoch), number)))
                for picture, number in zip(pictures, numbers, strict=True)
            ]
        # the augmentation has resized and cropped already
        options = {} if self.augmentation is None else {"do_resize": False, "do_center_crop": False}
        pixel_values = self.processor(pictures, return_tensors="pt", **options)["pixel_values"]
        return [
            {"pixel_values": pixels, "labels": label, "rows": number}
            for pixels, label, number in zip(pixel_values, labels, numbers, strict=True)
        ]


class ImageDataset(_Samples, Dataset):
    """A split with random access."""

    def __len__(self) -> int:
        return len(self.images.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        rows = self.images.rows[list(indices)]
        return self.samples(list(indices), rows[self.images.image_column], rows[self.images.label_column])


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
        self.images.rows.set_epoch(int(self._epoch))
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
        images: the split.
        processor: makes tensors of images; with an augmentation it does not resize.
        augmentation: for training.
        seed: of the augmentation and of the shuffling of a streamed split.
        shuffle_buffer: images among which a streamed split is shuffled.
    """
    if isinstance(images.rows, datasets.IterableDataset):
        return StreamedImageDataset(images, processor, augmentation, seed, shuffle_buffer=shuffle_buffer)
    return ImageDataset(images, processor, augmentation, seed)
