"""What the columns of a table of videos are called, and what they say of a clip."""

import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .arguments import VideoDataArguments
from .errors import DataError
from .splits import aliases
from .vocabulary import END, NOTES, START


VIDEO_COLUMNS = (
    *("video", "path", "file", "file_name", "filename", "video_path", "video_name", "video_file", "file_path"),
    *("filepath", "video_id", "videoid", "vid"),
)
LABEL_COLUMNS = ("label", "labels", "class", "action", "target", "class_name", "label_name", "activity", "category")
KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")
# seconds, or times of a clock
START_COLUMNS = (*START, "time_start", "start_seconds", "start_second", "start_timestamp", "t_start", "starttime")
END_COLUMNS = (
    *(*END, "time_end", "end_seconds", "end_second", "end_timestamp", "stop_time", "stop_sec", "stop_timestamp"),
    *("t_end", "endtime"),
)
# frames, counted from 0; the last one is the first that does not belong to the clip
FIRST_COLUMNS = ("start_frame", "frame_start", "begin_frame", "offset", "frame_offset")
LAST_COLUMNS = ("end_frame", "frame_end", "stop_frame")
COUNT_COLUMNS = ("num_frames", "total_frames")
# words in the name of a column that says when something is
_TIME_WORDS = frozenset(
    {
        *("start", "starts", "begin", "begins", "end", "ends", "stop", "stops", "onset", "offset", "from", "to"),
        *("time", "times", "timestamp", "timestamps", "sec", "secs", "second", "seconds", "segment", "segments"),
        *("interval", "intervals", "frame", "frames"),
    }
)
# columns with such words that describe the whole file
_OF_FILES = NOTES | {"frame_rate", "frames_per_second", "date_time", "upload_time", "frame_height", "frame_width"}
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")


class Part(NamedTuple):
    """Which part of a file a clip is: in seconds, or in frames, the end not included; `None`: where the file ends.

    Args:
        start: seconds into the file at which the clip begins.
        end: seconds into the file at which the clip ends.
        first: number of its first frame, from 0.
        last: number of the first frame behind it.
    """

    start: float | None = None
    end: float | None = None
    first: int | None = None
    last: int | None = None


WHOLE = Part()


class Columns(NamedTuple):
    """What the columns of a table are called; the video of Kinetics is written in three."""

    video: str | None
    label: str
    start: str | None
    end: str | None
    first: str | None
    last: str | None
    frames: str | None
    split: str | None
    kinetics: dict[str, str]

    @property
    def has_part(self) -> bool:
        """Whether a row says which part of its file it is."""
        return any((self.start, self.end, self.first, self.last, self.frames))


class NoLabels(DataError):
    """A table of videos that says no labels, as that of a hidden test."""


def find_columns(record: Mapping[str, Any], path: Path, arguments: VideoDataArguments) -> tuple[Columns, list[str]]:
    """Find the columns by the names of the first row.

    Args:
        record: the first row, column -> value.
        path: file of the table, for messages.
        arguments: fields of the `data` section: names of the columns, where they are given.

    Returns:
        The columns, and sentences about what they mean.

    Raises:
        DataError: if there is no column of videos or of labels, or one that looks like a time and is not known.
    """
    lower = {name.lower(): name for name in reversed(list(record))}
    kinetics = {name: lower[name] for name in KINETICS_COLUMNS if name in lower}
    video = _column(record, arguments.video_column, "video_column", VIDEO_COLUMNS, path, optional=True)
    if video is None and len(kinetics) < 3:
        video = lower.get("youtube_id") or _column(record, None, "video_column", VIDEO_COLUMNS, path)
    label = _label_column(record, arguments.label_column, path)
    options = (
        ("start_column", START_COLUMNS),
        ("end_column", END_COLUMNS),
        ("start_frame_column", FIRST_COLUMNS),
        ("end_frame_column", LAST_COLUMNS),
    )
    start, end, first, last = (
        _column(record, getattr(arguments, option), option, usual, path, optional=True) for option, usual in options
    )
    count = next((lower[name] for name in COUNT_COLUMNS if name in lower), None)
    notes = []
    if video is None or len(kinetics) == 3:
        # files of Kinetics are cut already
        start = arguments.start_column and start
        end = arguments.end_column and end
        first = last = count = None
        what = "the clips are called as its downloaders call them" if video is None else "the files count as cut"
        notes.append(f"{path.name!r} has the columns of Kinetics: {what}.")
    if start or end:
        first = last = count = None
    columns = Columns(video, label, start, end, first, last, count, lower.get("split"), kinetics)
    notes += _notes_of_part(columns, path)
    used = {*columns[:-1], *(kinetics.values() if len(kinetics) == 3 else ())}
    unused = [name for name in record if name and name not in used]
    if not columns.has_part and len(kinetics) < 3:
        _refuse_times(unused, path)
    if unused:
        shown = ", ".join(map(repr, unused[:5])) + (f" and {len(unused) - 5} more" if unused[5:] else "")
        notes.append(f"of {path.name!r} these columns are not used: {shown}.")
    return columns, notes


def _notes_of_part(columns: Columns, path: Path) -> list[str]:
    if columns.start or columns.end:
        shown = " to ".join(repr(name) for name in (columns.start, columns.end) if name)
        return [f"a row of {path.name!r} is the part of its video that {shown} says, in seconds."]
    frames = [name for name in (columns.first, columns.last or columns.frames) if name]
    if frames:
        shown = " and ".join(map(repr, frames))
        return [f"a row of {path.name!r} is the part of its video that {shown} says, in frames counted from 0."]
    return []


def _refuse_times(unused: list[str], path: Path) -> None:
    for name in unused:
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
        if name.lower() not in _OF_FILES and words & _TIME_WORDS:
            raise DataError(
                f"column {name!r} of {path.name!r} looks like a time, and nothing is made of it: set start_column or "
                "end_column (seconds), or start_frame_column or end_frame_column, to columns that say the part of a "
                f"video, or rename it (known are {', '.join((*START[:2], *END[:2], *FIRST_COLUMNS[:1]))}, ...)."
            )


def _label_column(record: Mapping[str, Any], named: str | None, path: Path) -> str:
    try:
        return str(_column(record, named, "label_column", LABEL_COLUMNS, path))
    except DataError as error:
        if named is not None:
            raise
        raise NoLabels(str(error)) from None


def _column(
    record: Mapping[str, Any],
    named: str | None,
    option: str,
    usual: tuple[str, ...],
    path: Path,
    optional: bool = False,
) -> str | None:
    """The column that is named, or the first of the usual names."""
    if named is not None:
        found = [named] if named in record else []
    else:
        found = [name for usual_name in usual for name in record if name.lower() == usual_name]
    if found or (optional and named is None):
        return found[0] if found else None
    what = f"has no column {named!r}" if named else f"has no column that is clearly the {option.split('_')[0]}"
    raise DataError(f"table {path.name!r} {what}: set {option} to one of {', '.join(record)}.")


def part_of(record: Mapping[str, Any], columns: Columns, where: str) -> Part:
    """The part of its file that a row says.

    Raises:
        DataError: for what is no time or number of a frame, or a part that ends before it begins.
    """
    if columns.start or columns.end:
        start, end = _seconds(record, columns.start, where), _seconds(record, columns.end, where)
        if end is not None and end <= (start or 0):
            raise DataError(f"{where} ends at {end} seconds, not after its start: correct {columns.end!r}.")
        return Part(start, end) if (start, end) != (None, None) else WHOLE
    first, last = _number(record, columns.first, where), _number(record, columns.last, where)
    count = _number(record, columns.frames, where)
    if last is None and count is not None:
        last = (first or 0) + count
    if last is not None and last <= (first or 0):
        column = columns.last or columns.frames
        raise DataError(f"{where} ends before frame {last}, not after its start: correct {column!r}.")
    return Part(None, None, first, last) if (first, last) != (None, None) else WHOLE


def _seconds(record: Mapping[str, Any], column: str | None, where: str) -> float | None:
    value = record.get(column) if column else None
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        clock = _CLOCK.fullmatch(str(value).strip())
        seconds = math.nan
        if clock:
            hours, minutes, rest = clock.groups(default="0")
            seconds = 3600 * int(hours) + 60 * int(minutes) + float(rest.replace(",", "."))
    if not 0 <= seconds < math.inf:
        raise DataError(f"{where} has {value!r} in {column!r}, which is no time in seconds.")
    return seconds


def _number(record: Mapping[str, Any], column: str | None, where: str) -> int | None:
    value = record.get(column) if column else None
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    # pandas writes whole numbers as 3.0 where some are missing
    if not number >= 0 or not number.is_integer():
        raise DataError(f"{where} has {value!r} in {column!r}, which is no number of a frame.")
    return int(number)


def kinetics_file(record: Mapping[str, Any], columns: Columns, where: str) -> str:
    """Name that the usual downloaders give to a clip of Kinetics.

    Raises:
        DataError: if the row names none.
    """
    name, start, end = (record.get(columns.kinetics[column]) for column in KINETICS_COLUMNS)
    try:
        if not name:
            raise ValueError
        return f"{name}_{int(float(start)):06d}_{int(float(end)):06d}.mp4"  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where} is no clip of Kinetics: {name!r} from {start!r} to {end!r} seconds.") from error


@cache
def kinetics_folders(split: str, label: str) -> tuple[str, ...]:
    """Folders where a clip of Kinetics may lie: that of the split, or in it that of the class."""
    splits = dict.fromkeys((split, *aliases(split)))
    kinds = dict.fromkeys(("", label, label.replace(" ", "_")))
    return tuple(f"{name}/{kind}" if kind else name for kind in kinds for name in splits)
