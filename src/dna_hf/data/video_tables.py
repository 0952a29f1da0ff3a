"""Read tables of labelled videos: which file, which class, which part of it. No video is looked for here.

| table | its lines |
|---|---|
| with a header (CSV), or JSON objects | columns of the video and of the label, optionally `start`, `end` and `split` |
| without a header | `path,label`, `path label`, `label path`, `path,pose,label`, `path,name,is_exo,label` |
| without a header, of frames | `folder num_frames label`, `folder offset num_frames label` |
| Kinetics | `label,youtube_id,time_start,time_end,split` |
| frame list of Something-Something | `original_vido_id video_id frame_id path labels` (sic), a line per frame |
"""

# paths are text here: there may be millions
# ruff: noqa: PTH110, PTH118

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import first_line, sentence
from .arguments import VideoDataArguments
from .errors import DataError
from .video_columns import (
    KINETICS_COLUMNS,
    LABEL_COLUMNS,
    VIDEO_COLUMNS,
    WHOLE,
    Columns,
    NoLabels,
    Part,
    find_columns,
    kinetics_file,
    kinetics_folders,
    part_of,
)
from .video_folders import TABLE_SUFFIXES
from .video_lists import read_list, refuse_several_labels, separator


# numbers and names of classes beside a table of numbers
CLASS_NAME_FILES = ("kinetics_400_labels.csv", "kinetics400_labels.csv", "labels.csv")
FRAME_LIST_COLUMNS = ("original_vido_id", "path", "labels")
SSV2_LABELS = "something-something-v2-labels.json"
SSV2_TEMPLATES = ("something-something-v2-train.json", "something-something-v2-validation.json")
# what UTF-16 begins with
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Row(NamedTuple):
    """One clip of a table.

    Args:
        number: number of the clip's line, or of its object in a JSON list, from 1.
        video: path of the video, as it is written.
        label: label, a number or text, as it is written.
        split: split that the table says the clip belongs to.
        part: start and end of the clip in the file, in seconds or frames.
        frames: paths of the clip's images, instead of a video.
        folders: folders in which `video` may lie.
    """

    number: int
    video: str
    label: str | int
    split: str | None = None
    part: Part = WHOLE
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
        notes: sentences about what its lines and columns mean.
    """

    path: Path
    rows: list[Row]
    unit: str = "line"
    class_names: list[str] | None = None
    notes: list[str] = field(default_factory=list)

    def where(self, row: Row) -> str:
        """Place of a row, for messages."""
        return f"{self.unit} {row.number} of {self.path.name!r}"


def read_table(path: Path, arguments: VideoDataArguments, split: str, roots: Iterable[str] = ()) -> Table:
    """Read a table.

    Args:
        path: file of the table, a text file.
        arguments: fields of the `data` section: names of the columns, where they are given.
        split: split of the rows, where the table does not say. Kinetics' files lie in a folder of this name.
        roots: folders that paths start from, for a look at the first one.

    Raises:
        NoLabels: if it says no labels.
        DataError: if the file cannot be read, is no such table, or is empty.
    """
    try:
        head = _head(path)
        encoding = "utf-16" if head.startswith(_UTF16) else "utf-8-sig"
        if b"\0" in head and encoding != "utf-16":
            raise DataError(f"{path.name!r} is no text: a table is one of {', '.join(TABLE_SUFFIXES)}.")
        table = _read(path, encoding, arguments, split, roots)
    except UnicodeError as error:
        raise DataError(f"{path.name!r} is no text in UTF-8: save the table in this encoding.") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"table {path.name!r} cannot be read: {first_line(error)}.") from error
    if not table.rows:
        raise DataError(f"table {path.name!r} has no rows.")
    texts = {row.label: row for row in table.rows if isinstance(row.label, str)}
    refuse_several_labels((label, table.where(row)) for label, row in texts.items())
    return table


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _read(path: Path, encoding: str, arguments: VideoDataArguments, split: str, roots: Iterable[str]) -> Table:
    notes: list[str] = []
    if path.suffix.lower() in (".jsonl", ".json"):
        records, unit = _json_records(path, encoding)
        return Table(path, _rows(records, path, unit, arguments, split, notes), unit, notes=notes)
    with path.open(encoding=encoding, newline="") as file:
        first = file.readline()
        file.seek(0)
        if set(FRAME_LIST_COLUMNS) <= set(first.split()):
            return _read_frame_list(path, file)
        if _is_header(first, arguments):
            return Table(
                path, _rows(_csv_records(path, file, first), path, "line", arguments, split, notes), notes=notes
            )
        for option in ("video_column", "label_column"):
            if getattr(arguments, option) is not None:
                raise DataError(f"table {path.name!r} has no column {getattr(arguments, option)!r}: see {option}.")
        lines = read_list(path, file, first, _looker(roots), notes)
        return Table(
            path, [Row(number, video, label, None, part) for number, video, label, part in lines], notes=notes
        )


def _looker(roots: Iterable[str]) -> Callable[[str], bool]:
    """Whether a path leads to something from one of the folders."""
    return lambda name: any(os.path.exists(os.path.join(root, name)) for root in roots)


def _json_records(path: Path, encoding: str) -> tuple[list[tuple[int, Any]], str]:
    """Numbered objects of a JSON list, or of a file with an object a line; and what they are counted in."""
    text = path.read_text(encoding=encoding)
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


def _is_header(first: str, arguments: VideoDataArguments) -> bool:
    """Whether a first line names columns: known ones, or nothing that could be a file or a number."""
    fields = {field.strip().strip('"') for field in first.strip().split(separator(first))}
    if fields & {arguments.video_column, arguments.label_column}:
        return True
    if re.search(r"[./\\]", first) or len(fields) < 2:
        return False
    known = {*VIDEO_COLUMNS, *LABEL_COLUMNS, *KINETICS_COLUMNS}
    return any(field.lower() in known for field in fields) or not re.search(r"\d", first)


def _csv_records(path: Path, file: Iterable[str], first: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Numbered rows of a table with a header."""
    reader = csv.reader(file, delimiter=separator(first), skipinitialspace=True)
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


def _rows(
    records: Iterable[tuple[int, Any]],
    path: Path,
    unit: str,
    arguments: VideoDataArguments,
    split: str,
    notes: list[str],
) -> list[Row]:
    """Rows of records with names; `notes` gets what the names mean."""
    rows: list[Row] = []
    columns = None
    name = repr(path.name)
    records = iter(records)
    for number, record in records:
        where = f"{unit} {number} of {name}"
        if not isinstance(record, dict):
            raise DataError(f"{where} is no JSON object: a row is an object with a video and a label.")
        if columns is None:
            columns, said = find_columns(record, path, arguments)
            notes += said
            if record.get(columns.label) in (None, ""):
                _refuse_unlabelled(records, columns, path)
        rows.append(_row(number, record, columns, where, split))
    return rows


def _refuse_unlabelled(records: Iterable[tuple[int, Any]], columns: Columns, path: Path) -> None:
    """Tell a table without any labels, whose first row has none, from one where some are missing."""
    if not any(isinstance(record, dict) and record.get(columns.label) for _, record in records):
        raise NoLabels(f"table {path.name!r} has no labels: its column {columns.label!r} is empty.")


def _row(number: int, record: dict[str, Any], columns: Columns, where: str, split: str) -> Row:
    label = record.get(columns.label)
    label = label.strip() if isinstance(label, str) else label
    if isinstance(label, list | tuple):
        raise DataError(f"{where} has the labels {label!r}: a video has one label here.")
    if label == "" or isinstance(label, bool) or not isinstance(label, str | int):
        raise DataError(f"{where} has no label (a whole number or text) in {columns.label!r}, but {label!r}.")
    own = str(record.get(columns.split) or "").strip() or None if columns.split else None
    if columns.video is None:
        folders = kinetics_folders(own or split, str(label))
        return Row(number, kinetics_file(record, columns, where), label, own, folders=folders)
    video = record.get(columns.video)
    if not isinstance(video, str) or not video.strip():
        raise DataError(f"{where} names no video in {columns.video!r}, but {video!r}.")
    return Row(number, video.strip(), label, own, part_of(record, columns, where) if columns.has_part else WHOLE)


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
