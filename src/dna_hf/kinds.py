"""What a checkpoint is: a classifier of images, a classifier of videos, or a video language model.

This is the one place that asks, and the one strict way to load a checkpoint for inference. Everything that differs by
kind asks a [`Kind`] for it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForVideoClassification,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

# from its module, which is there without torchvision; the name at the top level is not
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.video_processing_utils import BaseVideoProcessor

from . import models  # noqa: F401 - registers them with the Auto classes
from .data.arguments import ImageDataArguments, VideoDataArguments
from .data.conversation_arguments import ConversationDataArguments, QuestionDataArguments
from .data.errors import DataError
from .data.files import image_files, media_files
from .data.image_reading import image_mode
from .data.images import channels_of
from .data.images import output_size as image_output_size
from .data.inputs import read_image_input, read_question_input, read_video_input
from .data.problem_types import REGRESSION, SINGLE_LABEL
from .data.video_folders import video_files
from .errors import DnaError, told_as
from .models.configuration_dna import pair
from .pretrained import load_whole, read_config, tensor_shapes
from .records.names import checkpoint_labels


@dataclass(frozen=True)
class Kind:
    """What models of one kind take and give.

    Args:
        model_type: `model_type` in the `config.json` of the models.
        name: what a model of this kind is called in messages.
        unit: what the models are given, in the plural: `"images"`, `"videos"` or `"questions"`.
        task: name of the task on the Hub.
        auto_model: transformers' Auto class of the whole model.
        auto_processor: transformers' Auto class of the model's processor.
        processor_file: file of a checkpoint folder that says what the processor does.
        head: what the names of the head's tensors begin with; empty where there is no head to miss.
        pretraining: what the names of tensors begin with that only masked image modeling needs; a checkpoint of it has
            a body, and no head.
        data: dataclass with the keys of the data that such models are evaluated and analysed on.
        training_data: dataclass with the keys of the data that such models are trained on.
        files: `files(paths)`: the files among paths and in folders that such models take.
        read: `read(path, processor, ...)`: one file as arguments of the model, in a batch of its own.
        hint: the verbs that such a model is for.
    """

    model_type: str
    name: str
    unit: str
    task: str
    auto_model: Any
    auto_processor: Any
    processor_file: str
    head: str
    data: type
    training_data: type
    files: Callable[[Iterable[str | Path]], list[Path]]
    read: Callable[..., dict[str, Any]]
    hint: str
    pretraining: tuple[str, ...] = ()

    @property
    def with_article(self) -> str:
        """Its name in a sentence: "an image classifier"."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


IMAGE = Kind(
    model_type="dna_vit",
    name="image classifier",
    unit="images",
    task="image-classification",
    auto_model=AutoModelForImageClassification,
    auto_processor=AutoImageProcessor,
    processor_file="preprocessor_config.json",
    head="classifier.",
    data=ImageDataArguments,
    training_data=ImageDataArguments,
    files=image_files,
    read=read_image_input,
    hint="dna-hf evaluate or dna-hf predict",
    pretraining=("decoder.", "dna_vit.embeddings.mask_token"),
)
VIDEO = Kind(
    model_type="dna_timesformer",
    name="video classifier",
    unit="videos",
    task="video-classification",
    auto_model=AutoModelForVideoClassification,
    auto_processor=AutoVideoProcessor,
    processor_file="video_preprocessor_config.json",
    head="classifier.",
    data=VideoDataArguments,
    training_data=VideoDataArguments,
    files=video_files,
    read=read_video_input,
    hint="dna-hf evaluate or dna-hf predict",
)
VIDEO_LLM = Kind(
    model_type="dna_video_llama3",
    name="video language model",
    unit="questions",
    task="video-text-to-text",
    auto_model=AutoModelForImageTextToText,
    auto_processor=AutoProcessor,
    processor_file="processor_config.json",
    head="",
    data=QuestionDataArguments,
    training_data=ConversationDataArguments,
    files=media_files,
    read=read_question_input,
    hint="dna-hf answer or dna-hf chat",
)
# longest side in pixels of what a processor makes: larger ones are a slip, and take the memory
LARGEST_SIDE = 4096
# frames of the video that a processor is tried on
TRIED_FRAMES = 2
KINDS = (IMAGE, VIDEO, VIDEO_LLM)
CLASSIFIERS = (IMAGE, VIDEO)
# models of this package that are no kind of their own, and so have no processor
PARTS = {models.DnAVideoLlama3VisionConfig.model_type: "the vision encoder of a video language model"}


@dataclass
class Loaded:
    """A model that was loaded whole, and what it needs.

    Args:
        label: name of the model beside others: the last part of its path, or more parts where several end alike.
        model: the model, in evaluation mode and on its device; the body alone if `has_head` is false.
        processor: processor that turns files into what the model takes.
        kind: kind of the model.
        has_head: whether the model has its head, and so can name classes.
    """

    label: str
    model: PreTrainedModel
    processor: Any
    kind: Kind
    has_head: bool = True


def problem_type_of(config: PreTrainedConfig) -> str:
    """What a classifier is asked for each sample: one of [`~dna_hf.data.problem_types.PROBLEM_TYPES`].

    A configuration that does not say so is taken as transformers' own loss takes it: one output is a regression,
    several are classes of which one holds.

    Args:
        config: configuration of the classifier.
    """
    return config.problem_type or (REGRESSION if config.num_labels == 1 else SINGLE_LABEL)


def threshold_of(config: PreTrainedConfig) -> float:
    """The probability above which a class holds, for several labels: `threshold` of its configuration, or 0.5.

    Args:
        config: configuration of the model.
    """
    threshold = getattr(config, "threshold", None)
    return 0.5 if threshold is None else threshold


def kind_of_config(config: PreTrainedConfig) -> Kind | None:
    """Which kind a configuration is of, `None` for one of another model."""
    return next((kind for kind in KINDS if kind.model_type == config.model_type), None)


def kind_of(
    checkpoint: str | Path,
    revision: str | None = None,
    *,
    wanted: Sequence[Kind] = KINDS,
    error_class: type[DnaError] = DataError,
) -> Kind:
    """Which kind a checkpoint is of.

    Args:
        checkpoint: folder, or name on the Hub.
        revision: commit, tag or branch on the Hub.
        wanted: kinds that will do.
        error_class: class of the error.

    Raises:
        DnaError: of class `error_class`, if the checkpoint is not there, the Hub cannot be reached, or it is of
            another kind.
    """
    model_type = read_config(checkpoint, revision, error_class).get("model_type")
    found = next((kind for kind in KINDS if kind.model_type == model_type), None)
    if model_type in PARTS:
        raise error_class(
            f"{str(checkpoint)!r} holds {PARTS[model_type]}, a part of a model that has no processor of its own: give "
            "the whole model."
        )
    if found is None:
        raise error_class(
            f"{str(checkpoint)!r} holds a {model_type or 'nameless'} model, but {_one_of(wanted)} is needed: make one "
            "of it with dna-hf convert, or give another checkpoint."
        )
    if found not in wanted:
        raise error_class(
            f"{str(checkpoint)!r} holds {found.with_article}, but {_one_of(wanted)} is needed: that one is for "
            f"{found.hint}."
        )
    return found


def _one_of(kinds: Sequence[Kind]) -> str:
    names = [f"{kind.with_article} ({kind.model_type})" for kind in kinds]
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def common_kind(checkpoints: Sequence[str], revision: str | None = None) -> Kind:
    """Which kind all checkpoints are of; see [`kind_of`].

    Raises:
        DataError: if they are of several kinds.
    """
    kinds = {checkpoint: kind_of(checkpoint, revision) for checkpoint in checkpoints}
    if len(set(kinds.values())) > 1:
        pairs = ", ".join(f"{checkpoint!r} is {kind.with_article}" for checkpoint, kind in kinds.items())
        raise DataError(f"{pairs}: give models of one kind.")
    return kinds[checkpoints[0]]


def load(
    checkpoint: str | Path,
    *,
    wanted: Sequence[Kind] = KINDS,
    device: str | None = None,
    revision: str | None = None,
    dtype: str | None = None,
    needs_head: bool = True,
    label: str | None = None,
) -> Loaded:
    """Load a checkpoint and its processor for inference, insisting that it is whole.

    Args:
        checkpoint: folder, or name on the Hub.
        wanted: kinds that will do.
        device: device to run on, e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub.
        dtype: dtype of the weights, e.g. `"bfloat16"`; by default as they were saved.
        needs_head: whether a checkpoint without its head is an error; else the body alone is loaded.
        label: what to call the model; by default the last part of `checkpoint`.

    Raises:
        DataError: if there is no such checkpoint or device, it is of another kind, has no head, or its tensors are
            not those of its configuration.
    """
    name = str(checkpoint)
    kind = kind_of(name, revision, wanted=wanted)
    target = inference_device(device)
    has_head = _has_head(name, revision, kind)
    if needs_head and not has_head:
        raise DataError(
            f"{name!r} has no classifier, which was never trained or was left out: train it with dna-hf train "
            f"CONFIG.yaml --checkpoint {name}, or convert a checkpoint that has one."
        )
    processor = load_processor(name, kind, revision)
    model = load_whole(
        kind.auto_model if has_head else AutoModel,
        name,
        revision=revision,
        dtype=dtype or "auto",
        new=() if has_head else kind.pretraining,
    )
    check_images(processor, model.config, name, DataError)
    with told_as(DataError, f"{name!r} does not fit on device {target!r}"):
        model = model.to(target).eval()  # type: ignore[arg-type]
    return Loaded(checkpoint_labels([name])[0] if label is None else label, model, processor, kind, has_head)


def load_all(
    checkpoints: Sequence[str],
    *,
    device: str | None = None,
    revision: str | None = None,
    needs_head: bool = True,
) -> list[Loaded]:
    """Load checkpoints of one kind, each with a label of its own; see [`load`].

    Raises:
        DataError: if they are of several kinds, or one is given twice.
    """
    kind = common_kind(checkpoints, revision)
    return [
        load(name, wanted=(kind,), device=device, revision=revision, needs_head=needs_head, label=label)
        for name, label in zip(checkpoints, checkpoint_labels(checkpoints), strict=True)
    ]


def _has_head(name: str, revision: str | None, kind: Kind) -> bool:
    if not kind.head:
        return True
    return any(tensor.startswith(kind.head) for tensor in tensor_shapes(name, revision))


def load_processor(
    checkpoint: str | Path, kind: Kind, revision: str | None = None, error_class: type[DnaError] = DataError
) -> Any:
    """The processor of a checkpoint, with or without torchvision.

    Raises:
        DnaError: of class `error_class`, if its file is missing or damaged, or normalises by no positive number.
    """
    name = str(checkpoint)
    if Path(name).is_dir() and not Path(name, kind.processor_file).is_file():
        raise error_class(
            f"{name!r} has no {kind.processor_file}: save the processor of the {kind.name} in it, or convert its "
            "source with --image-processor, which names one."
        )
    where = f"{kind.processor_file} of {name!r}"
    with told_as(error_class, f"{where} cannot be used"):
        processor = kind.auto_processor.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    parts = [getattr(processor, part, None) for part in ("image_processor", "video_processor")]
    for part in filter(None, parts if any(parts) else [processor]):
        _check_normalisation(part, where, error_class)
        _check_sides(part, LARGEST_SIDE if kind in CLASSIFIERS else LARGEST_SIDE**2, where, error_class)
        _try(part, where, error_class)
    return processor


def check_images(processor: Any, config: PreTrainedConfig, source: str, error_class: type[DnaError]) -> None:
    """See that an image classifier takes what its processor makes, in channels and in size.

    Raises:
        DnaError: of class `error_class`, if it does not, or if the size depends on the image.
    """
    if kind_of_config(config) is not IMAGE:
        return
    for field in ("image_mean", "image_std"):
        values = getattr(processor, field, None)
        # one number stands for all of three channels
        values = values if isinstance(values, list | tuple) else [values] * 3
        if len(values) != config.num_channels:
            raise error_class(
                f"{field} in {IMAGE.processor_file} of {source!r} has {len(values)} numbers, but num_channels of the "
                f"model is {config.num_channels}: give as many."
            )
    if config.interpolate_pos_encoding:
        return
    try:
        made = image_output_size(processor)
    except DataError as error:
        raise error_class(f"{IMAGE.processor_file} of {source!r} cannot be used: {error}") from error
    if made != pair(config.image_size, "image_size"):
        raise error_class(
            f"the image processor of {source!r} makes images of {made} pixels, but the model takes "
            f"{pair(config.image_size, 'image_size')}: convert it with --image-size."
        )


def _check_normalisation(processor: Any, where: str, error_class: type[DnaError]) -> None:
    for field in ("image_mean", "image_std"):
        values = getattr(processor, field, None)
        if values is None:
            continue
        with told_as(error_class, f"{where}: {field} is {values!r}"):
            numbers = torch.tensor(values, dtype=torch.float64)
        if not numbers.isfinite().all() or (field == "image_std" and not (numbers > 0).all()):
            wanted = "finite numbers above 0" if field == "image_std" else "finite numbers"
            raise error_class(f"{where}: {field} must be {wanted}, got {values!r}.")


def _check_sides(processor: Any, largest: int, where: str, error_class: type[DnaError]) -> None:
    """See that an image of the sizes that are asked for fits into memory."""
    for field in ("size", "crop_size"):
        for side, value in dict(getattr(processor, field, None) or {}).items():
            if value is not None and (type(value) is not int or not 1 <= value <= largest):
                raise error_class(f"{where}: {side} of {field} must be a number from 1 to {largest:,}, got {value!r}.")


def _try(processor: Any, where: str, error_class: type[DnaError]) -> None:
    """See that a processor makes finite numbers of a grey picture, before it is given real ones."""
    grey = np.full((40, 60, 3), 127, dtype=np.uint8)
    with told_as(error_class, f"{where} cannot be used"):
        if isinstance(processor, BaseVideoProcessor):
            clip, times = grey[None].repeat(TRIED_FRAMES, axis=0), {"fps": 1.0, "total_num_frames": TRIED_FRAMES}
            made = processor([clip], video_metadata=[times], return_tensors="pt")
        else:
            picture = Image.fromarray(grey).convert(image_mode(channels_of(processor)))
            made = processor([picture], return_tensors="pt")
    for name, values in made.items():
        if torch.is_tensor(values) and not values.isfinite().all():
            raise error_class(f"{where}: the {name} that it makes are not finite.")


def inference_device(device: str | None) -> str:
    """The device to run on: what was asked for, by default the first GPU, else the CPU.

    Raises:
        DataError: for a device that torch does not know, or that this machine does not have.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    fix = "choose cpu, cuda or cuda:N"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise DataError(f"there is no device {device!r}: {fix}.") from error
    if chosen.type == "meta":
        raise DataError(f"device {device!r} holds no values: {fix}.")
    if chosen.type == "cuda" and not (chosen.index or 0) < torch.cuda.device_count():
        raise DataError(f"there is no device {device!r}: this machine has {torch.cuda.device_count()} GPUs; {fix}.")
    with told_as(DataError, f"device {device!r} cannot be used", fix):
        torch.empty(0, device=chosen)
    return device
