"""`dna-hf convert`: find out what a source is, and convert it."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, set_seed

from ..errors import first_line
from ..models import DnATimesformerConfig
from .authors import authors_architecture, convert_authors_checkpoint
from .authors_viscop_llm import is_viscop_folder
from .errors import ConversionError
from .files import read_tensors
from .image_to_video import from_image_model, image_to_video
from .pretrained import from_pretrained_softmax
from .processors import add_video_processor_of_images
from .report import Conversion
from .video_llm import is_video_llm


# what is for video language models alone, as the command line has it
PROBE_OPTIONS = {
    "num_probes": "--num-probes",
    "include_visual_tokens": "--no-visual-tokens",
    "include_visual_probes": "--no-visual-probes",
}


def convert_source(
    source: str,
    *,
    family: str | None = None,
    negative_sign: int | None = None,
    attention_type: str | None = None,
    num_frames: int | None = None,
    image_processor: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
    num_attention_heads: int | None = None,
    interaction_layers: list[int] | None = None,
    base_model: str | None = None,
    **options: Any,
) -> Conversion:
    """Convert a source of any kind.

    Args:
        source: folder, file, name on the Hub, or name in timm.
        family: what the source must be, see [`~dna_hf.conversion.ConversionReport`]; found out by default. A file of
            a softmax baseline without temporal attention looks like timm's and must be named.
        negative_sign: see [`~dna_hf.conversion.convert_authors_checkpoint`].
        attention_type: of a video model: of a file of the authors' TimeSformer, see there; or with `num_frames`.
        num_frames: make a video model of an image model, see [`~dna_hf.conversion.from_image_model`].
        image_processor: folder or name on the Hub whose image processor the result gets; a video model treats frames
            as it treats images.
        dtype: of the result, e.g. `"float32"`.
        seed: of new random weights.
        num_attention_heads: for sources that do not tell it.
        interaction_layers: of VideoLLaMA3 and of the authors' VisCoP, see there.
        base_model: of LoRA of the authors' VisCoP, see [`~dna_hf.conversion.convert_authors_checkpoint`].
        options: of [`~dna_hf.conversion.from_pretrained_softmax`]; those that are `None` keep their default.

    Raises:
        ConversionError: see there; also if the source is of another family.
    """
    set_seed(seed)
    torch_dtype = None if dtype is None else getattr(torch, dtype)
    options = {name: value for name, value in options.items() if value is not None}
    architecture = _authors_architecture(source, family)
    if attention_type is not None and num_frames is None and architecture != "timesformer":
        raise ConversionError(
            f"{source!r} is no TimeSformer of the authors' code: --attention-type does not apply, unless --num-frames "
            "makes a video model of it."
        )
    if interaction_layers is not None and (num_frames is not None or architecture not in (None, "viscop")):
        raise ConversionError(f"{source!r} makes no video language model: --interaction-layers does not apply.")
    of_llm = [option for name, option in PROBE_OPTIONS.items() if name in options]
    if num_frames is not None and of_llm:
        raise ConversionError(f"--num-frames makes no video language model: {of_llm[0]} does not apply.")
    if base_model is not None and architecture != "viscop":
        raise ConversionError(f"{source!r} is no LoRA of the authors' VisCoP: --base-model does not apply.")
    video = {"num_frames": num_frames, "attention_type": attention_type}
    video = {name: value for name, value in video.items() if value is not None}
    if architecture is not None:
        if options:
            name = next(iter(options))
            option = PROBE_OPTIONS.get(name, f"--{name.replace('_', '-')}")
            raise ConversionError(f"{source!r} is a file of the authors' code, to which {option} does not apply.")
        if architecture in ("timesformer", "viscop") and num_frames is not None:
            raise ConversionError(f"{source!r} is a video model already, to which --num-frames does not apply.")
        conversion = convert_authors_checkpoint(
            source,
            architecture=architecture,
            negative_sign=negative_sign,
            num_attention_heads=num_attention_heads,
            attention_type=attention_type if architecture == "timesformer" else None,
            interaction_layers=interaction_layers,
            base_model=base_model,
            dtype=torch_dtype if num_frames is None else None,
        )
        if num_frames is not None:
            conversion = image_to_video(conversion, **video)  # type: ignore[arg-type]
            if torch_dtype is not None:
                conversion.model.to(torch_dtype)  # type: ignore[arg-type]
    else:
        if negative_sign is not None:
            raise ConversionError(f"{source!r} is no file of the authors' code: only those have a negative_sign.")
        convert: Any = from_pretrained_softmax if num_frames is None else from_image_model
        options |= video
        if interaction_layers is not None:
            options["interaction_layers"] = interaction_layers
        conversion = convert(source, num_attention_heads=num_attention_heads, dtype=torch_dtype, **options)
    if family is not None and family != conversion.report.family:
        raise ConversionError(f"{source!r} is of kind {conversion.report.family!r}, not {family!r}.")
    if image_processor is not None:
        if is_video_llm(conversion.model.config.to_dict()):
            raise ConversionError(f"{source!r} makes a video language model: --image-processor does not apply.")
        found = _load_image_processor(image_processor)
        if isinstance(conversion.model.config, DnATimesformerConfig):
            add_video_processor_of_images(conversion.report, conversion.model.config, found)
        else:
            conversion.report.image_processor = found
    return conversion


def _authors_architecture(source: str, family: str | None) -> str | None:
    """The architecture of a file of the authors' code, `None` if the source is something else."""
    if family is not None:
        return family.removeprefix("authors-") if family.startswith("authors-") else None
    if Path(source).is_dir() and is_viscop_folder(source):
        return "viscop"
    return authors_architecture(read_tensors(source)[0]) if Path(source).is_file() else None


def _load_image_processor(name: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise ConversionError(f"cannot load the image processor of {name!r}: {first_line(error)}.") from error
