"""Data sets of images as people give them, written into a folder, and what is expected of them."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


COLOURS = {"rose": (255, 0, 0), "tulip": (0, 255, 0), "daisy": (0, 0, 255), "lily": (255, 255, 0)}
ROSES_AND_TULIPS = {"rose": 2, "tulip": 2}


@dataclass(frozen=True)
class Case:
    """One thing that people give.

    Args:
        name: name of the case.
        build: function that writes the data set into an empty folder.
        counts: split -> class -> number of images; the splits of training, or the one of `split`.
        error: regular expression for the sentence, where the data set is refused.
        options: fields of section `data`.
        dataset: path of the data set inside the folder.
        split: the one split that is read; by default those of training.
        renamed: class that an image shows -> name of its label, where they differ.
        left_out: name of a file -> regular expression for why it is left out; all that are left out.
        note: regular expression for one of the notes.
        columns: columns that the rows have beside image and label.
    """

    name: str
    build: Callable[[Path], Any]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    error: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    dataset: str = "."
    split: str | None = None
    renamed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    note: str | None = None
    columns: tuple[str, ...] = ()


def picture(shows: str) -> Image.Image:
    return Image.new("RGB", (4, 4), COLOURS[shows])


def folder(*patterns: str, more: Callable[[Path], Any] | None = None) -> Callable[[Path], None]:
    """Writes images: `train/rose/#.png x3` are three that show a rose, `val/a.png = rose` is one of the name."""

    def build(root: Path) -> None:
        for pattern in patterns:
            path, _, shows = pattern.partition(" = ")
            path, _, count = path.partition(" x")
            shows = shows or next(name for name in COLOURS if name in path.lower())
            for number in range(int(count or 2)):
                file = root / path.replace("#.", f"{number}.")
                file.parent.mkdir(parents=True, exist_ok=True)
                # the formats that Pillow tells by the suffix, in any case
                picture(shows).save(file)
        if more is not None:
            more(root)

    return build


def both(prefix: str, name: str = "#.png", count: int = 2) -> tuple[str, str]:
    """Roses and tulips below a folder."""
    return tuple(f"{prefix}{flower}/{name} x{count}" for flower in ("rose", "tulip"))


def split_folders(train: str, evaluation: str) -> Callable[[Path], None]:
    return folder(*both(f"{train}/", count=4), *both(f"{evaluation}/"))


FOUR_AND_TWO = {"rose": 4, "tulip": 4}


def write(name: str, text: str | bytes) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return build


def all_of(*builds: Callable[[Path], Any]) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for one in builds:
            one(root)

    return build


def png(shows: str) -> bytes:
    file = io.BytesIO()
    picture(shows).save(file, "PNG")
    return file.getvalue()


def parquet(
    name: str, shown: str, labels: Any, names: list[str] | None = None, **columns: Any
) -> Callable[[Path], None]:
    """Writes a parquet file. `shown` is a word for each image, `-` for none; `names` make the labels a ClassLabel."""

    def build(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        contents = [None if show == "-" else {"bytes": png(show), "path": None} for show in shown.split()]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({"image": pa.array(contents, kind), "label": labels, **columns})
        if names is not None:
            features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
            stored = {"huggingface": json.dumps({"info": {"features": features}})}
            table = table.replace_schema_metadata(stored)
        pq.write_table(table, root / name)

    return build


def pandas_parquet(root: Path) -> None:
    """As `DataFrame.to_parquet` writes texts: large strings in pandas 3."""
    shown = ["rose", "tulip"] * 10
    frame = pd.DataFrame({"image": [{"bytes": png(show), "path": None} for show in shown], "label": shown})
    frame.to_parquet(root / "flowers.parquet")


def archive(name: str, *members: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        with zipfile.ZipFile(root / name, "w") as file:
            for member in members:
                file.writestr(member, png(next(flower for flower in COLOURS if flower in member)))

    return build


def linked(target: str, link: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(root / target)

    return build


def table(name: str, header: str, *lines: str) -> Callable[[Path], None]:
    return write(name, "\n".join([header, *lines]) + "\n")


SHOWN = "rose tulip rose tulip"
TEXTS = ["rose", "tulip", "rose", "tulip"]
TWO_SPLITS = {"train": {"rose": 4, "tulip": 4}, "test": ROSES_AND_TULIPS}
VALIDATED = {"train": {"rose": 4, "tulip": 4}, "validation": ROSES_AND_TULIPS}
ALL = {"train": {"rose": 4, "tulip": 4}}
EASY = {"validation_fraction": 0.25}
HALVED = {"train": {"rose": 3, "tulip": 3}, "held out": {"rose": 1, "tulip": 1}}
