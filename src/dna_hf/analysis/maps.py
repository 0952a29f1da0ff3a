"""The attention maps of a model, by the place of what is attended to, under any attention implementation.

A map is formed from the inputs of its attention module while the model runs, for the chosen heads and queries alone,
and put where its keys lie in the image or video. Nothing else is kept, so that memory does not grow with the layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..models.attention_variants import VariantAttention
from .errors import AnalysisError
from .layout import Placed, Query, SeenLayouts, TokenGrid, watch_layout
from .observer import AttentionCall, AttentionPlace, attention_places, watch_attention
from .subspaces import signed_parts


@dataclass
class HeatMap:
    """How much each patch of one visual counts, for figures.

    Args:
        visual: number of the image or video in the batch.
        grid: how the visual is cut into patches.
        variant: attention variant.
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
        grid: how the visual is cut into patches.
        variant: attention variant. `positive` of cog attention is signed, the absolute values of a row sum to 1.
        heads: numbers of the heads whose maps these are.
        queries: numbers of the queries; see [`visual_maps`].
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
def visual_maps(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[Query] | None = None,
    axis: str | None = None,
) -> list[VisualMaps]:
    """Form the maps of chosen layers, heads and queries, each by the image or video that it belongs to.

    The attention implementation of the model does not matter. `model.attention_maps(...)` gives the same maps as
    plain tensors, of all heads and queries, without the places of their keys in the picture.

    Args:
        model: a DnA model of images or videos, a vision encoder with probes, or a model that contains one. It runs
            once, in evaluation mode.
        inputs: arguments of `model.forward`; tensors are moved to the device of the model.
        layers: numbers of layers, counted from 0, negative ones from the end; all by default.
        heads: numbers of heads, counted from 0, negative ones from the end; all by default.
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
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
    queries: Sequence[Query] | None,
    axis: str | None,
) -> tuple[Any, list[VisualMaps]]:
    """What [`visual_maps`] returns, behind what the model returned."""
    places = chosen_places(model, layers, axis)
    axes = sorted({place.axis for place in places.values()})
    if queries is not None and len(axes) > 1:
        raise AnalysisError(
            f"the model attends over {' and '.join(axes)}: say by axis which of them the queries mean."
        )
    found: list[VisualMaps] = []
    with watch_layout(model) as seen:

        def show(call: AttentionCall) -> None:
            found.extend(_maps_of_call(call, seen, heads, queries))

        outputs = watch_attention(model, inputs, places, show)
    order = list(places.values())
    return outputs, sorted(found, key=lambda maps: (order.index(maps.place), maps.visual))


def _maps_of_call(
    call: AttentionCall, seen: SeenLayouts, heads: Sequence[int] | None, queries: Sequence[Query] | None
) -> Iterator[VisualMaps]:
    """The maps of one call of an attention module, for each of its visuals."""
    layout, place = seen.layout, call.place
    chosen = layout.default_queries(place.axis)
    if queries is not None:
        chosen = [layout.query(query, place.axis) for query in queries]
    numbers = chosen_heads(call.module, heads)
    # all heads in their order need no copy
    some = None if numbers == list(range(call.module.num_heads)) else numbers
    maps = call.maps(some, layout.tokens(chosen, place.axis))
    positive, *negative = (layout.place(weights.cpu(), place.axis) for weights in maps)
    scale = call.module.branch_scale()
    for visual, weights in enumerate(positive):
        yield VisualMaps(
            place=place,
            visual=seen.earlier + visual,
            grid=layout.grids[visual],
            variant=call.variant,
            heads=numbers,
            queries=chosen,
            positive=weights,
            negative=negative[0][visual] if negative else None,
            scale=None if scale is None else scale[numbers].cpu().to(weights.patches.dtype),
        )


def chosen_places(
    model: PreTrainedModel, layers: Sequence[int] | None = None, axis: str | None = None
) -> dict[VariantAttention, AttentionPlace]:
    """The attention modules of the chosen layers; see [`~dna_hf.analysis.observer.attention_places`].

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
