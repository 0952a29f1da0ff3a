"""How every run starts and ends, whatever it trains: checks, arguments and callbacks, training, figures, records."""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from ..data.provenance import DatasetRecord
from ..errors import one_line
from ..evaluation.image_classification import class_names
from ..hub.publish import Published, check_request, publish
from ..hub.upload import sign_in
from ..records.checkpoint_records import TrainingRun
from ..records.names import checkpoint_origin
from ..records.run_facts import model_facts
from ..records.stamp import peak_memory, without_secrets
from .arguments import DnATrainingArguments
from .callbacks import EarlyStopping, NegativeScaleLog, RunRecord
from .class_weights import WeightedLoss
from .config_file import AnyRun
from .errors import ConfigurationError
from .trainer import DnATrainer


Arguments = TypeVar("Arguments", bound=DnATrainingArguments)


@dataclass(frozen=True)
class Outcome:
    """What training came to.

    Args:
        loss: mean training loss.
        metrics: figures of the last evaluation, as the Trainer names them (`eval_loss`, ...); empty without
            evaluation data.
        seconds: wall time of training, evaluations included.
        samples_per_second: throughput over the wall time of training.
        resumed: whether the run had been stopped before; then its times are those of the last part.
    """

    loss: float
    metrics: dict[str, float]
    seconds: float
    samples_per_second: float
    resumed: bool


def check_run(run: AnyRun) -> None:
    """See at the start what would go wrong late, or do nothing.

    Raises:
        ConfigurationError: for `fp16` on the CPU, or a checkpoint to start from that cannot tell its origin, which the
            finished run is recorded with.
    """
    if run.training.fp16 and run.training.device.type == "cpu":
        raise ConfigurationError("training.fp16 does nothing on the CPU: set fp16 to false, or use bf16.")
    if run.model_arguments.checkpoint is not None:
        checkpoint_origin(run.model_arguments.checkpoint, ConfigurationError)


def check_publishing(run: AnyRun) -> None:
    """Before a run that publishes its model: see that the repository has a name, and that the Hub knows the token.

    Raises:
        PublishError: saying what is wrong.
    """
    if run.training.push_to_hub:
        check_request(_repository(run))
        sign_in(run.training.hub_token)


def _repository(run: AnyRun) -> str:
    """Name of the repository to publish to: as given, by default that of the output folder."""
    return run.training.hub_model_id or run.output_dir.resolve().name


def publish_result(run: AnyRun) -> Published | None:
    """Publish the finished and measured model of a run in one commit, if the run says so (`push_to_hub`).

    Raises:
        PublishError: see [`~dna_hf.hub.publish.publish`].
    """
    if not run.training.push_to_hub:
        return None
    return publish(
        run.output_dir,
        _repository(run),
        private=bool(run.training.hub_private_repo),
        revision=run.training.hub_revision,
        token=run.training.hub_token,
    )


def trainer_arguments(arguments: Arguments) -> Arguments:
    """The arguments of a run as its Trainer gets them: it never pushes, for it would push unfinished models."""
    quiet = copy.copy(arguments)
    quiet.push_to_hub = False
    return quiet


def run_callbacks(run: AnyRun) -> list[TrainerCallback]:
    """What every run writes down and decides beside its steps."""
    callbacks: list[TrainerCallback] = [NegativeScaleLog(), RunRecord(run.sections)]
    if run.training.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(run.training.early_stopping_patience))
    return callbacks


def run_facts(trainer: DnATrainer, checkpoint: str | None) -> list[tuple[str, str]]:
    """Name and value of what a run trains and how, as text for a table.

    Args:
        trainer: the Trainer of the run.
        checkpoint: folder of the checkpoint that it goes on from, `None` if it begins.
    """
    args: Any = trainer.args
    half = "bfloat16, mixed" if args.bf16 else "float16, mixed" if args.fp16 else None
    model: Any = trainer.model
    facts = dict(model_facts(model))
    processes = f", {args.world_size} processes" if args.world_size > 1 else ""
    facts |= {"device": f"{args.device}{processes}", "precision": half or facts["precision"]}
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps, epochs = _length(trainer)
    facts["training"] = f"{steps:,} steps of {batch:,}" + (
        f", {epochs:.3g} epoch{'s' if epochs != 1 else ''}" if epochs else ""
    )
    if isinstance(trainer.compute_loss_func, WeightedLoss):
        facts["class weights"] = trainer.compute_loss_func.summary(class_names(model))
    if checkpoint is not None:
        facts["goes on from"] = checkpoint
    return list(facts.items())


def _length(trainer: DnATrainer) -> tuple[int, float | None]:
    """Steps and epochs of a run as the Trainer will count them; of a stream, the epochs are not known."""
    args: Any = trainer.args
    if not has_length(trainer.train_dataset):
        return args.max_steps, None
    together = args.train_batch_size * args.world_size
    samples = len(trainer.train_dataset)  # type: ignore[arg-type]
    batches = samples // together if args.dataloader_drop_last else math.ceil(samples / together)
    steps = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
    if args.max_steps > 0:
        # the last step of an epoch may have fewer batches
        whole, rest = divmod(args.max_steps, steps)
        return args.max_steps, whole + rest * args.gradient_accumulation_steps / max(batches, 1)
    return math.ceil(args.num_train_epochs * steps), args.num_train_epochs


@contextmanager
def blamed_on_training() -> Iterator[None]:
    """Around the making of a Trainer: what it refuses is a setting of the `training` section.

    Raises:
        ConfigurationError: e.g. for a tracker that is not installed.
    """
    try:
        yield
    except (ValueError, ImportError, RuntimeError) as error:
        raise ConfigurationError(f"section 'training': {one_line(error)}") from error


def train_and_evaluate(trainer: DnATrainer, checkpoint: str | None) -> Outcome:
    """Train, save the model, evaluate it where there is something to evaluate on, and save figures and state.

    Args:
        trainer: the Trainer of the run.
        checkpoint: folder of the checkpoint to go on from, `None` to start anew.

    Raises:
        NonFiniteError: as soon as a loss is not finite.
    """
    start = time.monotonic()
    loss = trainer.train(resume_from_checkpoint=checkpoint).training_loss
    seconds = time.monotonic() - start
    trainer.save_model()
    metrics: dict[str, float] = {}
    if trainer.eval_dataset is not None:
        metrics = trainer.evaluate()
        trainer.save_metrics("eval", metrics)
    trainer.save_state()
    history = reversed(trainer.state.log_history)
    speed = next(entry["train_samples_per_second"] for entry in history if "train_runtime" in entry)
    return Outcome(loss, metrics, seconds, speed, checkpoint is not None)


def training_record(run: AnyRun, outcome: Outcome, dataset: DatasetRecord, **facts: Any) -> TrainingRun:
    """How weights were made, for their model card.

    Args:
        run: the run that made the weights.
        outcome: result of [`train_and_evaluate`].
        dataset: data set that was trained on.
        facts: the digest of the `weights`, and when and where this was, see [`~dna_hf.records.stamp.stamp`].
    """
    source = run.model_arguments.checkpoint
    return TrainingRun(
        dataset=dataset,
        settings=without_secrets(run.sections),
        started_from=None if source is None else checkpoint_origin(source),
        seconds=round(outcome.seconds, 1),
        samples_per_second=outcome.samples_per_second,
        peak_memory=peak_memory(),
        resumed=outcome.resumed,
        processes=run.training.world_size,
        seed=run.training.seed,
        **facts,
    )
