"""What the samples of splits are like: sizes, modes, which cannot be read, and which are there more than once.

Samples are looked at in a drawn order until the time is over: large data sets cost no more than the time given.
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
from PIL import Image, UnidentifiedImageError

from ..errors import needed, sentence
from .errors import DataError
from .image_reading import BROKEN, WIDE, decode, eight_bits
from .problem_types import MULTI_LABEL, SINGLE_LABEL
from .splits import LeftOut, Split


if TYPE_CHECKING:
    from .clips import LabelledVideos
    from .labelled_images import LabelledImages

# images that are read from a table at a time
CHUNK = 64


class Sample(NamedTuple):
    """A sample of a split.

    Args:
        split: name of the split.
        name: path or row of the sample.
        label: its class, its classes, or its values, as text.
    """

    split: str
    name: str
    label: str

    def __str__(self) -> str:
        return f"{self.name} ({self.split})"


@dataclass
class Inspection:
    """What an inspection of samples found.

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


def inspect_images(splits: Sequence["LabelledImages"], seconds: float, folder: Path | None = None) -> Inspection:
    """Decode images until the time is over; the smaller splits first, for duplicates are looked for in all of them.

    Args:
        splits: splits with random access.
        seconds: how long it may take. Each split gets its share of what the others leave.
        folder: folder of the data set, which names of files start from.
    """
    found = Inspection(total=sum(map(len, splits)))
    by_content: dict[bytes, list[tuple[int, int]]] = {}
    end = time.monotonic() + seconds
    order = sorted(range(len(splits)), key=lambda number: len(splits[number]))
    names: dict[tuple[int, int], str] = {}
    for done, number in enumerate(order):
        until = time.monotonic() + (end - time.monotonic()) / (len(order) - done)
        for row, source in _drawn(splits[number], until):
            found.seen += 1
            try:
                image = decode(source)
                # what training refuses cannot be read here either
                eight_bits(image)
                digest = content_digest(image)
            except BROKEN as error:
                name = sample_name(source, row, splits[number].name, folder)
                found.unreadable.append(LeftOut(name, _reason(error)))
                continue
            found.sizes[image.size] += 1
            found.modes[image.mode] += 1
            group = by_content.setdefault(digest, [])
            group.append((number, row))
            names[number, row] = sample_name(source, row, splits[number].name, folder)
    groups = [sorted(group) for group in by_content.values() if len(group) > 1]
    labels = [split.labels() if groups else np.empty(0) for split in splits]
    found.duplicates = [
        [
            Sample(splits[number].name, names[number, row], _label(splits[number], labels[number], row))
            for number, row in group
        ]
        for group in sorted(groups)
    ]
    return found


def inspect_videos(splits: Sequence["LabelledVideos"], seconds: float, folder: Path | None = None) -> Inspection:
    """Read the headers of video files, and compare files of the same length, until the time is over.

    Nothing is decoded: the same film in two files is not found. Clips that are drawn are not looked at.

    Args:
        splits: splits of videos.
        seconds: how long it may take.
        folder: folder of the data set, which names of files start from.
    """
    from .motion import MotionClip

    end = time.monotonic() + seconds
    clips = [(split, clip) for split in splits for clip in split.clips if not isinstance(clip, MotionClip)]
    found = Inspection(total=len(clips))
    drawn = np.random.default_rng(0).permutation(len(clips)).tolist()
    for number in drawn:
        if time.monotonic() > end - seconds / 2:
            break
        found.seen += 1
        clip = clips[number][1]
        try:
            size, rate = _first_frame(clip.frames[0]) if clip.frames else _header(clip.path)
        except BROKEN as error:
            found.unreadable.append(LeftOut(relative(clip.path, folder), _reason(error)))
            continue
        found.sizes[size] += 1
        found.modes[rate] += 1
    found.duplicates = [
        [Sample(split.name, relative(clip.path, folder), split.class_names[clip.label]) for split, clip in group]
        for group in _same_files([clips[number] for number in sorted(drawn[: found.seen])], end)
    ]
    return found


def _same_files(clips: Sequence[tuple[Any, Any]], end: float) -> list[list[tuple[Any, Any]]]:
    """Groups of clips that are the same part of files of the same bytes; only files of one length are read."""
    lengths: dict[int, list[tuple[Any, Any]]] = {}
    for split, clip in clips:
        if clip.frames is None:
            lengths.setdefault(Path(clip.path).stat().st_size, []).append((split, clip))
    groups: dict[tuple, list[tuple[Any, Any]]] = {}
    digests: dict[str, bytes] = {}
    for alike in lengths.values():
        for split, clip in alike if len(alike) > 1 else ():
            if clip.path not in digests and time.monotonic() < end:
                digests[clip.path] = _file_digest(clip.path)
            if clip.path in digests:
                groups.setdefault((digests[clip.path], *clip.key[1:]), []).append((split, clip))
    return [group for group in groups.values() if len(group) > 1]


def _first_frame(path: str) -> tuple[tuple[int, int], str]:
    """Width and height of an image that is a frame, in pixels, and what stands for the frame rate."""
    with Image.open(path) as image:
        return image.size, "folder of frames"


def _file_digest(path: str) -> bytes:
    digest = hashlib.blake2b()
    with Path(path).open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.digest()


def _reason(error: Exception) -> str:
    """Why a file cannot be read, without its path or address in memory."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known format"
    return sentence(error)


def _header(path: str) -> tuple[tuple[int, int], str]:
    """Width and height of a video in pixels, and its frame rate as text."""
    av = needed("av", DataError, "reading videos")
    # a title in another encoding does no harm
    with av.open(path, metadata_errors="replace") as container:
        if not container.streams.video:
            raise ValueError("it has no pictures")
        stream = container.streams.video[0]
        rate = stream.average_rate
        return (stream.width, stream.height), f"{float(rate):.4g} fps" if rate else "no frame rate"


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
    return relative(path, folder)


def relative(path: str, folder: Path | None) -> str:
    """A path from a folder on, where it lies in it; either may be given from the working directory on."""
    if folder is None or not Path(path).absolute().is_relative_to(folder.absolute()):
        return path
    return Path(path).absolute().relative_to(folder.absolute()).as_posix()


def _label(split: Split, labels: np.ndarray, row: int) -> str:
    """The class of a sample, its classes, or its values."""
    if split.problem_type == SINGLE_LABEL:
        return split.class_names[int(labels[row])]
    if split.problem_type == MULTI_LABEL:
        return ", ".join(split.class_names[number] for number in np.flatnonzero(labels[row] > 0))
    return ", ".join(f"{value:g}" for value in labels[row])
