"""What the branches of classifiers do over a data set: statistics, figures, tables and a page that shows them."""

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.data.data_collator import default_data_collator

from ..data.arguments import DataArguments, VideoDataArguments
from ..data.errors import DataError
from ..data.images import torch_dataset
from ..data.provenance import DatasetRecord, provenance, video_provenance
from ..data.sources import load_split
from ..data.video_sources import load_split as load_video_split
from ..data.videos import UNREADABLE, VideoDataset
from ..evaluation.distractors import checkpoint_labels
from ..evaluation.image_classification import class_names, load_classifier
from ..evaluation.records import command_line, environment, now, peak_memory
from ..evaluation.video_classification import load_video_classifier
from ..models.attention_variants import TWO_MAP_VARIANTS
from .drawing import colour_pair
from .errors import AnalysisError
from .figures import FigureRow, Panel, contact_sheet, map_figure, new_figure, save_figure
from .html_report import Illustration, ReportedModel, write_page
from .report_figures import LABELS, histogram_figure, scale_figure, sensitivity_figure
from .sight import Classifier, Sight, VisualizeSettings, see
from .subspace_report import SubspaceReport, analyze_subspaces
from .visualize import takes_videos, write_csv


PAGE = "report.html"
# dots per inch of figures, which the page carries
RESOLUTION = 110


@dataclass
class AnalyzeSettings:
    """How a data set is gone through.

    Args:
        k: see [`~dna_hf.analysis.subspace_report.IntruderSettings`]; by default 10, or as many directions as every
            attention of every model has.
        epsilon: the same.
        against: the same.
        batch_size: images or videos that go through a model together.
        pictures: images or videos to draw.
        untrained: whether an untrained model of the same configuration stands beside every model with two branches:
            branches differ before anything is learned.
        colours: see [`~dna_hf.analysis.drawing.COLOURS`].
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
        colour_pair(self.colours)


@dataclass
class Analysis:
    """What was written.

    Args:
        page: the report.
        files: all of them, the page among them.
        unreadable: videos that were left out.
    """

    page: Path
    files: list[Path]
    unreadable: list[str] = field(default_factory=list)


@dataclass
class _Samples:
    """A split as a model takes it."""

    dataset: Dataset
    names: list[str]
    class_names: list[str]
    record: DatasetRecord


@dataclass
class _Analyzed:
    """What was found of one model; an untrained one has no classifier."""

    label: str
    variant: str
    parameters: int
    report: SubspaceReport
    seconds: float
    classifier: Classifier | None = None
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    probabilities: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    accuracy: float | None = None

    def predictions(self) -> dict[int, tuple[str, float]]:
        """Row of the data -> predicted class and its probability."""
        if self.classifier is None:
            return {}
        names = class_names(self.classifier.model)
        best = self.probabilities.argmax(axis=1)
        return {
            int(row): (names[index], float(values[index]))
            for row, index, values in zip(self.rows, best, self.probabilities, strict=True)
        }


def analyze(
    checkpoints: Sequence[str],
    arguments: DataArguments | VideoDataArguments,
    split: str,
    output: str | Path,
    settings: AnalyzeSettings | None = None,
    *,
    device: str | None = None,
    revision: str | None = None,
) -> Analysis:
    """Analyse classifiers on a split, and write a page with everything that was found.

    Beside `report.html`, which needs no other file, the folder gets the figures, the numbers as CSV, and
    `settings.json`, which says how all was made.

    Args:
        checkpoints: folders, or names on the Hub, of models that all take images or all take videos.
        arguments: the data; `max_eval_samples` of it at most.
        split: which part of it.
        output: folder to write to.
        settings: how.
        device: e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub, of all checkpoints.

    Raises:
        AnalysisError: for settings out of range, or without matplotlib.
        DataError: for a checkpoint of another kind, or data that cannot be read.
    """
    settings = settings or AnalyzeSettings()
    new_figure(1, 1)  # without matplotlib, before anything takes time
    is_video = takes_videos(checkpoints, revision)
    load = load_video_classifier if is_video else load_classifier
    classifiers = [
        Classifier(label, *load(checkpoint, device, revision))
        for label, checkpoint in zip(checkpoint_labels(checkpoints), checkpoints, strict=True)
    ]
    if settings.k is None:
        settings = dataclasses.replace(settings, k=min(most_directions(each.model.config) for each in classifiers))
    data = [_samples(arguments, split, classifier.processor) for classifier in classifiers]
    folder = Path(output)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    analyzed: list[_Analyzed] = []
    for classifier, samples in zip(classifiers, data, strict=True):
        analyzed.append(_analyze(classifier, samples, settings))
        if settings.untrained and analyzed[-1].variant in TWO_MAP_VARIANTS:
            analyzed.append(_analyze_untrained(classifier, samples, settings))
    illustrations = _statistics_figures(analyzed, folder / "figures", settings)
    pictures = _pictures([each for each in analyzed if each.classifier], data, folder / "figures", settings)
    tables = _write_tables(analyzed, data[0], folder)
    facts = _facts(checkpoints, analyzed, data[0].record, split, settings)
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
    )
    figures = [illustration.path for illustration in (*illustrations, *pictures)]
    readable = set(analyzed[0].rows.tolist())
    unreadable = [name for row, name in enumerate(data[0].names) if row not in readable] if is_video else []
    return Analysis(page, [page, *figures, *tables, settings_file], unreadable)


def most_directions(config: Any) -> int:
    """The paper's likely number of leading directions, 10, or what the outputs of a head have at most.

    Args:
        config: of an image or video classifier.
    """
    rows, columns = config.grid_size
    # over time, a sequence has one token per frame
    tokens = min(rows * columns, getattr(config, "num_frames", rows * columns))
    return min(10, tokens, config.hidden_size // config.num_attention_heads)


def _samples(arguments: Any, split: str, processor: Any) -> _Samples:
    """A split, processed for one model.

    Raises:
        DataError: if it is empty or streamed, or cannot be read.
    """
    if isinstance(arguments, VideoDataArguments):
        videos = load_video_split(arguments, split)
        names = [clip.path for clip in videos.clips]
        samples = _Samples(
            VideoDataset(videos, processor, arguments), names, videos.class_names, video_provenance(arguments, videos)
        )
    elif arguments.streaming:
        raise DataError("an analysis needs random access to the data: leave out --streaming.")
    else:
        images = load_split(arguments, split)
        names = [f"{split} {row}" for row in range(len(images.rows))]
        samples = _Samples(torch_dataset(images, processor), names, images.class_names, provenance(arguments, images))
    if not samples.names:
        raise DataError(f"split {split!r} of {arguments.dataset!r} is empty.")
    return samples


def _batches(samples: _Samples, batch_size: int, what: str) -> Iterator[dict[str, torch.Tensor]]:
    """Pixels, labels and rows of what can be read."""
    start = 0
    loader = DataLoader(samples.dataset, batch_size=batch_size, collate_fn=default_data_collator)
    for batch in tqdm(loader, desc=what, leave=False):
        rows = torch.arange(start, start + len(batch["labels"]))
        start += len(rows)
        readable = batch["labels"] != UNREADABLE
        if readable.any():
            yield {
                "pixel_values": batch["pixel_values"][readable],
                "labels": batch["labels"][readable],
                "rows": rows[readable],
            }


def _analyze(classifier: Classifier, samples: _Samples, settings: AnalyzeSettings) -> _Analyzed:
    """Statistics, predictions and accuracy of a checkpoint."""
    model = classifier.model
    rows, labels, probabilities = [], [], []

    def inputs() -> Iterator[dict[str, torch.Tensor]]:
        for batch in _batches(samples, settings.batch_size, classifier.label):
            pixel_values = batch["pixel_values"].to(model.device, model.dtype)
            with torch.no_grad():
                probabilities.append(model(pixel_values=pixel_values).logits.float().softmax(dim=1).cpu().numpy())
            rows.append(batch["rows"].numpy())
            labels.append(batch["labels"].numpy())
            yield {"pixel_values": pixel_values}

    found = _measure(classifier.label, model, inputs(), settings)
    found.classifier = classifier
    found.rows, found.probabilities = np.concatenate(rows), np.concatenate(probabilities)
    known = class_names(model)
    # a model may be shown pictures of other classes than its own
    if all(name in known for name in samples.class_names):
        truth = np.array([known.index(name) for name in samples.class_names])[np.concatenate(labels)]
        if samples.class_names == known:
            truth = np.concatenate(labels)
        found.accuracy = float((found.probabilities.argmax(axis=1) == truth).mean())
    return found


def _analyze_untrained(classifier: Classifier, samples: _Samples, settings: AnalyzeSettings) -> _Analyzed:
    """Statistics of a model of the same configuration, as it is before it learns."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = type(classifier.model)(classifier.model.config)
    model = model.to(classifier.model.device).eval()
    label = f"{classifier.label}, untrained"
    batches = ({"pixel_values": each["pixel_values"]} for each in _batches(samples, settings.batch_size, label))
    return _measure(label, model, batches, settings)


def _measure(label: str, model: PreTrainedModel, batches: Iterable[dict], settings: AnalyzeSettings) -> _Analyzed:
    start = time.perf_counter()
    k: Any = settings.k
    report = analyze_subspaces(model, batches, k=k, epsilon=settings.epsilon, against=settings.against)
    seconds = time.perf_counter() - start
    return _Analyzed(label, model.config.attention_variant, model.num_parameters(), report, seconds)


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
            if each.label in with_two and each.classifier
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


def choose_rows(predictions: Sequence[dict[int, tuple[str, float]]], count: int) -> list[int]:
    """Rows to draw: those on which models disagree first, then others, evenly spread over the data.

    Args:
        predictions: per model, row -> predicted class and its probability; the same rows for all.
        count: how many at most.
    """
    rows = sorted(set.intersection(*(set(own) for own in predictions)))
    disputed = [row for row in rows if len({own[row][0] for own in predictions}) > 1]
    agreed = [row for row in rows if row not in set(disputed)]
    chosen = _spread(disputed, count)
    return chosen + _spread(agreed, count - len(chosen))


def _spread(rows: list[int], count: int) -> list[int]:
    if len(rows) <= count:
        return rows
    return [rows[index * len(rows) // count] for index in range(count)]


def _pictures(
    analyzed: Sequence[_Analyzed], data: Sequence[_Samples], folder: Path, settings: AnalyzeSettings
) -> list[Illustration]:
    """What all models look at in the chosen samples."""
    predictions = [each.predictions() for each in analyzed]
    drawn = []
    for row in choose_rows(predictions, settings.pictures):
        samples: list[Any] = [own.dataset[row] for own in data]
        how = VisualizeSettings(colours=settings.colours)
        seen = [
            see(each.classifier, _tensor(sample["pixel_values"])[None], how)  # type: ignore[arg-type]
            for each, sample in zip(analyzed, samples, strict=True)
        ]
        truth = data[0].class_names[int(samples[0]["labels"])]
        answers = [own[row][0] for own in predictions]
        path = folder / f"picture_{row:06d}.png"
        save_figure(_picture(seen, settings), path, RESOLUTION)
        says = "; ".join(f"{sight.label}: {sight.prediction} {100 * sight.probability:.0f} %" for sight in seen)
        title = f"{Path(data[0].names[row]).name}: {truth}"
        if len(set(answers)) > 1:
            title += " (the models disagree)"
        caption = (
            f"Class of the data: {truth}. {says}. Attention of the class token in the last layer, mean over heads."
        )
        drawn.append(
            Illustration(path, title, f"{truth}: what {' and '.join(s.label for s in seen)} attend to.", caption)
        )
    return drawn


def _tensor(values: Any) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else torch.as_tensor(np.asarray(values))


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
                cells = [f"{each.mean()[0]:.3f} ({each.median()[0]:.3f})" if each else "undefined" for each in found]
                rows.append((title, axis.replace("_", " and "), *cells))
    return rows


def _reported(found: _Analyzed) -> ReportedModel:
    undefined = next((layer.undefined for layer in found.report.layers if layer.undefined), None)
    return ReportedModel(
        found.label, found.variant, found.parameters, found.report.samples, found.accuracy, found.seconds, undefined
    )


def _write_tables(analyzed: Sequence[_Analyzed], samples: _Samples, folder: Path) -> list[Path]:
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
        for row_number, (name, probability) in each.predictions().items():
            predictions.append(
                {
                    "row": row_number,
                    "sample": samples.names[row_number],
                    "model": each.label,
                    "prediction": name,
                    "probability": probability,
                }
            )
    tables = {"statistics.csv": statistics, "sensitivity.csv": sensitivity, "predictions.csv": predictions}
    return [write_csv(folder / name, rows) for name, rows in tables.items() if rows]


def _facts(
    checkpoints: Sequence[str],
    analyzed: Sequence[_Analyzed],
    record: DatasetRecord,
    split: str,
    settings: AnalyzeSettings,
) -> dict[str, Any]:
    """How all was made."""
    return {
        "command": command_line(),
        "date": now(),
        "environment": environment(),
        "checkpoints": list(checkpoints),
        "data": dataclasses.asdict(record),
        "split": split,
        "settings": dataclasses.asdict(settings),
        "seconds": {each.label: round(each.seconds, 1) for each in analyzed},
        "peak_memory_mib": peak_memory() // 2**20,
    }
