"""What the sources share: a pre-norm vision transformer under some names, and its place in `DnAViTModel`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from ..models import DnAViTConfig
from .attention import NegativeInit, add_new_tensors, projection_names
from .tensors import TensorMap


@dataclass(frozen=True)
class ViTNames:
    """Names of a vision transformer's parameters, relative to its base model; `layers` is the prefix of the layers.

    `layer` maps the modules of a layer to those of `DnAViTLayer`, `scales` the parameters of its layer scale.
    """

    cls_token: str
    distillation_token: str
    position_embeddings: str
    patch_projection: str
    layers: str
    layer: dict[str, str]
    norm: str = "layernorm"
    scales: dict[str, str] = field(default_factory=dict)


# maps the projections of one attention module: (prefix of the layer in the source, name of the module in the target)
MapAttention = Callable[[str, str], None]


def map_base_model(
    mapping: TensorMap,
    names: ViTNames,
    config: DnAViTConfig,
    source_grid: tuple[int, int],
    map_attention: MapAttention,
    *,
    source: str = "",
    target: str = "",
) -> None:
    """Map a vision transformer to `DnAViTModel`.

    Args:
        mapping: takes the tensors.
        names: of the source.
        config: of the target.
        source_grid: rows and columns of the source's position table; it is resampled if the target's differ.
        map_attention: maps the projections of queries, keys and values.
        source: prefix of the base model in the source.
        target: prefix of the base model in the target.
    """
    embeddings = f"{target}embeddings."
    mapping.copy(source + names.cls_token, embeddings + "cls_token")
    if config.use_distillation_token:
        mapping.copy(source + names.distillation_token, embeddings + "distillation_token")
    map_positions(mapping, source + names.position_embeddings, embeddings + "position_embeddings", config, source_grid)
    mapping.copy_module(source + names.patch_projection, embeddings + "patch_embeddings.projection")
    for index in range(config.num_hidden_layers):
        here, there = f"{source}{names.layers}{index}.", f"{target}layers.{index}."
        for name, place in names.layer.items():
            mapping.copy_module(here + name, there + place)
        if config.layer_scale_init_value is not None:
            for name, place in names.scales.items():
                mapping.copy(here + name, there + place)
        map_attention(here, f"{there}attention")
    mapping.copy_module(source + names.norm, f"{target}layernorm")


def map_softmax_attention(
    mapping: TensorMap,
    config: DnAViTConfig,
    projections: tuple[str, ...],
    negative_init: NegativeInit,
    warm_scale: float,
) -> MapAttention:
    """Map softmax attention to the variant of `config`.

    Args:
        mapping: takes the tensors.
        config: of the target.
        projections: names of the query, key and value projection in a layer, or of the one that holds all three.
        negative_init: how the negative branch begins.
        warm_scale: see [`~dna_hf.conversion.from_pretrained_softmax`].
    """

    def map_attention(here: str, there: str) -> None:
        for parameter in ("weight", "bias") if config.qkv_bias else ("weight",):
            targets = [f"{there}.{name}.{parameter}" for name in projection_names(config.attention_variant)]
            if len(projections) == 1:
                mapping.split(f"{here}{projections[0]}.{parameter}", targets, config.hidden_size)
                continue
            for name, place in zip(projections, targets, strict=True):
                mapping.copy(f"{here}{name}.{parameter}", place)
        add_new_tensors(mapping, config, there, negative_init, warm_scale)

    return map_attention


def merge_classifiers(mapping: TensorMap, heads: tuple[str, str]) -> None:
    """Make one classifier of those of the class token and the distillation token, whose logits the source averages.

    The mean of two linear layers on two tokens is one linear layer on both tokens, with half the weights.
    """
    weights, biases = [f"{head}.weight" for head in heads], [f"{head}.bias" for head in heads]
    reason = "the mean of two classifiers is one on both tokens"
    mapping.merge(weights, "classifier.weight", lambda both: torch.cat(both, dim=1) / 2, reason)
    mapping.merge(biases, "classifier.bias", lambda both: (both[0] + both[1]) / 2, reason)


def count_layers(tensors: Iterable[str], layers: str) -> int:
    """Number of layers in a row from 0 on; a tensor of a layer beyond a gap is left to be reported as unexpected."""
    indices = {name.removeprefix(layers).partition(".")[0] for name in tensors if name.startswith(layers)}
    return next(index for index in range(len(indices) + 1) if str(index) not in indices)


def map_positions(
    mapping: TensorMap, source: str, target: str, config: DnAViTConfig, source_grid: tuple[int, int]
) -> None:
    """Copy the position table, resampled to the target's grid of patches if that is another one."""
    if source_grid == config.grid_size:
        mapping.copy(source, target)
        return
    prefix_rows = config.num_prefix_tokens if config.use_class_token_position else 0

    def resample(table: torch.Tensor) -> torch.Tensor:
        prefix, patches = table[:, :prefix_rows], table[:, prefix_rows:]
        patches = patches.unflatten(1, source_grid).permute(0, 3, 1, 2)
        # bicubic in float32 or wider, as the models resample at run time
        wide = patches.to(torch.promote_types(patches.dtype, torch.float32))
        resampled = torch.nn.functional.interpolate(wide, config.grid_size, mode="bicubic", align_corners=False)
        return torch.cat((prefix, resampled.to(table.dtype).flatten(2).transpose(1, 2)), dim=1)

    def grid(size: tuple[int, int]) -> str:
        return f"{size[0]}x{size[1]}"

    reason = f"bicubic, from {grid(source_grid)} to {grid(config.grid_size)} patches"
    table = mapping.source.get(source)
    expected = source_grid[0] * source_grid[1] + prefix_rows
    if table is not None and (table.dim() != 3 or table.shape[1] != expected):
        mapping.problems.append(f"{source!r} has shape {tuple(table.shape)}, not {expected} rows")
        mapping.drop(source, "misshaped")
        return
    mapping.copy(source, target, resample, "resampled", reason)
