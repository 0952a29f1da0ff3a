"""From an image model to a video model that, of a video without motion, makes what the image model makes of a frame.

As the TimeSformer does (arXiv:2102.05095), attention over time begins as a copy of attention over space.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models import DnATimesformerConfig, DnAViTConfig, DnAViTForImageClassification, DnAViTModel
from ..models.configuration_dna import DnATransformerConfig
from ..records.one_input import random_image
from ..sizes import resize_video_processor
from .errors import ConversionError, refused_configuration
from .loading import load_exactly, read_config, saved_class, source_name
from .native import VIT_NAMES
from .options import Options
from .pretrained import convert_softmax
from .processors import (
    add_video_processor_of_images,
    find_image_processor,
    set_image_processor,
)
from .report import Conversion, ConversionReport, TensorRecord
from .resize import dna_family
from .tensors import EXACT_TOLERANCE, TensorMap
from .vit_layout import MapAttention, TransformerMap, map_softmax_attention, model_classes


NUM_FRAMES = 8
# options that are fields of the configuration of a video model
CONFIG_OPTIONS = ("num_frames", "attention_type", "image_size")
IMAGE_MODELS = {"DnAViTModel": DnAViTModel, "DnAViTForImageClassification": DnAViTForImageClassification}


def from_image_model(name_or_model: str | Path | nn.Module, **options: Any) -> Conversion:
    """Make a DnA TimeSformer of an image model.

    Attention over space, norms, MLPs and embeddings are those of the image model. Attention over time and its norm
    are copies of those over space; what follows them (`temporal_dense`) and the time embeddings are zero. Thus, of a
    video that repeats one image, the model computes what the image model computes of that image, and the order of
    frames does not matter until it is trained. With `joint_space_time` this holds for videos of one frame alone: the
    patches of several frames outweigh the class token.

    Args:
        name_or_model: a DnA ViT (folder, name on the Hub, or model; one of the authors' files through
            [`~dna_hf.conversion.load_authors_checkpoint`]), or what [`~dna_hf.conversion.from_pretrained_softmax`]
            takes.
        options: fields of [`~dna_hf.conversion.Options`], e.g. `num_frames=16`, `attention_type="space_only"` or
            `keep_head=True`.

    Returns:
        The model (`DnATimesformerModel` or, with its head, `DnATimesformerForVideoClassification`), in evaluation
        mode, and a report on every tensor of the source, with a video processor that treats frames as the source's
        image processor treats images, where it has one.

    Raises:
        ConversionError: if the source cannot be read, or has what the DnA TimeSformer has no place for: a
            distillation token, layer scale, a classifier on the mean of the patches; for an option that does not
            apply to it.
    """
    request = Options(**options)
    if dna_family(name_or_model, request.revision) == DnATimesformerConfig.model_type:
        raise ConversionError(
            f"{source_name(name_or_model)!r} is a video model already: from_pretrained_softmax brings it to another "
            "number of frames."
        )
    return convert_image_model(name_or_model, replace(request, num_frames=request.num_frames or NUM_FRAMES))


def convert_image_model(source: str | Path | nn.Module, options: Options) -> Conversion:
    """Convert an image model to a video model as a request asks."""
    options.check_revision(source)
    image_model = _load_dna_vit(source, options)
    if image_model is None and dna_family(source, options.revision) == DnATimesformerConfig.model_type:
        return convert_softmax(source, options)
    if image_model is None:
        # the size is changed below, where every image model passes
        return image_to_video(convert_softmax(source, replace(options, image_size=None)), options)
    image = _unconverted(image_model, source_name(source))
    options.check(image.report.source, image.report.family)
    # of a model in memory, only what lies beside it on this machine
    folder = image.report.source
    if not isinstance(source, nn.Module) or Path(folder).is_dir():
        image.report.image_processor = find_image_processor(folder, options.revision)
    video = image_to_video(image, options)
    variant = image_model.config.attention_variant
    why = "" if variant == "softmax" else f"the source has {variant} attention already"
    options.note_idle(video.report.notes, video.model.config.attention_variant, why)
    return video


def image_to_video(image: Conversion, options: Options) -> Conversion:
    """Make a video model of a conversion to an image model, accounting for the tensors of its source.

    Args:
        image: the image model, and the account of how it was made.
        options: what is asked of the video model, `num_frames` at least.

    Raises:
        ConversionError: see [`from_image_model`].
    """
    source, name, keep_head = image.model, image.report.source, bool(options.keep_head)
    _check_image_model(source, name, keep_head)
    variant = options.attention_variant or source.config.attention_variant
    changed = variant != source.config.attention_variant
    if changed and source.config.attention_variant != "softmax":
        raise ConversionError(
            f"{name!r} has {source.config.attention_variant} attention: only softmax can become {variant}."
        )
    given = {name: value for name, value in options.given.items() if name in CONFIG_OPTIONS}
    with refused_configuration(name):
        config = _video_config(source.config, keep_head, given | (options.config_fields() if changed else {}))
    mapping = TensorMap(name, source.state_dict(), options.dtype)
    map_attention = _copy_attention(mapping, source)
    if changed:
        map_attention = map_softmax_attention(mapping, config, ("q_proj", "k_proj", "v_proj"), options.start)
    _map(mapping, source, config, map_attention, keep_head)
    model = mapping.build(model_classes(config)[keep_head], config)
    report = ConversionReport(name, image.report.family, _chained(image.report.records, mapping.records))
    report.notes = list(image.report.notes)
    if options.image_processor is None:
        add_video_processor_of_images(report, config, image.report.image_processor)
    if options.image_size is not None and report.video_processor is not None:
        resize_video_processor(report.video_processor, config.image_size)
    if image.report.max_difference is not None:
        difference = f"{image.report.max_difference:.1e} ({image.report.compared})"
        report.notes.append(f"as an image model, the largest difference was {difference}")
    _compare(report, source, model, keep_head, exact=not changed or options.start.is_exact_for(variant))
    return set_image_processor(Conversion(model, report), options)


def _load_dna_vit(source: str | Path | nn.Module, options: Options) -> PreTrainedModel | None:
    """The DnA ViT that a source is; `None` if it is something else."""
    if isinstance(source, nn.Module):
        is_dna = isinstance(source, PreTrainedModel) and isinstance(source.config, DnAViTConfig)
        return source if is_dna else None  # type: ignore[return-value]
    name = str(source)
    if Path(name).is_file():
        return None
    try:
        config = read_config(name, options.revision)
    except ConversionError:
        return None  # a name of timm's, or from_pretrained_softmax says what is wrong with it
    if config.get("model_type") != DnAViTConfig.model_type:
        return None
    architecture = saved_class(config)
    if architecture not in IMAGE_MODELS:
        raise ConversionError(f"cannot make a video model of {name!r}, a {architecture}: {_wanted()}.")
    options.check(name, DnAViTConfig.model_type)
    return load_exactly(name, IMAGE_MODELS[architecture], options.revision)


def _wanted() -> str:
    return f"only {' and '.join(IMAGE_MODELS)} are known"


def _unconverted(model: PreTrainedModel, name: str) -> Conversion:
    """A DnA ViT as the conversion that it did not need."""
    records = [TensorRecord("copied", key, (key,)) for key in model.state_dict()]
    return Conversion(model, ConversionReport(model.name_or_path or name, DnAViTConfig.model_type, records))


def _check_image_model(model: PreTrainedModel, name: str, keep_head: bool) -> None:
    """Refuse what the DnA TimeSformer has no place for."""
    if type(model).__name__ not in IMAGE_MODELS:
        raise ConversionError(f"cannot make a video model of {name!r}, a {type(model).__name__}: {_wanted()}.")
    config = model.config
    lacking = {
        "a distillation token": config.use_distillation_token,
        "layer scale": config.layer_scale_init_value is not None,
        "a classifier on the mean of its patches": config.classifier_pooling == "cls_mean",
    }
    if found := [what for what, there in lacking.items() if there]:
        raise ConversionError(
            f"cannot make a video model of {name!r}: the DnA TimeSformer has no place for {' and '.join(found)}."
        )
    if keep_head and "classifier.weight" not in model.state_dict():
        raise ConversionError(f"{name!r} has no classifier to keep: leave keep_head=False.")


def _video_config(image: Any, keep_head: bool, fields: dict[str, Any]) -> DnATimesformerConfig:
    """The configuration of the image model, as far as a video model shares it, with some fields changed."""
    shared = [name for name in DnATransformerConfig.__annotations__ if name != "auto_classes"]
    if keep_head:
        shared += ["id2label", "label2id", "problem_type"]
    return DnATimesformerConfig(**{name: getattr(image, name) for name in shared} | fields)


def _copy_attention(mapping: TensorMap, source: PreTrainedModel) -> MapAttention:
    """Copy attention as it is, of any variant."""
    names = list(source.state_dict())

    def map_attention(here: str, there: str) -> None:
        for name in names:
            parameter = name.removeprefix(here)
            if name.startswith(here) and not parameter.startswith("o_proj."):  # which is copied with the layer
                mapping.copy(name, f"{there}.{parameter}")

    return map_attention


def _map(
    mapping: TensorMap,
    source: PreTrainedModel,
    config: DnATimesformerConfig,
    map_attention: MapAttention,
    keep_head: bool,
) -> None:
    prefix = "dna_vit." if isinstance(source, DnAViTForImageClassification) else ""
    target = "dna_timesformer." if keep_head else ""
    # The class token of a ViT may have no position, and then gets one of zeros here. The authors' loader takes the
    # first patch's position for the class token's and resamples the others to one more, which shifts the positions
    # of all patches but the last ones; that is not repeated.
    has_row = source.config.use_class_token_position
    transformer = TransformerMap(mapping, config, map_attention, prefix, target)
    transformer.positions(VIT_NAMES, source.config.grid_size, int(has_row), add_row=not has_row)
    transformer.transformer(VIT_NAMES)
    _add_time(mapping, config, target)
    mask_token = f"{prefix}embeddings.mask_token"
    if mapping.has(mask_token):
        mapping.drop(mask_token, "used in masked image modeling alone")
    if keep_head:
        mapping.copy_module("classifier", "classifier")
        return
    for name in ("classifier.weight", "classifier.bias"):
        if mapping.has(name):
            mapping.drop(name, "the classes of the videos may be others")


def _add_time(mapping: TensorMap, config: DnATimesformerConfig, target: str) -> None:
    """Add what a video model has for time."""
    token = mapping.tensors.get(f"{target}embeddings.cls_token")
    if token is None or config.attention_type == "space_only":
        return
    width = config.hidden_size
    times = token.new_zeros(1, config.num_frames, width)
    mapping.new(f"{target}embeddings.time_embeddings", times, "0")
    if config.attention_type != "divided_space_time":
        return
    copies = {"attention.": "temporal_attention.", "layernorm_before.": "temporal_layernorm."}
    for index in range(config.num_hidden_layers):
        layer = f"{target}layers.{index}."
        for space, time in copies.items():
            for name in [key for key in mapping.tensors if key.startswith(layer + space)]:
                tensor, place = mapping.tensors[name], name.replace(layer + space, layer + time)
                reason = "random, as in a fresh model" if tensor is None else f"copy of {name.removeprefix(layer)}"
                mapping.new(place, tensor, reason)
        for name, shape in (("weight", (width, width)), ("bias", (width,))):
            mapping.new(f"{layer}temporal_dense.{name}", token.new_zeros(shape), "0")


def _chained(first: list[TensorRecord], second: list[TensorRecord]) -> list[TensorRecord]:
    """What became of the tensors of a source on two ways in a row."""
    onward = {record.source: record for record in second if record.source is not None}
    records = []
    for record in first:
        steps = [onward[target] for target in record.targets]
        targets = tuple(target for step in steps for target in step.targets)
        reason = ", ".join(dict.fromkeys(part for part in (record.reason, *(step.reason for step in steps)) if part))
        if not record.targets:
            records.append(record)
        elif targets:
            action = steps[0].action if record.action == "copied" else record.action
            records.append(replace(record, action=action, targets=targets, reason=reason))
        elif record.source is not None:
            records.append(TensorRecord("dropped", record.source, (), reason))
    return records + [record for record in second if record.source is None]


@torch.no_grad()
def _compare(
    report: ConversionReport, source: PreTrainedModel, model: PreTrainedModel, keep_head: bool, exact: bool
) -> None:
    """Run both models on one random image and on a video that repeats it, and note the difference.

    Raises:
        ConversionError: if there is one that should not be there.
    """
    image = random_image(model.config)
    frames = 1 if model.config.attention_type == "joint_space_time" else model.config.num_frames
    video = image.unsqueeze(1).expand(-1, frames, -1, -1, -1)
    twins = [copy.deepcopy(twin).cpu().float().eval() for twin in (source, model)]
    if keep_head:
        expected = twins[0](image, interpolate_pos_encoding=True).logits
        found = twins[1](video).logits
    else:
        expected = getattr(twins[0], "dna_vit", twins[0])(image, interpolate_pos_encoding=True).pooler_output
        found = twins[1](video).pooler_output
    report.max_difference = (found - expected).abs().max().item()
    report.compared = f"the image model, and the video model on the image as {frames} frames, in float32"
    tolerance = EXACT_TOLERANCE[torch.finfo(model.dtype).bits >= 32] * max(1.0, expected.abs().max().item())
    if exact and not report.max_difference <= tolerance:
        raise ConversionError(
            f"the video model differs from {report.source!r} by {report.max_difference:.1e} on a video that repeats "
            "one image: this is a defect of dna-hf, please report it."
        )
