"""Folders of parquet files that hold their images: which file belongs to which split, and one split as rows."""

# paths are text here, as the libraries want them
# ruff: noqa: PTH100, PTH119, PTH122

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet

from ..errors import first_line
from .arguments import ImageDataArguments
from .errors import DataError
from .split_folders import SPLIT_WORDS


if TYPE_CHECKING:
    import datasets


SUFFIX = ".parquet"
# names of files and folders: cifar10-train.parquet, train-00000-of-00003.parquet, Validation/part 1.parquet
_WORDS = {word: split for split, words in SPLIT_WORDS.items() for word in words}
_WORD = re.compile(rf"(?:^|[-._ \d])({'|'.join(_WORDS)})(?:[-._ \d]|$)", re.IGNORECASE)
_SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")


def split_files(files: list[str], folder: str, asked: set[str]) -> dict[str, list[str]]:
    """Divide parquet files by split: by the folders they lie in where one has the name of a split, or by their names.

    Args:
        files: paths of the files.
        folder: folder of the data set.
        asked: splits that the user named, which may have any name.

    Raises:
        DataError: if a file belongs to no split, but others do.
    """
    parts = {path: Path(path).relative_to(folder).parts for path in files}
    by_folder = any(_word(name, asked) for names in parts.values() for name in names[:-1])
    words: dict[str, list[str]] = {}
    unknown = []
    for path, names in parts.items():
        stem = os.path.splitext(names[-1])[0]
        shown = [word for name in (names[:-1] if by_folder else [stem]) if (word := _word(name, asked))]
        if shown:
            words.setdefault(shown[-1], []).append(path)
        else:
            unknown.append(path)
    if not words:
        return {"train": files}
    if unknown:
        name = _SHARD.sub("", os.path.splitext(os.path.basename(unknown[0]))[0])
        raise DataError(
            f"file {unknown[0]!r} is in no split, but {next(iter(words.values()))[0]!r} is: if it is a split, set "
            f"eval_split to {name!r}; otherwise move it out of the data set."
        )
    return _named(words)


def _word(name: str, asked: set[str]) -> str | None:
    """The split that a part of a path names: as the user does, or by a usual word."""
    if _SHARD.sub("", name) in asked:
        return _SHARD.sub("", name)
    found = _WORD.search(name)
    return found and found[1].lower()


def _named(words: dict[str, list[str]]) -> dict[str, list[str]]:
    """Files by the usual name of their split; of two words for one split to evaluate on, each keeps its own."""
    splits: dict[str, list[str]] = {}
    for word, files in words.items():
        usual = _WORDS.get(word, word)
        alone = usual == "train" or sum(_WORDS.get(other, other) == usual for other in words) == 1
        splits.setdefault(usual if alone else word, []).extend(files)
    return splits


def load_files(files: list[str], arguments: ImageDataArguments) -> datasets.Dataset | datasets.IterableDataset:
    """Rows of parquet files, one after the other.

    Raises:
        DataError: if a file is none, or they have different columns or classes.
    """
    import datasets

    _check_schemas(files)
    readable = [glob.escape(plain_path(path, "::")) for path in files]
    return datasets.load_dataset(
        "parquet", data_files={"train": readable}, split="train", streaming=arguments.streaming
    )


def schema_of(path: str) -> pa.Schema:
    """Columns of a parquet file.

    Raises:
        DataError: if it is none.
    """
    try:
        return pyarrow.parquet.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path!r} is no parquet file, or cut off: {first_line(error)}.") from error


def _check_schemas(files: list[str]) -> None:
    """See that files of one split have the same columns and the same classes in the same order."""
    first, *others = files
    schema = schema_of(first)
    for path in others:
        other = schema_of(path)
        different = sorted(set(schema.names) ^ set(other.names))
        if different:
            raise DataError(
                f"{path!r} has other columns than {first!r} ({', '.join(different)}): make them agree, or name them "
                "as different splits."
            )
        for column, names in _class_names(schema).items():
            if _class_names(other).get(column, names) != names:
                raise DataError(
                    f"{path!r} and {first!r} name the classes of {column!r} in different orders or differently."
                )


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the classes that `datasets` stored for the columns of a file."""
    stored = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = stored.get("info", {}).get("features") or {}
    return {name: kind["names"] for name, kind in features.items() if isinstance(kind, dict) and "names" in kind}


def plain_path(path: str | Path, *signs: str) -> str:
    """An absolute path that `datasets` reads: a link stands for one with signs that mean something else there.

    Args:
        path: path of a file or a folder.
        signs: what the path must not contain, e.g. `::`, which makes it a chain of addresses.
    """
    import datasets

    path = os.path.abspath(path)
    if not any(sign in path for sign in signs):
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16] + os.path.splitext(path)[1]
    link = Path(datasets.config.HF_DATASETS_CACHE, "dna_hf_links", name)
    link.parent.mkdir(parents=True, exist_ok=True)
    # processes of a run may make it at the same time
    with contextlib.suppress(FileExistsError):
        link.symlink_to(path)
    return str(link)
