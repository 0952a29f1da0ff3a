"""Train a classifier of images or videos with transformers' Trainer."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_utils import has_length
from transformers.utils import logging

from ..data.mixing import MixingCollator
from ..data.problem_types import MULTI_LABEL, SINGLE_LABEL
from ..data.provenance import public_name
from ..data.splits import Split
from ..data.summary import SUMMARY_FILE, Announce, summarize, write_summary
from ..data.unreadable import BAD_LIST, count_unreadable
from ..errors import told_as
from ..evaluation.charts import NO_MATPLOTLIB, draw_confusion, draw_curves, write_confusion
from ..evaluation.image_classification import ClassificationResult
from ..evaluation.problems import problem_of
from ..hub.publish import Published
from ..records.checkpoint_records import Measurement, record_measurement, record_training
from ..records.digest import weights_digest
from ..records.metrics import PROBLEM_METRICS
from ..records.stamp import stamp
from .adapter import write_description
from .callbacks import AugmentationEpoch, DataRecord
from .checkpoint import check_disk, find_checkpoint, weights_size
from .class_weights import WeightedLoss, class_weights
from .common import (
    Outcome,
    blamed_on_training,
    check_publishing,
    check_run,
    publish_result,
    run_callbacks,
    run_facts,
    train_and_evaluate,
    trainer_arguments,
    training_record,
)
from .config_file import AnyRun, ClassifierRun, classifier_run
from .ema import ExponentialMovingAverage
from .errors import ConfigurationError
from .lora import add_lora, check_lora, describe_adapter, merged
from .losses import classification_loss
from .start import start_from
from .tasks import AnyProcessor, TorchDataset, task_of
from .trainer import ClassificationTrainer


# where the averaged weights are saved, as a checkpoint of their own
AVERAGE_FOLDER = "ema"
CONFUSION_FILE = "confusion.csv"
CURVES_FILE = "curves.png"
NOT_EVALUATED = "none: eval_strategy is no, and the data has no split to evaluate on"
logger = logging.get_logger(__name__)


@dataclass
class TrainingResult:
    """What a finished run has to say.

    Args:
        metrics: figures of the last evaluation, as the Trainer names them (`eval_loss`, `eval_top1`, ...); empty where
            nothing was evaluated.
        attention_variant: attention variant of the model.
        parameters: number of parameters of the model.
        seconds: wall time of training, evaluations included.
        output_dir: folder in which model, processor and code were saved.
        split: name of the split that was evaluated on; `None`: of none.
        evaluation: all figures of the last evaluation, `None` where nothing was evaluated.
        unreadable: how many samples of each split could not be read and were left out, by the name of the split.
        published: repository and commit that were published, in the first process of a run with `push_to_hub`.
    """

    metrics: dict[str, float]
    attention_variant: str
    parameters: int
    seconds: float
    output_dir: Path
    split: str | None
    evaluation: ClassificationResult | None
    unreadable: dict[str, int] = field(default_factory=dict)
    published: Published | None = None

    def facts(self) -> list[tuple[str, str]]:
        """What there is to say: name and value, as text."""
        evaluated = [("split", NOT_EVALUATED)]
        if self.split is not None and self.evaluation is not None:
            evaluated = [("split", self.split), *self.evaluation.rows()]
        return [
            ("attention variant", self.attention_variant),
            ("parameters", f"{self.parameters:,}"),
            ("training time", f"{self.seconds:.0f} s"),
            *evaluated,
            *((f"left out of {split}", f"{count:,}, see {BAD_LIST}") for split, count in self.unreadable.items()),
            ("saved in", str(self.output_dir)),
        ]


def train_classifier(run: AnyRun, *, resume: bool = False, announce: Announce | None = None) -> TrainingResult:
    """Train, evaluate and save a classifier of images or videos, and publish it if the run has `push_to_hub`.

    Args:
        run: the run, as [`~dna_hf.training.config_file.run_config`] returns it.
        resume: continue from the last checkpoint in `output_dir`, as if training had never stopped.
        announce: called in the first process, before the first step, with what the data holds and with facts about
            the run.

    Raises:
        ConfigurationError: before anything is written, if the run cannot work: sizes that do not fit together, an
            output folder that holds another run, nothing to resume from.
        DataError: if data is missing or unreadable.
        NonFiniteError: as soon as a loss is not finite.
        PublishError: before anything is read, if the run has `push_to_hub` and the Hub does not know the token; at the
            end, if the Hub refuses the finished model.
    """
    run = classifier_run(run)
    checkpoint = find_checkpoint(run, resume)
    check_lora(run)
    check_publishing(run)
    train, evaluation, model, processor = load_run(run)
    adapter = None
    if run.peft.r is not None:
        adapter = describe_adapter(model, run)
        model = add_lora(model, run)
    check_disk(run, weights_size(model), averages=1 if run.training.ema_decay else 0)
    trainer = build_trainer(run, model, processor, train, evaluation)
    if trainer.is_world_process_zero():
        _summarize(run, trainer, train, evaluation, checkpoint, announce)
    outcome = train_and_evaluate(trainer, checkpoint)
    if trainer.average is not None:
        with trainer.average.applied_to(model):
            trainer.save_model(str(run.output_dir / AVERAGE_FOLDER))
    # sharded weights (FSDP) are gathered by all processes together
    weights = trainer.accelerator.get_state_dict(trainer.model)
    published = None
    split = None if evaluation is None else evaluation.name
    result = None
    if trainer.prediction is not None:
        result = task_of(run).result(problem_of(model.config), trainer.prediction, train.class_names)
    if trainer.is_world_process_zero():
        if adapter is not None:
            write_description(run.output_dir, adapter, model.config)
            weights = merged(model).state_dict()
        _write_records(run, trainer, outcome, weights, train, evaluation)
        _write_charts(run, trainer, result, split)
        published = publish_result(run)
    return TrainingResult(
        metrics=outcome.metrics,
        attention_variant=model.config.attention_variant,
        parameters=model.num_parameters(),
        seconds=outcome.seconds,
        output_dir=run.output_dir,
        split=split,
        evaluation=result,
        unreadable=count_unreadable(run.output_dir / BAD_LIST),
        published=published,
    )


def _summarize(
    run: ClassifierRun,
    trainer: ClassificationTrainer,
    train: Split,
    evaluation: Split | None,
    checkpoint: str | None,
    announce: Announce | None,
) -> None:
    """Say what the run begins with, and see that it is written beside its checkpoints."""
    splits = [train] if evaluation is None else [train, evaluation]
    summary, facts = summarize(run.data, splits), run_facts(trainer, checkpoint)
    if evaluation is None:
        facts.append(("evaluated on", NOT_EVALUATED))
    if announce is not None:
        announce(summary, facts)
    trainer.add_callback(DataRecord(lambda: write_summary(run.output_dir / SUMMARY_FILE, summary, facts)))


def load_run(run: ClassifierRun) -> tuple[Split, Split | None, PreTrainedModel, AnyProcessor]:
    """What a run begins with: the splits to train on and to evaluate on (if any), the model and its processor.

    Raises:
        ConfigurationError: if the run cannot work.
        DataError: if data is missing.
    """
    if is_deepspeed_zero3_enabled():
        raise ConfigurationError("ZeRO stage 3 is for video LLMs: train a classifier with stage 1 or 2, DDP or FSDP.")
    check_run(run)
    if run.training.freeze and run.model_arguments.checkpoint is None:
        raise ConfigurationError(
            f"training.freeze is {run.training.freeze}, but the encoder of a fresh model would stay random: give a "
            "model.checkpoint to start from, or leave freeze out."
        )
    set_seed(run.training.seed)
    train, evaluation = task_of(run).load(run)
    check_problem(run, train.problem_type)
    if train.problem_type == SINGLE_LABEL and len(train.class_names) < 2:
        raise ConfigurationError(
            f"data set {run.data.dataset!r} has one class, {train.class_names[0]!r}: there is nothing to learn."
        )
    return train, evaluation, *build_model(run, train.class_names, train.problem_type)


def check_problem(run: ClassifierRun, problem_type: str) -> None:
    """Refuse what has no meaning for a problem type.

    Raises:
        ConfigurationError: naming the key, its value and what to do.
    """
    training, data = run.training, run.data
    metric = (training.metric_for_best_model or "loss").removeprefix("eval_").removeprefix("ema_")
    if metric not in PROBLEM_METRICS[problem_type]:
        known = ", ".join(PROBLEM_METRICS[problem_type])
        raise ConfigurationError(
            f"training.metric_for_best_model is {training.metric_for_best_model!r}, but the figures of {problem_type} "
            f"are {known}: choose one of them."
        )
    for key in ("id2label", "label2id"):
        if key in run.model:
            raise ConfigurationError(f"model.{key} is told by the data: leave it out, and give data.class_names.")
    refused = {
        "model.threshold": (run.model.get("threshold"), (MULTI_LABEL,)),
        "training.label_smoothing_factor": (training.label_smoothing_factor, (SINGLE_LABEL,)),
        "training.class_weights": (training.class_weights, (SINGLE_LABEL, MULTI_LABEL)),
        "data.mixup_alpha": (data.mixup_alpha, (SINGLE_LABEL, MULTI_LABEL)),
        "data.cutmix_alpha": (data.cutmix_alpha, (SINGLE_LABEL, MULTI_LABEL)),
    }
    for key, (value, wanted) in refused.items():
        if value and problem_type not in wanted:
            raise ConfigurationError(
                f"{key} is {value}, but it is for {' and '.join(wanted)}, and this is {problem_type}: leave it out."
            )


def build_model(
    run: ClassifierRun, class_names: list[str], problem_type: str = SINGLE_LABEL
) -> tuple[PreTrainedModel, AnyProcessor]:
    """A fresh model, or one from a checkpoint with a head for the classes of the data, and its processor.

    Args:
        run: the run, whose section `model` says which model it is.
        class_names: names of the classes or outputs, in the order of the labels.
        problem_type: what the model is asked for each sample, by transformers' name.

    Raises:
        ConfigurationError: if the configuration is inconsistent, or the checkpoint does not fit it.
    """
    labels = {"id2label": dict(enumerate(class_names)), "label2id": {n: i for i, n in enumerate(class_names)}}
    labels = {**labels, "problem_type": problem_type}
    model_fields = {name: value for name, value in run.model.items() if name != "problem_type"}
    if run.model_arguments.checkpoint is not None:
        try:
            return start_from(run.model_arguments.checkpoint, run, model_fields | labels)
        except ConfigurationError as error:
            raise ConfigurationError(f"section 'model': {error}") from error
    with told_as(ConfigurationError, "section 'model'"):
        config = AutoConfig.for_model(run.kind.model_type, **model_fields, **labels)
        model = run.kind.auto_model.from_config(config)
    return model, task_of(run).fresh_processor(run, config)


def _write_records(
    run: ClassifierRun,
    trainer: ClassificationTrainer,
    outcome: Outcome,
    weights: dict[str, torch.Tensor],
    train: Split,
    evaluation: Split | None,
) -> None:
    """Write down how the saved weights were made and what was measured on them, for their model card."""
    task, metrics = task_of(run), outcome.metrics
    problem = problem_of(trainer.accelerator.unwrap_model(trainer.model).config)
    processor: Any = trainer.processing_class
    saved = [(run.output_dir, "eval_", weights)]
    if trainer.average is not None:
        saved.append((run.output_dir / AVERAGE_FOLDER, "eval_ema_", trainer.average.model.state_dict()))
    for folder, prefix, tensors in saved:
        facts: dict[str, Any] = {**stamp(), "weights": weights_digest(tensors)}
        record_training(folder, training_record(run, outcome, task.provenance(run.data, train), **facts))
        if evaluation is None:
            continue
        measurement = Measurement(
            task=run.kind.task,
            dataset=task.provenance(run.data, evaluation),
            split=evaluation.name,
            metrics={name: metrics[f"{prefix}{name}"] for name in task.recorded(problem)},
            samples=int(metrics[f"{prefix}{run.kind.unit}"]),
            unreadable=int(metrics[f"{prefix}unreadable"]),
            views=task.views(processor),
            seed=run.training.seed,
            **facts,
        )
        record_measurement(folder, measurement)


def _write_charts(
    run: ClassifierRun, trainer: ClassificationTrainer, result: ClassificationResult | None, split: str | None
) -> None:
    """Write which classes were taken for which, where something was evaluated, and draw it and how the run went."""
    folder, problem = run.output_dir, problem_of(trainer.accelerator.unwrap_model(trainer.model).config)
    try:
        if result is not None and result.confusion is not None:
            names = [each.name for each in result.per_class]
            write_confusion(folder / CONFUSION_FILE, names, result.confusion)
            title = f"{public_name(run.data.dataset)}, {split}, {result.figures.samples:,} {run.kind.unit}"
            draw_confusion((folder / CONFUSION_FILE).with_suffix(".png"), names, result.confusion, title)
        figure_name = PROBLEM_METRICS[problem.problem_type][0]
        draw_curves(folder / CURVES_FILE, trainer.state.log_history, figure_name, folder.resolve().name)
    except ImportError:
        logger.warning(NO_MATPLOTLIB)


def build_trainer(
    run: ClassifierRun, model: PreTrainedModel, processor: AnyProcessor, train: Split, evaluation: Split | None
) -> ClassificationTrainer:
    """The Trainer of a run, with its data sets, metrics and callbacks.

    Args:
        run: the run.
        model: the model to train.
        processor: makes tensors of images or videos.
        train: split to train on.
        evaluation: split to evaluate on; `None`: nothing is evaluated.

    Raises:
        ConfigurationError: if the Trainer refuses its arguments, e.g. for a tracker that is not installed, or if there
            is no whole batch and others are dropped.
    """
    task, problem = task_of(run), problem_of(model.config)
    train_dataset, eval_dataset = task.datasets(run, train, evaluation, processor)
    batch = run.training.train_batch_size
    if run.training.dataloader_drop_last and has_length(train_dataset) and len(train) < batch:
        raise ConfigurationError(
            f"training.dataloader_drop_last leaves nothing of {len(train)} {run.kind.unit}, fewer than a "
            f"batch of {batch}: set it to false, or per_device_train_batch_size to fewer."
        )
    collator = _mixing_collator(run, train_dataset, len(train.class_names))
    sampler = task.sampler(run, train_dataset)
    if run.training.freeze:
        model.base_model.requires_grad_(False)
    with blamed_on_training():
        return ClassificationTrainer(
            model=model,
            args=trainer_arguments(run.training),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            compute_metrics=partial(task.metrics, problem),
            compute_loss_func=_loss(run, train, problem.problem_type, soft_targets=collator is not None),
            train_collator=collator,
            train_sampler=sampler,
            average=ExponentialMovingAverage(run.training.ema_decay) if run.training.ema_decay else None,
            callbacks=[AugmentationEpoch(train_dataset), *run_callbacks(run)],
        )


def _loss(run: ClassifierRun, train: Split, problem_type: str, *, soft_targets: bool) -> Any:
    """The loss of training, `None` for that of the model."""
    if run.training.class_weights is not None:
        weights = class_weights(run.training.class_weights, train, problem_type)
        return WeightedLoss(weights, problem_type == MULTI_LABEL, run.training.label_smoothing_factor)
    # of several labels, the loss of the model takes soft targets as they are
    return classification_loss if soft_targets and problem_type == SINGLE_LABEL else None


def _mixing_collator(run: ClassifierRun, dataset: TorchDataset, num_classes: int) -> MixingCollator | None:
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
