"""What the images of splits are like: sizes, modes, which cannot be read, and which are there more than once.

Images are decoded in a drawn order until the time is over, so that large data sets cost no more than the time given.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import first_line, needed
from .errors import DataError
from .splits import LeftOut


if TYPE_CHECKING:
    from .sources import LabelledImages

# images that are read from a table at a time
CHUNK = 64
# Pillow's modes of numbers of more than 8 bits, which no other mode holds
WIDE = ("I", "F")
# what Pillow raises for broken files
BROKEN = (OSError, ValueError, SyntaxError, EOFError)


class Sample(NamedTuple):
    """A sample of a split.

    Args:
        split: name of the split.
        name: path or row of the sample.
        label: name of its class; empty where it has no single one.
    """

    split: str
    name: str
    label: str

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"


@dataclass
class Look:
    """What a look at samples found.

    Args:
        seen: how many samples were looked at, those that cannot be read included.
        total: how many there are.
        sizes: (width, height) in pixels -> how many.
        modes: Pillow's mode, or what else is told apart -> how many.
        unreadable: samples that cannot be read.
        duplicates: groups of samples with the same content, in the order of the splits.
    """

    seen: int = 0
    total: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    unreadable: list[LeftOut] = field(default_factory=list)
    duplicates: list[list[Sample]] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether all samples were looked at."""
        return self.seen == self.total

    def across(self) -> dict[tuple[str, str], list[tuple[Sample, Sample]]]:
        """Pairs of splits -> samples of the second split with a sample of the first one that is the same."""
        found: dict[tuple[str, str], list[tuple[Sample, Sample]]] = {}
        for group in self.duplicates:
            for one, other in combinations(dict.fromkeys(sample.split for sample in group), 2):
                first = next(sample for sample in group if sample.split == one)
                pairs = [(first, sample) for sample in group if sample.split == other]
                found.setdefault((one, other), []).extend(pairs)
        return found

    def within(self) -> dict[str, list[tuple[Sample, Sample]]]:
        """Split -> samples that are there already, each with the first one that is the same."""
        found: dict[str, list[tuple[Sample, Sample]]] = {}
        for group in self.duplicates:
            for split in dict.fromkeys(sample.split for sample in group):
                first, *others = [sample for sample in group if sample.split == split]
                if others:
                    found.setdefault(split, []).extend((first, other) for other in others)
        return found

    def contradictions(self) -> list[tuple[Sample, Sample]]:
        """Of every group of the same samples with different classes, the first two of them."""
        found = []
        for first, *others in self.duplicates:
            other = next((sample for sample in others if sample.label != first.label), None)
            if other is not None:
                found.append((first, other))
        return found


def look_at_images(splits: Sequence["LabelledImages"], seconds: float, folder: Path | None = None) -> Look:
    """Decode images until the time is over; the smaller splits first, for duplicates are looked for in all of them.

    Args:
        splits: splits with random access.
        seconds: how long it may take. Each split gets its share of what the others leave.
        folder: folder of the data set, which names of files start from.
    """
    look = Look(total=sum(map(len, splits)))
    by_content: dict[bytes, list[tuple[int, int]]] = {}
    end = time.monotonic() + seconds
    order = sorted(range(len(splits)), key=lambda number: len(splits[number]))
    names: dict[tuple[int, int], str] = {}
    for done, number in enumerate(order):
        until = time.monotonic() + (end - time.monotonic()) / (len(order) - done)
        for row, source in _drawn(splits[number], until):
            look.seen += 1
            try:
                image = needed("datasets", DataError, "reading images").Image().decode_example(source)
            except BROKEN as error:
                name = sample_name(source, row, splits[number].name, folder)
                look.unreadable.append(LeftOut(name, first_line(error)))
                continue
            look.sizes[image.size] += 1
            look.modes[image.mode] += 1
            group = by_content.setdefault(content_digest(image), [])
            group.append((number, row))
            names[number, row] = sample_name(source, row, splits[number].name, folder)
    groups = [sorted(group) for group in by_content.values() if len(group) > 1]
    labels = [split.labels() if groups else np.empty(0) for split in splits]
    look.duplicates = [
        [
            Sample(splits[number].name, names[number, row], _label(splits[number], labels[number], row))
            for number, row in group
        ]
        for group in sorted(groups)
    ]
    return look


def _drawn(split: "LabelledImages", until: float) -> Iterator[tuple[int, Any]]:
    """Rows of a split with their undecoded images, in an order that is always the same, until it is too late."""
    rows = split.rows.select_columns([split.image_column])
    order = np.random.default_rng(0).permutation(len(split))
    for start in range(0, len(order), CHUNK):
        numbers = np.sort(order[start : start + CHUNK]).tolist()
        for number, source in zip(numbers, rows[numbers][split.image_column], strict=True):
            if time.monotonic() > until:
                return
            yield number, source


def content_digest(image: Any) -> bytes:
    """What images of the same pixels have in common, whatever their files are."""
    if image.mode != "RGB" and not image.mode.startswith(WIDE):
        image = image.convert("RGB")
    return hashlib.blake2b(image.tobytes(), digest_size=16, person=repr(image.size).encode()[:16]).digest()


def sample_name(source: Any, row: int, split: str, folder: Path | None) -> str:
    """The path of an image from the folder of the data set on, or its row."""
    path = source.get("path") if isinstance(source, dict) else None
    if path is None or source.get("bytes") is not None:
        return f"row {row}" + (f", {path}" if path else "")
    inside = folder is not None and Path(path).is_relative_to(folder)
    return Path(path).relative_to(folder).as_posix() if inside else str(path)  # type: ignore[arg-type]


def _label(split: "LabelledImages", labels: np.ndarray, row: int) -> str:
    return split.class_names[int(labels[row])] if labels.ndim == 1 else ""
