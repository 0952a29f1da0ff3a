"""Read image files, and the images of tables, to 8 bits and the channels that a model takes.

The colours of a transparent picture are those that its file has beneath the transparency, as in torchvision, timm and
the pipelines of transformers: alpha is left out, and nothing is laid underneath. CMYK becomes RGB as Pillow does it,
without a colour profile.
"""

from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import first_line, needed
from .errors import DataError
from .files import register_heif


# Pillow's mode of images with so many channels
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# how Pillow's modes of numbers of more than 8 bits begin, which no other mode holds
WIDE = ("I", "F")
# what Pillow raises for broken files: SyntaxError for PNG, struct errors as ValueError
BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def image_mode(num_channels: int) -> str:
    """Pillow's mode of the images that a model of some channels takes.

    Raises:
        DataError: if images of so many channels cannot be read.
    """
    if num_channels not in MODES:
        raise DataError(
            "images are read with 1 channel (grey), 3 (red, green, blue) or 4 (with alpha), but num_channels is "
            f"{num_channels}: set it to one of these."
        )
    return MODES[num_channels]


def read_image(source: dict[str, Any], name: str, mode: str = "RGB") -> Image.Image:
    """Decode an image `{"bytes", "path"}` to 8 bits, turned as its EXIF orientation says.

    More than 8 bits are scaled, see [`~dna_hf.models.image_depth.to_eight_bits`].

    Args:
        source: bytes of the file, or its path.
        name: what to call an image without a path in messages.
        mode: `"L"`, `"RGB"` or `"RGBA"`, which the image is converted to.

    Raises:
        DataError: naming the image, if it cannot be decoded, or the range of its numbers is not known.
    """
    try:
        image = decode(source)
        if image.mode == mode:
            return image
        image = eight_bits(image)
        return image if image.mode == mode else image.convert(mode)
    except BROKEN as error:
        raise DataError(f"cannot read image {source.get('path') or name}: {first_line(error)}.") from error


@cache
def _decoder() -> Any:
    """What decodes images, made once: there are many images."""
    register_heif()
    return needed("datasets", DataError, "reading images").Image()


def decode(source: dict[str, Any]) -> Image.Image:
    """Decode an image `{"bytes", "path"}` to the mode of its file, turned as its EXIF orientation says.

    Raises:
        Exception: one of `BROKEN`, if it cannot be decoded.
    """
    return _decoder().decode_example(source)


def eight_bits(image: Image.Image) -> Image.Image:
    """The image in 8 bits; see [`~dna_hf.models.image_depth.to_eight_bits`].

    Raises:
        ValueError: if the range of its numbers is not known.
    """
    if not image.mode.startswith(WIDE):
        return image
    # here, because it brings torch with it, which most images do without
    from ..models.image_depth import to_eight_bits

    return to_eight_bits(image)


def read_image_file(path: str | Path, mode: str = "RGB") -> Image.Image:
    """Read an image file; see [`read_image`]."""
    return read_image({"path": str(path), "bytes": None}, str(path), mode)
