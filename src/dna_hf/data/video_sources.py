"""Find labelled videos: in folders of classes, by a protocol, or in tables. No video is opened here.

Every source lists, for each of its splits, rows of a path and a label. What follows is the same for all of them: the
training split tells the classes, and the files are looked for.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import datasets
from transformers.utils import logging

from .arguments import VideoDataArguments
from .errors import DataError
from .sources import given_names, split_rows, spread
from .video_protocols import VIDEO_SUFFIXES, divide, find_videos
from .video_tables import SPLIT_ALIASES, TABLE_SUFFIXES, Row, Table, aliases, read_table


EMBEDDED = "moving-fashion-mnist"
EVAL_SPLITS = ("validation", "dev", "test")
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
# where, in the folder of a data set, its tables may lie
TABLE_FOLDERS = ("", "annotations", "annotations2", "labels")
CLASS_NAME_FILES = ("kinetics_400_labels.csv", "kinetics400_labels.csv", "labels.csv")

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Clip:
    """One labelled clip.

    Args:
        path: of a video file; where `frames` is given, a name for messages.
        label: index of its class.
        start: of the clip in the file, in seconds.
        end: the same.
        frames: image files, in order, instead of a video file.
    """

    path: str
    label: int
    start: float | None = None
    end: float | None = None
    frames: tuple[str, ...] | None = None


@dataclass
class LabelledVideos:
    """One split.

    Args:
        clips: that are there.
        class_names: which the labels index.
        name: of the split.
        missing: what the split lists, but there is no such file.
    """

    clips: list[Clip]
    class_names: list[str]
    name: str
    missing: list[str] = field(default_factory=list)


@dataclass
class _Listing:
    """What a split lists, before labels are numbered and files looked for.

    Args:
        rows: with labels as they are written.
        roots: folders that paths start from; `None` where the files were found already.
        table: that the rows come from, if any.
        class_names: in the order of the labels, where the source knows it.
        missing: names for which there is no file.
    """

    rows: list[Row]
    roots: tuple[str, ...] | None = None
    table: Table | None = None
    class_names: list[str] | None = None
    missing: list[str] = field(default_factory=list)

    def where(self, row: Row) -> str:
        return self.table.where(row) if self.table else repr(row.video)


@dataclass
class _Classes:
    """How labels become indices: by names, or, where `base` is given, as numbers from there."""

    names: list[str]
    base: int | None
    given: bool
    index: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.index = {name: number for number, name in enumerate(self.names)}


def load_split(arguments: VideoDataArguments, split: str) -> LabelledVideos:
    """Load one split, `max_eval_samples` of it at most.

    Args:
        arguments: which videos, columns and class names.
        split: name of the split.

    Returns:
        The clips and the class names, which their labels index.

    Raises:
        DataError: if the data, the split, a column or (unless `on_error` is `"skip"`) a file is missing, or a label
            does not fit.
    """
    splits = _splits(arguments, split)
    return _take(_checked(splits[_named(splits, split, arguments)](), arguments), arguments.max_eval_samples)


def load_train_and_eval(arguments: VideoDataArguments, seed: int) -> tuple[LabelledVideos, LabelledVideos]:
    """Load the training split and the split to evaluate on.

    Where there is no evaluation split, a part of the training split is held out, stratified by class.

    Raises:
        DataError: see [`load_split`]; also if the two splits have different classes.
    """
    splits = _splits(arguments)
    train = _checked(splits[_named(splits, arguments.train_split, arguments)](), arguments)
    name = _named(splits, arguments.eval_split, arguments) if arguments.eval_split else _default_eval(splits)
    if name is None:
        train, evaluation = _hold_out(train, arguments, seed)
    else:
        evaluation = _checked(splits[name](), arguments)
        _check_classes(train, evaluation)
    _warn_of_shared(train, evaluation)
    return _take(train, arguments.max_train_samples), _take(evaluation, arguments.max_eval_samples)


def load_all(arguments: VideoDataArguments) -> dict[str, LabelledVideos]:
    """All splits by name, whole and without a complaint about missing files, to look at them."""
    return {name: read() for name, read in _splits(arguments).items()}


def describe(splits: Iterable[LabelledVideos]) -> str:
    """Counts per split and class, and what is missing, as text.

    Args:
        splits: of one data set, see [`load_all`].
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


def _splits(arguments: VideoDataArguments, *wanted: str) -> dict[str, Callable[[], LabelledVideos]]:
    """What reads each split, by name. Splits of other than the usual names are found where they are wanted."""
    if arguments.dataset == EMBEDDED:
        if arguments.protocol is not None:
            raise DataError(f"protocol {arguments.protocol!r} divides the videos of a folder: set dataset to it.")
        from .motion import motion_splits

        return {name: partial(_same, videos) for name, videos in motion_splits().items()}
    listings = _listings(arguments, {*wanted, arguments.train_split, arguments.eval_split or ""})
    reference = next(filter(None, (_find(listings, name) for name in (arguments.train_split,))), None)
    return {name: partial(_labelled, name, reference or name, listings, arguments) for name in listings}


def _same(videos: LabelledVideos) -> LabelledVideos:
    return videos


def _listings(arguments: VideoDataArguments, wanted: set[str]) -> dict[str, Callable[[], _Listing]]:
    """What lists each split, by name."""
    source = Path(arguments.dataset).expanduser()
    if not arguments.dataset or not source.exists():
        raise DataError(_absent(arguments.dataset))
    if arguments.protocol is not None:
        return _protocol(source, arguments)
    if arguments.clip_list is not None:
        raise DataError("clip_list names the clips of a protocol: set protocol.")
    if source.is_file():
        return _one_table(source, arguments)
    tables = _find_tables(source, wanted)
    if tables:
        return {name: cache(partial(_table, path, name, source, arguments)) for name, path in tables.items()}
    return _folders(source, wanted)


def _absent(source: str) -> str:
    if Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        return f"data set {source!r} does not exist: it is no folder or file here."
    return (
        f"data set {source!r} is no folder or file here, and videos are not read from the Hub: download them with "
        f"`hf download {source} --repo-type dataset --local-dir videos` and set dataset to the folder."
    )


def _find(splits: Iterable[str], wanted: str) -> str | None:
    """The split of a name, or of another usual name for it."""
    if wanted in set(splits):
        return wanted
    return next((name for alias in aliases(wanted) for name in splits if name.lower() == alias), None)


def _named(splits: dict[str, Callable[[], LabelledVideos]], wanted: str, arguments: VideoDataArguments) -> str:
    found = _find(splits, wanted)
    if found is None:
        raise DataError(f"data set {arguments.dataset!r} has no split {wanted!r}: it has {', '.join(splits)}.")
    return found


def _default_eval(splits: Iterable[str]) -> str | None:
    return next(filter(None, (_find(splits, name) for name in EVAL_SPLITS)), None)


def _is_split(name: str, wanted: set[str]) -> bool:
    return name in wanted or any(name.lower() in names for names in SPLIT_ALIASES)


def _folders(source: Path, wanted: set[str]) -> dict[str, Callable[[], _Listing]]:
    """Splits that are folders of class folders, or the class folders themselves."""
    splits = [folder for folder in _subfolders(source) if _is_split(folder.name, wanted)]
    if not splits:
        return {"train": cache(partial(_class_folders, source))}
    return {folder.name: cache(partial(_class_folders, folder)) for folder in splits}


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_folders(folder: Path) -> _Listing:
    """Videos, and folders of frames, in one folder per class."""
    rows = [row for class_folder in _subfolders(folder) for row in _class_folder(class_folder)]
    if not rows:
        direct = any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.iterdir())
        raise DataError(
            f"folder {str(folder)!r} has {'no class folders, but videos' if direct else 'no videos'}: put the videos "
            "of each class in a folder of its own, name their labels in a table, or set protocol."
        )
    return _Listing(rows)


def _class_folder(folder: Path) -> list[Row]:
    rows = []
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(VIDEO_SUFFIXES):
                rows.append(Row(0, os.path.join(place, name), folder.name))
        frames = () if inner else _frames(place, files)
        if frames and Path(place) == folder:
            raise DataError(
                f"class folder {str(folder)!r} holds images: put the frames of each clip in a folder of its own."
            )
        if frames:
            rows.append(Row(0, place, folder.name, frames=frames))
    return rows


def _frames(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    """Paths of the images of a folder, img_2 before img_10; none of a folder with videos."""
    names = [name for name in names if not name.startswith(".")]
    if any(name.lower().endswith(VIDEO_SUFFIXES) for name in names):
        return ()
    images = sorted((name for name in names if name.lower().endswith(IMAGE_SUFFIXES)), key=_natural)
    return tuple(os.path.join(folder, name) for name in images)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _protocol(source: Path, arguments: VideoDataArguments) -> dict[str, Callable[[], _Listing]]:
    """Splits of a protocol, which knows the classes."""
    protocol = str(arguments.protocol)
    paths = find_videos(source)
    names = {Path(path).stem for path in paths}
    expected = _expected(arguments.clip_list, names) if arguments.clip_list is not None else []
    divided = divide(paths, protocol, expected=expected)
    outside = len(divided.unknown) + len(divided.unassigned)
    if outside:
        first = (divided.unknown + divided.unassigned)[0]
        logger.warning(f"{outside} videos are in no split of {protocol}, by their names, e.g. {first!r}.")
    class_names = list(divided.protocol.class_names)
    if given_names(arguments) not in (None, class_names):
        raise DataError(f"protocol {protocol!r} fixes the order of its classes: leave class_names out.")
    missing = divide(divided.missing, protocol).clips if divided.missing else {}
    listings = {
        split: _Listing(
            [Row(0, path, class_names[label]) for path, label in clips],
            class_names=class_names,
            missing=[name for name, _ in missing.get(split, [])],
        )
        for split, clips in divided.clips.items()
    }
    return {split: partial(_as_listed, listing) for split, listing in listings.items()}


def _as_listed(listing: _Listing) -> _Listing:
    return listing


def _expected(clip_list: str, names: set[str]) -> list[str]:
    """Names in a list of clips, without folder and suffix; `_rgb`, where the files' names have it."""
    try:
        lines = Path(clip_list).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read clip_list {clip_list!r}: it is a text file with a name a line.") from error
    listed = [os.path.basename(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    stems = [name[: name.rindex(".")] if name.lower().endswith(VIDEO_SUFFIXES) else name for name in listed]
    return [f"{stem}_rgb" if f"{stem}_rgb" in names else stem for stem in stems]


def _find_tables(source: Path, wanted: set[str]) -> dict[str, Path]:
    """The table of each split: `train.csv`, also `train_manifest.txt` or `train_CS.txt`."""
    tables: dict[str, Path] = {}
    for folder in TABLE_FOLDERS:
        if not (source / folder).is_dir():
            continue
        for path in sorted((source / folder).iterdir()):
            split = path.stem.removesuffix("_manifest").removesuffix("_CS")
            if path.suffix.lower() not in TABLE_SUFFIXES or not _is_split(split, wanted) or not path.is_file():
                continue
            if split in tables:
                both = [str(table.relative_to(source)) for table in (tables[split], path)]
                raise DataError(f"split {split!r} has two tables, {both[0]!r} and {both[1]!r}: keep one.")
            tables[split] = path
    return tables


def _table(path: Path, split: str, source: Path, arguments: VideoDataArguments) -> _Listing:
    """The table of one split; its paths start in its folder, or in that of the data set."""
    table = read_table(path, arguments, split)
    return _Listing(table.rows, _roots(arguments, path.parent, source), table, table.class_names)


def _roots(arguments: VideoDataArguments, *usual: Path) -> tuple[str, ...]:
    if arguments.video_root is None:
        return tuple(dict.fromkeys(map(str, usual)))
    root = Path(arguments.video_root).expanduser()
    if not root.is_dir():
        raise DataError(f"video_root {arguments.video_root!r} is no folder.")
    return (str(root),)


def _one_table(path: Path, arguments: VideoDataArguments) -> dict[str, Callable[[], _Listing]]:
    """Splits of one table: those of its column `split`, or "train" alone."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{arguments.dataset!r} is a file but no table ({', '.join(TABLE_SUFFIXES)}): give a table or a folder."
        )
    table = read_table(path, arguments, "train")
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        rows.setdefault(row.split or "", []).append(row)
    if "" in rows and len(rows) > 1:
        raise DataError(f"{table.where(rows[''][0])} has no split, but others have: fill the column 'split'.")
    whole = _Listing(table.rows, _roots(arguments, path.parent), table, table.class_names)
    return {split or "train": partial(_as_listed, replace(whole, rows=part)) for split, part in rows.items()}


def _labelled(
    split: str, reference: str, listings: dict[str, Callable[[], _Listing]], arguments: VideoDataArguments
) -> LabelledVideos:
    """Number the labels of a split by the classes of another one, and look for its files."""
    listing = listings[split]()
    classes = _classes(listings[reference](), arguments)
    videos = LabelledVideos([], classes.names, split, list(listing.missing))
    labels: dict[tuple, int] = {}
    for row in listing.rows:
        label = _label(row, classes, listing, split, reference)
        clip = _locate(row, label, listing.roots)
        if clip is None:
            videos.missing.append(os.path.join(*(listing.roots or ())[:1], row.folders[0], _first_file(row)))
            continue
        if labels.setdefault(_key(clip), label) != label:
            names = classes.names[labels[_key(clip)]], classes.names[label]
            raise DataError(
                f"{listing.where(row)} says that {row.video!r} is {names[1]!r}, but an earlier one that it is "
                f"{names[0]!r}: keep one."
            )
        videos.clips.append(clip)
    return videos


def _key(clip: Clip) -> tuple:
    return clip.path, clip.start, clip.end


def _first_file(row: Row) -> str:
    return row.frames[0] if row.frames else row.video


def _locate(row: Row, label: int, roots: tuple[str, ...] | None) -> Clip | None:
    """The clip of a row, if its file exists: its folder of images, or the first and last of its frames."""
    if roots is None:
        return Clip(row.video, label, row.start, row.end, row.frames)
    for root in roots:
        for folder in row.folders:
            base = os.path.join(root, folder)
            path = os.path.normpath(os.path.join(base, _first_file(row)))
            if not os.path.exists(path):
                continue
            if row.frames is not None:
                frames = tuple(os.path.join(base, frame) for frame in row.frames)
                return Clip(row.video, label, frames=frames) if os.path.exists(frames[-1]) else None
            if path.lower().endswith(VIDEO_SUFFIXES) or not os.path.isdir(path):
                return Clip(path, label, row.start, row.end)
            frames = _frames(path, os.listdir(path))
            return Clip(path, label, row.start, row.end, frames) if frames else None
    return None


def _classes(listing: _Listing, arguments: VideoDataArguments) -> _Classes:
    """Class names: given, known to the source, beside the table of numbers, or the distinct labels in order."""
    given = given_names(arguments)
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
    if len(names) < 2:
        raise DataError(
            f"{origin} has videos of one class only ({', '.join(names)}): give videos of at least two classes."
        )
    return _Classes(names, base, given is not None)


def _is_number(label: str | int) -> bool:
    return isinstance(label, int) or re.fullmatch(r"[+-]?\d+", label) is not None


def _label(row: Row, classes: _Classes, listing: _Listing, split: str, reference: str) -> int:
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
    # as a table it has the columns `id` (the label) and `name` (in the place of the video)
    columns = VideoDataArguments(video_column="name", label_column="id")
    for path in map(table.with_name, CLASS_NAME_FILES):
        if path == table or not path.is_file():
            continue
        rows = read_table(path, columns, "").rows
        ids = {int(row.label): row.video for row in rows if _is_number(row.label)}
        if sorted(ids) != list(range(base, base + len(rows))):
            raise DataError(
                f"the column 'id' of {path.name!r} is not {base}..{base + len(rows) - 1}: set label_base, or give "
                "class_names."
            )
        return [ids[number] for number in sorted(ids)]
    return None


def _checked(videos: LabelledVideos, arguments: VideoDataArguments) -> LabelledVideos:
    """A split that can be used: not empty, and whole unless what is missing is to be skipped."""
    missing = len(videos.missing)
    if missing and (not videos.clips or arguments.on_error == "raise"):
        fix = "set video_root to the folder that the paths start from"
        if videos.clips:
            fix += ", or on_error to skip to leave them out"
        raise DataError(
            f"{missing} of {missing + len(videos.clips)} videos of split {videos.name!r} do not exist, e.g. "
            f"{videos.missing[0]!r}: {fix}."
        )
    if not videos.clips:
        raise DataError(f"split {videos.name!r} has no videos.")
    return videos


def _check_classes(train: LabelledVideos, evaluation: LabelledVideos) -> None:
    if train.class_names != evaluation.class_names:
        raise DataError(f"splits {train.name!r} and {evaluation.name!r} name different classes: give class_names.")
    unseen = sorted({clip.label for clip in evaluation.clips} - {clip.label for clip in train.clips})
    if unseen:
        raise DataError(
            f"split {evaluation.name!r} has videos of class {train.class_names[unseen[0]]!r}, but split "
            f"{train.name!r} has none: make their classes agree."
        )


def _warn_of_shared(train: LabelledVideos, evaluation: LabelledVideos) -> None:
    shared = set(map(_key, train.clips)) & set(map(_key, evaluation.clips))
    if shared:
        logger.warning(
            f"{len(shared)} clips are both in split {train.name!r} and in {evaluation.name!r}, e.g. {min(shared)[0]!r}."
        )


def _hold_out(
    train: LabelledVideos, arguments: VideoDataArguments, seed: int
) -> tuple[LabelledVideos, LabelledVideos]:
    if not 0 < arguments.validation_fraction < 1:
        raise DataError(
            f"data set {arguments.dataset!r} has no evaluation split: set eval_split, or validation_fraction to a part "
            "between 0 and 1."
        )
    rows = datasets.Dataset.from_dict(
        {"clip": list(range(len(train.clips))), "label": [clip.label for clip in train.clips]},
        features=datasets.Features(
            {"clip": datasets.Value("int64"), "label": datasets.ClassLabel(num_classes=len(train.class_names))}
        ),
    )
    parts = split_rows(rows, arguments.validation_fraction, seed, "label")
    kept, held = ([train.clips[number] for number in sorted(parts[part]["clip"])] for part in ("train", "test"))
    return replace(train, clips=kept), replace(train, clips=held, name="held out", missing=[])


def _take(videos: LabelledVideos, count: int | None) -> LabelledVideos:
    if count is None:
        return videos
    return replace(videos, clips=[videos.clips[number] for number in spread(len(videos.clips), count)])
