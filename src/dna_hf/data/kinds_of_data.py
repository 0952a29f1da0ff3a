"""What a data set consists of, found by looking at its files: images, videos, conversations or questions."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .arguments import EMBEDDED_IMAGES, EMBEDDED_VIDEOS
from .errors import DataError


# the command line offers these: nothing heavy is imported here
IMAGES, VIDEOS, CONVERSATIONS, QUESTIONS = KINDS = ("image", "video", "conversation", "questions")
TABLES = (".csv", ".json", ".jsonl", ".tsv", ".txt")
# bytes of a file that are looked at
HEAD = 2**20


def find_kind(dataset: str) -> tuple[str, str]:
    """Say what a data set consists of.

    Args:
        dataset: name of an embedded data set, a path, or a name on the Hub.

    Returns:
        One of `KINDS`, and what says so.

    Raises:
        DataError: for a file, or a folder, that tells nothing.
    """
    if dataset in (EMBEDDED_IMAGES, EMBEDDED_VIDEOS):
        return IMAGES if dataset == EMBEDDED_IMAGES else VIDEOS, "they are embedded"
    path = Path(dataset).expanduser()
    if path.is_dir():
        return _of_folder(path)
    return _of_file(path) if path.is_file() else (IMAGES, "it is no path here")


def _of_folder(folder: Path) -> tuple[str, str]:
    """By what most files of a folder are, videos or images; frames of videos look like images."""
    from .files import look_into
    from .image_folders import ARCHIVE
    from .local_files import OTHER_DATA
    from .parquet_files import SUFFIX

    files = look_into(folder).all_files()
    videos, images = _count(files)
    images += sum(path.lower().endswith(ARCHIVE) for path in files)
    holding = sum(path.lower().endswith((SUFFIX, *OTHER_DATA)) for path in files)
    if videos and images:
        kind, other = (IMAGES, VIDEOS) if images > videos else (VIDEOS, IMAGES)
        numbers = ((images, IMAGES), (videos, VIDEOS))
        counts = " and ".join(f"{count:,} {name}{'s' if count > 1 else ''}" for count, name in numbers)
        return kind, f"the folder has {counts}: if it is a data set of {other}s, set --kind {other}"
    if videos or images:
        # how many belong to the data set is for what lists them to say
        return (VIDEOS if videos else IMAGES), "the files of the folder have such names"
    if holding:
        return IMAGES, f"the folder has {holding:,} files that hold images: parquet, Arrow or tar"
    tables = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in TABLES)
    if tables:
        kind, reason = _of_table(folder / tables[0])
        return kind, f"the folder has the table {tables[0]!r}, and {reason}"
    raise DataError(f"folder {str(folder)!r} holds no images, videos or tables: name another one, or set --kind.")


def _count(names: Iterable[str]) -> tuple[int, int]:
    """How many names are those of videos, and of images; a GIF, which is both, counts as an image."""
    from .files import is_image, is_video

    videos = images = 0
    for name in names:
        image = is_image(name)
        images += image
        videos += not image and is_video(name)
    return videos, images


def _of_file(path: Path) -> tuple[str, str]:
    """By the name of a file, and of one in JSON by the keys of its first entry."""
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return _of_table(path)
    if path.suffix.lower() not in (".json", ".jsonl"):
        return IMAGES, f"it is a file {path.suffix or 'without a suffix'}"
    keys = _first_entry(path)
    if keys & {"conversations", "messages"}:
        return CONVERSATIONS, f"its first entry has {sorted(keys & {'conversations', 'messages'})[0]!r}"
    if "question" in keys:
        return QUESTIONS, "its first entry has 'question'"
    return _of_table(path)


def _of_table(path: Path) -> tuple[str, str]:
    """By the endings of the files that the head of a table names."""
    words = re.split(r"[\s,;|\"']+", _head(path))
    videos, images = _count(words)
    return (IMAGES, "the table names images") if images > videos else (VIDEOS, "it is a table")


def _head(path: Path) -> str:
    """The first text of a file."""
    with path.open("rb") as file:
        return file.read(HEAD).decode("utf-8-sig", "replace")


def _first_entry(path: Path) -> set[str]:
    """The keys of the first object in a JSON list or of the first line; none where there is no such thing."""
    text = _head(path)
    start = text.find("{")
    if start < 0:
        return set()
    try:
        entry: Any = json.JSONDecoder().raw_decode(text, start)[0]
    except ValueError:
        return set()
    return set(entry) if isinstance(entry, dict) else set()
