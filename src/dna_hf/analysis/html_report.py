"""The page of an analysis: one file with everything in it, which asks no network for anything."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment

from .drawing import printable


TEMPLATE = Path(__file__).with_name("report_template.html")
PAPER = "arXiv:2606.27372"


@dataclass(frozen=True)
class Illustration:
    """A figure in the page.

    Args:
        path: the PNG file.
        title: text above the figure.
        alt: what the figure shows, for those who do not see it.
        caption: how the figure was made.
    """

    path: Path
    title: str
    alt: str
    caption: str

    @property
    def data(self) -> str:
        """The file as an address that holds it."""
        return "data:image/png;base64," + b64encode(self.path.read_bytes()).decode()


class ReportedModel(NamedTuple):
    """A line of the table of models.

    Args:
        label: name of the model.
        variant: attention variant of the model.
        parameters: number of parameters of the model.
        samples: number of images, videos or questions that the model was analysed on.
        answers: whether the model answers anything: it was trained and has its classifier.
        accuracy: share of right answers, in [0, 1]; `None` if it answers nothing, or does not know the classes.
        seconds: how long the analysis of this model took.
        undefined: why the statistics of two branches are missing; `None` where they are not.
    """

    label: str
    variant: str
    parameters: int
    samples: int
    answers: bool
    accuracy: float | None
    seconds: float
    undefined: str | None


_UNSTATED = "of k, threshold and direction that it does not state"
# what the authors state of their own models, on their project page
REPORTED = (
    ("intruder dimensions of DnA, peak", "8 to 9", _UNSTATED),
    ("intruder dimensions of differential attention, peak", "6 to 7", _UNSTATED),
    ("trace similarity of V+ and V-", "mean 0.22, median 0.18", "7.2 million values"),
    ("cosine of the branch outputs, DnA", "0.32", ""),
    ("cosine of the branch outputs, differential attention", "0.96", ""),
)


def write_page(
    path: Path,
    *,
    models: Sequence[ReportedModel],
    statistics: Sequence[tuple[str, ...]],
    illustrations: Sequence[Illustration],
    pictures: Sequence[Illustration],
    files: Sequence[Path],
    facts: dict[str, Any],
    note: str = "",
) -> Path:
    """Write the page of an analysis.

    Args:
        path: file to write.
        models: the models that were analysed.
        statistics: name, axis, and mean (median) of each model.
        illustrations: figures of numbers.
        pictures: figures of what the models look at.
        files: tables beside the page, relative to it.
        facts: content of `settings.json`: how all was made.
        note: how the models answer, where that needs a word.
    """
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        models=models,
        statistics=statistics,
        illustrations=illustrations,
        pictures=pictures,
        files=[file.as_posix() for file in files],
        facts=facts,
        note=note,
        reported=REPORTED,
        paper=PAPER,
        has_axes=len({row[1] for row in statistics}) > 1,
        has_answers=any(model.answers for model in models),
        has_untrained=any(model.label.endswith(", untrained") for model in models),
    )
    path.write_text(printable(page), encoding="utf-8")
    return path
