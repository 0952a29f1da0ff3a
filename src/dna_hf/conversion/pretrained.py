"""Start a DnA model from a softmax vision or video transformer that is trained already."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from ..models import DnATimesformerConfig, DnAViTModel
from ..models.attention_variants import ATTENTION_VARIANTS
from ..records.one_input import main_output, random_input
from .attention import NegativeInit, check_negative_init
from .errors import ConversionError, refused_configuration
from .files import read_tensors
from .loading import find_file, load_exactly, read_config, saved_class, source_name
from .native import dna_config, map_native, native_task
from .options import Options
from .processors import (
    add_native_video_processor,
    find_image_processor,
    resize_image_processor,
    resize_video_processor,
)
from .report import Conversion, ConversionReport
from .tensors import EXACT_TOLERANCE
from .timm import check_timm_pooling, create_timm_model, is_timm_model, map_timm, timm_config, timm_model_facts
from .video_llm import convert_video_llm, is_video_llm


NATIVE_FAMILIES = ("vit", "deit", "dinov2", "timesformer")
# default of timm's pretrained_cfg, which its configuration files leave out
TIMM_CROP_FRACTION = 0.875


def from_pretrained_softmax(
    name_or_model: str | Path | nn.Module,
    *,
    attention_variant: str = "dna",
    negative_init: NegativeInit = "warm",
    warm_scale: float = 1e-4,
    negative_scale_init: float = 0.5,
    image_size: int | tuple[int, int] | None = None,
    num_attention_heads: int | None = None,
    num_probes: int | None = None,
    interaction_layers: list[int] | None = None,
    include_visual_tokens: bool | None = None,
    include_visual_probes: bool | None = None,
    normalize_keys: bool | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> Conversion:
    """Make a DnA model of a vision transformer, video transformer or video language model, of the same task.

    Query, key, value and output projection become those of the positive branch, everything else is copied, and the
    negative branch is new; of a TimeSformer over time as over space. Labels, heads and preprocessing come along; where
    a TimeSformer was saved without preprocessing, it gets the default of transformers' TimeSformer.

    transformers' TimeSformer differs in three things. Under `space_only` it returns the tokens of every frame, and
    classifies the frames of a batch one by one; the DnA TimeSformer takes their mean, as the original code does, so
    that the two agree on videos of one frame. It wants exactly `num_frames` frames, and takes the nearest position
    where images have another size; the DnA TimeSformer takes any number of frames, and resamples smoothly.

    Of VideoLLaMA3 nothing is replaced: it gets visual probes, and a cross-attention module for each layer that they
    read, which begins as a copy of that layer's own attention; see [`dna_hf.conversion.video_llm`].

    Args:
        name_or_model: transformers' ViT, DeiT, DINOv2, TimeSformer or VideoLLaMA3, its vision encoder alone included
            (folder, name on the Hub, or model), VideoLLaMA3 as its own code saves it (folder or name on the Hub), a
            timm `VisionTransformer` (folder, name on the Hub, name in timm if that is installed, or model), or a file
            with a state dict in timm's layout.
        attention_variant: `"dna"`, or a baseline to compare it with. `"softmax"` computes what the source computes;
            `"differential"` and `"cog"` take its projections, but compute something else with them.
        negative_init: how the negative branch begins. `"warm"`: `q- = warm_scale * q` and `v- = warm_scale * v`,
            nearly the source, as the authors do (their TimeSformer gives `v-` the opposite sign, and their VisCoP
            subtracts the branch: `negative_scale_init=-0.5` begins exactly as it does). `"zero"`: the same
            with `v- = 0`, exactly the source; the gradient of `v-` is not zero, and after the first step neither are
            those of `q-` and alpha. `"random"`: both as in a fresh model. With shared values there is no `v-`, and
            alpha starts at `warm_scale` or 0 instead.
        warm_scale: see `negative_init`.
        negative_scale_init: initial alpha of every head.
        image_size: resample the position table for images of this size (pixels); by default the source's.
        num_attention_heads: needed for a state dict in timm's layout, which does not tell it, and for VideoLLaMA3 as
            its own code saves it, if its `config.json` has no `vision_encoder_config`.
        num_probes: of VideoLLaMA3, the probes of an image or video; 16 by default. They are random: seed them with
            `transformers.set_seed`.
        interaction_layers: of VideoLLaMA3, the layers of its vision encoder that the probes read, counted from 0; all
            by default.
        include_visual_tokens: of VideoLLaMA3, whether its language model sees the features of the encoder; it does by
            default.
        include_visual_probes: of VideoLLaMA3, whether its language model sees the probes; it does by default.
        normalize_keys: of VideoLLaMA3, whether a layer norm, which begins as the first one of the layer, comes between
            a layer's tokens and the probes that read them; none does by default, as in the released code.
        dtype: of the result; by default that of the source.
        revision: commit, tag or branch on the Hub.

    Returns:
        The model, in evaluation mode, and a report on every tensor: `model, report = from_pretrained_softmax(...)`.

    Raises:
        ConversionError: if the source does not exist, is of another kind, has tensors that are missing, unexpected,
            misshaped or not finite, or if a conversion that should keep the function does not.
    """
    if attention_variant not in ATTENTION_VARIANTS:
        known = ", ".join(ATTENTION_VARIANTS)
        raise ConversionError(f"unknown attention_variant {attention_variant!r}: choose one of {known}.")
    check_negative_init(negative_init, warm_scale=warm_scale, negative_scale_init=negative_scale_init)
    probes = {
        "num_probes": num_probes,
        "interaction_layers": interaction_layers,
        "include_visual_tokens": include_visual_tokens,
        "include_visual_probes": include_visual_probes,
        "normalize_keys": normalize_keys,
    }
    options = Options(
        attention_variant,
        negative_init,
        warm_scale,
        negative_scale_init,
        image_size,
        num_attention_heads,
        dtype,
        {name: value for name, value in probes.items() if value is not None},
    )
    with refused_configuration(source_name(name_or_model)):
        return _convert(name_or_model, options, revision)


def _convert(source: str | Path | nn.Module, options: Options, revision: str | None) -> Conversion:
    if isinstance(source, PreTrainedModel):
        folder = source.name_or_path or ""
        where = folder if folder and Path(folder).is_dir() else None
        if is_video_llm(source.config.to_dict()):
            return convert_video_llm(source, options, where)
        _no_probes(source.name_or_path or type(source).__name__, options)
        return _convert_native(source, options, where, None)
    if is_timm_model(source):
        assert isinstance(source, nn.Module)
        _no_probes(type(source).__name__, options)
        return _convert_timm_model(source, type(source).__name__, options)
    if not isinstance(source, (str, Path)):
        raise ConversionError(f"cannot convert a {type(source).__name__}: give a name, a path, or a model.")
    name = str(source)
    if Path(name).is_file():
        _no_probes(name, options)
        tensors, notes = read_tensors(name)
        return _convert_timm_tensors(name, tensors, options, notes=notes)
    timm_model = None if Path(name).is_dir() else create_timm_model(name)
    if timm_model is not None:
        _no_probes(name, options)
        return _convert_timm_model(timm_model, name, options)
    config = read_config(name, revision)
    if is_video_llm(config):
        return convert_video_llm(name, options, name, revision)
    _no_probes(name, options)
    if "architecture" in config and "model_type" not in config:
        return _convert_timm_checkpoint(name, config, options, revision)
    return _convert_native(_load_native(name, config, revision), options, name, revision)


def _no_probes(name: str, options: Options) -> None:
    """Refuse what is for VideoLLaMA3 alone.

    Raises:
        ConversionError: naming it.
    """
    if options.probes:
        raise ConversionError(f"{name!r} is no VideoLLaMA3, to which alone {next(iter(options.probes))} applies.")


def _convert_native(source: PreTrainedModel, options: Options, name: str | None, revision: str | None) -> Conversion:
    """Convert transformers' model; `name` is where its processor is, `None` if it was never saved."""
    task = native_task(type(source).__name__)
    config = dna_config(source, options.image_size, **options.config_fields())
    mapping = map_native(source, config, options.negative_init, options.warm_scale, options.dtype)
    model = mapping.build(task.model_class, config)
    report = ConversionReport(mapping.name, source.config.model_type, mapping.records)
    if isinstance(config, DnATimesformerConfig):
        add_native_video_processor(report, config, name, revision)
        if options.image_size is not None and report.video_processor is not None:
            resize_video_processor(report.video_processor, config.image_size)
    else:
        _add_image_processor(report, config, options, name, revision)
    _compare(report, source, model, options)
    return Conversion(model, report)


def _add_image_processor(
    report: ConversionReport, config: Any, options: Options, name: str | None, revision: str | None
) -> None:
    report.image_processor = None if name is None else find_image_processor(name, revision)
    if report.image_processor is None:
        report.notes.append("the source has no image processor")
    elif options.image_size is not None:
        what = resize_image_processor(report.image_processor, config.image_size)
        report.notes.append(f"the image processor now {what}")


def _convert_timm_model(source: nn.Module, name: str, options: Options) -> Conversion:
    facts = timm_model_facts(source)
    conversion = _convert_timm_tensors(
        name,
        dict(source.state_dict()),
        replace(options, num_attention_heads=facts["num_attention_heads"]),
        pretrained_cfg=facts["pretrained_cfg"],
        grid=facts["grid"],
        layer_norm_eps=facts["layer_norm_eps"],
    )
    _compare(conversion.report, source, conversion.model, options)
    return conversion


def _convert_timm_checkpoint(name: str, config: dict[str, Any], options: Options, revision: str | None) -> Conversion:
    """A repository or folder as timm publishes it: `config.json` and `model.safetensors`."""
    pretrained_cfg = dict(config.get("pretrained_cfg") or {})
    if "label_names" in config:
        pretrained_cfg["label_names"] = config["label_names"]
    for settings in (config, config.get("model_args") or {}, pretrained_cfg):
        check_timm_pooling(settings.get("global_pool"))
    tensors, notes = read_tensors(find_file(name, "model.safetensors", revision))
    return _convert_timm_tensors(name, tensors, options, pretrained_cfg=pretrained_cfg, notes=notes)


def _convert_timm_tensors(
    name: str,
    tensors: Mapping[str, torch.Tensor],
    options: Options,
    *,
    pretrained_cfg: dict[str, Any] | None = None,
    grid: tuple[int, int] | None = None,
    layer_norm_eps: float = 1e-6,
    notes: list[str] | None = None,
) -> Conversion:
    labels = (pretrained_cfg or {}).get("label_names")
    config, grid = timm_config(
        name,
        dict(tensors),
        num_attention_heads=options.num_attention_heads,
        image_size=options.image_size,
        grid=grid,
        layer_norm_eps=layer_norm_eps,
        **options.config_fields(),
    )
    if labels and len(labels) == config.num_labels:
        config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    mapping, model_class = map_timm(
        name, dict(tensors), config, grid, options.negative_init, options.warm_scale, options.dtype
    )
    model = mapping.build(model_class, config)
    report = ConversionReport(name, "timm", mapping.records, list(notes or []))
    report.image_processor = _timm_image_processor(pretrained_cfg, config.image_size)
    if report.image_processor is None:
        report.notes.append("the source does not say how images are preprocessed: the model has no image processor")
    return Conversion(model, report)


def _timm_image_processor(pretrained_cfg: dict[str, Any] | None, image_size: Any) -> BitImageProcessorPil | None:
    """timm's evaluation transform: resize the short side, centre crop, normalise."""
    if not pretrained_cfg or "mean" not in pretrained_cfg or "std" not in pretrained_cfg:
        return None
    resample = {"nearest": 0, "bilinear": 2, "bicubic": 3}.get(pretrained_cfg.get("interpolation", "bicubic"))
    if resample is None or pretrained_cfg.get("crop_mode", "center") != "center":
        return None
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    fraction = pretrained_cfg.get("crop_pct") or TIMM_CROP_FRACTION
    return BitImageProcessorPil(
        size={"shortest_edge": int(min(height, width) / fraction)},
        crop_size={"height": height, "width": width},
        image_mean=list(pretrained_cfg["mean"]),
        image_std=list(pretrained_cfg["std"]),
        resample=resample,
    )


def _load_native(name: str, config: dict[str, Any], revision: str | None) -> PreTrainedModel:
    """Load the native model that a checkpoint was saved from; old and new names of its tensors are transformers' job.

    Raises:
        ConversionError: if it is of another family, or its tensors are not exactly those of the model.
    """
    family = config.get("model_type")
    if family == "dna_vit":
        raise ConversionError(
            f"{name!r} is a DnA model already, a 'dna_vit'; from_image_model (--num-frames) makes a video model of it."
        )
    if family not in NATIVE_FAMILIES:
        raise ConversionError(f"cannot convert {name!r}, a {family!r} model: known are {', '.join(NATIVE_FAMILIES)}.")
    architecture = saved_class(config)
    native_task(architecture)
    return load_exactly(name, getattr(transformers, str(architecture)), revision)


@torch.no_grad()
def _compare(report: ConversionReport, source: nn.Module, model: PreTrainedModel, options: Options) -> None:
    """Run source and result on one random image or video, and note the difference; refuse an undue one.

    Raises:
        ConversionError: if the conversion should keep the function and does not.
    """
    if options.image_size is not None and not getattr(model.config, "interpolate_pos_encoding", False):
        return  # the source cannot see images of the new size
    if isinstance(model.config, DnATimesformerConfig) and not isinstance(model.config.image_size, int):
        report.notes.append("not compared: transformers' TimeSformer does not run with a pair as its image_size")
        return
    inputs = random_input(model.config)
    if getattr(model.config, "attention_type", None) == "space_only":
        inputs = inputs[:, :1]  # of several frames, the source makes several outputs
    # copies: the caller's model keeps its mode, dtype and device
    twin = copy.deepcopy(source).cpu().float().eval()
    if is_timm_model(source) and isinstance(model, DnAViTModel):
        expected = twin.forward_features(inputs)  # type: ignore[operator]
    else:
        expected = main_output(twin(inputs))
    found = main_output(copy.deepcopy(model).float()(inputs))
    report.max_difference = (found - expected).abs().max().item()
    report.compared = "the source and the model, in float32"
    tolerance = EXACT_TOLERANCE[torch.finfo(model.dtype).bits >= 32] * max(1.0, expected.abs().max().item())
    if options.keeps_function and not report.max_difference <= tolerance:
        raise ConversionError(
            f"the converted model differs from {report.source!r} by {report.max_difference:.1e}: it has something "
            "that this conversion does not know; please report it."
        )
