"""Image processor of the DnA VideoLLaMA3; it needs no torchvision.

The rule of the sizes and the downloads are those of its video processor, too.
"""

import math
import os
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from huggingface_hub import is_offline_mode

# from its module, which is there without torchvision; the name at the top level is not
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import SizeDict, is_pil_image, is_valid_image, load_image
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

from .image_depth import open_image, to_eight_bits
from .processing_options import BYTES, check_without_use, is_scaled, pixel_limits, to_bytes


# seconds without an answer
DOWNLOAD_TIMEOUT = 60
# of an image or a frame
MIN_VISUAL_TOKENS = 16
# of all images and frames of a sample
MAX_VISUAL_TOKENS = 16384


class DnAVideoLlama3ImageProcessor(VideoLlama3ImageProcessorPil):
    r"""
    As transformers' image processor of VideoLLaMA3 on Pillow, but `size` allows 16,384 patches, and no size breaks
    `size["longest_edge"]`, however long and thin the image is.

    Makes `pixel_values` (patches, 3 * patch_size ** 2), the patches of a token next to each other, `image_grid_thw`
    (images, 3) and `image_merge_sizes` (images,). Floating-point numbers in [0, 1] are not scaled again.

    Raises:
        ValueError: for an option that would have no effect, or numbers that are neither in [0, 1] nor in [0, 255].
    """

    size = {"shortest_edge": MIN_VISUAL_TOKENS * 14**2, "longest_edge": MAX_VISUAL_TOKENS * 14**2}

    def preprocess(self, images: Any, **options: Any) -> BatchFeature:  # type: ignore[override]
        """Process an image or a list of images; any argument of the class can be overridden by name."""
        own = {name: getattr(self, name, None) for name in ("do_center_crop", "do_pad")}
        check_without_use(type(self).__name__, own | options, ("do_convert_rgb",))
        size = self.size_limits(options)
        return super().preprocess(images, **options, size=size)

    def size_limits(self, options: dict[str, Any]) -> dict[str, int]:
        """The `size` of a call: takes `size`, `min_pixels` and `max_pixels` out of its options."""
        names = ("size", "min_pixels", "max_pixels")
        least, most = pixel_limits(*(options.pop(name, None) for name in names))
        own_least, own_most = pixel_limits(self.size)
        return {"shortest_edge": least or own_least, "longest_edge": most or own_most}

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict[str, Any] | None = None) -> int:
        """Patches of an image of so many pixels, with the options of a call."""
        options = dict(images_kwargs or {})
        size = self.size_limits(options)
        patch = options.get("patch_size") or self.patch_size
        factor = patch * (options.get("merge_size") or self.merge_size)
        height, width = resized_sides(height, width, factor, size["shortest_edge"], size["longest_edge"])
        return height // patch * (width // patch)

    def _preprocess(self, images: list[Any], **options: Any) -> BatchFeature:  # type: ignore[override]
        if options["do_rescale"]:
            images = [to_bytes(image, "an image") for image in images]
        return super()._preprocess(images, **options)

    def resize(  # type: ignore[override]
        self, image: Any, size: SizeDict, resample: Any, factor: int, **kwargs: Any
    ) -> Any:
        """Resize an image (channels, height, width) to sides that are multiples of `factor`."""
        height, width = image.shape[-2:]
        fewest, most = size.shortest_edge, size.longest_edge
        height, width = resized_sides(height, width, factor, fewest, most)  # type: ignore[arg-type]
        sides = SizeDict(height=height, width=width)
        numbers = torch.as_tensor(image)
        if is_scaled(numbers):
            # Pillow resizes bytes
            levels = (numbers * 255).round().to(torch.uint8).numpy()
            return PilBackend.resize(self, levels, sides, resample).astype("float32") / 255
        return PilBackend.resize(self, image, sides, resample)


def resized_sides(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Height and width, in pixels, after resizing: multiples of `factor`, as close to the given ones as may be.

    They are rounded, but down where the image has to shrink to `max_pixels`, up where it has to grow to `min_pixels`.
    `max_pixels` is never exceeded.

    Raises:
        ValueError: for a `max_pixels` below the `factor ** 2` pixels of a token.
    """
    if max_pixels < factor**2:
        raise ValueError(f"max_pixels={max_pixels} is less than a token has, {factor}x{factor} pixels: raise it.")
    least, most = -(-min_pixels // factor**2), max_pixels // factor**2
    rows, columns = round(height / factor), round(width / factor)
    if rows * columns > most:
        # roots of whole numbers, so that what fits exactly does
        rows = max(1, math.isqrt(height * max_pixels // (width * factor**2)))
        columns = max(1, math.isqrt(width * max_pixels // (height * factor**2)))
    elif rows * columns < least:
        rows = math.isqrt((height * min_pixels - 1) // (width * factor**2)) + 1
        columns = math.isqrt((width * min_pixels - 1) // (height * factor**2)) + 1
    if rows * columns > most:
        # what is long and thin, or grew beyond the limit
        rows, columns = (rows, most // rows) if rows <= columns else (most // columns, columns)
    return rows * factor, columns * factor


def read_image(image: Any, do_rescale: bool = True) -> Any:
    """The image, read if it is a path, a URL or text in base64.

    Args:
        image: path, URL, base64, PIL image, or array or tensor with the channels in front or behind.
        do_rescale: whether numbers are made bytes; else floating-point ones are left as they are.

    Raises:
        ValueError: if it is something else, cannot be read, or holds numbers whose range is not known.
    """
    if not isinstance(image, str | os.PathLike):
        if not is_valid_image(image):
            raise ValueError(f"an image is a path, a URL, a PIL image or an array, got {type(image).__name__}.")
        if getattr(image, "ndim", 3) != 3:
            raise ValueError(f"an image is (height, width, channels) or the like, got shape {tuple(image.shape)}.")
        if is_pil_image(image):
            return to_eight_bits(image)
        if do_rescale:
            return to_bytes(image, "an image")
        if not str(image.dtype).removeprefix("torch.").startswith(("uint8", "float", "bfloat")):
            raise ValueError(f"an image has {BYTES}, got {image.dtype}.")
        return image
    name = os.fspath(image)
    try:
        if is_url(name):
            file: Any = BytesIO(download(name))
        else:
            file = name if Path(name).is_file() else BytesIO(b64decode(name.rpartition(",")[2], validate=True))
    except OSError as error:
        raise ValueError(f"cannot read image {name[:200]!r}: {error}.") from error
    except ValueError as error:
        raise ValueError(f"cannot read image {name[:200]!r}: there is no such file.") from error
    try:
        return load_image(open_image(file))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read image {name[:200]!r}: {error}.") from error


def is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def download(url: str) -> bytes:
    """
    Raises:
        OSError: if it fails, or the Hub's clients are told to stay offline.
    """
    if is_offline_mode():
        raise OSError("HF_HUB_OFFLINE=1 forbids downloads: give a local path")
    with urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:
        return response.read()


__all__ = ["DnAVideoLlama3ImageProcessor"]
