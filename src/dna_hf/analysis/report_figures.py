"""Figures of numbers: distributions, scales and how a run went; with matplotlib (`pip install 'dna-hf[figures]'`)."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedModel

from ..errors import told_as
from .accumulate import RunningDistribution
from .errors import AnalysisError
from .figures import diverging_map, new_figure
from .observer import attention_places
from .subspace_report import SubspaceReport


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# statistic -> how an axis calls it
LABELS = {
    "negative_intruders": "intruder dimensions of the negative branch",
    "positive_intruders": "intruder dimensions of the positive branch",
    "value_similarity": "trace similarity of V+ and V-",
    "output_cosine": "cosine of the branch outputs, by token",
    "output_similarity": "cosine of the branch outputs, by head",
    "smallest_angle": "smallest principal angle (rad)",
    "mean_angle": "mean principal angle (rad)",
    "largest_angle": "largest principal angle (rad)",
    "positive_entropy": "entropy of the positive map",
    "negative_entropy": "entropy of the negative map",
    "positive_mass": "mass of the positive map",
    "negative_mass": "mass of the negative map",
}
# what a figure shows unless others are named; the mass of a map tells something of cog attention alone
MAIN = (
    *("negative_intruders", "positive_intruders", "value_similarity", "output_cosine", "output_similarity"),
    *("mean_angle", "largest_angle", "positive_entropy", "negative_entropy"),
)
MAX_BARS = 60
# that of the Okabe-Ito palette, made for colour-blind readers
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")


def histogram_figure(
    reports: Mapping[str, SubspaceReport], statistics: Sequence[str] | None = None, axis: str = "space"
) -> "Figure":
    """The distributions of statistics over all layers, heads and sequences, one panel each, one line per model.

    Args:
        reports: name of the model -> its report.
        statistics: names as in [`~dna_hf.analysis.subspace_report.LayerSubspaces`]; those of `MAIN` by default.
        axis: axis of the attention: `space`, `time` or `space_time`.

    Raises:
        AnalysisError: without matplotlib, or for a statistic or an axis that no report has.
    """
    pooled = {name: report.overall().get(axis, {}) for name, report in reports.items()}
    there = [name for name in LABELS if any(name in own for own in pooled.values())]
    if not there:
        raise AnalysisError(f"no model attends over {axis!r}.")
    for name in statistics or ():
        if name not in there:
            raise AnalysisError(f"there is no statistic {name!r}: choose among {', '.join(there)}.")
    chosen = list(statistics or (name for name in MAIN if name in there))
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(3.4 * columns, 2.3 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(chosen) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, chosen, strict=False):
        for number, own in enumerate(pooled.values()):
            if name in own:
                _draw_distribution(axes, own[name], LINES[number % len(LINES)])
        axes.set_xlabel(LABELS[name], fontsize=8)
        axes.set_ylabel("share of values", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=5)
        axes.spines[["top", "right"]].set_visible(False)
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=LINES[number % len(LINES)], label=name) for number, name in enumerate(pooled)]
    handles.append(Line2D([], [], color="0.4", ls=":", label="mean"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return figure


def _draw_distribution(axes: Any, values: RunningDistribution, colour: str) -> None:
    """A histogram of the values, with their mean."""
    counts = values.histogram.sum(dim=0).numpy()
    edges = np.array(values.edges)
    # the bins of a report are far finer than a picture
    together = -(-len(counts) // MAX_BARS)
    bins = np.add.reduceat(counts, np.arange(0, len(counts), together)) / max(counts.sum(), 1)
    ends = np.append(edges[:-1:together], edges[-1])
    axes.stairs(bins, ends, color=colour, lw=1.3)
    axes.stairs(bins, ends, color=colour, fill=True, alpha=0.15)
    (mean,) = values.mean()
    if mean is not None:
        axes.axvline(mean, color=colour, ls=":", lw=1.2)


def negative_scales(model: PreTrainedModel, axis: str | None = None) -> np.ndarray:
    """The factor of the negative branch, (layers, heads): alpha, or minus lambda of differential attention.

    Raises:
        AnalysisError: for a variant without one, or without attention over the axis.
    """
    scales = [module.branch_scale() for module in attention_places(model, axis=axis)]
    if any(scale is None for scale in scales):
        raise AnalysisError(f"{model.config.attention_variant} attention has no scale of a negative branch.")
    return np.stack([scale.float().cpu().numpy() for scale in scales if scale is not None])


def scale_figure(scales: Mapping[str, np.ndarray], label: str = "alpha", colours: str = "red-blue") -> "Figure":
    """Heat maps layer x head of the factor of the negative branch, with one scale for all models.

    Args:
        scales: name of the model -> (layers, heads), see [`negative_scales`].
        label: text at the colour bar.
        colours: name of a pair of colours, `red-blue` or `orange-purple`.

    Raises:
        AnalysisError: without matplotlib, or without a model.
    """
    if not scales:
        raise AnalysisError("there is no scale to draw.")
    from_to = max(float(np.abs(values).max()) for values in scales.values()) or 1.0
    most_heads = max(values.shape[1] for values in scales.values())
    most_layers = max(values.shape[0] for values in scales.values())
    cell = 0.42
    figure = new_figure(len(scales) * (cell * most_heads + 0.8) + 0.8, cell * most_layers + 1.0)
    grid = figure.subplots(1, len(scales), squeeze=False)[0]
    for axes, (name, values) in zip(grid, scales.items(), strict=True):
        shown = axes.imshow(values, cmap=diverging_map(colours), vmin=-from_to, vmax=from_to, aspect="auto")
        axes.set_xlabel("head", fontsize=8)
        axes.set_ylabel("layer", fontsize=8)
        axes.set_xticks(range(values.shape[1]))
        axes.set_yticks(range(values.shape[0]))
        axes.tick_params(labelsize=7)
        axes.set_title(name, fontsize=9)
        for (layer, head), value in np.ndenumerate(values):
            dark = abs(value) > 0.6 * from_to
            axes.text(head, layer, f"{value:.2f}", ha="center", va="center", fontsize=6, color="w" if dark else "k")
    bar = figure.colorbar(shown, ax=list(grid), fraction=0.04, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def sensitivity_figure(
    reports: Mapping[str, SubspaceReport], axis: str = "space", branch: str = "negative"
) -> "Figure":
    """Mean intruder dimensions by how many directions are looked at and by the threshold, one panel per model.

    Args:
        reports: name of the model -> its report; models with one branch are left out.
        axis: axis of the attention: `space`, `time` or `space_time`.
        branch: branch whose directions are counted, `negative` or `positive`.

    Raises:
        AnalysisError: without matplotlib, or if no model has two branches over this axis.
    """
    found: dict[str, np.ndarray] = {}
    for name, report in reports.items():
        layers = [layer.sensitivity()[branch] for layer in report.layers if layer.place.axis == axis and layer.scale]
        if layers:
            # over layers and heads
            found[name] = np.array(layers).mean(axis=(0, 1))
    if not found:
        raise AnalysisError(f"no model has two branches that attend over {axis!r}.")
    settings = next(iter(reports.values())).settings
    figure = new_figure(3.3 * len(found) + 0.9, 0.27 * settings.k + 1.2)
    grid = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (name, values) in zip(grid, found.items(), strict=True):
        shown = axes.imshow(values, cmap="viridis", vmin=0, vmax=settings.k, aspect="auto", origin="lower")
        axes.set_xticks(range(len(settings.epsilons)), [f"{epsilon:g}" for epsilon in settings.epsilons])
        axes.set_yticks(range(settings.k), [str(k + 1) for k in range(settings.k)])
        axes.set_xlabel("epsilon: largest cosine of an intruder", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_title(name, fontsize=9)
        for (k, epsilon), value in np.ndenumerate(values):
            bright = value > 0.6 * settings.k
            axes.text(epsilon, k, f"{value:.1f}", ha="center", va="center", fontsize=6, color="k" if bright else "w")
    grid[0].set_ylabel("k: directions looked at", fontsize=8)
    bar = figure.colorbar(shown, ax=list(grid), fraction=0.04, pad=0.02)
    bar.set_label(f"mean intruders of the {branch} branch", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


@dataclass
class RunCurve:
    """How alpha and the accuracy of a run went together.

    Args:
        epochs: epochs at which the run was evaluated.
        accuracy: top-1 after each of the epochs, in [0, 1].
        alpha: alpha after each of the epochs, (epochs, layers, heads); `None` for a variant without alpha.
    """

    epochs: np.ndarray
    accuracy: np.ndarray
    alpha: np.ndarray | None


def read_run(folder: str | Path, metric: str = "eval_top1") -> RunCurve:
    """Read the log of a run that `dna-hf train` made.

    Args:
        folder: the output folder, with `trainer_state.json` and, for a variant with alpha, `negative_scale.csv`.
        metric: name of the accuracy in the log.

    Raises:
        AnalysisError: if there is no log, or nothing in it.
    """
    state, scales = Path(folder, "trainer_state.json"), Path(folder, "negative_scale.csv")
    with told_as(AnalysisError, f"cannot read the log of a run from {str(state)!r}"):
        history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    by_epoch = {round(float(entry["epoch"]), 4): entry[metric] for entry in history if metric in entry}
    if not by_epoch:
        raise AnalysisError(f"the log {str(state)!r} has no {metric}: evaluate while training.")
    if not scales.exists():
        return RunCurve(np.array(list(by_epoch)), np.array(list(by_epoch.values())), None)
    with scales.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    layers, heads = (1 + max(int(row[name]) for row in rows) for name in ("layer", "head"))
    alpha: dict[float, np.ndarray] = {}
    for row in rows:
        own = alpha.setdefault(round(float(row["epoch"]), 4), np.full((layers, heads), np.nan))
        own[int(row["layer"]), int(row["head"])] = float(row["value"])
    both = [epoch for epoch in by_epoch if epoch in alpha]
    if not both:
        raise AnalysisError(f"{str(folder)!r} has no epoch with both an evaluation and alpha.")
    return RunCurve(np.array(both), np.array([by_epoch[e] for e in both]), np.stack([alpha[e] for e in both]))


def accuracy_figure(runs: Mapping[str, RunCurve]) -> "Figure":
    """Accuracy over the epochs, alpha over the epochs, and the one against the other.

    Args:
        runs: name -> see [`read_run`]; runs without alpha are in the first panel alone.

    Raises:
        AnalysisError: without matplotlib.
    """
    figure = new_figure(10, 3.1)
    left, middle, right = figure.subplots(1, 3)
    for number, (name, run) in enumerate(runs.items()):
        colour = LINES[number % len(LINES)]
        left.plot(run.epochs, 100 * run.accuracy, color=colour, marker="o", ms=3, lw=1.2, label=name)
        if run.alpha is None:
            continue
        flat = run.alpha.reshape(len(run.epochs), -1)
        middle.plot(run.epochs, flat.mean(axis=1), color=colour, marker="o", ms=3, lw=1.2)
        middle.fill_between(run.epochs, flat.min(axis=1), flat.max(axis=1), color=colour, alpha=0.15, lw=0)
        right.plot(flat.mean(axis=1), 100 * run.accuracy, color=colour, marker="o", ms=3, lw=0.8)
        last = (flat.mean(axis=1)[-1], 100 * run.accuracy[-1])
        right.annotate("end", last, xytext=(4, 2), textcoords="offset points", fontsize=7, color=colour)
    for axes, (x, y) in zip(
        (left, middle, right),
        (
            ("epoch", "top-1 accuracy (%)"),
            ("epoch", "alpha: mean, least to largest"),
            ("mean alpha", "top-1 accuracy (%)"),
        ),
        strict=True,
    ):
        axes.set_xlabel(x, fontsize=8)
        axes.set_ylabel(y, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=5)
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure
