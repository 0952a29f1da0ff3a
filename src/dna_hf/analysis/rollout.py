"""Attention rollout: what reaches a token through the attention of all layers and their residual connections."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from .errors import AnalysisError
from .layout import CLASS, ProbeLayout, Query, TokenLayout, watch_layout
from .maps import HeatMap, chosen_places, heat_values
from .observer import AttentionCall, watch_attention
from .subspaces import signed_parts


@torch.no_grad()
def attention_rollout(model: PreTrainedModel, inputs: Mapping[str, Any], query: Query = CLASS) -> list[HeatMap]:
    """How much of each patch reaches a token at the end of the model, by each branch.

        row <- (row + row A_l) / 2  from the last layer to the first, with A_l the mean of the maps of layer l's heads

    Source: Abnar & Zuidema, Quantifying Attention Flow in Transformers, arXiv:2005.00928, equation 1, whose product of
    matrices is formed here row by row. That a branch is rolled out by its own maps alone is a choice made here; so is
    `combined`, which takes the absolute values of `positive + alpha * negative`, each row divided by its sum. Where
    space and time are divided, both are layers; the class token passes by the attention over time.

    Args:
        model: a DnA model of images or videos, on any attention implementation.
        inputs: arguments of `model.forward`.
        query: the token that is reached; see [`~dna_hf.analysis.maps.visual_maps`]. Where space and time are
            divided, a patch is one of every frame.

    Returns:
        One heat map per visual: `positive`, `negative`, `difference` and `combined`. The weights of a branch sum to 1
        together with that of the prefix tokens.

    Raises:
        AnalysisError: for a query that does not exist, or a model of visual probes, which have no residual connection
            and read tokens that other attention has mixed.
    """
    steps: list[tuple[str, str, dict[str, torch.Tensor]]] = []
    with watch_layout(model) as seen:

        def show(call: AttentionCall) -> None:
            if isinstance(seen.layout, ProbeLayout):
                raise AnalysisError("visual probes cannot be rolled out: choose attention maps or relevance.")
            steps.append((call.place.axis, call.variant, _over_heads(call)))

        watch_attention(model, inputs, chosen_places(model), show)
    layout, axis = seen.layout, steps[-1][0]
    names = dict.fromkeys(name for _, _, fused in steps for name in fused)
    # a cog model leaves some layers to softmax attention
    variant = next((variant for _, variant, _ in steps if variant != "softmax"), "softmax")
    start = layout.start([layout.query(query, axis)], shared=True)
    rolled = {
        branch: layout.heat(_roll(layout, start, [(axis, fused.get(branch)) for axis, _, fused in steps]))
        for branch in names
    }
    # all tokens of all frames: where every frame is a sequence, the frames share a weight of 1
    tokens = start.shape[1] * len(start) // len(layout.grids)
    heats = []
    for visual, grid in enumerate(layout.grids):
        own = {branch: rows[visual] for branch, rows in rolled.items()}
        values = heat_values(own["positive"], own.get("negative")) | {"combined": own["combined"]}
        heats.append(HeatMap(visual, grid, variant, values, 1 / tokens))
    return heats


def _over_heads(call: AttentionCall) -> dict[str, torch.Tensor]:
    """The mean map over the heads, (sequences, queries, keys), of each branch."""
    maps, scale = call.maps(), call.module.branch_scale()
    if scale is not None:
        both = (maps[0] + scale[:, None, None] * maps[1]).abs().mean(dim=1)
        both = both / both.sum(dim=-1, keepdim=True)
        return {"positive": maps[0].mean(dim=1), "negative": maps[1].mean(dim=1), "combined": both}
    if call.variant == "cog":
        positive, negative = (part.mean(dim=1) for part in signed_parts(maps[0]))
        return {"positive": positive, "negative": negative, "combined": positive + negative}
    mean = maps[0].mean(dim=1)
    return {"positive": mean, "combined": mean}


def _roll(layout: TokenLayout, row: torch.Tensor, steps: list[tuple[str, torch.Tensor | None]]) -> torch.Tensor:
    """Push a row through all layers, from the last; a layer without the branch has its residual connection alone."""
    for axis, weights in reversed(steps):
        if weights is None:
            row = row / 2
            continue
        row = row.to(weights)
        pushed = layout.push(row, weights, axis, shared=True)
        if axis == "time":
            prefix = layout.grids[0].prefix
            pushed[:, :prefix] = row[:, :prefix]
        row = (row + pushed) / 2
    return row.cpu()
