"""Columns of a data set to labels and class names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .arguments import ImageDataArguments
from .errors import DataError
from .splits import given_names


IMAGE_COLUMNS = ("image", "img", "images", "pixel_values", "jpg", "png", "webp")
# names that a sentence gives
SHOWN = 5


def find_image_column(rows: Any, named: str | None) -> str:
    """The column that is named, or the only one of images, or one of the usual names, in any case."""
    import datasets

    columns = list(rows.features)
    if named is not None:
        if named not in columns:
            raise DataError(f"the data has no column {named!r}: set image_column to one of {', '.join(columns)}.")
        return named
    found = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if len(found) != 1:
        found = [name for other in IMAGE_COLUMNS for name in columns if name.lower() == other]
    if not found:
        raise DataError(f"no column clearly holds the images: set image_column to one of {', '.join(columns)}.")
    return found[0]


def check_rows(rows: Any, image_column: str, label_column: str | None, split: str) -> None:
    """See that there are rows, and that each has an image and a label; streams are not read.

    Raises:
        DataError: naming the split, the row and the column.
    """
    import datasets

    if not isinstance(rows, datasets.Dataset):
        return
    if len(rows) == 0:
        raise DataError(f"split {split!r} has no images.")
    for column in filter(None, (image_column, label_column)):
        values = rows.with_format("arrow", columns=[column])[:][column]
        missing = pc.is_null(values)
        if pa.types.is_struct(values.type):
            # an image is null as a whole, or in all that it could be read from
            parts = [pc.is_null(pc.struct_field(values, name)) for name in ("bytes", "path")]
            missing = pc.or_(missing, pc.and_(*parts))
        count = pc.sum(missing).as_py()
        if count:
            row = pc.index(missing, True).as_py()
            what = "image" if column == image_column else "label"
            more = f" ({count} rows in all)" if count > 1 else ""
            raise DataError(
                f"row {row} of split {split!r} has no {what} in column {column!r}{more}: take such rows out, or name "
                "another column."
            )


def name_classes(
    rows: Any, label_column: str, arguments: ImageDataArguments, complete: bool = True
) -> tuple[Any, list[str], list[str]]:
    """Make the labels indices of class names: those given, those stored, or the distinct labels in order.

    Args:
        rows: a split.
        label_column: column of its labels.
        arguments: fields of the `data` section: names of the classes and number of the first one.
        complete: whether every class is in this split; one to evaluate on may lack some.

    Returns:
        The rows, the class names, and sentences about what was decided.

    Raises:
        DataError: if the column holds no labels, or the names do not fit.
    """
    import datasets

    feature = rows.features[label_column]
    given = given_names(arguments)
    is_number = isinstance(feature, datasets.Value) and "int" in feature.dtype
    if arguments.label_base and not is_number:
        raise DataError(
            f"label_base is {arguments.label_base}, but column {label_column!r} holds no numbers of classes but "
            f"{'names' if not isinstance(feature, datasets.ClassLabel) else 'classes with names'}: leave it out."
        )
    if isinstance(feature, datasets.ClassLabel):
        return _stored_classes(rows, label_column, list(feature.names), given)
    if not is_number and not _is_text(feature):
        raise DataError(f"column {label_column!r} holds no labels (whole numbers or text) but {feature}.")
    if given is None and not isinstance(rows, datasets.Dataset):
        raise DataError(f"column {label_column!r} does not name its classes: with streaming, give class_names.")
    if is_number:
        return _numbered_classes(rows, label_column, given, arguments.label_base, complete)
    return _text_classes(rows, label_column, given)


def _is_text(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string", "string_view")


def _stored_classes(
    rows: Any, column: str, names: list[str], given: list[str] | None
) -> tuple[Any, list[str], list[str]]:
    """Classes that the data names: given names that are theirs order them, and others rename them.

    Raises:
        DataError: if only some of the names are those of the data, or there are too few or too many.
    """
    if given is None or given == names:
        return rows, names, []
    places = {_spelling(name): place for place, name in enumerate(given)}
    order = [given.index(name) if name in given else places.get(_spelling(name)) for name in names]
    known = [place for place in order if place is not None]
    if len(known) == len(names) == len(set(known)):
        return relabelled(rows, column, known), given, _renaming(names, [given[place] for place in known])
    if known:
        missing = [name for name, place in zip(names, order, strict=True) if place is None]
        raise DataError(
            f"class_names names some classes of the data, but not {_listed(map(repr, missing))}: give all names that "
            f"it has ({_listed(names)}) to order the classes, or none of them to rename the classes."
        )
    if len(given) != len(names):
        raise DataError(f"class_names has {len(given)} names, but the data has {len(names)} classes.")
    # folders 0, 1, 10, 2 are numbers to whoever names them
    ranked = sorted(names, key=int) if all(name.isdecimal() for name in names) else names
    new = [given[ranked.index(name)] for name in names]
    _refuse_crosswise(names, new)
    return relabelled(rows, column, [given.index(name) for name in new]), given, _renaming(names, new)


def _refuse_crosswise(names: list[str], new: list[str]) -> None:
    """Refuse new names that all contain names of the data, but those of other classes: `0 tulip` for `rose`."""
    contained = [[old for old in names if _words(old) in _words(name)] for name in new]
    crossed = [place for place, olds in enumerate(contained) if names[place] not in olds]
    if all(contained) and crossed:
        old, name = names[crossed[0]], new[crossed[0]]
        raise DataError(
            f"class_names would rename class {old!r} to {name!r}, but the names contain those of the data "
            f"({_listed(names)}): give these alone, one a line."
        )


def _words(name: str) -> str:
    """A name as words between spaces, without regard to case and signs."""
    return re.sub(r"[\W_]+", " ", f" {name.casefold()} ")


def _spelling(name: str) -> str:
    """A name without regard to case, spaces and signs."""
    return re.sub(r"[\W_]+", "", name).casefold() or name


def _renaming(names: list[str], new: list[str]) -> list[str]:
    """The sentence that says which class is called what."""
    pairs = [f"{old!r} is {name!r}" for old, name in zip(names, new, strict=True) if old != name]
    return [f"class_names renames the classes: {_listed(pairs)}."] if pairs else []


def _listed(names: Iterable[Any]) -> str:
    """Some names, and a sign that there are more."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:SHOWN]) + (", ..." if len(texts) > SHOWN else "")


def _numbered_classes(
    rows: Any, column: str, given: list[str] | None, base: int, complete: bool
) -> tuple[Any, list[str], list[str]]:
    """Classes that the data numbers."""
    import datasets

    if given is not None:
        if not base:
            return rows, given, []
        return _with_labels(rows, column, lambda labels: labels - base), given, []
    distinct = sorted(rows.unique(column))
    if complete and distinct != list(range(base, base + len(distinct))):
        if not base and distinct == list(range(1, 1 + len(distinct))):
            raise DataError(f"the labels in {column!r} count from 1 ({_listed(distinct)}): set label_base to 1.")
        last = "n" if base else "n-1"
        raise DataError(f"the labels in {column!r} are not {base}..{last} ({_listed(distinct)}): give class_names.")
    assert isinstance(rows, datasets.Dataset)
    names = [str(label) for label in distinct]
    if distinct == list(range(len(distinct))):
        return rows, names, []
    return _with_labels(rows, column, lambda labels: np.searchsorted(distinct, labels)), names, []


def _text_classes(rows: Any, column: str, given: list[str] | None) -> tuple[Any, list[str], list[str]]:
    """Classes that the labels name."""
    import datasets

    if not isinstance(rows, datasets.Dataset):
        assert given is not None
        index = {name: number for number, name in enumerate(given)}
        return _streamed(rows, column, lambda label: _known(index, label, column)), given, []
    distinct = sorted(rows.unique(column))
    names = given or distinct
    index = {name: number for number, name in enumerate(names)}
    numbers = {label: _known(index, label, column) for label in distinct}
    return _with_labels(rows, column, lambda labels: np.array([numbers[one] for one in labels])), names, []


def _known(index: dict[str, int], label: str, column: str) -> int:
    if label not in index:
        raise DataError(f"column {column!r} holds {label!r}, which class_names does not name.")
    return index[label]


def relabelled(rows: Any, column: str, numbers: Sequence[int]) -> Any:
    """Rows whose labels are other numbers.

    Args:
        rows: a split.
        column: column of its labels.
        numbers: new label for each old one.
    """
    if list(numbers) == list(range(len(numbers))):
        return rows
    # what is no label stays what it is
    new = dict(enumerate(numbers))
    return _with_labels(rows, column, lambda labels: np.array([new.get(one, one) for one in labels.tolist()]))


def _with_labels(rows: Any, column: str, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """Rows with labels that a function makes of the old ones; nothing else is touched."""
    import datasets

    if not isinstance(rows, datasets.Dataset):
        return _streamed(rows, column, lambda label: int(change(np.array([label]))[0]))
    labels = rows.with_format("arrow", columns=[column])[:][column].to_numpy()
    return rows.remove_columns(column).add_column(column, change(labels).astype(np.int64))


def _streamed(rows: Any, column: str, change: Callable[[Any], int]) -> Any:
    """A stream with labels that a function makes of the old ones."""
    import datasets

    features = datasets.Features({**rows.features, column: datasets.Value("int64")})
    return rows.map(lambda label: {column: change(label)}, input_columns=[column], features=features)
