"""What the verbs print and write: tables, and figures as JSON."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..whole_files import whole_file


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of text under a header; columns but the first are aligned to the right if they are numbers."""
    rows = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    numeric = [all(not row[i] or row[i].lstrip("-")[:1].isdigit() for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def write_text(path: Path, text: str) -> None:
    """Write a text to a file, and make its folder where there is none."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures to a file, and make its folder where there is none."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def drawn(draw: Callable[[Any, Path], Any], figures: Any, path: Path) -> list[Path]:
    """Draw a figure where matplotlib is installed; returns what was written, and says so where nothing was."""
    try:
        draw(figures, path)
    except ImportError:
        print("no figure was drawn: matplotlib is not installed (pip install 'dna-hf[figures]')", file=sys.stderr)
        return []
    return [path]
