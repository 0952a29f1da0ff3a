"""transformers' Trainer, and what it lacks for image classification."""

import csv
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.utils import logging

from ..evaluation.records import without_secrets
from .arguments import DnATrainingArguments
from .diagnostics import check_finite_loss, negative_scale_statistics
from .ema import ExponentialMovingAverage
from .optimizer import apply_layer_decay, decay_parameter_names
from .schedule import epoch_cosine_schedule


RUN_FILE = "run.yaml"
SCALES_FILE = "negative_scale.csv"
# part of the training time spent waiting for data from which on a run says so
LOADER_BOUND = 0.2
logger = logging.get_logger(__name__)


class ImageClassificationTrainer(Trainer):
    """A Trainer for [`~dna_hf.training.arguments.DnATrainingArguments`].

    - Its evaluations leave the random state of training alone: where one falls between a checkpoint and the next step,
      a run resumed from this checkpoint would otherwise shuffle and drop out differently than the uninterrupted one.
    - It has a collator and a sampler for training alone, parameter groups with the wanted decay and learning rates,
      evaluates the averaged weights too, logs the scales of the negative branch and which part of the time went in
      waiting for data (`loader_wait`), and stops at the first loss that is not finite.

    Args:
        train_collator: collates training batches; evaluation has the usual one.
        train_sampler: draws the training images; by default that of `transformers.Trainer`.
        average: keeps the averaged weights, if any.
        args, kwargs: of `transformers.Trainer`.

    Raises:
        ValueError: for averaged weights under FSDP, where no process has all of them.
    """

    args: DnATrainingArguments

    def __init__(
        self,
        *args: Any,
        train_collator: Callable | None = None,
        train_sampler: Sampler | None = None,
        average: ExponentialMovingAverage | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if average is not None and self.is_fsdp_enabled:
            raise ValueError("ema_decay does not work with FSDP: set it to 0.")
        self.train_collator = train_collator
        self.train_sampler = train_sampler
        self.loader_wait = LoaderWait()
        self.average = average
        self._rows: list[int] | None = None
        self.add_callback(self.loader_wait)
        if average is not None:
            self.add_callback(average)

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """The training batches; see `transformers.Trainer.get_train_dataloader`."""
        usual = self.data_collator
        self.data_collator = self.train_collator or usual
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = usual

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return self.train_sampler or super()._get_train_sampler(train_dataset)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of the next step; see `transformers.Trainer.get_batch_samples`."""
        with self.loader_wait.waiting():
            return super().get_batch_samples(*args, **kwargs)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Names of the parameters that weight decay applies to."""
        return decay_parameter_names(model, self.args.decay_all)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer; see `transformers.Trainer.create_optimizer`."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.layer_decay < 1:
            apply_layer_decay(optimizer, model or self.model, self.args.layer_decay)  # type: ignore[arg-type]
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate schedule; see `transformers.Trainer.create_scheduler`."""
        if self.args.epoch_cosine and self.lr_scheduler is None:
            epochs = math.ceil(self.args.num_train_epochs)
            options: Any = self.args.lr_scheduler_kwargs
            target: Any = optimizer or self.optimizer
            self.lr_scheduler = epoch_cosine_schedule(
                target, steps_per_epoch=math.ceil(num_training_steps / epochs), epochs=epochs, **options
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = dict(inputs)
        rows = inputs.pop("rows", None)
        self._rows = None if rows is None else rows.tolist()
        return super()._prepare_inputs(inputs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save; see `transformers.Trainer._save`.

        `fully_shard` gives the model a class made in a module of torch, and transformers would save the code of that
        module with the checkpoint (`custom_object_save`) instead of the model's.
        """
        model: Any = self.accelerator.unwrap_model(self.model)
        sharded = type(model)
        if isinstance(model, FSDPModule):
            model.__class__ = sharded.__mro__[2]  # FSDPName, FSDPModule, Name
        try:
            super()._save(output_dir, state_dict)
        finally:
            model.__class__ = sharded

    def training_step(self, model: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch, forward and backward; see `transformers.Trainer.training_step`."""
        with self.loader_wait.working():
            loss = super().training_step(model, *args, **kwargs)
            check_finite_loss(loss, model, self.state.global_step + 1, self._rows)
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate the weights, and the averaged ones if there are any; see `transformers.Trainer.evaluate`."""
        with torch.random.fork_rng():
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
            if self.average is not None and self.average.average is not None:
                metrics |= self._evaluate_average(self.average, eval_dataset, f"{metric_key_prefix}_ema")
        return metrics

    def _evaluate_average(self, average: ExponentialMovingAverage, eval_dataset: Any, prefix: str) -> dict[str, float]:
        """Metrics of the averaged weights. Callbacks see one evaluation: that of the weights themselves."""
        model: Any = self.model
        loader = self.get_eval_dataloader(eval_dataset)
        with average.applied_to(model):
            output = self.evaluation_loop(loader, description="Evaluation of the average", metric_key_prefix=prefix)
        metrics = output.metrics or {}
        self.log(metrics)
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; a training loss comes with the scales of the negative branch and the time spent waiting for data."""
        if "loss" in logs:
            model: Any = self.model
            scales = negative_scale_statistics(model)
            logs = logs | {name: value for name, value in scales.items() if "/layer_" not in name}
            logs["loader_wait"] = self.loader_wait.part()
        super().log(logs, *args, **kwargs)


class LoaderWait(TrainerCallback):
    """Measures how long training waits for its data, and says so at the end where that is long.

    The loss is read back after every micro-batch: the work of a GPU is done by then, and counts as work.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self.worked = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around whatever waits for data."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around forward and backward passes."""
        start = time.monotonic()
        yield
        self.worked += time.monotonic() - start

    def part(self) -> float:
        """Time spent waiting, as a part of the time spent waiting or working."""
        return self.waited / max(self.waited + self.worked, 1e-9)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called once before the first batch is read."""
        self.waited = self.worked = 0.0

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called once after the last step."""
        if self.part() > LOADER_BOUND:
            logger.warning(
                f"training spent {self.part():.0%} of its time waiting for data: raise dataloader_num_workers "
                f"(now {args.dataloader_num_workers}), or make the images smaller."
            )


class AugmentationEpoch(TrainerCallback):
    """Tells the training data which epoch it is in; the augmentation is seeded by it."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the first batch of an epoch is read, and again when a run resumes within one."""
        self.dataset.set_epoch(int(state.epoch or 0))


class NegativeScaleLog(TrainerCallback):
    """Writes alpha of every layer and head to a file at the end of every epoch (columns epoch, layer, head, value)."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after the last step of an epoch."""
        scales = negative_scale_statistics(kwargs["model"])
        if not state.is_world_process_zero or not scales:
            return
        path, epoch = Path(args.output_dir, SCALES_FILE), f"{state.epoch:g}"
        # a resumed run repeats the epoch in which it was stopped
        kept = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                kept = [row for row in csv.reader(file) if row[0] != "epoch" and float(row[0]) < float(epoch)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("epoch", "layer", "head", "value"))
            writer.writerows(kept)
            for name, value in scales.items():
                if "/layer_" in name:
                    _, layer, head = name.split("/")
                    writer.writerow((epoch, layer.removeprefix("layer_"), head.removeprefix("head_"), value))


class RunRecord(TrainerCallback):
    """Writes the sections of the run beside its first checkpoint, so that a resumed run can be compared with it."""

    def __init__(self, sections: dict[str, dict[str, Any]]) -> None:
        self.sections = sections

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after a checkpoint was written."""
        path = Path(args.output_dir, RUN_FILE)
        if state.is_world_process_zero and not path.exists():
            path.write_text(yaml.safe_dump(without_secrets(self.sections), sort_keys=False), encoding="utf-8")
