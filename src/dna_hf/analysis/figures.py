"""Figures of heat maps beside and over pictures. They need matplotlib (`pip install 'dna-hf[figures]'`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .drawing import colour_pair, overlay, printable, shared_scale
from .errors import AnalysisError


if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_MATPLOTLIB = "figures need matplotlib, which is not installed: pip install 'dna-hf[figures]'."
# inches
PANEL, GAP = 1.75, 0.06
# height of a panel from which on every colour bar says its unit
LABELLED = 1.2


@dataclass
class Panel:
    """One picture with a map over it.

    Args:
        title: text above the panel.
        values: (rows, columns) of any sign.
        picture: (height, width, 3) in bytes, to lie beneath; the picture of the row by default.
    """

    title: str
    values: np.ndarray
    picture: np.ndarray | None = None


@dataclass
class FigureRow:
    """Panels with one scale.

    Args:
        label: text at the left of the row.
        picture: (height, width, 3) in bytes: what the model saw.
        panels: maps over the picture.
        show_picture: whether the picture itself comes first.
        title: text above the picture.
    """

    label: str
    picture: np.ndarray
    panels: list[Panel] = field(default_factory=list)
    show_picture: bool = True
    title: str = "image"


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches.

    Raises:
        AnalysisError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AnalysisError(NO_MATPLOTLIB) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05, wspace=0.01, hspace=0.01)  # type: ignore[union-attr, call-arg]
    return figure


def diverging_map(colours: str, opacity: float = 1.0) -> Any:
    """The colours over white as a colour map of matplotlib, from negative over nothing to positive."""
    from matplotlib.colors import LinearSegmentedColormap

    positive, negative = (1 - opacity * (1 - colour) for colour in colour_pair(colours))
    return LinearSegmentedColormap.from_list(colours, np.stack((negative, np.ones(3), positive)))


def map_figure(
    rows: Sequence[FigureRow],
    title: str = "",
    *,
    colours: str = "red-blue",
    opacity: float = 0.85,
    unit: str = "",
    legend: tuple[str, str] = ("positive branch", "negative branch"),
    panel_size: float = PANEL,
) -> "Figure":
    """Pictures and maps in rows; the panels of a row share one scale, symmetric about 0.

    Args:
        rows: rows of pictures and panels, each with as many panels.
        title: title of the whole figure: the model, its prediction and the settings.
        colours: name of a pair of colours, `red-blue` or `orange-purple`.
        opacity: opacity of the strongest colour, in [0, 1].
        unit: unit of the values, at the colour bar.
        legend: what the positive and the negative colour mean; an empty text leaves its colour out.
        panel_size: width of a panel in inches.

    Raises:
        AnalysisError: without matplotlib, without rows, or for unknown colours.
    """
    if not rows or not rows[0].panels:
        raise AnalysisError("there is nothing to draw.")
    columns = max(len(row.panels) + row.show_picture for row in rows)
    size = panel_size * rows[0].picture.shape[0] / rows[0].picture.shape[1]
    titles = [[panel.title for panel in row.panels] for row in rows]
    # titles that repeat those of the row above are left out
    titled = [number == 0 or titles[number] != titles[number - 1] for number in range(len(rows))]
    lines = title.count("\n") + 1 if title else 0
    title_lines = [max(text.count("\n") + 1 for text in texts) for texts in titles]
    above = sum(count for count, shown in zip(title_lines, titled, strict=True) if shown)
    height = len(rows) * (size + 2 * GAP) + 0.17 * (above + lines) + 0.5
    figure = new_figure(0.9 + columns * (panel_size + GAP), height)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for number, (row, line) in enumerate(zip(rows, grid, strict=True)):
        _draw_row(row, list(line), titled[number], colours, opacity)
        scale = shared_scale(panel.values for panel in row.panels)
        # beside low rows there is room for the unit of one
        named = size >= LABELLED or number == len(rows) // 2
        _colour_bar(figure, list(line), scale, colours, opacity, unit if named else "", bool(legend[1]))
    if title:
        figure.suptitle(title, fontsize=9)
    _add_legend(figure, colours, legend)
    return figure


def _draw_row(row: FigureRow, line: list[Any], titled: bool, colours: str, opacity: float) -> None:
    for axes in line:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    line[0].set_ylabel(row.label, fontsize=8)
    if row.show_picture:
        line[0].imshow(row.picture)
        line[0].set_title(row.title if titled else "", fontsize=8)
    scale = shared_scale(panel.values for panel in row.panels)
    for panel, axes in zip(row.panels, line[int(row.show_picture) :], strict=False):
        beneath = row.picture if panel.picture is None else panel.picture
        axes.imshow(overlay(beneath, panel.values, scale, colours, opacity), interpolation="nearest")
        axes.set_title(panel.title if titled else "", fontsize=8)


def _colour_bar(
    figure: Any, line: list[Any], scale: float, colours: str, opacity: float, unit: str, signed: bool
) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(
        ScalarMappable(Normalize(-scale, scale), diverging_map(colours, opacity)),
        ax=line,
        fraction=0.04,
        pad=0.01,
        aspect=14,
    )
    bar.ax.set_ylim(-scale if signed else 0, scale)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    bar.set_label(unit, fontsize=7)


def _add_legend(figure: Any, colours: str, legend: tuple[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=tuple(colour), label=text)
        for colour, text in zip(colour_pair(colours), legend, strict=True)
        if text
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def contact_sheet(
    frames: np.ndarray,
    rows: Sequence[tuple[str, np.ndarray]],
    title: str = "",
    *,
    colours: str = "red-blue",
    opacity: float = 0.85,
    unit: str = "",
    legend: tuple[str, str] = ("positive branch", "negative branch"),
    max_frames: int = 12,
) -> "Figure":
    """The frames of a video, and below them their maps, one row per kind of map, which shares a scale.

    Args:
        frames: (frames, height, width, 3) in bytes.
        rows: label and values (frames, rows, columns) of each row of maps.
        title: title of the whole figure: the model, its prediction and the settings.
        colours: name of a pair of colours, `red-blue` or `orange-purple`.
        opacity: opacity of the strongest colour, in [0, 1].
        unit: unit of the values, at the colour bar.
        legend: what the positive and the negative colour mean; an empty text leaves its colour out.
        max_frames: most frames to show; those of a longer video are evenly spread.

    Raises:
        AnalysisError: see [`map_figure`].
    """
    count = min(len(frames), max_frames)
    shown = np.linspace(0, len(frames) - 1, count).round().astype(int)
    lines = [
        FigureRow(
            label,
            frames[shown[0]],
            [Panel("", values[number], frames[number]) for number in shown],
            show_picture=False,
        )
        for label, values in rows
    ]
    if not lines:
        raise AnalysisError("there is nothing to draw.")
    height, width = frames.shape[1:3]
    panel = max(0.8, min(PANEL, 15 / count))
    figure = new_figure(0.9 + count * (panel + GAP), 0.9 + (1 + len(lines)) * (panel * height / width + 2 * GAP))
    grid = figure.subplots(1 + len(lines), count, squeeze=False)
    for number, axes in zip(shown, grid[0], strict=True):
        axes.imshow(frames[number])
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_title(f"frame {number}", fontsize=8)
    grid[0][0].set_ylabel("video", fontsize=8)
    for row, line in zip(lines, grid[1:], strict=True):
        _draw_row(row, list(line), False, colours, opacity)
        scale = shared_scale(panel.values for panel in row.panels)
        _colour_bar(figure, list(line), scale, colours, opacity, unit, bool(legend[1]))
    if title:
        figure.suptitle(title, fontsize=9)
    _add_legend(figure, colours, legend)
    return figure


def save_figure(figure: "Figure", path: str | Path, dpi: int = 150) -> Path:
    """Write a figure; the ending of the file says in which format, e.g. `.png` or `.svg`.

    The same figure gives the same file. Its texts are drawn as they are: no formula between two dollars of a name,
    and of a name that is no UTF-8 the bytes in question as `\\udcNN`.
    """
    from matplotlib import rc_context
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]
        text.set_text(printable(text.get_text()))  # type: ignore[attr-defined]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # an SVG would carry its date and random names
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with rc_context({"svg.hashsalt": "dna-hf", "svg.fonttype": "none"}):
        figure.savefig(path, dpi=dpi, metadata=metadata)
    return path


__all__ = ["FigureRow", "Panel", "contact_sheet", "map_figure", "save_figure"]
