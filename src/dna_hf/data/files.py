"""Which files are images and videos: among paths as given, and in folders."""

from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from .errors import DataError
from .video_protocols import VIDEO_SUFFIXES


def is_video(path: Path) -> bool:
    """Whether a file is taken for a video, by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_image(path: Path) -> bool:
    """Whether a file is taken for an image, by its name."""
    # Pillow knows the endings of MPEG videos, but cannot read them
    return Image.registered_extensions().get(path.suffix.lower(), "MPEG") != "MPEG"


def image_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, and all images inside folders, sorted.

    Raises:
        DataError: if a path does not exist or is no regular file, or a folder holds no image.
    """
    return _files(paths, is_image, "image")


def video_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, and all videos inside folders, sorted.

    Raises:
        DataError: if a path does not exist or is no regular file, or a folder holds no video.
    """
    return _files(paths, is_video, "video")


def media_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, and all images and videos inside folders, sorted.

    Raises:
        DataError: if a path does not exist or is no regular file, or a folder holds neither.
    """
    return _files(paths, lambda path: is_video(path) or is_image(path), "image or video")


def _files(paths: Iterable[str | Path], fits: Callable[[Path], bool], what: str) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(regular_file(path, what))
            continue
        found = sorted(file for file in path.rglob("*") if fits(file) and file.is_file())
        if not found:
            raise DataError(f"folder {str(path)!r} holds no {what}.")
        files += found
    return files


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
