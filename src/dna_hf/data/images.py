"""Turn images into tensors: processing, augmentation and the torch data sets that a Trainer reads.

Augmentation draws from a generator seeded by (seed, epoch, row): the same image looks the same whatever the number of
workers or processes, and a resumed run sees what the uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from .arguments import ImageDataArguments
from .augmentation import TrainingAugmentation
from .errors import DataError
from .image_reading import image_mode, read_image
from .inspection import sample_name
from .labelled_images import LabelledImages
from .problem_types import SINGLE_LABEL
from .sampling import EpochClock
from .unreadable import UNREADABLE, Unreadable


ImageProcessor = PilBackend | TorchvisionBackend
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def image_processor(
    arguments: ImageDataArguments, image_size: tuple[int, int], num_channels: int = 3
) -> ImageProcessor:
    """The image processor of a new model: resize to (height, width) pixels, scale to [0, 1], normalise by 0.5.

    What the arguments say goes before that, see [`with_given`].

    Raises:
        DataError: if the arguments do not fit the channels, or there is no way to read images of so many channels.
    """
    image_mode(num_channels)
    height, width = image_size
    processor = ViTImageProcessorPil(
        size={"height": height, "width": width},
        image_mean=[0.5] * num_channels,
        image_std=[0.5] * num_channels,
        # else a grey picture would come back with three channels
        **({} if num_channels == 3 else {"do_convert_rgb": False}),
    )
    return with_given(processor, arguments, num_channels)


def with_given(processor: Any, arguments: ImageDataArguments, num_channels: int) -> Any:
    """The processor with the normalisation and the resizing that are asked for; where nothing is, with its own.

    With `crop_pct` below 1 the short side is resized to that of the result / `crop_pct`, and the centre cut out.

    Args:
        processor: image processor to start from; not changed.
        arguments: fields of the `data` section, of which those count that are not `None`.
        num_channels: channels that the model takes.

    Raises:
        DataError: if `image_mean` or `image_std` has not a number for each channel, or `crop_pct` is given for a
            processor that makes images of different sizes.
    """
    given: dict[str, Any] = {}
    for name in ("image_mean", "image_std"):
        values = getattr(arguments, name)
        if values is not None and len(values) != num_channels:
            raise DataError(f"{name} has {len(values)} numbers, but num_channels is {num_channels}: give as many.")
        if values is not None:
            given |= {name: values, "do_normalize": True}
    if arguments.interpolation is not None:
        given["resample"] = RESAMPLING[arguments.interpolation]
    if arguments.crop_pct is not None:
        given |= _resizing(arguments.crop_pct, *output_size(processor))
    return type(processor).from_dict(processor.to_dict() | given) if given else processor


def _resizing(crop_pct: float, height: int, width: int) -> dict[str, Any]:
    """Settings of a processor that cuts this part of the resized short side from the centre."""
    whole = {"height": height, "width": width}
    if crop_pct == 1:
        return {"size": whole, "do_resize": True, "do_center_crop": False}
    edge = {"shortest_edge": int(min(height, width) / crop_pct)}
    return {"size": edge, "crop_size": whole, "do_resize": True, "do_center_crop": True}


def channels_of(processor: Any) -> int:
    """How many channels the images have that a processor makes: as many as it has means."""
    return len(processor.image_mean) if isinstance(processor.image_mean, list | tuple) else 3


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


class _Decoded(NamedTuple):
    """An image, `None` if it cannot be read, with the number of its row and its label."""

    picture: Image.Image | None
    number: int
    label: int | list[float]


class _Samples(EpochClock):
    """Rows to samples `{"pixel_values": (channels, height, width), "labels", "rows": number of the row}`.

    The labels are the index of a class, or numbers: of several labels and of a regression.
    """

    def __init__(
        self,
        images: LabelledImages,
        processor: ImageProcessor,
        augmentation: TrainingAugmentation | None,
        arguments: ImageDataArguments,
        seed: int,
        bad_list: Path | None,
    ) -> None:
        super().__init__()
        self.images = images
        self.processor = processor
        self.augmentation = augmentation
        self.seed = seed
        self.mode = image_mode(channels_of(processor))
        self.unreadable = Unreadable(arguments, images, self._name, bad_list)

    def samples(
        self, numbers: list[int], sources: list[dict], labels: list[Any], copies: list[int] | None = None
    ) -> list[dict[str, Any]]:
        """Decode, augment and process rows; `numbers` and `copies` seed the augmentation, errors name the rows."""
        decoded = [self._decoded(*row) for row in zip(numbers, sources, labels, strict=True)]
        pictures = [each.picture for each in decoded if each.picture is not None]
        if not pictures:
            pixel_values = []
        elif self.augmentation is None:
            pixel_values = self.processor(pictures, return_tensors="pt")["pixel_values"]
        else:
            numbers = [each.number for each in decoded]
            pixel_values = self._augmented(self.augmentation, pictures, numbers, copies or [0] * len(numbers))
        remaining = iter(pixel_values)
        return [
            {
                "pixel_values": self._blank() if picture is None else next(remaining),
                "labels": label,
                "rows": number,
            }
            for picture, number, label in decoded
        ]

    def _decoded(self, number: int, source: dict[str, Any], label: Any) -> _Decoded:
        """A row; one that cannot be read and is left out is without a picture, in training it is the next one."""
        try:
            return self._read(number, source, label)
        except DataError as error:
            self.unreadable.add(number, error)
        if self.augmentation is None:
            is_class = self.images.problem_type == SINGLE_LABEL
            return _Decoded(None, number, UNREADABLE if is_class else [float("nan")] * len(self.images.class_names))
        return self.unreadable.stand_in(number, self._row)

    def _read(self, number: int, source: dict[str, Any], label: Any) -> _Decoded:
        name = f"in row {number} of split {self.images.name!r}"
        return _Decoded(read_image(source, name, self.mode), number, label)

    def _row(self, number: int) -> _Decoded:
        row = self.images.rows[number]
        return self._read(number, row[self.images.image_column], row[self.images.label_column])

    def _name(self, number: int) -> str:
        return sample_name(self.images.rows[number][self.images.image_column], number, self.images.name, None)

    def _blank(self) -> torch.Tensor:
        return torch.zeros(len(self.mode), *output_size(self.processor))

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

    def __init__(self, *args: Any, shuffle_buffer: int) -> None:
        super().__init__(*args)
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
            if self.images.problem_type == SINGLE_LABEL and (label is None or not 0 <= label < classes):
                raise DataError(
                    f"row {number} of split {self.images.name!r} has label {label}, outside the {classes} classes."
                )
            yield self.samples([number], [row[self.images.image_column]], [label])[0]


def torch_dataset(
    images: LabelledImages,
    processor: ImageProcessor,
    augmentation: TrainingAugmentation | None = None,
    *,
    arguments: ImageDataArguments | None = None,
    seed: int = 0,
    bad_list: Path | None = None,
) -> ImageDataset | StreamedImageDataset:
    """Make the torch data set of a split: of processed images, augmented and (if streamed) shuffled for training.

    Args:
        images: split to read.
        processor: image processor that makes tensors; with an augmentation it does not resize.
        augmentation: augmentation for training; `None` for evaluation.
        arguments: fields of the `data` section, for images that cannot be read and the shuffling of a stream; by
            default those of a fresh one.
        seed: seed of the augmentation, and of the shuffling of a streamed split.
        bad_list: file that gets a line for every image that could not be read.
    """
    arguments = arguments or ImageDataArguments()
    given = (images, processor, augmentation, arguments, seed, bad_list)
    if images.is_stream:
        return StreamedImageDataset(*given, shuffle_buffer=arguments.shuffle_buffer)
    return ImageDataset(*given)
