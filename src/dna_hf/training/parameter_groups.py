"""What of a video LLM is trained, and how fast: every tensor belongs to exactly one group, every group has its rate.

| group | tensors |
|---|---|
| `lora` | low-rank updates of the language model's projections; its own weights stay as they are |
| `projector` | from visual features to the language model |
| `probe_projector` | from visual probes to the language model |
| `interaction_modules` | cross-attention of the probes, the scales of its negative branch included |
| `visual_probes` | the learnable probes |
| `vision_encoder` | the rest of the vision encoder |
| `language_model` | the language model itself, with embeddings and head |

A group without a rate is frozen.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from .errors import ConfigurationError
from .optimizer import decay_parameter_names


LORA = "lora"
# the first pattern that matches says the group
PATTERNS = {
    LORA: r"\.lora_[A-Za-z_]+\.",
    "projector": r"^model\.projector\.",
    "probe_projector": r"^model\.probe_projector\.",
    "interaction_modules": r"^model\.vision_model\.encoder\.interaction_modules\.",
    "visual_probes": r"^model\.vision_model\.encoder\.visual_probes$",
    "vision_encoder": r"^model\.vision_model\.",
    "language_model": r"^(model\.language_model|lm_head)\.",
}
GROUPS = tuple(PATTERNS)
PROBE_GROUPS = ("probe_projector", "interaction_modules", "visual_probes")


@dataclass(frozen=True)
class ParameterGroup:
    """What a group holds: number of tensors and parameters, and its learning rate, `None` where it is frozen."""

    name: str
    tensors: int
    parameters: int
    learning_rate: float | None


def group_of(name: str) -> str:
    """The group of a parameter.

    Raises:
        ConfigurationError: if it belongs to none.
    """
    for group, pattern in PATTERNS.items():
        if re.search(pattern, name):
            return group
    raise ConfigurationError(f"parameter {name!r} belongs to no group: known are {', '.join(GROUPS)}.")


def check_rates(rates: dict[str, float]) -> None:
    """See that learning rates are positive and belong to groups that exist.

    Raises:
        ValueError: naming the group.
    """
    if not rates:
        raise ValueError(f"learning_rates names nothing to train: give a rate to some of {', '.join(GROUPS)}.")
    for name, rate in rates.items():
        if name not in GROUPS:
            nearest = difflib.get_close_matches(str(name), GROUPS, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(GROUPS)}."
            raise ValueError(f"learning_rates has an unknown group {name!r}: {hint}")
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
            raise ValueError(
                f"learning_rates.{name} must be a positive number, got {rate!r}; a group that is left out is frozen."
            )
    if LORA in rates and "language_model" in rates:
        raise ValueError(
            "learning_rates has both lora and language_model: LoRA is for a language model that is not trained itself."
        )


def add_lora(model: PreTrainedModel, *, rank: int, alpha: float, dropout: float, targets: Iterable[str]) -> Any:
    """Put low-rank updates beside linear layers of the language model, which keep their place under new names.

    Args:
        model: a video LLM; changed in place.
        rank: rank of the updates.
        alpha: the updates are multiplied by `alpha / rank`.
        dropout: probability of dropout on the input of the updates.
        targets: names of the layers that get updates, e.g. `q_proj`.

    Returns:
        The `peft.LoraConfig`.

    Raises:
        ConfigurationError: without PEFT, or for a target that the language model does not have.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigurationError("training with LoRA needs PEFT: pip install 'dna-hf[llm]'.") from error
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.language_model.layers.")
    }
    targets = list(targets)
    missing = [name for name in targets if name not in names]
    if missing or not targets:
        raise ConfigurationError(
            f"training.lora_targets: the language model ({model.config.text_config.model_type}) has no linear layer "
            f"{missing[0] if missing else ''!r}: it has {', '.join(sorted(names))}."
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        bias="none",
        target_modules=rf"model\.language_model\.layers\..*\.({'|'.join(map(re.escape, targets))})",
    )
    inject_adapter_in_model(config, model)
    return config


def freeze_all_but(model: PreTrainedModel, rates: dict[str, float]) -> list[ParameterGroup]:
    """Train the groups that have a rate, and freeze everything else.

    Returns:
        All groups that the model has, trained or not.

    Raises:
        ConfigurationError: for a parameter of no group, or a rate for a group that the model does not have or does
            not use.
    """
    sizes: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        group = group_of(name)
        parameter.requires_grad_(group in rates)
        # of a tensor that DeepSpeed has divided, the whole
        sizes.setdefault(group, []).append(getattr(parameter, "ds_numel", parameter.numel()))
    for name in rates:
        if name in _unused(model.config):
            raise ConfigurationError(
                f"training.learning_rates.{name}: the model does not use it, with include_visual_tokens "
                f"{model.config.include_visual_tokens} and include_visual_probes "
                f"{model.config.include_visual_probes}: leave it out."
            )
        if name not in sizes:
            raise ConfigurationError(f"training.learning_rates.{name}: the model has no such tensor: leave it out.")
    return [
        ParameterGroup(name, len(sizes[name]), sum(sizes[name]), rates.get(name)) for name in GROUPS if name in sizes
    ]


def _unused(config: Any) -> tuple[str, ...]:
    """Groups that no output of the model depends on."""
    without_tokens = () if config.include_visual_tokens else ("projector",)
    return without_tokens if config.include_visual_probes else (*without_tokens, *PROBE_GROUPS)


def apply_group_rates(
    optimizer: torch.optim.Optimizer,
    model: torch.nn.Module,
    rates: dict[str, float],
    *,
    weight_decay: float,
    decay_all: bool,
) -> None:
    """Divide the parameters of an optimizer into one group for each rate, or two where some of them do not decay.

    Args:
        optimizer: optimizer that was not stepped yet.
        model: model whose trained parameters the optimizer has.
        rates: learning rate of each group, by its name.
        weight_decay: weight decay of the parameters that decay.
        decay_all: whether all parameters decay, see [`~dna_hf.training.optimizer.decay_parameter_names`].

    Raises:
        ConfigurationError: naming the first parameter that is trained but has no rate.
    """
    decaying = set(decay_parameter_names(model, decay_all))
    options = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        group = group_of(name)
        if group not in rates:
            raise ConfigurationError(
                f"parameter {name!r} would be trained, but its group {group!r} has no rate in learning_rates."
            )
        groups.setdefault((group, name in decaying), []).append(parameter)
    optimizer.param_groups[:] = [
        options | {"params": groups[key], "lr": rates[key[0]], "weight_decay": weight_decay * key[1], "name": key[0]}
        for key in sorted(groups)
    ]


def check_optimizer(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    """See that an optimizer has every trained parameter exactly once, and nothing else.

    Raises:
        ConfigurationError: naming the first parameter for which this is not so.
    """
    counts: dict[int, int] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    for name, parameter in model.named_parameters():
        wanted, found = int(parameter.requires_grad), counts.pop(id(parameter), 0)
        if found != wanted:
            what = "trained" if wanted else "frozen"
            raise ConfigurationError(f"parameter {name!r} is {what}, but stands in {found} groups of the optimizer.")
    if counts:
        raise ConfigurationError(f"the optimizer has {len(counts)} parameters that are not the model's.")
