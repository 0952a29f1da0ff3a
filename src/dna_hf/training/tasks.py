"""What training images and training videos do differently: data, processors and metrics."""

from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    PreTrainedConfig,
)
from transformers.utils import logging

from ..data.augmentation import TrainingAugmentation
from ..data.images import image_processor, torch_dataset
from ..data.images import output_size as image_output_size
from ..data.provenance import provenance, video_provenance
from ..data.sources import load_train_and_eval
from ..data.video_sources import load_train_and_eval as load_videos
from ..data.videos import VideoAugmentation, VideoDataset, video_processor, with_given
from ..evaluation.image_classification import top_k_metrics
from ..evaluation.video_classification import video_metrics
from ..kinds import VIDEO, load_processor
from .config_file import RunConfig
from .errors import ConfigurationError


# gets a line for every video that could not be read
BAD_LIST = "unreadable_videos.jsonl"

logger = logging.get_logger(__name__)


class ImageTask:
    """Classification of images."""

    name = "image-classification"
    samples = "images"
    auto_model = AutoModelForImageClassification
    metrics = staticmethod(top_k_metrics)
    # what of them is recorded for the model card
    recorded: tuple[str, ...] = ("top1", "top5", "loss")
    provenance = staticmethod(provenance)

    def load(self, run: RunConfig) -> tuple[Any, Any]:
        """The splits to train on and to evaluate on."""
        splits = load_train_and_eval(run.data, run.training.seed)
        if run.data.streaming and run.training.max_steps < 1:
            raise ConfigurationError("a streamed data set has no length: set training.max_steps.")
        return splits

    def fresh_processor(self, run: RunConfig, config: PreTrainedConfig) -> Any:
        """The processor of a fresh model."""
        return image_processor(run.data, _image_size(config))

    def load_processor(self, run: RunConfig, config: PreTrainedConfig, source: str, revision: str | None) -> Any:
        """The processor of a checkpoint."""
        return AutoImageProcessor.from_pretrained(source, revision=revision)

    def check_processor(self, source: str, processor: Any, config: PreTrainedConfig) -> None:
        """See that a model takes what a processor makes."""
        if not config.interpolate_pos_encoding and image_output_size(processor) != _image_size(config):
            raise ConfigurationError(
                f"the image processor of {source!r} makes images of {image_output_size(processor)} pixels, but the "
                f"model takes {_image_size(config)}: convert it with --image-size."
            )

    def views(self, processor: Any) -> str | None:
        """The views of a sample in evaluation, for the record: there is but one of an image."""
        return None

    def datasets(self, run: RunConfig, train: Any, evaluation: Any, processor: Any) -> tuple[Any, Any]:
        """The torch data sets of both splits."""
        augmentation = TrainingAugmentation(run.data, image_output_size(processor), processor.resample)
        seed, buffer = run.training.seed, run.data.shuffle_buffer
        return (
            torch_dataset(train, processor, augmentation, seed=seed, shuffle_buffer=buffer),
            torch_dataset(evaluation, processor),
        )


class VideoTask:
    """Classification of videos; see [`ImageTask`]."""

    name = "video-classification"
    samples = "videos"
    auto_model = AutoModelForVideoClassification
    metrics = staticmethod(video_metrics)
    recorded: tuple[str, ...] = (*ImageTask.recorded, "mean_class_accuracy")
    provenance = staticmethod(video_provenance)

    def load(self, run: RunConfig) -> tuple[Any, Any]:
        """The splits to train on and to evaluate on."""
        return load_videos(run.data, run.training.seed)

    def fresh_processor(self, run: RunConfig, config: PreTrainedConfig) -> Any:
        """The processor of a fresh model."""
        return video_processor(run.data, _image_size(config), config.num_frames)

    def load_processor(self, run: RunConfig, config: PreTrainedConfig, source: str, revision: str | None) -> Any:
        """The processor of a checkpoint, or a fresh one where it has none.

        What the run itself says of frames and normalisation goes before what the checkpoint says.
        """
        folder = Path(source)
        if folder.is_dir() and not any(folder.glob("*processor_config.json")):
            logger.warning(
                f"{source!r} has no video processor: section 'data' says how frames are chosen and normalised."
            )
            return self.fresh_processor(run, config)
        processor = with_given(load_processor(source, VIDEO, revision, ConfigurationError), run.data)
        if "num_frames" in run.model:
            processor.num_frames = config.num_frames
        return processor

    def check_processor(self, source: str, processor: Any, config: PreTrainedConfig) -> None:
        """See that a model takes what a processor makes: it takes everything."""

    def views(self, processor: Any) -> str | None:
        """The views of a sample in evaluation, for the record."""
        return processor.describe()["views"]

    def datasets(self, run: RunConfig, train: Any, evaluation: Any, processor: Any) -> tuple[Any, Any]:
        """The torch data sets of both splits."""
        bad_list, seed = run.output_dir / BAD_LIST, run.training.seed
        augmentation = VideoAugmentation(run.data, processor)
        return (
            VideoDataset(train, processor, run.data, augmentation, seed=seed, bad_list=bad_list),
            VideoDataset(evaluation, processor, run.data, bad_list=bad_list),
        )


TASKS: dict[str, Any] = {"dna_vit": ImageTask(), "dna_timesformer": VideoTask()}


def task_of(run: RunConfig) -> Any:
    """The task of the model of a run.

    Raises:
        ConfigurationError: for a video LLM, which classifies nothing.
    """
    if run.model_arguments.model_type not in TASKS:
        raise ConfigurationError(f"model_type {run.model_arguments.model_type!r} is for dna-hf train alone.")
    return TASKS[run.model_arguments.model_type]


def _image_size(config: PreTrainedConfig) -> tuple[int, int]:
    size = config.image_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])
