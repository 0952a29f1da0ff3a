"""Image data sets that lie here: a parquet file, a ZIP archive, or a folder of images, tables or other data files."""

# paths are text here: there may be millions
# ruff: noqa: PTH118, PTH122

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load

from ..errors import first_line
from . import parquet_files
from .arguments import ImageDataArguments
from .errors import DataError
from .files import Folder, LeftOut, look_into, unpacked
from .image_folders import ARCHIVE, ListedImages, count_images, list_images
from .image_tables import TABLE_SUFFIXES, names_files
from .splits import already


# what reads each split, by name
Splits = dict[str, Callable[[], ListedImages]]
# files that `datasets` has loaders for, beside those that are read here
OTHER_DATA = (".arrow", ".tar", ".tar.gz", ".tgz")


def open_path(path: Path, arguments: ImageDataArguments, asked: set[str]) -> Splits:
    """Find the splits of a file or a folder. Parquet files are read when their split is.

    Args:
        path: the file or the folder.
        arguments: fields of the `data` section: configuration, columns, and whether rows are streamed.
        asked: splits that the user named, which may have any name.

    Raises:
        DataError: if it is none that can be read, or it is not clear which files belong to which split.
    """
    if path.is_dir():
        return _open_folder(str(path), arguments, asked)
    suffix = path.suffix.lower()
    if suffix == ARCHIVE:
        return _listed(look_into(unpacked(str(path))), arguments, asked)
    if suffix == parquet_files.SUFFIX:
        parquet_files.schema_of(str(path))
        return {"train": partial(_parquet, [str(path)], arguments, ())}
    raise DataError(
        f"{str(path)!r} is a file, but neither a parquet file nor a ZIP archive: give one of them, or the folder it "
        "lies in."
    )


def has_configs(path: Path) -> bool:
    """Whether a folder is a clone of a data set on the Hub whose README.md says which files are the data."""
    return path.is_dir() and "configs" in _card(path)


def _card(folder: Path) -> dict[str, Any]:
    """What the README.md of a folder says at its head for machines."""
    readme = folder / "README.md"
    if not readme.is_file():
        return {}
    try:
        return metadata_load(readme) or {}
    except (OSError, ValueError) as error:
        raise DataError(f"the head of {str(readme)!r} cannot be read: {first_line(error)}.") from error


def _open_folder(path: str, arguments: ImageDataArguments, asked: set[str]) -> Splits:
    if has_configs(Path(path)):
        return _by_loader(path, arguments, [])
    folder = look_into(path)
    files = folder.all_files()
    parquet = [file for file in files if file.lower().endswith(parquet_files.SUFFIX)]
    holding = [file for file in parquet if not names_files(parquet_files.schema_of(file), arguments)]
    hold = set(holding)
    others = [file for file in files if file.lower().endswith(OTHER_DATA)]
    if count_images(folder) > len(holding) + len(others):
        return _listed(folder, arguments, asked)
    if holding and len(holding) >= len(others):
        left_out = [
            *(LeftOut(file, "no parquet file of images, as the data are") for file in files if file not in hold),
            *folder.all_left_out(),
        ]
        splits = parquet_files.split_files(holding, path, asked)
        return {name: partial(_parquet, some, arguments, tuple(left_out)) for name, some in splits.items()}
    if not others and any(file.lower().endswith(TABLE_SUFFIXES) for file in files):
        return _listed(folder, arguments, asked)
    if not others and not any(file.lower().endswith(".json") for file in files):
        raise DataError(f"folder {path!r} holds no images that can be read, and no tables of any.")
    return _by_loader(path, arguments, files)


def _listed(folder: Folder, arguments: ImageDataArguments, asked: set[str]) -> Splits:
    return {name: already(listed) for name, listed in list_images(folder, arguments, asked).items()}


def _parquet(files: list[str], arguments: ImageDataArguments, left_out: tuple[LeftOut, ...]) -> ListedImages:
    rows = parquet_files.load_files(files, arguments)
    note = "column 'split' divides nothing here: of parquet files, their names and folders say the splits."
    return ListedImages(rows, left_out, (note,) if "split" in parquet_files.schema_of(files[0]).names else ())


def _by_loader(path: str, arguments: ImageDataArguments, files: list[str]) -> Splits:
    """The splits of a folder as `datasets` finds them; what it does not read of the files is left out."""
    import datasets

    if any(Path(path, name).is_file() for name in ("state.json", "dataset_dict.json")):
        # of save_to_disk
        loaded = datasets.load_from_disk(path)
        loaded = loaded if isinstance(loaded, dict) else {"train": loaded}
        return {name: partial(ListedImages, rows) for name, rows in loaded.items()}
    link = parquet_files.plain_path(path, "::", *"[]*?")
    loader = datasets.load_dataset_builder(link, arguments.dataset_config)
    read = {os.path.realpath(file) for some in (loader.config.data_files or {}).values() for file in some}
    left_out = tuple(
        LeftOut(file, f"not read as {loader.name}") for file in files if os.path.realpath(file) not in read
    )
    loaded = datasets.load_dataset(link, arguments.dataset_config, streaming=arguments.streaming)
    return {name: partial(ListedImages, rows, left_out) for name, rows in loaded.items()}
