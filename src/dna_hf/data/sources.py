"""Find a labelled image data set, its columns and its class names. Everything is a `datasets` data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from PIL import Image

from ..errors import first_line, needed
from . import embedded
from .arguments import ImageDataArguments
from .errors import DataError
from .image_folders import load_folder
from .labels import IMAGE_COLUMNS, LABEL_COLUMNS, check_labels, class_names, find_column
from .splits import LeftOut, Readers, Split, read_split, read_train_and_eval


if TYPE_CHECKING:
    import datasets


EMBEDDED = "fashion-mnist-mini"


@dataclass
class LabelledImages(Split):
    """One split of images.

    Args:
        rows: rows with an undecoded image (`{"bytes", "path"}`) and an integer label each.
        image_column: name of the column of the images.
        label_column: name of the column of the labels.
        class_names: names that the labels index.
        name: name of the split.
        left_out: files and rows of the data set that are in no split.
        notes: sentences about what was decided for the user: where labels come from, what is held out.
    """

    rows: datasets.Dataset | datasets.IterableDataset
    image_column: str
    label_column: str
    class_names: list[str]
    name: str
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    unit = "images"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_stream(self) -> bool:
        """Whether the rows come from a stream, and cannot be counted."""
        import datasets

        return isinstance(self.rows, datasets.IterableDataset)

    @property
    def is_stratified(self) -> bool:
        """Whether a part that is held out has its share of every class: where the data set names its classes."""
        import datasets

        return isinstance(self.rows.features[self.label_column], datasets.ClassLabel)

    def labels(self) -> np.ndarray:
        """Label of each row, in order."""
        return self.rows.with_format("numpy", columns=[self.label_column])[:][self.label_column]

    def part(self, numbers: Sequence[int], name: str | None = None) -> LabelledImages:
        """The rows of these numbers, in the order of the numbers."""
        return replace(self, rows=self.rows.select(numbers), name=name or self.name)

    def at_most(self, count: int | None) -> LabelledImages:
        """At most `count` rows: spread over the split, or the first ones of a stream."""
        if count is not None and self.is_stream:
            return replace(self, rows=self.rows.take(count))
        return super().at_most(count)


def load_split(arguments: ImageDataArguments, split: str) -> LabelledImages:
    """Load one split, `max_eval_samples` of it at most.

    Args:
        arguments: fields of the `data` section: which data set, columns and class names.
        split: name of the split.

    Returns:
        The rows, the names of their columns and the class names, which the labels index.

    Raises:
        DataError: if the data set, the split or a column is missing, or a label is outside the classes.
    """
    return read_split(_readers(arguments), split, arguments).at_most(arguments.max_eval_samples)


def load_all(arguments: ImageDataArguments) -> dict[str, LabelledImages]:
    """All splits by name, whole, to look at them.

    Args:
        arguments: fields of the `data` section: which data set, columns and class names.

    Raises:
        DataError: see [`load_split`].
    """
    return {name: read() for name, read in _readers(arguments).items()}


def load_train_and_eval(arguments: ImageDataArguments, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Load the training split and the split to evaluate on.

    Where the data set has no evaluation split, a part of the training split is held out, stratified by class where
    the data set names its classes.

    Args:
        arguments: fields of the `data` section: which data set, splits, columns and class names.
        seed: says which rows are held out.

    Raises:
        DataError: see [`load_split`]; also if the two splits name different classes.
    """
    train, evaluation = read_train_and_eval(_readers(arguments), arguments, seed)
    return train.at_most(arguments.max_train_samples), evaluation.at_most(arguments.max_eval_samples)


def _readers(arguments: ImageDataArguments) -> Readers[LabelledImages]:
    """What reads each split of a data set, by name."""
    return {name: partial(_label, rows, arguments, name) for name, rows in _load_all(arguments).items()}


def _load_all(arguments: ImageDataArguments) -> Any:
    """All splits of a data set, by name."""
    datasets = needed("datasets", DataError, "reading a data set")
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
            return load_folder(path, arguments)
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
        raise DataError(f"data set {source!r} cannot be loaded: {first_line(error)}.") from error


@cache
def _embedded() -> datasets.DatasetDict:
    """The embedded images, in 10 classes, encoded once in a process."""
    import datasets

    names = datasets.ClassLabel(names=embedded.class_names())
    info = datasets.DatasetInfo(
        features=datasets.Features({"image": datasets.Image(), "label": names}),
        license=embedded.LICENCE,
        homepage=embedded.HOMEPAGE,
    )
    splits = datasets.DatasetDict()
    for split in embedded.SPLITS:
        images, labels = embedded.fashion_mnist_mini(split)
        columns = {"image": [Image.fromarray(image) for image in images], "label": labels.tolist()}
        splits[split] = datasets.Dataset.from_dict(columns, info=info)
    return splits


def _label(rows: Any, arguments: ImageDataArguments, split: str) -> LabelledImages:
    """Find the columns and class names of a split, and make its labels indices of them."""
    import datasets

    if rows.features is None:
        rows = rows._resolve_features()
    image_column = find_column(rows, arguments.image_column, "image_column", datasets.Image, IMAGE_COLUMNS)
    label_column = find_column(rows, arguments.label_column, "label_column", datasets.ClassLabel, LABEL_COLUMNS)
    try:
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(f"column {image_column!r} holds no images: {first_line(error)}.") from error
    rows, names = class_names(rows, label_column, arguments)
    images = LabelledImages(rows, image_column, label_column, names, split)
    if not arguments.streaming:
        check_labels(images)
    return images
