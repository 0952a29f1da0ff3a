"""What the splits of a data set of videos list: class folders, the files of a protocol, or tables.

A split is read when it is asked for: the table of a hidden test, which has no labels, disturbs nobody else.
"""

# paths are text here: there may be millions
# ruff: noqa: PTH110, PTH118, PTH119, PTH120, PTH122

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from transformers.utils import logging

from .arguments import VideoDataArguments
from .errors import DataError
from .files import LeftOut, is_video, look_into, told
from .split_folders import Node, split_of_table
from .splits import already, find_split, given_names, is_alias
from .video_columns import WHOLE
from .video_folders import TABLE_SUFFIXES, VideoFolder, class_folders, see_videos, split_nodes
from .video_places import KINETICS_TIMES, plain_name
from .video_protocols import divide, find_videos
from .video_tables import CLASS_NAME_FILES, Row, Table, read_table


# where, in the folder of a data set, its tables may lie
TABLE_FOLDERS = ("", "annotations", "annotations2", "labels")

logger = logging.get_logger(__name__)
# what lists each split, by name
Listings = dict[str, Callable[[], "Listing"]]


@dataclass
class Listing:
    """What a split lists, before labels are numbered and files looked for.

    Args:
        rows: clips with their labels as they are written.
        roots: folders that the paths of the rows start from; none where the files were found already.
        table: table that the rows come from, `None` if from none.
        class_names: class names in the order of the labels, where the source knows it.
        missing: names of clips for which there is no file.
        there: paths of videos that are known to be there.
        left_out: function that says what of the data set is in no split.
        notes: sentences about what was decided.
    """

    rows: list[Row]
    roots: tuple[str, ...] = ()
    table: Table | None = None
    class_names: list[str] | None = None
    missing: list[str] = field(default_factory=list)
    there: frozenset[str] = frozenset()
    left_out: Callable[[], Iterable[LeftOut]] = tuple
    notes: tuple[str, ...] = ()

    def where(self, row: Row) -> str:
        """Place of a row, for messages."""
        return self.table.where(row) if self.table else repr(row.video)


def list_splits(arguments: VideoDataArguments, wanted: set[str]) -> Listings:
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
    videos = see_videos(look_into(source))
    tables = _find_tables(source, videos, wanted)
    if tables and (find_split(tables, arguments.train_split) or not videos.node.nodes):
        return _tables(tables, source, videos, arguments)
    if tables:
        # what is trained on lies in folders, and what is evaluated on is listed
        return _folders(source, videos, wanted, []) | _tables(tables, source, videos, arguments)
    whole, others = _whole_table(videos.node, source, arguments)
    if whole is not None:
        return _one_table(whole, arguments, videos, others)
    return _folders(source, videos, wanted, others)


def _absent(source: str) -> str:
    if Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        return f"data set {source!r} does not exist: it is no folder or file here."
    return (
        f"data set {source!r} is no folder or file here, and videos are not read from the Hub: download them with "
        f"`hf download {source} --repo-type dataset --local-dir videos` and set dataset to the folder."
    )


def _is_split(name: str, wanted: set[str]) -> bool:
    return name in wanted or is_alias(name)


def _folders(source: Path, videos: VideoFolder, wanted: set[str], others: list[LeftOut]) -> Listings:
    """Splits that are folders of class folders, or the class folders themselves."""
    notes: list[str] = []
    outside = list(others)
    nodes = split_nodes(videos, wanted, notes, outside)
    tables = {one.path for one in others}
    outside += [
        LeftOut(path, "table that says nothing of the videos")
        for path in videos.node.all_tables()
        if path not in tables
    ]
    return {
        name: cache(partial(_class_folders, node, str(source), videos, tuple(outside), tuple(notes)))
        for name, node in nodes.items()
    }


def _class_folders(
    node: Node, path: str, videos: VideoFolder, outside: tuple[LeftOut, ...], notes: tuple[str, ...]
) -> Listing:
    found = class_folders(node, path, videos)
    frames = videos.frames
    rows = [Row(0, sample, label, None, WHOLE, frames.get(sample)) for label, sample in found.rows]
    return Listing(rows, left_out=already((*outside, *found.left_out)), notes=notes)


def _protocol(source: Path, arguments: VideoDataArguments) -> Listings:
    """Splits of a protocol, which knows the classes."""
    protocol = str(arguments.protocol)
    paths = find_videos(source)
    expected = _expected(arguments.clip_list, paths) if arguments.clip_list is not None else []
    divided = divide(paths, protocol, expected=expected)
    left_out = divided.left_out()
    if left_out:
        logger.warning(f"{len(left_out)} videos are in no split of {protocol}: {told(left_out)}.")
    class_names = list(divided.protocol.class_names)
    if given_names(arguments) not in (None, class_names):
        raise DataError(f"protocol {protocol!r} fixes the order of its classes: leave class_names out.")
    strange = [name for name in divided.missing if not divided.protocol.pattern.fullmatch(name)]
    if strange:
        raise DataError(f"clip_list has {strange[0]!r}, which is no name of {protocol}: choose the list of its clips.")
    # names of files, as the dots of a name are no suffix
    missing = divide([f"{name}.mp4" for name in divided.missing], protocol).clips if divided.missing else {}
    listings: Listings = {}
    for split, clips in divided.clips.items():
        rows = [Row(0, path, class_names[label]) for path, label in clips]
        names_missing = [Path(path).stem for path, _ in missing.get(split, [])]
        listings[split] = already(
            Listing(rows, class_names=class_names, missing=names_missing, left_out=already(left_out))
        )
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
    return os.path.splitext(name)[0] if is_video(name) else name


def _find_tables(source: Path, videos: VideoFolder, wanted: set[str]) -> dict[str, Path]:
    """The table of each split: `train.csv`, also `train_manifest.txt`, `train_list.txt` or `trainlist01.txt`."""
    exact: dict[str, Path] = {}
    alike: dict[str, Path] = {}
    usual = {os.path.join(source, folder).rstrip(os.sep) for folder in TABLE_FOLDERS}
    paths = [path for path in videos.node.all_tables() if os.path.dirname(path) in usual]
    for path in map(Path, sorted(paths, key=lambda path: (os.path.dirname(path), path))):
        split = path.stem.removesuffix("_manifest").removesuffix("_CS")
        found = exact if _is_split(split, wanted) else alike
        name = split if found is exact else split_of_table(path.stem)
        if name is None or path.name in CLASS_NAME_FILES:
            continue
        if name in found:
            both = [str(table.relative_to(source)) for table in (found[name], path)]
            raise DataError(f"split {name!r} has two tables, {both[0]!r} and {both[1]!r}: keep one.")
        found[name] = path
    return {name: path for name, path in alike.items() if find_split(exact, name) is None} | exact


def _tables(tables: dict[str, Path], source: Path, videos: VideoFolder, arguments: VideoDataArguments) -> Listings:
    """The splits of several tables, and what of the folder none of them names."""
    listings: Listings = {}
    left_out = cache(partial(_unnamed, videos, listings, set(map(str, tables.values()))))
    there = frozenset(videos.node.all_samples())
    for name, path in tables.items():
        listings[name] = cache(partial(_table, path, name, source, arguments, there, left_out))
    # who asks may take some out
    return dict(listings)


def _unnamed(videos: VideoFolder, listings: Listings, tables: set[str]) -> list[LeftOut]:
    """Videos of a folder that no table names, and its other files."""
    named: set[str] = set()
    for read in listings.values():
        try:
            rows = read().rows
        except DataError:
            # what it names is not known
            return []
        named.update(plain_name(row.video).rpartition("/")[2] for row in rows)
        if any(row.frames for row in rows):
            return []
    left_out = [
        LeftOut(path, "named in no table")
        for path in videos.node.all_samples()
        if path.rpartition(os.sep)[2] not in named and not _other_names(path) & named
    ]
    left_out += [LeftOut(path, "table of no split") for path in videos.node.all_tables() if path not in tables]
    return [*left_out, *videos.node.all_left_out()]


def _other_names(path: str) -> set[str]:
    """What a table may call a video instead of the name of its file."""
    name = plain_name(os.path.basename(path))
    return {name, _stem(name), KINETICS_TIMES.sub("", _stem(name))}


def _whole_table(node: Node, source: Path, arguments: VideoDataArguments) -> tuple[Path | None, list[LeftOut]]:
    """The one table beside folders that names videos and their labels, and the tables that do not."""
    usual = {os.path.join(source, folder).rstrip(os.sep) for folder in TABLE_FOLDERS}
    found: list[Path] = []
    others: list[LeftOut] = []
    for path in sorted(node.all_tables()):
        if os.path.dirname(path) not in usual or os.path.basename(path) in CLASS_NAME_FILES:
            continue
        try:
            rows = read_table(Path(path), arguments, "train").rows
        except DataError:
            others.append(LeftOut(path, "no table of videos and labels"))
            continue
        if is_video(rows[0].video) or any(os.path.exists(os.path.join(root, rows[0].video)) for root in usual):
            found.append(Path(path))
        else:
            others.append(LeftOut(path, "no table of videos and labels"))
    if len(found) > 1:
        both = [str(table.relative_to(source)) for table in found]
        raise DataError(
            f"there are two tables of videos, {both[0]!r} and {both[1]!r}: keep one, or set dataset to it."
        )
    return (found[0] if found else None), others


def _table(
    path: Path,
    split: str,
    source: Path,
    arguments: VideoDataArguments,
    there: frozenset[str],
    left_out: Callable[[], Iterable[LeftOut]],
) -> Listing:
    """The table of one split; its paths start in its folder, or in that of the data set."""
    roots = _roots(arguments, path.parent, source)
    table = read_table(path, arguments, split, roots)
    return Listing(
        table.rows, roots, table, table.class_names, there=there, left_out=left_out, notes=tuple(table.notes)
    )


def _roots(arguments: VideoDataArguments, *usual: Path) -> tuple[str, ...]:
    if arguments.video_root is None:
        return tuple(dict.fromkeys(map(str, usual)))
    root = Path(arguments.video_root).expanduser()
    if not root.is_dir():
        raise DataError(f"video_root {arguments.video_root!r} is no folder.")
    return (str(root),)


def _one_table(
    path: Path, arguments: VideoDataArguments, videos: VideoFolder | None = None, others: Iterable[LeftOut] = ()
) -> Listings:
    """Splits of one table: those of its column `split`, or "train" alone; `videos`: the folder that it describes."""
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{arguments.dataset!r} is a file but no table ({', '.join(TABLE_SUFFIXES)}): give a table or a folder."
        )
    source = Path(arguments.dataset).expanduser()
    roots = _roots(arguments, path.parent, *([source] if videos else []))
    table = read_table(path, arguments, "train", roots)
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        rows.setdefault(row.split or "", []).append(row)
    if "" in rows and len(rows) > 1:
        raise DataError(f"{table.where(rows[''][0])} has no split, but others have: fill the column 'split'.")
    listings: Listings = {}
    whole = Listing(table.rows, roots, table, table.class_names, notes=tuple(table.notes))
    if videos is not None:
        note = f"labels are those of table {path.name!r}."
        known = {str(path), *(one.path for one in others)}
        left_out = cache(lambda: [*others, *_unnamed(videos, listings, known)])
        whole = replace(whole, left_out=left_out, notes=(note, *whole.notes))
    for split, part in rows.items():
        listings[split or "train"] = already(replace(whole, rows=part))
    return listings
