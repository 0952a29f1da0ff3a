"""Checkpoints of the authors' code, in every layout of its attention.

| layout | per layer, under `blocks.{i}.attn.` (and `temporal_attn.`) | order along the first dimension |
|---|---|---|
| `packed` | `qqkvv`, `neg_scalers` | q+, q-, k, v+, v- |
| `split` | `qkv`, `q_neg`, `v_neg`, `neg_scalers` | of `qkv`: q+, k, v+ |
| `packed_shared` | `qqkv`, `neg_scalers` | q+, q-, k, v |
| `split_shared` | `qkv`, `q_neg`, `neg_scalers` | of `qkv`: q+, k, v |
| `softmax` | `qkv` | q, k, v |

The sign before the negative branch differs between the authors' programs, and no file records it. A DnA model always
adds the branch, as the paper does; for a program that subtracts it, alpha is negated.

The ViT has no row for its class token in `pos_embed`, the TimeSformer has one. The TimeSformer also has `time_embed`
(but under `space_only`), and per layer, where space and time are divided, `temporal_norm1`, `temporal_attn` and
`temporal_fc`. It takes videos (batch, channels, frames, height, width).
"""

import math
import re
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from ..models import DnATimesformerConfig, DnAViTConfig
from ..records.one_input import random_input
from .authors_check import agreement, evaluate_authors_timesformer, evaluate_authors_vit
from .authors_viscop import branch_notes
from .authors_viscop_llm import convert_viscop
from .errors import ConversionError, refused_configuration
from .files import read_checkpoint
from .options import Options
from .processors import add_authors_video_processor, authors_image_processor, set_image_processor
from .report import Conversion, ConversionReport
from .tensors import TensorMap, shape_problems
from .timm import SIZES, TIMM_NAMES
from .vit_layout import TransformerMap, VideoNames, count_layers, model_classes


Layout = Literal["packed", "split", "packed_shared", "split_shared", "softmax"]

# the sign that the authors' program for each architecture puts before the negative branch
NEGATIVE_SIGNS = {"vit": 1, "timesformer": 1, "viscop": -1}
VARIANTS: dict[Layout, str] = {
    "packed": "dna",
    "split": "dna",
    "packed_shared": "dna_shared_value",
    "split_shared": "dna_shared_value",
    "softmax": "softmax",
}
# per layout, the packed tensors and the projections that their rows hold, in order
ROWS: dict[Layout, dict[str, tuple[str, ...]]] = {
    "packed": {"qqkvv": ("q_pos_proj", "q_neg_proj", "k_proj", "v_pos_proj", "v_neg_proj")},
    "split": {
        "qkv": ("q_pos_proj", "k_proj", "v_pos_proj"),
        "q_neg": ("q_neg_proj",),
        "v_neg": ("v_neg_proj",),
    },
    "packed_shared": {"qqkv": ("q_pos_proj", "q_neg_proj", "k_proj", "v_proj")},
    "split_shared": {"qkv": ("q_pos_proj", "k_proj", "v_proj"), "q_neg": ("q_neg_proj",)},
    "softmax": {"qkv": ("q_proj", "k_proj", "v_proj")},
}
TIMESFORMER_NAMES = VideoNames(
    TIMM_NAMES,
    time_embeddings="time_embed",
    norm="temporal_norm1",
    attention="temporal_attn",
    output="temporal_attn.proj",
    dense="temporal_fc",
)
SCALES = "blocks.0.attn.neg_scalers"
SELF_CHECK_TOLERANCE = 1e-8


def load_authors_checkpoint(path: str | Path, *, architecture: str, **options: Any) -> PreTrainedModel:
    """Load a checkpoint of the authors' code as a DnA model; see [`convert_authors_checkpoint`]."""
    return convert_authors_checkpoint(path, architecture=architecture, **options).model


def convert_authors_checkpoint(path: str | Path, *, architecture: str, **options: Any) -> Conversion:
    """Convert a checkpoint of the authors' code, and check the result.

    The model computes what the tensors mean: one random image or video goes through it and, in float64, through a
    plain evaluation of the source tensors, and the two must agree.

    Args:
        path: `.pth`, `.pyth`, `.pt`, `.bin` or `.safetensors` file: a state dict, or a training checkpoint that has
            one under `model`, `state_dict` or `model_state`. Nothing in it is run. The layouts are those of the table
            in [`dna_hf.conversion.authors`]. Of VisCoP also a folder: of a complete checkpoint, or of LoRA; see
            [`dna_hf.conversion.authors_viscop_llm`].
        architecture: `"vit"`, `"timesformer"`, that of the original TimeSformer repository included, or `"viscop"`,
            with its language model or its vision encoder alone: see [`dna_hf.conversion.authors_viscop`]. The tensors
            do not tell the base of the rotary embedding and the epsilon of the norms; the released 10000 and 1e-6 are
            assumed, by the comparison with the source, too.
        options: fields of [`~dna_hf.conversion.Options`]: `negative_sign`, `num_attention_heads` and `dtype`; of a
            TimeSformer `attention_type`; of VisCoP `interaction_layers` and `base_model`. The result has the widest
            dtype of the source by default, so that nothing is rounded.

    Returns:
        The model (`DnAViTForImageClassification` or `DnATimesformerForVideoClassification`, or their base model for a
        file without a head; of VisCoP `DnAVideoLlama3ForConditionalGeneration`, or `DnAVideoLlama3VisionModel` for
        one without a language model) in the dtype of the file, and a report, which has
        the processor: of images the authors' evaluation, of videos see
        [`~dna_hf.conversion.processors.add_authors_video_processor`], of VisCoP none. The DnA TimeSformer takes videos
        (batch, frames, channels, height, width).

    Raises:
        ConversionError: for an unknown architecture, a damaged or unsafe file, an option that does not apply, or
            tensors that are missing, unexpected, misshaped or not finite; all of them are listed in `problems`.
    """
    request = Options(**options)
    request.refuse_video()
    return convert_authors(path, architecture, request)


def convert_authors(path: str | Path, architecture: str, options: Options) -> Conversion:
    """Convert a checkpoint of the authors' code as a request asks.

    What it asks of a video model is left to [`~dna_hf.conversion.image_to_video.image_to_video`].
    """
    if architecture not in NEGATIVE_SIGNS:
        raise ConversionError(f"unknown architecture {architecture!r}: known are {', '.join(NEGATIVE_SIGNS)}.")
    name = str(path)
    options.check_revision(path)
    options.check(name, f"authors-{architecture}")
    sign = branch_sign(architecture, options.negative_sign)
    if architecture == "viscop":
        with refused_configuration(name):
            return convert_viscop(path, sign, options)
    tensors, notes, settings = read_checkpoint(path)
    layout = attention_layout(name, tensors)
    with refused_configuration(name):
        config = _config(name, tensors, layout, architecture, options)
    mapping, model_class = _map(name, tensors, config, layout, sign)
    model = mapping.build(model_class, config)
    notes += branch_notes(config.attention_variant, sign, options)
    report = ConversionReport(name, f"authors-{architecture}", mapping.records, notes)
    if isinstance(config, DnAViTConfig):
        report.image_processor = authors_image_processor(config)
    else:
        add_authors_video_processor(report, config, settings)
    report.max_difference = _self_check(model, tensors, sign)
    report.compared = "the model and a plain evaluation of the source tensors, in float64"
    if options.dtype is not None:
        model.to(options.dtype)  # type: ignore[arg-type]
    conversion = Conversion(model, report)
    return conversion if options.num_frames is not None else set_image_processor(conversion, options)


def branch_sign(architecture: str, negative_sign: int | None) -> int:
    """The sign before the negative branch: as given, or that of the released program.

    Raises:
        ConversionError: if it is neither +1 nor -1.
    """
    sign = NEGATIVE_SIGNS[architecture] if negative_sign is None else negative_sign
    if sign not in (1, -1):
        raise ConversionError(f"negative_sign must be +1 or -1, got {negative_sign!r}.")
    return sign


def authors_architecture(tensors: dict[str, torch.Tensor]) -> str | None:
    """The architecture of tensors that have names that only the authors' code, or TimeSformer's, gives."""
    if any(re.search(r"(^|\.)encoder\.(visual_probes$|interaction_modules\.)", name) for name in tensors):
        return "viscop"
    if "time_embed" in tensors or any(re.match(r"blocks\.\d+\.temporal_(attn|fc|norm1)\.", key) for key in tensors):
        return "timesformer"
    if not any(re.match(r"blocks\.\d+\.attn\.(qqkvv|qqkv|q_neg|v_neg|neg_scalers)", name) for name in tensors):
        return None
    positions = tensors.get("pos_embed")
    patches = positions.shape[1] - 1 if positions is not None and positions.dim() == 3 else 0
    return "timesformer" if patches > 0 and math.isqrt(patches) ** 2 == patches else "vit"


def attention_layout(name: str, tensors: dict[str, torch.Tensor]) -> Layout:
    """Which layout the attention of a state dict has; strangers are found later, by name.

    Raises:
        ConversionError: if there is no attention, or one that no model of the authors' has.
    """
    found = {
        match[1] for key in tensors if (match := re.fullmatch(r"blocks\.\d+\.attn\.(\w+)(\.weight|\.bias)?", key))
    }
    if "qv" in found:
        raise ConversionError(
            f"{name!r} has half-width projections (attn.qv): the authors' loader knows them, but none of their models "
            "does, so what they compute is not defined."
        )
    if "qqkvv" in found:
        return "packed"
    if "qqkv" in found:
        return "packed_shared"
    if "v_neg" in found or ("neg_scalers" in found and "q_neg" not in found):
        return "split"
    if "q_neg" in found:
        return "split_shared"
    if "qkv" in found:
        return "softmax"
    raise ConversionError(f"{name!r} is no model of the authors' code: it has no blocks.0.attn.qqkvv, qqkv or qkv.")


def _config(
    name: str,
    tensors: dict[str, torch.Tensor],
    layout: Layout,
    architecture: str,
    options: Options,
) -> DnAViTConfig | DnATimesformerConfig:
    """Sizes, read from the tensors."""
    if architecture == "vit":
        return DnAViTConfig(**_sizes(name, tensors, layout, options.num_attention_heads, "ViT"))
    attention_type = options.attention_type
    if attention_type is None:
        if any(re.match(r"blocks\.\d+\.temporal_", key) for key in tensors):
            attention_type = "divided_space_time"
        else:
            attention_type = "joint_space_time" if "time_embed" in tensors else "space_only"
    has_times = attention_type != "space_only"
    if has_times and (problems := shape_problems(tensors, {"time_embed": 3})):
        raise ConversionError(f"{name!r} is no {attention_type} TimeSformer of the authors' code", problems)
    sizes = _sizes(name, tensors, layout, options.num_attention_heads, "TimeSformer")
    if has_times:
        sizes["num_frames"] = tensors["time_embed"].shape[1]
    return DnATimesformerConfig(attention_type=attention_type, **sizes)  # type: ignore[arg-type]


def _sizes(
    name: str, tensors: dict[str, torch.Tensor], layout: Layout, num_attention_heads: int | None, kind: str
) -> dict[str, Any]:
    """What the configurations of both architectures (`kind`, for messages) have in common."""
    dimensions = SIZES | ({} if layout == "softmax" else {SCALES: 1})
    dimensions |= {"head.weight": 2} if "head.weight" in tensors else {}
    if problems := shape_problems(tensors, dimensions):
        raise ConversionError(f"{name!r} is no {kind} of the authors' code", problems)
    patch, positions, mlp = (tensors[key] for key in SIZES)
    width, rows = patch.shape[0], positions.shape[1]
    class_rows = 0 if kind == "ViT" else 1
    side = math.isqrt(max(rows - class_rows, 0))
    if side * side != rows - class_rows or side == 0:
        raise ConversionError(
            f"'pos_embed' of {name!r} has {rows} rows, which is no square grid of patches; the authors' {kind} has "
            f"{'one' if class_rows else 'no'} row for its class token."
        )
    if patch.shape[2] != patch.shape[3]:
        raise ConversionError(f"'patch_embed.proj.weight' of {name!r} has patches that are not square.")
    return {
        "attention_variant": VARIANTS[layout],
        "hidden_size": width,
        "num_hidden_layers": count_layers(tensors, TIMM_NAMES.layers),
        "num_attention_heads": _heads(name, tensors, num_attention_heads),
        "intermediate_size": mlp.shape[0],
        "image_size": side * patch.shape[2],
        "patch_size": patch.shape[2],
        "num_channels": patch.shape[1],
        "qkv_bias": any(re.fullmatch(r"blocks\.\d+\.attn\.(qqkvv|qqkv|qkv)\.bias", key) for key in tensors),
        "num_labels": tensors["head.weight"].shape[0] if "head.weight" in tensors else 2,
    }


def _heads(name: str, tensors: dict[str, torch.Tensor], stated: int | None) -> int:
    """The number of attention heads: one for each scale of the negative branch, or as stated.

    Raises:
        ConversionError: if it is not told, contradicts the tensors or does not divide the width.
    """
    scales, width = tensors.get(SCALES), tensors["patch_embed.proj.weight"].shape[0]
    if scales is not None and stated not in (None, len(scales)):
        raise ConversionError(
            f"{name!r} has {len(scales)} scales of the negative branch per layer, but num_attention_heads is {stated}."
        )
    heads = stated if scales is None else len(scales)
    if heads is None:
        raise ConversionError(f"the tensors of {name!r} do not tell the number of heads: give num_attention_heads.")
    if width % heads:
        source = f"of {SCALES!r} " if scales is not None else ""
        raise ConversionError(
            f"the {heads} heads {source}in {name!r} do not divide the width {width} of 'patch_embed.proj.weight'."
        )
    return heads


def _map(
    name: str,
    tensors: dict[str, torch.Tensor],
    config: DnAViTConfig | DnATimesformerConfig,
    layout: Layout,
    sign: int,
) -> tuple[TensorMap, type[PreTrainedModel]]:
    mapping = TensorMap(name, tensors)
    has_head = "head.weight" in tensors or "head.bias" in tensors
    parameters = ("weight", "bias") if config.qkv_bias else ("weight",)

    def map_attention(here: str, there: str) -> None:
        for packed, projections in ROWS[layout].items():
            for parameter in parameters:
                targets = [f"{there}.{projection}.{parameter}" for projection in projections]
                source = f"{here}{packed}.{parameter}"
                if len(targets) == 1:
                    mapping.copy(source, targets[0])
                else:
                    mapping.split(source, targets, config.hidden_size)
        if layout != "softmax":
            change, reason = (None, "") if sign == 1 else (torch.neg, "negated: the source subtracts the branch")
            mapping.copy(f"{here}neg_scalers", f"{there}.negative_scale", change, reason=reason)

    base, classifier = model_classes(config)
    target = f"{base.base_model_prefix}." if has_head else ""
    transformer = TransformerMap(mapping, config, map_attention, target=target)
    if isinstance(config, DnATimesformerConfig):
        transformer.video_model(TIMESFORMER_NAMES, config.grid_size)
    else:
        transformer.image_model(TIMM_NAMES, config.grid_size)
    if not has_head:
        return mapping, base
    mapping.copy_module("head", "classifier")
    return mapping, classifier


@torch.no_grad()
def _self_check(model: PreTrainedModel, tensors: dict[str, torch.Tensor], sign: int) -> float:
    """Largest difference between the model and the tensors it was made from, on one random input, in float64."""
    config = model.config
    dtype = model.dtype
    pixel_values = random_input(config, torch.float64)
    if isinstance(config, DnATimesformerConfig):
        video = pixel_values.transpose(1, 2)
        expected = evaluate_authors_timesformer(
            tensors, video, config.num_attention_heads, config.attention_type, sign
        )
    else:
        expected = evaluate_authors_vit(tensors, pixel_values, config.num_attention_heads, sign)
    try:
        output = model.double()(pixel_values)
    finally:
        model.to(dtype)  # type: ignore[arg-type]
    found = output.logits if "head.weight" in tensors else output.pooler_output
    return agreement(found, expected, SELF_CHECK_TOLERANCE)
