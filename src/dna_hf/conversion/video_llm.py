"""VideoLLaMA3 to DnA."""

from typing import Any

import transformers
from transformers import PreTrainedModel

from .errors import ConversionError
from .loading import load_exactly, saved_class
from .options import Options
from .report import Conversion
from .video_encoder import convert_video_encoder


# transformers' models and the DnA models made of them
FAMILIES = ("video_llama_3", "video_llama_3_vision")
DNA_FAMILIES = ("dna_video_llama3", "dna_video_llama3_vision")
NATIVE_CLASSES = ("VideoLlama3ForConditionalGeneration", "VideoLlama3VisionModel")


def is_video_llm(config: dict[str, Any]) -> bool:
    """Whether a `config.json` is that of a video language model, or of the vision encoder of one."""
    return config.get("model_type") in (*FAMILIES, *DNA_FAMILIES)


def convert_video_llm_checkpoint(
    name: str, config: dict[str, Any], options: Options, revision: str | None
) -> Conversion:
    """Convert a folder or repository that is one by its `config.json`."""
    family = config["model_type"]
    if family in DNA_FAMILIES:
        raise ConversionError(f"{name!r} is a DnA model already, a {family!r}: load it with from_pretrained.")
    architecture = saved_class(config)
    if architecture not in NATIVE_CLASSES:
        raise ConversionError(f"cannot convert {name!r}, a {architecture!r}: known are {', '.join(NATIVE_CLASSES)}.")
    source = load_exactly(name, getattr(transformers, str(architecture)), revision)
    return convert_video_llm(source, options, name, revision)


def convert_video_llm(
    source: PreTrainedModel, options: Options, name: str | None, revision: str | None = None
) -> Conversion:
    """Convert a model."""
    if type(source).__name__ not in NATIVE_CLASSES:
        raise ConversionError(
            f"cannot convert a model of class {type(source).__name__!r}: known are {', '.join(NATIVE_CLASSES)}."
        )
    return convert_video_encoder(source, options)
