"""`dna-hf convert`: find out what a source is, and convert it."""

from dataclasses import replace
from pathlib import Path

from transformers import set_seed

from ..errors import must_be_empty
from .authors import authors_architecture, convert_authors
from .authors_viscop_llm import is_viscop_folder
from .errors import ConversionError
from .files import read_tensors
from .image_to_video import convert_image_model, image_to_video
from .options import Options
from .pretrained import convert_softmax
from .processors import load_image_processor
from .report import Conversion


def convert_source(source: str, options: Options, *, output: str | Path | None = None, seed: int = 0) -> Conversion:
    """Convert a source of any kind.

    Args:
        source: folder, file, name on the Hub, or name in timm. A file of a softmax baseline of the authors' without
            temporal attention looks like timm's: name its kind by `family`.
        options: what is asked for; `num_frames` makes a video model of an image model.
        output: folder to write the result to, which must be empty; by default nothing is written.
        seed: seed of new random weights.

    Raises:
        ConversionError: if the folder to write to cannot be used, the source cannot be converted, or an option does
            not apply to it.
    """
    if output is not None:
        must_be_empty(output, ConversionError)
    architecture = _authors_architecture(source, options.family)
    if architecture is not None:
        options.check(source, f"authors-{architecture}")
    if isinstance(options.image_processor, str | Path):
        options = replace(options, image_processor=load_image_processor(str(options.image_processor)))
    set_seed(seed)
    if architecture is not None:
        conversion = convert_authors(source, architecture, options)
        if options.num_frames is not None:
            conversion = image_to_video(conversion, options)
    elif options.num_frames is not None:
        conversion = convert_image_model(source, options)
    else:
        conversion = convert_softmax(source, options)
    if output is not None:
        conversion.save_pretrained(output)
    return conversion


def _authors_architecture(source: str, family: str | None) -> str | None:
    """The architecture of a file of the authors' code, `None` if the source is something else."""
    if family is not None:
        return family.removeprefix("authors-") if family.startswith("authors-") else None
    if Path(source).is_dir() and is_viscop_folder(source):
        return "viscop"
    return authors_architecture(read_tensors(source)[0]) if Path(source).is_file() else None
