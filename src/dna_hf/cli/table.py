"""What the verbs print and write: tables, and figures as JSON."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


NO_FIGURE = "no figure was drawn: matplotlib is not installed (pip install 'dna-hf[figures]')"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of text under a header; columns but the first are aligned to the right if they are numbers."""
    rows = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    numeric = [all(not row[i] or row[i][0].isdigit() for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures to a file, and make its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
