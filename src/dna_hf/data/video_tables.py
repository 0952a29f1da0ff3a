"""Read tables of labelled videos: which file, which class, which part of it. No video is looked for here.

| table | its lines |
|---|---|
| with a header (CSV), or JSON objects | columns of the video and of the label, optionally `start`, `end` and `split` |
| without a header | `path,label`, `path label`, `path,pose,label` or `path,name,is_exo,label` |
| Kinetics | `label,youtube_id,time_start,time_end,split` |
| frame list of Something-Something | `original_vido_id video_id frame_id path labels` (sic), a line per frame |
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import first_line, sentence
from .arguments import VideoDataArguments
from .errors import DataError
from .splits import aliases


TABLE_SUFFIXES = (".csv", ".txt", ".jsonl", ".json")
VIDEO_COLUMNS = ("video", "path", "file", "file_name", "filename", "video_path")
LABEL_COLUMNS = ("label", "labels", "class", "action", "target")
KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")
FRAME_LIST_COLUMNS = ("original_vido_id", "path", "labels")
SSV2_LABELS = "something-something-v2-labels.json"
SSV2_TEMPLATES = ("something-something-v2-train.json", "something-something-v2-validation.json")


class Row(NamedTuple):
    """One clip of a table.

    Args:
        number: number of the clip's line, or of its object in a JSON list, from 1.
        video: path of the video, as it is written.
        label: label, a number or text, as it is written.
        split: split that the table says the clip belongs to.
        start: seconds into the file at which the clip begins.
        end: seconds into the file at which the clip ends.
        frames: paths of the clip's images, instead of a video.
        folders: folders in which `video` may lie.
    """

    number: int
    video: str
    label: str | int
    split: str | None = None
    start: float | None = None
    end: float | None = None
    frames: tuple[str, ...] | None = None
    folders: tuple[str, ...] = ("",)


@dataclass
class Table:
    """Rows of a table.

    Args:
        path: file of the table.
        rows: rows in the order of the table.
        unit: what a row's number counts, `"line"` or `"row"`.
        class_names: class names in the order of the labels, where they came with the table and the labels are such
            names.
    """

    path: Path
    rows: list[Row]
    unit: str = "line"
    class_names: list[str] | None = None

    def where(self, row: Row) -> str:
        """Place of a row, for messages."""
        return f"{self.unit} {row.number} of {self.path.name!r}"


class _Columns(NamedTuple):
    """What the columns of a table are called; the video of Kinetics is written in three."""

    video: str | None
    label: str
    start: str | None
    end: str | None
    split: str | None
    kinetics: dict[str, str]


def read_table(path: Path, arguments: VideoDataArguments, split: str) -> Table:
    """Read a table.

    Args:
        path: file of the table, a text file.
        arguments: fields of the `data` section: names of the columns, where they are given.
        split: split of the rows, where the table does not say. Kinetics' files lie in a folder of this name.

    Raises:
        DataError: if the file cannot be read, is no such table, or is empty.
    """
    try:
        if b"\0" in _head(path):
            raise DataError(f"{path.name!r} is no text: a table is one of {', '.join(TABLE_SUFFIXES)}.")
        table = _read(path, arguments, split)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name!r} is no text in UTF-8: save the table in this encoding.") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"table {path.name!r} cannot be read: {first_line(error)}.") from error
    if not table.rows:
        raise DataError(f"table {path.name!r} has no rows.")
    return table


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _read(path: Path, arguments: VideoDataArguments, split: str) -> Table:
    if path.suffix.lower() in (".jsonl", ".json"):
        records, unit = _json_records(path)
        return Table(path, _rows(records, path, unit, arguments, split), unit)
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        if set(FRAME_LIST_COLUMNS) <= set(first.split()):
            return _read_frame_list(path, file)
        if _is_header(first, arguments):
            return Table(path, _rows(_csv_records(path, file, first), path, "line", arguments, split))
        for option in ("video_column", "label_column"):
            if getattr(arguments, option) is not None:
                raise DataError(f"table {path.name!r} has no column {getattr(arguments, option)!r}: see {option}.")
        return Table(path, _headerless(path, file, first))


def _json_records(path: Path) -> tuple[list[tuple[int, Any]], str]:
    """Numbered objects of a JSON list, or of a file with an object a line; and what they are counted in."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        if text.lstrip().startswith("["):
            return list(enumerate(json.loads(text), 1)), "row"
    except ValueError as error:
        raise DataError(f"{path.name!r} is no JSON: {first_line(error)}.") from error
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append((number, json.loads(line)))
            except ValueError as error:
                raise DataError(
                    f"line {number} of {path.name!r} is no JSON ({first_line(error)}): it is a list of objects, or "
                    "one object a line."
                ) from error
    return records, "line"


def _delimiter(first: str) -> str:
    return next((sign for sign in ",\t" if sign in first), " ")


def _is_header(first: str, arguments: VideoDataArguments) -> bool:
    """Whether a first line names columns: known ones, or nothing that could be a file or a number."""
    fields = {field.strip().strip('"') for field in first.strip().split(_delimiter(first))}
    if fields & {arguments.video_column, arguments.label_column}:
        return True
    if re.search(r"[./\\]", first) or len(fields) < 2:
        return False
    known = (*VIDEO_COLUMNS, *LABEL_COLUMNS, *KINETICS_COLUMNS)
    return any(field.lower() in known for field in fields) or not re.search(r"\d", first)


def _csv_records(path: Path, file: Iterable[str], first: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Numbered rows of a table with a header."""
    reader = csv.reader(file, delimiter=_delimiter(first), skipinitialspace=True)
    header = [name.strip() for name in next(reader)]
    for fields in reader:
        if len(fields) != len(header):
            if not any(map(str.strip, fields)):
                continue
            raise DataError(
                f"line {reader.line_num} of {path.name!r} has {len(fields)} fields, the header {len(header)}: put "
                "quotes around a field that contains the separator."
            )
        yield reader.line_num, dict(zip(header, fields, strict=True))


def _headerless(path: Path, file: Iterable[str], first: str) -> list[Row]:
    """Rows of a video and its label, which is the last of two to four fields."""
    if _delimiter(first) == " ":
        # a path may contain spaces: the label may not
        numbered = [(number, line.rsplit(maxsplit=1)) for number, line in enumerate(file, 1)]
    else:
        reader = csv.reader(file, delimiter=_delimiter(first), skipinitialspace=True)
        numbered = [(reader.line_num, fields) for fields in reader]
    rows = []
    width = None
    for number, fields in numbered:
        fields = list(map(str.strip, fields))
        if not any(fields):
            continue
        width = width or len(fields)
        if not 2 <= len(fields) <= 4 or len(fields) != width or not fields[0] or not fields[-1]:
            raise DataError(
                f"line {number} of {path.name!r} is no video and label: without a header, lines are 'path,label' or "
                "'path label'; a list of names alone is the clip_list of a protocol."
            )
        rows.append(Row(number, fields[0], fields[-1]))
    return rows


def _rows(
    records: Iterable[tuple[int, Any]], path: Path, unit: str, arguments: VideoDataArguments, split: str
) -> list[Row]:
    """Rows of records with names."""
    rows: list[Row] = []
    columns = None
    name = repr(path.name)
    for number, record in records:
        where = f"{unit} {number} of {name}"
        if not isinstance(record, dict):
            raise DataError(f"{where} is no JSON object: a row is an object with a video and a label.")
        columns = columns or _columns(record, path, arguments)
        rows.append(_row(number, record, columns, where, split))
    return rows


def _columns(record: dict[str, Any], path: Path, arguments: VideoDataArguments) -> _Columns:
    """Find the columns by the names of the first row."""
    lower = {name.lower(): name for name in reversed(record)}
    kinetics = {name: lower[name] for name in KINETICS_COLUMNS if name in lower}
    video = _column(record, arguments.video_column, "video_column", VIDEO_COLUMNS, path, len(kinetics) == 3)
    label = _column(record, arguments.label_column, "label_column", LABEL_COLUMNS, path)
    return _Columns(video, str(label), lower.get("start"), lower.get("end"), lower.get("split"), kinetics)


def _column(
    record: dict[str, Any], named: str | None, option: str, usual: tuple[str, ...], path: Path, optional: bool = False
) -> str | None:
    """The column that is named, or the first of the usual names."""
    if named is not None:
        found = [named] if named in record else []
    else:
        found = [name for usual_name in usual for name in record if name.lower() == usual_name]
    if found or optional:
        return found[0] if found else None
    what = f"has no column {named!r}" if named else f"has no column that is clearly the {option.split('_')[0]}"
    raise DataError(f"table {path.name!r} {what}: set {option} to one of {', '.join(record)}.")


def _row(number: int, record: dict[str, Any], columns: _Columns, where: str, split: str) -> Row:
    label = record.get(columns.label)
    label = label.strip() if isinstance(label, str) else label
    if label == "" or isinstance(label, bool) or not isinstance(label, str | int):
        raise DataError(f"{where} has no label (a whole number or text) in {columns.label!r}, but {label!r}.")
    own = str(record.get(columns.split) or "").strip() or None if columns.split else None
    if columns.video is None:
        folders = _kinetics_folders(own or split, str(label))
        return Row(number, _kinetics_file(record, columns, where), label, own, folders=folders)
    video = record.get(columns.video)
    if not isinstance(video, str) or not video.strip():
        raise DataError(f"{where} names no video in {columns.video!r}, but {video!r}.")
    start, end = _seconds(record, columns.start, where), _seconds(record, columns.end, where)
    if end is not None and end <= (start or 0):
        raise DataError(f"{where} ends at {end} seconds, not after its start: correct {columns.end!r}.")
    return Row(number, video.strip(), label, own, start, end)


def _seconds(record: dict[str, Any], column: str | None, where: str) -> float | None:
    value = record.get(column) if column else None
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise DataError(f"{where} has {value!r} in {column!r}, which is no time in seconds.")
    return seconds


def _kinetics_file(record: dict[str, Any], columns: _Columns, where: str) -> str:
    """Name that the usual downloaders give to a clip of Kinetics."""
    name, start, end = (record.get(columns.kinetics[column]) for column in KINETICS_COLUMNS)
    try:
        if not name:
            raise ValueError
        return f"{name}_{int(float(start)):06d}_{int(float(end)):06d}.mp4"  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where} is no clip of Kinetics: {name!r} from {start!r} to {end!r} seconds.") from error


@cache
def _kinetics_folders(split: str, label: str) -> tuple[str, ...]:
    """Folders where a clip of Kinetics may lie: that of the split, or in it that of the class."""
    splits = dict.fromkeys((split, *aliases(split)))
    kinds = dict.fromkeys(("", label, label.replace(" ", "_")))
    return tuple(f"{name}/{kind}" if kind else name for kind in kinds for name in splits)


def _read_frame_list(path: Path, file: Iterable[str]) -> Table:
    """Frames of a video are in the order of their lines; an empty label is looked up by the video's template."""
    reader = csv.reader(file, delimiter=" ", skipinitialspace=True)
    header = next(reader)
    of_video, of_path, of_label = map(header.index, FRAME_LIST_COLUMNS)
    frames: dict[str, list[str]] = {}
    begun: dict[str, tuple[int, str]] = {}
    for fields in reader:
        if len(fields) < len(header):
            if not fields:
                continue
            raise DataError(f"line {reader.line_num} of {path.name!r} has {len(fields)} of {len(header)} fields.")
        video = fields[of_video]
        if video not in frames:
            frames[video] = []
            begun[video] = (reader.line_num, fields[of_label])
        frames[video].append(fields[of_path])
    numbers, templates = _ssv2_labels(path) if any(not label for _, label in begun.values()) else ({}, {})
    rows = []
    for video, (number, label) in begun.items():
        if "," in label:
            raise DataError(f"line {number} of {path.name!r} has the labels {label!r}: one a video is needed.")
        if numbers and not label:
            label = templates.get(video, "")
            if label not in numbers:
                raise DataError(f"video {video!r} of {path.name!r} has no label in the files beside it.")
        rows.append(Row(number, video, label, frames=tuple(frames[video])))
    return Table(path, rows, class_names=sorted(numbers, key=numbers.__getitem__) or None)


def _ssv2_labels(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Template -> number, and video -> template, from the files of Something-Something v2."""
    try:
        numbers = {name: int(number) for name, number in _json(path.with_name(SSV2_LABELS)).items()}
        lists = [_json(file) for name in SSV2_TEMPLATES if (file := path.with_name(name)).exists()]
        templates = {
            str(video["id"]): video["template"].replace("[", "").replace("]", "") for part in lists for video in part
        }
    except FileNotFoundError as error:
        raise DataError(
            f"table {path.name!r} has no labels: put {SSV2_LABELS}, {' and '.join(SSV2_TEMPLATES)} beside it."
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the labels of Something-Something beside {path.name!r} cannot be read: {sentence(error)}."
        ) from error
    if sorted(numbers.values()) != list(range(len(numbers))):
        raise DataError(f"the labels in {SSV2_LABELS!r} are not 0..n-1.")
    return numbers, templates


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8-sig"))
