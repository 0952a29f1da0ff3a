"""The processor of a video language model, from the files beside a VideoLLaMA3."""

from typing import Any

from transformers import AutoTokenizer

from ..errors import told_as
from ..models import (
    DnAVideoLlama3ImageProcessor,
    DnAVideoLlama3Processor,
    DnAVideoLlama3VideoProcessor,
    DnAVideoLlama3VisionConfig,
)
from .errors import ConversionError
from .loading import has_file, read_json
from .report import ConversionReport


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
NESTED_FILE, IMAGE_FILE, VIDEO_FILE = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
# how pixels become patches; what a checkpoint says of it was so when it was trained
PIXELS = (
    *("image_mean", "image_std", "rescale_factor", "resample", "patch_size", "merge_size"),
    *("do_resize", "do_rescale", "do_normalize"),
)
# of VisCoP; its scripts for images alone take 1
VISCOP_IMAGE_MERGE = 2


def video_llm_processor(
    report: ConversionReport,
    names: list[str],
    vision: DnAVideoLlama3VisionConfig,
    fields: dict[str, Any],
    settings: dict[str, Any],
    revision: str | None,
) -> DnAVideoLlama3Processor | None:
    """The processor, `None` where there is no tokenizer.

    Pixels are treated as the checkpoint says, and the number of tokens of a video is that of the released evaluation.

    Args:
        report: report that takes notes, and says what kind of source it is.
        names: folders or names on the Hub to look in, the first that has a file counts.
        vision: configuration of the vision encoder, for its probes and patches.
        fields: fields of the model's configuration, `include_visual_tokens` and `include_visual_probes`.
        settings: `config.json` of the source, which may say `max_frames`.
        revision: commit, tag or branch on the Hub.

    Raises:
        ConversionError: for files that cannot be read, or say what cannot be.
    """
    where = next((name for name in names if any(has_file(name, file, revision) for file in TOKENIZER_FILES)), None)
    if where is None:
        report.notes.append("the source has no tokenizer: the model has no processor")
        return None
    images, videos = _settings(report, names, revision)
    if report.family == "authors-viscop":
        images.setdefault("merge_size", VISCOP_IMAGE_MERGE)
    if isinstance(settings.get("max_frames"), int):
        videos["max_frames"] = settings["max_frames"]
    for kind in (images, videos):
        if kind.setdefault("patch_size", vision.patch_size) != vision.patch_size:
            raise ConversionError(
                f"the preprocessing of {where!r} has patches of {kind['patch_size']} pixels, but its vision encoder "
                f"of {vision.patch_size}."
            )
    with told_as(ConversionError, f"cannot make a processor of the files in {where!r}"):
        return DnAVideoLlama3Processor(
            DnAVideoLlama3ImageProcessor(**images),
            AutoTokenizer.from_pretrained(where, revision=revision or "main"),
            DnAVideoLlama3VideoProcessor(**videos),
            num_probes=vision.num_probes,
            **fields,
        )


def _settings(
    report: ConversionReport, names: list[str], revision: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """How images and how videos are processed, as arguments of the processors."""
    nested = _first(names, NESTED_FILE, revision)
    image = nested.get("image_processor") or _first(names, IMAGE_FILE, revision)
    # what only says it of images means frames, too; but for how many patches make a token
    frames = {key: value for key, value in image.items() if key != "merge_size"}
    video = nested.get("video_processor") or _first(names, VIDEO_FILE, revision) or frames
    if not image:
        report.notes.append(f"the source has no {IMAGE_FILE}: pixels are normalised by mean 0.5 and deviation 0.5")
    images, videos = ({key: one[key] for key in PIXELS if one.get(key) is not None} for one in (image, video))
    if "size" in image or "max_pixels" in image:
        images |= {key: image[key] for key in ("size", "min_pixels", "max_pixels") if image.get(key) is not None}
    if isinstance(video.get("fps"), int | float):
        videos["fps"] = video["fps"]
    if isinstance(image.get("max_tokens"), int):
        # of its own code: tokens of all images and frames of a sample
        videos["max_visual_tokens"] = image["max_tokens"]
        videos |= {"min_visual_tokens": image["min_tokens"]} if isinstance(image.get("min_tokens"), int) else {}
    return images, videos


def _first(names: list[str], file: str, revision: str | None) -> dict[str, Any]:
    """The content of a file where the first of several places has it, empty without."""
    return next((read_json(name, file, revision) for name in names if has_file(name, file, revision)), {})
