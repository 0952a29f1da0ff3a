"""Train a classifier of images or videos with transformers' Trainer."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    PreTrainedModel,
    TrainerCallback,
    set_seed,
)
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import has_length

from ..data.mixing import MixingCollator
from ..data.sampling import RepeatedSampler
from ..errors import one_line
from ..records.checkpoint_records import Measurement, TrainingRun, record_measurement, record_training
from ..records.digest import weights_digest
from ..records.names import checkpoint_origin
from ..records.stamp import peak_memory, stamp, without_secrets
from .callbacks import AugmentationEpoch, EarlyStopping, NegativeScaleLog, RunRecord
from .checkpoint import check_disk, find_checkpoint, weights_size
from .config_file import RunConfig
from .ema import ExponentialMovingAverage
from .errors import ConfigurationError
from .losses import classification_loss
from .tasks import task_of
from .trainer import ClassificationTrainer


# where the averaged weights are saved, as a checkpoint of their own
AVERAGE_FOLDER = "ema"


@dataclass
class TrainingResult:
    """What a finished run has to say.

    Args:
        metrics: of the last evaluation, as the Trainer names them (`eval_loss`, `eval_top1`, `eval_top5`, ...).
        attention_variant: of the model.
        parameters: number of parameters.
        seconds: wall time of training, evaluations included.
        output_dir: where model, processor and code were saved.
    """

    metrics: dict[str, float]
    attention_variant: str
    parameters: int
    seconds: float
    output_dir: Path


def train_classifier(run: RunConfig, *, resume: bool = False) -> TrainingResult:
    """Train, evaluate and save a classifier of images or videos.

    Args:
        run: as [`~dna_hf.training.config_file.run_config`] returns it.
        resume: continue from the last checkpoint in `output_dir`, as if training had never stopped.

    Raises:
        ConfigurationError: before anything is written, if the run cannot work: sizes that do not fit together, an
            output folder that holds another run, nothing to resume from.
        DataError: if data is missing or unreadable.
        NonFiniteError: as soon as a loss is not finite.
    """
    checkpoint = find_checkpoint(run, resume)
    train, evaluation, model, processor = load_run(run)
    check_disk(run, weights_size(model))
    trainer = build_trainer(run, model, processor, train, evaluation)
    start = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.monotonic() - start
    trainer.save_model()
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    trainer.save_state()
    if trainer.average is not None:
        with trainer.average.applied_to(model):
            trainer.save_model(str(run.output_dir / AVERAGE_FOLDER))
    # sharded weights (FSDP) are gathered by all processes together
    weights = trainer.accelerator.get_state_dict(trainer.model)
    if trainer.is_world_process_zero():
        _write_records(run, trainer, weights, train, evaluation, metrics, seconds, checkpoint is not None)
    variant = model.config.attention_variant
    return TrainingResult(metrics, variant, model.num_parameters(), seconds, run.output_dir)


def load_run(run: RunConfig) -> tuple[Any, Any, PreTrainedModel, Any]:
    """What a run begins with: the splits to train on and to evaluate on, the model and its processor.

    Raises:
        ConfigurationError: if the run cannot work.
        DataError: if data is missing.
    """
    if is_deepspeed_zero3_enabled():
        raise ConfigurationError("ZeRO stage 3 is for video LLMs: train a classifier with stage 1 or 2, DDP or FSDP.")
    if run.training.fp16 and run.training.device.type == "cpu":
        raise ConfigurationError("training.fp16 does nothing on the CPU: set fp16 to false, or use bf16.")
    set_seed(run.training.seed)
    train, evaluation = task_of(run).load(run)
    if len(train.class_names) < 2:
        raise ConfigurationError(
            f"data set {run.data.dataset!r} has one class, {train.class_names[0]!r}: there is nothing to learn."
        )
    return train, evaluation, *build_model(run, train.class_names)


def build_model(run: RunConfig, class_names: list[str]) -> tuple[PreTrainedModel, Any]:
    """A fresh model, or one from a checkpoint with a head for the classes of the data, and its processor.

    Raises:
        ConfigurationError: if the configuration is inconsistent, or the checkpoint does not fit it.
    """
    labels = {"id2label": dict(enumerate(class_names)), "label2id": {n: i for i, n in enumerate(class_names)}}
    source, task = run.model_arguments.checkpoint, task_of(run)
    try:
        if source is None:
            config = AutoConfig.for_model(run.model_arguments.model_type, **run.model, **labels)
            return task.auto_model.from_config(config), task.fresh_processor(run, config)
        revision = run.model_arguments.checkpoint_revision
        config = AutoConfig.from_pretrained(source, revision=revision, **run.model, **labels)
        if config.model_type != run.model_arguments.model_type:
            raise ValueError(
                f"checkpoint {source!r} holds a {config.model_type!r} model, but model_type is "
                f"{run.model_arguments.model_type!r}: set model_type, or convert the checkpoint."
            )
        # in float32: half precision is a matter of the training arguments (bf16, fp16), not of the stored weights
        model, info = task.auto_model.from_pretrained(
            source,
            config=config,
            revision=revision,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        processor = task.load_processor(run, config, source, revision)
    except StrictDataclassError as error:
        raise ConfigurationError(f"section 'model': {str(error).strip().splitlines()[-1].strip()}") from error
    except (OSError, ValueError, ImportError) as error:
        raise ConfigurationError(f"section 'model': {str(error).strip().splitlines()[0]}") from error
    task.check_processor(source, processor, config)
    # a new head is what fine-tuning is about; anything else that does not come from the checkpoint is a mistake
    strangers = [*info["missing_keys"], *info["unexpected_keys"], *(key for key, *_ in info["mismatched_keys"])]
    strangers = [key for key in strangers if not key.startswith("classifier.")]
    if strangers:
        raise ConfigurationError(
            f"checkpoint {source!r} does not fit section 'model': {len(strangers)} tensors differ, first "
            f"{sorted(strangers)[0]!r}."
        )
    return model, processor


def _write_records(
    run: RunConfig,
    trainer: ClassificationTrainer,
    weights: dict[str, torch.Tensor],
    train: Any,
    evaluation: Any,
    metrics: dict[str, float],
    seconds: float,
    resumed: bool,
) -> None:
    """Write down how the saved weights were made and what was measured on them, for their model card."""
    task = task_of(run)
    saved = [(run.output_dir, "eval_", weights)]
    if trainer.average is not None:
        saved.append((run.output_dir / AVERAGE_FOLDER, "eval_ema_", trainer.average.model.state_dict()))
    speed = next(e["train_samples_per_second"] for e in reversed(trainer.state.log_history) if "train_runtime" in e)
    for folder, prefix, tensors in saved:
        common: dict[str, Any] = {
            **stamp(),
            "seed": run.training.seed,
            "weights": weights_digest(tensors),
        }
        training = TrainingRun(
            dataset=task.provenance(run.data, train),
            settings=without_secrets(run.sections),
            started_from=checkpoint_origin(origin) if (origin := run.model_arguments.checkpoint) else None,
            seconds=round(seconds, 1),
            samples_per_second=speed,
            peak_memory=peak_memory(),
            resumed=resumed,
            processes=run.training.world_size,
            **common,
        )
        measurement = Measurement(
            task=task.name,
            dataset=task.provenance(run.data, evaluation),
            split=evaluation.name,
            metrics={name: metrics[f"{prefix}{name}"] for name in task.recorded},
            samples=int(metrics[f"{prefix}{task.samples}"]),
            views=task.views(trainer.processing_class),
            **common,
        )
        record_training(folder, training)
        record_measurement(folder, measurement)


def build_trainer(
    run: RunConfig,
    model: PreTrainedModel,
    processor: Any,
    train: Any,
    evaluation: Any,
) -> ClassificationTrainer:
    """The Trainer of a run, with its data sets, metrics and callbacks.

    Raises:
        ConfigurationError: if the Trainer refuses its arguments, e.g. for a tracker that is not installed, or if there
            is no whole batch and others are dropped.
    """
    task = task_of(run)
    train_dataset, eval_dataset = task.datasets(run, train, evaluation, processor)
    batch = run.training.train_batch_size
    if run.training.dataloader_drop_last and has_length(train_dataset) and len(train_dataset) < batch:
        raise ConfigurationError(
            f"training.dataloader_drop_last leaves nothing of {len(train_dataset)} {task.samples}, fewer than a "
            f"batch of {batch}: set it to false, or per_device_train_batch_size to fewer."
        )
    collator = _mixing_collator(run, train_dataset, len(train.class_names))
    callbacks: list[TrainerCallback] = [
        AugmentationEpoch(train_dataset),
        NegativeScaleLog(),
        RunRecord(run.sections),
    ]
    if run.training.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(run.training.early_stopping_patience))
    try:
        return ClassificationTrainer(
            model=model,
            args=run.training,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            compute_metrics=task.metrics,
            compute_loss_func=None if collator is None else classification_loss,
            train_collator=collator,
            train_sampler=_sampler(run, train_dataset),
            average=ExponentialMovingAverage(run.training.ema_decay) if run.training.ema_decay else None,
            callbacks=callbacks,
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise ConfigurationError(f"section 'training': {one_line(error)}") from error


def _sampler(run: RunConfig, dataset: Any) -> RepeatedSampler | None:
    """The sampler of repeated augmentation, `None` for the usual one."""
    repeats = getattr(run.data, "repeated_augmentation", 1)
    if repeats == 1:
        return None
    if run.data.streaming:
        raise ConfigurationError("data.repeated_augmentation needs random access: leave out streaming.")
    seed = run.training.seed if run.training.data_seed is None else run.training.data_seed
    return RepeatedSampler(dataset, repeats, seed)


def _mixing_collator(run: RunConfig, dataset: Any, num_classes: int) -> MixingCollator | None:
    """The collator of training batches, `None` for the usual one: without Mixup, CutMix and label smoothing."""
    data, smoothing = run.data, run.training.label_smoothing_factor
    if not (data.mixup_alpha or data.cutmix_alpha or smoothing):
        return None
    return MixingCollator(
        num_classes,
        mixup_alpha=data.mixup_alpha,
        cutmix_alpha=data.cutmix_alpha,
        probability=data.mix_probability,
        switch_probability=data.mix_switch_probability,
        label_smoothing=smoothing,
        seed=run.training.seed,
        clock=dataset,
    )
