"""What can be asked of a conversion, and of which kind of source: one request, and one table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..models.attention_variants import ATTENTION_VARIANTS
from .attention import NegativeInit, NegativeStart
from .errors import ConversionError


AttentionType = Literal["divided_space_time", "joint_space_time", "space_only"]

_NEGATIVE = ("negative_init", "warm_scale", "negative_scale_init")
_SOFTMAX = ("attention_variant", *_NEGATIVE)
_PIXELS = ("image_size", "image_processor")
_PROBES = ("num_probes", "interaction_layers", "normalize_keys")
_SHOWN = ("include_visual_tokens", "include_visual_probes")
# what makes a video model of an image model
_VIDEO = ("num_frames", "attention_type", "keep_head")
# options that apply to each kind of source; `family`, `dtype` and (on the Hub) `revision` apply to all
APPLIES: dict[str, tuple[str, ...]] = {
    "vit": (*_SOFTMAX, *_PIXELS, *_VIDEO),
    "deit": (*_SOFTMAX, *_PIXELS, *_VIDEO),
    "dinov2": (*_SOFTMAX, *_PIXELS, *_VIDEO),
    "timm": (*_SOFTMAX, *_PIXELS, "num_attention_heads", *_VIDEO),
    "dna_vit": (*_SOFTMAX, *_PIXELS, *_VIDEO),
    "dna_timesformer": (*_PIXELS, "num_frames"),
    "timesformer": (*_SOFTMAX, *_PIXELS),
    "video_llama_3": (*_SOFTMAX, *_PROBES, *_SHOWN),
    "video_llama_3_vision": (*_SOFTMAX, *_PROBES),
    "videollama3": (*_SOFTMAX, "num_attention_heads", *_PROBES, *_SHOWN),
    "authors-vit": ("negative_sign", "num_attention_heads", "image_processor", *_VIDEO),
    "authors-timesformer": ("negative_sign", "num_attention_heads", "image_processor", "attention_type"),
    "authors-viscop": ("negative_sign", "num_attention_heads", "interaction_layers", "base_model"),
}
ALWAYS = ("family", "dtype", "revision")
# what `dna-hf convert` calls options that it has under another name, or not at all
FLAGS = {
    "family": "--from",
    "include_visual_tokens": "--no-visual-tokens",
    "include_visual_probes": "--no-visual-probes",
    "negative_scale_init": None,
    "normalize_keys": None,
    "keep_head": None,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """A request to convert a checkpoint; which of its options apply to which kind of source is in `APPLIES`.

    Args:
        family: kind of source that it must be, see [`~dna_hf.conversion.ConversionReport`]; found out by default.
        attention_variant: attention of the result, `"dna"` by default, or a baseline to compare it with. `"softmax"`
            computes what the source computes; `"differential"` and `"cog"` take its projections, but compute something
            else with them. A DnA ViT keeps its own by default; only softmax attention can become another variant.
        negative_init: how a negative branch begins that the source lacks. `"warm"`, the default:
            `q- = warm_scale * q` and `v- = warm_scale * v`, nearly the source, as the authors do (their TimeSformer
            gives `v-` the opposite sign, and their VisCoP subtracts the branch: `negative_scale_init=-0.5` begins
            exactly as it does). `"zero"`: the same with `v- = 0`, exactly the source; the gradient of `v-` is not
            zero, and after the first step neither are those of `q-` and alpha. `"random"`: both as in a fresh model.
            With shared values there is no `v-`, and alpha starts at `warm_scale` or 0 instead.
        warm_scale: factor of the negative branch, 1e-4 by default; under `negative_init="zero"` of `q-` alone.
        negative_scale_init: initial alpha of every head, 0.5 by default.
        image_size: height and width in pixels, or one number for both, that the position table is resampled for; by
            default the source's.
        image_processor: image processor that the result gets instead of the source's: folder, name on the Hub, or
            processor. A video model treats frames as it treats images.
        num_attention_heads: attention heads of a source that does not tell them: a state dict in timm's layout, a
            softmax baseline of the authors', or VideoLLaMA3 as its own code saves it if its `config.json` has no
            `vision_encoder_config`. Where the source does tell them, it must be the same number.
        num_probes: visual probes of an image or video in VideoLLaMA3, 16 by default. They are random: seed them with
            `transformers.set_seed`.
        interaction_layers: layers of the vision encoder, counted from 0, that the visual probes read. Of VideoLLaMA3
            all by default; of the authors' VisCoP what its `config.json` says, and all without one.
        include_visual_tokens: whether the language model sees the features of the vision encoder; it does by default.
        include_visual_probes: whether the language model sees the visual probes; it does by default.
        normalize_keys: whether a layer norm, which begins as the first one of the layer, comes between a layer's
            tokens and the visual probes that read them; none does by default, as in the released code.
        num_frames: frames of a video, for a video model made of an image model, 8 by default in
            [`~dna_hf.conversion.from_image_model`]; or that the times of a DnA TimeSformer are resampled for.
        attention_type: `"divided_space_time"`, `"joint_space_time"` or `"space_only"`. For a video model made of an
            image model, the first one by default; for a file of the authors' TimeSformer, found out from its tensors,
            and tensors that are not those of the given type are refused.
        keep_head: keep the classifier and labels of an image model, for videos of the same classes; by default the
            video model is a base model, to which
            `DnATimesformerForVideoClassification.from_pretrained(folder, num_labels=...)` adds a new head.
        negative_sign: +1 or -1, the sign before the negative branch in the authors' program that wrote a file; by
            default that of the released program for the architecture: -1 for VisCoP, +1 for the others. The released
            stand-alone modules (packed and shared-value), which no released script uses, subtract.
        base_model: VideoLLaMA3 that a LoRA of the authors' VisCoP was trained from: folder, name on the Hub, or
            transformers' model.
        dtype: floating-point type of the result; by default that of the source.
        revision: commit, tag or branch on the Hub of a source that is a name on the Hub.

    Raises:
        ConversionError: for a value that no source can have.
    """

    family: str | None = None
    attention_variant: str | None = None
    negative_init: NegativeInit | None = None
    warm_scale: float | None = None
    negative_scale_init: float | None = None
    image_size: int | tuple[int, int] | None = None
    image_processor: Any = None
    num_attention_heads: int | None = None
    num_probes: int | None = None
    interaction_layers: Sequence[int] | None = None
    include_visual_tokens: bool | None = None
    include_visual_probes: bool | None = None
    normalize_keys: bool | None = None
    num_frames: int | None = None
    attention_type: AttentionType | None = None
    keep_head: bool | None = None
    negative_sign: int | None = None
    base_model: Any = None
    dtype: torch.dtype | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        self._check_choice("family", tuple(APPLIES))
        self._check_choice("attention_variant", tuple(ATTENTION_VARIANTS))
        self._check_choice("negative_init", get_args(NegativeInit))
        self._check_choice("attention_type", get_args(AttentionType))
        for name in ("warm_scale", "negative_scale_init"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
                raise ConversionError(f"{name} must be a finite number, got {value!r}.")
        for name in ("num_attention_heads", "num_probes", "num_frames"):
            value = getattr(self, name)
            if value is not None and not _is_positive(value):
                raise ConversionError(f"{name} must be at least 1, got {value!r}.")
        sides = self.image_size if isinstance(self.image_size, tuple | list) else (self.image_size,) * 2
        if self.image_size is not None and not (len(sides) == 2 and all(map(_is_positive, sides))):
            raise ConversionError(
                f"image_size must be a positive number of pixels, or a pair of them, got {self.image_size!r}."
            )
        if self.negative_sign not in (None, 1, -1):
            raise ConversionError(f"negative_sign must be +1 or -1, got {self.negative_sign!r}.")
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ConversionError(f"dtype must be a floating-point type of torch, got {self.dtype!r}.")

    def _check_choice(self, name: str, known: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value is not None and value not in known:
            raise ConversionError(f"unknown {name} {value!r}: choose one of {', '.join(known)}.")

    @property
    def given(self) -> dict[str, Any]:
        """The options that were given, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def variant(self) -> str:
        """Attention of the result where the source has none of its own to keep."""
        return self.attention_variant or "dna"

    @property
    def start(self) -> NegativeStart:
        """How a negative branch begins."""
        return NegativeStart(**{name: value for name, value in self.given.items() if name in _NEGATIVE})

    @property
    def probes(self) -> dict[str, Any]:
        """Fields of the configuration of a vision encoder that are asked for."""
        return {name: value for name, value in self.given.items() if name in _PROBES}

    @property
    def shown(self) -> dict[str, Any]:
        """Fields of the configuration of a video language model that are asked for."""
        return {name: value for name, value in self.given.items() if name in _SHOWN}

    @property
    def keeps_function(self) -> bool:
        """Whether the converted model computes what a softmax source computes."""
        return self.variant == "softmax" or self.start.is_exact_for(self.variant)

    def config_fields(self) -> dict[str, Any]:
        """What the configuration of the result says of its attention."""
        return {"attention_variant": self.variant, "negative_scale_init": self.start.scale_for(self.variant)}

    def check(self, name: str, family: str) -> None:
        """Refuse what does not apply to a source.

        Args:
            name: what to call the source in the message.
            family: kind of the source, one of `APPLIES`.

        Raises:
            ConversionError: naming the first option that does not apply, and what it is for; also if the source is of
                another kind than `family` asks for.
        """
        if self.family not in (None, family):
            raise ConversionError(f"{name!r} is of kind {family!r}, not {self.family!r}.")
        for option in self.given:
            if option in ALWAYS:
                continue
            if option not in APPLIES[family]:
                kinds = [kind for kind, options in APPLIES.items() if option in options]
                raise ConversionError(
                    f"{spelled(option)} does not apply to {name!r}, of kind {family!r}: it is for {', '.join(kinds)}."
                )
            if option in _VIDEO and "num_frames" in APPLIES[family] and self.num_frames is None:
                raise ConversionError(
                    f"{spelled(option)} does not apply to {name!r}, of kind {family!r}, unless num_frames "
                    "(--num-frames) makes a video model of it."
                )

    def check_revision(self, source: Any) -> None:
        """Refuse a revision of something that is no name on the Hub.

        Raises:
            ConversionError: naming the source.
        """
        if self.revision is not None and not (isinstance(source, str | Path) and not Path(source).exists()):
            what = repr(str(source)) if isinstance(source, str | Path) else f"a {type(source).__name__} in memory"
            raise ConversionError(f"revision (--revision) does not apply to {what}: it is for names on the Hub.")

    def refuse_video(self) -> None:
        """Refuse to make a video model of an image model, where this is not what a function does.

        Raises:
            ConversionError: naming the function that does.
        """
        if self.num_frames is not None:
            raise ConversionError("num_frames makes a video model of an image model: call from_image_model.")

    def note_idle(self, notes: list[str], variant: str, why: str = "") -> None:
        """Note which options about the start of the negative branch have no effect.

        Args:
            notes: list that takes the notes.
            variant: attention of the result.
            why: reason why none has an effect, where the source has a negative branch already.
        """
        for name in self.given:
            reason = (why or self.start.idle(name, variant)) if name in _NEGATIVE else ""
            if reason:
                notes.append(f"{name}: of no effect, as {reason}")


def spelled(option: str) -> str:
    """An option as Python and as the command line spell it."""
    flag = FLAGS.get(option, f"--{option.replace('_', '-')}")
    return option if flag is None else f"{option} ({flag})"


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
