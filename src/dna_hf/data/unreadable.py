"""Samples that cannot be read: they end the run, or are left out, listed in a file and counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .arguments import CommonDataArguments
from .errors import DataError
from .splits import Split


# label of a sample that could not be read; torch's losses pass over it
UNREADABLE = -100
# in the output folder, gets a line for every sample that could not be read
BAD_LIST = "unreadable.jsonl"
Sample = TypeVar("Sample")


class Unreadable:
    """What becomes of the samples of one split that cannot be read.

    Args:
        arguments: fields of the `data` section, of which `on_error` and `max_bad_fraction` count.
        split: the split.
        name: `name(row)`: what a sample is called in the list.
        path: file with the list. The workers and processes of a run share it, and so agree on the count; without one
            the samples are counted in memory, by each for itself.
    """

    def __init__(
        self, arguments: CommonDataArguments, split: Split, name: Callable[[int], str], path: Path | None = None
    ) -> None:
        self.skips = arguments.on_error == "skip"
        self.largest = arguments.max_bad_fraction
        self.split = split
        self.name = name
        self.path = path
        # row -> entry of what is known of this split, and how far the file is read
        self._found: dict[int, dict[str, Any]] = {}
        self._offset = 0

    def add(self, row: int, error: DataError) -> None:
        """Leave out a sample.

        Args:
            row: number of the sample in the split.
            error: why it cannot be read.

        Raises:
            DataError: the error itself, unless samples are left out; with how many there are and the first of them,
                if these are too many.
        """
        if not self.skips:
            raise error
        self._read_on()
        if row not in self._found:
            unit = self.split.unit.removesuffix("s")
            self._write({unit: self.name(row), "split": self.split.name, "row": row, "error": str(error)})
        if len(self._found) > self.largest * len(self.split):
            first = next(iter(self._found.values()))["error"]
            raise DataError(
                f"{len(self._found)} of {len(self.split)} {self.split.unit} of split {self.split.name!r} cannot be "
                f"read, more than max_bad_fraction ({self.largest:g}) of them; the first: {first}"
            )

    def names(self) -> list[str]:
        """What is left out, in order, as far as this process knows."""
        return [entry[self.split.unit.removesuffix("s")] for entry in self._found.values()]

    def _write(self, entry: dict[str, Any]) -> None:
        """Add an entry. Workers and processes share the file: a line is one write."""
        if self.path is None:
            self._found[entry["row"]] = entry
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._read_on()

    def _read_on(self) -> None:
        """Read what came to the file since, whoever wrote it."""
        if self.path is None or not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole, end, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(end)
        for entry in map(json.loads, whole.splitlines()):
            if entry["split"] == self.split.name:
                self._found.setdefault(entry["row"], entry)

    def stand_in(self, row: int, read: Callable[[int], Sample]) -> Sample:
        """What the next sample is that can be read.

        Args:
            row: number of the sample that cannot be read.
            read: `read(row)`: a sample, or a `DataError`.

        Raises:
            DataError: if none can be read, or too many cannot.
        """
        for step in range(1, len(self.split)):
            other = (row + step) % len(self.split)
            try:
                return read(other)
            except DataError as error:
                self.add(other, error)
        raise DataError(f"no {self.split.unit.removesuffix('s')} of split {self.split.name!r} can be read.")


def count_unreadable(path: Path) -> dict[str, int]:
    """How many samples of each split a list holds, by the name of the split."""
    rows = {(entry["split"], entry["row"]) for entry in _entries(path)}
    splits = [split for split, _ in sorted(rows)]
    return {split: splits.count(split) for split in splits}


def read_bad_list(path: Path) -> dict[str, str]:
    """Samples that could not be read, by name, and why."""
    return {entry.get("video") or entry["image"]: entry["error"] for entry in _entries(path)}


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
