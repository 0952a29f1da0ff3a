"""Find labelled videos: in folders of classes, by a protocol, or in tables. No video is opened here.

Every source lists, for each of its splits, rows of a path and a label. What follows is the same for all of them: the
training split tells the classes, and the files are looked for.
"""

# paths are text here: there may be millions
# ruff: noqa: PTH110, PTH112, PTH118, PTH208

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from transformers.utils import logging

from ..errors import first_line
from .arguments import EMBEDDED_VIDEOS, VideoDataArguments, is_held_out
from .clips import Clip, LabelledVideos
from .errors import DataError
from .files import LeftOut, is_video
from .motion import motion_splits
from .splits import (
    Readers,
    already,
    find_split,
    given_names,
    read_all,
    read_split,
    read_train_and_eval,
    usual_evaluation,
)
from .video_columns import WHOLE, NoLabels
from .video_folders import frames_in
from .video_listings import Listing, Listings, list_splits
from .video_places import Places
from .video_tables import CLASS_NAME_FILES, Row


logger = logging.get_logger(__name__)


@dataclass
class _Classes:
    """How labels become indices: by the names, or as numbers from `base` on, where they are numbers."""

    names: list[str]
    base: int | None
    given: bool
    index: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.index = {name: number for number, name in enumerate(self.names)}


def load_split(
    arguments: VideoDataArguments, split: str, seed: int | None = None, known: Sequence[str] = ()
) -> LabelledVideos:
    """Load one split, `max_eval_samples` of it at most.

    Args:
        arguments: fields of the `data` section: which videos, columns and class names.
        split: name of the split; `held-out`: the part of the training split that training evaluates on.
        seed: seed of that training.
        known: class names of a model. A split that has no others is numbered by them, whichever of them it has.

    Returns:
        The clips and the class names, which their labels index.

    Raises:
        DataError: if the data, the split, a column or (unless `on_error` is `"skip"`) a file is missing, or a label
            does not fit.
    """
    # what is held out is drawn by the classes of training
    readers = _checked_readers(arguments, split, known=() if is_held_out(split) else known)
    videos = read_split(readers, split, arguments, seed)
    return videos.at_most(arguments.max_eval_samples)


def load_train_and_eval(
    arguments: VideoDataArguments, seed: int, hold_out: bool = True
) -> tuple[LabelledVideos, LabelledVideos | None]:
    """Load the training split and the split to evaluate on.

    Where there is no evaluation split, a part of the training split is held out, stratified by class.

    Args:
        arguments: fields of the `data` section: which videos, splits, columns and class names.
        seed: says which videos are held out.
        hold_out: whether a part is held out where there is no evaluation split; otherwise there is none.

    Raises:
        DataError: see [`load_split`]; also if the two splits have different classes.
    """
    train, evaluation = read_train_and_eval(_checked_readers(arguments), arguments, seed, hold_out)
    if evaluation is not None:
        _warn_of_shared(train, evaluation)
        evaluation = evaluation.at_most(arguments.max_eval_samples)
    return train.at_most(arguments.max_train_samples), evaluation


def load_all(arguments: VideoDataArguments) -> dict[str, LabelledVideos]:
    """All splits by name, whole and without a complaint about missing files, to look at them."""
    return read_all(_readers(arguments), arguments.train_split)


def describe(splits: Iterable[LabelledVideos]) -> str:
    """Counts per split and class, and what is missing, as text.

    Args:
        splits: splits of one data set, as [`load_all`] returns them.
    """
    splits = list(splits)
    counts = [Counter(clip.label for clip in split.clips) for split in splits]
    names = splits[0].class_names if splits else []
    rows = [["class", *(split.name for split in splits)]]
    rows += [[name, *(str(count[label]) for count in counts)] for label, name in enumerate(names)]
    rows += [[f"all {len(names)}", *(str(len(split.clips)) for split in splits)]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    for split in splits:
        if split.missing:
            shown = ", ".join(split.missing[:5]) + (", ..." if len(split.missing) > 5 else "")
            lines.append(f"missing in {split.name}: {len(split.missing)} ({shown})")
    return "\n".join(lines)


def _readers(arguments: VideoDataArguments, *wanted: str, known: Sequence[str] = ()) -> Readers[LabelledVideos]:
    """What reads each split, by name. Splits of other than the usual names are found where they are wanted."""
    if arguments.dataset == EMBEDDED_VIDEOS:
        if arguments.protocol is not None:
            raise DataError(f"protocol {arguments.protocol!r} divides the videos of a folder: set dataset to it.")
        return {name: already(videos) for name, videos in motion_splits().items()}
    listings = list_splits(arguments, {*wanted, arguments.train_split, arguments.eval_split or ""})
    notes = _pass_over_hidden(listings) if arguments.eval_split is None and not set(wanted) & set(listings) else ()
    reference = find_split(listings, arguments.train_split)
    classes = {name: partial(_classes, listings, name, reference or name, arguments, known) for name in listings}
    return {
        name: partial(_labelled, name, reference or name, listings[name], classes[name], arguments, notes)
        for name in listings
    }


def _pass_over_hidden(listings: Listings) -> tuple[str, ...]:
    """Take out the splits that would be evaluated on, but have no labels, as those of hidden tests; say so."""
    notes = []
    while (name := usual_evaluation(listings)) is not None:
        try:
            listings[name]()
            break
        except NoLabels:
            notes.append(f"split {name!r} has no labels, and is not evaluated on.")
            del listings[name]
        except DataError:
            # whoever reads the split is told
            break
    return tuple(notes)


def _checked_readers(
    arguments: VideoDataArguments, *wanted: str, known: Sequence[str] = ()
) -> Readers[LabelledVideos]:
    """What reads each split of a data set; reading one that cannot be used is an error."""
    return {
        name: partial(_checked, read, arguments) for name, read in _readers(arguments, *wanted, known=known).items()
    }


def _labelled(
    split: str,
    reference: str,
    read: Callable[[], Listing],
    find_classes: Callable[[], _Classes],
    arguments: VideoDataArguments,
    notes: tuple[str, ...],
) -> LabelledVideos:
    """Number the labels of a split by the classes of another one, and look for its files."""
    listing, classes = read(), find_classes()
    videos = LabelledVideos([], classes.names, split, list(listing.missing))
    places = Places(listing.roots, listing.table.path.name, listing.there) if listing.table else None
    labels: dict[tuple, int] = {}
    left_out = []
    for row in listing.rows:
        label = _label(row, classes, listing, split, reference)
        path = places.find(row) if places and row.frames is None else row.video
        try:
            clip = _clip(row, label, listing, path) if path else None
        except DataError as error:
            if arguments.on_error == "raise":
                raise
            left_out.append(LeftOut(row.video, first_line(error)))
            continue
        if clip is None:
            if places and not videos.missing:
                videos.hint = f"{listing.where(row)}: {places.hint(row)}"
            videos.missing.append(_missing_file(row, listing.roots[0]))
            continue
        if labels.setdefault(clip.key, label) != label:
            names = classes.names[labels[clip.key]], classes.names[label]
            raise DataError(
                f"{listing.where(row)} says that {row.video!r} is {names[1]!r}, but an earlier one that it is "
                f"{names[0]!r}: keep one."
            )
        videos.clips.append(clip)
    videos.left_out = (*left_out, *listing.left_out())
    videos.notes = (*notes, *listing.notes, *(places.notes() if places else ()))
    return videos


def _missing_file(row: Row, root: str) -> str:
    """The file of a row, or the first of its frames that is not there."""
    files = [os.path.normpath(os.path.join(root, row.folders[0], name)) for name in row.frames or (row.video,)]
    return next((file for file in files if not os.path.exists(file)), files[0])


def _clip(row: Row, label: int, listing: Listing, path: str) -> Clip | None:
    """The clip of a row whose video was found at a path; `None` if its frames are not there.

    Raises:
        DataError: if the row says a part that its frames do not have.
    """
    frames = row.frames
    if not listing.roots or (row.part is WHOLE and frames is None and is_video(path)):
        # by place: there may be millions
        return Clip(path, label, None, None, frames)
    if frames is not None:
        root = next((root for root in listing.roots if _all_there(root, frames)), None)
        if root is None:
            return None
        return Clip(row.video, label, frames=tuple(os.path.join(root, frame) for frame in frames))
    if frames is None and not is_video(path) and os.path.isdir(path):
        frames = frames_in(path, os.listdir(path))
        if not frames:
            return None
    start, end, first, last = row.part
    part = None if first is None and last is None else (first or 0, last)
    if frames is None:
        return Clip(path, label, start, end, part=part)
    if start is not None or end is not None:
        raise DataError(
            f"{listing.where(row)} says a part of {row.video!r} in seconds, but it is a folder of frames: say it in "
            "frames (start_frame, end_frame)."
        )
    if part is not None and not part[0] < (last or len(frames)) <= len(frames):
        raise DataError(
            f"{listing.where(row)} takes the frames {part[0]} to {last or len(frames)} of {row.video!r}, which has "
            f"{len(frames)}: correct the numbers."
        )
    return Clip(path, label, frames=frames if part is None else frames[part[0] : last])


def _all_there(root: str, frames: tuple[str, ...]) -> bool:
    """Whether the first and the last of some images are there, which stand for all of them."""
    return all(os.path.exists(os.path.join(root, name)) for name in (frames[0], frames[-1]))


def _classes(
    listings: Listings, split: str, reference: str, arguments: VideoDataArguments, known: Sequence[str]
) -> _Classes:
    """Class names: given, of a model, known to the source, beside the table of numbers, or the labels in order."""
    given = given_names(arguments)
    listing = listings[split]()
    if given is None and known and {str(row.label) for row in listing.rows} <= set(known):
        return _Classes(list(known), None, False)
    listing = listings[reference]()
    names = given or listing.class_names
    origin = repr(listing.table.path.name) if listing.table else "the folders"
    distinct = {row.label for row in listing.rows}
    base = None
    if listing.table and not listing.class_names and all(map(_is_number, distinct)):
        base = arguments.label_base
        names = names or _names_beside(listing.table.path, base)
        numbers = sorted(set(map(int, distinct)))
        if names is None and numbers != list(range(base, base + len(numbers))):
            shown = ", ".join(map(str, numbers[:5]))
            raise DataError(
                f"the labels in {origin} are not {'0..n-1' if base == 0 else '1..n'} ({shown}...): set label_base to "
                "the number of the first class, or give class_names."
            )
        names = names or [str(number) for number in numbers]
    names = list(names or sorted(map(str, distinct)))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"two classes are called {twice[0]!r}: give every class a name of its own.")
    if len(names) < 2:
        raise DataError(
            f"{origin} has videos of one class only ({', '.join(names)}): give videos of at least two classes."
        )
    return _Classes(names, base, given is not None)


def _is_number(label: str | int) -> bool:
    return isinstance(label, int) or re.fullmatch(r"[+-]?\d+", label) is not None


def _label(row: Row, classes: _Classes, listing: Listing, split: str, reference: str) -> int:
    if classes.base is None:
        label = classes.index.get(str(row.label))
        if label is not None:
            return label
        if classes.given:
            raise DataError(f"{listing.where(row)} is of class {row.label!r}, which class_names does not name.")
        raise DataError(
            f"split {split!r} has videos of class {row.label!r}, but split {reference!r} has none: make their classes "
            "agree."
        )
    if not _is_number(row.label):
        raise DataError(f"{listing.where(row)} has label {row.label!r}, but split {reference!r} numbers its classes.")
    label = int(row.label) - classes.base
    if not 0 <= label < len(classes.names):
        last = classes.base + len(classes.names) - 1
        raise DataError(
            f"{listing.where(row)} has label {row.label}, outside the {len(classes.names)} classes "
            f"({classes.base}..{last}): correct label_base or class_names."
        )
    return label


def _names_beside(table: Path, base: int) -> list[str] | None:
    """Class names from a file of numbers and names beside a table."""
    for path in map(table.with_name, CLASS_NAME_FILES):
        if path == table or not path.is_file():
            continue
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
            names = {int(row["id"]): row["name"] for row in rows}
        except KeyError:
            continue  # some other file
        except (OSError, TypeError, ValueError, csv.Error) as error:
            raise DataError(f"cannot read class names from {path.name!r}: {first_line(error)}.") from error
        if sorted(names) != list(range(base, base + len(rows))):
            raise DataError(
                f"the column 'id' of {path.name!r} is not {base}..{base + len(rows) - 1}: set label_base, or give "
                "class_names."
            )
        return [names[number] for number in sorted(names)]
    return None


def _checked(read: Callable[[], LabelledVideos], arguments: VideoDataArguments) -> LabelledVideos:
    """A split that can be used: not empty, and whole unless what is missing is to be skipped."""
    videos = read()
    missing = len(videos.missing)
    if missing and (not videos.clips or arguments.on_error == "raise"):
        fix = f"in {videos.hint}" if videos.hint else "correct clip_list"
        fix += ", or on_error to skip to leave them out" if videos.clips else ""
        raise DataError(
            f"{missing} of {missing + len(videos.clips)} videos of split {videos.name!r} do not exist, e.g. "
            f"{videos.missing[0]!r}{' ' if videos.hint else ': '}{fix}."
        )
    if not videos.clips:
        raise DataError(f"split {videos.name!r} has no videos.")
    return videos


def _warn_of_shared(train: LabelledVideos, evaluation: LabelledVideos) -> None:
    shared = {clip.key for clip in train.clips} & {clip.key for clip in evaluation.clips}
    if shared:
        first = min(path for path, *_ in shared)
        logger.warning(
            f"{len(shared)} clips are in both splits, {train.name!r} and {evaluation.name!r}, e.g. {first!r}."
        )
