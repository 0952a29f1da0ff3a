"""The attention maps of a model, by the place of what is attended to, under any attention implementation.

A map is formed from the inputs of its attention module while the model runs, for the chosen heads and queries alone,
and put where its keys lie in the image or video. Nothing else is kept, so that memory does not grow with the layers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.attention_variants import VariantAttention
from .branches import (
    AttentionPlace,
    attention_call,
    attention_places,
    attention_variant,
    branch_scale,
)
from .errors import AnalysisError
from .layout import Layout, Placed, Query, TokenGrid, watch_layout
from .subspaces import require_finite, signed_parts


@dataclass
class HeatMap:
    """How much each patch of one visual counts, for figures.

    Args:
        visual: number of the image or video in the batch.
        grid: how it is cut into patches.
        variant: of the attention.
        values: name -> (frames, rows, columns). `positive` and `negative` are of the branch so named and not negative;
            `difference` is `positive - negative`, and `positive` itself where there is one branch; `combined` may have
            any sign. Softmax attention has no `negative`.
        uniform: the value of a patch if all tokens counted alike, to measure by.
    """

    visual: int
    grid: TokenGrid
    variant: str
    values: dict[str, torch.Tensor]
    uniform: float

    def value(self, name: str) -> torch.Tensor:
        """The values so named.

        Raises:
            AnalysisError: if there are none.
        """
        if name not in self.values:
            raise AnalysisError(f"{self.variant} attention has no {name} map: choose {', '.join(self.values)}.")
        return self.values[name]

    def branches(self) -> list[str]:
        """The values that tell the branches apart, in the order in which they are drawn."""
        return ["positive", "negative", "difference"] if "negative" in self.values else ["positive"]

    def drawn(self, name: str) -> np.ndarray:
        """Values (frames, rows, columns) as they are drawn: in multiples of `uniform`, a negative branch below 0."""
        values = self.value(name).float().numpy() / self.uniform
        return -values if name == "negative" else values

    def title(self, name: str) -> str:
        """What a panel with these values is called."""
        if name == "combined":
            return "combined"
        if "negative" not in self.values:
            return f"{self.variant} attention"
        return "positive - negative" if name == "difference" else f"{name} branch"


def heat_values(positive: torch.Tensor, negative: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The two branches and their difference, as [`HeatMap`] names them."""
    if negative is None:
        return {"positive": positive, "difference": positive}
    return {"positive": positive, "negative": negative, "difference": positive - negative}


@dataclass
class VisualMaps:
    """The maps of one attention module for one image or video.

    Args:
        place: the layer and the axis of the attention.
        visual: number of the image or video in the batch; those of earlier calls of the vision model count first.
        grid: how it is cut into patches.
        variant: of the attention. `positive` of cog attention is signed, the absolute values of a row sum to 1.
        heads: numbers of the heads.
        queries: numbers of the queries; see [`attention_maps`].
        positive: weights of the positive branch, of the first map of differential attention, or of the only map.
        negative: weights of the negative branch (a softmin), or of the second map; `None` where there is one map.
        scale: factor (heads) of the negative branch: alpha, or minus lambda of differential attention.
    """

    place: AttentionPlace
    visual: int
    grid: TokenGrid
    variant: str
    heads: list[int]
    queries: list[int]
    positive: Placed
    negative: Placed | None
    scale: torch.Tensor | None

    def combined(self) -> Placed:
        """`positive + scale * negative`, the weights with which a head would sum values shared by its branches.

        Signed: denoising attention adds alpha times a softmin, differential attention subtracts lambda times a
        softmax (its norm per head, which follows, is left out).
        """
        if self.negative is None or self.scale is None:
            return self.positive
        factor = self.scale[:, None, None, None]
        return Placed(
            self.positive.patches + factor[..., None] * self.negative.patches,
            self.positive.prefix + factor * self.negative.prefix,
        )

    def heat(self, head: int | None = None, query: int | None = None) -> HeatMap:
        """The maps averaged over heads and queries, or of one of them.

        Args:
            head: one of `heads`; their mean by default.
            query: one of `queries`; their mean by default.

        Raises:
            AnalysisError: if these maps were not formed.
        """
        heads, queries = _pick("head", head, self.heads), _pick("query", query, self.queries)

        def mean(patches: torch.Tensor) -> torch.Tensor:
            return patches[heads][:, queries].mean(dim=(0, 1))

        if self.variant == "cog":
            values = heat_values(*map(mean, signed_parts(self.positive.patches)))
        else:
            values = heat_values(
                mean(self.positive.patches), None if self.negative is None else mean(self.negative.patches)
            )
        values["combined"] = mean(self.combined().patches)
        return HeatMap(self.visual, self.grid, self.variant, values, self.uniform)

    @property
    def uniform(self) -> float:
        """The weight of a key if all keys of a query had the same."""
        if self.place.axis == "time":
            return 1 / self.grid.frames
        frames = self.grid.frames if self.positive.prefix.shape[2] == 1 else 1
        return 1 / (self.grid.prefix + frames * self.grid.patches)


def _pick(what: str, wanted: int | None, there: list[int]) -> list[int]:
    if wanted is None:
        return list(range(len(there)))
    if wanted not in there:
        raise AnalysisError(f"the map of {what} {wanted} was not formed: there are {', '.join(map(str, there))}.")
    return [there.index(wanted)]


@torch.no_grad()
def attention_maps(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[Query] | None = None,
    axis: str | None = None,
) -> list[VisualMaps]:
    """Form the maps of chosen layers, heads and queries, on whatever attention implementation the model has.

    Args:
        model: a DnA model of images or videos, a vision encoder with probes, or a model that contains one. It runs
            once, in evaluation mode.
        inputs: arguments of `model.forward`; tensors are moved to the device of the model.
        layers: counted from 0, negative ones from the end; all by default.
        heads: the same.
        queries: the tokens that attend. Within images and over the space of videos: numbers (0 is the class token,
            the patches follow by row), `"class"`, or (row, column). Where a video is one sequence: numbers (the
            patches by frame), `"class"`, or (frame, row, column). Over time: frames. Of probes: their numbers. By
            default the class token, all frames over time, and all probes.
        axis: only attention over `space`, `time` or `space_time`. A model with space and time divided needs it where
            queries are given, for a query is something else on each axis.

    Returns:
        The maps on the CPU, in float32 or wider, by layer and then by visual.

    Raises:
        AnalysisError: for a layer, head or query that does not exist, a model or a mask that cannot be looked into, or
            maps that are not finite.
    """
    return look(model, inputs, layers, heads, queries, axis)[1]


@torch.no_grad()
def look(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[Query] | None = None,
    axis: str | None = None,
) -> tuple[Any, list[VisualMaps]]:
    """What [`attention_maps`] returns, behind what the model returned."""
    places = chosen_places(model, layers, axis)
    axes = sorted({place.axis for place in places.values()})
    if queries is not None and len(axes) > 1:
        raise AnalysisError(
            f"the model attends over {' and '.join(axes)}: say by axis which of them the queries mean."
        )
    found: list[VisualMaps] = []

    def show(module: VariantAttention, place: AttentionPlace, layout: Layout, earlier: int, call: Any) -> None:
        chosen = layout.default_queries(place.axis)
        if queries is not None:
            chosen = [layout.query(query, place.axis) for query in queries]
        numbers = chosen_heads(module, heads)
        maps = form_maps(module, place, numbers, layout.tokens(chosen, place.axis), *call.args, **call.kwargs)
        positive, *negative = (layout.place(weights.cpu(), place.axis) for weights in maps)
        scale = branch_scale(module)
        for visual, weights in enumerate(positive):
            found.append(
                VisualMaps(
                    place=place,
                    visual=earlier + visual,
                    grid=layout.grids[visual],
                    variant=attention_variant(module),
                    heads=numbers,
                    queries=chosen,
                    positive=weights,
                    negative=negative[0][visual] if negative else None,
                    scale=None if scale is None else scale[numbers].cpu().to(weights.patches.dtype),
                )
            )

    outputs = watch_attention(model, inputs, places, show)
    order = list(places.values())
    return outputs, sorted(found, key=lambda maps: (order.index(maps.place), maps.visual))


@dataclass
class ModuleCall:
    """One call of an attention module: its arguments, and what it returned."""

    args: tuple
    kwargs: dict[str, Any]
    output: tuple


def watch_attention(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    places: Mapping[VariantAttention, AttentionPlace],
    show: Callable[[VariantAttention, AttentionPlace, Layout, int, ModuleCall], None],
) -> Any:
    """Run the model once and show each call of the chosen attention modules, in the order they run.

    Args:
        model: runs in evaluation mode, on its own attention implementation.
        inputs: arguments of `model.forward`; tensors are moved to the device of the model.
        places: the modules.
        show: called with the module, its place, the layout of its tokens, the number of visuals in earlier calls of
            the vision model, and the call.

    Returns:
        What the model returned.

    Raises:
        AnalysisError: if the inputs reach none of the modules.
    """
    calls = 0
    with watch_layout(model) as seen:

        def hook(module: nn.Module, args: tuple, kwargs: dict, output: tuple) -> None:
            nonlocal calls
            assert isinstance(module, VariantAttention) and seen.layout is not None
            calls += 1
            show(module, places[module], seen.layout, seen.earlier, ModuleCall(args, kwargs, output))

        handles = [module.register_forward_hook(hook, with_kwargs=True) for module in places]
        try:
            with evaluating(model):
                outputs = model(**on_device(model, inputs))
        finally:
            for handle in handles:
                handle.remove()
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


def chosen_places(
    model: PreTrainedModel, layers: Sequence[int] | None = None, axis: str | None = None
) -> dict[VariantAttention, AttentionPlace]:
    """The attention modules of the chosen layers; see [`~dna_hf.analysis.branches.attention_places`].

    Raises:
        AnalysisError: also for a layer of a vision encoder that no probe reads.
    """
    places = attention_places(model, layers, axis)
    there = sorted({place.layer for place in attention_places(model).values()})
    count = 1 + there[-1]
    for layer in layers or ():
        if layer % count not in there:
            raise AnalysisError(f"no probe reads layer {layer}: choose among {', '.join(map(str, there))}.")
    return places


def chosen_heads(module: VariantAttention, heads: Sequence[int] | None) -> list[int]:
    """Numbers of the heads, negative ones counted from the end; all by default.

    Raises:
        AnalysisError: for a head that does not exist.
    """
    if heads is None:
        return list(range(module.num_heads))
    for head in heads:
        if not -module.num_heads <= head < module.num_heads:
            raise AnalysisError(f"head {head} does not exist: the model has {module.num_heads}, counted from 0.")
    return [head % module.num_heads for head in heads]


def form_maps(
    module: VariantAttention,
    place: AttentionPlace,
    heads: list[int],
    queries: list[int] | None,
    *args: Any,
    **kwargs: Any,
) -> list[torch.Tensor]:
    """The maps of an attention module called with these arguments, for some heads and queries (all if `None`).

    Returns:
        One (sequences, heads, queries, keys) per branch, in float32 or wider.
    """
    call = attention_call(module, place, *args, **kwargs)
    every = slice(None)
    rows = every if queries is None else torch.tensor(queries, device=call.targets.device)
    own = every if heads == list(range(module.num_heads)) else torch.tensor(heads, device=call.targets.device)
    mask = call.mask
    if mask is not None:
        mask = mask[:, own] if mask.shape[1] > 1 else mask
        mask = mask[:, :, rows] if mask.shape[2] > 1 else mask
    maps: list[torch.Tensor] = []

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, None]:
        _, weights = module._attend(
            query[:, own][:, :, rows],
            key[:, own],
            value[:, own],
            attention_mask=mask,
            implementation="eager",
            dropout=0.0,
        )
        assert weights is not None  # eager attention always forms its map
        require_finite(weights, f"a map of the {place}")
        maps.append(weights.to(torch.promote_types(weights.dtype, torch.float32)))
        # what the branch puts out is not asked for
        return value.new_zeros(()).expand(value.shape[0], query.shape[2], *value.shape[1::2]), None

    module.branches(call.targets, call.sources, call.rotary, attend)
    return maps
