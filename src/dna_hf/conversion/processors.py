"""How images and videos are preprocessed: from what a source says to the processor of the result."""

from pathlib import Path
from typing import Any

import yaml
from transformers import AutoImageProcessor
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

# from their modules, which are there without torchvision; the names at the top level are not
from transformers.models.timesformer.video_processing_timesformer import TimesformerVideoProcessor
from transformers.models.videomae.video_processing_videomae import VideoMAEVideoProcessor
from transformers.utils import cached_file

from ..errors import told_as
from ..models import DnATimesformerConfig, DnATimesformerVideoProcessor, DnAViTConfig
from ..pretrained import read_config
from ..sizes import resize_video_processor
from .errors import ConversionError
from .options import Options
from .report import Conversion, ConversionReport


IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
VIDEO_FILES = ("video_preprocessor_config.json", *IMAGE_FILES)
# what image processors and video processors of transformers have in common, and the DnA TimeSformer's takes over
SHARED_SETTINGS = (
    *("size", "crop_size", "image_mean", "image_std", "resample", "rescale_factor"),
    *("do_resize", "do_center_crop", "do_rescale", "do_normalize"),
)
# codes of PIL's bilinear and bicubic resampling
RESAMPLINGS = (2, 3)
# the released configurations of TimeSformer, the authors' included
RELEASED = {"NUM_FRAMES": 8, "SAMPLING_RATE": 32, "MEAN": [0.45] * 3, "STD": [0.225] * 3}


def find_image_processor(name: str, revision: str | None) -> Any:
    """The image processor of a checkpoint (folder or name on the Hub), `None` if it has none.

    Raises:
        ConversionError: if it cannot be loaded.
    """
    with told_as(ConversionError, f"cannot load the image processor of {name!r}"):
        if not has_one_of(IMAGE_FILES, name, revision):
            return None
        return AutoImageProcessor.from_pretrained(name, revision=revision)


def load_image_processor(name: str) -> Any:
    """The image processor of a folder or a name on the Hub.

    Raises:
        ConversionError: if it cannot be loaded.
    """
    if not Path(name).exists():
        # which answers at once, where transformers asks again for minutes
        read_config(name, error_class=ConversionError)
    with told_as(ConversionError, f"cannot load the image processor of {name!r}"):
        return AutoImageProcessor.from_pretrained(name)


def set_image_processor(conversion: Conversion, options: Options) -> Conversion:
    """Let the result preprocess as the image processor does that was asked for, if one was.

    Raises:
        ConversionError: if it cannot be loaded, or does what the processor of videos cannot.
    """
    processor = options.image_processor
    if processor is None:
        return conversion
    if isinstance(processor, str | Path):
        processor = load_image_processor(str(processor))
    model, report = conversion
    if isinstance(model.config, DnATimesformerConfig):
        add_video_processor_of_images(report, model.config, processor)
    else:
        report.image_processor = processor
    return conversion


def authors_image_processor(config: DnAViTConfig) -> BitImageProcessorPil:
    """The authors' evaluation: resize the short side to size / 0.875, centre crop, ImageNet statistics."""
    size: Any = config.image_size
    return BitImageProcessorPil(
        size={"shortest_edge": int(size / 0.875)},
        crop_size={"height": size, "width": size},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    )


def add_authors_video_processor(report: ConversionReport, config: DnATimesformerConfig, settings: Any) -> None:
    """Add the processor of a file of the authors' code, or of the original TimeSformer's.

    Frames are chosen as their test does, `"released"`; numbers are those of the file's own configuration where it has
    one, else of the released configurations.

    Args:
        report: report that takes the processor, and a note on where its numbers come from.
        config: configuration of the model.
        settings: configuration of the training run as YAML, which a training checkpoint has under `cfg`; `None` if
            there is none.

    Raises:
        ConversionError: for a number that is none.
    """
    if not _takes_colours(report, config):
        return
    try:
        content = yaml.safe_load(settings) if isinstance(settings, str) else None
    except yaml.YAMLError:
        content = None
        report.notes.append("the file's cfg is no YAML: it was not read")
    data, train = (_section(content, name) for name in ("DATA", "TRAIN"))
    origin = "of the file's cfg" if data else "of the released configurations: no cfg in the file says them"
    report.notes.append(f"the numbers of the video processor are those {origin}")
    values = RELEASED | {"NUM_FRAMES": config.num_frames, "TEST_CROP_SIZE": config.image_size} | data
    where = f"cfg of {report.source!r}"
    report.video_processor = _video_processor(
        where,
        {
            **{"size": values["TEST_CROP_SIZE"], "crop_size": values["TEST_CROP_SIZE"]},
            **{"image_mean": values["MEAN"], "image_std": values["STD"]},
        },
        num_frames=_count(where, "DATA.NUM_FRAMES", values["NUM_FRAMES"]),
        sampling_rate=_count(where, "DATA.SAMPLING_RATE", values["SAMPLING_RATE"]),
        # of Something-Something, TimeSformer takes the middle of equal parts of the video
        sampling="uniform" if str(train.get("DATASET")).lower() == "ssv2" else "released",
    )


def add_native_video_processor(
    report: ConversionReport, config: DnATimesformerConfig, name: str | None, revision: str | None
) -> None:
    """Add the processor of transformers' TimeSformer: its normalisation and sizes, and uniform frames.

    Args:
        report: report that takes the processor, and a note where the source has none.
        config: configuration of the model.
        name: folder or name on the Hub of the source, `None` for a model that was never saved.
        revision: commit, tag or branch on the Hub.

    Raises:
        ConversionError: if the source has one that cannot be read, or that the DnA TimeSformer's cannot do.
    """
    if not _takes_colours(report, config):
        return
    content: dict[str, Any] = {}
    with told_as(ConversionError, f"cannot read the preprocessing of {name!r}"):
        found = name is not None and has_one_of(VIDEO_FILES, name, revision)
        if name is not None and found:
            content, _ = TimesformerVideoProcessor.get_video_processor_dict(name, revision=revision)
    if not isinstance(content, dict):
        raise ConversionError(f"cannot read the preprocessing of {name!r}: it is no JSON object.")
    kinds = [str(content.get(f"{kind}_type")) for kind in ("image_processor", "feature_extractor", "video_processor")]
    # what a file leaves out, its own class decides
    defaults: Any = VideoMAEVideoProcessor if any("VideoMAE" in kind for kind in kinds) else TimesformerVideoProcessor
    settings = {key: getattr(defaults, key) for key in SHARED_SETTINGS}
    settings |= {key: content[key] for key in SHARED_SETTINGS if content.get(key) is not None}
    where = f"the preprocessing of {name or report.source!r}"
    processor = report.video_processor = _video_processor(where, settings, num_frames=config.num_frames)
    if not found:
        report.notes.append(
            f"the source has no {IMAGE_FILES[0]}: the video processor normalises as transformers' "
            f"{defaults.__name__} does by default"
        )
        resize_video_processor(processor, config.image_size)
    report.notes.append("the source does not say how frames are chosen: they are spread over the whole video")


def add_video_processor_of_images(
    report: ConversionReport, config: DnATimesformerConfig, image_processor: Any
) -> None:
    """Add a processor that treats every frame as an image processor treats an image, and takes uniform frames.

    Where the image processor resizes to a rectangle whatever the image's proportions, the frames keep theirs: their
    short side is resized, and the rectangle is cut from the centre. That is how videos are augmented and how the views
    of evaluation are cut.

    Args:
        report: report that takes the processor, or a note that there is none.
        config: configuration of the model.
        image_processor: image processor of the image model, `None` if it has none.

    Raises:
        ConversionError: for an image processor that does what the video processor cannot.
    """
    if not _takes_colours(report, config):
        return
    if image_processor is None:
        report.notes.append("without an image processor there is no video processor: --image-processor names one")
        return
    found = image_processor.to_dict()
    settings = {key: found[key] for key in SHARED_SETTINGS if found.get(key) is not None}
    size = settings.get("size", {})
    if size.get("height") and size.get("width") and not settings.get("do_center_crop"):
        crop = {"height": size["height"], "width": size["width"]}
        settings |= {"size": {"shortest_edge": max(crop.values())}, "crop_size": crop, "do_center_crop": True}
    # an image processor that has no crop to speak of makes none
    settings.setdefault("do_center_crop", False)
    where = f"the image processor of {report.source!r}"
    report.video_processor = _video_processor(where, settings, num_frames=config.num_frames)


def _takes_colours(report: ConversionReport, config: DnATimesformerConfig) -> bool:
    """Whether the model takes what video processors make; if not, the report gets a note."""
    if config.num_channels == 3:
        return True
    report.notes.append(f"there is no video processor for a model of {config.num_channels} channels")
    return False


def _section(content: Any, name: str) -> dict[str, Any]:
    """A section of a configuration that somebody wrote; empty if there is none."""
    section = content.get(name) if isinstance(content, dict) else None
    return section if isinstance(section, dict) else {}


def _video_processor(where: str, settings: dict[str, Any], **more: Any) -> DnATimesformerVideoProcessor:
    """A video processor of settings that somebody else wrote, `where` for messages.

    Raises:
        ConversionError: for one that makes no sense, or that the processor cannot do.
    """
    settings = dict(settings)
    for key in ("image_mean", "image_std"):
        values = settings.get(key, [0.5])
        values = list(values) if isinstance(values, list | tuple) else [values] * 3
        least = float("-inf") if key == "image_mean" else 0
        if len(values) != 3 or not all(_is_number(value) and value > least for value in values):
            wanted = "three numbers" if key == "image_mean" else "three positive numbers"
            raise ConversionError(f"{where} is wrong: {key} is {settings[key]!r}, not {wanted}.")
        settings[key] = values
    for key in ("size", "crop_size"):
        if key in settings:
            settings[key] = _size(where, key, settings[key])
    if settings.get("resample", RESAMPLINGS[0]) not in RESAMPLINGS:
        raise ConversionError(
            f"{where} asks for resample {settings['resample']!r}, but frames are resized bilinear (2) or bicubic (3)."
        )
    if not _is_number(settings.get("rescale_factor", 1)):
        raise ConversionError(f"{where} is wrong: rescale_factor is {settings['rescale_factor']!r}, no number.")
    processor = DnATimesformerVideoProcessor(**settings, **more)
    size, crop = processor.size, processor.crop_size
    smallest = size.get("shortest_edge") or min(size["height"], size["width"])
    if processor.do_resize and processor.do_center_crop and smallest < max(crop["height"], crop["width"]):
        raise ConversionError(
            f"{where} is wrong: frames with a side of {smallest} pixels cannot be cropped to "
            f"{crop['height']}x{crop['width']}."
        )
    return processor


def _size(where: str, key: str, value: Any) -> dict[str, int]:
    """A size as the processors write it today: one number was the short side, or of a crop both sides."""
    if _is_number(value):
        value = {"height": value, "width": value} if key == "crop_size" else {"shortest_edge": value}
    given = {name: side for name, side in value.items() if side is not None} if isinstance(value, dict) else {}
    known = [{"height", "width"}] if key == "crop_size" else [{"height", "width"}, {"shortest_edge"}]
    if set(given) not in known or not all(isinstance(side, int) and side > 0 for side in given.values()):
        wanted = "a height and a width" if key == "crop_size" else "a shortest_edge, or a height and a width"
        raise ConversionError(f"{where} is wrong: {key} is {value!r}, not {wanted} in pixels.")
    return given


def _count(where: str, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConversionError(f"{where} is wrong: {key} is {value!r}, no positive whole number.")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def has_one_of(files: tuple[str, ...], name: str, revision: str | None) -> bool:
    """Whether a checkpoint has one of some files."""
    return any(
        cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False) for file in files
    )
