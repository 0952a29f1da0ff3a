"""Pictures as a model saw them, and colours over them; numpy alone."""

from typing import Any

import numpy as np
import torch

from .errors import AnalysisError


# name -> colour of what is positive, colour of what is negative; both pairs survive red-green colour blindness, and
# differ in lightness from the grey between them
COLOURS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red-blue": ((190, 15, 30), (20, 75, 185)),
    "orange-purple": ((220, 95, 0), (85, 40, 150)),
}
GREY = (0.299, 0.587, 0.114)
# how much of the contrast of a picture stays under the colours
CONTRAST = 0.6


def printable(text: str) -> str:
    """A text that every file and figure can hold: bytes of a file name that are no UTF-8 become `\\udcNN`."""
    return text.encode("utf-8", "backslashreplace").decode()


def colour_pair(colours: str) -> tuple[np.ndarray, np.ndarray]:
    """The colours (3,) in [0, 1] of what is positive and what is negative.

    Raises:
        AnalysisError: for an unknown name.
    """
    if colours not in COLOURS:
        raise AnalysisError(f"unknown colours {colours!r}: choose {' or '.join(COLOURS)}.")
    positive, negative = (np.array(colour) / 255 for colour in COLOURS[colours])
    return positive, negative


def pictures(pixel_values: torch.Tensor, processor: Any) -> np.ndarray:
    """Undo the normalisation of a processor.

    Args:
        pixel_values: (..., channels, height, width), as the model takes them.
        processor: an image or video processor.

    Returns:
        (..., height, width, 3) in bytes: what the model saw, cut and resized; of images with alpha, the colours.
    """
    pixels = pixel_values.detach().float().cpu()
    if processor.do_normalize:
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        pixels = pixels * std + mean
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    pixels = (pixels / factor).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)
    return pixels[..., :3].expand(*pixels.shape[:-1], 3).numpy()


def overlay(
    picture: np.ndarray, values: np.ndarray, scale: float, colours: str = "red-blue", opacity: float = 0.85
) -> np.ndarray:
    """Colour the patches of a picture, which turns grey and pale beneath.

    Args:
        picture: (height, width, 3) in bytes.
        values: (rows, columns) of any sign; the patches cover the picture.
        scale: the absolute value, above 0, from which on a colour is as strong as it gets.
        colours: name of a pair of colours, `red-blue` or `orange-purple`.
        opacity: opacity of the strongest colour, in [0, 1].

    Returns:
        (height, width, 3) in bytes.
    """
    positive, negative = colour_pair(colours)
    height, width = picture.shape[:2]
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    strength = np.clip(values[rows][:, columns, None] / scale, -1, 1)
    grey = 1 - CONTRAST * (1 - (picture @ np.array(GREY))[..., None] / 255)
    share = opacity * np.abs(strength)
    mixed = (1 - share) * grey + share * np.where(strength > 0, positive, negative)
    return (255 * mixed).round().astype(np.uint8)


def shared_scale(values: Any) -> float:
    """The largest absolute value in a list of arrays; 1 if all are 0, so that it can be divided by."""
    return max((float(np.abs(array).max()) for array in values), default=0.0) or 1.0
