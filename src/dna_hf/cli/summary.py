"""What is printed about data before anything is done with it."""

from typing import TYPE_CHECKING

from .table import table


if TYPE_CHECKING:
    from ..data.file_summary import FileSummary
    from ..data.summary import DataSummary, Facts


def print_summary(summary: "DataSummary | FileSummary", facts: "Facts" = ()) -> None:
    """Print what a data set holds, and which model does what with it.

    Args:
        summary: what the data set holds.
        facts: name and value of each fact about the model and the run, as text.
    """
    print(table(("data", summary.dataset), summary.rows()))
    header, rows = summary.class_rows()
    if rows:
        print("\n" + table(header, rows))
    sentences = summary.findings()
    if sentences:
        print("\nlook at:\n" + "\n".join(f"- {sentence}" for sentence in sentences))
    if facts:
        print("\n" + table(("run", ""), facts))
    print(flush=True)
