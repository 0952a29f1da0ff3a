"""Where the videos are that a table names: at their paths, or under names that are written otherwise."""

# paths are text here: there may be millions
# ruff: noqa: PTH110, PTH112, PTH117, PTH118, PTH119, PTH122

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from .errors import DataError
from .files import is_video, look_into
from .video_folders import see_videos
from .video_tables import Row


# seconds in the names of clips of Kinetics: id_000010_000020
KINETICS_TIMES = re.compile(r"_\d{6}_\d{6}$")
# ways in which the name in a table differs from that of the file
_WAYS = {
    "backslashes": "with backslashes between folders",
    "form": "in another Unicode form than the files",
    "suffix": "without the suffix of the file",
    "folder": "without the folder of the file",
    "both": "without folder and suffix of the file",
    "times": "without the times at the end of the file's name",
}


class Places:
    """Looks for the videos that the rows of a table name.

    Args:
        roots: folders that the paths of the rows start from.
        table: name of the table, for messages.
        there: paths of videos that are known to be there.
    """

    def __init__(self, roots: tuple[str, ...], table: str, there: frozenset[str] = frozenset()) -> None:
        self.roots = roots
        self.there = there if all(os.path.normpath(root) == root for root in roots) else frozenset()
        self.table = table
        self.ways: Counter[str] = Counter()

    def find(self, row: Row) -> str | None:
        """Path of the video, or of the folder of frames, of a row; `None` if there is none."""
        for root in self.roots:
            for folder in row.folders:
                written = f"{root}{os.sep}{folder}{os.sep}{row.video}" if folder else f"{root}{os.sep}{row.video}"
                if written in self.there:
                    return written
                path = os.path.normpath(os.path.join(root, folder, row.video))
                if os.path.exists(path):
                    return path
        return self._otherwise(row)

    def notes(self) -> list[str]:
        """Sentences about names that are written otherwise than those of the files."""
        return [
            f"{count} of the names in {self.table!r} are {_WAYS[way]}: the one file that fits each is taken."
            for way, count in self.ways.items()
        ]

    def _otherwise(self, row: Row) -> str | None:
        name = plain_name(row.video)
        if not name or os.path.isabs(name):
            return None
        if "\\" in row.video:
            for path in (os.path.normpath(os.path.join(root, name)) for root in self.roots):
                if os.path.exists(path):
                    self.ways["backslashes"] += 1
                    return path
        for way in ("form", "suffix", "folder", "both", "times"):
            found = self._index[way].get(name, [])
            if len(found) > 1:
                raise DataError(
                    f"{self.table!r} names {row.video!r}, and there are {len(found)} such videos, e.g. {found[0]!r} "
                    f"and {found[1]!r}: write the path of the one that is meant."
                )
            if found:
                self.ways[way] += 1
                return found[0]
        return None

    @cached_property
    def _files(self) -> list[tuple[str, str]]:
        """Path from a root on, in one Unicode form, and whole path, of each video and folder of frames."""
        roots = [root for root in dict.fromkeys(map(os.path.normpath, self.roots)) if os.path.isdir(root)]
        # a root inside another one has its own paths, and its files are the same
        return list(dict.fromkeys(pair for root in roots for pair in _below(root)))

    @cached_property
    def _index(self) -> dict[str, dict[str, list[str]]]:
        index: dict[str, dict[str, list[str]]] = {way: {} for way in _WAYS}
        for relative, path in self._files:
            name = os.path.basename(relative)
            keys = {"form": relative, "suffix": _stem(relative), "folder": name, "both": _stem(name)}
            keys["times"] = KINETICS_TIMES.sub("", _stem(name))
            for way, key in keys.items():
                same = index[way].setdefault(key, [])
                if path not in same:
                    same.append(path)
        return index

    def hint(self, row: Row) -> str:
        """What differs between the name in a row, which leads nowhere, and the videos that are there."""
        if not self._files:
            return f"no videos lie in {self.roots[0]!r}: set video_root to the folder that the paths start from"
        name = os.path.basename(plain_name(row.video))
        same = next((path for relative, path in self._files if os.path.basename(relative) == name), None)
        if same is not None:
            return f"{same!r} has this name in another folder: set video_root, or correct the folders in the table"
        alike = next(
            (
                path
                for relative, path in self._files
                if _stem(os.path.basename(relative)).lower() == _stem(name).lower()
            ),
            None,
        )
        if alike is not None:
            return f"there is {alike!r}: correct the name in the table"
        return "set video_root to the folder that the paths start from"


def _below(root: str) -> Iterator[tuple[str, str]]:
    for path in see_videos(look_into(root)).node.all_samples():
        yield plain_name(os.path.relpath(path, root)), path


def plain_name(name: str) -> str:
    """A name with slashes between folders and in one Unicode form."""
    return name if name.isascii() and "\\" not in name else unicodedata.normalize("NFC", name.replace("\\", "/"))


def _stem(name: str) -> str:
    return os.path.splitext(name)[0] if is_video(name) else name
