"""What the `training` section takes beside the fields of transformers' `TrainingArguments`."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class DnATrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` and what image classification recipes need beyond them."""

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

    # batches hold the numbers of their rows beside what the model takes
    remove_unused_columns: bool = field(default=False, metadata={"help": "drop what the model does not take"})
    # transformers leaves losses that are not finite out of the logged mean; here training stops at them
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "leave losses out of the log that are not finite"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")
