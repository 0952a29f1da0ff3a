"""The `training` section: transformers' `TrainingArguments` with what the recipes of this package need beyond them.

[`ClassifierTrainingArguments`] and [`VideoLLMTrainingArguments`] are siblings: neither has a field of the other.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.training_args import OptimizerNames

from ..records.metrics import METRICS
from .class_weights import check_class_weights
from .options import ClassifierOptions, TrainingOptions, VideoLLMOptions
from .parameter_groups import LORA, check_rates


EPOCH_COSINE_KEYS = {"warmup_epochs", "warmup_lr", "min_lr"}
EPOCH_STEPS_KEYS = {"steps", "factors"}
ADAPTER_DTYPES = ("float32", "bfloat16")


@dataclass
class DnATrainingArguments(TrainingOptions, TrainingArguments):
    """What classifiers and video LLMs both take, checked.

    Raises:
        ValueError: for a value that is out of range, or settings that do not go together.
    """

    # batches hold the numbers of their rows beside what the model takes
    remove_unused_columns: bool = field(default=False, metadata={"help": "drop what the model does not take"})
    # transformers leaves losses that are not finite out of the logged mean; here training stops at them
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "leave losses out of the log that are not finite"}
    )
    # what is published is one commit of a finished and measured model
    hub_strategy: HubStrategy | str = field(default="end", metadata={"help": "end: the finished model alone"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataloader_num_workers < 0:
            raise ValueError(f"dataloader_num_workers must not be negative, got {self.dataloader_num_workers}.")
        if self.metric_for_best_model is not None:
            self._check_best_model(self.metric_for_best_model.removeprefix("eval_"))
        if self.early_stopping_patience is not None:
            self._check_early_stopping(self.early_stopping_patience)
        if self.optim == OptimizerNames.SGD and self.optim_args:
            _check_sgd(self.optim_args)
        if self.epoch_cosine and self.epoch_steps:
            raise ValueError("set epoch_cosine or epoch_steps, not both.")
        if self.epoch_cosine:
            self._check_epoch_cosine()
        if self.epoch_steps:
            self._check_epoch_steps()

    def _check_best_model(self, metric: str) -> None:
        if self.load_best_model_at_end and self.eval_strategy == "no":
            raise ValueError("load_best_model_at_end needs an eval_strategy.")
        if self.load_best_model_at_end and self.save_strategy == "steps" and self.save_steps != self.eval_steps:
            raise ValueError(
                "load_best_model_at_end needs save_steps = eval_steps, or save_strategy best: an evaluation without "
                "a checkpoint could be the best."
            )

    def _check_early_stopping(self, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"early_stopping_patience must be at least 1, got {patience}.")
        if not (self.load_best_model_at_end and self.metric_for_best_model):
            raise ValueError("early_stopping_patience needs load_best_model_at_end and metric_for_best_model.")

    def _check_epoch_cosine(self) -> None:
        options: dict = self.lr_scheduler_kwargs or {}  # type: ignore[assignment]
        if set(options) != EPOCH_COSINE_KEYS:
            raise ValueError(f"epoch_cosine needs lr_scheduler_kwargs with {', '.join(sorted(EPOCH_COSINE_KEYS))}.")
        for key, value in options.items():
            if not _is_rate(value):
                raise ValueError(f"lr_scheduler_kwargs.{key} must be a number of at least 0, got {value!r}.")

    def _check_epoch_steps(self) -> None:
        options: dict = self.lr_scheduler_kwargs or {}  # type: ignore[assignment]
        if set(options) != EPOCH_STEPS_KEYS:
            raise ValueError(f"epoch_steps needs lr_scheduler_kwargs with {', '.join(sorted(EPOCH_STEPS_KEYS))}.")
        for key, values in options.items():
            if not isinstance(values, list) or not values or not all(map(_is_rate, values)):
                raise ValueError(f"lr_scheduler_kwargs.{key} must be numbers of at least 0 in a list, got {values!r}.")
        steps, factors = options["steps"], options["factors"]
        if len(steps) != len(factors):
            raise ValueError(
                f"lr_scheduler_kwargs needs as many factors as steps, got {len(factors)} and {len(steps)}."
            )
        if steps[0] != 0 or any(later <= earlier for earlier, later in zip(steps, steps[1:], strict=False)):
            raise ValueError(f"lr_scheduler_kwargs.steps must start at 0 and increase, got {steps}.")


@dataclass
class ClassifierTrainingArguments(ClassifierOptions, DnATrainingArguments):
    """The arguments of classifiers of images and videos.

    Raises:
        ValueError: for a value that is out of range, or settings that do not go together.
    """

    def __post_init__(self) -> None:
        # transformers takes every figure for better the greater it is, but those that end in "loss"
        metric = METRICS.get((self.metric_for_best_model or "").removeprefix("eval_").removeprefix("ema_"))
        if metric is not None and self.greater_is_better is None:
            self.greater_is_better = not metric.lower_is_better
        super().__post_init__()
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(f"label_smoothing_factor must lie in [0, 1), got {self.label_smoothing_factor}.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")
        if self.class_weights is not None:
            check_class_weights(self.class_weights)
        if self.freeze and self.gradient_checkpointing:
            raise ValueError("gradient_checkpointing does nothing for a frozen encoder: leave it out.")
        if self.freeze and self.layer_decay < 1:
            raise ValueError(
                "layer_decay does nothing for a frozen encoder, whose layers learn at no rate: set it to 1."
            )
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise ValueError("hub_strategy must be end: a finished model alone is published, in one commit.")
        if self.base_learning_rate is not None:
            self._scale_learning_rate(self.base_learning_rate)

    def _check_best_model(self, metric: str) -> None:
        averaged = tuple(f"ema_{name}" for name in METRICS) if self.ema_decay else ()
        if metric not in (*METRICS, *averaged):
            known = ", ".join((*METRICS, *averaged))
            hint = "" if self.ema_decay else " (and ema_... with ema_decay)"
            raise ValueError(f"metric_for_best_model must be one of {known}{hint}, got {metric!r}.")
        super()._check_best_model(metric)

    def _scale_learning_rate(self, base: float) -> None:
        """The linear rule of arXiv:1706.02677: as many times the rate as the batch of a step is larger."""
        if not base > 0:
            raise ValueError(f"base_learning_rate must be positive, got {base}.")
        if self.learning_rate != type(self).learning_rate:
            raise ValueError("give learning_rate or base_learning_rate, not both.")
        batch = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        self.learning_rate = base * batch / 512


# fields of transformers that mean nothing for a video LLM, and their defaults
CLASSIFIER_FIELDS = {"label_smoothing_factor": 0, "bf16_full_eval": False, "fp16_full_eval": False}


@dataclass
class VideoLLMTrainingArguments(VideoLLMOptions, DnATrainingArguments):
    """The arguments of video LLMs: `learning_rates` stand in for `learning_rate`, which becomes the largest of them.

    Raises:
        ValueError: for a value that is out of range, or settings that do not go together.
    """

    def __post_init__(self) -> None:
        check_rates(self.learning_rates)
        if self.learning_rate != type(self).learning_rate:
            raise ValueError("learning_rate has no meaning for a video LLM: give learning_rates, one for each group.")
        self.learning_rate = max(self.learning_rates.values())
        for name, default in CLASSIFIER_FIELDS.items():
            if getattr(self, name) != default:
                raise ValueError(f"{name} is for classifiers: leave it out for a video LLM.")
        if self.push_to_hub:
            raise ValueError(
                "push_to_hub: an adapter is not published: dna-hf merge it, then dna-hf publish the result."
            )
        self._check_lora()
        if self.ddp_find_unused_parameters is None:
            # everything that is trained is used by every batch, see VideoLLMTrainer.compute_loss
            self.ddp_find_unused_parameters = False
        super().__post_init__()
        if (self.gradient_checkpointing_kwargs or {}).get("use_reentrant"):  # type: ignore[union-attr]
            raise ValueError(
                "gradient_checkpointing_kwargs: use_reentrant loses the gradients behind a frozen vision encoder and "
                "frozen embeddings: leave it out."
            )

    @property
    def with_lora(self) -> bool:
        """Whether the language model gets low-rank updates."""
        return LORA in self.learning_rates

    def _check_lora(self) -> None:
        if self.lora_rank < 1 or not self.lora_alpha > 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                "lora_rank must be at least 1, lora_alpha positive and lora_dropout in [0, 1), got "
                f"{self.lora_rank}, {self.lora_alpha} and {self.lora_dropout}."
            )
        if self.adapter_dtype not in ADAPTER_DTYPES:
            raise ValueError(f"adapter_dtype must be {' or '.join(ADAPTER_DTYPES)}, got {self.adapter_dtype!r}.")

    def _check_best_model(self, metric: str) -> None:
        if metric != "loss":
            raise ValueError(f"metric_for_best_model of a video LLM must be loss, got {metric!r}.")
        super()._check_best_model(metric)


def _is_rate(value: Any) -> bool:
    """Whether a value is a finite number of at least 0."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and 0 <= value < math.inf


def _check_sgd(text: str) -> None:
    """See that `optim_args` of SGD mean something: transformers passes over names and switches it does not know.

    Args:
        text: `name=value` pairs, separated by commas.

    Raises:
        ValueError: for anything but `momentum` in [0, 1), `dampening` in [0, 1] and `nesterov`, which needs a momentum
            and no dampening.
    """
    values = {"momentum": 0.0, "dampening": 0.0, "nesterov": False}
    for pair in text.replace(" ", "").split(","):
        name, _, value = pair.partition("=")
        if name not in values:
            raise ValueError(f"optim_args of sgd are momentum, dampening and nesterov, as momentum=0.9, got {pair!r}.")
        if name == "nesterov":
            if value.lower() not in ("true", "false"):
                raise ValueError(f"optim_args: nesterov must be true or false, got {value!r}.")
            values[name] = value.lower() == "true"
            continue
        try:
            values[name] = float(value)
        except ValueError:
            raise ValueError(f"optim_args: {name} must be a number, got {value!r}.") from None
    if not 0 <= values["momentum"] < 1 or not 0 <= values["dampening"] <= 1:
        raise ValueError(f"optim_args: momentum must lie in [0, 1) and dampening in [0, 1], got {text!r}.")
    if values["nesterov"] and (values["momentum"] == 0 or values["dampening"] != 0):
        raise ValueError(f"optim_args: nesterov needs a momentum above 0 and no dampening, got {text!r}.")
