"""Contact sheets: some pictures of each class on one sheet, as PNG."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..whole_files import whole_file
from .arguments import VideoDataArguments
from .errors import DataError
from .image_reading import read_image
from .inspection import relative, sample_name
from .problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .splits import LeftOut, Split
from .summary import DataSummary, data_folder


# of a sheet, in pixels
SIDE, GAP = 96, 4
COLUMNS = 8
# pictures of the first split, and of each other one
FIRST, OTHER = 2 * COLUMNS, COLUMNS
# the largest and the smallest classes get sheets where there are more
MAX_SHEETS = 100
PAPER = (128, 128, 128)

# reads the picture of a sample: `(split, row)`
Read = Callable[[Split, int], Image.Image]


@dataclass
class Sheet:
    """A sheet that was written.

    Args:
        path: the PNG file.
        title: name of the class.
        rows: split -> how many pictures of it are on the sheet, from the top on.
    """

    path: Path
    title: str
    rows: dict[str, int]


def write_class_sheets(folder: Path, splits: Sequence[Any], summary: DataSummary) -> list[Sheet]:
    """Write a sheet for each class of images or videos; what cannot be read is added to the summary.

    Args:
        folder: folder to write to.
        splits: splits of one data set, those of the first above those of the others.
        summary: what the data set holds.
    """
    root = data_folder(summary.dataset)
    if summary.unit == "images":

        def source(split: Any, row: int) -> Any:
            return split.rows[row][split.image_column]

        def name(split: Any, row: int) -> str:
            return sample_name(source(split, row), row, split.name, root)

        sheets, unreadable = write_sheets(
            folder, splits, lambda split, row: read_image(source(split, row), f"in row {row}"), name
        )
    else:
        from ..models.video_decoding import FrameSampling
        from .videos import VideoReader

        reader, middle = VideoReader(VideoDataArguments.video_timeout), FrameSampling("uniform", 1, 1)

        def frame(split: Any, row: int) -> Image.Image:
            return Image.fromarray(split.clips[row].frames_for(middle, reader)[0])

        def file(split: Any, row: int) -> str:
            return relative(split.clips[row].path, root)

        try:
            sheets, unreadable = write_sheets(folder, splits, frame, file)
        finally:
            reader.close()
    known = {each.path for each in summary.inspection.unreadable} if summary.inspection is not None else set()
    if summary.inspection is not None:
        summary.inspection.unreadable += [each for each in unreadable if each.path not in known]
    return sheets


def write_sheets(
    folder: Path, splits: Sequence[Split], read: Read, name: Callable[[Split, int], str]
) -> tuple[list[Sheet], list[LeftOut]]:
    """Write a sheet for each class, in the place of earlier ones; for a regression one, in the order of the values.

    Args:
        folder: folder to write to.
        splits: the splits, those of the first above those of the others.
        read: function that reads the picture of a row of a split; raises `DataError` where it cannot.
        name: function that names a row of a split.

    Returns:
        The sheets, and the samples that could not be read.
    """
    for earlier in folder.glob("[0-9][0-9][0-9][0-9]_*.png"):
        earlier.unlink()
    sheets, unreadable = [], []
    labels = [split.labels() for split in splits]
    for number, title in tqdm(_chosen(splits, labels), desc="contact sheets", leave=False):
        lines: list[list[Image.Image]] = []
        rows: dict[str, int] = {}
        for split, own in zip(splits, labels, strict=True):
            pictures = []
            for row in _members(split, own, _number(split, splits[0], number), FIRST if split is splits[0] else OTHER):
                try:
                    pictures.append(read(split, row))
                except DataError as error:
                    unreadable.append(LeftOut(name(split, row), str(error)))
            lines += [pictures[start : start + COLUMNS] for start in range(0, len(pictures), COLUMNS)]
            if pictures:
                rows[split.name] = len(pictures)
        if lines:
            path = folder / f"{number:04}_{_file_name(title)}.png"
            with whole_file(path) as unfinished:
                _sheet(lines).save(unfinished, format="PNG")
            sheets.append(Sheet(path, title, rows))
    return sheets, unreadable


def _chosen(splits: Sequence[Split], labels: Sequence[np.ndarray]) -> list[tuple[int, str]]:
    """Number and name of the classes that get a sheet."""
    names = splits[0].class_names
    if splits[0].problem_type == REGRESSION:
        return [(0, "all")]
    if len(names) <= MAX_SHEETS:
        return list(enumerate(names))
    counts = [_count(labels[0], number) for number in range(len(names))]
    by_size = sorted((number for number in range(len(names)) if counts[number]), key=lambda number: -counts[number])
    ends = {*by_size[: MAX_SHEETS // 2], *by_size[-MAX_SHEETS // 2 :]}
    return [(number, names[number]) for number in sorted(ends)]


def _number(split: Split, first: Split, number: int) -> int:
    """What number a class of the first split has in another one, which may know other classes; -1 if none."""
    if split.class_names == first.class_names:
        return number
    name = first.class_names[number]
    return split.class_names.index(name) if name in split.class_names else -1


def _count(labels: np.ndarray, number: int) -> int:
    return int((labels == number).sum() if labels.ndim == 1 else (labels[:, number] > 0).sum())


def _members(split: Split, labels: np.ndarray, number: int, count: int) -> list[int]:
    """Rows of a class, spread over the split; of a regression, rows in the order of their first value."""
    if number < 0:
        return []
    if split.problem_type == SINGLE_LABEL:
        rows = np.flatnonzero(labels == number)
    elif split.problem_type == MULTI_LABEL:
        rows = np.flatnonzero(labels[:, number] > 0)
    else:
        rows = np.argsort(labels[:, 0], kind="stable")
    if not len(rows):
        return []
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)].tolist()


def _sheet(lines: Sequence[Sequence[Image.Image]]) -> Image.Image:
    sheet = Image.new("RGB", ((SIDE + GAP) * COLUMNS + GAP, (SIDE + GAP) * len(lines) + GAP), PAPER)
    for line, pictures in enumerate(lines):
        for column, picture in enumerate(pictures):
            small = thumbnail(picture)
            left = GAP + (SIDE + GAP) * column + (SIDE - small.width) // 2
            top = GAP + (SIDE + GAP) * line + (SIDE - small.height) // 2
            sheet.paste(small, (left, top))
    return sheet


def thumbnail(picture: Image.Image) -> Image.Image:
    """A picture whose longer side is that of a cell; small ones keep their pixels, enlarged."""
    scale = SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.convert("RGB").resize(
        (width, height), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    )


def _file_name(title: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", title).strip("._")[:40] or "class"
