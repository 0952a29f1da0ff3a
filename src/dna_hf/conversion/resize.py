"""A DnA ViT or TimeSformer at another image size or number of frames, with an account of its tensors."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .. import models
from ..models import DnATimesformerConfig, DnATimesformerVideoProcessor, DnAViTConfig
from ..pretrained import read_config
from ..records.one_input import main_output, random_input
from ..sizes import resize_image_processor, resize_model, resize_video_processor
from .errors import ConversionError, refused_configuration
from .loading import load_exactly, saved_class, source_name
from .options import Options, spelled
from .processors import VIDEO_FILES, find_image_processor, has_one_of
from .report import Conversion, ConversionReport, TensorRecord
from .tensors import EXACT_TOLERANCE


DNA_FAMILIES = (DnAViTConfig.model_type, DnATimesformerConfig.model_type)
# options that make another model of the source
OTHERS = ("negative_init", "warm_scale", "negative_scale_init", "attention_type", "keep_head")


def dna_family(source: str | Path | nn.Module, revision: str | None = None) -> str | None:
    """Which of the models that can be resized a source is, by its `model_type`; `None` if it is none of them."""
    if isinstance(source, nn.Module):
        found = getattr(getattr(source, "config", None), "model_type", None)
    elif Path(source).is_file():
        return None
    else:
        try:
            found = read_config(source, revision, ConversionError).get("model_type")
        except ConversionError:
            return None  # whatever it is, who converts it says what is wrong with it
    return found if found in DNA_FAMILIES else None


def convert_dna(source: str | Path | PreTrainedModel, options: Options) -> Conversion:
    """Bring a DnA model to another image size or number of frames; all but what is resampled is kept, head included.

    Args:
        source: DnA ViT or TimeSformer: folder, name on the Hub, or model, which is not changed.
        options: what is asked for: `image_size`, and of a TimeSformer `num_frames`.

    Raises:
        ConversionError: if neither is asked for, or what cannot be done.
    """
    name = source_name(source)
    model = _load(source, options)
    config: Any = model.config
    _check(name, config, options)
    image_size, num_frames = options.image_size or config.image_size, options.num_frames
    sizes = {"image_size": image_size} | ({} if num_frames is None else {"num_frames": num_frames})
    with refused_configuration(name):
        type(config).from_dict(config.to_dict() | sizes)
    resized = copy.deepcopy(model)
    resampled = resize_model(resized, image_size, num_frames)
    records = [
        TensorRecord("resampled" if key in resampled else "copied", key, (key,), resampled.get(key, ""))
        for key in resized.state_dict()
    ]
    report = ConversionReport(name, config.model_type, records)
    _add_processor(report, source, resized.config, options)
    _compare(report, model, resized)
    return Conversion(resized, report)


def _check(name: str, config: Any, options: Options) -> None:
    """Refuse what makes no other size of a model."""
    options.check(name, config.model_type)
    have, wanted = config.attention_variant, options.attention_variant
    if wanted not in (None, have):
        raise ConversionError(f"{name!r} has {have} attention already: it cannot become {wanted}.")
    if others := [option for option in options.given if option in OTHERS]:
        raise ConversionError(f"{spelled(others[0])} does not apply to {name!r}, which has {have} attention already.")
    if options.image_size is None and options.num_frames is None:
        is_video = isinstance(config, DnATimesformerConfig)
        fix = "num_frames (--num-frames) " + ("its times" if is_video else "makes a video model of it")
        raise ConversionError(
            f"{name!r} is a DnA model already, a {config.model_type!r}: image_size (--image-size) resamples its "
            f"positions, {fix}."
        )


def _load(source: str | Path | PreTrainedModel, options: Options) -> PreTrainedModel:
    if isinstance(source, PreTrainedModel):
        model = copy.deepcopy(source).cpu()
    else:
        architecture = saved_class(read_config(str(source), options.revision, ConversionError))
        model_class = getattr(models, str(architecture), None)
        if model_class is None:
            raise ConversionError(f"{str(source)!r} holds a {architecture}, which is no class of this package.")
        model = load_exactly(str(source), model_class, options.revision)
    return (model if options.dtype is None else model.to(options.dtype)).eval()  # type: ignore[arg-type]


def _add_processor(report: ConversionReport, source: Any, config: Any, options: Options) -> None:
    """The processor of the source, for images or frames of the new size, and the new number of frames."""
    folder = str(source.name_or_path) if isinstance(source, PreTrainedModel) else str(source)
    if isinstance(source, PreTrainedModel) and not (folder and Path(folder).is_dir()):
        return
    if not isinstance(config, DnATimesformerConfig):
        report.image_processor = find_image_processor(folder, options.revision)
        if report.image_processor is not None and options.image_size is not None:
            what = resize_image_processor(report.image_processor, config.image_size)
            report.notes.append(f"the image processor now {what}")
    elif has_one_of(VIDEO_FILES, folder, options.revision):
        processor = DnATimesformerVideoProcessor.from_pretrained(folder, revision=options.revision or "main")
        processor.num_frames = config.num_frames
        if options.image_size is not None:
            resize_video_processor(processor, config.image_size)
        report.video_processor = processor
    if report.image_processor is None and report.video_processor is None and options.image_processor is None:
        report.notes.append("the source has no processor: --image-processor names one")


@torch.no_grad()
def _compare(report: ConversionReport, source: PreTrainedModel, resized: PreTrainedModel) -> None:
    """Run both on one random image or video of the new size, which the source resamples its positions for.

    Raises:
        ConversionError: if they differ.
    """
    inputs = random_input(resized.config)
    twins = [copy.deepcopy(model).float() for model in (source, resized)]
    any_size = {} if isinstance(resized.config, DnATimesformerConfig) else {"interpolate_pos_encoding": True}
    expected, found = (main_output(twin(inputs, **any_size)) for twin in twins)
    report.max_difference = (found - expected).abs().max().item()
    report.compared = "the source, which resamples its positions for the new size, and the model, in float32"
    tolerance = EXACT_TOLERANCE[torch.finfo(resized.dtype).bits >= 32] * max(1.0, expected.abs().max().item())
    if not report.max_difference <= tolerance:
        raise ConversionError(
            f"the resized model differs from {report.source!r} by {report.max_difference:.1e}: this is a defect of "
            "dna-hf, please report it."
        )
