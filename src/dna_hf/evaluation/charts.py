"""What a run draws of itself: its curves, and which classes were taken for which; with matplotlib, where it is there.

The functions that draw raise `ImportError` without matplotlib (`pip install 'dna-hf[figures]'`).
"""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils import logging

from ..records.metrics import METRICS
from ..whole_files import whole_file


if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_MATPLOTLIB = "no figure was drawn: matplotlib is not installed (pip install 'dna-hf[figures]')"
# that of the Okabe-Ito palette, made for colour-blind readers
BLUE, ORANGE = "#0072B2", "#D55E00"
# classes that a confusion matrix is drawn of at most; numbers are written into the cells of fewer
DRAWN_CLASSES, NUMBERED_CLASSES = 30, 16
# values up to which each of them gets a mark
MARKED_POINTS = 40
RESOLUTION = 150
logger = logging.get_logger(__name__)


def write_confusion(path: Path, names: Sequence[str], confusion: Sequence[Sequence[int]]) -> None:
    """Write a table with a row for every true class, and a column for every class it was taken for.

    Args:
        path: CSV file to write.
        names: name of each class.
        confusion: samples of each class (row) that were taken for each class (column).
    """
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["true class", *names])
        writer.writerows([name, *counts] for name, counts in zip(names, confusion, strict=True))


def draw_confusion(path: Path, names: Sequence[str], confusion: Sequence[Sequence[int]], title: str) -> None:
    """Draw the shares of each class (row) that were taken for each class (column).

    Of more than 30 classes, those are drawn that samples were most often wrongly taken for or from.

    Args:
        path: PNG file to write.
        names: name of each class.
        confusion: samples of each class (row) that were taken for each class (column).
        title: what was measured, to stand above.

    Raises:
        ImportError: without matplotlib.
    """
    from matplotlib.colors import PowerNorm

    counts = np.array(confusion)
    if len(counts) > DRAWN_CLASSES:
        wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
        shown = np.sort(np.argsort(-wrong, kind="stable")[:DRAWN_CLASSES])
        title += f"; the {DRAWN_CLASSES} of {len(counts):,} classes with the most mistakes"
    else:
        shown = np.arange(len(counts))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares, counts = shares[np.ix_(shown, shown)], counts[np.ix_(shown, shown)]
    labels = [_short(names[number]) for number in shown]
    side = 1.6 + (0.42 if len(shown) <= NUMBERED_CLASSES else 0.24) * len(shown)
    figure = _figure(side + 0.9 + 0.05 * max(map(len, labels)), side + 0.05 * max(map(len, labels)))
    axes = figure.add_subplot()
    # a mistake in a hundred can be seen
    image = axes.imshow(100 * shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    axes.set_xticks(range(len(shown)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(shown)), labels, fontsize=7)
    axes.set_xlabel("taken for", fontsize=8)
    axes.set_ylabel("true class", fontsize=8)
    axes.set_title(title, fontsize=9, wrap=True)
    if len(shown) <= NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "w" if shares[row, column] > 0.3 else "k"
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize=6, color=colour)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
    bar.set_label("share of the true class (%)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _save(figure, path)


def draw_curves(path: Path, history: Sequence[dict[str, Any]], figure_name: str, title: str) -> None:
    """Draw how a run went over its steps: losses, a figure of its evaluations, learning rate, and alpha if it has one.

    Args:
        path: PNG file to write.
        history: what the Trainer logged (`state.log_history`).
        figure_name: name of the figure of the evaluations, without `eval_`.
        title: name of the run, drawn above the curves.

    Raises:
        ImportError: without matplotlib.
    """
    figure = _figure(7.2, 4.8)
    figure.suptitle(title, fontsize=10)
    (loss, measured), (rate, alpha) = figure.subplots(2, 2)
    _line(loss, history, "loss", BLUE, "training")
    _line(loss, history, "eval_loss", ORANGE, "evaluation")
    loss.legend(frameon=False, fontsize=7)
    metric = METRICS[figure_name]
    factor, name = (100, f"{metric.title} (%)") if metric.is_part else (1, metric.title)
    _line(measured, history, f"eval_{figure_name}", ORANGE, "", factor)
    _line(rate, history, "learning_rate", BLUE)
    scale = "negative_scale/mean"
    if any(scale in entry for entry in history):
        _line(alpha, history, scale, BLUE)
        ends = [_points(history, f"negative_scale/{end}") for end in ("min", "max")]
        alpha.fill_between(ends[0][0], ends[0][1], ends[1][1], color=BLUE, alpha=0.15, lw=0)
    else:
        alpha.set_visible(False)
    names = ("loss", name, "learning rate", "alpha: mean, least to largest")
    for axes, label in zip((loss, measured, rate, alpha), names, strict=True):
        axes.set_xlabel("step", fontsize=8)
        axes.set_ylabel(label, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=6)
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _line(
    axes: Any, history: Sequence[dict[str, Any]], key: str, colour: str, label: str = "", factor: int = 1
) -> None:
    steps, values = _points(history, key)
    # one value is no line
    marker = "o" if len(steps) <= MARKED_POINTS else ""
    axes.plot(steps, factor * values, color=colour, lw=1.2, ms=3, marker=marker, label=label or key)


def _points(history: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of what was logged; of a step that was logged twice, the later value counts."""
    found = {entry["step"]: float(entry[key]) for entry in history if key in entry}
    return np.array(list(found), dtype=int), np.array(list(found.values()), dtype=float)


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    from matplotlib import rc_context

    # what stands between dollars in a class name is no formula
    with (
        rc_context({"text.parse_math": False}),
        whole_file(path) as unfinished,
        warnings.catch_warnings(record=True) as raised,
    ):
        warnings.simplefilter("always")
        figure.savefig(unfinished, dpi=RESOLUTION, format="png")
    # a warning for each letter would bury what else is said
    others = [each for each in raised if "missing from font" not in str(each.message)]
    for each in others:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if len(others) < len(raised):
        logger.warning(
            f"{path.name} has boxes for letters that the fonts of matplotlib lack; names are in the tables."
        )
