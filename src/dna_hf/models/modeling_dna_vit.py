"""DnA vision transformer: a pre-norm ViT with Denoising Attention or one of its baselines.

Where it differs from transformers' own ViT, and why: the class token has no row in the position table unless
`use_class_token_position` is set (as in the paper), the epsilon of the norms is 1e-6, the patch projection keeps
torch's initialisation, there is stochastic depth (at a constant rate by default), optional layer scale, no pooler (the
pooled output is the normalised class token), and both attention maps come back from `output_attentions=True`. The
distillation token, layer scale, position interpolation by default and the other inputs of the classifier are there for
models converted from DeiT and DINOv2.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
    MaskedImageModelingOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from .attention_variants import TWO_MAP_VARIANTS, VariantAttention, build_attention
from .configuration_dna_vit import DnAViTConfig
from .layers_dna import (
    NEGATIVE_ATTENTIONS,
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


@auto_docstring(
    custom_intro="Output of the base model; the pooled output is the normalised class token.",
    custom_args=NEGATIVE_ATTENTIONS,
)
@dataclass
class DnAViTModelOutput(BaseModelOutputWithPooling):
    negative_attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(custom_intro="Output of the image classifier.", custom_args=NEGATIVE_ATTENTIONS)
@dataclass
class DnAViTImageClassifierOutput(ImageClassifierOutput):
    negative_attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(custom_intro="Output of the masked image model.", custom_args=NEGATIVE_ATTENTIONS)
@dataclass
class DnAViTMaskedImageModelingOutput(MaskedImageModelingOutput):
    negative_attentions: tuple[torch.FloatTensor, ...] | None = None


@auto_docstring(custom_intro="Output of the backbone.", custom_args=NEGATIVE_ATTENTIONS)
@dataclass
class DnAViTBackboneOutput(BackboneOutput):
    negative_attentions: tuple[torch.FloatTensor, ...] | None = None


class DnAViTEmbeddings(nn.Module):
    """Patch tokens with positions, behind a class token and, if configured, a distillation token."""

    def __init__(self, config: DnAViTConfig, use_mask_token: bool = False):
        super().__init__()
        self.config = config
        rows, columns = config.grid_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.distillation_token = (
            nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_distillation_token else None
        )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if use_mask_token else None
        self.patch_embeddings = DnAPatchEmbeddings(config)
        self.prefix_rows = config.num_prefix_tokens if config.use_class_token_position else 0
        self.position_embeddings = nn.Parameter(torch.zeros(1, rows * columns + self.prefix_rows, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def positions(self, height: int, width: int, interpolate: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Positions of the tokens before the patches, if they have any, and of the patches of an image."""
        prefix_positions = self.position_embeddings[:, : self.prefix_rows] if self.prefix_rows else None
        patch_positions = self.position_embeddings[:, self.prefix_rows :]
        rows, columns = self.config.grid_size
        patch_height, patch_width = self.patch_embeddings.projection.kernel_size
        grid = (height // patch_height, width // patch_width)
        if not interpolate:
            expected = (rows * patch_height, columns * patch_width)
            if (height, width) != expected:
                raise ValueError(
                    f"the image is {height}x{width} pixels, but the model was built for {expected[0]}x{expected[1]}: "
                    "resize it, or pass interpolate_pos_encoding=True."
                )
        elif grid != (rows, columns):
            patch_positions = resample_positions(patch_positions, (rows, columns), grid)
        return prefix_positions, patch_positions

    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> torch.Tensor:
        height, width = pixel_values.shape[-2:]
        patches = self.patch_embeddings(pixel_values)
        prefix_positions, patch_positions = self.positions(height, width, interpolate_pos_encoding)
        if bool_masked_pos is not None:
            if self.mask_token is None:
                raise ValueError("bool_masked_pos needs a mask token: build the model with use_mask_token=True.")
            patches = torch.where(bool_masked_pos.bool().unsqueeze(-1), self.mask_token.to(patches.dtype), patches)
        prefix = self.cls_token
        if self.distillation_token is not None:
            prefix = torch.cat((prefix, self.distillation_token), dim=1)
        if prefix_positions is not None:
            prefix = prefix + prefix_positions
        tokens = torch.cat((prefix.expand(patches.shape[0], -1, -1), patches + patch_positions), dim=1)
        return self.dropout(tokens)


class DnAViTLayerScale(nn.Module):
    """A learnable scale per channel on a residual branch. Source: arXiv:2103.17239."""

    def __init__(self, config: DnAViTConfig):
        super().__init__()
        self.scale = nn.Parameter(torch.full((config.hidden_size,), float(config.layer_scale_init_value)))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * self.scale


class DnAViTLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer: attention, then MLP, each on a residual branch."""

    def __init__(self, config: DnAViTConfig, layer_idx: int):
        super().__init__()
        scaled = config.layer_scale_init_value is not None
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = build_attention(config, layer_idx)
        self.layer_scale_attention = DnAViTLayerScale(config) if scaled else nn.Identity()
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = DnAMLP(config)
        self.layer_scale_mlp = DnAViTLayerScale(config) if scaled else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DnADropPath(drop_path_rate(config, layer_idx))

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        residual = hidden_states
        hidden_states = self.layernorm_before(hidden_states)
        hidden_states, _, _ = self.attention(hidden_states, attention_mask, **kwargs)
        hidden_states = self.layer_scale_attention(self.dropout(hidden_states))
        hidden_states = residual + self.drop_path(hidden_states)

        residual = hidden_states
        hidden_states = self.layernorm_after(hidden_states)
        hidden_states = self.mlp(hidden_states)
        hidden_states = self.layer_scale_mlp(self.dropout(hidden_states))
        return residual + self.drop_path(hidden_states)


@auto_docstring
class DnAViTPreTrainedModel(PreTrainedModel):
    config: DnAViTConfig
    config_class = DnAViTConfig
    base_model_prefix = "dna_vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["DnAViTEmbeddings", "DnAViTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": DnAViTLayer,
        "attentions": OutputRecorder(VariantAttention, index=1),
        "negative_attentions": OutputRecorder(VariantAttention, index=2),
    }
    _input_embed_layer = "patch_embeddings"

    def further_maps(self) -> list[str]:
        """Maps that come back with `attentions`."""
        return ["negative_attentions"] if self.config.attention_variant in TWO_MAP_VARIANTS else []

    def pool(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What the classifier reads, (batch, width) or (batch, 2 width), of the normalised tokens."""
        class_token = hidden_states[:, 0]
        if self.config.classifier_pooling == "cls":
            return class_token
        if self.config.classifier_pooling == "cls_dist":
            return torch.cat((class_token, hidden_states[:, 1]), dim=1)
        return torch.cat((class_token, hidden_states[:, self.config.num_prefix_tokens :].mean(dim=1)), dim=1)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as the paper does; torch's own initialisation of convolutions is kept."""
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init_projection(module, std)
        elif isinstance(module, DnAViTEmbeddings):
            init.trunc_normal_(module.position_embeddings, mean=0.0, std=std)
            init.trunc_normal_(module.cls_token, mean=0.0, std=std)
            if module.distillation_token is not None:
                init.trunc_normal_(module.distillation_token, mean=0.0, std=std)
            if module.mask_token is not None:
                init.zeros_(module.mask_token)
        elif isinstance(module, DnAViTLayerScale):
            init.constant_(module.scale, self.config.layer_scale_init_value)
        elif isinstance(module, VariantAttention):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def attention_maps(self, layers: list[int] | None = None, **inputs: Any) -> AttentionMaps:
        """Form the maps of both branches under any attention implementation.

        Args:
            layers: indices of the layers; all by default.
            inputs: arguments of `forward`, e.g. `pixel_values`.

        Returns:
            `positive` and `negative`, each a tuple with one (batch, heads, queries, keys) per layer.

        Raises:
            ValueError: for a layer that does not exist.
        """
        return recompute_attention_maps(self, layers, **inputs)


@auto_docstring
class DnAViTModel(DnAViTPreTrainedModel):
    def __init__(self, config: DnAViTConfig, use_mask_token: bool = False):
        r"""
        use_mask_token (`bool`, *optional*, defaults to `False`):
            Whether to add a mask token, for masked image modeling.
        """
        super().__init__(config)
        self.embeddings = DnAViTEmbeddings(config, use_mask_token=use_mask_token)
        self.layers = nn.ModuleList([DnAViTLayer(config, index) for index in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @capture_all_outputs
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DnAViTModelOutput:
        r"""
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_patches)`, *optional*):
            Which patches are replaced by the mask token (1) and which are not (0).
        """
        if interpolate_pos_encoding is None:
            interpolate_pos_encoding = self.config.interpolate_pos_encoding
        embedding_output = self.embeddings(
            pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype),
            bool_masked_pos=bool_masked_pos,
            interpolate_pos_encoding=interpolate_pos_encoding,
        )
        if attention_mask is not None:
            attention_mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=embedding_output, attention_mask=attention_mask
            )
        hidden_states = embedding_output
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        hidden_states = self.layernorm(hidden_states)
        return DnAViTModelOutput(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


@auto_docstring(
    custom_intro="""
    DnA ViT with an image classification head: a linear layer on the normalised class token, or on what
    `config.classifier_pooling` says.
    """
)
class DnAViTForImageClassification(DnAViTPreTrainedModel):
    def __init__(self, config: DnAViTConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.dna_vit = DnAViTModel(config)
        width = config.hidden_size * (1 if config.classifier_pooling == "cls" else 2)
        self.classifier = nn.Linear(width, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DnAViTImageClassifierOutput:
        outputs: DnAViTModelOutput = self.dna_vit(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            **kwargs,
        )
        logits = self.classifier(self.pool(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = exact_loss(self.loss_function, labels, logits, self.config, **kwargs)
        return DnAViTImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            negative_attentions=outputs.negative_attentions,
        )


@auto_docstring(
    custom_intro="""
    DnA ViT with a decoder that predicts the pixels of masked patches, as in
    [SimMIM](https://huggingface.co/papers/2111.09886).
    """
)
class DnAViTForMaskedImageModeling(DnAViTPreTrainedModel):
    def __init__(self, config: DnAViTConfig):
        super().__init__(config)
        self.dna_vit = DnAViTModel(config, use_mask_token=True)
        self.decoder = nn.Sequential(
            nn.Conv2d(config.hidden_size, config.encoder_stride**2 * config.num_channels, kernel_size=1),
            nn.PixelShuffle(config.encoder_stride),
        )
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        bool_masked_pos: torch.BoolTensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DnAViTMaskedImageModelingOutput:
        r"""
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, num_patches)`, *optional*):
            Which patches are masked (1) and which are not (0). The loss is the mean absolute error over the pixels of
            the masked patches; without it there is no loss.
        """
        patch_height, patch_width = self.dna_vit.embeddings.patch_embeddings.projection.kernel_size
        if bool_masked_pos is not None and not patch_height == patch_width == self.config.encoder_stride:
            raise ValueError(
                "the masked loss needs reconstructed images of the size of the input: encoder_stride "
                f"({self.config.encoder_stride}) must equal patch_size ({self.config.patch_size})."
            )
        outputs: DnAViTModelOutput = self.dna_vit(
            pixel_values,
            bool_masked_pos=bool_masked_pos,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            **kwargs,
        )
        grid = (pixel_values.shape[-2] // patch_height, pixel_values.shape[-1] // patch_width)
        patches = outputs.last_hidden_state[:, self.config.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)
        reconstruction = self.decoder(patches)

        loss = None
        if bool_masked_pos is not None:
            mask = bool_masked_pos.unflatten(1, grid).repeat_interleave(patch_height, 1)
            mask = mask.repeat_interleave(patch_width, 2).unsqueeze(1)
            error = nn.functional.l1_loss(pixel_values, reconstruction, reduction="none")
            loss = (error * mask).sum() / (mask.sum() + 1e-5) / self.config.num_channels

        return DnAViTMaskedImageModelingOutput(
            loss=loss,
            reconstruction=reconstruction,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            negative_attentions=outputs.negative_attentions,
        )


@auto_docstring(
    custom_intro="""
    DnA ViT backbone, to be used with frameworks like DETR and MaskFormer.
    """
)
class DnAViTBackbone(BackboneMixin, DnAViTPreTrainedModel):
    def __init__(self, config: DnAViTConfig):
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)
        self.dna_vit = DnAViTModel(config)
        self.post_init()

    @can_return_tuple
    @filter_output_hidden_states
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DnAViTBackboneOutput:
        outputs: DnAViTModelOutput = self.dna_vit(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            **kwargs,
        )
        patch_height, patch_width = self.dna_vit.embeddings.patch_embeddings.projection.kernel_size
        grid = (pixel_values.shape[-2] // patch_height, pixel_values.shape[-1] // patch_width)
        feature_maps = []
        for stage, hidden_state in zip(self.stage_names, outputs.hidden_states, strict=True):
            if stage not in self.out_features:
                continue
            if self.config.apply_layernorm:
                hidden_state = self.dna_vit.layernorm(hidden_state)
            if self.config.reshape_hidden_states:
                patches = hidden_state[:, self.config.num_prefix_tokens :]
                hidden_state = patches.transpose(1, 2).unflatten(2, grid).contiguous()
            feature_maps.append(hidden_state)
        return DnAViTBackboneOutput(
            feature_maps=tuple(feature_maps),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            negative_attentions=outputs.negative_attentions,
        )


__all__ = [
    "DnAViTBackbone",
    "DnAViTForImageClassification",
    "DnAViTForMaskedImageModeling",
    "DnAViTModel",
    "DnAViTPreTrainedModel",
]
