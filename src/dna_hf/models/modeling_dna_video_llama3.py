"""The vision encoder of VideoLLaMA3 with visual probes, which read its layers by Denoising Attention or a baseline.

The encoder is transformers' own, layer by layer: its features and the names of its parameters are the same. Beside it
go the probes of VisCoP: each image or video gets a copy of the learnable probes, and after every chosen layer a module
of its own replaces them by what they read, by cross-attention, from the tokens that the layer returns. There is no
residual connection, no norm and no rotary embedding around that cross-attention, as in the released code of Denoising
Attention for Visual Tasks, arXiv:2606.27372.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.video_llama_3.modeling_video_llama_3 import (
    VideoLlama3PreTrainedModel,
    VideoLlama3VisionAttention,
    VideoLlama3VisionEmbeddings,
    VideoLlama3VisionEncoder,
    VideoLlama3VisionEncoderLayer,
    VideoLlama3VisionModel,
    VideoLlama3VisionRotaryEmbedding,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import is_flash_attention_requested, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs
from transformers.vision_utils import get_vision_attention_seqlens, get_vision_position_ids

from .attention_variants import (
    TWO_MAP_VARIANTS,
    AttentionMaps,
    VariantAttention,
    build_attention,
    recompute_attention_maps,
)
from .configuration_dna_video_llama3 import DnAVideoLlama3VisionConfig
from .modeling_dna_vit import record_all_maps


@auto_docstring(custom_intro="Output of the vision encoder; the visuals of a batch are its images and videos.")
@dataclass
class DnAVideoLlama3VisionModelOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(tokens, hidden_size)`):
        Features of all visuals, one visual after the other: `t * (h / merge_size) * (w / merge_size)` of each.
    pooler_output (`tuple(torch.FloatTensor)`, *optional*):
        Not set by the vision encoder; transformers' VideoLLaMA3 keeps the projected features of each visual here.
    attentions (`tuple`, *optional*, returned when `output_attentions=True` is passed):
        Maps of the encoder, per layer a list of `(1, num_heads, h * w, h * w)`, one for each frame of each visual.
    probe_hidden_states (`torch.FloatTensor` of shape `(visuals * num_probes, hidden_size)`):
        The probes of all visuals after the last interaction module, one visual after the other.
    probe_attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True` is passed):
        Maps of the positive branch from the probes of all visuals to the patches of all visuals, one of shape `(1,
        num_heads, visuals * num_probes, patches)` per interaction module; 0 between different visuals.
    negative_probe_attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True`):
        The same of the negative branch (the second map of differential attention). `None` for the other variants.
    """

    probe_hidden_states: torch.FloatTensor | None = None
    probe_attentions: tuple[torch.FloatTensor, ...] | None = None
    negative_probe_attentions: tuple[torch.FloatTensor, ...] | None = None


class DnAVideoLlama3VisionInteraction(GradientCheckpointingLayer):
    """What replaces the probes after a layer of the encoder: their cross-attention to its tokens, and nothing else."""

    def __init__(self, config: DnAVideoLlama3VisionConfig, layer_idx: int):
        super().__init__()
        self.attention = build_attention(config, layer_idx)

    def forward(
        self, probes: torch.Tensor, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any
    ) -> torch.Tensor:
        """New probes (1, visuals * num_probes, width) from the old ones and the tokens (patches, width)."""
        return self.attention(probes, attention_mask, key_value_states=hidden_states.unsqueeze(0), **kwargs)[0]


class DnAVideoLlama3VisionEncoder(VideoLlama3VisionEncoder):
    """The layers of VideoLLaMA3's encoder, and the probes with a module after each layer that they read."""

    def __init__(self, config: DnAVideoLlama3VisionConfig):
        super().__init__(config)
        self.visual_probes = nn.Parameter(torch.zeros(1, config.num_probes, config.hidden_size))
        self.interaction_modules = nn.ModuleList(
            [DnAVideoLlama3VisionInteraction(config, layer_idx) for layer_idx in config.interaction_layer_ids]
        )

    def visuals_apart(self, patches: list[int], device: torch.device) -> dict[str, Any]:
        """What keeps the probes of a visual to its own patches, as arguments of the cross-attention.

        Args:
            patches: number of patches of each visual.
            device: of the tokens.
        """
        num_probes = self.config.num_probes
        if len(patches) == 1:
            return {"attention_mask": None}
        lengths = torch.tensor(patches, device=device)
        visuals = torch.arange(len(patches), device=device)
        if not is_flash_attention_requested(self.config):
            # of all probes to all patches: small beside the tokens, because the probes are few
            owners = visuals.repeat_interleave(lengths, output_size=sum(patches))
            return {"attention_mask": (visuals.repeat_interleave(num_probes)[:, None] == owners)[None, None]}
        bounds = nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        return {
            "attention_mask": None,
            "cu_seq_lens_q": torch.arange(len(patches) + 1, dtype=torch.int32, device=device) * num_probes,
            "cu_seq_lens_k": bounds,
            "max_length_q": num_probes,
            "max_length_k": max(patches),
        }

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        patches: list[int],
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        max_seqlen: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (patches of all visuals, width) through all layers, and the probes (visuals * num_probes, width).

        Args:
            hidden_states: (patches of all visuals, width).
            patches: number of patches of each visual.
            cu_seqlens: where the frames begin and end, (frames + 1).
            position_embeddings: cosine and sine for each patch, (patches of all visuals, head width) each.
            max_seqlen: most patches of a frame; for flash attention.
        """
        interactions = dict(zip(self.config.interaction_layer_ids, self.interaction_modules, strict=True))
        apart = self.visuals_apart(patches, hidden_states.device)
        probes = self.visual_probes.expand(len(patches), -1, -1).flatten(0, 1).unsqueeze(0)
        for layer_idx, layer in enumerate(self.layers):
            hidden_states = layer(
                hidden_states,
                cu_seqlens=cu_seqlens,
                position_embeddings=position_embeddings,
                max_seqlen=max_seqlen,
                **kwargs,
            )
            if layer_idx in interactions:
                probes = interactions[layer_idx](probes, hidden_states, **apart, **kwargs)
        return hidden_states, probes.squeeze(0)


def visual_patches(pixel_values: torch.Tensor, grid_thw: torch.Tensor, merge_sizes: torch.Tensor) -> list[int]:
    """Number of patches of each visual.

    Raises:
        ValueError: for grids that are not `(visuals, 3)` or empty, that blocks of `merge_sizes` do not tile, or that
            have another number of patches than `pixel_values` has rows.
    """
    if grid_thw.dim() != 2 or grid_thw.shape[1] != 3 or not len(grid_thw):
        raise ValueError(
            "grid_thw must give (frames, rows, columns) of at least one image or video, got shape "
            f"{tuple(grid_thw.shape)}."
        )
    if merge_sizes.shape != grid_thw.shape[:1]:
        raise ValueError(
            f"merge_sizes must give one size for each of the {len(grid_thw)} rows of grid_thw, got shape "
            f"{tuple(merge_sizes.shape)}."
        )
    patches = []
    for (frames, rows, columns), merge_size in zip(grid_thw.tolist(), merge_sizes.tolist(), strict=True):
        if min(frames, rows, columns, merge_size) < 1:
            raise ValueError(
                f"grid_thw has a grid of {frames} x {rows} x {columns} patches with merge size {merge_size}: all must "
                "be at least 1."
            )
        if rows % merge_size or columns % merge_size:
            raise ValueError(
                f"a grid of {rows} x {columns} patches cannot be merged in blocks of {merge_size} x {merge_size}."
            )
        patches.append(frames * rows * columns)
    if len(pixel_values) != sum(patches):
        raise ValueError(f"pixel_values has {len(pixel_values)} patches, but grid_thw counts {sum(patches)}.")
    return patches


@auto_docstring(
    custom_intro="""
    The vision encoder of VideoLLaMA3 with visual probes. Without the probes it computes what `VideoLlama3VisionModel`
    does, from parameters of the same names.
    """
)
class DnAVideoLlama3VisionModel(VideoLlama3VisionModel):
    config: DnAVideoLlama3VisionConfig
    config_class = DnAVideoLlama3VisionConfig
    _no_split_modules = ["VideoLlama3VisionEncoderLayer", "DnAVideoLlama3VisionInteraction"]
    _supports_flex_attn = True
    # the grids decide on shapes
    _can_compile_fullgraph = False
    _can_record_outputs = {
        "hidden_states": VideoLlama3VisionEncoderLayer,
        "attentions": VideoLlama3VisionAttention,
        "probe_attentions": OutputRecorder(VariantAttention, index=1),
        "negative_probe_attentions": OutputRecorder(VariantAttention, index=2),
    }

    def __init__(self, config: DnAVideoLlama3VisionConfig):
        # not that of the parent, which would build another encoder first
        VideoLlama3PreTrainedModel.__init__(self, config)
        self.rotary_pos_emb = VideoLlama3VisionRotaryEmbedding(config)
        self.embeddings = VideoLlama3VisionEmbeddings(config)
        self.encoder = DnAVideoLlama3VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def further_maps(self) -> list[str]:
        """Maps that come back with `attentions`."""
        two = self.config.attention_variant in TWO_MAP_VARIANTS
        return ["probe_attentions", "negative_probe_attentions"] if two else ["probe_attentions"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as transformers does the encoder; the probes by the same normal."""
        if isinstance(module, DnAVideoLlama3VisionEncoder):
            init.normal_(module.visual_probes, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, VariantAttention):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def attention_maps(self, layers: list[int] | None = None, **inputs: Any) -> AttentionMaps:
        """Form the maps of both branches of the probes' cross-attention, under eager, sdpa or flex attention.

        Args:
            layers: indices of the interaction modules; all by default.
            inputs: arguments of `forward`.

        Returns:
            `positive` and `negative`, each a tuple with one (1, heads, visuals * num_probes, patches) per module; see
            [`DnAVideoLlama3VisionModelOutput`].

        Raises:
            ValueError: for a module that does not exist, or several visuals under flash attention.
        """
        return recompute_attention_maps(self, layers, **inputs)

    @record_all_maps
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor,
        merge_sizes: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DnAVideoLlama3VisionModelOutput:
        r"""
        pixel_values (`torch.Tensor` of shape `(patches, num_channels * patch_size * patch_size)`):
            The patches of all visuals, one visual after the other, in the order (frame, row and column of the block of
            `merge_size` x `merge_size` patches, row and column in the block).
        grid_thw (`torch.LongTensor` of shape `(visuals, 3)`):
            Frames, rows and columns of each visual, in patches.
        merge_sizes (`torch.LongTensor` of shape `(visuals,)`):
            Height and width of the blocks of patches that become one feature, by their mean where it is 2.
        """
        for name in self.further_maps():
            kwargs.pop(f"output_{name}", None)  # type: ignore[misc]
        width = self.config.num_channels * self.config.patch_size**2
        if pixel_values.dim() != 2 or pixel_values.shape[1] != width:
            raise ValueError(f"pixel_values must be (patches, {width}), got shape {tuple(pixel_values.shape)}.")
        patches = visual_patches(pixel_values, grid_thw, merge_sizes)
        position_ids = get_vision_position_ids(grid_thw, merge_sizes, kwargs=kwargs)
        cu_seqlens, max_seqlen = get_vision_attention_seqlens(grid_thw, self.config, kwargs=kwargs)

        hidden_states = self.embeddings(pixel_values.to(self.dtype))
        position_embeddings = self.rotary_pos_emb(hidden_states, position_ids)
        hidden_states, probes = self.encoder(
            hidden_states, patches, cu_seqlens, position_embeddings, max_seqlen, **kwargs
        )
        features = self.pixel_unshuffle(self.post_layernorm(hidden_states), grid_thw, merge_sizes)
        return DnAVideoLlama3VisionModelOutput(last_hidden_state=features, probe_hidden_states=probes)


__all__ = ["DnAVideoLlama3VisionModel"]
