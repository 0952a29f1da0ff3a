"""Labels that are vectors: several labels for each image, and the numbers of a regression.

A vector of several labels has a 1 for every class that the image has, and a 0 for the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import first_line
from .arguments import ImageDataArguments
from .errors import DataError
from .image_tables import is_text
from .label_columns import (
    JOINTS,
    REAL,
    TEXT,
    TRUTH,
    WHOLE,
    LabelColumns,
    joined_labels,
    labels_of_text,
    looks_like_a_list,
    problem_of_columns,
)
from .problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from .splits import given_names


if TYPE_CHECKING:
    import pyarrow as pa


# column that is added for the vectors
VECTORS = "dna_hf_targets"
# what tables write for 0 and 1
TRUTH_WORDS = {"false": 0, "0": 0, "true": 1, "1": 1}


@dataclass(frozen=True)
class VectorLabels:
    """A split whose labels are vectors.

    Args:
        rows: the rows, with the vectors in column `VECTORS`.
        names: names of the classes or outputs, in the order of the vectors.
        problem_type: several labels or a regression, by transformers' name.
        notes: sentences about what was decided.
        names_are_found: whether the names are those of the labels that occur; other splits may have others.
    """

    rows: Any
    names: list[str]
    problem_type: str
    notes: list[str]
    names_are_found: bool = False


def find_vectors(
    rows: Any,
    columns: LabelColumns,
    arguments: ImageDataArguments,
    split: str,
    wanted: str | None,
    complete: bool = True,
) -> VectorLabels | None:
    """Make vectors of the labels of a split, if they are several for each image or numbers.

    Args:
        rows: the rows of the split, in memory or a stream.
        columns: the columns of the labels.
        arguments: fields of the `data` section: class names and number of the first class.
        split: name of the split, for messages.
        wanted: problem type that the user gave, if one was given.
        complete: whether every class is in this split; one to evaluate on may lack some.

    Returns:
        The split with vectors; `None` where each image has one class.

    Raises:
        DataError: if the columns do not hold what is wanted; naming the row, if a label is missing or means nothing.
    """
    import datasets

    problem_type, given = problem_of_columns(columns, wanted), given_names(arguments)
    is_stream = isinstance(rows, datasets.IterableDataset)
    if wanted is None and columns.are_lists and not columns.is_list and not is_stream:
        problem_type = _problem_of_texts(rows.unique(columns.names[0]), columns)
    if problem_type == SINGLE_LABEL:
        return None
    targets = Targets(columns, problem_type, split, base=arguments.label_base)
    _check_base(targets)
    if is_stream:
        targets = find_targets(targets, given, None, complete)
        return VectorLabels(_streamed(rows, targets), list(targets.names), problem_type, [])
    table = rows.with_format("arrow", columns=list(columns.names))[:]
    if len(table) == 0:
        raise DataError(f"split {split!r} has no images.")
    targets = find_targets(targets, given, table, complete)
    vectors = targets.vectors(table)
    if wanted is None and problem_type == REGRESSION and (vectors == np.round(vectors)).all():
        other = f"to {MULTI_LABEL}" if columns.several else "write classes without a decimal point"
        raise DataError(
            f"{columns.content}, all of them whole, as those of classes are: set problem_type to {REGRESSION} if they "
            f"are its targets, or {other}."
        )
    note = f"problem_type is {problem_type}: {columns.content}." if wanted is None else None
    return VectorLabels(
        with_vectors(rows, vectors),
        list(targets.names),
        problem_type,
        [note] if note else [],
        names_are_found=problem_type == MULTI_LABEL and given is None and columns.are_lists and not columns.classes,
    )


def with_vectors(rows: Any, vectors: np.ndarray) -> Any:
    """Rows in memory, with vectors (rows, classes or outputs) in the place of those that they have."""
    import datasets
    import pyarrow as pa

    width = vectors.shape[1]
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), width)
    others = rows.remove_columns(VECTORS) if VECTORS in rows.features else rows
    return others.add_column(VECTORS, values, feature=datasets.List(datasets.Value("float32"), length=width))


def vectors_of(rows: Any) -> np.ndarray:
    """The vectors of rows in memory: float32 (rows, classes or outputs)."""
    values = rows.with_format("arrow", columns=[VECTORS])[:][VECTORS].combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


def _streamed(rows: Any, targets: Targets) -> Any:
    """A stream with vectors, made as the rows come."""
    import datasets
    import pyarrow as pa

    names = list(targets.columns.names)
    feature = datasets.List(datasets.Value("float32"), length=len(targets.names))
    features = datasets.Features({**rows.features, VECTORS: feature})
    schema = pa.schema(datasets.Features({name: rows.features[name] for name in names}).arrow_schema)

    def one(row: dict[str, Any], number: int) -> dict[str, list[float]]:
        table = pa.table({name: [row[name]] for name in names}, schema=schema)
        return {VECTORS: targets.vectors(table, number)[0].tolist()}

    return rows.map(one, with_indices=True, features=features)


def _check_base(targets: Targets) -> None:
    columns = targets.columns
    are_numbers = columns.is_list and columns.holds == {WHOLE} and targets.problem_type == MULTI_LABEL
    if targets.base and not are_numbers:
        raise DataError(
            f"label_base is {targets.base}, but {columns.content}, and no numbers of classes: leave it out."
        )


def _problem_of_texts(texts: list[str | None], columns: LabelColumns) -> str:
    """What a column of text holds where nothing says it: names of classes, or lists, if all of them are.

    Raises:
        DataError: for a text that may be several labels.
    """
    some = [text for text in texts if text]
    if some and all(text.lstrip().startswith("[") for text in some):
        return MULTI_LABEL
    found = next(iter([*filter(looks_like_a_list, some), *joined_labels(some)]), None)
    if found is not None:
        raise DataError(
            f"{columns.text} holds {found!r}: set problem_type to {MULTI_LABEL} if these are several labels, or to "
            f"{SINGLE_LABEL} if this is the name of one class."
        )
    return SINGLE_LABEL


@dataclass(frozen=True)
class Targets:
    """How vectors are made of the values of label columns.

    Args:
        columns: the columns of the labels.
        problem_type: several labels or a regression, by transformers' name.
        split: name of the split, for messages.
        names: names of the classes or outputs, in the order of the vectors.
        is_vector: whether a list is a vector already, and not a list of classes.
        base: number of the first class in lists of whole numbers.
    """

    columns: LabelColumns
    problem_type: str
    split: str
    names: tuple[str, ...] = ()
    is_vector: bool = False
    base: int = 0

    def vectors(self, table: pa.Table, first: int = 0) -> np.ndarray:
        """The vectors of rows: float32 (rows, classes or outputs).

        Args:
            table: the label columns of these rows.
            first: number of the first of them in the split, for messages.

        Raises:
            DataError: naming the first row whose value is missing, or means nothing.
        """
        if not self.columns.are_lists:
            values = [self._numbers(table[name], first, name) for name in self.columns.names]
            found = np.stack(values, axis=1)[:, self._order(self.columns.names)]
        else:
            rows, values = self._flat(table, first)
            if self.is_vector:
                self._check_lengths(rows, len(table), first)
                found = self._numbers(values, first, self.columns.names[0], rows).reshape(len(table), -1)
            else:
                found = np.zeros((len(table), len(self.names)), dtype=np.float32)
                found[rows, self._indices(values, rows, first)] = 1
        if self.problem_type == MULTI_LABEL:
            self._check_truth(found, first)
        return found

    def where(self, row: int) -> str:
        """A row in a sentence."""
        return f"row {row} of split {self.split!r}"

    def _order(self, names: tuple[str, ...]) -> list[int]:
        """Which of the columns belongs to each class or output, whose names may order them or stand for them."""
        return [names.index(name) for name in self.names] if set(self.names) == set(names) else [*range(len(names))]

    def _flat(self, table: pa.Table, first: int) -> tuple[np.ndarray, Any]:
        """The values in the lists of a column, one after the other, and the row (in the table) of each."""
        import pyarrow as pa
        import pyarrow.compute as pc

        name = self.columns.names[0]
        column = table[name].combine_chunks()
        if self.columns.holds == {TEXT} and not self.columns.is_list:
            parsed = [self._parsed(text, first + row) for row, text in enumerate(column.to_pylist())]
            column = pa.array(parsed, type=pa.list_(pa.string()))
        missing = np.flatnonzero(pc.is_null(column).to_numpy(zero_copy_only=False))
        if len(missing):
            raise DataError(
                f"{self.where(first + missing[0])} has null in column {name!r}: give an empty list where an image has "
                "none of the classes."
            )
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.repeat(np.arange(len(column)), lengths), pc.list_flatten(column)

    def _parsed(self, text: str | None, row: int) -> list[str]:
        try:
            return labels_of_text(text)
        except ValueError as error:
            raise DataError(f"{self.where(row)}: {first_line(error)}: write 'rose;tulip' or a JSON list.") from error

    def _numbers(self, values: Any, first: int, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Values as float32, each of which is finite."""
        import pyarrow as pa

        array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        if is_text(array.type):
            array = self._truth(array, first, name)
        numbers = array.cast(pa.uint8() if pa.types.is_boolean(array.type) else array.type)
        numbers = numbers.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
        with np.errstate(over="ignore"):
            found = numbers.astype(np.float32)
        wrong = np.flatnonzero(~np.isfinite(found))
        if len(wrong):
            row = first + (wrong[0] if rows is None else rows[wrong[0]])
            value = array[int(wrong[0])].as_py()
            raise DataError(
                f"{self.where(row)} has {'null' if value is None else value} in column {name!r}: give a finite "
                "number, or take the row out."
            )
        return found

    def _truth(self, texts: Any, first: int, name: str) -> Any:
        """Text that says true or false, as numbers."""
        import pyarrow as pa

        found = [None if text is None else TRUTH_WORDS.get(text.strip().lower(), text) for text in texts.to_pylist()]
        for row, value in enumerate(found):
            if isinstance(value, str):
                raise DataError(
                    f"{self.where(first + row)} has {value!r} in column {name!r}: give 0 or 1, true or false."
                )
        return pa.array(found, type=pa.int64())

    def _check_lengths(self, rows: np.ndarray, count: int, first: int) -> None:
        lengths = np.bincount(rows, minlength=count)
        wrong = np.flatnonzero(lengths != len(self.names))
        if len(wrong):
            raise DataError(
                f"{self.where(first + wrong[0])} has {lengths[wrong[0]]} numbers in column "
                f"{self.columns.names[0]!r}, but {len(self.names)} are needed: give as many in every row."
            )

    def _check_truth(self, vectors: np.ndarray, first: int) -> None:
        wrong = np.argwhere((vectors != 0) & (vectors != 1))
        if len(wrong):
            row, place = wrong[0]
            raise DataError(
                f"{self.where(first + row)} has {vectors[row, place]:g} for class {self.names[place]!r}: several "
                f"labels for each image are 0 or 1 for each class, or lists of classes; of a {REGRESSION}, set "
                "problem_type."
            )

    def _indices(self, values: Any, rows: np.ndarray, first: int) -> np.ndarray:
        """The class of each value in the lists."""
        name = self.columns.names[0]
        if values.null_count:
            row = rows[int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])]
            raise DataError(
                f"{self.where(first + row)} has null in a list of column {name!r}: take it out of the list."
            )
        held = self.columns.holds
        if held == {TEXT}:
            index = {label: number for number, label in enumerate(self.names)}
            labels = values.to_pylist()
            found = np.array([index.get(label, -1) for label in labels], dtype=np.int64)
        else:
            labels = values.to_numpy(zero_copy_only=False)
            found = np.asarray(labels, dtype=np.int64) - self.base
            if self.columns.classes is not None:
                inside = (found >= 0) & (found < len(self.columns.classes))
                order = np.argsort(self._order(self.columns.classes))
                found = np.where(inside, order[np.where(inside, found, 0)], -1)
        outside = np.flatnonzero((found < 0) | (found >= len(self.names)))
        if len(outside):
            raise DataError(
                f"{self.where(first + rows[outside[0]])} has label {labels[outside[0]]} in column {name!r}, outside "
                f"the {len(self.names)} classes: give class_names."
            )
        return found


def find_targets(targets: Targets, given: list[str] | None, table: pa.Table | None, complete: bool) -> Targets:
    """Find the classes or outputs of label columns.

    Args:
        targets: what is known of them: columns, problem type, split and number of the first class.
        given: class names that the user gave.
        table: the columns of all rows; `None` for a stream, of which they are not known.
        complete: whether every class is in the table.

    Raises:
        DataError: if the names that were given do not fit, or are needed and were not given.
    """
    columns, problem_type = targets.columns, targets.problem_type
    if not columns.are_lists:
        return replace(targets, names=_names_of_columns(columns, given))
    if columns.classes is not None:
        if given is not None and sorted(given) != sorted(columns.classes):
            raise DataError(
                f"class_names are {', '.join(given[:5])}, but the classes of {columns.text} are "
                f"{', '.join(columns.classes[:5])}: give these in another order, or leave class_names out."
            )
        return replace(targets, names=tuple(given or columns.classes))
    if table is None:
        if given is None:
            raise DataError(f"{columns.text} does not name its classes: with streaming, give class_names.")
        is_vector = problem_type == REGRESSION or bool(columns.holds & {REAL, TRUTH}) or columns.length == len(given)
        return replace(targets, names=tuple(given), is_vector=is_vector and columns.holds != {TEXT})
    rows, values = targets._flat(table, 0)
    if columns.holds == {TEXT}:
        return replace(targets, names=_names_of_text(columns, values, given, len(rows) > len(np.unique(rows))))
    lengths = np.bincount(rows, minlength=len(table))
    if problem_type == REGRESSION or columns.holds != {WHOLE} or _are_vectors(columns, lengths, values):
        names = given or [str(number) for number in range(max(lengths, default=0))]
        if problem_type == REGRESSION and given is None:
            names = [f"{columns.names[0]}_{name}" for name in names] if len(names) > 1 else list(columns.names)
        return replace(targets, names=tuple(names), is_vector=True)
    return replace(targets, names=tuple(given or _names_of_numbers(targets, values, complete)))


def _names_of_columns(columns: LabelColumns, given: list[str] | None) -> tuple[str, ...]:
    names = columns.names
    if given is None:
        return names
    if len(given) != len(names) or (set(given) != set(names) and set(given) & set(names)):
        raise DataError(
            f"class_names are {', '.join(given[:5])}, but the labels are in {columns.text}: give the same names, or "
            "one new name for each column."
        )
    return tuple(given)


def _names_of_text(columns: LabelColumns, values: Any, given: list[str] | None, has_several: bool) -> tuple[str, ...]:
    """Names of the classes in lists or texts; `has_several`: some row has more than one."""
    distinct = sorted(label for label in values.unique().to_pylist() if label is not None)
    if given is not None:
        unknown = [label for label in distinct if label not in given]
        if unknown:
            raise DataError(f"{columns.text} holds {unknown[0]!r}, which class_names does not name.")
        return tuple(given)
    joined = joined_labels(distinct)
    # where no row has several labels otherwise, a sign in most of the names is what separates them
    for joint in JOINTS if not has_several else JOINTS[:1]:
        with_sign = [label for label in distinct if len(label.split(joint)) > 1]
        joined += with_sign if len(with_sign) > len(distinct) / 2 else []
    if joined and not columns.is_list:
        raise DataError(
            f"{columns.text} holds {joined[0]!r}: separate labels by ';' or '|', or write them as a JSON list; if "
            "this is one class, give class_names."
        )
    return tuple(distinct)


def _names_of_numbers(targets: Targets, values: Any, complete: bool) -> tuple[str, ...]:
    distinct = sorted(number for number in values.unique().to_pylist() if number is not None)
    base = targets.base
    numbers = range(base, base + len(distinct)) if complete else range(base, max(distinct, default=base) + 1)
    if distinct != list(numbers) and (complete or distinct[0] < base):
        fix = "set label_base to 1" if distinct[0] == 1 and not base else "give class_names"
        usual = f"{base}..{'n' if base else 'n-1'}"
        raise DataError(f"the labels in {targets.columns.text} are not {usual} ({distinct[:5]}...): {fix}.")
    return tuple(map(str, numbers))


def _are_vectors(columns: LabelColumns, lengths: np.ndarray, values: Any) -> bool:
    """Whether lists of whole numbers are vectors of 0 and 1, and not lists of the numbers of classes.

    A vector of three has a number twice, as no list of classes should; one of two may be a list of both classes.

    Raises:
        DataError: if they may be either.
    """
    numbers = values.to_numpy(zero_copy_only=False)
    if len(set(lengths)) != 1 or lengths[0] < 2 or not np.isin(numbers, (0, 1)).all():
        return False
    if columns.length is None and lengths[0] == 2 and (numbers[::2] != numbers[1::2]).all():
        raise DataError(
            f"{columns.text} holds lists of 0 and 1, which may be both classes of each image, or 1 for the class that "
            "it has: name the classes in the lists, or give true and false."
        )
    return True
