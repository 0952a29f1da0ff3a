"""Files of images or videos to figures of what models look at in them."""

import csv
import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.errors import DataError
from ..data.files import is_image
from ..data.inputs import TIMEOUT
from ..data.problem_types import MULTI_LABEL, REGRESSION
from ..data.videos import VideoReader
from ..errors import must_be_writable
from ..kinds import VIDEO, VIDEO_LLM, Loaded, common_kind, load_all
from ..records.stamp import stamp
from .errors import AnalysisError
from .figures import FigureRow, Panel, contact_sheet, map_figure, new_figure, save_figure
from .layout import CLASS, PROBES
from .sight import Sight, VisualizeSettings, see
from .video_figures import overlay_frames, write_gif, write_mp4
from .video_llm_sight import MAX_FRAMES, probe_settings, see_by_probes


SETTINGS_FILE, PANELS_FILE = "settings.json", "panels.csv"
LEGENDS = {
    "difference": ("positive branch more", "negative branch more"),
    "positive": ("positive branch", ""),
    "negative": ("", "negative branch"),
    "combined": ("above 0", "below 0"),
}


@dataclass
class Visualization:
    """What was drawn.

    Args:
        files: the files that were written.
        skipped: why a file was left out, for each that could not be read.
    """

    files: list[Path] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def visualize(
    checkpoints: Sequence[str],
    paths: Sequence[str | Path],
    output: str | Path,
    settings: VisualizeSettings,
    *,
    device: str | None = None,
    revision: str | None = None,
) -> Visualization:
    """Draw what one or several models look at in files of images or videos.

    Every image gives a figure; every video a contact sheet, and an animation where one map is drawn. `panels.csv`
    says what every panel shows, `settings.json` how all was made and what was left out.

    Args:
        checkpoints: folders, or names on the Hub, of models that all classify images, all classify videos, or all
            are video language models, which take both.
        paths: image or video files, or folders of them.
        output: folder to write the figures and tables to.
        settings: what to draw.
        device: device to run on, e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub, of all checkpoints.

    Raises:
        AnalysisError: for a layer, head, query, class or map that does not exist, models that cannot stand side by
            side, or without matplotlib.
        DataError: for a checkpoint of another kind, an empty folder, or if no file can be read.
    """
    new_figure(1, 1)  # without matplotlib, before anything takes time
    kind = common_kind(checkpoints, revision)
    if kind is VIDEO_LLM:
        settings = probe_settings(settings)
    elif settings.question is not None:
        raise AnalysisError("a question is for video language models: leave it out.")
    files = kind.files(paths)
    folder = must_be_writable(output, AnalysisError)
    models = load_all(checkpoints, device=device, revision=revision, needs_head=settings.kind == "relevance")
    folder.mkdir(parents=True, exist_ok=True)
    done, rows = visualize_files(models, files, folder, settings)
    done.files += [write_csv(folder / PANELS_FILE, rows)]
    done.files += [_write_settings(folder / SETTINGS_FILE, checkpoints, settings, done.skipped)]
    return done


def visualize_files(
    models: list[Loaded], files: Sequence[Path], folder: Path, settings: VisualizeSettings
) -> tuple[Visualization, list[dict[str, Any]]]:
    """Draw what loaded models look at; see [`visualize`].

    Returns:
        What was drawn, and what every panel shows.
    """
    done = Visualization()
    rows: list[dict[str, Any]] = []
    names: set[str] = set()
    kind = models[0].kind
    for path, seen in _sights(models, files, settings, done.skipped):
        is_video = kind is VIDEO or (kind is VIDEO_LLM and not is_image(path))
        draw = _draw_video if is_video else _draw_image
        figures, animations = draw(seen, folder, _unused_name(path, names), path, settings)
        done.files += [*dict.fromkeys(figures), *animations]
        rows += _panel_rows(path, figures, seen, settings)
    if not rows:
        raise DataError(f"none of the {len(files)} files can be read: {done.skipped[0]}")
    return done, rows


def _sights(
    models: list[Loaded],
    files: Sequence[Path],
    settings: VisualizeSettings,
    skipped: list[str],
) -> Iterator[tuple[Path, list[Sight]]]:
    """What all models see in each file that can be read."""
    kind, reader = models[0].kind, VideoReader(TIMEOUT)
    look_at: Callable = see_by_probes if kind is VIDEO_LLM else see
    # one reader for all videos, which takes a moment to start
    further = {VIDEO: (reader,), VIDEO_LLM: (settings.question or "", MAX_FRAMES)}.get(kind, ())

    def read(path: Path, processor: Any) -> Any:
        inputs = kind.read(path, processor, *further)
        return inputs if kind is VIDEO_LLM else inputs["pixel_values"]

    try:
        for path in files:
            try:
                inputs = [read(path, loaded.processor) for loaded in models]
            except DataError as error:
                skipped.append(str(error))
                continue
            yield path, [look_at(loaded, each, settings) for loaded, each in zip(models, inputs, strict=True)]
    finally:
        reader.close()


def _shown(settings: VisualizeSettings, seen: list[Sight]) -> list[str]:
    """Which values of a heat map are drawn, in order."""
    show = settings.show or ("branches" if len(seen) == 1 else "difference")
    first = next(iter(next(iter(seen[0].heats.values())).values()))
    if show == "branches":
        if len(seen) > 1 or any(len(columns) > 1 for columns in seen[0].heats.values()):
            return ["difference"]
        return first.branches()
    return [show]


def _legend(shown: list[str], seen: list[Sight], kind: str) -> tuple[str, str]:
    """What the two colours mean."""
    single = all(
        "negative" not in heat.values for sight in seen for row in sight.heats.values() for heat in row.values()
    )
    if single:
        return ({"attention": "attention", "rollout": "attention rolled out", "relevance": "relevance"}[kind], "")
    if len(shown) > 1:
        return ("positive branch", "negative branch")
    return LEGENDS[shown[0]]


def _draw_image(
    seen: list[Sight], folder: Path, name: str, path: Path, settings: VisualizeSettings
) -> tuple[list[Path], list[Path]]:
    """One figure of an image for all models, or one for each of layers by heads; and no animation."""
    shown = _shown(settings, seen)
    common: dict[str, Any] = {
        "colours": settings.colours,
        "opacity": settings.opacity,
        "unit": _unit(settings),
        "legend": _legend(shown, seen, settings.kind),
    }
    written = []
    if any(len(columns) > 1 for sight in seen for columns in sight.heats.values()):
        for sight in seen:
            rows = [
                FigureRow(
                    label,
                    sight.pictures[0],
                    [Panel(head, heat.drawn(shown[0])[0]) for head, heat in heats.items()],
                )
                for label, heats in sight.heats.items()
            ]
            figure = map_figure(
                rows, f"{path.name}\n{_one_line(sight)}\n{_describe(settings, seen)}", panel_size=0.9, **common
            )
            ending = "" if len(seen) == 1 else f"_{_file_name(sight.label)}"
            written.append(save_figure(figure, folder / f"{name}{ending}.{settings.file_format}"))
        return written, []
    rows = []
    for label in _same_rows(seen):
        panels = []
        for sight in seen:
            (heat,) = sight.heats[label].values()
            for each in shown:
                title = sight.title if len(seen) > 1 else heat.title(each)
                panels.append(Panel(title, heat.drawn(each)[0], sight.pictures[0]))
        rows.append(FigureRow("" if label == settings.kind else label, seen[0].pictures[0], panels))
    first = path.name if len(seen) > 1 else f"{path.name}\n{_one_line(seen[0])}"
    figure = map_figure(rows, f"{first}\n{_describe(settings, seen)}", **common)
    return [save_figure(figure, folder / f"{name}.{settings.file_format}")] * len(seen), []


def _draw_video(
    seen: list[Sight], folder: Path, name: str, path: Path, settings: VisualizeSettings
) -> tuple[list[Path], list[Path]]:
    """The contact sheet of a video, for each model, and its animation where there is one map of each."""
    if any(len(columns) > 1 for sight in seen for columns in sight.heats.values()):
        raise AnalysisError("of videos, choose one layer or one head: all of both do not fit on a sheet.")
    if len({len(sight.pictures) for sight in seen}) > 1:
        counts = " and ".join(str(len(sight.pictures)) for sight in seen)
        raise AnalysisError(f"the models take {counts} frames: visualize them one by one.")
    shown = _shown(settings, seen)
    labels = _same_rows(seen)
    rows = []
    for label in labels:
        for sight in seen:
            (heat,) = sight.heats[label].values()
            for each in shown:
                parts = [
                    label if len(labels) > 1 else "",
                    sight.title if len(seen) > 1 else "",
                    heat.title(each) if len(seen) == 1 else "",
                ]
                rows.append(("\n".join(part for part in parts if part), heat.drawn(each)))
    first = path.name if len(seen) > 1 else f"{path.name}\n{_one_line(seen[0])}"
    frames = seen[0].pictures
    figure = contact_sheet(
        frames,
        rows,
        f"{first}\n{_describe(settings, seen)}",
        colours=settings.colours,
        opacity=settings.opacity,
        unit=_unit(settings),
        legend=_legend(shown, seen, settings.kind),
    )
    sheet = save_figure(figure, folder / f"{name}.{settings.file_format}")
    animations = []
    if settings.animation != "none" and len(labels) == 1:
        moving = overlay_frames(frames, rows, settings.colours, settings.opacity)
        write = write_gif if settings.animation == "gif" else write_mp4
        animations.append(write(moving, folder / f"{name}.{settings.animation}"))
    return [sheet] * len(seen), animations


def _same_rows(seen: list[Sight]) -> list[str]:
    """The labels of the rows, which all models share."""
    labels = [list(sight.heats) for sight in seen]
    if any(own != labels[0] for own in labels):
        counts = " and ".join(str(len(own)) for own in labels)
        raise AnalysisError(
            f"the models have {counts} rows to draw ({labels[0][-1]!r}, {labels[-1][-1]!r}, ...): choose a layer and "
            "a head that all of them number alike, or visualize them one by one."
        )
    return labels[0]


def _one_line(sight: Sight) -> str:
    return sight.title.replace("\n", ": ")


def _unit(settings: VisualizeSettings) -> str:
    if settings.kind == "relevance":
        return "relevance (mean patch = 1)"
    return "attention (even = 1)"


def _describe(settings: VisualizeSettings, seen: list[Sight]) -> str:
    """What a figure shows, in words."""
    if settings.kind == "relevance":
        what = _explained(seen) if settings.question is None else f"what follows {settings.question!r}"
        what = what if settings.target is None else repr(settings.target)
        return f"gradient-weighted relevance for {what}, all layers, mean over heads"
    query = settings.query
    who = f"token {query}" if settings.question is None else f"probe {query}"
    if isinstance(query, str):
        who = "all probes" if query == PROBES else "the class token"
    if settings.kind == "rollout":
        return f"attention rollout to {who}, all layers, mean over heads"
    if settings.axis == "time":
        who = "all frames" if query == CLASS else f"frame {query}"
    layer = {None: "all layers", -1: "last layer"}.get(settings.layer, f"layer {settings.layer}")
    head = {"mean": "mean over heads", "all": "each head"}.get(str(settings.head), f"head {settings.head}")
    over = f" over {settings.axis}" if settings.axis else ""
    return f"attention of {who}{over}, {layer}, {head}"


def _explained(seen: list[Sight]) -> str:
    """What relevance explains where nothing was named: what has the largest logit."""
    kinds = {sight.answer.problem_type for sight in seen if sight.answer is not None}
    if kinds == {REGRESSION}:
        return "the largest output"
    return "the class of the highest probability" if MULTI_LABEL in kinds else "the predicted class"


def _unused_name(path: Path, names: set[str]) -> str:
    """The name of a file without its ending, with a number where another file has it."""
    name, number = _file_name(path.stem), 1
    while name in names:
        number += 1
        name = f"{_file_name(path.stem)}_{number}"
    names.add(name)
    return name


def _file_name(text: str) -> str:
    """A text as part of a file name; a slash, or a byte that is no UTF-8, becomes `_`."""
    return re.sub(r"[/\ud800-\udfff]", "_", text)


def _panel_rows(
    path: Path, figures: list[Path], seen: list[Sight], settings: VisualizeSettings
) -> list[dict[str, Any]]:
    """What each panel shows, and where its strongest patch lies; `figures` has one for each model."""
    rows = []
    answering = any(sight.answer for sight in seen)
    for sight, figure in zip(seen, figures, strict=True):
        whose = {"file": str(path), "figure": figure.name, "model": sight.label}
        if answering:
            name, probability = (sight.answer.short, sight.answer.probability) if sight.answer else ("", None)
            whose |= {"prediction": name, "probability": "" if probability is None else f"{probability:.6f}"}
        for row, columns in sight.heats.items():
            for column, heat in columns.items():
                for shown in _shown(settings, seen):
                    panel = {"kind": settings.kind, "row": row, "column": column, "map": shown}
                    rows.append(whose | panel | {"variant": heat.variant} | _strongest(heat.drawn(shown)))
    return rows


def _strongest(values: np.ndarray) -> dict[str, Any]:
    """The patch of a map (frames, rows, columns) with the largest absolute value."""
    frame, row, column = np.unravel_index(np.abs(values).argmax(), values.shape)
    return {
        "strongest_frame": int(frame),
        "strongest_row": int(row),
        "strongest_column": int(column),
        "strongest_value": f"{values[frame, row, column]:.6g}",
    }


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows with the same columns, of which there is at least one, as a table."""
    # a file name may hold bytes that are no UTF-8
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _write_settings(path: Path, checkpoints: Sequence[str], settings: VisualizeSettings, skipped: list[str]) -> Path:
    content = {
        **stamp(),
        "checkpoints": list(checkpoints),
        "settings": dataclasses.asdict(settings),
        "skipped": skipped,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path
