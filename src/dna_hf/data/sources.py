"""Find a labelled image data set, its columns and its class names. Everything is a `datasets` data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from PIL import Image

from ..errors import first_line, needed
from . import embedded
from .arguments import EMBEDDED_IMAGES, ImageDataArguments
from .errors import DataError
from .label_columns import find_label_columns
from .labelled_images import LabelledImages
from .labels import check_rows, find_image_column, name_classes
from .local_files import ListedImages, Splits, has_configs, open_path
from .splits import Readers, find_split, read_all, read_split, read_train_and_eval
from .targets import VECTORS, find_vectors


if TYPE_CHECKING:
    import datasets


# parts of a local data set that workers share where it is read as a stream
SHARDS = 16


def load_split(
    arguments: ImageDataArguments, split: str, seed: int | None = None, problem_type: str | None = None
) -> LabelledImages:
    """Load one split, `max_eval_samples` of it at most.

    Args:
        arguments: fields of the `data` section: which data set, columns and class names.
        split: name of the split; `held-out`: the part of the training split that training evaluates on.
        seed: seed of that training.
        problem_type: what a model is asked for each image, by transformers' name; by default the labels say it.

    Returns:
        The rows, the names of their columns and the class names, which the labels index.

    Raises:
        DataError: if the data set, the split or a column is missing, or a label is outside the classes.
    """
    return read_split(_readers(arguments, split, problem_type=problem_type), split, arguments, seed).at_most(
        arguments.max_eval_samples
    )


def load_all(arguments: ImageDataArguments, problem_type: str | None = None) -> dict[str, LabelledImages]:
    """All splits by name, whole, to look at them.

    Args:
        arguments: fields of the `data` section: which data set, columns and class names.
        problem_type: what a model is asked for each image, by transformers' name; by default the labels say it.

    Raises:
        DataError: see [`load_split`].
    """
    return read_all(_readers(arguments, problem_type=problem_type), arguments.train_split)


def load_train_and_eval(
    arguments: ImageDataArguments, seed: int, hold_out: bool = True, problem_type: str | None = None
) -> tuple[LabelledImages, LabelledImages | None]:
    """Load the training split and the split to evaluate on.

    Where the data set has no evaluation split, a part of the training split is held out, stratified by class.

    Args:
        arguments: fields of the `data` section: which data set, splits, columns and class names.
        seed: says which rows are held out.
        hold_out: whether a part is held out where there is no evaluation split; otherwise there is none.
        problem_type: what a model is asked for each image, by transformers' name; by default the labels say it.

    Raises:
        DataError: see [`load_split`]; also if the two splits name different classes.
    """
    train, evaluation = read_train_and_eval(_readers(arguments, problem_type=problem_type), arguments, seed, hold_out)
    if evaluation is not None:
        evaluation = evaluation.at_most(arguments.max_eval_samples)
    return train.at_most(arguments.max_train_samples), evaluation


def _readers(arguments: ImageDataArguments, *wanted: str, problem_type: str | None = None) -> Readers[LabelledImages]:
    """What reads each split of a data set, by name. Splits of other than the usual names are found where wanted."""
    datasets = needed("datasets", DataError, "reading a data set")
    source = arguments.dataset
    path = Path(source).expanduser()
    local = source == EMBEDDED_IMAGES or path.exists()
    for name in ("dataset_config", "dataset_revision"):
        if getattr(arguments, name) is not None and local and not (name == "dataset_config" and has_configs(path)):
            raise DataError(f"{name} is for data sets that have such, and {source!r} has none: leave it out.")
    asked = {*wanted, arguments.train_split, *([arguments.eval_split] if arguments.eval_split else [])}
    with _told(source):
        if source == EMBEDDED_IMAGES:
            splits: Splits = {name: partial(ListedImages, rows) for name, rows in _embedded().items()}
        elif path.exists():
            splits = open_path(path, arguments, asked)
        elif path.is_absolute() or source.startswith(".") or source.count("/") > 1:
            raise DataError(f"data set {source!r} does not exist: it is no folder or file here.")
        else:
            loaded = datasets.load_dataset(
                source,
                arguments.dataset_config,
                revision=arguments.dataset_revision,
                streaming=arguments.streaming,
            )
            splits = {name: partial(ListedImages, rows) for name, rows in loaded.items()}
    reference = find_split(splits, arguments.train_split)
    return {
        name: partial(_read, read, arguments, name, reference in (name, None), problem_type)
        for name, read in splits.items()
    }


def _read(
    read: Callable[[], ListedImages],
    arguments: ImageDataArguments,
    split: str,
    complete: bool,
    problem_type: str | None,
) -> LabelledImages:
    """Read a split, and find its columns and classes; `complete`: all classes of the data are in it."""
    with _told(arguments.dataset):
        listed = read()
    return _label(listed, arguments, split, complete, problem_type)


@contextmanager
def _told(source: str) -> Iterator[None]:
    """Around the opening of a data set: what `datasets` raises is told with the cause that it hides."""
    import datasets

    try:
        yield
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
        cause: BaseException = error
        while isinstance(cause, datasets.exceptions.DatasetGenerationError) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise DataError(f"data set {source!r} cannot be loaded: {first_line(cause)}.") from error


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


def _label(
    listed: ListedImages, arguments: ImageDataArguments, split: str, complete: bool, problem_type: str | None
) -> LabelledImages:
    """Find the columns and class names of a split, and make its labels indices of them."""
    import datasets

    rows: Any = listed.rows
    if rows.features is None:
        rows = rows._resolve_features()
    image_column = find_image_column(rows, arguments.image_column)
    try:
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(f"column {image_column!r} holds no images: {first_line(error)}.") from error
    others = {name: feature for name, feature in rows.features.items() if name != image_column}
    columns = find_label_columns(others, arguments.label_column, problem_type, split)
    vectors = find_vectors(rows, columns, arguments, split, problem_type, complete)
    if vectors is None:
        label_column = columns.names[0]
        check_rows(rows, image_column, label_column, split)
        rows, names, notes = name_classes(rows, label_column, arguments, complete)
    else:
        check_rows(rows, image_column, None, split)
        label_column, rows, names, notes = VECTORS, vectors.rows, vectors.names, vectors.notes
    if arguments.streaming and isinstance(rows, datasets.Dataset):
        rows = rows.to_iterable_dataset(num_shards=min(len(rows), SHARDS))
    images = LabelledImages(rows, image_column, label_column, names, split, listed.left_out, (*listed.notes, *notes))
    if vectors is not None:
        return replace(images, problem_type=vectors.problem_type, names_are_found=vectors.names_are_found)
    if not images.is_stream:
        images.check_labels()
    return images
