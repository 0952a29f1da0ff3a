"""What the sources share: a pre-norm vision transformer under some names, and its place in the DnA models."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from ..models import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnATimesformerModel,
    DnAViTForImageClassification,
    DnAViTModel,
)
from ..models.configuration_dna import DnATransformerConfig
from ..models.layers_dna import resample_positions
from .attention import NegativeStart, add_new_tensors, projection_names
from .tensors import TensorMap


@dataclass(frozen=True)
class ViTNames:
    """Names of a vision transformer's parameters, relative to its base model; `layers` is the prefix of the layers.

    `layer` maps the modules of a layer to those of `DnAViTLayer`, `attentions` the modules that have the projections
    of queries, keys and values, `scales` the parameters of the layer scale.
    """

    cls_token: str
    distillation_token: str
    position_embeddings: str
    patch_projection: str
    layers: str
    layer: dict[str, str]
    attentions: dict[str, str]
    norm: str = "layernorm"
    scales: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class VideoNames:
    """Names of a video transformer: those of a vision transformer, and what is there for time.

    Args:
        space: names of the parts that a vision transformer has too.
        time_embeddings: name of the embeddings of the frames.
        norm: where space and time are divided, module of a layer before the attention over time.
        attention: the attention over time.
        output: the projection of what that attention returns.
        dense: the projection behind it.
    """

    space: ViTNames
    time_embeddings: str
    norm: str
    attention: str
    output: str
    dense: str

    def of(self, attention_type: str) -> ViTNames:
        """All names of a layer."""
        if attention_type != "divided_space_time":
            return self.space
        layer = {
            self.norm: "temporal_layernorm",
            self.output: "temporal_attention.o_proj",
            self.dense: "temporal_dense",
        }
        attentions = {self.attention: "temporal_attention"}
        return replace(self.space, layer=self.space.layer | layer, attentions=self.space.attentions | attentions)


# maps the projections of one attention module: (its prefix in the source, its name in the target)
MapAttention = Callable[[str, str], None]


@dataclass(frozen=True)
class TransformerMap:
    """Maps a vision transformer, under the names of its source, to its place in a DnA model.

    Args:
        mapping: map that takes the tensors.
        config: configuration of the target.
        map_attention: function that maps the projections of queries, keys and values of an attention module.
        source: prefix of the base model in the source.
        target: prefix of the base model in the target.
    """

    mapping: TensorMap
    config: Any
    map_attention: MapAttention
    source: str = ""
    target: str = ""

    def image_model(self, names: ViTNames, source_grid: tuple[int, int]) -> None:
        """Map to `DnAViTModel`.

        Args:
            names: names of the parameters in the source.
            source_grid: rows and columns of the source's position table; it is resampled if the target's differ.
        """
        config = self.config
        if config.use_distillation_token:
            self.copy(names.distillation_token, "embeddings.distillation_token")
        self.positions(names, source_grid, config.num_prefix_tokens if config.use_class_token_position else 0)
        self.transformer(names)
        if config.layer_scale_init_value is None:
            return
        for index in range(config.num_hidden_layers):
            for name, place in names.scales.items():
                self.copy(f"{names.layers}{index}.{name}", f"layers.{index}.{place}")

    def video_model(self, names: VideoNames, source_grid: tuple[int, int]) -> None:
        """Map to `DnATimesformerModel`.

        Args:
            names: names of the parameters in the source.
            source_grid: rows and columns of the source's position table; it is resampled if the target's differ.
        """
        attention_type = self.config.attention_type
        if attention_type != "space_only":
            self.copy(names.time_embeddings, "embeddings.time_embeddings")
        self.positions(names.of(attention_type), source_grid, 1)
        self.transformer(names.of(attention_type))

    def transformer(self, names: ViTNames) -> None:
        """Map what every vision transformer has, but its positions."""
        self.copy(names.cls_token, "embeddings.cls_token")
        self.copy_module(names.patch_projection, "embeddings.patch_embeddings.projection")
        for index in range(self.config.num_hidden_layers):
            here, there = f"{names.layers}{index}.", f"layers.{index}."
            for name, place in names.layer.items():
                self.copy_module(here + name, there + place)
            for name, place in names.attentions.items():
                self.map_attention(f"{self.source}{here}{name}.", f"{self.target}{there}{place}")
        self.copy_module(names.norm, "layernorm")

    def positions(
        self, names: ViTNames, source_grid: tuple[int, int], prefix_rows: int, add_row: bool = False
    ) -> None:
        """Map the position table, resampled to the target's grid of patches if that is another one.

        Args:
            names: names of the parameters in the source.
            source_grid: rows and columns of the source's table.
            prefix_rows: rows before those of the patches in the source's table.
            add_row: put a row of zeros in front, for a class token that has none in the source.
        """
        mapping, grid = self.mapping, self.config.grid_size
        resampled = source_grid != grid

        def change(table: torch.Tensor) -> torch.Tensor:
            if resampled:
                patches = resample_positions(table[:, prefix_rows:], source_grid, grid)
                table = torch.cat((table[:, :prefix_rows], patches), dim=1)
            return torch.cat((torch.zeros_like(table[:, :1]), table), dim=1) if add_row else table

        reasons = [f"bicubic, from {_size(source_grid)} to {_size(grid)} patches"] if resampled else []
        reasons += ["behind a row of zeros for the class token"] if add_row else []
        name = self.source + names.position_embeddings
        table = mapping.source.get(name)
        expected = source_grid[0] * source_grid[1] + prefix_rows
        if reasons and table is not None and (table.dim() != 3 or table.shape[1] != expected):
            mapping.problems.append(f"{name!r} has shape {tuple(table.shape)}, not {expected} rows")
            mapping.drop(name, "misshaped")
            return
        place = f"{self.target}embeddings.position_embeddings"
        mapping.copy(name, place, change, "resampled" if resampled else "copied", ", ".join(reasons))

    def copy(self, name: str, place: str) -> None:
        """Copy a parameter of the base model."""
        self.mapping.copy(self.source + name, self.target + place)

    def copy_module(self, name: str, place: str) -> None:
        """Copy the parameters of a module of the base model."""
        self.mapping.copy_module(self.source + name, self.target + place)


def map_softmax_attention(
    mapping: TensorMap,
    config: DnATransformerConfig,
    projections: tuple[str, ...],
    start: NegativeStart,
) -> MapAttention:
    """Map softmax attention to the variant of `config`.

    Args:
        mapping: map that takes the tensors.
        config: configuration of the target.
        projections: names of the query, key and value projection in an attention module, or of the one that holds all
            three.
        start: how the negative branch begins.
    """

    def map_attention(here: str, there: str) -> None:
        for parameter in ("weight", "bias") if config.qkv_bias else ("weight",):
            targets = [f"{there}.{name}.{parameter}" for name in projection_names(config.attention_variant)]
            if len(projections) == 1:
                mapping.split(f"{here}{projections[0]}.{parameter}", targets, config.hidden_size)
                continue
            for name, place in zip(projections, targets, strict=True):
                mapping.copy(f"{here}{name}.{parameter}", place)
        add_new_tensors(mapping, config, there, start)

    return map_attention


def model_classes(config: Any) -> tuple[type[PreTrainedModel], type[PreTrainedModel]]:
    """The base model and the classifier of a configuration."""
    if isinstance(config, DnATimesformerConfig):
        return DnATimesformerModel, DnATimesformerForVideoClassification
    return DnAViTModel, DnAViTForImageClassification


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


def _size(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"
