"""transformers' Trainer, and what it lacks: for all models of this package, and for classifiers."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import Sampler
from transformers import EvalPrediction, Trainer

from ..errors import one_line
from .arguments import ClassifierTrainingArguments, DnATrainingArguments
from .callbacks import BestCheckpoint, LoaderWait
from .class_weights import WeightedLoss
from .diagnostics import check_finite_loss, negative_scale_statistics
from .ema import ExponentialMovingAverage
from .errors import ConfigurationError
from .optimizer import apply_layer_decay, decay_parameter_names
from .schedule import epoch_cosine_schedule, epoch_steps_schedule


class DnATrainer(Trainer):
    """A Trainer for [`~dna_hf.training.arguments.DnATrainingArguments`].

    - Its evaluations leave the random state of training alone: where one falls between a checkpoint and the next step,
      a run resumed from this checkpoint would otherwise shuffle and drop out differently than the uninterrupted one.
    - It decays the wanted parameters and knows the paper's schedules, logs the scales of the negative branch and which
      part of the time went in waiting for data (`loader_wait`), and stops at the first loss that is not finite.

    Args:
        args: positional arguments of `transformers.Trainer`.
        kwargs: named arguments of `transformers.Trainer`.
    """

    args: DnATrainingArguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.loader_wait = LoaderWait()
        self._rows: list[int] | None = None
        self.add_callback(self.loader_wait)
        self.add_callback(BestCheckpoint())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        """The batches of an evaluation: all of them, whatever `dataloader_drop_last` says about those of training."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of the next step; see `transformers.Trainer.get_batch_samples`."""
        with self.loader_wait.waiting():
            return super().get_batch_samples(*args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        """How many numbers the labels of a step have; transformers leaves -100 out, which a regression may aim at."""
        counted = [
            batch | {"labels": torch.zeros_like(batch["labels"])}
            if torch.is_tensor(batch.get("labels")) and batch["labels"].is_floating_point()
            else batch
            for batch in batch_samples
        ]
        return super()._get_num_items_in_batch(counted, device)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Names of the parameters that weight decay applies to."""
        return decay_parameter_names(model, self.args.decay_all)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer; see `transformers.Trainer.create_optimizer`."""
        with _blamed_on("optim"):
            return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate schedule; see `transformers.Trainer.create_scheduler`."""
        if (self.args.epoch_cosine or self.args.epoch_steps) and self.lr_scheduler is None:
            epochs = math.ceil(self.args.num_train_epochs)
            steps_per_epoch = math.ceil(num_training_steps / epochs)
            options: Any = self.args.lr_scheduler_kwargs
            target: Any = optimizer or self.optimizer
            if self.args.epoch_cosine:
                self.lr_scheduler = epoch_cosine_schedule(
                    target, steps_per_epoch=steps_per_epoch, epochs=epochs, **options
                )
            else:
                self.lr_scheduler = epoch_steps_schedule(target, steps_per_epoch=steps_per_epoch, **options)
            self._created_lr_scheduler = True
        with _blamed_on("lr_scheduler_type"):
            return super().create_scheduler(num_training_steps, optimizer)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # a resumed run may have nothing left to do: it stopped early, or its last step was within an epoch
        if not self.control.should_training_stop and self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = dict(inputs)
        rows = inputs.pop("rows", None)
        self._rows = None if rows is None else rows.tolist()
        return super()._prepare_inputs(inputs)

    def training_step(self, model: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch, forward and backward; see `transformers.Trainer.training_step`."""
        with self.loader_wait.working():
            loss = super().training_step(model, *args, **kwargs)
            check_finite_loss(loss, model, self.state.global_step + 1, self._rows)
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate, and leave the random state as it was; see `transformers.Trainer.evaluate`."""
        with torch.random.fork_rng():
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; a training loss comes with the scales of the negative branch and the time spent waiting for data."""
        if "loss" in logs:
            model: Any = self.model
            scales = negative_scale_statistics(model)
            logs = logs | {name: value for name, value in scales.items() if "/layer_" not in name}
            logs["loader_wait"] = self.loader_wait.part()
        super().log(logs, *args, **kwargs)


class ClassificationTrainer(DnATrainer):
    """A Trainer for [`~dna_hf.training.arguments.ClassifierTrainingArguments`].

    It has a collator and a sampler for training alone, learning rates that fall from layer to layer, and evaluates the
    averaged weights too.

    Args:
        args: positional arguments of `transformers.Trainer`.
        train_collator: collates training batches; evaluation has the usual collator.
        train_sampler: draws the training samples; by default the sampler of `transformers.Trainer`.
        average: keeps the averaged weights, if any.
        kwargs: named arguments of `transformers.Trainer`.

    Raises:
        ValueError: for averaged weights under FSDP, where no process has all of them.
    """

    args: ClassifierTrainingArguments

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
        self.average = average
        # of the weights themselves, of the last evaluation after training
        self.prediction: EvalPrediction | None = None
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

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        """What the losses of a step are divided by: with class weights, their sum over its samples."""
        loss = self.compute_loss_func
        if not isinstance(loss, WeightedLoss) or not batch_samples:
            return super()._get_num_items_in_batch(batch_samples, device)
        total = torch.stack([loss.count(batch["labels"]) for batch in batch_samples]).sum().to(device)
        everywhere = self.args.average_tokens_across_devices and self.args.world_size > 1
        return self.accelerator.gather(total).sum() if everywhere else total

    def compute_loss(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss; see `transformers.Trainer.compute_loss`, which is called after the model was set to train."""
        if self.args.freeze:
            self.accelerator.unwrap_model(model).base_model.eval()
        return super().compute_loss(model, *args, **kwargs)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer; see `transformers.Trainer.create_optimizer`."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.layer_decay < 1:
            apply_layer_decay(optimizer, model or self.model, self.args.layer_decay)  # type: ignore[arg-type]
        return optimizer

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average is not None and self.state.best_model_checkpoint is not None:
            self.average.load(Path(self.state.best_model_checkpoint))

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

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate the weights, and the averaged ones if there are any; see `transformers.Trainer.evaluate`."""
        with torch.random.fork_rng(), self._own_precision():
            with self._keeping_prediction():
                metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
            if self.average is not None and self.average.average is not None:
                metrics |= self._evaluate_average(self.average, eval_dataset, f"{metric_key_prefix}_ema")
        return metrics

    @contextmanager
    def _keeping_prediction(self) -> Iterator[None]:
        """Around an evaluation: after training, keep what figures are computed of; within, memory is for training."""
        compute = self.compute_metrics

        def kept(prediction: EvalPrediction) -> dict[str, float]:
            self.prediction = prediction
            return compute(prediction)  # type: ignore[misc]

        if not self.is_in_train and compute is not None:
            self.compute_metrics = kept
        try:
            yield
        finally:
            self.compute_metrics = compute

    @contextmanager
    def _own_precision(self) -> Iterator[None]:
        """Give the model its weights back, which an evaluation in half precision after training casts in place."""
        if self.is_in_train or not (self.args.bf16_full_eval or self.args.fp16_full_eval):
            yield
            return
        model: Any = self.model
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        try:
            yield
        finally:
            model.float().load_state_dict(own)

    def _evaluate_average(self, average: ExponentialMovingAverage, eval_dataset: Any, prefix: str) -> dict[str, float]:
        """Metrics of the averaged weights. Callbacks see one evaluation: that of the weights themselves."""
        model: Any = self.model
        loader = self.get_eval_dataloader(eval_dataset)
        with average.applied_to(model):
            output = self.evaluation_loop(loader, description="Evaluation of the average", metric_key_prefix=prefix)
        metrics = output.metrics or {}
        self.log(metrics)
        return metrics


@contextmanager
def _blamed_on(option: str) -> Iterator[None]:
    """Blame what goes wrong on an option of the `training` section."""
    try:
        yield
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigurationError(f"training.{option}: {one_line(error)}") from error
