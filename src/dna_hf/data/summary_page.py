"""The page of a data set: one file with everything in it, which asks no network for anything."""

import io
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment
from PIL import Image

from ..whole_files import whole_file
from .contact_sheets import Sheet
from .file_summary import FileSummary
from .summary import DataSummary


TEMPLATE = Path(__file__).with_name("summary_template.html")
# of what is left out, how much is listed
LISTED = 100


def write_page(path: Path, summary: DataSummary | FileSummary, sheets: Sequence[Sheet] = ()) -> None:
    """Write the page of a data set.

    Args:
        path: HTML file to write.
        summary: what the data set holds.
        sheets: contact sheets of its classes, which the page carries.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    header, rows = summary.all_classes()
    left_out = summary.left_out_lines()
    heading = "Pictures" if len(sheets) >= len(rows) else f"Pictures of {len(sheets)} of {len(rows):,} classes"
    page = template.render(
        dataset=Path(summary.dataset).name or summary.dataset,
        rows=summary.rows(),
        sentences=summary.findings(),
        header=header,
        classes=rows,
        heading=heading,
        sheets=[(sheet, _embedded(sheet), _caption(sheet)) for sheet in sheets],
        left_out=left_out[:LISTED],
        more=max(0, len(left_out) - LISTED),
    )
    # a file name may have bytes that are no text
    with whole_file(path) as unfinished:
        unfinished.write_bytes(page.encode("utf-8", "backslashreplace"))


def _embedded(sheet: Sheet) -> str:
    """A sheet as an address that holds it, as JPEG: a page of many classes would be large otherwise."""
    buffer = io.BytesIO()
    with Image.open(sheet.path) as image:
        image.convert("RGB").save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode()


def _caption(sheet: Sheet) -> str:
    return ", then ".join(f"{count} of {split}" for split, count in sheet.rows.items())
