"""Types of the values of options: each refuses what it does not mean in one sentence, before anything is imported."""

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from ..errors import DnaError, must_be_empty, must_be_file, must_be_writable
from ..training.limits import LARGEST_SEED


def name(text: str) -> str:
    """A path or a name, which an empty variable of a shell is not."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must be a path or a name, got {text!r}")
    return text


def words(text: str) -> list[str]:
    """Words with commas between."""
    found = [word.strip() for word in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"must be names with commas between, got {text!r}")
    return found


def numbers(text: str) -> list[int]:
    """Whole numbers of at least 0 with commas between."""
    found = [word.strip() for word in text.split(",")]
    if not all(map(_is_whole, found)):
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between, got {text!r}")
    return list(map(int, found))


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def image_size(text: str) -> int | tuple[int, int]:
    """A number of pixels for height and width, or both with an x between."""
    sides = [_whole(side.strip(), 1) for side in text.lower().split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"must be a number of pixels N, or HxW, got {text!r}")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def whole(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def seed(text: str) -> int:
    """A seed of random numbers."""
    return _whole(text, 0, LARGEST_SEED)


def port(text: str) -> int:
    """A port of this machine."""
    return _whole(text, 1, 65535)


def finite(text: str) -> float:
    """A finite number of any sign."""
    value = _number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return value


def number(text: str) -> float:
    """A finite number of at least 0."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


def size(text: str) -> str:
    """The size of a file, as transformers takes it."""
    if not re.fullmatch(r"(?=.*[1-9])\d+(\.\d+)?[KMGT]B", text, re.IGNORECASE):
        raise argparse.ArgumentTypeError(f"must be a size such as 500MB or 5GB, got {text!r}")
    return text


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


def _whole(text: str, least: int, most: int | None = None) -> int:
    value = int(text) if _is_whole(text) else -1
    if value < least or (most is not None and value > most):
        wanted = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"must be a whole number {wanted}, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _place(check: Callable[[str, type[DnaError]], Path]) -> Callable[[str], Path]:
    """The type of a path that is checked before anything is written there."""

    def read(text: str) -> Path:
        try:
            return check(name(text), DnaError)
        except DnaError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


output_file = _place(must_be_file)
output_folder = _place(must_be_writable)
empty_folder = _place(must_be_empty)
