"""How fast a run reads its data, and whether that is fast enough for its model.

Measured with the data sets, the loader and the Trainer of the run itself: reading alone, as configured; the same on
one core of this process; training steps on one batch, again and again. Nothing is written where the run would write.
"""

import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler
from transformers import PrinterCallback, TrainerCallback

from ..data.errors import DataError
from ..data.provenance import DatasetRecord
from ..data.unreadable import BAD_LIST, read_bad_list
from ..records.stamp import processor_name, stamp, without_secrets
from ..training.classification import build_trainer, load_run
from ..training.config_file import AnyRun, classifier_run, run_config
from ..training.errors import ConfigurationError
from ..training.tasks import task_of
from ..training.trainer import ClassificationTrainer


REPEATS = 5
# training steps before those that count: the first ones allocate memory and compile
WARM_UP = 2
# how many times faster than training reading must be: both vary
ENOUGH = 1.2
# a run that trains, and does nothing else, until it is stopped
MEASURED_RUN: dict[str, Any] = {
    "max_steps": 10**9,
    "eval_strategy": "no",
    "save_strategy": "no",
    "logging_strategy": "no",
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "push_to_hub": False,
    "report_to": "none",
    "disable_tqdm": True,
    # workers that outlived their measurement would disturb the next one
    "dataloader_persistent_workers": False,
}


@dataclass(frozen=True)
class Speed:
    """Samples per second, measured several times.

    Args:
        per_second: median of the repeats, in samples per second.
        lowest: lowest of the repeats, in samples per second.
        highest: highest of the repeats, in samples per second.
        samples: number of samples that were counted in all repeats.
        seconds: seconds that all repeats took.
    """

    per_second: float
    lowest: float
    highest: float
    samples: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DataBenchmark:
    """How fast a run reads and trains.

    Args:
        command: the command that measured it.
        date: date and time of the measurement, in UTC.
        environment: machine and versions of the packages.
        processor: name of the CPU.
        cores: number of cores that this process may use.
        threads: number of threads of torch in this process.
        device: device that was trained on.
        dataset: data set that was read.
        settings: sections of the configuration, as given.
        samples: `"images"` or `"videos"`.
        batch_size: number of samples in a batch of the loader.
        workers: number of processes of the loader; 0: the training process reads.
        reading: speed of the loader alone.
        one_core: speed of reading in one process with one thread.
        decoding: part of the time on one core spent on reading and decoding frames, the rest being augmentation;
            `None` for images.
        training: speed of training steps without reading.
        ratio: speed of reading, relative to that of training.
        feeds: whether the loader keeps up with the model.
        workers_needed: number of workers with which the loader would keep up, by the speed on one core.
        unreadable: path of each sample that could not be read -> why.
    """

    command: str
    date: str
    environment: dict[str, str]
    processor: str
    cores: int
    threads: int
    device: str
    dataset: DatasetRecord
    settings: dict[str, dict[str, Any]]
    samples: str
    batch_size: int
    workers: int
    reading: Speed
    one_core: Speed
    decoding: float | None
    training: Speed
    ratio: float
    feeds: bool
    workers_needed: int
    unreadable: dict[str, str] = field(default_factory=dict)

    def verdict(self) -> str:
        """Whether the loader feeds the model, in one sentence."""
        needed = f"{self.workers_needed} worker{'s' if self.workers_needed > 1 else ''} would"
        if self.feeds:
            return f"yes: it reads {self.ratio:.1f} times as fast as the model trains ({needed}, too)"
        if not self.workers:
            return f"no: with dataloader_num_workers 0, nothing is read while the model trains ({needed})"
        return f"no: it reads {self.ratio:.2f} times as fast as the model trains ({needed})"


class Stopwatch:
    """Counts samples for a while; its first lap starts it.

    Args:
        seconds: seconds to count for, at least.
        laps: number of laps to count, at least.
    """

    def __init__(self, seconds: float, laps: int = REPEATS) -> None:
        self.seconds = seconds
        self.laps = laps
        self.times: list[float] = []
        self.samples: list[int] = []

    def lap(self, samples: int) -> bool:
        """Count samples; says whether it has been long enough."""
        self.times.append(time.perf_counter())
        self.samples.append(samples)
        return len(self.times) > self.laps and self.times[-1] - self.times[0] >= self.seconds

    def speed(self) -> Speed:
        """The speed in each of `REPEATS` parts with equally many laps, as far as they divide."""
        laps = len(self.times) - 1
        ends = [round(laps * part / REPEATS) for part in range(REPEATS + 1)]
        speeds = [
            sum(self.samples[start + 1 : end + 1]) / (self.times[end] - self.times[start])
            for start, end in zip(ends, ends[1:], strict=False)
        ]
        return Speed(
            per_second=statistics.median(speeds),
            lowest=min(speeds),
            highest=max(speeds),
            samples=sum(self.samples[1:]),
            seconds=self.times[-1] - self.times[0],
        )


def speed_rows(result: DataBenchmark) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header and the rows of a table of the speeds."""
    name = result.samples
    speeds = [
        (f"reading, {result.workers or 'no'} worker{'s' if result.workers != 1 else ''}", result.reading),
        ("reading, one core", result.one_core),
        (f"training, {result.device}", result.training),
    ]
    return (f"{name} of {result.batch_size} a batch", f"{name}/s", "spread", "measured on"), [
        (what, f"{speed.per_second:.4g}", f"{speed.lowest:.4g} to {speed.highest:.4g}", str(speed.samples))
        for what, speed in speeds
    ]


def fact_rows(result: DataBenchmark) -> list[tuple[str, str]]:
    """What the speeds mean, and where they were measured: name and value, as text."""
    facts = [("reading / training", f"{result.ratio:.2f}"), ("does the loader feed the model", result.verdict())]
    if result.decoding is not None:
        facts.append(("part of decoding in reading", f"{100 * result.decoding:.0f} %"))
    return [
        *facts,
        ("processor", f"{result.processor}, {result.cores} cores, {result.threads} threads of torch"),
    ]


def benchmark_data(run: AnyRun, seconds: float) -> DataBenchmark:
    """Measure how fast a run reads and trains.

    Args:
        run: the run, as [`~dna_hf.training.config_file.run_config`] returns it.
        seconds: seconds that each of the three measurements takes, at least.

    Raises:
        ConfigurationError: if the run cannot work, or would take several processes.
        DataError: if data is missing or unreadable.
        NonFiniteError: if a loss is not finite.
    """
    run = classifier_run(run)
    if run.training.world_size > 1:
        raise ConfigurationError(
            "the speed of one process is measured: run `dna-hf benchmark data` without a launcher."
        )
    with tempfile.TemporaryDirectory() as folder:
        measured = classifier_run(run_config(run.sections, MEASURED_RUN | {"output_dir": folder}))
        train, evaluation, model, processor = load_run(measured)
        trainer = build_trainer(measured, model, processor, train, evaluation)
        if not isinstance(trainer.train_dataset, IterableDataset):
            # the epochs of a small data set would be over before reading is at its speed
            trainer.train_sampler = EndlessSampler(trainer._get_train_sampler())
        reading, batch = _read(trainer, seconds)
        one_core, decoding = _read_on_one_core(trainer, seconds)
        training = _train(trainer, batch, seconds)
        unreadable = read_bad_list(Path(folder, BAD_LIST))
    workers, ratio = run.training.dataloader_num_workers, reading.per_second / training.per_second
    return DataBenchmark(
        **stamp(),
        processor=processor_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=str(run.training.device),
        dataset=task_of(run).provenance(run.data, train),
        settings=without_secrets(run.sections),
        samples=run.kind.unit,
        batch_size=run.training.train_batch_size,
        workers=workers,
        reading=reading,
        one_core=one_core,
        decoding=decoding,
        training=training,
        ratio=ratio,
        feeds=workers > 0 and ratio >= ENOUGH,
        workers_needed=math.ceil(ENOUGH * training.per_second / one_core.per_second),
        unreadable=unreadable,
    )


class EndlessSampler(Sampler):
    """One epoch of a sampler after the other."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self.sampler


def _endless(loader: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The batches of a loader, from the start again when it ends, as that of a stream does."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise DataError("the training split has fewer samples than a batch: lower per_device_train_batch_size.")


def _read(trainer: ClassificationTrainer, seconds: float) -> tuple[Speed, dict[str, Any]]:
    """The speed of the loader that training has, and one of its batches."""
    # with several workers, batches come in groups
    group = max(trainer.args.dataloader_num_workers, 1)
    batches = _endless(trainer.get_train_dataloader())
    for _ in range(group):
        batch = next(batches)
    watch = Stopwatch(seconds, REPEATS * group)
    watch.lap(0)
    for batch in batches:
        if watch.lap(len(batch["labels"])):
            break
    return watch.speed(), batch


def _read_on_one_core(trainer: ClassificationTrainer, seconds: float) -> tuple[Speed, float | None]:
    """The speed of reading in this process with one thread, and the part of it that decoding videos takes."""
    dataset: Any = trainer.train_dataset
    loader: DataLoader = DataLoader(
        dataset,
        batch_size=trainer.args.train_batch_size,
        sampler=None if isinstance(dataset, IterableDataset) else trainer.train_sampler,
        collate_fn=trainer.train_collator or trainer.data_collator,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        batches = _endless(loader)
        next(batches)
        reader = getattr(dataset, "reader", None)
        if reader is not None:
            reader = dataset.reader = _TimedReader(reader)
        watch = Stopwatch(seconds)
        watch.lap(0)
        for batch in batches:
            if watch.lap(len(batch["labels"])):
                break
    finally:
        torch.set_num_threads(threads)
    speed = watch.speed()
    return speed, None if reader is None else reader.seconds / speed.seconds


class _TimedReader:
    """Times a [`~dna_hf.data.videos.VideoReader`]."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.seconds = 0.0

    def read(self, *args: Any) -> torch.Tensor:
        """Frames of a clip."""
        start = time.perf_counter()
        try:
            return self.reader.read(*args)
        finally:
            self.seconds += time.perf_counter() - start


def _train(trainer: ClassificationTrainer, batch: dict[str, Any], seconds: float) -> Speed:
    """The speed of training on one batch, which lies where the model is."""
    clock = _StepClock(seconds, len(batch["labels"]) * trainer.args.gradient_accumulation_steps)
    trainer.add_callback(clock)
    # it would print what a finished run has to say
    trainer.remove_callback(PrinterCallback)
    trainer.get_train_dataloader = lambda: DataLoader(_RepeatedBatch(batch), batch_size=None)  # type: ignore[method-assign]
    trainer.train()
    return clock.watch.speed()


class _RepeatedBatch(IterableDataset):
    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self.batch


class _StepClock(TrainerCallback):
    """Times training steps, the first ones excepted, and stops training."""

    def __init__(self, seconds: float, samples: int) -> None:
        self.watch = Stopwatch(seconds)
        self.samples = samples

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after every step. The loss has been read back: a GPU is done with what it stands for."""
        if state.global_step >= WARM_UP and self.watch.lap(self.samples):
            control.should_training_stop = True
