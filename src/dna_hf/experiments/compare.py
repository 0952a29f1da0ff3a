"""Train several attention variants under one recipe and several seeds, and say what the difference is.

Every run is a process of its own, `dna-hf train` with the same configuration, data order and augmentation; a
comparison that was stopped goes on where it stopped, within a run, too.
"""

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig

from .. import models
from ..conversion import ConversionError, from_pretrained_softmax
from ..errors import must_be_empty, must_be_writable
from ..kinds import kind_of_config
from ..models.attention_variants import ATTENTION_VARIANTS
from ..models.configuration_dna import DnATransformerConfig
from ..records.checkpoint_records import read_measurements, read_training
from ..records.complexity import count_macs, count_parameters
from ..training.config_file import ClassifierRun, classifier_run, run_config
from ..training.errors import ConfigurationError
from ..training.yaml_file import read_record, read_sections
from .statistics import paired_difference, spread


BASELINE = "softmax"
# softmax attention, with its MLP widened until it has the parameters of DnA
MATCHED = "softmax_matched"
RECORD = "compare.yaml"
RUNS_FILE = "runs.csv"
SUMMARY_FILE = "summary.md"
FIGURE_FILE = "summary.png"
LOG_FILE = "log.txt"


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


def compare(
    config: str | Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    output_dir: str | Path,
    *,
    overrides: dict[str, Any] | None = None,
    param_matched: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> list[RunFigures]:
    """Run a comparison, or what is left of it.

    Args:
        config: path or name of the recipe, as for `dna-hf train`; with `model.checkpoint`, a softmax vision or video
            transformer that every variant is converted from (see [`~dna_hf.conversion.from_pretrained_softmax`]);
            else every run is fresh.
        variants: attention variants to train.
        seeds: seeds; every variant is trained with each of them.
        output_dir: folder that gets a folder per run, and the results.
        overrides: keys of the configuration with other values, for all runs.
        param_matched: also train softmax attention with an MLP widened to DnA's number of parameters.
        report: function that is told in a line when a run starts, continues, or was finished before; by default
            nobody is told.

    Returns:
        The figures of all runs, variant by variant.

    Raises:
        ConfigurationError: before anything is trained, if the description is wrong or the folder has another
            comparison; or if a run fails, naming its log.
    """
    output_dir, overrides = Path(output_dir), dict(overrides or {})
    _check(variants, seeds, overrides, param_matched)
    run = classifier_run(run_config(read_sections(config), overrides | {"output_dir": str(output_dir)}))
    if run.training.push_to_hub:
        raise ConfigurationError("a comparison publishes none of its runs: leave push_to_hub out.")
    sections = run.sections
    checkpoint = sections["model"].get("checkpoint")
    if checkpoint is not None and param_matched:
        raise ConfigurationError("param_matched widens a fresh model: it does not go with model.checkpoint.")
    names = [*variants, *([MATCHED] if param_matched else [])]
    _record(output_dir, sections)
    figures = []
    for name in names:
        changes = _changes(name, run, output_dir)
        for seed in seeds:
            folder = output_dir / name / f"seed{seed}"
            _train(config, overrides | changes | {"seed": seed, "data_seed": seed}, folder, report)
            figures.append(_figures(name, seed, folder))
    _write_runs(output_dir / RUNS_FILE, figures)
    (output_dir / SUMMARY_FILE).write_text(summary(figures) + "\n", encoding="utf-8")
    return figures


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


def _check(variants: Sequence[str], seeds: Sequence[int], overrides: dict[str, Any], param_matched: bool) -> None:
    unknown = [variant for variant in variants if variant not in ATTENTION_VARIANTS]
    if unknown or not variants:
        raise ConfigurationError(
            f"unknown variant {unknown[0] if unknown else ''!r}: choose among {', '.join(ATTENTION_VARIANTS)}."
        )
    for what, values in (("variant", variants), ("seed", seeds)):
        if len(set(values)) < len(values) or not values:
            raise ConfigurationError(f"give every {what} once: {', '.join(map(str, values)) or 'there is none'}.")
    if param_matched and BASELINE not in variants:
        raise ConfigurationError(f"param_matched is compared with {BASELINE}: put it among the variants.")
    fixed = sorted({"attention_variant", "seed", "data_seed", "output_dir"} & overrides.keys())
    if fixed:
        raise ConfigurationError(f"the comparison sets {fixed[0]} itself: leave --{fixed[0]} out.")


def _record(output_dir: Path, sections: dict[str, dict[str, Any]]) -> None:
    """Keep the recipe beside the results, and refuse to mix it with another one."""
    path = output_dir / RECORD
    content = {name: dict(values) for name, values in sections.items()}
    content["training"].pop("output_dir", None)
    if path.exists():
        must_be_writable(output_dir, ConfigurationError)
        earlier = read_record(path)
        for name, values in content.items():
            before = earlier[name]
            changed = sorted(key for key in before.keys() | values.keys() if before.get(key) != values.get(key))
            if changed:
                key = changed[0]
                raise ConfigurationError(
                    f"the comparison in {str(output_dir)!r} has {name}.{key} = {before.get(key)!r}, not "
                    f"{values.get(key)!r}: choose another --output_dir."
                )
        return
    must_be_empty(output_dir, ConfigurationError, "it holds no comparison to go on with; choose another --output_dir")
    output_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _changes(name: str, run: ClassifierRun, output_dir: Path) -> dict[str, Any]:
    """What a variant changes in the configuration."""
    variant = BASELINE if name == MATCHED else name
    if run.model_arguments.checkpoint is not None:
        folder = output_dir / "converted" / variant
        if not (folder / "config.json").exists():
            _convert(run, variant, folder)
        return {"checkpoint": str(folder)}
    if name != MATCHED:
        return {"attention_variant": variant}
    config: Any = AutoConfig.for_model(run.kind.model_type, **run.model | {"attention_variant": "dna"})
    return {"attention_variant": variant, "intermediate_size": matched_intermediate_size(config)}


def _convert(run: ClassifierRun, variant: str, folder: Path) -> None:
    checkpoint = str(run.model_arguments.checkpoint)
    try:
        conversion = from_pretrained_softmax(
            checkpoint, attention_variant=variant, image_size=run.model.get("image_size"), dtype=torch.float32
        )
    except ConversionError as error:
        raise ConfigurationError(f"model.checkpoint: {error}") from error
    found = kind_of_config(conversion.model.config)
    if found is None or found is not run.kind:
        becomes = "a part of a model" if found is None else found.with_article
        raise ConfigurationError(
            f"model.checkpoint: {checkpoint!r} becomes {becomes}, but {run.kind.with_article} is trained: set "
            "model_type, or choose another checkpoint."
        )
    # under its own name only when it is whole
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    conversion.save_pretrained(staging)
    staging.rename(folder)


def _train(config: str | Path, overrides: dict[str, Any], folder: Path, report: Callable[[str], object]) -> None:
    """Train one run in a process of its own, unless it is finished.

    Raises:
        ConfigurationError: if the process fails.
    """
    if _finished(folder):
        report(f"{folder}: finished before")
        return
    resume = any(folder.glob("checkpoint-*"))
    if folder.exists() and not resume:
        shutil.rmtree(folder)  # of a run that was stopped before its first checkpoint
    report(f"{folder}: {'continues' if resume else 'starts'}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}-{LOG_FILE}")
    words = [
        f"--{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}" for key, value in overrides.items()
    ]
    command = [sys.executable, "-m", "dna_hf", "train", str(config), *words, "--output_dir", str(folder)]
    with log.open("a", encoding="utf-8") as file:
        code = subprocess.run([*command, *(["--resume"] if resume else [])], stdout=file, stderr=file).returncode
    if code != 0:
        lines = log.read_text(encoding="utf-8").strip().splitlines()
        raise ConfigurationError(
            f"the run in {str(folder)!r} failed (see {str(log)!r}): {lines[-1] if lines else code}"
        )


def _finished(folder: Path) -> bool:
    return read_training(folder) is not None and bool(read_measurements(folder))


def _figures(variant: str, seed: int, folder: Path) -> RunFigures:
    config = AutoConfig.from_pretrained(folder)
    model_class = getattr(models, config.architectures[0])
    training, (measurement, *_) = read_training(folder), read_measurements(folder)
    assert training is not None
    return RunFigures(
        variant=variant,
        seed=seed,
        top1=measurement.metrics["top1"],
        loss=measurement.metrics["loss"],
        parameters=count_parameters(model_class, config),
        macs=count_macs(model_class, config),
        seconds=training.seconds,
        samples_per_second=training.samples_per_second,
        peak_memory=training.peak_memory,
        resumed=training.resumed,
        mean_class_accuracy=measurement.metrics.get("mean_class_accuracy"),
    )


def _difference(runs: list[RunFigures], baseline: list[RunFigures] | None) -> str:
    """Paired by seed."""
    if baseline is None:
        return "no softmax run"
    reference = {run.seed: run.top1 for run in baseline}
    pairs = [(100 * run.top1, 100 * reference[run.seed]) for run in runs if run.seed in reference]
    difference = paired_difference([own for own, _ in pairs], [base for _, base in pairs])
    margin = "" if difference.margin is None else f" ± {difference.margin:.2f}"
    return f"{difference.mean:+.2f}{margin}"


def _write_runs(path: Path, figures: Sequence[RunFigures]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(RunFigures)])
        writer.writeheader()
        writer.writerows(asdict(run) for run in figures)
