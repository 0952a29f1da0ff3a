"""What a comparison found: figures of its runs, their table and their figure. Pure arithmetic: it trains nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models.configuration_dna import DnATransformerConfig
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
        top1: accuracy on the evaluation split, in [0, 1].
        loss: mean cross entropy on the evaluation split, in nats.
        parameters: number of parameters of the model.
        macs: multiply-accumulates of one image or video.
        seconds: wall time of training, evaluations included.
        samples_per_second: images or videos per second in training, evaluations included.
        resumed: whether the run was stopped in between; then its times are not those of the whole run.
        peak_memory: largest memory of the training process, in bytes: on the GPU where there is one, else on the CPU.
        mean_class_accuracy: mean of the accuracies of the classes, in [0, 1]; `None` where the task records none.
    """

    variant: str
    seed: int
    top1: float
    loss: float
    parameters: int
    macs: int
    seconds: float
    samples_per_second: float
    peak_memory: int
    resumed: bool
    mean_class_accuracy: float | None = None


def summary(figures: Sequence[RunFigures]) -> str:
    """A Markdown table of the variants: accuracy over seeds, difference to softmax, and costs."""
    by_variant: dict[str, list[RunFigures]] = {}
    for run in figures:
        by_variant.setdefault(run.variant, []).append(run)
    by_class = all(run.mean_class_accuracy is not None for run in figures)
    columns = ["variant", "runs", "top-1, mean ± standard deviation", "difference to softmax, 95 % interval"]
    columns += ["mean class accuracy, mean ± standard deviation"] if by_class else []
    columns += ["parameters", "MACs", "training time", "samples/s", "peak memory"]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    baseline = by_variant.get(BASELINE)
    for variant, runs in by_variant.items():
        cells = [
            variant,
            str(len(runs)),
            _percent([run.top1 for run in runs]),
            _difference(runs, baseline) if variant != BASELINE else "",
            *([_percent([run.mean_class_accuracy or 0.0 for run in runs])] if by_class else []),
            f"{runs[0].parameters:,}",
            f"{runs[0].macs / 1e6:,.1f} M",
            *_times([run for run in runs if not run.resumed]),
            f"{max(run.peak_memory for run in runs) / 2**20:,.0f} MiB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(values: Sequence[float]) -> str:
    """Mean and standard deviation of values in [0, 1]."""
    found = spread([100 * value for value in values])
    return f"{found.mean:.2f}" + (f" ± {found.deviation:.2f}" if found.deviation is not None else "") + " %"


def _times(whole: list[RunFigures]) -> tuple[str, str]:
    """Mean training time and throughput of runs that were not stopped in between."""
    if not whole:
        return "not measured (resumed)", "not measured (resumed)"
    seconds = spread([run.seconds for run in whole]).mean
    return f"{seconds:.0f} s", f"{spread([run.samples_per_second for run in whole]).mean:.0f}"


def _difference(runs: list[RunFigures], baseline: list[RunFigures] | None) -> str:
    """Paired by seed."""
    if baseline is None:
        return "no softmax run"
    reference = {run.seed: run.top1 for run in baseline}
    pairs = [(100 * run.top1, 100 * reference[run.seed]) for run in runs if run.seed in reference]
    difference = paired_difference([own for own, _ in pairs], [base for _, base in pairs])
    margin = "" if difference.margin is None else f" ± {difference.margin:.2f}"
    return f"{difference.mean:+.2f}{margin}"


def draw(figures: Sequence[RunFigures], path: Path) -> None:
    """Draw the accuracy of every run, with mean and standard deviation per variant.

    Raises:
        ImportError: without matplotlib.
    """
    from matplotlib.figure import Figure

    variants = list(dict.fromkeys(run.variant for run in figures))
    figure = Figure(figsize=(1.6 + 1.1 * len(variants), 3.6), layout="constrained")
    axes = figure.add_subplot()
    for position, variant in enumerate(variants):
        values = [100 * run.top1 for run in figures if run.variant == variant]
        top1 = spread(values)
        axes.plot([position] * len(values), values, "o", color="0.65", markersize=4, zorder=1)
        axes.errorbar(position + 0.15, top1.mean, yerr=top1.deviation, fmt="s", color="C0", capsize=3, markersize=5)
    axes.set_xticks(range(len(variants)), [variant.replace("_", "\n") for variant in variants])
    axes.set_xlim(-0.5, len(variants) - 0.3)
    axes.set_ylabel("top-1 accuracy (%)")
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
