"""What the configurations of all DnA transformers have in common."""

import os
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging


logger = logging.get_logger(__name__)


class PublishedConfig(PreTrainedConfig):
    """A configuration that tells the Auto classes to load the code files saved beside it."""

    # what a checkpoint folder tells the Auto classes to load, from the code files saved beside the weights
    auto_classes: ClassVar[dict[str, str]] = {}

    def __post_init__(self, **kwargs: Any) -> None:
        self.auto_map = kwargs.pop("auto_map", None) or dict(self.auto_classes)
        super().__post_init__(**kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save `config.json` with the complete map of Auto classes.

        A configuration that came from another repository points there; the folder written now has its own code.
        """
        self.auto_map = dict(self.auto_classes)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


@strict
class DnATransformerConfig(PublishedConfig):
    """Sizes, attention variant and stochastic depth; the models' configurations document the fields."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    qkv_bias: bool = True
    attention_variant: Literal["dna", "dna_shared_value", "softmax", "differential", "cog"] = "dna"
    negative_scale_init: float | int = 0.5
    cog_softmax_layers: list[int] | tuple[int, ...] | None = None
    drop_path_rate: float | int = 0.0
    drop_path_schedule: Literal["constant", "linear"] = "constant"

    def __post_init__(self, **kwargs: Any) -> None:
        self.cog_softmax_layers = [0, -1] if self.cog_softmax_layers is None else list(self.cog_softmax_layers)
        super().__post_init__(**kwargs)

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of patches of an image of `image_size`."""
        height, width = pair(self.image_size, "image_size")
        patch_height, patch_width = pair(self.patch_size, "patch_size")
        return height // patch_height, width // patch_width

    def validate_architecture(self) -> None:
        """Part of the validation by `@strict`: sizes are positive and fit together, rates are probabilities."""
        super().validate_architecture()
        validate_numbers(self, rates=("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"))
        images, patches = pair(self.image_size, "image_size"), pair(self.patch_size, "patch_size")
        for image, patch in zip(images, patches, strict=True):
            if patch < 1 or image < patch or image % patch:
                raise ValueError(
                    f"image_size ({self.image_size}) must be a positive multiple of patch_size ({self.patch_size})."
                )
        validate_attention(self)


def validate_numbers(config: Any, *, sizes: tuple[str, ...] = (), rates: tuple[str, ...]) -> None:
    """Refuse sizes below 1, negative widths of distributions, unknown activations, and rates that are none.

    Args:
        config: a configuration of a transformer.
        sizes: fields that must be at least 1, beside those that every transformer has.
        rates: fields that must lie in [0, 1).

    Raises:
        ValueError: naming the field and its value.
    """
    every = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels")
    for name in (*every, *sizes):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}.")
    for name in ("initializer_range", "layer_norm_eps"):
        if not getattr(config, name) >= 0:
            raise ValueError(f"{name} must not be negative, got {getattr(config, name)}.")
    if config.hidden_act not in ACT2FN:
        raise ValueError(f"hidden_act {config.hidden_act!r} is not an activation function of transformers.")
    for name in rates:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {getattr(config, name)}.")


def validate_attention(config: Any) -> None:
    """Refuse heads that do not divide the width, or not as the variant needs it, and `cog` layers that do not exist.

    Raises:
        ValueError: naming what does not fit.
    """
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size ({config.hidden_size}) is not a multiple of num_attention_heads "
            f"({config.num_attention_heads})."
        )
    if config.attention_variant == "differential" and config.hidden_size // config.num_attention_heads % 2:
        raise ValueError(
            "the differential variant splits every head in two, but hidden_size / num_attention_heads is odd "
            f"({config.hidden_size} / {config.num_attention_heads})."
        )
    outside = [i for i in config.cog_softmax_layers if not -config.num_hidden_layers <= i < config.num_hidden_layers]
    if outside:
        raise ValueError(
            f"cog_softmax_layers names layers {outside}, but num_hidden_layers is {config.num_hidden_layers}."
        )
    kept = {index % config.num_hidden_layers for index in config.cog_softmax_layers}
    if config.attention_variant == "cog" and len(kept) == config.num_hidden_layers:
        logger.warning_once("attention_variant is 'cog', but cog_softmax_layers keeps softmax in every layer.")


def pair(size: Any, name: str) -> tuple[int, int]:
    """(height, width) of a size given as one number or two."""
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise ValueError(f"{name} is one number or a pair (height, width), got {size}.")
    return size[0], size[1]


__all__ = ["DnATransformerConfig", "PublishedConfig"]
