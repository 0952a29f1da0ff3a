"""What a comparison found: figures of its runs, their table and their figure. Pure arithmetic: it trains nothing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..models.configuration_dna import DnATransformerConfig
from ..records.metrics import METRICS
from .statistics import paired_difference, spread


BASELINE = "softmax"
# softmax attention, with its MLP widened until it has the parameters of DnA
MATCHED = "softmax_matched"


@dataclass(frozen=True)
class RunFigures:
    """Figures of one run.

    Args:
        variant: attention variant of the model, or `softmax_matched`.
        seed: seed of initialisation, data order and augmentation.
        top1: accuracy on the evaluation split, in [0, 1]; `None` where a sample has not just one class.
        loss: mean loss on the evaluation split: cross entropy, binary cross entropy, or square error.
        parameters: number of parameters of the model.
        macs: multiply-accumulates of one image or video.
        seconds: wall time of training, evaluations included.
        samples_per_second: images or videos per second in training, evaluations included.
        resumed: whether the run was stopped in between; then its times are not those of the whole run.
        peak_memory: largest memory of the training process, in bytes: on the GPU where there is one, else on the CPU.
        mean_class_accuracy: mean of the accuracies of the classes, in [0, 1]; `None` where the task records none.
        map: mean average precision, in [0, 1], of several labels for each sample.
        f1_macro: mean of the F1 scores of the classes, in [0, 1], of several labels for each sample.
        r2: part of the variance that is explained, at most 1, of a regression.
        rmse: root of the mean square error, in the unit of the targets, of a regression.
    """

    variant: str
    seed: int
    top1: float | None
    loss: float
    parameters: int
    macs: int
    seconds: float
    samples_per_second: float
    peak_memory: int
    resumed: bool
    mean_class_accuracy: float | None = None
    map: float | None = None
    f1_macro: float | None = None
    r2: float | None = None
    rmse: float | None = None

    def by_name(self) -> dict[str, Any]:
        """The figures by name; without those that only other problem types have."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in _OTHERS}


# figures that few runs have
_OTHERS = ("map", "f1_macro", "r2", "rmse")
# figures that runs are compared by, the first one that they have, each with one that is stated beside it
_COMPARED = {"top1": "mean_class_accuracy", "map": "f1_macro", "r2": "rmse"}


def compared_by(figures: Sequence[RunFigures]) -> str:
    """Name of the figure that runs are compared by; greater is better."""
    return next(name for name in _COMPARED if all(getattr(run, name) is not None for run in figures))


def summary(figures: Sequence[RunFigures]) -> str:
    """A Markdown table of the variants: what they are compared by over seeds, difference to softmax, and costs."""
    by_variant: dict[str, list[RunFigures]] = {}
    for run in figures:
        by_variant.setdefault(run.variant, []).append(run)
    name = compared_by(figures)
    beside = [other for other in (_COMPARED[name],) if all(getattr(run, other) is not None for run in figures)]
    columns = ["variant", "runs", f"{METRICS[name].title}, mean ± standard deviation"]
    columns += ["difference to softmax, 95 % interval"]
    columns += [f"{METRICS[other].title}, mean ± standard deviation" for other in beside]
    columns += ["parameters", "MACs", "training time", "samples/s", "peak memory"]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    baseline = by_variant.get(BASELINE)
    for variant, runs in by_variant.items():
        cells = [
            variant,
            str(len(runs)),
            _spread(runs, name),
            _difference(runs, baseline, name) if variant != BASELINE else "",
            *(_spread(runs, other) for other in beside),
            f"{runs[0].parameters:,}",
            f"{runs[0].macs / 1e6:,.1f} M",
            *_times([run for run in runs if not run.resumed]),
            f"{max(run.peak_memory for run in runs) / 2**20:,.0f} MiB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _values(runs: Sequence[RunFigures], name: str) -> list[float]:
    """A figure of several runs, of parts of 1 in per cent."""
    return [(100 if METRICS[name].is_part else 1) * getattr(run, name) for run in runs]


def _places(name: str) -> int:
    """Decimal places of a figure as [`_values`] gives it."""
    return 2 if METRICS[name].is_part else 4


def _spread(runs: Sequence[RunFigures], name: str) -> str:
    """Mean and standard deviation of a figure."""
    found, places = spread(_values(runs, name)), _places(name)
    deviation = "" if found.deviation is None else f" ± {found.deviation:.{places}f}"
    return f"{found.mean:.{places}f}{deviation}{' %' if METRICS[name].is_part else ''}"


def _times(whole: list[RunFigures]) -> tuple[str, str]:
    """Mean training time and throughput of runs that were not stopped in between."""
    if not whole:
        return "not measured (resumed)", "not measured (resumed)"
    seconds = spread([run.seconds for run in whole]).mean
    return f"{seconds:.0f} s", f"{spread([run.samples_per_second for run in whole]).mean:.0f}"


def _difference(runs: list[RunFigures], baseline: list[RunFigures] | None, name: str) -> str:
    """Paired by seed."""
    if baseline is None:
        return "no softmax run"
    reference = {run.seed: value for run, value in zip(baseline, _values(baseline, name), strict=True)}
    own = {run.seed: value for run, value in zip(runs, _values(runs, name), strict=True) if run.seed in reference}
    difference = paired_difference(list(own.values()), [reference[seed] for seed in own])
    places = _places(name)
    margin = "" if difference.margin is None else f" ± {difference.margin:.{places}f}"
    return f"{difference.mean:+.{places}f}{margin}"


def draw(figures: Sequence[RunFigures], path: Path) -> None:
    """Draw what is compared of every run, with mean and standard deviation per variant.

    Raises:
        ImportError: without matplotlib.
    """
    from matplotlib.figure import Figure

    variants = list(dict.fromkeys(run.variant for run in figures))
    name = compared_by(figures)
    metric = METRICS[name]
    figure = Figure(figsize=(1.6 + 1.1 * len(variants), 3.6), layout="constrained")
    axes = figure.add_subplot()
    for position, variant in enumerate(variants):
        values = _values([run for run in figures if run.variant == variant], name)
        found = spread(values)
        axes.plot([position] * len(values), values, "o", color="0.65", markersize=4, zorder=1)
        axes.errorbar(position + 0.15, found.mean, yerr=found.deviation, fmt="s", color="C0", capsize=3, markersize=5)
    axes.set_xticks(range(len(variants)), [variant.replace("_", "\n") for variant in variants])
    axes.set_xlim(-0.5, len(variants) - 0.3)
    axes.set_ylabel("top-1 accuracy (%)" if name == "top1" else metric.title + " (%)" * metric.is_part)
    axes.set_title("runs, mean ± standard deviation", fontsize="medium")
    axes.grid(axis="y", color="0.9")
    figure.savefig(path, dpi=150)


def matched_intermediate_size(config: DnATransformerConfig) -> int:
    """Width of the MLP with which softmax attention has as many parameters as DnA, to the nearest unit per layer.

    DnA has `2 (C^2 + C) + H` more per attention (with biases), of which there are two in a layer where time and space
    are divided; a unit of the MLP has `2 C + 1`.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    attentions = 2 if getattr(config, "attention_type", None) == "divided_space_time" else 1
    extra = attentions * (2 * (width * width + (width if config.qkv_bias else 0)) + heads)
    return config.intermediate_size + round(extra / (2 * width + 1))
