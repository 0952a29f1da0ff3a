"""Which files are images and videos: among paths as given, and in folders."""

# paths are text here: there may be millions
# ruff: noqa: PTH100, PTH116, PTH119, PTH122

import hashlib
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageFile

from ..errors import first_line
from .errors import DataError


# what systems and programs leave in folders of data, beside hidden files, which begin with a dot
CLUTTER = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir")
# formats of pillow-heif, which makes Pillow read them
HEIF_SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif")
# of the files that PyAV opens and that hold moving pictures; the commonest first, for they are looked up by turns
VIDEO_SUFFIXES = (
    *(".avi", ".mkv", ".mov", ".mp4", ".webm", ".gif", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv"),
    *(".mts", ".m2ts", ".m2v", ".mpe", ".m1v", ".vob", ".3g2", ".asf", ".f4v", ".ogm", ".mj2", ".mjpeg"),
    *(".mjpg", ".mk3d", ".mxf", ".nut", ".qt", ".divx", ".dv", ".rm", ".rmvb", ".y4m", ".h264", ".264", ".h265"),
    *(".265", ".hevc", ".vc1", ".ivf", ".obu"),
)
_VIDEO_SUFFIXES = frozenset(VIDEO_SUFFIXES)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeftOut:
    """A file or a row that is no sample of any split.

    Args:
        path: path of the file, or name of the row.
        reason: why it is left out, the same words for the same reason.
    """

    path: str
    reason: str


# why a folder without samples, and without a table, is left out
EMPTY = "it holds no samples"


@dataclass
class Folder:
    """A folder and all that lies in it, without hidden files and what systems leave behind.

    Args:
        path: path of the folder.
        files: paths of the files in it, sorted.
        folders: the folders in it, by name; linked ones, too.
        left_out: links that lead nowhere or back, pipes and the like.
    """

    path: str
    files: list[str] = field(default_factory=list)
    folders: list["Folder"] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return os.path.basename(self.path)

    def all_files(self) -> list[str]:
        """The files in this folder and in those inside, sorted by path."""
        return sorted(self._walk())

    def _walk(self) -> Iterator[str]:
        yield from self.files
        for folder in self.folders:
            yield from folder._walk()

    def all_left_out(self) -> list[LeftOut]:
        """What is left out of this folder and of those inside."""
        return [*self.left_out, *(one for folder in self.folders for one in folder.all_left_out())]


def look_into(path: str | Path) -> Folder:
    """List a folder and the folders inside, links followed.

    Raises:
        DataError: if a folder cannot be read.
    """
    return _look_into(os.fspath(path), ())


def _look_into(path: str, above: tuple[tuple[int, int], ...]) -> Folder:
    folder = Folder(path)
    try:
        status = os.stat(path)
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"folder {path!r} cannot be read: {first_line(error)}.") from error
    above = (*above, (status.st_dev, status.st_ino))
    for entry in entries:
        if is_clutter(entry.name):
            continue
        if entry.is_dir():
            if entry.is_symlink() and (entry.stat().st_dev, entry.stat().st_ino) in above:
                folder.left_out.append(LeftOut(entry.path, "link to a folder that it lies in"))
            else:
                folder.folders.append(_look_into(entry.path, above))
        elif entry.is_file():
            folder.files.append(entry.path)
        else:
            folder.left_out.append(LeftOut(entry.path, "broken link" if entry.is_symlink() else "no regular file"))
    return folder


def unpacked(path: str) -> str:
    """Unpack a ZIP archive into the cache of `datasets`, once for every state of the file.

    Args:
        path: file of the archive.

    Returns:
        The folder with what the archive holds.

    Raises:
        DataError: if it cannot be read.
    """
    from datasets import config

    status = os.stat(path)
    state = f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"
    folder = Path(config.HF_DATASETS_CACHE, "dna_hf_unpacked", hashlib.sha256(os.fsencode(state)).hexdigest()[:16])
    # under a name of its own first: several processes may unpack, and one may be stopped
    begun = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        if not folder.is_dir():
            with zipfile.ZipFile(path) as archive:
                archive.extractall(begun)
            begun.rename(folder)
    except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        if not folder.is_dir():
            raise DataError(f"archive {path!r} cannot be unpacked: {first_line(error)}.") from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return str(folder)


def is_clutter(name: str) -> bool:
    """Whether a file or folder is hidden, or something that systems leave behind: no data, whatever it holds."""
    return name.startswith(".") or name.lower() in CLUTTER


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the files that Pillow reads here, in small letters; those of pillow-heif where it is installed."""
    register_heif()
    return frozenset(
        suffix
        for suffix, kind in Image.registered_extensions().items()
        if kind == "MPO" or (kind in Image.OPEN and _can_decode(kind))
    )


def _can_decode(kind: str) -> bool:
    """Whether Pillow reads a format that it can recognise: some need a program or a plug-in."""
    # it knows the endings of MPEG videos, but cannot read them
    if kind == "MPEG":
        return False
    if kind == "EPS":
        from PIL import EpsImagePlugin

        return EpsImagePlugin.has_ghostscript()
    reader = Image.OPEN[kind][0]
    return not (isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile))


@cache
def register_heif() -> None:
    """Teach Pillow HEIF in this process, where pillow-heif is installed."""
    # Pillow tries formats in the order in which it learned them: the usual ones have to stay the first
    Image.preinit()
    if find_spec("pillow_heif") is not None:
        from pillow_heif import register_heif_opener

        register_heif_opener()


def is_video(path: str | Path) -> bool:
    """Whether a file is taken for a video, by its name."""
    name = os.fspath(path)
    dot = name.rfind(".")
    # as `os.path.splitext`, which takes a good part of the time that a large table takes
    return dot > 0 and name[dot - 1] != os.sep and name[dot:].lower() in _VIDEO_SUFFIXES


def is_image(path: str | Path) -> bool:
    """Whether a file is taken for an image, by its name."""
    return os.path.splitext(path)[1].lower() in image_suffixes()


def why_no_image(path: str) -> str:
    """Why a file is not taken for an image."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in HEIF_SUFFIXES:
        return f"{suffix} needs pillow-heif"
    return f"{suffix} is no image" if suffix else "no image by its name"


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, and all images inside folders, sorted.

    Raises:
        DataError: if a path does not exist or is no regular file, or a folder holds no image.
    """
    return gather(paths, _by_name(is_image, "image"), "image")


def media_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, and all images and videos inside folders, sorted.

    Raises:
        DataError: if a path does not exist or is no regular file, or a folder holds neither.
    """
    what = "image or video"
    return gather(paths, _by_name(lambda path: is_video(path) or is_image(path), what), what)


def _by_name(fits: Callable[[str | Path], bool], what: str) -> Callable[[Folder], tuple[list[str], list[LeftOut]]]:
    """What chooses the files of a folder whose names fit, and tells the others."""

    def choose(folder: Folder) -> tuple[list[str], list[LeftOut]]:
        everything = folder.all_files()
        others = [LeftOut(file, f"no {what} by its name") for file in everything if not fits(file)]
        return [file for file in everything if fits(file)], [*others, *folder.all_left_out()]

    return choose


def gather(
    paths: Iterable[str | Path], choose: Callable[[Folder], tuple[list[str], list[LeftOut]]], what: str
) -> list[Path]:
    """Files as given, and those that are chosen of folders, sorted; what is left out is warned of.

    Args:
        paths: files and folders.
        choose: function that says of a folder what is taken, and what is left out.
        what: what is looked for, for messages.

    Raises:
        DataError: if a path does not exist or is no regular file, or nothing of a folder is taken.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(regular_file(path, what))
            continue
        found, left_out = choose(look_into(path))
        if not found:
            raise DataError(f"folder {str(path)!r} holds no {what}" + (f": {told(left_out)}." if left_out else "."))
        if left_out:
            logger.warning(f"dna-hf: left out of {str(path)!r}: {told(left_out)}.")
        files += map(Path, sorted(found))
    return files


def told(left_out: Iterable[LeftOut]) -> str:
    """What is left out as a part of a sentence: how many for each reason, and one of them by name."""
    reasons: dict[str, list[str]] = {}
    for one in left_out:
        reasons.setdefault(one.reason, []).append(one.path)
    return "; ".join(
        f"{reason}: {os.path.basename(paths[0])!r}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        for reason, paths in reasons.items()
    )


def regular_file(path: str | Path, what: str) -> Path:
    """A path, after a look at what is there: a pipe or a device may never end.

    Args:
        path: file to look at.
        what: what is expected there, for messages.

    Raises:
        DataError: if there is nothing, or no regular file.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{what} {str(path)!r} does not exist.")
    if not path.is_file():
        raise DataError(f"{what} {str(path)!r} is no regular file: name a file.")
    return path
