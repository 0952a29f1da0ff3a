"""Folders of labelled images: which files are the data, in which split and of which class.

Folders decide, and names of files never do: `[wrapper/][split/]class/.../picture.jpg`. The class is the first folder
below the split, whatever lies deeper; the split is a folder with a usual name, or one that the user names. Tables
beside the images may add columns, or say the labels themselves, and the splits where no folders do, in a column
`split`: see [`~dna_hf.data.image_tables`].
"""

# paths are text here: there may be millions
# ruff: noqa: PTH100, PTH119, PTH122

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from .arguments import ImageDataArguments
from .errors import DataError
from .files import Folder, LeftOut, is_image, look_into, unpacked, why_no_image
from .image_tables import TABLE_SUFFIXES, ImageTable, Places, read_tables, stacked
from .split_folders import (
    Node,
    refuse_splits_in_classes,
    refuse_unknown_splits,
    split_folders,
    split_name,
    split_of_table,
    unwrapped,
    usual_split,
    without_wrappers,
)


if TYPE_CHECKING:
    import datasets


ARCHIVE = ".zip"


@dataclass
class ListedImages:
    """The rows of one split of a folder.

    Args:
        rows: column of the images, `{"bytes": None, "path"}` each, called `image` or as the user calls that of a
            table; column `label` where folders say the classes; and those of tables.
        left_out: files that are in no split, or lie in this one and are no samples.
        notes: sentences about what was decided.
    """

    rows: datasets.Dataset
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def list_images(folder: Folder, arguments: ImageDataArguments, asked: set[str]) -> dict[str, ListedImages]:
    """List the images of a folder by split; none is opened.

    Args:
        folder: the folder, as [`~dna_hf.data.files.look_into`] lists it.
        arguments: fields of the `data` section: names of the columns.
        asked: splits that the user named, which may have any name.

    Raises:
        DataError: if it is not clear which images belong to which split, or a table does not fit the images.
    """
    notes: list[str] = []
    root = unwrapped(_node(folder), notes)
    folders = split_folders(root, asked, notes)
    outside: list[LeftOut] = []
    if folders is None:
        refuse_splits_in_classes(root)
    else:
        outside += [*(LeftOut(path, "in no split folder") for path in root.samples), *root.left_out]
    tables = read_tables(root.all_tables(), arguments, outside)
    splits = without_wrappers(folders or {"train": root}, notes)
    classes = sorted({inner.name for node in splits.values() for inner in node.nodes})
    labelled = [table for table in tables if table.has_labels]
    used = labelled or (tables if len(classes) < 2 else [])
    places = Places(path for node in splits.values() for path in node.all_samples())
    said = _said_splits(tables, places, asked)
    _refuse_contradictions(folders or {}, said, asked)
    if used:
        parts = _by_tables(splits if folders else {}, used, places, said, outside)
        outside += [one for node in splits.values() for one in node.all_left_out()]
        notes += [f"labels are those of table {table.name!r}." for table in labelled]
    else:
        if folders is None:
            refuse_unknown_splits(root)
        parts = {name: _by_folders(node, classes) for name, node in splits.items()}
        if said and folders is None:
            outside += parts["train"].left_out
            parts = parts["train"].divided(said)
            notes += [f"splits are those of table {table.name!r}." for table in tables if table.splits()]
        _note_deeper_folders(splits.values(), notes)
    for part in parts.values():
        part.join([table for table in tables if table not in used], places)
    named = {table.file_column for table in tables} & {arguments.image_column}
    image_column = next(iter(named), "image")
    return {name: part.listed(image_column, classes, outside, notes) for name, part in parts.items()}


def count_images(folder: Folder) -> int:
    """Number of images in a folder; an archive counts as one."""
    return sum(is_image(path) or path.lower().endswith(ARCHIVE) for path in folder.all_files())


def _node(folder: Folder, name: str | None = None) -> Node:
    """What of a folder a data set sees; a ZIP archive is a folder of its name, or what the one folder in it holds."""
    node = Node(name or folder.name, left_out=list(folder.left_out))
    inside = [(one.path, _node(one)) for one in folder.folders]
    for path in folder.files:
        if is_image(path):
            node.samples.append(path)
        elif path.lower().endswith(ARCHIVE):
            archive = _node(look_into(unpacked(path)), os.path.basename(path)[: -len(ARCHIVE)])
            named_alike = [inner.name for inner in archive.nodes] == [archive.name] and not archive.samples
            inside.append((path, archive.inner(archive.name) if named_alike or archive.is_wrapper else archive))
        elif path.lower().endswith(TABLE_SUFFIXES):
            node.tables.append(path)
        else:
            node.left_out.append(LeftOut(path, why_no_image(path)))
    for path, one in sorted(inside, key=lambda each: each[1].name):
        node.take_in(path, one)
    return node


def _by_folders(node: Node, classes: list[str]) -> _Part:
    """The images of a split with the classes of their folders; without a class where there are no class folders."""
    if not node.nodes:
        return _Part(sorted(node.samples), left_out=list(node.left_out))
    numbers = {name: number for number, name in enumerate(classes)}
    found = sorted((path, numbers[inner.name]) for inner in node.nodes for path in inner.all_samples())
    loose = [LeftOut(path, "in no class folder") for path in node.samples]
    return _Part([path for path, _ in found], [label for _, label in found], left_out=[*loose, *node.all_left_out()])


def _note_deeper_folders(splits: Iterable[Node], notes: list[str]) -> None:
    deeper = [f"{inner.name}/{inner.nodes[0].name}" for split in splits for inner in split.nodes if inner.nodes]
    if deeper:
        notes.append(f"images in folders inside a class folder are of its class, e.g. those in {deeper[0]!r}.")


def _said_splits(tables: Iterable[ImageTable], places: Places, asked: set[str]) -> dict[str, str]:
    """The split of each image for which a column `split` says it."""
    found: dict[str, str] = {}
    for table in tables:
        column = table.splits()
        for path, name in zip(places.files_of(table), column, strict=True) if column else ():
            split = split_name(name, asked) if name else None
            if split is not None and found.setdefault(path, split) != split:
                raise DataError(
                    f"columns 'split' say both {found[path]!r} and {split!r} of {path!r}: make them agree."
                )
    return found


def _refuse_contradictions(folders: Mapping[str, Node], said: Mapping[str, str], asked: set[str]) -> None:
    """Refuse an image in the folder of one split that a column `split` says is in another."""
    for name, node in folders.items():
        for path in node.all_samples() if said else ():
            split = said.get(path, name)
            if split == name:
                continue
            usual = usual_split(split)
            # of two folders for one split each keeps its name, and a word that is no split's may mean anything
            if usual != usual_split(name) if usual else split in asked:
                raise DataError(
                    f"{path!r} lies in the folder of split {name!r}, but a column 'split' says {split!r}: make them "
                    "agree."
                )


def _by_tables(
    folders: dict[str, Node], tables: list[ImageTable], places: Places, said: Mapping[str, str], outside: list[LeftOut]
) -> dict[str, _Part]:
    """The images that tables name, by split: that of the folder, of the column `split`, or of the table's name."""
    folder_of = {path: split for split, node in folders.items() for path in node.all_samples()}
    paths: dict[str, list[str]] = {}
    rows: dict[str, list[list[int]]] = {}
    named: dict[str, ImageTable] = {}
    for number, table in enumerate(tables):
        own = split_of_table(table.name) or "train"
        for row, path in enumerate(places.files_of(table)):
            if named.setdefault(path, table) is not table:
                raise DataError(
                    f"tables {named[path].path!r} and {table.path!r} both name {table.files[row]!r}: take one of them "
                    "out of the data set."
                )
            split = folder_of.get(path) or said.get(path) or own
            paths.setdefault(split, []).append(path)
            rows.setdefault(split, [[] for _ in tables])[number].append(row)
    outside += [LeftOut(path, "named in no table") for path in places.images.values() if path not in named]
    return {
        split: _Part(
            paths[split],
            columns=stacked([table.rows(some) for table, some in zip(tables, numbers, strict=True) if some]),
        )
        for split, numbers in rows.items()
    }


@dataclass
class _Part:
    """One split on its way to rows."""

    paths: list[str]
    labels: list[int] | None = None
    columns: dict[str, pa.Array | pa.ChunkedArray] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def divided(self, said: Mapping[str, str]) -> dict[str, _Part]:
        """The images of class folders by the split that is said; the others are to train on."""
        assert self.labels is not None
        rows: dict[str, list[int]] = {}
        for row, path in enumerate(self.paths):
            rows.setdefault(said.get(path, "train"), []).append(row)
        return {
            split: _Part([self.paths[row] for row in some], [self.labels[row] for row in some])
            for split, some in rows.items()
        }

    def join(self, tables: Iterable[ImageTable], places: Places) -> None:
        """Add the columns of tables; images that they do not name get nothing in them."""
        taken = {"image", "label", *self.columns}
        for table in tables:
            row_of = {path: row for row, path in enumerate(places.files_of(table))}
            rows = pa.array([row_of.get(path) for path in self.paths], pa.int64())
            if rows.null_count == len(rows):
                continue
            for name, column in table.columns.items():
                found, before = column.take(rows), self.columns.get(name)
                if name in taken or (before is not None and before.type != found.type):
                    self.left_out.append(LeftOut(f"column {name!r} of {table.path}", "there is another of its name"))
                else:
                    self.columns[name] = found if before is None else pc.coalesce(before, found)

    def listed(
        self, image_column: str, classes: list[str], outside: Iterable[LeftOut], notes: Iterable[str]
    ) -> ListedImages:
        """The rows, with what is left out and what was decided."""
        import datasets

        try:
            paths = pa.array([os.path.abspath(path) for path in self.paths], pa.string())
        except UnicodeEncodeError as error:
            raise DataError(f"the file name {error.object!r} is no text in UTF-8: rename it.") from error
        images = pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), paths], names=["bytes", "path"])
        columns: dict[str, Any] = {image_column: images}
        features: dict[str, Any] = {image_column: datasets.Image(decode=False)}
        if self.labels is not None:
            columns["label"] = pa.array(self.labels, pa.int64())
            features["label"] = datasets.ClassLabel(names=classes)
        others = {name: column for name, column in self.columns.items() if name not in columns}
        self.left_out += [
            LeftOut(f"column {name!r} of a table", "there is another of its name")
            for name in self.columns.keys() - others.keys()
        ]
        features |= datasets.Features.from_arrow_schema(pa.table(others).schema) if others else {}
        info = datasets.DatasetInfo(features=datasets.Features(features))
        rows = datasets.Dataset(pa.table(columns | others).cast(info.features.arrow_schema), info=info)
        return ListedImages(rows, (*outside, *self.left_out), tuple(notes))
