"""Which folders of a data set are its splits, and which its classes; images and videos are told apart elsewhere."""

# paths are text here: there may be millions
# ruff: noqa: PTH119, PTH122

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .errors import DataError
from .files import EMPTY, LeftOut
from .splits import SPLIT_ALIASES


# what names of files and folders call a split, in any case
SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "validate", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# of folders, with what stands beside the word: Training, test_set, val2017, images_train, 01_train
_BESIDE = "images?|imgs?|pictures?|photos?|videos?|clips?|data|set|split|files?|folder"
_SPLIT_NAMES = {
    split: re.compile(
        rf"(?:\d+[-_. ]*)?(?:(?:{_BESIDE})[-_. ]?)?(?:{'|'.join(words)})(?:[-_. ]?(?:{_BESIDE}))?[-_. ]?\d*",
        re.IGNORECASE,
    )
    for split, words in SPLIT_WORDS.items()
}
_ALIASES = {name for names in SPLIT_ALIASES for name in names}
# train_labels.csv is the table of train, as are train_manifest.txt, train_CS.txt and trainlist01.txt
_TABLE_ENDING = re.compile(r"[-_. ]?(labels?|metadata|annotations?|list|manifest|cs)[-_. ]?\d*$", re.IGNORECASE)


@dataclass
class Node:
    """A folder as a data set sees it: its samples, images or videos, and the folders in it that hold any.

    Args:
        name: name of the folder.
        samples: paths of the samples in it.
        nodes: folders in it that hold samples.
        tables: paths of the tables in it.
        left_out: what is in it and no sample.
    """

    name: str
    samples: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def all_samples(self) -> Iterator[str]:
        """Paths of the samples in this folder and in those inside."""
        yield from self.samples
        for node in self.nodes:
            yield from node.all_samples()

    def all_left_out(self) -> Iterator[LeftOut]:
        """What is left out of this folder and of those inside."""
        yield from self.left_out
        for node in self.nodes:
            yield from node.all_left_out()

    def all_tables(self) -> Iterator[str]:
        """Paths of the tables in this folder and in those inside."""
        yield from self.tables
        for node in self.nodes:
            yield from node.all_tables()

    def take_in(self, path: str, inside: Node) -> None:
        """Add a folder that lies in it; of one without samples the tables, and what is left out.

        Args:
            path: path of the folder.
            inside: what is in that folder.
        """
        if next(inside.all_samples(), None) is not None:
            self.nodes.append(inside)
            return
        tables, left_out = list(inside.all_tables()), list(inside.all_left_out())
        if not tables and all(one.reason == EMPTY for one in left_out):
            left_out = [LeftOut(path, EMPTY)]
        self.tables += tables
        self.left_out += left_out

    @property
    def is_wrapper(self) -> bool:
        """Whether it holds nothing but one folder, which holds folders and no samples itself."""
        return not self.samples and len(self.nodes) == 1 and bool(self.nodes[0].nodes) and not self.nodes[0].samples

    def inner(self, name: str) -> Node:
        """The only folder in it, in its place and under another name."""
        only = self.nodes[0]
        return Node(name, only.samples, only.nodes, self.tables + only.tables, self.left_out + only.left_out)


def unwrapped(node: Node, notes: list[str]) -> Node:
    """The folder in which the data begins: of one that holds but one folder, which holds folders, that one."""
    while node.is_wrapper and not usual_split(node.nodes[0].name):
        name = node.nodes[0].name
        notes.append(f"folder {node.name!r} holds but one folder, {name!r}: the folders in that one count.")
        node = node.inner(name)
    return node


def usual_split(name: str) -> str | None:
    """The split that a folder of this name usually is."""
    return next((split for split, names in _SPLIT_NAMES.items() if names.fullmatch(name)), None)


def split_of_table(name: str) -> str | None:
    """The split that a table of this name usually is of."""
    return usual_split(_TABLE_ENDING.sub("", os.path.splitext(name)[0]))


def split_name(name: str, asked: set[str]) -> str:
    """The name of a split that a folder or a table calls by any name: a usual one, or its own if the user named it."""
    usual = usual_split(name)
    if usual is None or (name in asked and name.lower() not in _ALIASES):
        return name
    return usual


def split_folders(root: Node, asked: set[str], notes: list[str]) -> dict[str, Node] | None:
    """The folders of splits, by the name of the split; `None` if there are none.

    Raises:
        DataError: if a folder beside them is neither a split nor a class, or there are two to train on.
    """
    named = [node for node in root.nodes if node.name in asked and not usual_split(node.name)]
    usual = [node for node in root.nodes if usual_split(node.name)]
    others = [node.name for node in root.nodes if node not in named and node not in usual]
    if not named and others and not any(node.nodes for node in usual):
        notes += [
            f"folder {node.name!r} is taken for a class, not for a split: it lies beside classes and holds none."
            for node in usual
        ]
        return None
    if not named and not usual:
        return None
    if others:
        more = f" (and {', '.join(map(repr, others[1:6]))})" if others[1:] else ""
        raise DataError(
            f"folder {others[0]!r}{more} lies beside {(named + usual)[0].name!r}, a split: if it is one, too, set "
            "eval_split to its name; otherwise move it out of the data set."
        )
    counts = Counter(usual_split(node.name) for node in usual)
    if counts["train"] > 1:
        names = [node.name for node in usual if usual_split(node.name) == "train"]
        raise DataError(f"folders {names[0]!r} and {names[1]!r} are both to train on: join them, or rename one.")
    return {
        # of two folders for one split each keeps its name
        node.name if counts[usual_split(node.name)] > 1 else split_name(node.name, asked): node
        for node in root.nodes
    }


def refuse_splits_in_classes(root: Node) -> None:
    """Refuse `class/split/sample`: it would be trained on what is to be tested on."""
    for node in root.nodes:
        inside = {inner.name: usual_split(inner.name) for inner in node.nodes}
        if "train" in inside.values() and len(set(inside.values()) - {None}) > 1:
            raise DataError(
                f"class folder {node.name!r} holds folders of splits ({', '.join(inside)}): put the splits above the "
                f"classes, as in {next(iter(inside))}/{node.name}."
            )


def refuse_unknown_splits(root: Node) -> None:
    """Refuse two or three folders that hold the same class folders: they are splits, whatever they are called.

    Folders whose names have digits, such as those of years, are no classes.
    """
    if len(root.nodes) not in (2, 3):
        return
    first, second, *_ = root.nodes
    inside = [inner.name for inner in first.nodes]
    if any({inner.name for inner in node.nodes} != set(inside) or node.samples for node in root.nodes):
        return
    if len(inside) > 1 and not any(re.search(r"\d", name) for name in inside):
        raise DataError(
            f"folders {first.name!r} and {second.name!r} hold the same folders ({', '.join(inside[:5])}), as splits "
            "hold classes: set train_split and eval_split to the names of splits; if they are classes, take the "
            "folders inside them away."
        )


def without_wrappers(splits: dict[str, Node], notes: list[str]) -> dict[str, Node]:
    """Step over a folder that is the only one in every split and holds the class folders."""
    while all(node.is_wrapper for node in splits.values()):
        notes.append(f"class folders are one level deeper, in {next(iter(splits.values())).nodes[0].name!r}.")
        splits = {name: node.inner(node.name) for name, node in splits.items()}
    return splits
