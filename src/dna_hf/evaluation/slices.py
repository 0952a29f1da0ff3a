"""Slices of a split by the values of a column, and the accuracy on each of them.

A slice is a name and the numbers of its rows; every row is in exactly one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.errors import DataError
from ..data.labelled_images import LabelledImages
from ..records.metrics import metric_rows
from .figures import Figures, SliceFigure, is_readable
from .intervals import wilson_interval
from .problems import Problem


if TYPE_CHECKING:
    import datasets


MISSING = "missing"
MAX_INTEGERS = 20
MAX_TEXTS = 1000


def slice_rows(images: LabelledImages, column: str) -> dict[str, np.ndarray]:
    """Slice a split by a column.

    Text, booleans, classes and whole numbers of at most 20 distinct values make one slice per value; other numbers
    four, between their quartiles; lists are taken by their lengths. Null, NaN and the -1 of an unlabelled row are
    "missing".

    Args:
        images: split of images that is not streamed.
        column: name of any column of the split but the images.

    Returns:
        Name of the slice -> its rows (images of the slice), in the order of the values.

    Raises:
        DataError: if the column does not exist, has too many texts, or values of another kind.
    """
    _check_column(images, column)
    values = _values(images.rows, column)
    names = _value_names(images, column)
    present = np.flatnonzero(_is_present(values, classes=names is not None))
    known = values.take(present).to_numpy()
    groups = _by_value(known, names) if names is not None else _groups(images, column, values.type, known)
    slices = {name: present[group] for name, group in groups.items()}
    missing = np.setdiff1d(np.arange(len(values)), present)
    if len(missing):
        # a text may be "missing", too
        slices[MISSING] = np.union1d(slices.pop(MISSING, missing), missing)
    return slices


def slice_figures(slices: dict[str, np.ndarray], hits: np.ndarray, readable: np.ndarray) -> list[SliceFigure]:
    """Accuracy on every slice that has an image which could be read.

    Args:
        slices: name of the slice -> its rows, as [`slice_rows`] returns them.
        hits: whether the class was predicted, for every row of the split (samples).
        readable: whether the image could be read, for every row of the split (samples).
    """
    figures = []
    for name, every in slices.items():
        rows = every[readable[every]]
        if not len(rows):
            continue
        correct = int(hits[rows].sum())
        low, high = wilson_interval(correct, len(rows))
        figures.append(SliceFigure(name, len(rows), correct / len(rows), low, high))
    return figures


@dataclass(frozen=True)
class SliceFigures:
    """What a model of several labels or of a regression reaches on one slice of a split.

    Args:
        name: name of the slice.
        figures: all figures over the samples of the slice.
    """

    name: str
    figures: Figures

    def header(self, unit: str) -> tuple[str, ...]:
        """Titles of the texts in a row, the samples called `unit`."""
        return "slice", unit, *(title for title, _ in metric_rows(self.figures.means()))

    def row(self) -> tuple[str, ...]:
        """The figures as a row of a table."""
        return self.name, str(self.figures.samples), *(text for _, text in metric_rows(self.figures.means()))

    def by_name(self, unit: str) -> dict[str, float]:
        """The figures by name, as files hold them, the samples called `unit`."""
        return {unit: self.figures.samples, **self.figures.means()}


def problem_slices(
    slices: dict[str, np.ndarray], problem: Problem, scores: np.ndarray, labels: np.ndarray
) -> list[SliceFigures]:
    """All figures on every slice that has an image which could be read.

    Args:
        slices: name of the slice -> its rows, as [`slice_rows`] returns them.
        problem: what the model is asked for each sample.
        scores: logits (samples, classes or outputs) of every row of the split.
        labels: numbers (samples, classes or outputs) of every row; nan for one that could not be read.
    """
    readable = is_readable(labels)
    return [
        SliceFigures(name, problem.figures(scores[rows], labels[rows]))
        for name, rows in slices.items()
        if readable[rows].any()
    ]


def _check_column(images: LabelledImages, column: str) -> None:
    columns = list(images.rows.features)
    if column not in columns:
        nearest = difflib.get_close_matches(column, columns, n=1, cutoff=0.5)
        hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
        raise DataError(f"the data has no column {column!r}{hint}: slice by one of {', '.join(columns)}.")
    if column == images.image_column:
        raise DataError(f"column {column!r} holds the images: slice by another one of {', '.join(columns)}.")


def _values(rows: datasets.Dataset, column: str) -> Any:
    """The column in Arrow, lists replaced by their lengths."""
    values = rows.with_format("arrow", columns=[column])[:][column]
    if (
        pa.types.is_list(values.type)
        or pa.types.is_large_list(values.type)
        or pa.types.is_fixed_size_list(values.type)
    ):
        values = pc.list_value_length(values)
    return values


def _value_names(images: LabelledImages, column: str) -> Sequence[str] | None:
    """Names of the values, where they are classes."""
    import datasets

    if column == images.label_column:
        return images.class_names
    feature = images.rows.features[column]
    return feature.names if isinstance(feature, datasets.ClassLabel) else None


def _is_present(values: Any, classes: bool) -> np.ndarray:
    """Which of the values are there: not null, not NaN, and of classes not -1, which data says of rows without one."""
    present = pc.is_valid(values)
    if classes:
        present = pc.and_(present, pc.fill_null(pc.greater_equal(values, 0), False))
    elif pa.types.is_floating(values.type):
        present = pc.and_(present, pc.fill_null(pc.invert(pc.is_nan(values)), False))
    return present.to_numpy()


def _groups(images: LabelledImages, column: str, kind: pa.DataType, values: np.ndarray) -> dict[str, np.ndarray]:
    """Group the positions of values of an Arrow type.

    Raises:
        DataError: if there are too many texts, or the type is none to slice by.
    """
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        count = len(set(values))
        if count > MAX_TEXTS:
            raise DataError(f"column {column!r} has {count} distinct texts: slices go by {MAX_TEXTS} at most.")
        return _by_value(values)
    if pa.types.is_boolean(kind):
        return _by_value(values)
    if pa.types.is_integer(kind):
        return _by_value(values) if len(np.unique(values)) <= MAX_INTEGERS else _by_quartile(values)
    if pa.types.is_floating(kind):
        return _by_quartile(values)
    raise DataError(f"column {column!r} holds {images.rows.features[column]}: slice by text, numbers or lists.")


def _by_value(values: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Group the positions of values by value, in order; `names` names values that are indices."""
    distinct, inverse = np.unique(values, return_inverse=True)
    texts = [str(value) if names is None else names[value] for value in distinct]
    different = list(dict.fromkeys(texts))  # two classes may have one name
    group = np.array([different.index(text) for text in texts], dtype=int)[inverse]
    return {text: np.flatnonzero(group == number) for number, text in enumerate(different)}


def _by_quartile(values: np.ndarray) -> dict[str, np.ndarray]:
    """Group the positions of numbers by quartile; where ties make quartiles equal, there are fewer groups.

    The quartiles are values that occur (`method="higher"`): so no group is empty, and infinities do no harm.
    """
    if len(values) == 0:
        return {}
    lowest = np.unique(np.quantile(values, (0, 0.25, 0.5, 0.75), method="higher"))
    group = np.searchsorted(lowest, values, side="right") - 1
    return {name: np.flatnonzero(group == number) for number, name in enumerate(_bounds(lowest, values.max()))}


def _bounds(lowest: np.ndarray, highest: Any) -> list[str]:
    """Names such as "[0.1, 0.5)" of intervals by their lower bounds; the last one ends with the highest value."""
    bounds = [*lowest, highest]
    texts = [f"{bound:.6g}" if isinstance(bound, np.floating) else str(bound) for bound in bounds]
    if len(set(texts[:-1])) < len(lowest):
        texts = [str(bound) for bound in bounds]
    return [
        f"[{low}, {high}{']' if number == len(lowest) - 1 else ')'}"
        for number, (low, high) in enumerate(zip(texts[:-1], texts[1:], strict=True))
    ]
