"""What a data set consists of, found by looking at its files: images, videos, conversations or questions."""

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError


# the command line offers these: nothing heavy is imported here
IMAGES, VIDEOS, CONVERSATIONS, QUESTIONS = KINDS = ("image", "video", "conversation", "questions")
TABLES = (".csv", ".json", ".jsonl", ".tsv", ".txt")
# files of a folder that are looked at, and bytes of a file
MANY, HEAD = 5000, 2**20


def find_kind(dataset: str) -> tuple[str, str]:
    """Say what a data set consists of.

    Args:
        dataset: name of an embedded data set, a path, or a name on the Hub.

    Returns:
        One of `KINDS`, and what says so.

    Raises:
        DataError: for a file, or a folder, that tells nothing.
    """
    path = Path(dataset).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_file(path)
    if dataset == "moving-fashion-mnist":
        return VIDEOS, "they are embedded"
    return IMAGES, "they are embedded" if dataset == "fashion-mnist-mini" else "it is no path here"


def _of_folder(folder: Path) -> tuple[str, str]:
    """By the files of a folder: its videos, or its images; frames of videos look like images."""
    from .files import is_image, is_video

    counts: Counter[str] = Counter()
    for path in itertools.islice(_walk(folder), MANY):
        # a GIF is both: beside videos it is one, and alone an image
        counts["video"] += is_video(path) and not is_image(path)
        counts["image"] += is_image(path) or path.suffix.lower() == ".zip"
        counts["parquet"] += path.suffix in (".parquet", ".arrow")
    if counts["video"]:
        beside = f" and {counts['image']:,} images" if counts["image"] else ""
        return VIDEOS, f"the folder has {counts['video']:,} videos{beside}"
    if counts["image"] or counts["parquet"]:
        what = f"{counts['image']:,} images" if counts["image"] else f"{counts['parquet']:,} files of tables"
        return IMAGES, f"the folder has {what}"
    tables = [path.name for path in folder.iterdir() if path.suffix.lower() in TABLES]
    if tables:
        return VIDEOS, f"the folder has the table {sorted(tables)[0]!r}"
    raise DataError(f"folder {str(folder)!r} holds no images, videos or tables: name another one, or set --kind.")


def _walk(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those that links lead to, hidden ones left out."""
    from .files import is_clutter

    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_clutter(name))
        for name in sorted(files):
            if not is_clutter(name):
                yield Path(parent, name)


def _of_file(path: Path) -> tuple[str, str]:
    """By the name of a file, and of one in JSON by the keys of its first entry."""
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        return VIDEOS, "it is a table"
    if path.suffix.lower() not in (".json", ".jsonl"):
        return IMAGES, f"it is a file {path.suffix or 'without a suffix'}"
    keys = _first_entry(path)
    if keys & {"conversations", "messages"}:
        return CONVERSATIONS, f"its first entry has {sorted(keys & {'conversations', 'messages'})[0]!r}"
    if "question" in keys:
        return QUESTIONS, "its first entry has 'question'"
    return VIDEOS, "its entries have neither 'conversations' nor 'question': it is a table"


def _first_entry(path: Path) -> set[str]:
    """The keys of the first object in a JSON list or of the first line; none where there is no such thing."""
    with path.open("rb") as file:
        text = file.read(HEAD).decode("utf-8-sig", "replace")
    start = text.find("{")
    if start < 0:
        return set()
    try:
        entry: Any = json.JSONDecoder().raw_decode(text, start)[0]
    except ValueError:
        return set()
    return set(entry) if isinstance(entry, dict) else set()
