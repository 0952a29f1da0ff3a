"""Configuration of the DnA TimeSformer."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from .configuration_dna import DnATransformerConfig


@strict
class DnATimesformerConfig(DnATransformerConfig):
    r"""
    Configuration of a [`DnATimesformerModel`]: a video transformer with Denoising Attention or one of its baselines
    over space and time. The defaults give the paper's model.

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
            Standard deviation of the truncated normal that initialises linear layers, class token and positions.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the layer norms.
        image_size (`int` or pair of `int`, *optional*, defaults to 224):
            Height and width of a frame, in pixels. Frames of another size are welcome: the positions are resampled.
        patch_size (`int` or pair of `int`, *optional*, defaults to 16):
            Height and width of a patch, in pixels; it divides `image_size`.
        num_channels (`int`, *optional*, defaults to 3):
            Channels of a frame.
        num_frames (`int`, *optional*, defaults to 8):
            Frames of a video. Another number is welcome: the times are resampled.
        attention_type (`str`, *optional*, defaults to `"divided_space_time"`):
            `"divided_space_time"`: first over time, then over space; `"joint_space_time"`: over both at once;
            `"space_only"`: every frame on its own, the frames being averaged at the end.
        qkv_bias (`bool`, *optional*, defaults to `True`):
            Whether the query, key and value projections have a bias.
        attention_variant (`str`, *optional*, defaults to `"dna"`):
            `"dna"`, `"dna_shared_value"`, `"softmax"`, `"differential"` or `"cog"`, over space as over time.
        negative_scale_init (`float`, *optional*, defaults to 0.5):
            Initial value of the scale of the negative branch, one per head (the paper's alpha).
        cog_softmax_layers (`list[int]`, *optional*, defaults to `[0, -1]`):
            Layers that keep softmax attention when `attention_variant` is `"cog"`; negative ones count from the end.
        drop_path_rate (`float`, *optional*, defaults to 0.0):
            Probability of dropping a residual branch (stochastic depth); of a patch's series, a frame, or a video. The
            paper trains with 0.1.
        drop_path_schedule (`str`, *optional*, defaults to `"linear"`):
            `"linear"`: from 0 in the first layer to `drop_path_rate` in the last, as in the paper; `"constant"`.

    Raises:
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type, outside its range, or sizes that do
            not fit together.

    Example:

    ```python
    >>> from dna_hf import DnATimesformerConfig, DnATimesformerModel

    >>> configuration = DnATimesformerConfig(attention_variant="dna")
    >>> model = DnATimesformerModel(configuration)
    ```"""

    model_type = "dna_timesformer"
    auto_classes: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_dna_timesformer.DnATimesformerConfig",
        "AutoModel": "modeling_dna_timesformer.DnATimesformerModel",
        "AutoModelForVideoClassification": "modeling_dna_timesformer.DnATimesformerForVideoClassification",
    }

    num_frames: int = 8
    attention_type: Literal["divided_space_time", "joint_space_time", "space_only"] = "divided_space_time"
    drop_path_schedule: Literal["constant", "linear"] = "linear"

    def validate_architecture(self) -> None:
        """Part of the validation by `@strict`: there are frames; see the base class."""
        super().validate_architecture()
        if self.num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {self.num_frames}.")


__all__ = ["DnATimesformerConfig"]
