"""What training does to an image: crop, flip, RandAugment on the picture, random erasing on the tensor.

All of it draws from a generator that the caller seeds, and from nothing else.
"""

import math
import random as python_random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from .arguments import ImageDataArguments
from .errors import DataError


# arXiv:1708.04896, with the bounds of timm
ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 1 / 0.3)
# timm passes over what it does not understand
RAND_AUGMENT = re.compile(r"rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?|-t[a-z0-9]+)*")


class TrainingAugmentation:
    """Random resized crop, horizontal flip and RandAugment on PIL images, random erasing on tensors.

    Crop and flip are torchvision's transforms of these names, RandAugment and random erasing timm's.

    Args:
        arguments: fields of the `data` section, for the crop, the flip, RandAugment and the erasing.
        image_size: height and width of the result, in pixels.
        resample: PIL's number of the interpolation.
        image_mean: mean per channel, in [0, 1]; RandAugment fills with this colour what it uncovers.

    Raises:
        DataError: if `auto_augment` is not understood, or timm is missing, or the images have not three channels.
    """

    def __init__(
        self,
        arguments: ImageDataArguments,
        image_size: tuple[int, int],
        resample: int,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        self.scale = arguments.crop_scale
        self.ratio = arguments.crop_ratio
        self.flip_probability = arguments.flip_probability
        self.erasing_probability = arguments.erasing_probability
        self.image_size = image_size
        self.resample = Image.Resampling(resample)
        self.auto_augment = _rand_augment(arguments.auto_augment, image_mean, self.resample)

    def __call__(self, image: Image.Image, random: np.random.Generator) -> Image.Image:
        """Augment one image to `image_size`."""
        box = (0, 0, *image.size) if self.scale[0] == 1 else self.crop_box(*image.size, random)
        image = image.resize(self.image_size[::-1], self.resample, box=box)
        if random.random() < self.flip_probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.auto_augment is not None:
            with _global_generators(random):
                image = self.auto_augment(image)
        return image

    def crop_box(self, width: int, height: int, random: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw a crop (left, top, right, bottom) of the wanted area and aspect ratio that lies in the image."""
        for _ in range(10):
            crop_height, crop_width = _draw_sides(width * height, self.scale, self.ratio, random)
            if 0 < crop_width <= width and 0 < crop_height <= height:
                left = int(random.integers(width - crop_width, endpoint=True))
                top = int(random.integers(height - crop_height, endpoint=True))
                return left, top, left + crop_width, top + crop_height
        # the image is longer than the ratios allow: the largest centred crop
        crop_width = min(width, max(1, round(height * self.ratio[1])))
        crop_height = min(height, max(1, round(width / self.ratio[0])))
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        return left, top, left + crop_width, top + crop_height

    def erase(self, pixel_values: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        """Replace one rectangle by standard normal noise, with the probability of random erasing.

        Args:
            pixel_values: normalised image (channels, height, width); not changed.
            random: generator.
        """
        if not self.erasing_probability or random.random() >= self.erasing_probability:
            return pixel_values
        channels, height, width = pixel_values.shape
        for _ in range(10):
            tall, wide = _draw_sides(height * width, ERASED_AREA, ERASED_RATIO, random)
            if tall < height and wide < width:
                top = int(random.integers(height - tall, endpoint=True))
                left = int(random.integers(width - wide, endpoint=True))
                noise = random.standard_normal((channels, tall, wide), dtype=np.float32)
                pixel_values = pixel_values.clone()
                pixel_values[:, top : top + tall, left : left + wide] = torch.from_numpy(noise)
                break
        return pixel_values


def _draw_sides(
    area: int,
    scale: tuple[float, float] | list[float],
    ratio: tuple[float, float] | list[float],
    random: np.random.Generator,
) -> tuple[int, int]:
    """Height and width of a rectangle: its part of the area is uniform, the logarithm of width / height, too."""
    part = area * random.uniform(scale[0], scale[1])
    aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
    return round(math.sqrt(part / aspect)), round(math.sqrt(part * aspect))


def _rand_augment(
    name: str | None, image_mean: Sequence[float], resample: Image.Resampling
) -> Callable[[Image.Image], Image.Image] | None:
    """timm's RandAugment, set up as timm's own training transforms do."""
    if name is None:
        return None
    if not RAND_AUGMENT.fullmatch(name):
        raise DataError(f"auto_augment is RandAugment in timm's notation, e.g. 'rand-m9-mstd0.5-inc1', not {name!r}.")
    if len(image_mean) != 3:
        raise DataError(
            f"auto_augment is for images of three channels, but the model takes {len(image_mean)}: leave it out."
        )
    try:
        from timm.data.auto_augment import rand_augment_transform
    except ImportError as error:
        raise DataError(f"auto_augment needs timm ({error}): pip install 'dna-hf[recipes]'.") from error
    mean_colour = tuple(min(255, round(255 * mean)) for mean in image_mean)
    return rand_augment_transform(name, {"img_mean": mean_colour, "interpolation": resample})


@contextmanager
def _global_generators(random: np.random.Generator) -> Iterator[None]:
    """Seed the generators that timm draws from, those of Python and numpy, and put them back afterwards."""
    before = python_random.getstate(), np.random.get_state()
    seed = int(random.integers(2**32))
    python_random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        python_random.setstate(before[0])
        np.random.set_state(before[1])
