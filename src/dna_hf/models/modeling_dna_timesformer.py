"""DnA TimeSformer: a video transformer with Denoising Attention or one of its baselines over space and time.

Source: arXiv:2102.05095 (TimeSformer). Where it differs from transformers' own, and why: attention goes through the
attention interface, so that every backend works; the frames are counted in the input, not taken from the
configuration; positions are resampled on their grid and times linearly; under `space_only` the tokens of all
frames are averaged before the last norm, as in the original code; there is stochastic depth at a rate that may be a
fraction, and both attention maps of space and time come back from `output_attentions=True`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from .attention_variants import TWO_MAP_VARIANTS, VariantAttention, build_attention
from .configuration_dna_timesformer import DnATimesformerConfig
from .layers_dna import (
    AttentionMaps,
    DnADropPath,
    DnAMLP,
    DnAPatchEmbeddings,
    capture_all_outputs,
    drop_path_rate,
    exact_loss,
    init_projection,
    recompute_attention_maps,
    resample_positions,
)


# what image models take; what is left in `kwargs` goes to the attention over time and over space alike
NOT_TAKEN = {
    "attention_mask": "every patch of every frame is attended to",
    "interpolate_pos_encoding": "positions always follow the size of the frames",
}


# of both outputs, for `auto_docstring`
VIDEO_ATTENTIONS = r"""
attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True` is passed):
    Maps of the positive branch over space, one per layer: `(batch_size * frames, num_heads, tokens, tokens)` with
    the class token first, under `joint_space_time` `(batch_size, num_heads, tokens, tokens)`.
negative_attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True` is passed):
    Maps of the negative branch over space (the second map of differential attention), in the shapes of `attentions`.
    `None` for the other variants.
temporal_attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True` is passed):
    Maps of the positive branch over time, `(batch_size * patches, num_heads, frames, frames)` each; `None` unless
    space and time are divided.
negative_temporal_attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True`):
    Maps of the negative branch over time, in the shapes of `temporal_attentions`; `None` where there are none of
    these, or no second map.
"""


@auto_docstring(
    custom_intro="Output of the base model; the pooled output is the normalised class token.",
    custom_args=VIDEO_ATTENTIONS,
)
@dataclass
class DnATimesformerModelOutput(BaseModelOutputWithPooling):
    negative_attentions: tuple[torch.FloatTensor, ...] | None = None
    temporal_attentions: tuple[torch.FloatTensor, ...] | None = None
    negative_temporal_attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(custom_intro="Output of the video classifier.", custom_args=VIDEO_ATTENTIONS)
@dataclass
class DnATimesformerVideoClassifierOutput(ImageClassifierOutput):
    negative_attentions: tuple[torch.FloatTensor, ...] | None = None
    temporal_attentions: tuple[torch.FloatTensor, ...] | None = None
    negative_temporal_attentions: tuple[torch.FloatTensor, ...] | None = None


class DnATimesformerEmbeddings(nn.Module):
    """Patch tokens of all frames with positions and times, behind one class token.

    The order of the patch tokens is (row, column, frame), the frame changing fastest. Under `space_only` every frame
    is a sequence of its own, with a class token.
    """

    def __init__(self, config: DnATimesformerConfig):
        super().__init__()
        self.config = config
        rows, columns = config.grid_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.patch_embeddings = DnAPatchEmbeddings(config)
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.hidden_size))
        self.time_embeddings = (
            None
            if config.attention_type == "space_only"
            else nn.Parameter(torch.zeros(1, config.num_frames, config.hidden_size))
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def positions(self, grid: tuple[int, int]) -> torch.Tensor:
        """Positions (1, 1 + rows * columns, width) of the class token and the patches of a grid (rows, columns)."""
        if grid == self.config.grid_size:
            return self.position_embeddings
        patches = resample_positions(self.position_embeddings[:, 1:], self.config.grid_size, grid)
        return torch.cat((self.position_embeddings[:, :1], patches), dim=1)

    def times(self, num_frames: int) -> torch.Tensor:
        """Times (1, frames, width)."""
        if num_frames == self.config.num_frames:
            return self.time_embeddings
        times = self.time_embeddings.transpose(1, 2).float()
        times = nn.functional.interpolate(times, size=num_frames, mode="linear", align_corners=False)
        return times.transpose(1, 2).to(self.time_embeddings.dtype)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        batch_size, num_frames, _, height, width = pixel_values.shape
        patch_height, patch_width = self.patch_embeddings.projection.kernel_size
        if height < patch_height or width < patch_width:
            raise ValueError(
                f"the frames are {height}x{width} pixels, smaller than one patch of {patch_height}x{patch_width}."
            )
        patches = self.patch_embeddings(pixel_values.flatten(0, 1))
        positions = self.positions((height // patch_height, width // patch_width))
        class_token = (self.cls_token + positions[:, :1]).expand(batch_size, -1, -1)
        patches = self.dropout(patches + positions[:, 1:])
        if self.time_embeddings is None:
            class_token = self.dropout(class_token.repeat_interleave(num_frames, dim=0))
            return torch.cat((class_token, patches), dim=1)
        # (batch * frames, patches, width) -> (batch, patches, frames, width)
        patches = patches.unflatten(0, (batch_size, num_frames)).transpose(1, 2)
        patches = self.dropout(patches + self.times(num_frames).unsqueeze(1))
        return torch.cat((self.dropout(class_token), patches.flatten(1, 2)), dim=1)


class DnATimesformerLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer: attention over space, or over space and time at once, then MLP."""

    def __init__(self, config: DnATimesformerConfig, layer_idx: int):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = build_attention(config, layer_idx)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = DnAMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DnADropPath(drop_path_rate(config, layer_idx))

    def attend(self, hidden_states: torch.Tensor, num_frames: int, **kwargs: Any) -> torch.Tensor:
        """The tokens after attention, residual included; (batch, tokens, width) in and out."""
        attended, _, _ = self.attention(self.layernorm_before(hidden_states), **kwargs)
        return hidden_states + self.drop_path(self.dropout(attended))

    def forward(
        self, hidden_states: torch.Tensor, num_frames: int, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        hidden_states = self.attend(hidden_states, num_frames, **kwargs)
        residual = hidden_states
        hidden_states = self.mlp(self.layernorm_after(hidden_states))
        return residual + self.drop_path(self.dropout(hidden_states))


class DnATimesformerTemporalDense(nn.Linear):
    """The linear layer behind the attention over time, by its class known to the initialisation: it starts at zero."""


class DnATimesformerDividedLayer(DnATimesformerLayer):
    """Pre-norm transformer layer with divided attention: over time for every patch, then over space for every frame.

    The class token takes part in the attention over space alone, in every frame, and becomes the mean over the frames.
    """

    def __init__(self, config: DnATimesformerConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.temporal_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.temporal_attention = build_attention(config, layer_idx)
        self.temporal_dense = DnATimesformerTemporalDense(config.hidden_size, config.hidden_size)

    def attend_time(self, patches: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Patches (batch, patches, frames, width) after attention over the frames, residual included."""
        batch_size = patches.shape[0]
        series = patches.flatten(0, 1)
        attended, _, _ = self.temporal_attention(self.temporal_layernorm(series), **kwargs)
        # stochastic depth comes before the linear layer, as in the original code, whose bias is never dropped
        attended = self.temporal_dense(self.drop_path(self.dropout(attended)))
        return patches + attended.unflatten(0, (batch_size, -1))

    def attend(self, hidden_states: torch.Tensor, num_frames: int, **kwargs: Any) -> torch.Tensor:
        class_token, patches = hidden_states[:, :1], hidden_states[:, 1:].unflatten(1, (-1, num_frames))
        patches = self.attend_time(patches, **kwargs)

        # one sequence per frame: (batch * frames, 1 + patches, width)
        frames = torch.cat((class_token.unsqueeze(1).expand(-1, 1, num_frames, -1), patches), dim=1)
        frames = frames.transpose(1, 2).flatten(0, 1)
        attended, _, _ = self.attention(self.layernorm_before(frames), **kwargs)
        attended = self.drop_path(self.dropout(attended)).unflatten(0, (-1, num_frames)).transpose(1, 2)
        class_token = class_token + attended[:, 0].mean(dim=1, keepdim=True)
        return torch.cat((class_token, (patches + attended[:, 1:]).flatten(1, 2)), dim=1)


@auto_docstring
class DnATimesformerPreTrainedModel(PreTrainedModel):
    config: DnATimesformerConfig
    config_class = DnATimesformerConfig
    base_model_prefix = "dna_timesformer"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["DnATimesformerEmbeddings", "DnATimesformerLayer", "DnATimesformerDividedLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": DnATimesformerLayer,
        "attentions": OutputRecorder(VariantAttention, index=1, layer_name="attention"),
        "negative_attentions": OutputRecorder(VariantAttention, index=2, layer_name="attention"),
        "temporal_attentions": OutputRecorder(VariantAttention, index=1, layer_name="temporal_attention"),
        "negative_temporal_attentions": OutputRecorder(VariantAttention, index=2, layer_name="temporal_attention"),
    }
    _input_embed_layer = "patch_embeddings"

    def further_maps(self) -> list[str]:
        """Maps that come back with `attentions`."""
        divided = self.config.attention_type == "divided_space_time"
        names = ["temporal_attentions"] if divided else []
        if self.config.attention_variant in TWO_MAP_VARIANTS:
            names += ["negative_attentions", *(f"negative_{name}" for name in names)]
        return names

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the paper does; the attention over time adds nothing to a fresh model."""
        std = self.config.initializer_range
        if isinstance(module, DnATimesformerEmbeddings):
            init.trunc_normal_(module.position_embeddings, mean=0.0, std=std)
            init.trunc_normal_(module.cls_token, mean=0.0, std=std)
            if module.time_embeddings is not None:
                init.zeros_(module.time_embeddings)
        elif isinstance(module, VariantAttention):
            module.reset_parameters()
        elif isinstance(module, DnATimesformerTemporalDense):
            # here and not in a branch for the layer: transformers skips a layer that has no parameters of its own and
            # whose class lies outside of it
            init.zeros_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            init_projection(module, std)
        else:
            super()._init_weights(module)

    def attention_maps(self, layers: list[int] | None = None, **inputs: Any) -> AttentionMaps:
        """Form the maps of both branches under any attention implementation.

        Args:
            layers: indices of the attention modules, those over space and time counted in turn; all by default.
            inputs: arguments of `forward`, e.g. `pixel_values`.

        Returns:
            `positive` and `negative`, each a tuple with one (sequences, heads, queries, keys) per module.

        Raises:
            ValueError: for a layer that does not exist.
        """
        return recompute_attention_maps(self, layers, **inputs)


@auto_docstring
class DnATimesformerModel(DnATimesformerPreTrainedModel):
    def __init__(self, config: DnATimesformerConfig):
        super().__init__(config)
        layer = DnATimesformerDividedLayer if config.attention_type == "divided_space_time" else DnATimesformerLayer
        self.embeddings = DnATimesformerEmbeddings(config)
        self.layers = nn.ModuleList([layer(config, index) for index in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @capture_all_outputs
    @auto_docstring
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> DnATimesformerModelOutput:
        r"""
        pixel_values (`torch.Tensor` of shape `(batch_size, num_frames, num_channels, height, width)`):
            Frames of the videos.
        """
        for name, reason in NOT_TAKEN.items():
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"a video model takes no {name}, leave it out: {reason}.")
        if pixel_values.dim() != 5:
            raise ValueError(
                "pixel_values must be (batch, frames, channels, height, width), got shape "
                f"{tuple(pixel_values.shape)}."
            )
        num_frames = pixel_values.shape[1]
        if num_frames == 0:
            raise ValueError(f"pixel_values has no frames: its shape is {tuple(pixel_values.shape)}.")
        hidden_states = self.embeddings(pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype))
        for layer in self.layers:
            hidden_states = layer(hidden_states, num_frames, **kwargs)
        if self.config.attention_type == "space_only":
            hidden_states = hidden_states.unflatten(0, (-1, num_frames)).mean(dim=1)
        hidden_states = self.layernorm(hidden_states)
        return DnATimesformerModelOutput(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


@auto_docstring(
    custom_intro="""
    DnA TimeSformer with a video classification head: a linear layer on the normalised class token.
    """
)
class DnATimesformerForVideoClassification(DnATimesformerPreTrainedModel):
    def __init__(self, config: DnATimesformerConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.dna_timesformer = DnATimesformerModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DnATimesformerVideoClassifierOutput:
        r"""
        pixel_values (`torch.Tensor` of shape `(batch_size, num_frames, num_channels, height, width)`):
            Frames of the videos.
        """
        outputs: DnATimesformerModelOutput = self.dna_timesformer(pixel_values, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = exact_loss(self.loss_function, labels, logits, self.config, **kwargs)
        return DnATimesformerVideoClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            negative_attentions=outputs.negative_attentions,
            temporal_attentions=outputs.temporal_attentions,
            negative_temporal_attentions=outputs.negative_temporal_attentions,
        )


__all__ = ["DnATimesformerForVideoClassification", "DnATimesformerModel", "DnATimesformerPreTrainedModel"]
