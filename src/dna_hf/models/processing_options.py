"""What the image and video processors here share: which options there are, limits of sizes, and the range of numbers.

They take the options of transformers' own processors. One that has nothing to act on here, e.g. a crop of patches, is
refused by name where it would change something.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers.image_utils import SizeDict
from transformers.utils import logging


logger = logging.get_logger(__name__)

# options of transformers' processors with nothing to act on here, and the values of them that ask for nothing
WITHOUT_USE: dict[str, tuple[Any, ...]] = {
    "do_center_crop": (False,),
    "crop_size": (),
    "do_pad": (False,),
    "pad_size": (),
    "do_convert_rgb": (True,),
    "data_format": ("channels_first",),
    "device": ("cpu",),
    "temporal_patch_size": (1,),
    "image_seq_length": (),
    "default_to_square": (True, False),
    "disable_grouping": (True, False),
}
BYTES = "bytes from 0 to 255 (uint8), or floating-point numbers in [0, 1] or [0, 255]"


def nearest(name: Any, known: Iterable[str]) -> str:
    """The known name that is most like another one, as the end of a sentence; empty if none is."""
    found = difflib.get_close_matches(str(name), list(known), 1)
    return f": did you mean {found[0]!r}?" if found else "."


def check_names(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """
    Raises:
        ValueError: for an option that is not known.
    """
    for name in given:
        if name not in known:
            raise ValueError(f"{owner} has no option {name!r}{nearest(name, known)}")


def check_without_use(owner: str, options: Mapping[str, Any], own: Iterable[str] = ()) -> None:
    """
    Args:
        owner: name of the class of the processor.
        options: options by name; `None` asks for nothing.
        own: names among `WITHOUT_USE` that this processor has a use for.

    Raises:
        ValueError: for an option that would have no effect.
    """
    for name, harmless in WITHOUT_USE.items():
        value = getattr(options.get(name), "value", options.get(name))
        value = str(value) if isinstance(value, torch.device) else value
        if value is not None and name not in own and value not in harmless:
            fit = f"leave it out, or say {harmless[0]!r}" if harmless else "leave it out"
            raise ValueError(f"{owner} has no use for {name}={value!r}: {fit}.")


def pixel_limits(size: Any, min_pixels: int | None = None, max_pixels: int | None = None) -> tuple[Any, Any]:
    """Fewest and most pixels that a size of transformers' VideoLLaMA3 stands for; `None` where it says nothing.

    Args:
        size: `{"shortest_edge": ..., "longest_edge": ...}` or `{"min_pixels": ..., "max_pixels": ...}`, numbers of
            pixels.
        min_pixels: fewest pixels, before those of `size`.
        max_pixels: most pixels, before those of `size`.

    Raises:
        ValueError: for a size of another kind, or numbers that are none.
    """
    if size is not None and not isinstance(size, Mapping | SizeDict):
        raise ValueError(f"size must be {{'shortest_edge': pixels, 'longest_edge': pixels}}, got {size!r}.")
    given = {name: value for name, value in dict(size or {}).items() if value is not None}
    unknown = set(given) - {"shortest_edge", "longest_edge", "min_pixels", "max_pixels"}
    if unknown:
        raise ValueError(
            f"size must be {{'shortest_edge': pixels, 'longest_edge': pixels}}, got {', '.join(sorted(unknown))}."
        )
    least = min_pixels or given.get("min_pixels", given.get("shortest_edge"))
    most = max_pixels or given.get("max_pixels", given.get("longest_edge"))
    for value in (least, most):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"min_pixels and max_pixels must be integers of at least 1, got {value!r}.")
    return least, most


def is_scaled(numbers: torch.Tensor) -> bool:
    """Whether they are floating-point numbers in [0, 1]."""
    return numbers.is_floating_point() and bool(numbers.min() >= 0 and numbers.max() <= 1)


def to_bytes(values: Any, what: str) -> Any:
    """Numbers of pixels, an array or a tensor, as bytes from 0 to 255.

    Floating-point numbers none of which is above 1 are taken for scaled ones, as transformers does, and multiplied by
    255 with a warning.

    Args:
        values: numbers of any shape.
        what: who has them, as the beginning of a sentence: "an image".

    Raises:
        ValueError: for numbers that are neither in [0, 1] nor in [0, 255].
    """
    numbers = torch.as_tensor(values)
    if numbers.dtype == torch.uint8:
        return values
    numbers = scaled_to_levels(numbers, what).round().to(torch.uint8)
    return numbers if isinstance(values, torch.Tensor) else numbers.numpy()


def scaled_to_levels(numbers: torch.Tensor, what: str) -> torch.Tensor:
    """Numbers of pixels from 0 to 255, those in [0, 1] multiplied by 255; see [`to_bytes`].

    Raises:
        ValueError: for numbers that are neither in [0, 1] nor in [0, 255].
    """
    if numbers.dtype == torch.uint8:
        return numbers
    if numbers.dtype in (torch.bool, torch.uint16, torch.uint32, torch.uint64):
        # how bright is 200 of 65535, or of 255? A picture that Pillow opens says it
        raise ValueError(f"{what} has {BYTES}, got {numbers.dtype}.")
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.numel() else (0.0, 0.0)
    # what is no number fails the comparison, too
    if not (low >= 0 and high <= 255):
        raise ValueError(f"{what} has {BYTES}, got {numbers.dtype} from {low:g} to {high:g}.")
    if not numbers.is_floating_point() or high > 1:
        return numbers.float()
    logger.warning_once(
        f"{what} has floating-point numbers in [0, 1]: they are taken for scaled ones, and not multiplied by "
        "rescale_factor again; say so by do_rescale=False."
    )
    return numbers.float() * 255
