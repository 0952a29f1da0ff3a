"""`dna-hf convert`: find out what a source is, and convert it."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, set_seed

from .authors import convert_authors_checkpoint, is_authors_state_dict
from .errors import ConversionError, first_line
from .files import read_tensors
from .pretrained import from_pretrained_softmax
from .report import Conversion


def convert_source(
    source: str,
    *,
    family: str | None = None,
    negative_sign: int | None = None,
    image_processor: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
    num_attention_heads: int | None = None,
    **options: Any,
) -> Conversion:
    """Convert a source of any kind.

    Args:
        source: folder, file, name on the Hub, or name in timm.
        family: what the source must be, see [`~dna_hf.conversion.ConversionReport`]; found out by default. A file of
            the authors' softmax baseline looks like timm's and must be named.
        negative_sign: see [`~dna_hf.conversion.convert_authors_checkpoint`].
        image_processor: folder or name on the Hub whose image processor the result gets.
        dtype: of the result, e.g. `"float32"`.
        seed: of new random weights.
        num_attention_heads: for sources that do not tell it.
        options: of [`~dna_hf.conversion.from_pretrained_softmax`]; those that are `None` keep their default.

    Raises:
        ConversionError: see there; also if the source is of another family.
    """
    set_seed(seed)
    torch_dtype = None if dtype is None else getattr(torch, dtype)
    options = {name: value for name, value in options.items() if value is not None}
    is_file = Path(source).is_file()
    if family == "authors-vit" or (family is None and is_file and is_authors_state_dict(read_tensors(source)[0])):
        if options:
            name = next(iter(options)).replace("_", "-")
            raise ConversionError(f"{source!r} is a file of the authors' code, to which --{name} does not apply.")
        conversion = convert_authors_checkpoint(
            source, architecture="vit", negative_sign=negative_sign, num_attention_heads=num_attention_heads
        )
        if torch_dtype is not None:
            conversion.model.to(torch_dtype)  # type: ignore[arg-type]
    else:
        if negative_sign is not None:
            raise ConversionError(f"{source!r} is no file of the authors' code: only those have a negative_sign.")
        conversion = from_pretrained_softmax(
            source, num_attention_heads=num_attention_heads, dtype=torch_dtype, **options
        )
    found = conversion.report.family
    if family is not None and family != found:
        raise ConversionError(f"{source!r} is of kind {found!r}, not {family!r}.")
    if image_processor is not None:
        conversion.report.image_processor = _load_image_processor(image_processor)
    return conversion


def _load_image_processor(name: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise ConversionError(f"cannot load the image processor of {name!r}: {first_line(error)}.") from error
