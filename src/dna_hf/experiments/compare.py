"""Train several attention variants under one recipe and several seeds, and say what the difference is.

Every run is a process of its own, `dna-hf train` with the same configuration, data order and augmentation; a
comparison that was stopped goes on where it stopped, within a run, too.
"""

import csv
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig

from .. import models
from ..conversion import ConversionError, from_pretrained_softmax
from ..data.summary import Announce, summarize
from ..errors import must_be_empty, must_be_writable
from ..kinds import kind_of_config
from ..models.attention_variants import ATTENTION_VARIANTS
from ..records.checkpoint_records import read_measurements, read_training
from ..records.complexity import count_macs, count_parameters
from ..training.config_file import ClassifierRun, classifier_run, run_config
from ..training.errors import ConfigurationError
from ..training.tasks import task_of
from ..training.yaml_file import read_record, read_sections
from ..whole_files import whole_file
from .summary import BASELINE, MATCHED, RunFigures, matched_intermediate_size, summary


RECORD = "compare.yaml"
RUNS_FILE = "runs.csv"
SUMMARY_FILE = "summary.md"
FIGURE_FILE = "summary.png"
LOG_FILE = "log.txt"


def compare(
    config: str | Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    output_dir: str | Path,
    *,
    overrides: dict[str, Any] | None = None,
    param_matched: bool = False,
    report: Callable[[str], object] = lambda line: None,
    announce: Announce | None = None,
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
        announce: called before the first run, with what the data holds and with facts about the runs.

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
    train, evaluation = task_of(run).load(run)
    if evaluation is None:
        raise ConfigurationError(
            "a comparison needs a split to evaluate on: set data.eval_split, or training.eval_strategy to epoch."
        )
    if announce is not None:
        announce(summarize(run.data, [train, evaluation]), _facts(run, names, seeds))
    _record(output_dir, sections)
    figures = []
    for name in names:
        changes = _changes(name, run, output_dir)
        for seed in seeds:
            folder = output_dir / name / f"seed{seed}"
            _train(config, overrides | changes | {"seed": seed, "data_seed": seed}, folder, report)
            figures.append(_figures(name, seed, folder))
    _write_runs(output_dir / RUNS_FILE, figures)
    with whole_file(output_dir / SUMMARY_FILE) as unfinished:
        unfinished.write_text(summary(figures) + "\n", encoding="utf-8")
    return figures


def _facts(run: ClassifierRun, names: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, str]]:
    """Name and value of what is compared, as text for a table."""
    args = run.training
    length = f"{args.max_steps:,} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    facts = [
        ("variants", ", ".join(names)),
        ("seeds", ", ".join(map(str, seeds))),
        ("runs", f"{len(names) * len(seeds)}, each of {length}"),
        ("device", str(args.device)),
    ]
    source = run.model_arguments.checkpoint
    return facts if source is None else [("from", source), *facts]


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
    with whole_file(path) as unfinished:
        unfinished.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


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
        top1=measurement.metrics.get("top1"),
        loss=measurement.metrics["loss"],
        parameters=count_parameters(model_class, config),
        macs=count_macs(model_class, config),
        seconds=training.seconds,
        samples_per_second=training.samples_per_second,
        peak_memory=training.peak_memory,
        resumed=training.resumed,
        **{name: measurement.metrics.get(name) for name in ("mean_class_accuracy", "map", "f1_macro", "r2", "rmse")},
    )


def _write_runs(path: Path, figures: Sequence[RunFigures]) -> None:
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(figures[0].by_name()))
        writer.writeheader()
        writer.writerows(run.by_name() for run in figures)
