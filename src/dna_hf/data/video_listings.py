"""What the splits of a data set of videos list: class folders, the files of a protocol, or tables.

A split is read when it is asked for: the table of a hidden test, which has no labels, disturbs nobody else.
"""

# paths are text here: there may be millions
# ruff: noqa: PTH118, PTH119

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from transformers.utils import logging

from .arguments import VideoDataArguments
from .errors import DataError
from .splits import SPLIT_ALIASES, already, given_names
from .video_protocols import VIDEO_SUFFIXES, divide, find_videos
from .video_tables import TABLE_SUFFIXES, Row, Table, read_table


IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
# where, in the folder of a data set, its tables may lie
TABLE_FOLDERS = ("", "annotations", "annotations2", "labels")

logger = logging.get_logger(__name__)


@dataclass
class Listing:
    """What a split lists, before labels are numbered and files looked for.

    Args:
        rows: clips with their labels as they are written.
        roots: folders that the paths of the rows start from; none where the files were found already.
        table: table that the rows come from, `None` if from none.
        class_names: class names in the order of the labels, where the source knows it.
        missing: names of clips for which there is no file.
    """

    rows: list[Row]
    roots: tuple[str, ...] = ()
    table: Table | None = None
    class_names: list[str] | None = None
    missing: list[str] = field(default_factory=list)

    def where(self, row: Row) -> str:
        """Place of a row, for messages."""
        return self.table.where(row) if self.table else repr(row.video)


def list_splits(arguments: VideoDataArguments, wanted: set[str]) -> dict[str, Callable[[], Listing]]:
    """What lists each split, by name.

    Args:
        arguments: fields of the `data` section: which videos.
        wanted: names of splits, where they are not the usual ones.

    Raises:
        DataError: if there is no such data set, or it is of another kind.
    """
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


def _is_split(name: str, wanted: set[str]) -> bool:
    return name in wanted or any(name.lower() in names for names in SPLIT_ALIASES)


def _folders(source: Path, wanted: set[str]) -> dict[str, Callable[[], Listing]]:
    """Splits that are folders of class folders, or the class folders themselves."""
    splits = [folder for folder in _subfolders(source) if _is_split(folder.name, wanted)]
    if not splits:
        return {"train": cache(partial(_class_folders, source))}
    return {folder.name: cache(partial(_class_folders, folder)) for folder in splits}


def frames_in(folder: str, names: Iterable[str]) -> tuple[str, ...]:
    """Paths of the images of a folder, img_2 before img_10; none of a folder with videos."""
    names = [name for name in names if not name.startswith(".")]
    if any(name.lower().endswith(VIDEO_SUFFIXES) for name in names):
        return ()
    images = sorted((name for name in names if name.lower().endswith(IMAGE_SUFFIXES)), key=_natural)
    return tuple(os.path.join(folder, name) for name in images)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_folders(folder: Path) -> Listing:
    """Videos, and folders of frames, in one folder per class."""
    rows = [row for class_folder in _subfolders(folder) for row in _class_folder(class_folder)]
    if not rows:
        direct = any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.iterdir())
        raise DataError(
            f"folder {str(folder)!r} has {'no class folders, but videos' if direct else 'no videos'}: put the videos "
            "of each class in a folder of its own, name their labels in a table, or set protocol."
        )
    return Listing(rows)


def _class_folder(folder: Path) -> list[Row]:
    rows = []
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        videos = sorted(name for name in files if name.lower().endswith(VIDEO_SUFFIXES) and name[0] != ".")
        rows += [Row(0, os.path.join(place, name), folder.name) for name in videos]
        frames = () if inner else frames_in(place, files)
        if frames and Path(place) == folder:
            raise DataError(
                f"class folder {str(folder)!r} holds images: put the frames of each clip in a folder of its own."
            )
        if frames:
            rows.append(Row(0, place, folder.name, frames=frames))
    return rows


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _protocol(source: Path, arguments: VideoDataArguments) -> dict[str, Callable[[], Listing]]:
    """Splits of a protocol, which knows the classes."""
    protocol = str(arguments.protocol)
    paths = find_videos(source)
    expected = _expected(arguments.clip_list, paths) if arguments.clip_list is not None else []
    divided = divide(paths, protocol, expected=expected)
    outside = len(divided.unknown) + len(divided.unassigned)
    if outside:
        first = (divided.unknown + divided.unassigned)[0]
        logger.warning(f"{outside} videos are in no split of {protocol}, by their names, e.g. {first!r}.")
    class_names = list(divided.protocol.class_names)
    if given_names(arguments) not in (None, class_names):
        raise DataError(f"protocol {protocol!r} fixes the order of its classes: leave class_names out.")
    strange = [name for name in divided.missing if not divided.protocol.pattern.fullmatch(name)]
    if strange:
        raise DataError(f"clip_list has {strange[0]!r}, which is no name of {protocol}: choose the list of its clips.")
    # names of files, as the dots of a name are no suffix
    missing = divide([f"{name}.mp4" for name in divided.missing], protocol).clips if divided.missing else {}
    listings: dict[str, Callable[[], Listing]] = {}
    for split, clips in divided.clips.items():
        rows = [Row(0, path, class_names[label]) for path, label in clips]
        names_missing = [Path(path).stem for path, _ in missing.get(split, [])]
        listings[split] = already(Listing(rows, class_names=class_names, missing=names_missing))
    return listings


def _expected(clip_list: str, paths: list[str]) -> list[str]:
    """Names in a list of clips, without folder and suffix, but with `_rgb` where the names of the files have it."""
    try:
        lines = Path(clip_list).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read clip_list {clip_list!r}: it is a text file with a name a line.") from error
    listed = [_stem(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    names = set(map(_stem, paths))
    return [f"{name}_rgb" if f"{name}_rgb" in names else name for name in listed]


def _stem(path: str) -> str:
    """Name of a file, whose other dots are no suffix."""
    name = os.path.basename(path)
    return name[: name.rindex(".")] if name.lower().endswith(VIDEO_SUFFIXES) else name


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


def _table(path: Path, split: str, source: Path, arguments: VideoDataArguments) -> Listing:
    """The table of one split; its paths start in its folder, or in that of the data set."""
    table = read_table(path, arguments, split)
    return Listing(table.rows, _roots(arguments, path.parent, source), table, table.class_names)


def _roots(arguments: VideoDataArguments, *usual: Path) -> tuple[str, ...]:
    if arguments.video_root is None:
        return tuple(dict.fromkeys(map(str, usual)))
    root = Path(arguments.video_root).expanduser()
    if not root.is_dir():
        raise DataError(f"video_root {arguments.video_root!r} is no folder.")
    return (str(root),)


def _one_table(path: Path, arguments: VideoDataArguments) -> dict[str, Callable[[], Listing]]:
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
    whole = Listing(table.rows, _roots(arguments, path.parent), table, table.class_names)
    return {split or "train": already(replace(whole, rows=part)) for split, part in rows.items()}
