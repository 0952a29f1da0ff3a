"""What columns of labels hold, and so what a model is asked: a class, several labels, or numbers."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import DataError
from .problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL


# what values are, as messages call them
CLASS, WHOLE, REAL, TRUTH, TEXT, OTHER = "classes", "whole numbers", "numbers", "true or false", "text", "other things"
NUMBERS = {WHOLE, REAL, TRUTH}
# names that a column of labels usually has, in the order of preference
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "cls")
# what stands between the labels of an image where they are one text
DELIMITER = re.compile(r"[;|]")
# what may stand there, too, but also in the name of one class
JOINTS = (",", "/", "+", "&", None)
NEEDS = {
    SINGLE_LABEL: "one column with the class of each image",
    MULTI_LABEL: "a column of lists, a column of text such as 'rose;tulip', or a list of columns of 0 and 1",
    REGRESSION: "numbers: in a column, in lists of one length, or in a list of columns",
}


@dataclass(frozen=True)
class LabelColumns:
    """The column of the labels, or several that together hold them.

    Args:
        names: names of the columns in the data.
        holds: what the values of the columns are, all different ones; for lists, what is in the lists.
        is_list: whether each value is a list.
        several: whether the user named a list of columns, even if of one.
        classes: class names that the data set states, if it does.
        length: length of the lists, where the data set states one.
    """

    names: tuple[str, ...]
    holds: frozenset[str]
    is_list: bool = False
    several: bool = False
    classes: tuple[str, ...] | None = None
    length: int | None = None

    @property
    def text(self) -> str:
        """The columns in a sentence."""
        return f"column{'s' if len(self.names) > 1 else ''} {', '.join(map(repr, self.names))}"

    @property
    def are_lists(self) -> bool:
        """Whether a value is a list of labels or of numbers, or text that stands for one."""
        return self.is_list or (self.holds == {TEXT} and not self.several)

    @property
    def content(self) -> str:
        """What the columns hold, as a sentence without its end: `column 'labels' holds lists of text`."""
        held = " and ".join(sorted(self.holds))
        return f"{self.text} hold{'' if len(self.names) > 1 else 's'} {'lists of ' if self.is_list else ''}{held}"


def label_columns(features: Mapping[str, Any], names: str | Sequence[str]) -> LabelColumns:
    """Look at columns of labels.

    Args:
        features: features of the data set, by column.
        names: column of the labels, or a list of columns.
    """
    if not isinstance(names, str):
        kinds = [OTHER if _element(features[name]) else _kind(features[name]) for name in names]
        return LabelColumns(tuple(names), frozenset(kinds), several=True)
    feature = features[names]
    element = _element(feature)
    length = getattr(feature, "length", -1)
    return LabelColumns(
        (names,),
        frozenset([_kind(feature if element is None else element)]),
        is_list=element is not None,
        classes=tuple(element.names) if _kind(element) == CLASS else None,
        length=length if length > 0 else None,
    )


def find_label_columns(
    features: Mapping[str, Any], named: str | Sequence[str] | None, wanted: str | None, split: str
) -> LabelColumns:
    """The columns of the labels.

    Args:
        features: features of the data set, by column, without that of the images.
        named: column that the user named, or a list of columns.
        wanted: problem type that the user gave, if one was given.
        split: name of the split, for messages.

    Raises:
        DataError: if a column that was named does not exist, there is none, or it is not clear which one is meant.
    """
    if named is not None:
        names = [named] if isinstance(named, str) else list(named)
        missing = [name for name in names if name not in features]
        if missing or not names or len(set(names)) < len(names):
            raise DataError(
                f"label_column names {missing[0] if missing else named!r}, which is no column of the data or named "
                f"twice: set it to one or several of {', '.join(features)}."
            )
        return label_columns(features, named)
    found = [name for other in LABEL_COLUMNS for name in features if name.lower() == other]
    stored = [name for name, feature in features.items() if _kind(feature) == CLASS]
    if wanted in (None, SINGLE_LABEL) and len(stored) == 1:
        return label_columns(features, stored[0])
    if wanted in (MULTI_LABEL, REGRESSION):
        fitting = [name for name in features if _fits(label_columns(features, name), wanted)]
        found = [name for name in found if name in fitting] or (fitting if len(fitting) == 1 else [])
        if not found:
            raise DataError(
                f"no column clearly holds what problem_type {wanted} needs, {NEEDS[wanted]}: set label_column to one "
                f"or several of {', '.join(features)}."
            )
    if not features:
        raise DataError(
            f"the images of split {split!r} have no labels: put the images of each class, at least two, in a folder "
            "of its own, set label_column, or take the split out of the data set."
        )
    if not found:
        raise DataError(f"no column clearly holds the labels: set label_column to one of {', '.join(features)}.")
    return label_columns(features, found[0])


def problem_of_columns(columns: LabelColumns, wanted: str | None) -> str:
    """What a model is asked of whose labels these columns hold, by transformers' name.

    Args:
        columns: the columns of the labels.
        wanted: problem type that the user gave, if one was given.

    Raises:
        DataError: if they do not hold what is wanted, or several things can be meant.
    """
    held = columns.holds
    if OTHER in held:
        raise DataError(
            f"{columns.content}, and no labels: set label_column to a column of text, whole numbers or numbers, or of "
            "lists of them."
        )
    if wanted is None:
        return _told_by(columns)
    if not _fits(columns, wanted):
        raise DataError(
            f"problem_type {wanted} needs {NEEDS[wanted]}, but {columns.content}: set "
            "label_column, or another problem_type."
        )
    return wanted


def _fits(columns: LabelColumns, wanted: str) -> bool:
    """Whether columns hold what a problem type needs."""
    held = columns.holds
    if wanted == SINGLE_LABEL:
        return not columns.several and not columns.is_list and held != {REAL}
    if columns.several and wanted == MULTI_LABEL:
        # tables write true and false as text
        return held <= {*NUMBERS, TEXT}
    if wanted == REGRESSION:
        return held <= NUMBERS
    return (columns.is_list and OTHER not in held) or held == {TEXT}


def _told_by(columns: LabelColumns) -> str:
    """The problem type where none was given."""
    held = columns.holds
    if columns.several and held <= {WHOLE, TRUTH, TEXT}:
        return MULTI_LABEL
    if columns.is_list and REAL not in held:
        return MULTI_LABEL
    if not columns.is_list and held == {REAL}:
        return REGRESSION
    if not columns.is_list and not columns.several:
        return SINGLE_LABEL
    raise DataError(
        f"{columns.content}, which may be several labels for each image or the numbers of a "
        f"regression: set problem_type to {MULTI_LABEL} or {REGRESSION}."
    )


def labels_of_text(text: str | None) -> list[Any]:
    """The labels in a text: `rose;tulip`, `rose|tulip`, or a list as JSON or Python write it; none of an empty one.

    Raises:
        ValueError: for what begins as a list and is none.
    """
    text = (text or "").strip()
    if not text.startswith("["):
        return [label.strip() for label in DELIMITER.split(text) if label.strip()]
    try:
        labels = json.loads(text)
    except json.JSONDecodeError:
        try:
            labels = ast.literal_eval(text)
        except (SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(f"{text!r} is no list") from error
    if not isinstance(labels, list) or not all(isinstance(label, str | int) for label in labels):
        raise ValueError(f"{text!r} is no list of labels")
    return [str(label) for label in labels]


def looks_like_a_list(text: str) -> bool:
    """Whether a text may be several labels rather than the name of a class."""
    return text.lstrip().startswith("[") or DELIMITER.search(text) is not None


def joined_labels(labels: Iterable[str]) -> list[str]:
    """The labels that are several others, joined by a sign or a space: `rose,tulip` beside `rose` and `tulip`."""
    known = set(labels)
    return sorted(label for label in known if any(_is_joined(label.split(joint), known) for joint in JOINTS))


def _is_joined(parts: list[str], known: set[str]) -> bool:
    return len(set(parts)) > 1 and all(part.strip() in known for part in parts)


def _element(feature: Any) -> Any:
    """What the lists of a feature hold, `None` if it holds no lists; also an older spelling, a list of one feature."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return None if isinstance(inner, dict) else inner


def _kind(feature: Any) -> str:
    if hasattr(feature, "str2int"):
        return CLASS
    dtype = str(getattr(feature, "dtype", ""))
    if dtype == "bool":
        return TRUTH
    if dtype.startswith(("int", "uint")):
        return WHOLE
    if dtype.startswith(("float", "double", "decimal")):
        return REAL
    return TEXT if dtype in ("string", "large_string", "string_view") else OTHER
