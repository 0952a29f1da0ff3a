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
from ..models.configuration_dna import pair
from ..records.one_input import main_output, random_input
from ..sizes import resize_image_processor, resize_video_processor
from .errors import ConversionError, refused_configuration
from .files import read_tensors
from .loading import find_file, load_exactly, read_config, saved_class, source_name
from .native import dna_config, map_native, native_task
from .options import Options
from .processors import (
    add_native_video_processor,
    find_image_processor,
    set_image_processor,
)
from .report import Conversion, ConversionReport
from .resize import DNA_FAMILIES, convert_dna, dna_family
from .tensors import EXACT_TOLERANCE
from .timm import check_timm_pooling, create_timm_model, is_timm_model, map_timm, timm_config, timm_model_facts
from .video_llm import convert_video_llm, is_video_llm


NATIVE_FAMILIES = ("vit", "deit", "dinov2", "timesformer")
# default of timm's pretrained_cfg, which its configuration files leave out
TIMM_CROP_FRACTION = 0.875


def from_pretrained_softmax(name_or_model: str | Path | nn.Module, **options: Any) -> Conversion:
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
            timm `VisionTransformer` (folder, name on the Hub, name in timm if that is installed, or model), a file
            with a state dict in timm's layout, or a DnA ViT or TimeSformer for another `image_size` (of a TimeSformer
            `num_frames`, too), which keeps all but its positions and times.
        options: fields of [`~dna_hf.conversion.Options`], e.g. `negative_init="zero"`, `image_size=384` or
            `attention_variant="dna_shared_value"`.

    Returns:
        The model, in evaluation mode, and a report on every tensor: `model, report = from_pretrained_softmax(...)`.

    Raises:
        ConversionError: if the source does not exist, is of another kind, has tensors that are missing, unexpected,
            misshaped or not finite, if an option does not apply to it, or if a conversion that should keep the
            function does not.
    """
    request = Options(**options)
    if request.num_frames is not None and dna_family(name_or_model, request.revision) != "dna_timesformer":
        request.refuse_video()
    return convert_softmax(name_or_model, request)


def convert_softmax(source: str | Path | nn.Module, options: Options) -> Conversion:
    """Convert a checkpoint with softmax attention as a request asks.

    What it asks of a video model is left to [`~dna_hf.conversion.image_to_video.image_to_video`].
    """
    options.check_revision(source)
    with refused_configuration(source_name(source)):
        conversion = _convert(source, options)
    options.note_idle(conversion.report.notes, options.variant)
    becomes_video = options.num_frames is not None and conversion.report.family != DnATimesformerConfig.model_type
    return conversion if becomes_video else set_image_processor(conversion, options)


def _convert(source: str | Path | nn.Module, options: Options) -> Conversion:
    if isinstance(source, nn.Module):
        return _convert_model(source, options)
    if not isinstance(source, (str, Path)):
        raise ConversionError(f"cannot convert a {type(source).__name__}: give a name, a path, or a model.")
    name = str(source)
    if Path(name).is_file():
        options.check(name, "timm")
        tensors, notes = read_tensors(name)
        return _convert_timm_tensors(name, tensors, options, notes=notes)
    # timm knows no revisions
    timm_model = None if Path(name).is_dir() or options.revision is not None else create_timm_model(name)
    if timm_model is not None:
        return _convert_timm_model(timm_model, name, options)
    config = read_config(name, options.revision)
    if is_video_llm(config):
        return convert_video_llm(name, options, name)
    if config.get("model_type") in DNA_FAMILIES:
        return convert_dna(name, options)
    if "architecture" in config and "model_type" not in config:
        options.check(name, "timm")
        return _convert_timm_checkpoint(name, config, options)
    return _convert_native(_load_native(name, config, options), options, name)


def _convert_model(source: nn.Module, options: Options) -> Conversion:
    if is_timm_model(source):
        return _convert_timm_model(source, type(source).__name__, options)
    if not isinstance(source, PreTrainedModel):
        raise ConversionError(f"cannot convert a {type(source).__name__}: give a name, a path, or a model.")
    if source.config.model_type in DNA_FAMILIES:
        return convert_dna(source, options)
    folder = source.name_or_path or ""
    where = folder if folder and Path(folder).is_dir() else None
    if is_video_llm(source.config.to_dict()):
        return convert_video_llm(source, options, where)
    return _convert_native(source, options, where)


def _convert_native(source: PreTrainedModel, options: Options, name: str | None) -> Conversion:
    """Convert transformers' model; `name` is where its processor is, `None` if it was never saved."""
    task = native_task(type(source).__name__)
    options.check(source.name_or_path or type(source).__name__, source.config.model_type)
    config = dna_config(source, options)
    mapping = map_native(source, config, options)
    model = mapping.build(task.model_class, config)
    report = ConversionReport(mapping.name, source.config.model_type, mapping.records)
    if isinstance(config, DnATimesformerConfig):
        add_native_video_processor(report, config, name, options.revision)
        if options.image_size is not None and report.video_processor is not None:
            resize_video_processor(report.video_processor, config.image_size)
    else:
        _add_image_processor(report, config, options, name)
    _compare(report, source, model, options)
    return Conversion(model, report)


def _add_image_processor(report: ConversionReport, config: Any, options: Options, name: str | None) -> None:
    report.image_processor = None if name is None else find_image_processor(name, options.revision)
    if report.image_processor is None:
        if options.image_processor is None:
            report.notes.append("the source has no image processor")
        return
    for field in ("image_mean", "image_std"):
        value = getattr(report.image_processor, field, None)
        if isinstance(value, int | float):
            # a list says how many channels there are
            setattr(report.image_processor, field, [value] * config.num_channels)
    if options.image_size is not None:
        what = resize_image_processor(report.image_processor, config.image_size)
        report.notes.append(f"the image processor now {what}")


def _convert_timm_model(source: nn.Module, name: str, options: Options) -> Conversion:
    options.check(name, "timm")
    facts = timm_model_facts(source)
    heads = facts["num_attention_heads"]
    if options.num_attention_heads not in (None, heads):
        raise ConversionError(
            f"{name!r} has {heads} attention heads, but num_attention_heads is {options.num_attention_heads}."
        )
    conversion = _convert_timm_tensors(
        name,
        dict(source.state_dict()),
        replace(options, num_attention_heads=heads),
        pretrained_cfg=facts["pretrained_cfg"],
        grid=facts["grid"],
        layer_norm_eps=facts["layer_norm_eps"],
    )
    _compare(conversion.report, source, conversion.model, options)
    return conversion


def _convert_timm_checkpoint(name: str, config: dict[str, Any], options: Options) -> Conversion:
    """A repository or folder as timm publishes it: `config.json` and `model.safetensors`."""
    pretrained_cfg = dict(config.get("pretrained_cfg") or {})
    if "label_names" in config:
        pretrained_cfg["label_names"] = config["label_names"]
    for settings in (config, config.get("model_args") or {}, pretrained_cfg):
        check_timm_pooling(settings.get("global_pool"))
    tensors, notes = read_tensors(find_file(name, "model.safetensors", options.revision))
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
    config, grid = timm_config(name, dict(tensors), options, grid=grid, layer_norm_eps=layer_norm_eps)
    if labels and len(labels) == config.num_labels:
        config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    mapping, model_class = map_timm(name, dict(tensors), config, grid, options)
    model = mapping.build(model_class, config)
    report = ConversionReport(name, "timm", mapping.records, list(notes or []))
    report.image_processor = _timm_image_processor(pretrained_cfg, config.image_size)
    if report.image_processor is None and options.image_processor is None:
        report.notes.append("the source does not say how images are preprocessed: the model has no image processor")
    return Conversion(model, report)


def _timm_image_processor(pretrained_cfg: dict[str, Any] | None, image_size: Any) -> BitImageProcessorPil | None:
    """timm's evaluation transform: resize the short side, centre crop, normalise."""
    if not pretrained_cfg or "mean" not in pretrained_cfg or "std" not in pretrained_cfg:
        return None
    resample = {"nearest": 0, "bilinear": 2, "bicubic": 3}.get(pretrained_cfg.get("interpolation", "bicubic"))
    if resample is None or pretrained_cfg.get("crop_mode", "center") != "center":
        return None
    height, width = pair(image_size, "image_size")
    fraction = pretrained_cfg.get("crop_pct") or TIMM_CROP_FRACTION
    return BitImageProcessorPil(
        size={"shortest_edge": int(min(height, width) / fraction)},
        crop_size={"height": height, "width": width},
        image_mean=list(pretrained_cfg["mean"]),
        image_std=list(pretrained_cfg["std"]),
        resample=resample,
    )


def _load_native(name: str, config: dict[str, Any], options: Options) -> PreTrainedModel:
    """Load the native model that a checkpoint was saved from; old and new names of its tensors are transformers' job.

    Raises:
        ConversionError: if it is of another family, or its tensors are not exactly those of the model.
    """
    family = config.get("model_type")
    if family not in NATIVE_FAMILIES:
        raise ConversionError(f"cannot convert {name!r}, a {family!r} model: known are {', '.join(NATIVE_FAMILIES)}.")
    architecture = saved_class(config)
    native_task(architecture)
    options.check(name, family)
    return load_exactly(name, getattr(transformers, str(architecture)), options.revision)


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
