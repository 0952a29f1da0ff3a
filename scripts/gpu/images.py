"""CIFAR-10 as tensors: decoded once, and cropped, mirrored, resized and normalised on the device."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import torch
from kit import Part
from PIL import Image
from torch.nn import functional

from dna_hf.data.embedded import fashion_mnist_mini


PADDING = 4
# images that one thread decodes before it takes the next ones
CHUNK = 500


@dataclass(frozen=True)
class Images:
    """Images of one size and their labels.

    Args:
        pixels: (images, channels, height, width), uint8.
        labels: (images), numbers of the classes.
    """

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Images":
        """The same on a device."""
        return Images(self.pixels.to(device), self.labels.to(device))


def read_parquet(folder: Path, split: str, count: int | None = None) -> Images:
    """Decode the images of a split, once, in threads.

    Args:
        folder: folder with parquet files that have the columns `image` (`bytes`) and `label`; the name of a file says
            its split.
        split: `"train"` or `"test"`.
        count: how many images, the first ones; all by default.
    """
    paths = sorted(path for path in folder.rglob("*.parquet") if split in path.name)
    if not paths:
        raise FileNotFoundError(f"{str(folder)!r} has no parquet file with {split!r} in its name.")
    table = pyarrow.concat_tables(parquet.read_table(path, columns=["image", "label"]) for path in paths)[:count]
    encoded = [image["bytes"] for image in table["image"].to_pylist()]
    with ThreadPoolExecutor() as threads:
        chunks = threads.map(_decode, (encoded[start : start + CHUNK] for start in range(0, len(encoded), CHUNK)))
        pixels = np.concatenate(list(chunks))
    return Images(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor(table["label"].to_pylist()))


def _decode(encoded: list[bytes]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in encoded])


def read_images(part: Part, split: str, count: int | None = None) -> Images:
    """CIFAR-10 if its folder was given, else the part of Fashion-MNIST that the package embeds (in three channels).

    At the full scale CIFAR-10 must be given. `count` is how many images, the first ones; all by default.
    """
    if part.data is not None:
        return read_parquet(part.data, split, count)
    if not part.tiny:
        raise FileNotFoundError("the full scale needs CIFAR-10: give its folder (DATA=).")
    grey, labels = fashion_mnist_mini(split)
    pixels = torch.from_numpy(grey[:count])[:, None].expand(-1, 3, -1, -1).contiguous()
    return Images(pixels, torch.from_numpy(labels[:count]).long())


def crop_and_flip(pixels: torch.Tensor, shifts: torch.Tensor, flips: torch.Tensor, padding: int) -> torch.Tensor:
    """Pad images with black, cut windows of their own size out of them, and mirror some.

    Args:
        pixels: (images, channels, height, width).
        shifts: (images, 2), row and column of a window's first pixel in its padded image, 0 to `2 * padding`.
        flips: (images), which are mirrored from left to right.
        padding: pixels on each side.
    """
    count, channels, height, width = pixels.shape
    device = pixels.device
    padded = functional.pad(pixels, (padding,) * 4)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = torch.where(flips[:, None], columns.flip(1), columns) + shifts[:, 1:]
    rows = torch.arange(height, device=device) + shifts[:, :1]
    return padded[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


class Epoch:
    """The batches of one epoch, for several seeds: each has its own order, crops and flips. The rest is left out.

    Args:
        images: training images, on the device.
        seeds: a seed for each model.
        number: number of the epoch, from 0.
        batch_size: images of a batch.
    """

    def __init__(self, images: Images, seeds: Sequence[int], number: int, batch_size: int):
        self.images, self.batch_size = images, batch_size
        draws = [self._draw(seed, number) for seed in seeds]
        self.order, self.shifts, self.flips = (
            torch.stack(own).to(images.labels.device) for own in zip(*draws, strict=True)
        )

    def _draw(self, seed: int, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Drawn on the CPU, so that every device sees the same."""
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        count = len(self.images)
        order = torch.randperm(count, generator=generator)
        shifts = torch.randint(2 * PADDING + 1, (count, 2), generator=generator)
        return order, shifts, torch.rand(count, generator=generator) < 0.5

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pixels (models, batch, channels, height, width), uint8, and labels (models, batch)."""
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            here = slice(start, start + self.batch_size)
            order = self.order[:, here]
            shifts, flips = self.shifts[:, here].flatten(0, 1), self.flips[:, here].flatten()
            pixels = crop_and_flip(self.images.pixels[order.flatten()], shifts, flips, PADDING)
            yield pixels.unflatten(0, order.shape), self.images.labels[order]


@dataclass(frozen=True)
class Inputs:
    """What a model makes of pixels: values in [0, 1], enlarged if it sees another size, normalised.

    Args:
        mean: mean of each channel.
        deviation: standard deviation of each channel.
        size: height and width that images are resized to; their own by default.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    size: int | None = None

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(..., channels, height, width), uint8, to float32."""
        values = pixels.float() / 255
        if self.size is not None:
            shape = values.shape[:-3]
            values = functional.interpolate(values.flatten(0, -4), size=(self.size, self.size), mode="bicubic")
            values = values.clamp(0, 1).unflatten(0, shape)
        mean, deviation = (by_channel(numbers, pixels.device) for numbers in (self.mean, self.deviation))
        return (values - mean) / deviation


@cache
def by_channel(numbers: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """A number for each channel, (channels, 1, 1), once for each device."""
    return torch.tensor(numbers, device=device)[:, None, None]
