"""What several DnA models share: patches, positions, the perceptron, stochastic depth, initial values, all their maps.

This file is published with every checkpoint: it imports torch, transformers, the standard library and siblings only.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention_variants import VariantAttention
from .configuration_dna import DnATransformerConfig


# for the outputs of models, of which `auto_docstring` documents the fields
NEGATIVE_ATTENTIONS = r"""
negative_attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True` is passed):
    Maps of the negative branch (the second map of differential attention), one of shape `(batch_size, num_heads,
    queries, keys)` per layer; `attentions` holds those of the positive branch. `None` for the other variants.
"""


def capture_all_outputs(forward: Callable) -> Callable:
    """transformers' output capturing, where `output_attentions` asks for all the maps that a model records.

    Capturing has one flag per field: those of the model's `further_maps()` are set with `output_attentions`, and
    taken out again before `forward` hands its arguments on to the layers.
    """

    @wraps(forward)
    def without_flags(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name in self.further_maps():
            kwargs.pop(f"output_{name}", None)
        return forward(self, *args, **kwargs)

    captured = merge_with_config_defaults(capture_outputs(tie_last_hidden_states=False)(without_flags))

    @wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        wanted = kwargs.get("output_attentions")
        wanted = self.config.output_attentions if wanted is None else wanted
        if wanted:
            kwargs |= {f"output_{name}": True for name in self.further_maps()}
        return captured(self, *args, **kwargs)

    return wrapper


class AttentionMaps(NamedTuple):
    """Attention maps per attention module, each (batch, heads, queries, keys), in the order of the layers."""

    positive: tuple[torch.Tensor, ...]
    negative: tuple[torch.Tensor, ...]


@torch.no_grad()
def recompute_attention_maps(model: PreTrainedModel, layers: list[int] | None = None, **inputs: Any) -> AttentionMaps:
    """Form the maps that sdpa, flex or flash attention never write down, without switching the model to eager.

    The model runs once on its own backend; only the chosen attention modules are evaluated a second time, eagerly.

    Args:
        model: any model that contains attention variants.
        layers: numbers of the attention modules, in the order of `model.modules()`; all by default.
        inputs: arguments of `model.forward`.

    Returns:
        The maps, in the order of the modules; `negative` is empty for a variant without a second map.

    Raises:
        ValueError: for a layer that does not exist, or a mask in a form that only the backend understands.
    """
    modules = [module for module in model.modules() if isinstance(module, VariantAttention)]
    chosen = range(len(modules)) if layers is None else layers
    if not modules or any(not -len(modules) <= index < len(modules) for index in chosen):
        raise ValueError(f"layers {list(chosen)} are not all among the {len(modules)} attention modules of the model.")
    maps: dict[VariantAttention, tuple[torch.Tensor, ...]] = {}

    def record(module: VariantAttention, args: tuple, kwargs: dict, output: tuple) -> None:
        maps[module] = module.recompute(*args, **kwargs).maps

    with ExitStack() as hooks:
        for index in chosen:
            hooks.enter_context(modules[index].register_forward_hook(record, with_kwargs=True))
        model(**inputs)
    found = [maps[module] for module in modules if module in maps]
    return AttentionMaps(tuple(own[0] for own in found), tuple(own[1] for own in found if len(own) == 2))


class DnAPatchEmbeddings(nn.Module):
    """Cut an image (batch, channels, height, width) into patches and project each: (batch, patches, width)."""

    def __init__(self, config: DnATransformerConfig):
        super().__init__()
        self.num_channels = config.num_channels
        patch: Any = config.patch_size
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=patch, stride=patch)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"pixel_values has {pixel_values.shape[1]} channels, but config.num_channels is {self.num_channels}."
            )
        return self.projection(pixel_values).flatten(2).transpose(1, 2)


def resample_positions(positions: torch.Tensor, grid: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Positions (1, rows * columns, width) of the patches of one grid (rows, columns), for another grid: bicubic."""
    resampled = positions.unflatten(1, grid).permute(0, 3, 1, 2)
    # in float32 at least: bicubic resampling in half precision shifts the positions
    wide = resampled.to(torch.promote_types(resampled.dtype, torch.float32))
    resampled = nn.functional.interpolate(wide, size=target, mode="bicubic", align_corners=False)
    return resampled.flatten(2).transpose(1, 2).to(positions.dtype)


def exact_loss(
    loss_function: Callable,
    labels: torch.Tensor,
    logits: torch.Tensor,
    config: DnATransformerConfig,
    num_items_in_batch: torch.Tensor | int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """The loss of a classifier, which micro-batches of a step add up to exactly, whatever the problem type.

    The Trainer takes what a model makes of `num_items_in_batch` as the part of a micro-batch in the mean over the
    step. transformers' cross entropy is that; its binary cross entropy and squared error are means over the
    micro-batch all the same, and so as many times too large as there are micro-batches.

    Args:
        loss_function: loss of the model; one that is not transformers' own gets all arguments, and is taken as it is.
        labels: class indices (batch), or numbers (batch, classes or outputs).
        logits: output of the model (batch, classes or outputs).
        config: configuration of the model; the loss sets its problem type where it has none.
        num_items_in_batch: how many numbers the labels of all micro-batches of this step, on all processes, have.
        kwargs: what else the loss takes.
    """
    if num_items_in_batch is None:
        return loss_function(labels, logits, config, **kwargs)
    is_index = not labels.is_floating_point() and logits.shape[-1] > 1
    problem_type = config.problem_type or ("single_label_classification" if is_index else None)
    if loss_function is not ForSequenceClassificationLoss or problem_type == "single_label_classification":
        return loss_function(labels, logits, config, num_items_in_batch=num_items_in_batch, **kwargs)
    return loss_function(labels, logits, config, **kwargs) * labels.numel() / num_items_in_batch


class DnAMLP(nn.Module):
    """The two-layer perceptron of a transformer layer."""

    def __init__(self, config: DnATransformerConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class DnADropPath(nn.Module):
    """Stochastic depth: drop a residual branch for whole samples while training. Source: arXiv:1603.09382."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.rate == 0 or not self.training:
            return hidden_states
        kept = hidden_states.new_empty((hidden_states.shape[0],) + (1,) * (hidden_states.dim() - 1))
        return hidden_states * kept.bernoulli_(1 - self.rate) / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def drop_path_rate(config: DnATransformerConfig, layer_idx: int) -> float:
    """Rate of stochastic depth of one layer under `config.drop_path_schedule`."""
    if config.drop_path_schedule == "constant":
        return config.drop_path_rate
    return config.drop_path_rate * layer_idx / max(config.num_hidden_layers - 1, 1)


def init_projection(module: nn.Linear | nn.Conv2d, std: float) -> None:
    """Initialise as the paper does: linear layers by a truncated normal, convolutions as torch does."""
    if isinstance(module, nn.Conv2d):
        bound = module.weight[0].numel() ** -0.5
        init.kaiming_uniform_(module.weight, a=5**0.5)
        init.uniform_(module.bias, -bound, bound)  # type: ignore[arg-type]
        return
    init.trunc_normal_(module.weight, mean=0.0, std=std)
    if module.bias is not None:
        init.zeros_(module.bias)
