"""What the branches of models do over a data set: statistics, figures, tables and a page that shows them."""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..data.arguments import ImageDataArguments, VideoDataArguments
from ..data.conversation_arguments import QuestionDataArguments
from ..data.errors import DataError
from ..data.summary import Announce
from ..errors import must_be_writable
from ..evaluation.class_answers import Answer
from ..evaluation.held_out import as_trained
from ..kinds import load_all
from ..models.attention_variants import TWO_MAP_VARIANTS
from ..records.run_facts import model_facts
from ..records.stamp import peak_memory, stamp
from .accumulate import RunningDistribution
from .drawing import colour_pair
from .errors import AnalysisError
from .figures import FigureRow, Panel, contact_sheet, map_figure, new_figure, save_figure
from .html_report import Illustration, ReportedModel, write_page
from .report_figures import LABELS, histogram_figure, scale_figure, sensitivity_figure
from .samples import DEFAULT_SPLIT, Batch, Samples, samples_of
from .sight import Sight, VisualizeSettings
from .subspace_report import SubspaceReport, analyze_subspaces
from .subspaces import check_epsilon
from .visualize import write_csv


PAGE = "report.html"
# dots per inch of figures, which the page carries
RESOLUTION = 110


@dataclass
class AnalyzeSettings:
    """How a data set is gone through.

    Args:
        k: number of leading directions of a branch that are looked at; by default 10, or as many as every attention
            of every model has.
        epsilon: largest cosine of an intruder: a direction below it with all of the other branch is one.
        against: directions of the other branch that count for intruders: its `"top_k"`, or `"all"`.
        batch_size: images or videos that go through a classifier together.
        pictures: number of images or videos to draw.
        untrained: whether an untrained model of the same configuration stands beside every model with two branches:
            branches differ before anything is learned. A video language model keeps its vision encoder.
        colours: name of a pair of colours, `red-blue` or `orange-purple`.
    """

    k: int | None = None
    epsilon: float = 0.5
    against: Any = "top_k"
    batch_size: int = 16
    pictures: int = 12
    untrained: bool = True
    colours: str = "red-blue"

    def __post_init__(self) -> None:
        if self.pictures < 0 or self.batch_size < 1:
            raise AnalysisError("pictures must not be negative, and batch_size must be at least 1.")
        check_epsilon(self.epsilon)
        colour_pair(self.colours)


@dataclass
class Analysis:
    """What was written.

    Args:
        page: the report.
        files: all files that were written, the page among them.
        left_out: one sentence for each part of the data that was left out.
    """

    page: Path
    files: list[Path]
    left_out: list[str] = field(default_factory=list)


@dataclass
class _Analyzed:
    """What was found of one model; an untrained one, or one without a classifier, answers nothing."""

    label: str
    variant: str
    parameters: int
    report: SubspaceReport
    seconds: float
    samples: Samples | None = None
    rows: list[int] = field(default_factory=list)
    # by row of the data
    answers: dict[int, Answer] = field(default_factory=dict)
    accuracy: float | None = None


def analyze(
    checkpoints: Sequence[str],
    arguments: ImageDataArguments | VideoDataArguments | QuestionDataArguments,
    split: str | None,
    output: str | Path,
    settings: AnalyzeSettings | None = None,
    *,
    device: str | None = None,
    revision: str | None = None,
    seed: int | None = None,
    announce: Announce | None = None,
) -> Analysis:
    """Analyse models on a split, or on questions, and write a page with everything that was found.

    Beside `report.html`, which needs no other file, the folder gets the figures, the numbers as CSV, and
    `settings.json`, which says how all was made.

    Args:
        checkpoints: folders, or names on the Hub, of models that are all classifiers of images, all classifiers of
            videos or all video language models.
        arguments: the data, of the kind that the models take; `max_eval_samples` of it at most.
        split: split of the data, `test` by default; questions have none; `held-out`: what training held out, see
            [`~dna_hf.evaluation.held_out.as_trained`].
        output: folder to write the page and everything beside it to.
        settings: how the data is gone through; by default as [`AnalyzeSettings`] says.
        device: device to run on, e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub, of all checkpoints.
        seed: seed of the training that held a part out, where a checkpoint has no record of it.
        announce: called before any model runs, with what the data holds and with facts about the models.

    Raises:
        AnalysisError: for settings out of range, or without matplotlib.
        DataError: for a checkpoint of another kind, or data that cannot be read.
    """
    settings = settings or AnalyzeSettings()
    new_figure(1, 1)  # without matplotlib, before anything takes time
    folder = must_be_writable(output, AnalysisError)
    if isinstance(arguments, QuestionDataArguments):
        if seed is not None:
            raise AnalysisError("a seed says which part was held out, and nothing of questions is: leave it out.")
    else:
        arguments, seed = as_trained(checkpoints, arguments, split or DEFAULT_SPLIT, seed, revision=revision)
    models = load_all(checkpoints, device=device, revision=revision, needs_head=False)
    data = [samples_of(loaded, arguments, split, seed) for loaded in models]
    if announce is not None:
        facts = [(f"{one.label}: {name}", value) for one in models for name, value in model_facts(one.model)]
        announce(data[0].summary(), facts)
    if settings.k is None:
        settings = dataclasses.replace(settings, k=min(most_directions(each.measured.config) for each in data))
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    analyzed: list[_Analyzed] = []
    for samples in data:
        analyzed.append(_analyze(samples, settings))
        if settings.untrained and analyzed[-1].variant in TWO_MAP_VARIANTS:
            analyzed.append(_analyze_untrained(samples, settings))
    return _write(folder, checkpoints, analyzed, data[0], settings)


def _write(
    folder: Path, checkpoints: Sequence[str], analyzed: Sequence[_Analyzed], data: Samples, settings: AnalyzeSettings
) -> Analysis:
    """The page, and the figures and tables beside it."""
    illustrations = _statistics_figures(analyzed, folder / "figures", settings)
    pictures = _pictures([each for each in analyzed if each.samples], folder / "figures", settings)
    tables = _write_tables(analyzed, data, folder)
    facts = _facts(checkpoints, analyzed, data, settings)
    settings_file = folder / "settings.json"
    settings_file.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    page = write_page(
        folder / PAGE,
        models=[_reported(each) for each in analyzed],
        statistics=_overall_rows(analyzed),
        illustrations=illustrations,
        pictures=pictures,
        files=[path.relative_to(folder) for path in (*tables, settings_file)],
        facts=facts,
        note=data.note,
    )
    figures = [illustration.path for illustration in (*illustrations, *pictures)]
    left_out = [*data.skipped, *(reason for _, reason in sorted(data.unread.items()))]
    return Analysis(page, [page, *figures, *tables, settings_file], left_out)


def most_directions(config: Any) -> int:
    """The paper's likely number of leading directions, 10, or what the outputs of a head have at most.

    Args:
        config: configuration of an image or video model, or of the vision encoder of a video language model.
    """
    if hasattr(config, "num_probes"):
        tokens = config.num_probes
    else:
        rows, columns = config.grid_size
        # over time, a sequence has one token per frame
        tokens = min(rows * columns, getattr(config, "num_frames", rows * columns))
    return min(10, tokens, config.hidden_size // config.num_attention_heads)


def _analyze(samples: Samples, settings: AnalyzeSettings) -> _Analyzed:
    """Statistics of a checkpoint, and what it answers if it has a classifier."""
    rows: list[int] = []
    answers: dict[int, Answer] = {}
    hits: list[bool] = []

    def answered() -> Iterator[Batch]:
        for batch in samples.batches(settings.batch_size, samples.loaded.label):
            rows.extend(batch.rows)
            found = samples.answered(batch) if samples.loaded.has_head else []
            for row, (answer, right) in zip(batch.rows, found, strict=False):
                answers[row] = answer
                if right is not None:
                    hits.append(right)
            yield batch
        if not rows:
            reason = next(iter(samples.unread.values()))
            raise DataError(f"nothing of {samples.record.name!r} can be read; the first: {reason}")

    found = _measure(samples.loaded.label, samples.measured, answered(), samples, settings)
    found.samples, found.rows, found.answers = samples, rows, answers
    found.accuracy = float(np.mean(hits)) if hits else None
    return found


def _analyze_untrained(samples: Samples, settings: AnalyzeSettings) -> _Analyzed:
    """Statistics of a model of the same configuration, as it is before it learns."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = samples.untrained()
    model = model.to(samples.measured.device).eval()
    label = f"{samples.loaded.label}, untrained"
    return _measure(label, model, samples.batches(settings.batch_size, label), samples, settings)


def _measure(
    label: str, model: PreTrainedModel, batches: Iterator[Batch], samples: Samples, settings: AnalyzeSettings
) -> _Analyzed:
    start = time.perf_counter()
    k: Any = settings.k
    inputs = (batch.inputs for batch in batches)
    report = analyze_subspaces(model, inputs, k=k, epsilon=settings.epsilon, against=settings.against)
    seconds = time.perf_counter() - start
    parameters = samples.loaded.model.num_parameters()
    return _Analyzed(label, model.config.attention_variant, parameters, report, seconds)


def _axes(analyzed: Sequence[_Analyzed]) -> list[str]:
    return list(dict.fromkeys(layer.place.axis for each in analyzed for layer in each.report.layers))


def _statistics_figures(analyzed: Sequence[_Analyzed], folder: Path, settings: AnalyzeSettings) -> list[Illustration]:
    """Histograms, sensitivity and scales, for each axis of attention."""
    figures = []
    reports = {each.label: each.report for each in analyzed}
    with_two = [each.label for each in analyzed if each.variant in TWO_MAP_VARIANTS]
    shown = " and ".join(reports)
    for axis in _axes(analyzed):
        over = "" if axis == "space" else f" over {axis.replace('_', ' and ')}"
        histograms = save_figure(histogram_figure(reports, axis=axis), folder / f"statistics_{axis}.png", RESOLUTION)
        caption = (
            f"Distributions of the statistics of attention{over} over all layers, heads and samples; dotted: the "
            f"mean. Intruder dimensions among the {settings.k} leading directions, at a cosine below "
            f"{settings.epsilon:g} with {'those' if settings.against == 'top_k' else 'all'} of the other branch."
        )
        figures.append(Illustration(histograms, f"Statistics{over}", f"Histograms of {shown}.", caption))
        if not with_two:
            continue
        sensitivity = sensitivity_figure(reports, axis=axis)
        path = save_figure(sensitivity, folder / f"sensitivity_{axis}.png", RESOLUTION)
        caption = (
            f"How many of the k leading directions of the negative branch are foreign to the positive one{over}, by "
            "k and by the threshold: the paper states neither. Means over layers, heads and samples."
        )
        alt = f"Tables of mean intruder dimensions of {' and '.join(with_two)}."
        figures.append(Illustration(path, f"Intruder dimensions by k and threshold{over}", alt, caption))
        scales = {
            each.label: np.array([layer.scale for layer in each.report.layers if layer.place.axis == axis])
            for each in analyzed
            if each.label in with_two and each.samples
        }
        # a model that attends over space and time at once has nothing to show over space alone
        scales = {label: values for label, values in scales.items() if values.size}
        if not scales:
            continue
        path = save_figure(
            scale_figure(scales, "factor of the negative branch", settings.colours),
            folder / f"scales_{axis}.png",
            RESOLUTION,
        )
        caption = f"The factor of the negative branch{over}: alpha, or minus lambda of differential attention."
        figures.append(
            Illustration(path, f"Alpha by layer and head{over}", f"Heat maps of {' and '.join(scales)}.", caption)
        )
    return figures


def choose_rows(rows: Sequence[int], answers: Sequence[dict[int, Answer]], count: int) -> list[int]:
    """Rows to draw: those on which models disagree first, then others, evenly spread over the data.

    Args:
        rows: numbers of the rows that all models were shown.
        answers: row -> answer, for each model that answers.
        count: largest number of rows to draw.
    """
    disputed = [row for row in rows if len({own[row].classes for own in answers}) > 1]
    agreed = [row for row in rows if row not in set(disputed)]
    chosen = _spread(disputed, count)
    return chosen + _spread(agreed, count - len(chosen))


def _spread(rows: list[int], count: int) -> list[int]:
    if len(rows) <= count:
        return rows
    return [rows[index * len(rows) // count] for index in range(count)]


def _pictures(analyzed: Sequence[_Analyzed], folder: Path, settings: AnalyzeSettings) -> list[Illustration]:
    """What all models look at in the chosen samples."""
    rows = sorted(set.intersection(*(set(each.rows) for each in analyzed)))
    answering = [each for each in analyzed if each.answers]
    data = [each.samples for each in analyzed if each.samples]
    # of a model that answers, if there is one: it says what is right
    titled = next((samples for samples in data if samples.loaded.has_head), data[0])
    names = " and ".join(each.label for each in analyzed)
    drawn = []
    for row in choose_rows(rows, [each.answers for each in answering], settings.pictures):
        seen = [samples.see(row, VisualizeSettings(colours=settings.colours)) for samples in data]
        path = folder / f"picture_{row:06d}.png"
        save_figure(_picture(seen, settings), path, RESOLUTION)
        title, caption = titled.title(row), titled.looks
        alt = f"{titled.truth(row) if answering else title}: what {names} attend to."
        if answering:
            caption = f"Right answer: {titled.truth(row)}. {_says(answering, row)}. {caption}"
        if len({each.answers[row].classes for each in answering}) > 1:
            title += " (the models disagree)"
        drawn.append(Illustration(path, title, alt, caption))
    return drawn


def _says(answering: Sequence[_Analyzed], row: int) -> str:
    """What each model answers, in words."""
    return "; ".join(f"{each.label}: {each.answers[row].title}" for each in answering)


def _picture(seen: Sequence[Sight], settings: AnalyzeSettings) -> Any:
    """One figure with the maps of all models."""
    unit = "attention (even = 1)"
    heats = [next(iter(next(iter(sight.heats.values())).values())) for sight in seen]
    titles: list[tuple[str, np.ndarray, Sight]] = []
    for sight, heat in zip(seen, heats, strict=True):
        for name in heat.branches() if len(seen) == 1 else ["difference"]:
            titles.append((heat.title(name) if len(seen) == 1 else sight.label, heat.drawn(name), sight))
    if len(seen[0].pictures) > 1:
        rows = [(label, values) for label, values, _ in titles]
        return contact_sheet(seen[0].pictures, rows, colours=settings.colours, unit=unit)
    panels = [Panel(label, values[0], sight.pictures[0]) for label, values, sight in titles]
    return map_figure([FigureRow("", seen[0].pictures[0], panels)], colours=settings.colours, unit=unit)


def _overall_rows(analyzed: Sequence[_Analyzed]) -> list[tuple[str, ...]]:
    """Statistic, axis, and mean and median of each model, over everything."""
    pooled = [each.report.overall() for each in analyzed]
    rows = []
    for axis in _axes(analyzed):
        for name, title in LABELS.items():
            found = [own.get(axis, {}).get(name) for own in pooled]
            if any(found):
                rows.append((title, axis.replace("_", " and "), *map(_mean_and_median, found)))
    return rows


def _mean_and_median(values: RunningDistribution | None) -> str:
    # a statistic that a model has may still be undefined for all that was measured
    if values is None or not values.count[0]:
        return "undefined"
    return f"{values.mean()[0]:.3f} ({values.median()[0]:.3f})"


def _reported(found: _Analyzed) -> ReportedModel:
    undefined = next((layer.undefined for layer in found.report.layers if layer.undefined), None)
    return ReportedModel(
        label=found.label,
        variant=found.variant,
        parameters=found.parameters,
        samples=found.report.samples,
        answers=bool(found.answers),
        accuracy=found.accuracy,
        seconds=found.seconds,
        undefined=undefined,
    )


def _write_tables(analyzed: Sequence[_Analyzed], samples: Samples, folder: Path) -> list[Path]:
    """The numbers behind the figures."""
    statistics, sensitivity, predictions = [], [], []
    for each in analyzed:
        for layer in each.report.layers:
            place = {"model": each.label, "axis": layer.place.axis, "layer": layer.place.layer}
            for name, values in layer.statistics.items():
                columns = zip(
                    values.count.tolist(), values.undefined.tolist(), values.mean(), values.median(), strict=True
                )
                for head, (count, undefined, mean, median) in enumerate(columns):
                    row = {"head": head, "statistic": name, "count": count, "undefined": undefined}
                    statistics.append(place | row | {"mean": mean, "median": median})
            if layer.scale is not None:
                for head, value in enumerate(layer.scale):
                    row = {"head": head, "statistic": "scale", "count": 1, "undefined": 0}
                    statistics.append(place | row | {"mean": value, "median": value})
            for branch, heads in layer.sensitivity().items():
                for head, by_k in enumerate(heads):
                    for k, by_epsilon in enumerate(by_k, start=1):
                        for epsilon, mean in zip(each.report.settings.epsilons, by_epsilon, strict=True):
                            row = {"head": head, "branch": branch, "k": k, "epsilon": epsilon, "mean_intruders": mean}
                            sensitivity.append(place | row)
        for row_number, answer in each.answers.items():
            predictions.append(
                {
                    "row": row_number,
                    "sample": samples.names[row_number],
                    "model": each.label,
                    "prediction": answer.short,
                    "probability": "" if answer.probability is None else answer.probability,
                }
            )
    tables = {"statistics.csv": statistics, "sensitivity.csv": sensitivity, "predictions.csv": predictions}
    return [write_csv(folder / name, rows) for name, rows in tables.items() if rows]


def _facts(
    checkpoints: Sequence[str],
    analyzed: Sequence[_Analyzed],
    samples: Samples,
    settings: AnalyzeSettings,
) -> dict[str, Any]:
    """How all was made."""
    return {
        **stamp(),
        "checkpoints": list(checkpoints),
        "data": dataclasses.asdict(samples.record),
        "split": samples.split,
        "settings": dataclasses.asdict(settings),
        "seconds": {each.label: round(each.seconds, 1) for each in analyzed},
        "peak_memory_mib": peak_memory() // 2**20,
    }
