"""Configurations of VideoLLaMA3 with visual probes: of its vision encoder, and of the whole."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig
from transformers.models.video_llama_3.configuration_video_llama_3 import VideoLlama3Config, VideoLlama3VisionConfig

from .configuration_dna import PublishedConfig, validate_attention, validate_numbers


@strict
class DnAVideoLlama3VisionConfig(PublishedConfig, VideoLlama3VisionConfig):
    r"""
    Configuration of a [`DnAVideoLlama3VisionModel`]: the vision encoder of VideoLLaMA3 with learnable visual probes
    that read its layers by cross-attention, Denoising Attention or one of its baselines. The defaults give the encoder
    of VideoLLaMA3 with 16 probes that read every layer.

    Args:
        hidden_size (`int`, *optional*, defaults to 1152):
            Width of the tokens and of the probes.
        intermediate_size (`int`, *optional*, defaults to 4304):
            Width of the hidden layer of the MLP.
        num_hidden_layers (`int`, *optional*, defaults to 27):
            Number of transformer layers.
        num_attention_heads (`int`, *optional*, defaults to 16):
            Number of attention heads, of the encoder and of the cross-attention alike; a head's width, `hidden_size /
            num_attention_heads`, is a multiple of 4.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of the pixels.
        patch_size (`int`, *optional*, defaults to 14):
            Height and width of a patch, in pixels.
        hidden_act (`str`, *optional*, defaults to `"gelu_pytorch_tanh"`):
            Activation of the MLP.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the layer norms.
        attention_dropout (`float`, *optional*, defaults to 0.0):
            Dropout on the attention maps of the encoder and of the cross-attention.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the normal that initialises linear layers and probes.
        rope_parameters (`dict`, *optional*):
            Parameters of the rotary position embedding of the encoder, as in [`VideoLlama3VisionConfig`].
        num_probes (`int`, *optional*, defaults to 16):
            Number of probes that each image or video gets.
        interaction_layers (`list[int]`, *optional*):
            Layers, counted from 0 and in ascending order, after which the probes read the tokens; all if unset.
        attention_variant (`str`, *optional*, defaults to `"dna"`):
            Cross-attention of the probes: `"dna"`, `"dna_shared_value"`, `"softmax"`, `"differential"` or `"cog"`.
            The attention of the encoder is softmax attention.
        negative_scale_init (`float`, *optional*, defaults to 0.5):
            Initial value of the scale of the negative branch, one per head (the paper's alpha).
        normalize_keys (`bool`, *optional*, defaults to `False`):
            Whether a layer norm comes between the tokens of a layer and the cross-attention that reads them. In the
            released code there is none.
        cog_softmax_layers (`list[int]`, *optional*, defaults to `[0, -1]`):
            Layers of the encoder whose cross-attention is softmax attention when `attention_variant` is `"cog"`;
            negative ones count from the end.

    Raises:
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type, outside its range, or sizes that do
            not fit together.

    Example:

    ```python
    >>> from dna_hf import DnAVideoLlama3VisionConfig, DnAVideoLlama3VisionModel

    >>> configuration = DnAVideoLlama3VisionConfig(attention_variant="dna")
    >>> model = DnAVideoLlama3VisionModel(configuration)
    ```"""

    model_type = "dna_video_llama3_vision"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_dna_video_llama3.DnAVideoLlama3VisionConfig",
        "AutoModel": "modeling_dna_video_llama3.DnAVideoLlama3VisionModel",
    }
    # what the attention variants call it
    attribute_map = {"attention_probs_dropout_prob": "attention_dropout"}
    # as the attention of the encoder, whose projections always have a bias
    qkv_bias: ClassVar[bool] = True

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    patch_size: int = 14
    num_probes: int = 16
    interaction_layers: list[int] | tuple[int, ...] | None = None
    attention_variant: Literal["dna", "dna_shared_value", "softmax", "differential", "cog"] = "dna"
    negative_scale_init: float | int = 0.5
    normalize_keys: bool = False
    cog_softmax_layers: list[int] | tuple[int, ...] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.interaction_layers = None if self.interaction_layers is None else list(self.interaction_layers)
        self.cog_softmax_layers = [0, -1] if self.cog_softmax_layers is None else list(self.cog_softmax_layers)
        super().__post_init__(**kwargs)

    @property
    def interaction_layer_ids(self) -> list[int]:
        """Layers after which the probes read the tokens, counted from 0: one for each interaction module, in order."""
        return list(range(self.num_hidden_layers) if self.interaction_layers is None else self.interaction_layers)

    def validate_architecture(self) -> None:
        """Part of the validation by `@strict`: sizes are positive and fit together, the layers read from exist."""
        super().validate_architecture()
        validate_numbers(self, sizes=("patch_size", "num_probes"), rates=("attention_dropout",))
        validate_attention(self)
        if self.hidden_size // self.num_attention_heads % 4:
            raise ValueError(
                "the rotary position embedding over rows and columns needs heads whose width is a multiple of 4, got "
                f"{self.hidden_size} / {self.num_attention_heads}."
            )
        layers = self.interaction_layer_ids
        if not layers:
            raise ValueError("interaction_layers names no layer: leave it out for all, or name those to read from.")
        if layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < self.num_hidden_layers:
            raise ValueError(
                f"interaction_layers must name different layers from 0 to {self.num_hidden_layers - 1} in ascending "
                f"order, got {layers}."
            )


@strict
class DnAVideoLlama3Config(PublishedConfig, VideoLlama3Config):
    r"""
    Configuration of a [`DnAVideoLlama3ForConditionalGeneration`]: VideoLLaMA3 whose language model reads visual probes
    beside the visual tokens, or instead of them.

    Args:
        text_config (`dict` or a configuration, *optional*):
            Of the language model, any that `AutoModel` builds; that of Qwen2 if unset. A dictionary names its
            `model_type`.
        vision_config (`dict` or [`DnAVideoLlama3VisionConfig`], *optional*):
            Of the vision encoder and its probes.
        image_token_id (`int`, *optional*, defaults to 151655):
            Placeholder of one token of an image.
        video_token_id (`int`, *optional*, defaults to 151656):
            Placeholder of one token of a video.
        image_probe_token_id (`int`, *optional*, defaults to 151665):
            Placeholder of one probe of an image: `vision_config.num_probes` of them for each image.
        video_probe_token_id (`int`, *optional*, defaults to 151666):
            Placeholder of one probe of a video.
        include_visual_tokens (`bool`, *optional*, defaults to `True`):
            Whether the language model reads the tokens of images and videos.
        include_visual_probes (`bool`, *optional*, defaults to `True`):
            Whether the language model reads the probes.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`):
            Whether the output layer of the language model is its embedding; also if `text_config` says so.

    Raises:
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type, and for placeholders that are not
            different tokens of the vocabulary.
        ValueError: for a language model that transformers does not know.

    Example:

    ```python
    >>> from dna_hf import DnAVideoLlama3Config, DnAVideoLlama3ForConditionalGeneration

    >>> configuration = DnAVideoLlama3Config(text_config={"model_type": "qwen2"}, vision_config={"num_probes": 16})
    >>> model = DnAVideoLlama3ForConditionalGeneration(configuration)
    ```"""

    model_type = "dna_video_llama3"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_dna_video_llama3.DnAVideoLlama3Config",
        "AutoModel": "modeling_dna_video_llama3.DnAVideoLlama3Model",
        "AutoModelForImageTextToText": "modeling_dna_video_llama3.DnAVideoLlama3ForConditionalGeneration",
    }
    # the same for newer and for older transformers
    sub_configs_defaults: ClassVar[dict[str, Any]] = getattr(VideoLlama3Config, "sub_configs_defaults", {}) | {
        "vision_config": DnAVideoLlama3VisionConfig
    }
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "vision_config": DnAVideoLlama3VisionConfig}

    image_probe_token_id: int = 151665
    video_probe_token_id: int = 151666
    include_visual_tokens: bool = True
    include_visual_probes: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.text_config, dict):
            model_type = self.text_config.get("model_type", "qwen2")
            if model_type not in CONFIG_MAPPING:
                raise ValueError(f"text_config has model_type {model_type!r}, which transformers does not know.")
            self.text_config = {**self.text_config, "model_type": model_type}
        super().__post_init__(**kwargs)

    @property
    def placeholder_token_ids(self) -> dict[str, int]:
        """Token ids that stand for what the vision encoder returns, by the name of their field."""
        names = ("image_token_id", "video_token_id", "image_probe_token_id", "video_probe_token_id")
        return {name: getattr(self, name) for name in names}

    def validate_architecture(self) -> None:
        """Part of the validation by `@strict`: the placeholders are different tokens of the vocabulary."""
        super().validate_architecture()
        ids = self.placeholder_token_ids
        size = self.text_config.vocab_size
        for name, token_id in ids.items():
            if not 0 <= token_id < size:
                raise ValueError(f"{name} is {token_id}, but the vocabulary of the language model has {size} tokens.")
        if len(set(ids.values())) < len(ids):
            raise ValueError(f"the placeholders must be different tokens, got {ids}.")
        if not (self.include_visual_tokens or self.include_visual_probes):
            raise ValueError("include_visual_tokens and include_visual_probes are both off: nothing would be seen.")


__all__ = ["DnAVideoLlama3Config", "DnAVideoLlama3VisionConfig"]
