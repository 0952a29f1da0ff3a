"""The observer: looking into the attention modules of a model while it runs, one call at a time.

The model runs on whatever attention implementation it has. Each call of a chosen module is shown as it happens, and
can be evaluated a second time, eagerly, to see what its branches do. Nothing is kept between the calls: memory is that
of the model and of the branches of one module.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.attention_variants import ATTENTION_VARIANTS, TWO_MAP_VARIANTS, Branches, VariantAttention
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


@dataclass(frozen=True)
class AttentionCall:
    """One call of an attention module while the model runs.

    Args:
        module: the attention module that was called.
        place: layer and axis of the module.
        args: positional arguments of the call.
        kwargs: arguments of the call by name.
        output: what the module returned: its output, and its maps under eager attention.
    """

    module: VariantAttention
    place: AttentionPlace
    args: tuple
    kwargs: dict[str, Any]
    output: tuple = ()

    @property
    def variant(self) -> str:
        """The attention variant; `softmax` in the layers that a cog model leaves to softmax attention."""
        return next(name for name, kind in ATTENTION_VARIANTS.items() if type(self.module) is kind)

    def check_repeatable(self) -> None:
        """See that the call can be evaluated a second time.

        Raises:
            AnalysisError: for a mask in a form that only the attention implementation understands, and for packed
                sequences.
        """
        with self._in_a_sentence():
            self.module.check_repeatable(*self.args, **self.kwargs)

    def branches(self, heads: Sequence[int] | None = None, queries: Sequence[int] | None = None) -> Branches:
        """Evaluate the module a second time, as it was called; see [`VariantAttention.recompute`].

        Args:
            heads: numbers of the heads to look at; all by default.
            queries: numbers of the queries to look at; all by default.

        Raises:
            AnalysisError: for a call that cannot be repeated, or a map or output that is not finite.
        """
        with self._in_a_sentence():
            found = self.module.recompute(*self.args, **self.kwargs, heads=heads, queries=queries)
        for weights in found.maps:
            require_finite(weights, f"a map of the {self.place}")
        for output in found.outputs:
            require_finite(output, f"the output of a branch of the {self.place}")
        return found

    def maps(self, heads: Sequence[int] | None = None, queries: Sequence[int] | None = None) -> list[torch.Tensor]:
        """One map (sequences, heads, queries, keys) per branch, in float32 or wider; see [`branches`]."""
        maps = self.branches(heads, queries).maps
        return [weights.to(torch.promote_types(weights.dtype, torch.float32)) for weights in maps]

    @contextmanager
    def _in_a_sentence(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise AnalysisError(f"the {self.place} cannot be looked into: {error}") from error


def watch_attention(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    places: Mapping[VariantAttention, AttentionPlace],
    show: Callable[[AttentionCall], None],
) -> Any:
    """Run the model once and show each call of the chosen attention modules, in the order they run.

    Args:
        model: any model that contains attention variants, under any attention implementation. It runs in evaluation
            mode, and is left as it was.
        inputs: arguments of `model.forward`; tensors are moved to the device of the model.
        places: the modules to watch, and where they sit; see [`attention_places`].
        show: called once per call of a module.

    Returns:
        What the model returned.

    Raises:
        AnalysisError: if the inputs reach none of the modules.
    """
    calls = 0

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:
        nonlocal calls
        assert isinstance(module, VariantAttention)
        calls += 1
        show(AttentionCall(module, places[module], args, kwargs, output))

    with ExitStack() as hooks:
        for module in places:
            hooks.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        hooks.enter_context(evaluating(model))
        outputs = model(**on_device(model, inputs))
    if not calls:
        raise AnalysisError("the inputs reach no attention that can be looked into: give an image or a video.")
    return outputs


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode while this lasts, and each of its modules back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def on_device(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with tensors on the device of the model.

    Raises:
        AnalysisError: for inputs without names.
    """
    if not isinstance(inputs, Mapping):
        raise AnalysisError(
            f"the inputs are a {type(inputs).__name__}, but arguments of the model by name are needed, such as "
            "{'pixel_values': ...}."
        )
    return {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }


def attention_places(
    model: PreTrainedModel, layers: Sequence[int] | None = None, axis: str | None = None
) -> dict[VariantAttention, AttentionPlace]:
    """The attention modules of a model and where they sit.

    Args:
        model: any model that contains attention variants.
        layers: numbers of layers, counted from 0, negative ones from the end; all by default.
        axis: `space`, `time` or `space_time`, where only the attention over that is wanted; all by default.

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


def single_branch(variant: str) -> str:
    """Why nothing can be compared in a variant with one branch."""
    return (
        f"{variant} attention has one branch, so that intruder dimensions, similarities and principal angles are "
        f"undefined: they need {', '.join(TWO_MAP_VARIANTS)}."
    )
