"""VideoLLaMA3 with visual probes, which read the layers of its vision encoder by Denoising Attention or a baseline.

The encoder is transformers' own, layer by layer: its features and the names of its parameters are the same. Beside it
go the probes of VisCoP: each image or video gets a copy of the learnable probes, and after every chosen layer a module
of its own replaces them by what they read, by cross-attention, from the tokens that the layer returns. There is no
residual connection, no norm and no rotary embedding around that cross-attention, as in the released code of Denoising
Attention for Visual Tasks, arXiv:2606.27372.

The language model reads visual tokens and probes, each projected to its width by a projector of their own, in the
places of placeholder tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.video_llama_3.modeling_video_llama_3 import (
    VideoLlama3CausalLMOutputWithPast,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3Model,
    VideoLlama3ModelOutputWithPast,
    VideoLlama3PreTrainedModel,
    VideoLlama3Projector,
    VideoLlama3VisionAttention,
    VideoLlama3VisionEmbeddings,
    VideoLlama3VisionEncoder,
    VideoLlama3VisionEncoderLayer,
    VideoLlama3VisionModel,
    VideoLlama3VisionRotaryEmbedding,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, can_return_tuple
from transformers.utils.generic import (
    accepts_precomputed_kwargs,
    is_flash_attention_requested,
)
from transformers.utils.output_capturing import OutputRecorder
from transformers.vision_utils import get_vision_attention_seqlens, get_vision_position_ids

from .attention_variants import TWO_MAP_VARIANTS, VariantAttention, build_attention
from .configuration_dna_video_llama3 import DnAVideoLlama3Config, DnAVideoLlama3VisionConfig
from .layers_dna import AttentionMaps, capture_all_outputs, recompute_attention_maps


# what the language model takes beside transformers' own arguments, for `auto_docstring`
VISUAL_ARGUMENTS = r"""
image_merge_sizes (`torch.LongTensor` of shape `(images,)`):
    Height and width of the blocks of patches of each image that become one token.
video_merge_sizes (`torch.LongTensor` of shape `(videos,)`):
    Height and width of the blocks of patches of each video that become one token.
video_compression_mask (`torch.BoolTensor` of shape `(tokens of all videos,)`, *optional*):
    Which tokens of the videos the language model gets; all if unset.
mm_encoder_outputs (`dict`, *optional*):
    What `get_image_features` ("image") and `get_video_features` ("video") returned, instead of pixels.
"""


@auto_docstring(custom_intro="Output of the vision encoder; the visuals of a batch are its images and videos.")
@dataclass
class DnAVideoLlama3VisionModelOutput(BaseModelOutputWithPooling):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(tokens, hidden_size)`):
        Features of all visuals, one visual after the other: `t * (h / merge_size) * (w / merge_size)` of each.
    pooler_output (`tuple(torch.FloatTensor)`, *optional*):
        Features of each visual, projected to the width of the language model; not set by the vision encoder alone.
    attentions (`tuple`, *optional*, returned when `output_attentions=True` is passed):
        Maps of the encoder, per layer a list of `(1, num_heads, h * w, h * w)`, one for each frame of each visual.
    probe_hidden_states (`torch.FloatTensor` of shape `(visuals * num_probes, hidden_size)`):
        The probes of all visuals after the last interaction module, one visual after the other.
    probe_pooler_output (`tuple(torch.FloatTensor)`, *optional*):
        Probes of each visual, projected to the width of the language model; not set by the vision encoder alone.
    probe_attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True` is passed):
        Maps of the positive branch from the probes of all visuals to the patches of all visuals, one of shape `(1,
        num_heads, visuals * num_probes, patches)` per interaction module; 0 between different visuals.
    negative_probe_attentions (`tuple(torch.FloatTensor)`, *optional*, returned when `output_attentions=True`):
        The same of the negative branch (the second map of differential attention). `None` for the other variants.
    """

    probe_hidden_states: torch.FloatTensor | None = None
    probe_pooler_output: tuple[torch.FloatTensor, ...] | None = None
    probe_attentions: tuple[torch.FloatTensor, ...] | None = None
    negative_probe_attentions: tuple[torch.FloatTensor, ...] | None = None


class DnAVideoLlama3VisionInteraction(GradientCheckpointingLayer):
    """What replaces the probes after a layer of the encoder: their cross-attention to its tokens, and nothing else."""

    def __init__(self, config: DnAVideoLlama3VisionConfig, layer_idx: int):
        super().__init__()
        normalize = config.normalize_keys
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if normalize else nn.Identity()
        self.attention = build_attention(config, layer_idx)

    def forward(
        self, probes: torch.Tensor, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any
    ) -> torch.Tensor:
        """New probes (1, visuals * num_probes, width) from the old ones and the tokens (patches, width)."""
        tokens = self.norm(hidden_states).unsqueeze(0)
        return self.attention(probes, attention_mask, key_value_states=tokens, **kwargs)[0]


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
            device: device of the tokens.
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
        read_probes: bool = True,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Tokens (patches of all visuals, width) through all layers, and the probes (visuals * num_probes, width).

        Args:
            hidden_states: (patches of all visuals, width).
            patches: number of patches of each visual.
            cu_seqlens: where the frames begin and end, (frames + 1).
            position_embeddings: cosine and sine for each patch, (patches of all visuals, head width) each.
            max_seqlen: most patches of a frame; for flash attention.
            read_probes: whether the probes are wanted.
        """
        interactions = dict(zip(self.config.interaction_layer_ids, self.interaction_modules, strict=True))
        if not read_probes:
            interactions = {}
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
        return hidden_states, probes.squeeze(0) if read_probes else None


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

    @capture_all_outputs
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor,
        merge_sizes: torch.Tensor,
        read_probes: bool = True,
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
        read_probes (`bool`, *optional*, defaults to `True`):
            Whether to compute the probes; `probe_hidden_states` is `None` without.
        """
        width = self.config.num_channels * self.config.patch_size**2
        if pixel_values.dim() != 2 or pixel_values.shape[1] != width:
            raise ValueError(f"pixel_values must be (patches, {width}), got shape {tuple(pixel_values.shape)}.")
        patches = visual_patches(pixel_values, grid_thw, merge_sizes)
        position_ids = get_vision_position_ids(grid_thw, merge_sizes, kwargs=kwargs)
        cu_seqlens, max_seqlen = get_vision_attention_seqlens(grid_thw, self.config, kwargs=kwargs)

        hidden_states = self.embeddings(pixel_values.to(self.dtype))
        position_embeddings = self.rotary_pos_emb(hidden_states, position_ids)
        hidden_states, probes = self.encoder(
            hidden_states, patches, cu_seqlens, position_embeddings, max_seqlen, read_probes, **kwargs
        )
        features = self.pixel_unshuffle(self.post_layernorm(hidden_states), grid_thw, merge_sizes)
        return DnAVideoLlama3VisionModelOutput(last_hidden_state=features, probe_hidden_states=probes)


@auto_docstring(
    custom_intro="""
    VideoLLaMA3 with visual probes, without the output layer of its language model: the vision encoder, a projector for
    its tokens, another for the probes, and the language model.
    """
)
class DnAVideoLlama3Model(VideoLlama3Model):
    config: DnAVideoLlama3Config
    config_class = DnAVideoLlama3Config
    _supports_flex_attn = True

    def __init__(self, config: DnAVideoLlama3Config):
        # not that of the parent, which would look the vision encoder up in a registry
        VideoLlama3PreTrainedModel.__init__(self, config)
        self.vision_model = DnAVideoLlama3VisionModel(config.vision_config)
        self.projector = VideoLlama3Projector(config)
        self.probe_projector = VideoLlama3Projector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    @accepts_precomputed_kwargs(modality="image")
    @can_return_tuple
    @auto_docstring
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_grid_thw: torch.LongTensor,
        image_merge_sizes: torch.LongTensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | DnAVideoLlama3VisionModelOutput:
        r"""
        pixel_values (`torch.Tensor` of shape `(patches, num_channels * patch_size * patch_size)`):
            The patches of all images, see [`DnAVideoLlama3VisionModel`].
        image_merge_sizes (`torch.LongTensor` of shape `(images,)`):
            Height and width of the blocks of patches that become one token.
        """
        return self._see(pixel_values, image_grid_thw, image_merge_sizes, **kwargs)

    @accepts_precomputed_kwargs(modality="video")
    @can_return_tuple
    @auto_docstring
    def get_video_features(  # type: ignore[override]
        self,
        pixel_values_videos: torch.Tensor,
        video_grid_thw: torch.LongTensor,
        video_merge_sizes: torch.LongTensor,
        video_compression_mask: torch.BoolTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | DnAVideoLlama3VisionModelOutput:
        r"""
        pixel_values_videos (`torch.Tensor` of shape `(patches, num_channels * patch_size * patch_size)`):
            The patches of all videos, see [`DnAVideoLlama3VisionModel`].
        video_merge_sizes (`torch.LongTensor` of shape `(videos,)`):
            Height and width of the blocks of patches that become one token.
        video_compression_mask (`torch.BoolTensor` of shape `(tokens of all videos,)`, *optional*):
            Which tokens the language model gets; all if unset.
        """
        return self._see(
            pixel_values_videos, video_grid_thw, video_merge_sizes, kept_tokens=video_compression_mask, **kwargs
        )

    def _see(
        self,
        pixel_values: torch.Tensor,
        grid_thw: torch.Tensor,
        merge_sizes: torch.Tensor,
        kept_tokens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> DnAVideoLlama3VisionModelOutput:
        """Encode images or videos, and project what the language model reads of each: its tokens and its probes."""
        config = self.config
        kwargs |= {"read_probes": config.include_visual_probes, "return_dict": True}
        outputs = self.vision_model(pixel_values, grid_thw, merge_sizes, **kwargs)
        if config.include_visual_tokens:
            tokens = self.projector(outputs.last_hidden_state)
            sizes = (grid_thw.prod(dim=1) // merge_sizes**2).tolist()
            if kept_tokens is not None:
                if kept_tokens.shape != tokens.shape[:1]:
                    raise ValueError(
                        f"video_compression_mask must have one value for each of the {len(tokens)} tokens of the "
                        f"videos, got shape {tuple(kept_tokens.shape)}."
                    )
                kept_tokens = kept_tokens.to(tokens.device)
                sizes = [int(part.sum()) for part in kept_tokens.split(sizes)]
                tokens = tokens[kept_tokens]
            outputs.pooler_output = tokens.split(sizes)
        if config.include_visual_probes:
            probes = self.probe_projector(outputs.probe_hidden_states)
            outputs.probe_pooler_output = probes.split(config.vision_config.num_probes)
        return outputs

    def placeholders(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, token_id: int
    ) -> torch.Tensor:
        """Where a placeholder stands, as a mask (batch, sequence); without token ids, where its embedding does.

        Args:
            input_ids: (batch, sequence), or `None`.
            inputs_embeds: (batch, sequence, width); looked at only where there are no token ids.
            token_id: number of the placeholder's token.

        Raises:
            ValueError: if there is neither.
        """
        if input_ids is not None and input_ids.numel():
            return input_ids == token_id
        if inputs_embeds is None:
            raise ValueError("give the model input_ids or inputs_embeds.")
        embedding = self.get_input_embeddings()(torch.tensor(token_id, device=inputs_embeds.device))
        return (inputs_embeds == embedding).all(-1)

    def fill_placeholders(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor,
        seen: dict[str, DnAVideoLlama3VisionModelOutput],
    ) -> torch.Tensor:
        """The embeddings with what is seen in the places of the placeholders, in order.

        Args:
            input_ids: (batch, sequence), or `None`.
            inputs_embeds: (batch, sequence, width).
            seen: what `get_image_features` ("image") and `get_video_features` ("video") returned.

        Raises:
            ValueError: if there are more or fewer placeholders than features.
        """
        for name, token_id in self.config.placeholder_token_ids.items():
            features = features_of(name, seen)
            places = self.placeholders(input_ids, inputs_embeds, token_id)
            count = int(places.sum())
            if count != sum(map(len, features)):
                raise ValueError(
                    f"the input has {count} placeholders of {name} ({token_id}), but there are "
                    f"{sum(map(len, features))} features for them: make both with the processor of the model, which "
                    "has its num_probes, include_visual_tokens and include_visual_probes, and do not truncate them."
                )
            if count:
                filling = torch.cat(list(features)).to(inputs_embeds.device, inputs_embeds.dtype)
                inputs_embeds = inputs_embeds.masked_scatter(places.unsqueeze(-1), filling)
        return inputs_embeds

    @can_return_tuple
    @auto_docstring(custom_args=VISUAL_ARGUMENTS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        image_merge_sizes: torch.LongTensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        video_merge_sizes: torch.LongTensor | None = None,
        video_compression_mask: torch.BoolTensor | None = None,
        mm_encoder_outputs: dict[str, DnAVideoLlama3VisionModelOutput] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | VideoLlama3ModelOutputWithPast:
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give the model input_ids or inputs_embeds.")
            inputs_embeds = self.get_input_embeddings()(input_ids)
        seen = dict(mm_encoder_outputs or {})
        if seen and (pixel_values is not None or pixel_values_videos is not None):
            raise ValueError("give the model pixels or mm_encoder_outputs, not both.")
        if pixel_values is not None:
            seen["image"] = self.get_image_features(
                pixel_values, image_grid_thw, image_merge_sizes, return_dict=True, **kwargs
            )
        if pixel_values_videos is not None:
            seen["video"] = self.get_video_features(
                pixel_values_videos,
                video_grid_thw,
                video_merge_sizes,
                video_compression_mask,
                return_dict=True,
                **kwargs,
            )
        outputs = self.language_model(
            input_ids=None,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=self.fill_placeholders(input_ids, inputs_embeds, seen),
            use_cache=use_cache,
            **kwargs,
        )
        image_tokens, video_tokens = (features_of(f"{name}_token_id", seen) for name in ("image", "video"))
        return VideoLlama3ModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=torch.cat(image_tokens) if image_tokens else None,
            video_hidden_states=torch.cat(video_tokens) if video_tokens else None,
        )


VISUAL_INPUTS = {
    "image": ("pixel_values", "image_grid_thw", "image_merge_sizes"),
    "video": ("pixel_values_videos", "video_grid_thw", "video_merge_sizes", "video_compression_mask"),
}


def features_of(placeholder: str, seen: dict[str, DnAVideoLlama3VisionModelOutput]) -> tuple[torch.Tensor, ...]:
    """What goes into the places of a placeholder: per visual, (tokens, width) or (probes, width).

    Args:
        placeholder: name of its field in the configuration, as `"video_probe_token_id"`.
        seen: images ("image") and videos ("video"), encoded and projected.
    """
    modality = placeholder.split("_")[0]
    if modality not in seen:
        return ()
    output = seen[modality]
    return (output.probe_pooler_output if "probe" in placeholder else output.pooler_output) or ()


@auto_docstring(custom_intro="VideoLLaMA3 with visual probes, with the output layer of its language model.")
class DnAVideoLlama3ForConditionalGeneration(VideoLlama3ForConditionalGeneration):
    config: DnAVideoLlama3Config
    config_class = DnAVideoLlama3Config
    _supports_flex_attn = True

    def __init__(self, config: DnAVideoLlama3Config):
        # not that of the parent, which would build its own model first
        VideoLlama3PreTrainedModel.__init__(self, config)
        self.model = DnAVideoLlama3Model(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        # a placeholder is no text: one that is generated would have nothing to stand for
        self.generation_config.suppress_tokens = sorted(config.placeholder_token_ids.values())
        self.post_init()

    @can_return_tuple
    @auto_docstring(custom_args=VISUAL_ARGUMENTS)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        image_merge_sizes: torch.LongTensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        video_merge_sizes: torch.LongTensor | None = None,
        video_compression_mask: torch.BoolTensor | None = None,
        mm_encoder_outputs: dict[str, DnAVideoLlama3VisionModelOutput] | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | VideoLlama3CausalLMOutputWithPast:
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            image_merge_sizes=image_merge_sizes,
            pixel_values_videos=pixel_values_videos,
            video_grid_thw=video_grid_thw,
            video_merge_sizes=video_merge_sizes,
            video_compression_mask=video_compression_mask,
            mm_encoder_outputs=mm_encoder_outputs,
            return_dict=True,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return VideoLlama3CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
            video_hidden_states=outputs.video_hidden_states,
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As `generate` of every model of transformers, for inputs that are padded on the left.

        Raises:
            ValueError: for an `attention_mask` that ends in padding: the answer would go on from that.
        """
        mask = kwargs.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.ndim == 2 and not mask[:, -1].all():
            rows = (mask[:, -1] == 0).nonzero().flatten().tolist()
            raise ValueError(
                f"attention_mask has padding on the right in {len(rows)} of {len(mask)} rows, the first of them row "
                f"{rows[0]}: an answer goes on from the last token, so pad on the left (padding_side='left')."
            )
        return super().generate(*args, **kwargs)

    def prepare_inputs_for_generation(
        self, *args: Any, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """The inputs of a step of `generate`; what was seen is in the cache after the first step."""
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs.pop("mm_encoder_outputs", None)
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor | None, dict[str, Any]]:
        """Repeat each sample, for beams and for several answers; the visuals are encoded once."""
        seen = {}
        if expand_size > 1:
            seen = model_kwargs.pop("mm_encoder_outputs", None) or self._see_inputs(model_kwargs)
            for modality, output in seen.items():
                samples = self._visuals_of_samples(modality, output, input_ids, model_kwargs.get("inputs_embeds"))
                order = [index for visuals in samples for index in visuals * expand_size]
                for name in ("pooler_output", "probe_pooler_output"):
                    features = getattr(output, name)
                    if features is not None:
                        setattr(output, name, tuple(features[index] for index in order))
        # that of the class above the parent: the parent's own, in older transformers, repeats pixels
        input_ids, model_kwargs = super(VideoLlama3ForConditionalGeneration, self)._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | ({"mm_encoder_outputs": seen} if seen else {})

    def _see_inputs(self, inputs: dict[str, Any]) -> dict[str, DnAVideoLlama3VisionModelOutput]:
        """Encode the images and videos among the inputs, and take them out."""
        seen = {}
        for modality, names in VISUAL_INPUTS.items():
            own = [inputs.pop(name, None) for name in names]
            if own[0] is not None:
                seen[modality] = getattr(self.model, f"get_{modality}_features")(*own, return_dict=True)
        return seen

    def _visuals_of_samples(
        self,
        modality: str,
        output: DnAVideoLlama3VisionModelOutput,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
    ) -> list[list[int]]:
        """Indices of the images or videos of each sample, by its number of placeholders.

        Two samples, of which the first has the placeholders of one image and the second those of two, give
        `[[0], [1, 2]]`.

        Args:
            modality: `"image"` or `"video"`.
            output: what `get_image_features` or `get_video_features` returned for all samples.
            input_ids: (samples, sequence), or `None`.
            inputs_embeds: (samples, sequence, width); looked at only where there are no token ids.

        Raises:
            ValueError: if the placeholders of a sample end within an image or video.
        """
        ids = self.config.placeholder_token_ids
        names = [name for name in ids if name.startswith(modality)]
        counts = sum(self.model.placeholders(input_ids, inputs_embeds, ids[name]).sum(1) for name in names)
        features = [features_of(name, {modality: output}) for name in names]
        sizes = [sum(map(len, visual)) for visual in zip(*filter(None, features), strict=True)]
        samples: list[list[int]] = []
        first = 0
        for count in counts.tolist():  # type: ignore[union-attr]
            last = first
            while count > 0 and last < len(sizes):
                count -= sizes[last]
                last += 1
            if count:
                raise ValueError(f"the placeholders of sample {len(samples)} do not fit the {modality}s given.")
            samples.append(list(range(first, last)))
            first = last
        return samples


__all__ = ["DnAVideoLlama3ForConditionalGeneration", "DnAVideoLlama3Model", "DnAVideoLlama3VisionModel"]
