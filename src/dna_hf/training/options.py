"""What the `training` section takes beside the fields of transformers' `TrainingArguments`, with help and defaults.

Nothing heavy is imported here, so that a help text costs no time. [`~dna_hf.training.arguments`] combines these fields
with transformers' own and checks them.
"""

from dataclasses import dataclass, field
from typing import Literal


ClassWeights = str | list[float] | dict[str | int, float]


@dataclass
class TrainingOptions:
    """What classifiers and video LLMs both take."""

    decay_all: bool = field(
        default=False,
        metadata={
            "help": "apply weight_decay to every parameter, as the paper does; by default biases, norms, tokens, "
            "position tables and other vectors are left alone"
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


@dataclass
class ClassifierOptions(TrainingOptions):
    """What classifiers of images and videos take."""

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

    class_weights: ClassWeights | None = field(
        default=None,
        metadata={
            "help": "how much each class counts in the training loss (evaluation counts all alike): balanced: samples "
            "/ (classes x samples of the class); [0.5, 2, ...]: in the order of the classes; {class: weight}: 1 for "
            "the others. Of several labels per sample: how much a label that holds counts (pos_weight)"
        },
    )
    freeze: Literal["encoder"] | None = field(
        default=None,
        metadata={
            "help": "encoder: train the head alone on the features of the checkpoint (a linear probe), without dropout"
        },
    )


@dataclass
class VideoLLMOptions(TrainingOptions):
    """What video LLMs take: a learning rate for each group of parameters, and LoRA."""

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
    adapter_dtype: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata={
            "help": "dtype in which the finished adapter is saved: float32, or bfloat16, which halves it; checkpoints "
            "hold float32"
        },
    )


@dataclass
class LoraOptions:
    """Section `peft` of a classifier: low-rank updates (LoRA) are trained in place of the weights of its encoder."""

    r: int | None = field(
        default=None, metadata={"help": "rank of the updates; by default none, and all weights are trained"}
    )
    lora_alpha: float = field(default=16.0, metadata={"help": "the updates are multiplied by lora_alpha / r"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout on the input of the updates"})
    target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "linear layers that get updates, e.g. q_neg_proj; by default all of the attentions"},
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={
            "help": "what is trained whole beside the updates; by default classifier and, where there is one, "
            "negative_scale (alpha)"
        },
    )

    def __post_init__(self) -> None:
        if self.r is not None and self.r < 1:
            raise ValueError(f"r must be at least 1, got {self.r}.")
        if not self.lora_alpha > 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                f"lora_alpha must be positive and lora_dropout in [0, 1), got {self.lora_alpha} and "
                f"{self.lora_dropout}."
            )
