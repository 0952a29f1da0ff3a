"""What the parts of the GPU session share: their command line, their deadline, their rows on disk and their end.

A part is a file of this folder, which `session.py` runs by path. It writes each result the moment it is there, so that
it may be killed at any time, and goes on from its rows and checkpoints when it is called again.
"""

import argparse
import csv
import io
import json
import signal
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import psutil
from states import CUT, DONE, STATUS, TABLE, write


SCALES = ("full", "tiny")


@dataclass
class Part:
    """A part that runs.

    Args:
        out: folder of its results.
        scale: `"full"`, or `"tiny"` for two cores.
        data: folder of CIFAR-10 in parquet files, if one was given.
        weights: folder of DINOv2-small, if one was given.
        checkpoints: folder of what a later call goes on from; it exists.
        ends: when the part should have finished, in seconds since the epoch.
    """

    out: Path
    scale: str
    data: Path | None
    weights: Path | None
    checkpoints: Path
    ends: float

    @classmethod
    def from_command_line(cls, words: list[str] | None = None) -> "Part":
        """The part that the session asked for; its time runs from the start of the process."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--out", type=Path, required=True)
        parser.add_argument("--seconds", type=float, required=True)
        parser.add_argument("--scale", choices=SCALES, default="full")
        for folder in ("data", "weights", "checkpoints"):
            parser.add_argument(f"--{folder}", type=Path)
        given = parser.parse_args(words)
        out = given.out.absolute()
        checkpoints = given.checkpoints or out / "checkpoints"
        for folder in (out, checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        # as an exception, so that worker processes end with the part
        signal.signal(signal.SIGTERM, _leave)
        ends = psutil.Process().create_time() + given.seconds
        return cls(out, given.scale, given.data, given.weights, checkpoints, ends)

    @cached_property
    def device(self) -> Any:
        """The CUDA device if there is one, else the CPU."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def tiny(self) -> bool:
        """Whether everything is to be small enough for two cores."""
        return self.scale == "tiny"

    def seconds_left(self) -> float:
        """Seconds until the part should have finished; negative when it is late."""
        return self.ends - time.time()

    def rows(self, name: str, key: tuple[str, ...]) -> "Rows":
        """A CSV file among the results, with the rows of earlier calls.

        Args:
            name: name of the file.
            key: columns whose values tell the rows apart.
        """
        return Rows(self.out / name, key)

    def finish(self, state: str = DONE, table: str = "", note: str = "") -> None:
        """Say how far the part is. May be called again: the last call counts.

        Call it with `"cut"` as results come in, so that a part that is killed leaves its table.

        Args:
            state: `"done"`: the part will not run again; `"cut"`: the next call goes on.
            table: the results in Markdown.
            note: what was cut off by time, or what a reader of the table must know.
        """
        if state not in (DONE, CUT):
            raise ValueError(f"a part ends done or cut, not {state!r}")
        write(self.out / TABLE, table.strip() + "\n" if table.strip() else "")
        write(self.out / STATUS, json.dumps({"state": state, "note": note}) + "\n")


class Rows:
    """The rows of a CSV file that grows: each is on disk when `add` returns.

    Args:
        path: the file; it need not exist.
        key: columns whose values tell the rows apart.
    """

    def __init__(self, path: Path, key: tuple[str, ...]):
        self.path, self.key = path, key
        self.all: list[dict[str, str]] = []
        if path.exists():
            self._drop_half_a_row()
            with path.open(newline="") as file:
                self.all = list(csv.DictReader(file))
        self._seen = {tuple(row[name] for name in key) for row in self.all}

    def _drop_half_a_row(self) -> None:
        """A process that was killed while it wrote leaves a line without its end."""
        written = self.path.read_bytes()
        whole = written[: written.rfind(b"\n") + 1]
        if whole != written:
            self.path.write_bytes(whole)

    def has(self, *key: Any) -> bool:
        """Whether there is a row with these values in the columns of the key."""
        return tuple(map(str, key)) in self._seen

    def add(self, row: dict[str, Any]) -> None:
        """Write a row.

        Args:
            row: value of each column: text without line breaks, numbers, booleans. All rows have the same columns.
        """
        texts = {name: " ".join(str(value).splitlines()) for name, value in row.items()}
        if self.all and texts.keys() != self.all[0].keys():
            raise ValueError(f"{self.path} has the columns {', '.join(self.all[0])}, not {', '.join(texts)}")
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.all[0] if self.all else texts), lineterminator="\n")
        if not self.path.exists() or not self.path.stat().st_size:
            writer.writeheader()
        writer.writerow(texts)
        with self.path.open("a", newline="") as file:
            file.write(text.getvalue())
        self.all.append(texts)
        self._seen.add(tuple(texts[name] for name in self.key))


def markdown(columns: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown; floats with four significant digits."""
    lines = [columns, ["---"] * len(columns)]
    lines += [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _leave(number: int, frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)
