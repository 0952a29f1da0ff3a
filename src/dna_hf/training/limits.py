"""Keys of the `training` section that transformers takes whatever they say: their limits, and what does nothing here.

They are checked before anything is read or built, so that a wrong one costs nothing.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from .errors import ConfigurationError


LOG_LEVELS = ("detail", "debug", "info", "warning", "error", "critical", "passive")
# NumPy seeds its generators with 32 bits
LARGEST_SEED = 2**32 - 1

NUMBER = (int, float)

# (what a value must be, its type, whether it is, keys)
LIMITS: tuple[tuple[str, Any, Callable[[Any], bool], tuple[str, ...]], ...] = (
    (
        "positive",
        NUMBER,
        lambda value: value > 0,
        (
            *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
            *("num_train_epochs", "learning_rate", "adam_epsilon"),
            *("logging_steps", "eval_steps", "save_steps", "save_total_limit", "eval_accumulation_steps"),
            *("dataloader_prefetch_factor", "ddp_timeout", "ddp_bucket_cap_mb"),
        ),
    ),
    (
        "at least 0",
        NUMBER,
        lambda value: value >= 0,
        ("weight_decay", "max_grad_norm", "warmup_steps", "eval_delay", "dataloader_num_workers"),
    ),
    ("at least 0 and below 1", NUMBER, lambda value: 0 <= value < 1, ("adam_beta1", "adam_beta2")),
    ("at least 1, or -1 to go by num_train_epochs", NUMBER, lambda value: value >= 1 or value == -1, ("max_steps",)),
    (f"from 0 to {LARGEST_SEED}", NUMBER, lambda value: 0 <= value <= LARGEST_SEED, ("seed", "data_seed")),
    (f"one of {', '.join(LOG_LEVELS)}", str, LOG_LEVELS.__contains__, ("log_level", "log_level_replica")),
)

# key -> (the one value that it may have, why)
FIXED: dict[str, tuple[Any, str]] = {
    "resume_from_checkpoint": (
        None,
        "pass --resume (from Python resume=True) to go on from the last checkpoint in output_dir, and leave it out",
    ),
    "do_train": (False, "it does nothing here: leave it out"),
    "do_eval": (False, "it does nothing here: leave it out; eval_strategy says when to evaluate"),
    "do_predict": (False, "it does nothing here: leave it out"),
    "hub_always_push": (False, "a finished model is published once: leave it out"),
    "prediction_loss_only": (False, "the figures of an evaluation need its predictions: leave it out"),
    "batch_eval_metrics": (False, "figures are computed of all samples together: leave it out"),
    "eval_do_concat_batches": (True, "figures are computed of all samples together: leave it out"),
}


def check_limits(training: Mapping[str, Any]) -> None:
    """See that the values of a `training` section can work.

    Args:
        training: section `training`, key -> value; a value of a wrong type is left to the check of types.

    Raises:
        ConfigurationError: naming the first key that cannot, its value, and what it must be.
    """
    for wanted, expected, holds, keys in LIMITS:
        for key in keys:
            value = training.get(key)
            if isinstance(value, expected) and not holds(value):
                raise ConfigurationError(f"training.{key} must be {wanted}, got {value!r}.")
    if "output_dir" in training and not training["output_dir"]:
        raise ConfigurationError("training.output_dir must be a folder: name one, or leave it out.")
    for key, (only, reason) in FIXED.items():
        if training.get(key, only) != only:
            raise ConfigurationError(f"training.{key} cannot be {training[key]!r}: {reason}.")


def is_finite(value: Any) -> bool:
    """Whether all numbers in a value of a configuration file, nested as it may be, are finite."""
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
