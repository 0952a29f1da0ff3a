"""Looking into the attention modules of a model while it runs, one at a time.

The model runs on whatever attention implementation it has. Each chosen module is then evaluated a second time from
its inputs, eagerly and without dropout, by its own `branches` function: the formula of the variant is not repeated
here, only the calls of softmax attention inside it are listened to.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.attention_variants import (
    ATTENTION_VARIANTS,
    TWO_MAP_VARIANTS,
    DenoisingAttention,
    DifferentialAttention,
    VariantAttention,
)
from .errors import AnalysisError
from .subspaces import require_finite


@dataclass(frozen=True)
class AttentionPlace:
    """Where an attention module sits: its layer, counted from 0, and the axis it attends over.

    The axis is `space`, `time`, or `space_time` for a TimeSformer that attends over both at once.
    """

    layer: int
    axis: str

    def __str__(self) -> str:
        return f"attention over {self.axis} in layer {self.layer}"


@dataclass
class Branches:
    """What the branches of one attention module did with one batch.

    The positive branch comes first, the negative one second; the two halves of differential attention are its
    branches, and softmax and cog attention have one.

    Args:
        place: where the module sits.
        variant: its attention variant; `softmax` in the layers that a cog model leaves to softmax attention.
        outputs: per branch (sequences, heads, queries, head_dim): map times values, before alpha and projection.
        values: per branch (sequences, heads, keys, head_dim); the same twice where the branches share them.
        maps: per branch (sequences, heads, queries, keys); signed under cog attention.
        scale: factor (heads) with which the second output is added to the first: alpha, or minus lambda of
            differential attention; `None` for a single branch.
    """

    place: AttentionPlace
    variant: str
    outputs: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    maps: tuple[torch.Tensor, ...]
    scale: torch.Tensor | None

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The outputs of the two branches.

        Raises:
            AnalysisError: if there is one branch only.
        """
        if len(self.outputs) != 2:
            raise AnalysisError(single_branch(self.variant))
        return self.outputs[0], self.outputs[1]


def single_branch(variant: str) -> str:
    """Why nothing can be compared in a variant with one branch."""
    return (
        f"{variant} attention has one branch, so that intruder dimensions, similarities and principal angles are "
        f"undefined: they need {', '.join(TWO_MAP_VARIANTS)}."
    )


def attention_places(
    model: PreTrainedModel, layers: Sequence[int] | None = None, axis: str | None = None
) -> dict[VariantAttention, AttentionPlace]:
    """The attention modules of a model and where they sit.

    Args:
        model: any model that contains attention variants.
        layers: only these layers, counted from 0, negative ones from the end; all by default.
        axis: only the attention over this axis; all by default.

    Raises:
        AnalysisError: if a layer does not exist, or nothing attends over the axis.
    """
    found = {
        module: AttentionPlace(module.layer_idx, _axis(name, module))
        for name, module in model.named_modules()
        if isinstance(module, VariantAttention)
    }
    if not found:
        raise AnalysisError(f"{type(model).__name__} has no attention to look into: give a DnA model.")
    axes = sorted({place.axis for place in found.values()})
    if axis is not None and axis not in axes:
        raise AnalysisError(f"the model does not attend over {axis!r}: choose {' or '.join(axes)}.")
    count = 1 + max(place.layer for place in found.values())
    chosen = range(count) if layers is None else layers
    for layer in chosen:
        if not -count <= layer < count:
            raise AnalysisError(f"layer {layer} does not exist: the model has {count}, counted from 0.")
    kept = {layer % count for layer in chosen}
    return {module: place for module, place in found.items() if place.layer in kept and axis in (None, place.axis)}


def _axis(name: str, module: VariantAttention) -> str:
    if name.endswith("temporal_attention"):
        return "time"
    return "space_time" if getattr(module.config, "attention_type", None) == "joint_space_time" else "space"


@torch.no_grad()
def visit_branches(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    visit: Callable[[Branches], None],
    layers: Sequence[int] | None = None,
    axis: str | None = None,
) -> None:
    """Run the model once and show the branches of each chosen attention module to `visit`, in the order they run.

    Nothing is kept between the calls: memory is that of the model and of the branches of one module.

    Args:
        model: any model that contains attention variants, under any attention implementation; it runs in evaluation
            mode.
        inputs: arguments of `model.forward`.
        visit: called once per module.
        layers: see [`attention_places`].
        axis: see [`attention_places`].

    Raises:
        AnalysisError: for a layer or an axis that does not exist, a branch that is not finite, or a mask in a form
            that only the attention implementation understands.
    """
    places = attention_places(model, layers, axis)

    def show(module: nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:
        assert isinstance(module, VariantAttention)
        visit(recompute_branches(module, places[module], *args, **kwargs))

    handles = [module.register_forward_hook(show, with_kwargs=True) for module in places]
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()(**inputs)
    finally:
        for module in training:
            module.training = True
        for handle in handles:
            handle.remove()


class AttentionCall(NamedTuple):
    """What an attention module was called with: queries from `targets`, keys and values from `sources`."""

    targets: torch.Tensor
    sources: torch.Tensor
    rotary: Callable[[torch.Tensor], torch.Tensor]
    mask: torch.Tensor | None


def attention_call(module: VariantAttention, place: AttentionPlace, *args: Any, **kwargs: Any) -> AttentionCall:
    """Read the arguments of `module.forward`.

    Raises:
        AnalysisError: for a mask in a form that only the attention implementation understands.
    """
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    mask = given.get("attention_mask")
    if mask is not None and (not isinstance(mask, torch.Tensor) or mask.dim() != 4):
        raise AnalysisError(
            f"the mask of the {place} is in a form that only its attention implementation understands: "
            "use eager or sdpa."
        )
    targets, sources = given["hidden_states"], given.get("key_value_states")
    rotary = given.get("rotary") or (lambda states: states)
    return AttentionCall(targets, targets if sources is None else sources, rotary, mask)


def recompute_branches(module: VariantAttention, place: AttentionPlace, *args: Any, **kwargs: Any) -> Branches:
    """The branches of one attention module called with these arguments; see [`visit_branches`]."""
    call = attention_call(module, place, *args, **kwargs)
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        output, weights = module._attend(
            query, key, value, attention_mask=call.mask, implementation="eager", dropout=0.0
        )
        assert weights is not None  # eager attention always forms its map
        calls.append((output.transpose(1, 2), value, weights))
        return output, weights

    module.branches(call.targets, call.sources, call.rotary, attend)
    for output, _, _ in calls:
        require_finite(output, f"the output of a branch of the {place}")
    outputs, values, maps = zip(*calls, strict=True)
    return Branches(place, attention_variant(module), outputs, values, maps, branch_scale(module))


def attention_variant(module: VariantAttention) -> str:
    """The name of the variant of a module."""
    return next(name for name, kind in ATTENTION_VARIANTS.items() if type(module) is kind)


def branch_scale(module: VariantAttention) -> torch.Tensor | None:
    """Factor (heads) of the second branch: alpha, or minus lambda of differential attention."""
    if isinstance(module, DenoisingAttention):
        return module.negative_scale.detach()
    if isinstance(module, DifferentialAttention):
        return -module.current_lambda().detach().expand(module.num_heads)
    return None
