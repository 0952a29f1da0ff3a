"""Find a labelled image data set, its columns and its class names. Everything is a `datasets` data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from PIL import Image

from ..errors import first_line
from .arguments import CommonDataArguments, DataArguments
from .errors import DataError


EMBEDDED = "fashion-mnist-mini"
EVAL_SPLITS = ("validation", "valid", "val", "dev", "test")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls")
IMAGE_COLUMNS = ("image", "img", "images", "pixel_values", "jpg", "png", "webp")


@dataclass
class LabelledImages:
    """One split: rows with an undecoded image (`{"bytes", "path"}`) and an integer label."""

    rows: datasets.Dataset | datasets.IterableDataset
    image_column: str
    label_column: str
    class_names: list[str]
    name: str


def load_split(arguments: DataArguments, split: str) -> LabelledImages:
    """Load one split, `max_eval_samples` of it at most.

    Args:
        arguments: which data set, columns and class names.
        split: name of the split.

    Returns:
        The rows, the names of their columns and the class names, which the labels index.

    Raises:
        DataError: if the data set, the split or a column is missing, or a label is outside the classes.
    """
    splits = _load_all(arguments)
    if split not in splits:
        raise DataError(f"data set {arguments.dataset!r} has no split {split!r}: it has {', '.join(splits)}.")
    return _take(_label(splits[split], arguments, split), arguments.max_eval_samples)


def load_train_and_eval(arguments: DataArguments, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Load the training split and the split to evaluate on.

    Where the data set has no evaluation split, a part of the training split is held out, stratified by class.

    Raises:
        DataError: see [`load_split`]; also if the two splits name different classes.
    """
    splits = _load_all(arguments)
    if arguments.train_split not in splits:
        raise DataError(
            f"data set {arguments.dataset!r} has no split {arguments.train_split!r}: set train_split to one of "
            f"{', '.join(splits)}."
        )
    eval_split = arguments.eval_split or next((name for name in EVAL_SPLITS if name in splits), None)
    train = _label(splits[arguments.train_split], arguments, arguments.train_split)
    if eval_split is None:
        train, evaluation = _hold_out(train, arguments, seed)
    elif eval_split not in splits:
        raise DataError(f"data set {arguments.dataset!r} has no split {eval_split!r}: it has {', '.join(splits)}.")
    else:
        evaluation = _label(splits[eval_split], arguments, eval_split)
    if train.class_names != evaluation.class_names:
        different = sorted(set(train.class_names) ^ set(evaluation.class_names))
        raise DataError(
            f"splits {train.name!r} and {evaluation.name!r} name different classes ({', '.join(different[:5])}): "
            "give class_names, or make the class folders agree."
        )
    if not arguments.streaming:
        unseen = sorted(set(_labels(evaluation)) - set(_labels(train)))
        if unseen:
            raise DataError(
                f"split {evaluation.name!r} has images of class {train.class_names[unseen[0]]!r}, but split "
                f"{train.name!r} has none: make their classes agree."
            )
    return _take(train, arguments.max_train_samples), _take(evaluation, arguments.max_eval_samples)


def _load_all(arguments: DataArguments) -> Any:
    """All splits of a data set, by name."""
    source = arguments.dataset
    if source == EMBEDDED:
        return _embedded()
    path = Path(source).expanduser()
    try:
        if path.is_file():
            if path.suffix != ".parquet":
                raise DataError(f"{source!r} is a file but no parquet file: give a parquet file or a folder.")
            return datasets.load_dataset("parquet", data_files=str(path), streaming=arguments.streaming)
        if path.is_dir():
            return datasets.load_dataset(str(path), streaming=arguments.streaming)
        if path.is_absolute() or source.startswith(".") or source.count("/") > 1:
            raise DataError(f"data set {source!r} does not exist: it is no folder or file here.")
        return datasets.load_dataset(
            source,
            arguments.dataset_config,
            revision=arguments.dataset_revision,
            streaming=arguments.streaming,
        )
    except DataError:
        raise
    except (
        datasets.exceptions.DatasetsError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        OSError,
        ValueError,
    ) as error:
        raise DataError(f"data set {source!r} cannot be loaded: {first_line(error)}") from error


def _embedded() -> datasets.DatasetDict:
    """2,000 + 500 grey images of 28x28 pixels in 10 classes, a part of Fashion-MNIST (MIT, Zalando SE)."""
    arrays = np.load(Path(__file__).with_name("fashion_mnist_mini") / "fashion_mnist_mini.npz")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=arrays["names"].tolist())}
    )

    def split(images: np.ndarray, labels: np.ndarray) -> datasets.Dataset:
        columns = {"image": [Image.fromarray(image) for image in images], "label": labels.tolist()}
        info = datasets.DatasetInfo(
            features=features, license="MIT", homepage="https://github.com/zalandoresearch/fashion-mnist"
        )
        return datasets.Dataset.from_dict(columns, info=info)

    return datasets.DatasetDict(
        train=split(arrays["x_train"], arrays["y_train"]), test=split(arrays["x_test"], arrays["y_test"])
    )


def _label(rows: Any, arguments: DataArguments, split: str) -> LabelledImages:
    """Find the columns and class names of a split, and make its labels indices of them."""
    if rows.features is None:
        rows = rows._resolve_features()
    image_column = _column(rows, arguments.image_column, "image_column", datasets.Image, IMAGE_COLUMNS)
    label_column = _column(rows, arguments.label_column, "label_column", datasets.ClassLabel, LABEL_COLUMNS)
    try:
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(f"column {image_column!r} holds no images: {first_line(error)}") from error
    rows, names = _class_names(rows, label_column, arguments)
    images = LabelledImages(rows, image_column, label_column, names, split)
    if not arguments.streaming:
        _check_labels(images)
    return images


def _column(rows: Any, named: str | None, option: str, feature: type, usual: tuple[str, ...]) -> str:
    """The column that is named, or the only one of the wanted feature, or one of the usual names."""
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


def _class_names(rows: Any, label_column: str, arguments: DataArguments) -> tuple[Any, list[str]]:
    """Class names: given, stored with the labels, or the distinct labels in order (which needs all rows)."""
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


def given_names(arguments: CommonDataArguments) -> list[str] | None:
    """The class names that were given, as a list or in a file."""
    given = arguments.class_names
    if not isinstance(given, str):
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read class_names from {given!r}: it is a list, or a text file with a name a line."
        ) from error


def _is_text(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def _labels(images: LabelledImages) -> np.ndarray:
    return images.rows.with_format("numpy", columns=[images.label_column])[:][images.label_column]


def _check_labels(images: LabelledImages) -> None:
    if len(images.rows) == 0:
        raise DataError(f"split {images.name!r} has no images.")
    labels = _labels(images)
    outside = np.flatnonzero((labels < 0) | (labels >= len(images.class_names)))
    if len(outside):
        raise DataError(
            f"row {outside[0]} of split {images.name!r} has label {labels[outside[0]]}, outside the "
            f"{len(images.class_names)} classes: give class_names, or choose a labelled split."
        )


def _hold_out(train: LabelledImages, arguments: DataArguments, seed: int) -> tuple[LabelledImages, LabelledImages]:
    if arguments.streaming or not 0 < arguments.validation_fraction < 1:
        raise DataError(
            f"data set {arguments.dataset!r} has no evaluation split: set eval_split"
            + ("." if arguments.streaming else ", or validation_fraction to a part between 0 and 1.")
        )
    stratify = train.label_column if isinstance(train.rows.features[train.label_column], datasets.ClassLabel) else None
    parts = split_rows(train.rows, arguments.validation_fraction, seed, stratify)
    kept = LabelledImages(parts["train"], train.image_column, train.label_column, train.class_names, train.name)
    held = LabelledImages(parts["test"], train.image_column, train.label_column, train.class_names, "held out")
    return kept, held


def split_rows(rows: datasets.Dataset, fraction: float, seed: int, stratify: str | None) -> datasets.DatasetDict:
    """Divide rows at random into `train` and `test`, the latter a fraction of each class of the column `stratify`."""
    try:
        return rows.train_test_split(fraction, seed=seed, stratify_by_column=stratify, load_from_cache_file=False)
    except ValueError as error:
        raise DataError(f"no part can be held out for evaluation: {first_line(error)}") from error


def _take(images: LabelledImages, count: int | None) -> LabelledImages:
    if count is None:
        return images
    if isinstance(images.rows, datasets.IterableDataset):
        rows = images.rows.take(count)
    else:
        rows = images.rows.select(spread(len(images.rows), count))
    return LabelledImages(rows, images.image_column, images.label_column, images.class_names, images.name)


def spread(length: int, count: int) -> np.ndarray:
    """Positions of at most `count` items, spread over a split, which may be sorted by class."""
    return np.linspace(0, length - 1, min(count, length), dtype=int)
