"""Tables beside images: files of names, labels and other columns (CSV, JSON lines, parquet)."""

# paths are text here: there may be millions
# ruff: noqa: PTH113, PTH118, PTH119, PTH120, PTH122

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

from ..errors import first_line
from .arguments import ImageDataArguments
from .errors import DataError
from .files import LeftOut
from .label_columns import LABEL_COLUMNS
from .labels import IMAGE_COLUMNS


TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
FILE_COLUMNS = (
    *("file_name", "filename", "file", "path", "file_path", "filepath"),
    *("image_path", "image_name", "image_file", "image", "img"),
)


@dataclass
class ImageTable:
    """A table with a row for an image.

    Args:
        path: file of the table.
        file_column: column of the image files.
        files: image file of each row, as it is written.
        columns: the other columns, by name.
        has_labels: whether one of them holds the labels.
    """

    path: str
    file_column: str
    files: list[str]
    columns: dict[str, pa.ChunkedArray | pa.Array]
    has_labels: bool

    @property
    def name(self) -> str:
        """Name of the file."""
        return os.path.basename(self.path)

    def splits(self) -> list[str | None] | None:
        """The split of each row, where a column says it."""
        column = self.columns.get("split")
        return column.to_pylist() if column is not None and is_text(column.type) else None

    def rows(self, numbers: list[int]) -> pa.Table:
        """Columns of these rows."""
        return pa.table({name: column.take(pa.array(numbers)) for name, column in self.columns.items()})


def stacked(tables: list[pa.Table]) -> dict[str, pa.ChunkedArray]:
    """Rows of several tables one below the other; a column that one does not have is null there.

    Raises:
        DataError: if a column is of different kinds.
    """
    try:
        whole = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise DataError(f"the tables of images do not go together: {first_line(error)}.") from error
    return {name: whole[name] for name in whole.column_names}


def read_tables(paths: Iterable[str], arguments: ImageDataArguments, left_out: list[LeftOut]) -> list[ImageTable]:
    """Read the tables that name image files.

    Args:
        paths: files of the tables.
        arguments: fields of the `data` section: names of the columns.
        left_out: gets the tables that name no image files.

    Raises:
        DataError: if a table cannot be read, or a file called metadata names no image files.
    """
    found = []
    for path in sorted(paths):
        table = _read(path, arguments)
        column = _file_column(table.schema, arguments.image_column)
        if column is not None:
            found.append(_image_table(path, table, column, arguments))
        elif os.path.basename(path).lower().startswith("metadata."):
            raise DataError(
                f"table {path!r} has no column of image files: call it {FILE_COLUMNS[0]} "
                f"(its columns are {', '.join(table.column_names)})."
            )
        else:
            left_out.append(LeftOut(path, "table without a column of image files (file_name)"))
    return found


def _image_table(path: str, table: pa.Table, column: str, arguments: ImageDataArguments) -> ImageTable:
    files = table[column].cast(pa.string())
    if files.null_count:
        row = pc.index(pc.is_null(files), True).as_py()
        raise DataError(f"row {row} of {path!r} has nothing in column {column!r}: name an image file.")
    others = {name: _plain(table[name]) for name in table.column_names if name != column}
    return ImageTable(
        path, column, files.to_pylist(), others, any(name in others for name in label_columns(arguments))
    )


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column without a dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def label_columns(arguments: ImageDataArguments) -> tuple[str, ...]:
    """Names of the columns that hold labels: as given, or the usual ones."""
    named = arguments.label_column
    if named is None:
        return LABEL_COLUMNS
    return tuple(named) if isinstance(named, list) else (named,)


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is one of texts, plain or by dictionary."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def names_files(schema: pa.Schema, arguments: ImageDataArguments) -> bool:
    """Whether a table names image files, and does not hold the images itself."""
    holds = any(
        field.name in IMAGE_COLUMNS and (pa.types.is_struct(field.type) or _is_binary(field.type)) for field in schema
    )
    return not holds and _file_column(schema, arguments.image_column) is not None


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _file_column(schema: pa.Schema, named: str | None) -> str | None:
    """The column of image files: as given, or one of the usual names that holds texts."""
    texts = [field.name for field in schema if is_text(field.type)]
    if named is not None:
        return named if named in texts else None
    return next((name for usual in FILE_COLUMNS for name in texts if name.lower() == usual), None)


def _read(path: str, arguments: ImageDataArguments) -> pa.Table:
    suffix = os.path.splitext(path)[1].lower()
    try:
        if suffix == ".parquet":
            schema = pyarrow.parquet.read_schema(path)
            return pyarrow.parquet.read_table(path) if names_files(schema, arguments) else schema.empty_table()
        if suffix == ".jsonl":
            return pyarrow.json.read_json(path)
        return _read_csv(path)
    except UnicodeDecodeError as error:
        raise DataError(f"table {path!r} is no text in UTF-8: save it in this encoding.") from error
    except (OSError, pa.ArrowException, csv.Error) as error:
        raise DataError(f"table {path!r} cannot be read: {first_line(error)}.") from error


def _read_csv(path: str) -> pa.Table:
    """A CSV file with a header, separated by commas, tabs or semicolons."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        sign = next((sign for sign in ",\t;" if sign in first), ",")
        reader = csv.reader(file, delimiter=sign, skipinitialspace=True)
        header = [name.strip() for name in next(reader, [])]
        twice = next((name for name in header if name and header.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"table {path!r} has {header.count(twice)} columns called {twice!r}: keep one.")
        rows = []
        for fields in reader:
            if len(fields) == len(header):
                rows.append(fields)
            elif any(map(str.strip, fields)):
                raise DataError(
                    f"line {reader.line_num} of {path!r} has {len(fields)} fields, the header {len(header)}: put "
                    "quotes around a field that contains the separator."
                )
    columns = list(zip(*rows, strict=True)) or [()] * len(header)
    # the index of pandas has no name
    named = {name: _typed(list(values)) for name, values in zip(header, columns, strict=True) if name}
    return pa.table(named)


def _typed(texts: list[str]) -> pa.Array:
    """Texts as numbers where all of them are, as they are otherwise, so that 007 stays 007; empty ones are null."""
    array = pa.array([text.strip() or None for text in texts], pa.string())
    whole = _numbers(array, pa.int64())
    if whole is not None:
        return whole if whole.cast(pa.string()).equals(array) else array
    numbers = _numbers(array, pa.float64())
    return array if numbers is None else numbers


def _numbers(texts: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Texts as numbers of a kind; `None` if one of them is none."""
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        return None


class Places:
    """Where the files are that tables name.

    Args:
        images: paths of all images of the folder.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self.images = {os.path.normpath(path): path for path in images}
        # by the path of the table: what lists images asks several times
        self._found: dict[str, list[str]] = {}

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for path in self.images.values():
            names.setdefault(os.path.basename(path), []).append(path)
        return names

    @cached_property
    def _by_real_path(self) -> dict[str, str]:
        return {_real(path): path for path in self.images.values()}

    def files_of(self, table: ImageTable) -> list[str]:
        """Path of the image of each row: from the table's folder on, or the only one of its name.

        Raises:
            DataError: if there is no such image, or several, or two rows name one.
        """
        if table.path not in self._found:
            self._found[table.path] = self._look_up(table)
        return self._found[table.path]

    def _look_up(self, table: ImageTable) -> list[str]:
        seen: dict[str, int] = {}
        found = []
        for row, name in enumerate(table.files):
            path = self._find(table, row, name)
            if seen.setdefault(path, row) != row:
                raise DataError(
                    f"rows {seen[path]} and {row} of {table.path!r} name the same image, {name!r}: keep one."
                )
            found.append(path)
        return found

    def _find(self, table: ImageTable, row: int, name: str) -> str:
        path = os.path.normpath(os.path.join(os.path.dirname(table.path), name))
        if path in self.images:
            return self.images[path]
        same = self._by_name.get(os.path.basename(name), [])
        ending = os.path.normpath(name)
        same = [one for one in same if one.endswith(os.sep + ending)]
        if len(same) == 1:
            return same[0]
        if len(same) > 1:
            raise DataError(
                f"row {row} of {table.path!r} names {name!r}, and there are {len(same)} such images: write the path "
                "from the table's folder on."
            )
        if os.path.isfile(path):
            # an absolute path may be that of an image here, in a folder that was given in another way
            return self._by_real_path.get(_real(path), path)
        raise DataError(f"row {row} of {table.path!r} names {name!r}, which is no image in the data set.")


def _real(path: str) -> str:
    """The path of a file from the root on, its folders without links."""
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(folder), name)


@cache
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
