"""What the `training` section takes beside the fields of transformers' `TrainingArguments`."""

import math
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from .parameter_groups import LORA, check_rates


METRICS = ("loss", "top1", "top5", "mean_class_accuracy")
EPOCH_COSINE_KEYS = {"warmup_epochs", "warmup_lr", "min_lr"}
EPOCH_STEPS_KEYS = {"steps", "factors"}
ADAPTER_DTYPES = ("float32", "bfloat16")


@dataclass
class DnATrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` and what the recipes of classifiers need beyond them."""

    decay_all: bool = field(
        default=False,
        metadata={
            "help": "apply weight_decay to every parameter, as the paper does; by default biases, norms, tokens, "
            "position tables and other vectors are left alone"
        },
    )
    layer_decay: float = field(
        default=1.0,
        metadata={"help": "factor on the learning rate from each layer to the one below it; 1: the same everywhere"},
    )
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "also keep an exponential moving average of the weights with this decay; 0: none"},
    )
    base_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "learning rate for a batch of 512 images; learning_rate becomes this x batch of a step / 512"
        },
    )
    epoch_cosine: bool = field(
        default=False,
        metadata={
            "help": "the paper's schedule, one learning rate per epoch; lr_scheduler_kwargs gives warmup_epochs, "
            "warmup_lr and min_lr"
        },
    )
    epoch_steps: bool = field(
        default=False,
        metadata={
            "help": "the schedule of the paper's video recipe; lr_scheduler_kwargs gives steps, the epochs from 0 on "
            "at which the rate changes, and factors, what learning_rate is then multiplied by"
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "stop after this many evaluations in a row that are no better than the best; needs "
            "load_best_model_at_end and metric_for_best_model"
        },
    )
    # batches hold the numbers of their rows beside what the model takes
    remove_unused_columns: bool = field(default=False, metadata={"help": "drop what the model does not take"})
    # transformers leaves losses that are not finite out of the logged mean; here training stops at them
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "leave losses out of the log that are not finite"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing_factor < 1:
            raise ValueError(f"label_smoothing_factor must lie in [0, 1), got {self.label_smoothing_factor}.")
        if self.dataloader_num_workers < 0:
            raise ValueError(f"dataloader_num_workers must not be negative, got {self.dataloader_num_workers}.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")
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
        if self.base_learning_rate is not None:
            self._scale_learning_rate(self.base_learning_rate)

    def _check_best_model(self, metric: str) -> None:
        known = METRICS + (tuple(f"ema_{name}" for name in METRICS) if self.ema_decay else ())
        if metric not in known:
            hint = "" if self.ema_decay else " (and ema_... with ema_decay)"
            raise ValueError(f"metric_for_best_model must be one of {', '.join(known)}{hint}, got {metric!r}.")
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

    def _scale_learning_rate(self, base: float) -> None:
        """The linear rule of arXiv:1706.02677: as many times the rate as the batch of a step is larger."""
        if not base > 0:
            raise ValueError(f"base_learning_rate must be positive, got {base}.")
        if self.learning_rate != type(self).learning_rate:
            raise ValueError("give learning_rate or base_learning_rate, not both.")
        batch = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        self.learning_rate = base * batch / 512


@dataclass
class VideoLLMTrainingArguments(DnATrainingArguments):
    """The same for a video LLM: a learning rate for each group of parameters, and LoRA."""

    learning_rates: dict[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "learning rate of each group that is trained: lora, projector, probe_projector, "
            "interaction_modules, visual_probes, vision_encoder, language_model; a group that is left out is frozen"
        },
    )
    lora_rank: int = field(default=64, metadata={"help": "rank of the updates of the language model"})
    lora_alpha: float = field(default=16.0, metadata={"help": "the updates are multiplied by lora_alpha / lora_rank"})
    lora_dropout: float = field(default=0.05, metadata={"help": "dropout on the input of the updates"})
    lora_targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        metadata={"help": "linear layers of the language model that get updates"},
    )
    adapter_dtype: str = field(
        default="float32",
        metadata={
            "help": "dtype in which the finished adapter is saved: float32, or bfloat16, which halves it; checkpoints "
            "hold float32"
        },
    )

    def __post_init__(self) -> None:
        check_rates(self.learning_rates)
        if self.learning_rate != type(self).learning_rate:
            raise ValueError("learning_rate has no meaning for a video LLM: give learning_rates, one for each group.")
        self.learning_rate = max(self.learning_rates.values())
        for name, neutral in (
            *(("ema_decay", 0), ("layer_decay", 1), ("base_learning_rate", None), ("label_smoothing_factor", 0)),
            *(("bf16_full_eval", False), ("fp16_full_eval", False)),
        ):
            if getattr(self, name) != neutral:
                raise ValueError(f"{name} is for classifiers: leave it out for a video LLM.")
        if (self.gradient_checkpointing_kwargs or {}).get("use_reentrant"):  # type: ignore[union-attr]
            raise ValueError(
                "gradient_checkpointing_kwargs: use_reentrant loses the gradients behind a frozen vision encoder and "
                "frozen embeddings: leave it out."
            )
        if self.lora_rank < 1 or not self.lora_alpha > 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                "lora_rank must be at least 1, lora_alpha positive and lora_dropout in [0, 1), got "
                f"{self.lora_rank}, {self.lora_alpha} and {self.lora_dropout}."
            )
        if self.adapter_dtype not in ADAPTER_DTYPES:
            raise ValueError(f"adapter_dtype must be {' or '.join(ADAPTER_DTYPES)}, got {self.adapter_dtype!r}.")
        if self.ddp_find_unused_parameters is None:
            # everything that is trained is used by every batch, see VideoLLMTrainer.compute_loss
            self.ddp_find_unused_parameters = False
        super().__post_init__()

    @property
    def with_lora(self) -> bool:
        """Whether the language model gets low-rank updates."""
        return LORA in self.learning_rates

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
