"""Fine-tune a video LLM on conversations: the checkpoint stays as it is, what is trained is saved as an adapter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel, set_seed
from transformers.integrations import deepspeed_config, is_deepspeed_zero3_enabled
from transformers.modeling_utils import set_zero3_state

from ..data.conversations import (
    ConversationCollator,
    ConversationDataset,
    Conversations,
    list_bad_samples,
    read_conversations,
)
from ..data.file_summary import FileSummary, conversation_summary
from ..data.summary import SUMMARY_FILE, write_summary
from ..errors import one_line
from ..records.checkpoint_records import record_training
from ..records.digest import weights_digest
from ..records.stamp import stamp
from .adapter import base_config, describe, fingerprint, load_base, read_tensors
from .callbacks import DataRecord
from .checkpoint import check_disk, find_checkpoint, is_sharded
from .common import (
    blamed_on_training,
    check_run,
    run_callbacks,
    train_and_evaluate,
    trainer_arguments,
    training_record,
)
from .config_file import AnyRun, VideoLLMRun, video_llm_run
from .errors import ConfigurationError
from .memory import MemoryEstimate, estimate_memory, gibibytes
from .parameter_groups import ParameterGroup, add_lora, freeze_all_but
from .video_llm_trainer import VideoLLMTrainer


# gets a line for every sample that cannot be used
BAD_LIST = "bad_samples.jsonl"


@dataclass(frozen=True)
class TrainingPlan:
    """What a run will train and need, known before any weights are loaded.

    Args:
        groups: groups of parameters, trained or frozen.
        memory: estimated memory of each process.
        data: what the files of conversations hold, that to train on first.
    """

    groups: list[ParameterGroup]
    memory: MemoryEstimate
    data: list[FileSummary]

    @property
    def trained(self) -> int:
        """Number of parameters that are trained."""
        return sum(group.parameters for group in self.groups if group.learning_rate is not None)

    def group_rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The header and the rows of a table of the groups."""
        rows = [
            (
                group.name,
                f"{group.tensors:,}",
                f"{group.parameters:,}",
                "frozen" if group.learning_rate is None else f"{group.learning_rate:g}",
            )
            for group in self.groups
        ]
        return ("group", "tensors", "parameters", "learning rate"), [*rows, ("trained", "", f"{self.trained:,}", "")]

    def memory_rows(self) -> list[tuple[str, str]]:
        """The parts of the memory and their size in GiB, as text."""
        return [(name, f"{size:,.2f}") for name, size in gibibytes(self.memory).items()]


@dataclass
class VideoLLMResult:
    """What a finished run has to say.

    Args:
        metrics: figures of the last evaluation (`eval_loss`, `eval_token_accuracy`, ...); empty without evaluation
            data.
        loss: mean training loss.
        groups: groups of parameters, trained or frozen.
        seconds: wall time of training, evaluations included.
        output_dir: folder in which the adapter was saved.
        bad: file that lists samples that could not be used, `None` if there are none.
    """

    metrics: dict[str, float]
    loss: float
    groups: list[ParameterGroup]
    seconds: float
    output_dir: Path
    bad: Path | None

    def facts(self) -> list[tuple[str, str]]:
        """What there is to say: name and value, as text."""
        facts = [("training time", f"{self.seconds:.0f} s"), ("training loss", f"{self.loss:.4f}")]
        if self.metrics:
            facts += [
                ("evaluation loss", f"{self.metrics['eval_loss']:.4f}"),
                ("tokens predicted right", f"{100 * self.metrics['eval_token_accuracy']:.2f} %"),
            ]
        return [*facts, ("adapter saved in", str(self.output_dir))]


def train_video_llm(
    run: AnyRun, *, resume: bool = False, announce: Callable[[TrainingPlan], None] | None = None
) -> VideoLLMResult:
    """Train, evaluate and save the adapter of a video LLM.

    Args:
        run: the run, as [`~dna_hf.training.config_file.run_config`] returns it.
        resume: continue from the last checkpoint in `output_dir`, as if training had never stopped.
        announce: called with the [`TrainingPlan`] before weights are loaded.

    Raises:
        ConfigurationError: before anything is written, if the run cannot work.
        DataError: if conversations, images or videos are wrong or missing.
        NonFiniteError: as soon as a loss is not finite.
    """
    run = video_llm_run(run)
    checkpoint = find_checkpoint(run, resume)
    _check(run)
    train, evaluation = load_conversations(run)
    plan = make_plan(run, [train, *([evaluation] if evaluation else [])])
    if announce is not None:
        announce(plan)
    check_disk(run, 4 * plan.trained, besides=_whole_model_in_checkpoints(run, plan))
    set_seed(run.training.seed)
    trainer = build_trainer(run, train, evaluation)
    bad = run.output_dir / BAD_LIST
    if trainer.is_world_process_zero():
        list_bad_samples(bad, [*train.bad, *(evaluation.bad if evaluation else ())])
        trainer.add_callback(DataRecord(lambda: _write_summary(run, plan)))
    outcome = train_and_evaluate(trainer, checkpoint)
    if trainer.is_world_process_zero():
        weights = weights_digest(read_tensors(run.output_dir))
        record = training_record(run, outcome, train.provenance("train"), weights=weights, **stamp())
        record_training(run.output_dir, record)
    return VideoLLMResult(
        metrics=outcome.metrics,
        loss=outcome.loss,
        groups=plan.groups,
        seconds=outcome.seconds,
        output_dir=run.output_dir,
        bad=bad if bad.exists() else None,
    )


def _write_summary(run: VideoLLMRun, plan: TrainingPlan) -> None:
    data, *evaluation = plan.data
    write_summary(run.output_dir / SUMMARY_FILE, data, evaluation=evaluation[0] if evaluation else None)


def _check(run: VideoLLMRun) -> None:
    """What can be refused without reading anything."""
    if run.model_arguments.checkpoint is None:
        raise ConfigurationError(
            "model.checkpoint is missing: a video LLM starts from one, made by dna-hf convert of a VideoLLaMA3."
        )
    if not run.data.dataset:
        raise ConfigurationError("data.dataset is missing: name a file of conversations (.json, .jsonl).")
    if run.training.eval_strategy != "no" and run.data.eval_dataset is None:
        raise ConfigurationError("training.eval_strategy needs data.eval_dataset, a file of conversations.")
    if is_deepspeed_zero3_enabled():
        zero: Any = deepspeed_config()["zero_optimization"]  # type: ignore[index]
        if not zero.get("stage3_gather_16bit_weights_on_model_save"):
            raise ConfigurationError(
                "ZeRO stage 3 must gather what is saved: set zero3_save_16bit_model to true in accelerate's file."
            )
        if run.training.fp16:
            raise ConfigurationError("training.fp16 does not go with ZeRO stage 3: use bf16.")
    check_run(run)


def load_conversations(run: VideoLLMRun) -> tuple[Conversations, Conversations | None]:
    """The conversations to train on, and those to evaluate on if there are any.

    Raises:
        ConfigurationError: for some without images and videos where these are needed.
        DataError: see [`~dna_hf.data.conversations.read_conversations`].
    """
    data = run.data

    def read(path: str, limit: int | None) -> Conversations:
        return read_conversations(path, data.data_folder, limit=limit, on_error=data.on_error, system=data.system)

    train = read(data.dataset, data.max_train_samples)
    evaluation = None if data.eval_dataset is None else read(data.eval_dataset, data.max_eval_samples)
    samples = [*train.samples, *(evaluation.samples if evaluation else ())]
    without = [sample.name for sample in samples if not sample.visuals]
    if without and (is_sharded(run.training) or is_deepspeed_zero3_enabled()):
        # each process would wait for the others to gather the weights of the vision encoder
        raise ConfigurationError(
            f"{without[0]} and {len(without) - 1} more have no image or video, on which FSDP and ZeRO stage 3 hang: "
            "take them out, or use DDP or ZeRO stage 1 or 2."
        )
    return train, evaluation


def make_plan(run: VideoLLMRun, data: Sequence[Conversations]) -> TrainingPlan:
    """Say what will be trained and how much memory it takes, from the configuration alone, and what the data holds.

    Raises:
        ConfigurationError: if the configuration is missing or does not have what is to be trained.
    """
    config = base_config(run.model_arguments.checkpoint or "", run.model_arguments.checkpoint_revision, run.model)
    try:
        # on the meta device there is nothing for ZeRO stage 3 to divide
        with torch.device("meta"), set_zero3_state():
            model = AutoModelForImageTextToText.from_config(config)
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"section 'model': {one_line(error)}") from error
    _, groups = prepare(model, run)
    memory = estimate_memory(groups, config, run.data, run.training)
    return TrainingPlan(groups, memory, [conversation_summary(each) for each in data])


def prepare(model: PreTrainedModel, run: VideoLLMRun) -> tuple[Any, list[ParameterGroup]]:
    """Add LoRA if it is asked for, freeze what is not trained, and have what is trained learn in float32.

    Returns:
        The `peft.LoraConfig` or `None`, and the groups.

    Raises:
        ConfigurationError: if the model does not have what is to be trained.
    """
    arguments, lora_config = run.training, None
    if arguments.with_lora:
        lora_config = add_lora(
            model,
            rank=arguments.lora_rank,
            alpha=arguments.lora_alpha,
            dropout=arguments.lora_dropout,
            targets=arguments.lora_targets,
        )
    groups = freeze_all_but(model, arguments.learning_rates)
    # steps of 1e-5 would vanish in the rounding of bfloat16. ZeRO stage 3 wants one dtype, and steps in float32 itself
    dtype = _dtype(run) if is_deepspeed_zero3_enabled() else torch.float32
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return lora_config, groups


def build_trainer(run: VideoLLMRun, train: Conversations, evaluation: Conversations | None) -> VideoLLMTrainer:
    """The Trainer of a run, with its model, data sets and callbacks.

    Raises:
        ConfigurationError: if the checkpoint does not fit, or the Trainer refuses its arguments.
    """
    source, revision = run.model_arguments.checkpoint or "", run.model_arguments.checkpoint_revision
    model, processor = load_base(source, revision, fields=run.model, dtype=_dtype(run))
    base_fingerprint = fingerprint(model)
    lora_config, groups = prepare(model, run)
    bad_list = run.output_dir / BAD_LIST

    def dataset(conversations: Conversations, training: bool) -> ConversationDataset:
        return ConversationDataset(conversations, processor, run.data, training=training, bad_list=bad_list)

    with blamed_on_training():
        return VideoLLMTrainer(
            model=model,
            args=trainer_arguments(run.training),
            train_dataset=dataset(train, True),
            eval_dataset=None if evaluation is None else dataset(evaluation, False),
            data_collator=ConversationCollator(_pad_token_id(processor.tokenizer)),
            processing_class=processor,
            callbacks=run_callbacks(run),
            description=describe(source, revision, base_fingerprint, groups),
            lora_config=lora_config,
        )


def _whole_model_in_checkpoints(run: VideoLLMRun, plan: TrainingPlan) -> int:
    """Bytes of the model that DeepSpeed and FSDP write into every checkpoint, frozen weights and all."""
    parameters = sum(group.parameters for group in plan.groups)
    if is_sharded(run.training):
        # accelerate shards float32
        return 4 * parameters
    return _dtype(run).itemsize * parameters if run.training.deepspeed_plugin is not None else 0


def _dtype(run: VideoLLMRun) -> torch.dtype:
    """The dtype of what is not trained."""
    return torch.bfloat16 if run.training.bf16 else torch.float32


def _pad_token_id(tokenizer: Any) -> int:
    """What fills up sequences: masked, so that any token will do where there is none for it."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
