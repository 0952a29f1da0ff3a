"""Lists of videos and labels without a header: `path label`, `path,label`, `folder [offset] num_frames label`."""

# paths are text here: there may be millions
# ruff: noqa: PTH118, PTH119, PTH120

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import DataError
from .files import VIDEO_SUFFIXES, is_video
from .video_columns import WHOLE, NoLabels, Part


_SUFFIX = rf"(?:{'|'.join(map(re.escape, sorted(VIDEO_SUFFIXES, key=len, reverse=True)))})"
_SPACED = re.compile(rf"{_SUFFIX}\s+\S", re.IGNORECASE)
_COUNTED = re.compile(r"(.*\S)\s+(\d+)")
_NUMBERS = re.compile(r"\d+(?:\s*[,;|]\s*\d+)+")


# number of the line, video, label, and the part of the video
Line = tuple[int, str, str, Part]


def separator(first: str) -> str:
    """What separates the fields of a table, by its first line."""
    sign = next((sign for sign in ",\t;|" if sign in first), " ")
    # the name of a video may have a sign in it, and its labels
    return (
        " "
        if sign != "\t" and _SPACED.search(first) and not re.search(rf"{_SUFFIX}\s*[{sign}]", first, re.I)
        else sign
    )


def read_list(
    path: Path, file: Iterable[str], first: str, is_there: Callable[[str], bool], notes: list[str]
) -> Iterable[Line]:
    """Read a list without a header.

    Args:
        path: file of the list, for messages.
        file: its lines.
        first: its first line.
        is_there: whether there is a video of a name.
        notes: gets sentences about what the lines mean.

    Raises:
        NoLabels: if its lines are names alone.
        DataError: if a line is no video and label.
    """
    sign = separator(first)
    if sign == " ":
        return _spaced(path, file, is_there, notes)
    reader = csv.reader(file, delimiter=sign, skipinitialspace=True)
    numbered = [(reader.line_num, row) for fields in reader if any(row := [field.strip() for field in fields])]
    if not numbered:
        return []
    start = numbered[0][1]
    turned = len(start) == 2 and is_video(start[1]) and not is_video(start[0])
    if turned:
        notes.append(f"lines of {path.name!r} are a label and a video, in this order.")
    elif all(len(fields) == 2 and fields[0] and fields[1] for _, fields in numbered):
        return ((number, fields[0], fields[1], WHOLE) for number, fields in numbered)
    width = Counter(len(fields) for _, fields in numbered).most_common(1)[0][0]
    lines = []
    for number, fields in numbered:
        if not turned and (len(fields) != width or width > 2) and not is_video(fields[0]):
            fields = _rejoined(fields, sign)
        if not 2 <= len(fields) <= 4 or not fields[0] or not fields[-1] or (turned and len(fields) > 2):
            raise _no_line(path, number, len(fields), width)
        lines.append((number, fields[::-1] if turned else fields))
    return _of_fields(path, lines, width, notes)


def _of_fields(path: Path, lines: list[tuple[int, list[str]]], width: int, notes: list[str]) -> list[Line]:
    """Lines of two to four fields: what lies between the video and its label is a number of frames, or passed over."""
    for number, fields in lines:
        if len(fields) != len(lines[0][1]):
            raise _no_line(path, number, len(fields), len(lines[0][1]))
    if len(lines[0][1]) > 2 and all(all(map(str.isdecimal, fields[1:])) for _, fields in lines):
        _refuse_several(path, lines[0][0], lines[0][1])
        notes.append(_told(path, len(lines[0][1]) == 4))
        return [_counted(path, number, fields) for number, fields in lines]
    if width > 2:
        notes.append(f"of the lines of {path.name!r} the first field is the video, and the last one its label.")
    return [(number, fields[0], fields[-1], WHOLE) for number, fields in lines]


def _rejoined(fields: list[str], sign: str) -> list[str]:
    """The fields of a line, after a look whether the name of the video contains the separator."""
    last = next((place for place in range(len(fields) - 1, 0, -1) if is_video(fields[place])), None)
    if last is None:
        return fields
    return [f"{sign} ".join(fields[: last + 1]), *fields[last + 1 :]]


def _spaced(path: Path, file: Iterable[str], is_there: Callable[[str], bool], notes: list[str]) -> list[Line]:
    """Lines with spaces between the fields, which the name of a video may contain, too, but the label may not."""
    texts = [(number, text) for number, line in enumerate(file, 1) if (text := line.strip())]
    if not texts:
        return []
    if all(len(text.split()) == 1 or is_video(text) for _, text in texts) and not _turned(texts[0][1]):
        return _by_folders(path, texts, notes)
    if _turned(texts[0][1]):
        notes.append(f"lines of {path.name!r} are a label and a video, in this order.")
        pairs = [(number, text.split(maxsplit=1)[::-1]) for number, text in texts]
    else:
        pairs = [(number, text.rsplit(maxsplit=1)) for number, text in texts]
    for number, fields in pairs:
        if len(fields) != 2:
            raise _no_line(path, number, len(fields), 2)
    return _counted_lines(path, pairs, is_there, notes) or [
        (number, video, label, WHOLE) for number, (video, label) in pairs
    ]


def _counted_lines(
    path: Path, pairs: list[tuple[int, list[str]]], is_there: Callable[[str], bool], notes: list[str]
) -> list[Line]:
    """Lines whose video is a folder and one or two numbers; none if a name of a video may end in a number."""
    if not _COUNTED.fullmatch(pairs[0][1][0]) or is_there(pairs[0][1][0]):
        return []
    lines = []
    for number, (video, label) in pairs:
        match = _COUNTED.fullmatch(video)
        if match is None or not label.isdecimal():
            return []
        lines.append((number, [*match.groups(), label]))
    _refuse_several(path, *lines[0])
    offsets = [_COUNTED.fullmatch(fields[0]) for _, fields in lines]
    with_offset = all(offsets) and not is_there(lines[0][1][0])
    if with_offset:
        lines = [
            (number, [*offset.groups(), *fields[1:]])
            for (number, fields), offset in zip(lines, offsets, strict=True)
            if offset
        ]
    notes.append(_told(path, with_offset))
    return [_counted(path, number, fields) for number, fields in lines]


def _turned(first: str) -> bool:
    """Whether a line has the label first: `0 a.mp4`."""
    fields = first.split(maxsplit=1)
    return len(fields) == 2 and is_video(fields[1]) and not is_video(fields[0]) and "/" not in fields[0]


def _by_folders(path: Path, texts: list[tuple[int, str]], notes: list[str]) -> list[Line]:
    """Lines that are names alone: the folder of each is its class, where there are several."""
    folders = {os.path.basename(os.path.dirname(text)) for _, text in texts}
    if len(folders) < 2 or "" in folders:
        raise NoLabels(
            f"line {texts[0][0]} of {path.name!r} is no video and label: without a header, lines are 'path,label' or "
            "'path label'; a list of names alone is the clip_list of a protocol."
        )
    notes.append(f"lines of {path.name!r} are names alone: the folder of each is its class.")
    return [(number, text, os.path.basename(os.path.dirname(text)), WHOLE) for number, text in texts]


def _counted(path: Path, number: int, fields: list[str]) -> Line:
    """A line of a folder, an offset where there is one, a number of frames and a label."""
    video, *numbers, label = fields
    first, count = (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else (0, int(numbers[0]))
    if not count:
        raise DataError(f"line {number} of {path.name!r} takes 0 frames of {video!r}: correct the number of frames.")
    return number, video, label, Part(None, None, first, first + count)


def _told(path: Path, with_offset: bool) -> str:
    what = (
        "a folder, the frames before the clip, the number of its frames"
        if with_offset
        else "a folder, a number of frames"
    )
    return f"lines of {path.name!r} are {what} and a label, in this order."


def _refuse_several(path: Path, number: int, fields: list[str]) -> None:
    if is_video(fields[0]):
        raise DataError(
            f"line {number} of {path.name!r} has {' and '.join(fields[1:])} behind the video {fields[0]!r}: a video "
            "has one label, and a number of frames is for a folder of frames."
        )


def _no_line(path: Path, number: int, fields: int, width: int) -> DataError:
    several = f"it has {fields} fields, the others {width}; " if fields != width else ""
    return DataError(
        f"line {number} of {path.name!r} is no video and label: {several}without a header, lines are 'path,label' or "
        "'path label', with quotes around a name that contains the separator; a list of names alone is the clip_list "
        "of a protocol."
    )


def refuse_several_labels(labels: Iterable[tuple[str, str]]) -> None:
    """Refuse a label that is several: numbers, or names that are labels themselves.

    Args:
        labels: each label once, with the place of a row that has it.

    Raises:
        DataError: naming the row and the label.
    """
    known = dict(labels)
    for label, where in known.items():
        parts = [part.strip() for part in re.split(r"[,;|]", label)]
        if len(parts) > 1 and (_NUMBERS.fullmatch(label) or all(part in known for part in parts)):
            raise DataError(f"{where} has the labels {label!r}: a video has one label here.")
