"""Configuration of the DnA vision transformer."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.backbone_utils import BackboneConfigMixin

from .configuration_dna import DnATransformerConfig, pair


@strict
class DnAViTConfig(BackboneConfigMixin, DnATransformerConfig):
    r"""
    Configuration of a [`DnAViTModel`]: a vision transformer whose attention is Denoising Attention or one of its
    baselines. The defaults give the paper's ViT-B/16.

    Args:
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the tokens.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Number of attention heads; it divides `hidden_size`.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width of the hidden layer of the MLP.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the MLP.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout after the embeddings, the attention and the MLP.
        attention_probs_dropout_prob (`float`, *optional*, defaults to 0.0):
            Dropout on the attention maps, drawn for each map on its own.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the truncated normal that initialises linear layers, tokens and positions.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the layer norms.
        image_size (`int` or pair of `int`, *optional*, defaults to 224):
            Height and width of the image, in pixels.
        patch_size (`int` or pair of `int`, *optional*, defaults to 16):
            Height and width of a patch, in pixels; it divides `image_size`.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the image.
        qkv_bias (`bool`, *optional*, defaults to `True`):
            Whether the query, key and value projections have a bias.
        attention_variant (`str`, *optional*, defaults to `"dna"`):
            `"dna"`, `"dna_shared_value"`, `"softmax"`, `"differential"` or `"cog"`.
        negative_scale_init (`float`, *optional*, defaults to 0.5):
            Initial value of the scale of the negative branch, one per head (the paper's alpha).
        cog_softmax_layers (`list[int]`, *optional*, defaults to `[0, -1]`):
            Layers that keep softmax attention when `attention_variant` is `"cog"`; negative ones count from the end.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Probability of dropping a residual branch of a sample (stochastic depth).
        drop_path_schedule (`str`, *optional*, defaults to `"constant"`):
            `"constant"`: the same rate in every layer, as in the paper; `"linear"`: from 0 to `drop_path_rate`.
        layer_scale_init_value (`float`, *optional*):
            Initial value of a learnable scale per channel on both residual branches; none if unset.
        use_class_token_position (`bool`, *optional*, defaults to `False`):
            Whether the class token has a row in the position table, as in the original ViT. The paper's has none.
        use_distillation_token (`bool`, *optional*, defaults to `False`):
            Whether a distillation token follows the class token, as in DeiT. It has a row in the position table where
            the class token has one.
        interpolate_pos_encoding (`bool`, *optional*, defaults to `False`):
            Whether images of another size than `image_size` are welcome, the position table being resampled to their
            grid, as in DINOv2. The argument of `forward` overrides it.
        classifier_pooling (`str`, *optional*, defaults to `"cls"`):
            What the classifier reads: `"cls"`: the class token; `"cls_mean"`: the class token and the mean of the
            patch tokens, as in DINOv2; `"cls_dist"`: the class token and the distillation token, as in distilled
            DeiT.
        threshold (`float`, *optional*, defaults to 0.5):
            Probability above which a class counts as predicted, where `problem_type` is
            `"multi_label_classification"`.
        encoder_stride (`int`, *optional*):
            Upsampling factor of the masked image modeling head; the patch size if unset.
        apply_layernorm (`bool`, *optional*, defaults to `True`):
            Whether the backbone normalises its feature maps.
        reshape_hidden_states (`bool`, *optional*, defaults to `True`):
            Whether the backbone's feature maps are (batch, channels, height, width) rather than token sequences.
        out_features (`list[str]`, *optional*):
            Stages the backbone returns, among `"stem", "stage1", ...`; the last one by default.
        out_indices (`list[int]`, *optional*):
            The same by index.

    Raises:
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type, outside its range, or sizes that do
            not fit together.

    Example:

    ```python
    >>> from dna_hf import DnAViTConfig, DnAViTModel

    >>> configuration = DnAViTConfig(attention_variant="dna")
    >>> model = DnAViTModel(configuration)
    ```"""

    model_type = "dna_vit"

    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_dna_vit.DnAViTConfig",
        "AutoModel": "modeling_dna_vit.DnAViTModel",
        "AutoModelForImageClassification": "modeling_dna_vit.DnAViTForImageClassification",
        "AutoModelForMaskedImageModeling": "modeling_dna_vit.DnAViTForMaskedImageModeling",
        "AutoBackbone": "modeling_dna_vit.DnAViTBackbone",
    }

    layer_scale_init_value: float | None = None
    use_class_token_position: bool = False
    use_distillation_token: bool = False
    interpolate_pos_encoding: bool = False
    classifier_pooling: Literal["cls", "cls_mean", "cls_dist"] = "cls"
    threshold: float = 0.5
    encoder_stride: int | None = None
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.encoder_stride is None:
            self.encoder_stride = pair(self.patch_size, "patch_size")[0]
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, self.num_hidden_layers + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches: the class token, and the distillation token if there is one."""
        return 1 + self.use_distillation_token

    def validate_architecture(self) -> None:
        """Part of the validation by `@strict`: sizes are positive and fit together, rates are probabilities."""
        super().validate_architecture()
        if self.classifier_pooling == "cls_dist" and not self.use_distillation_token:
            raise ValueError("classifier_pooling 'cls_dist' needs use_distillation_token=True.")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {self.threshold}.")
        if self.encoder_stride < 1:
            raise ValueError(f"encoder_stride must be at least 1, got {self.encoder_stride}.")


__all__ = ["DnAViTConfig"]
