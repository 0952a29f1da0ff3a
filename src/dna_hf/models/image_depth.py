"""Images of more than 8 bits, scaled to 8 bits by the range of their numbers and never cut off."""

from typing import Any


# where they are missing, transformers loads this file all the same
try:
    import numpy as np
    import PIL.Image
    import PIL.ImageOps
except ImportError:
    pass


SIXTEEN_BITS = 65535
# Pillow's modes of one channel with more than 8 bits; of several channels it keeps the upper 8 bits itself
WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


def open_image(file: Any) -> "PIL.Image.Image":
    """Open an image file, a path or a file object, and read it to 8 bits.

    Raises:
        OSError: if it is none, or damaged.
        ValueError: see [`to_eight_bits`].
    """
    with PIL.Image.open(file) as image:
        image.load()
        return to_eight_bits(image)


def to_eight_bits(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """The image in 8 bits: of 16 bits the upper 8, of floating-point numbers in [0, 1] 255 times their value.

    Pillow's mode of 32 bits, `"I"`, is taken for 16 bits, which is what Pillow reads into it, e.g. of PGM files.

    Args:
        image: image of any mode; one of 8 bits or fewer is returned as it is.

    Raises:
        ValueError: for numbers whose range is not known, without the name of the image.
    """
    if image.mode not in WIDE_MODES:
        return image
    values = np.asarray(PIL.ImageOps.exif_transpose(image))
    lowest, highest = values.min(), values.max()
    if image.mode == "F":
        # nor does NaN
        if not (lowest >= 0 and highest <= 1):
            raise ValueError(
                f"it holds floating-point numbers from {lowest:g} to {highest:g}, of which only those in [0, 1] "
                "have a known range: scale them, or save 8 or 16 bits"
            )
        return PIL.Image.fromarray((255 * values).round().astype(np.uint8))
    if image.mode == "I" and not (lowest >= 0 and highest <= SIXTEEN_BITS):
        raise ValueError(
            f"it holds numbers of 32 bits from {lowest} to {highest}, of which only 0 to {SIXTEEN_BITS:,} have a "
            "known range: save 8 or 16 bits"
        )
    if image.mode == "I" and 0 < highest <= 255:
        raise ValueError(f"it holds numbers up to {highest} in 32 bits, and as 16 bits it would be black: save 8 bits")
    return PIL.Image.fromarray((values >> 8).astype(np.uint8))
