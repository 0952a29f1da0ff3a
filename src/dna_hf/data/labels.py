"""Columns of a data set to labels and class names."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .arguments import ImageDataArguments
from .errors import DataError
from .splits import given_names


if TYPE_CHECKING:
    from .sources import LabelledImages


LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls")
IMAGE_COLUMNS = ("image", "img", "images", "pixel_values", "jpg", "png", "webp")


def find_column(rows: Any, named: str | None, option: str, feature: type, usual: tuple[str, ...]) -> str:
    """The column that is named, or the only one of the wanted feature, or one of the usual names."""
    import datasets

    columns = list(rows.features)
    if named is not None:
        if named not in columns:
            raise DataError(f"the data has no column {named!r}: set {option} to one of {', '.join(columns)}.")
        return named
    found = [name for name, kind in rows.features.items() if isinstance(kind, feature)]
    found = found if len(found) == 1 else [name for name in usual if name in columns][:1]
    if not found and feature is datasets.ClassLabel and len(columns) == 1:
        raise DataError(
            "the images have no labels: put the images of each class, at least two, in a folder of its own, or set "
            "label_column."
        )
    if not found:
        raise DataError(f"no column is clearly the {feature.__name__}: set {option} to one of {', '.join(columns)}.")
    return found[0]


def class_names(rows: Any, label_column: str, arguments: ImageDataArguments) -> tuple[Any, list[str]]:
    """Class names: given, stored with the labels, or the distinct labels in order (which needs all rows)."""
    import datasets

    feature = rows.features[label_column]
    is_number = isinstance(feature, datasets.Value) and "int" in feature.dtype
    if not (is_number or _is_text(feature) or isinstance(feature, datasets.ClassLabel)):
        raise DataError(f"column {label_column!r} holds no labels (whole numbers or text) but {feature}.")
    given = given_names(arguments)
    if isinstance(feature, datasets.ClassLabel):
        names = given or feature.names
        if len(names) != feature.num_classes:
            raise DataError(f"class_names has {len(names)} names, but the data has {feature.num_classes} classes.")
        return rows, list(names)
    if given is not None and is_number:
        return rows, given
    if arguments.streaming:
        raise DataError(f"column {label_column!r} does not name its classes: with streaming, give class_names.")
    distinct = sorted(rows.unique(label_column))
    if is_number:
        if distinct != list(range(len(distinct))):
            raise DataError(f"the labels in {label_column!r} are not 0..n-1 ({distinct[:5]}...): give class_names.")
        return rows, [str(label) for label in distinct]
    names = given or list(distinct)
    unknown = [label for label in distinct if label not in names]
    if unknown:
        raise DataError(f"column {label_column!r} holds {unknown[0]!r}, which class_names does not name.")
    index = {name: number for number, name in enumerate(names)}
    rows = rows.map(lambda label: {label_column: index[label]}, input_columns=label_column)
    return rows, names


def _is_text(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def check_labels(images: "LabelledImages") -> None:
    """See that there are images, and that their labels index the class names."""
    if len(images.rows) == 0:
        raise DataError(f"split {images.name!r} has no images.")
    labels = images.labels()
    outside = np.flatnonzero((labels < 0) | (labels >= len(images.class_names)))
    if len(outside):
        raise DataError(
            f"row {outside[0]} of split {images.name!r} has label {labels[outside[0]]}, outside the "
            f"{len(images.class_names)} classes: give class_names, or choose a labelled split."
        )
