"""One split of labelled images, as rows of `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .errors import DataError
from .labels import relabelled
from .problem_types import MULTI_LABEL, SINGLE_LABEL
from .splits import LeftOut, Split
from .targets import vectors_of, with_vectors


if TYPE_CHECKING:
    import datasets


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
        problem_type: what a model is asked for each image, by transformers' name.
        names_are_found: whether the class names are those of the labels that occur here, and others may be meant.
    """

    rows: datasets.Dataset | datasets.IterableDataset
    image_column: str
    label_column: str
    class_names: list[str]
    name: str
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    problem_type: str = SINGLE_LABEL
    names_are_found: bool = False

    unit = "images"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def is_stream(self) -> bool:
        """Whether the rows come from a stream, and cannot be counted."""
        import datasets

        return isinstance(self.rows, datasets.IterableDataset)

    def labels(self) -> np.ndarray:
        """Label of each row, in order: int64 (rows), or float32 (rows, classes or outputs) of vectors."""
        if self.problem_type != SINGLE_LABEL:
            return vectors_of(self.rows)
        return self.rows.with_format("numpy", columns=[self.label_column])[:][self.label_column]

    def class_counts(self) -> np.ndarray:
        """How many images each class has (classes); empty for a regression."""
        if self.problem_type == SINGLE_LABEL:
            return super().class_counts()
        return self.labels().sum(axis=0).astype(int) if self.problem_type == MULTI_LABEL else np.empty(0, dtype=int)

    def part(self, numbers: Sequence[int], name: str | None = None) -> LabelledImages:
        """The rows of these numbers, in the order of the numbers."""
        return replace(self, rows=self.rows.select(numbers), name=name or self.name)

    def with_classes(self, names: list[str]) -> LabelledImages:
        """The same rows, their labels numbered by other names, among which those of the data are."""
        places = [names.index(name) for name in self.class_names]
        if self.problem_type == SINGLE_LABEL:
            rows = relabelled(self.rows, self.label_column, places)
        else:
            vectors = np.zeros((len(self), len(names)), dtype=np.float32)
            vectors[:, places] = self.labels()
            rows = with_vectors(self.rows, vectors)
        return replace(self, rows=rows, class_names=names)

    def at_most(self, count: int | None) -> LabelledImages:
        """At most `count` rows: spread over the split, or the first ones of a stream."""
        if count is not None and self.is_stream:
            return replace(self, rows=self.rows.take(count))
        return super().at_most(count)

    def check_labels(self) -> None:
        """See that the labels index the class names.

        Raises:
            DataError: naming the first row whose label does not.
        """
        labels, count = self.labels(), len(self.class_names)
        outside = np.flatnonzero((labels < 0) | (labels >= count))
        if len(outside):
            from_one = labels.min() == 1 and labels.max() == count
            fix = (
                "they count from 1, set label_base to 1"
                if from_one
                else "give class_names, or choose a labelled split"
            )
            raise DataError(
                f"row {outside[0]} of split {self.name!r} has label {labels[outside[0]]}, outside the {count} "
                f"classes: {fix}."
            )
