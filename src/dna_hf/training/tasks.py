"""What training images and training videos do differently: data, processors and figures."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
from torch.utils.data import Sampler
from transformers import EvalPrediction, PreTrainedConfig
from transformers.utils import logging

from ..data.arguments import CommonDataArguments, ImageDataArguments, VideoDataArguments
from ..data.augmentation import TrainingAugmentation
from ..data.clips import LabelledVideos
from ..data.errors import DataError
from ..data.images import ImageDataset, ImageProcessor, StreamedImageDataset, image_processor, torch_dataset
from ..data.images import output_size as image_output_size
from ..data.images import with_given as image_processor_with
from ..data.labelled_images import LabelledImages
from ..data.problem_types import PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from ..data.provenance import DatasetRecord, provenance, video_provenance
from ..data.sampling import RepeatedSampler
from ..data.sources import load_train_and_eval
from ..data.splits import Split
from ..data.unreadable import BAD_LIST
from ..data.video_sources import load_train_and_eval as load_videos
from ..data.videos import VideoAugmentation, VideoDataset, video_processor, with_given
from ..data.videos import output_size as video_output_size
from ..evaluation.image_classification import ClassificationResult, classification_result
from ..evaluation.problems import Problem
from ..kinds import IMAGE, VIDEO, Kind, load_processor
from ..models.configuration_dna import pair
from ..models.video_processing_dna_timesformer import DnATimesformerVideoProcessor
from ..records.metrics import PROBLEM_METRICS
from ..sizes import resize_image_processor, resize_video_processor
from .arguments import ClassifierTrainingArguments
from .config_file import ClassifierRun, RunConfig
from .errors import ConfigurationError


logger = logging.get_logger(__name__)

Data = TypeVar("Data", bound=CommonDataArguments)
Samples = TypeVar("Samples", bound=Split)
AnyProcessor = ImageProcessor | DnATimesformerVideoProcessor
Processor = TypeVar("Processor", bound=AnyProcessor)
TorchDataset = ImageDataset | StreamedImageDataset | VideoDataset
Run = RunConfig[Data, ClassifierTrainingArguments]
ImageRun = RunConfig[ImageDataArguments, ClassifierTrainingArguments]
VideoRun = RunConfig[VideoDataArguments, ClassifierTrainingArguments]


class Task(ABC, Generic[Data, Samples, Processor]):
    """Classification of one kind of samples.

    Its attributes are `kind`, of its models, and `single_label_metrics`, which figures of single labels are recorded.
    """

    kind: Kind
    single_label_metrics: tuple[str, ...]

    def recorded(self, problem: Problem) -> tuple[str, ...]:
        """Which figures are recorded for the model card."""
        if problem.problem_type == SINGLE_LABEL:
            return self.single_label_metrics
        return PROBLEM_METRICS[problem.problem_type]

    def metrics(self, problem: Problem, prediction: EvalPrediction) -> dict[str, float]:
        """`compute_metrics` of a Trainer; its loss replaces the mean over batches.

        Args:
            problem: what the model is asked for each sample.
            prediction: logits (samples, classes or outputs) and labels (samples), or (samples, classes or outputs).

        Raises:
            DataError: if no sample could be read.
        """
        logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        return problem.figures(logits, labels).by_name(self.kind)

    def result(self, problem: Problem, prediction: EvalPrediction, names: list[str]) -> ClassificationResult:
        """All figures of an evaluation, for the tables, figures and files at the end of a run.

        Args:
            problem: what the model is asked for each sample.
            prediction: logits (samples, classes or outputs) and labels (samples), or (samples, classes or outputs).
            names: names of the classes or outputs, in the order of the labels.
        """
        logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        return classification_result(logits, labels, names, self.kind, problem)

    @abstractmethod
    def load(self, run: Run[Data]) -> tuple[Samples, Samples | None]:
        """The splits to train on and to evaluate on; there is none where a part would be held out, unused."""

    @abstractmethod
    def provenance(self, data: Data, split: Samples) -> DatasetRecord:
        """Where a split came from."""

    @abstractmethod
    def fresh_processor(self, run: Run[Data], config: PreTrainedConfig) -> Processor:
        """The processor of a fresh model."""

    @abstractmethod
    def load_processor(
        self,
        run: Run[Data],
        config: PreTrainedConfig,
        source: str,
        revision: str | None,
    ) -> Processor:
        """The processor of a checkpoint."""

    @abstractmethod
    def views(self, processor: Processor) -> str | None:
        """The views of a sample in evaluation, for the record; `None` where there is but one."""

    @abstractmethod
    def datasets(
        self,
        run: Run[Data],
        train: Samples,
        evaluation: Samples | None,
        processor: Processor,
    ) -> tuple[TorchDataset, TorchDataset | None]:
        """The torch data sets of both splits."""

    def sampler(self, run: Run[Data], dataset: TorchDataset) -> Sampler | None:
        """What draws the training samples, `None` for the Trainer's own sampler."""
        return None


class ImageTask(Task[ImageDataArguments, LabelledImages, ImageProcessor]):
    """Classification of images."""

    kind = IMAGE
    single_label_metrics = ("top1", "top5", "loss")

    def load(self, run: ImageRun) -> tuple[LabelledImages, LabelledImages | None]:
        """The splits to train on and to evaluate on."""
        if run.data.streaming and run.training.max_steps < 1:
            raise ConfigurationError("a streamed data set has no length: set training.max_steps.")
        train, evaluation = load_train_and_eval(run.data, run.training.seed, _evaluates(run), _problem_type(run))
        if train.problem_type == REGRESSION and run.data.flip_probability:
            note = (
                f"images are flipped (flip_probability {run.data.flip_probability:g}): set it to 0 if left and right "
                "matter to the targets."
            )
            train.notes = (*train.notes, note)
        return train, evaluation

    def provenance(self, data: ImageDataArguments, split: LabelledImages) -> DatasetRecord:
        """Where a split came from."""
        return provenance(data, split)

    def fresh_processor(self, run: ImageRun, config: PreTrainedConfig) -> ImageProcessor:
        """The processor of a fresh model."""
        return image_processor(run.data, _image_size(config), config.num_channels)

    def load_processor(
        self,
        run: ImageRun,
        config: PreTrainedConfig,
        source: str,
        revision: str | None,
    ) -> ImageProcessor:
        """The processor of a checkpoint; what the run itself says goes before what the checkpoint says."""
        processor = load_processor(source, IMAGE, revision, ConfigurationError)
        if "image_size" in run.model and not _makes(processor, _image_size(config), image_output_size):
            resize_image_processor(processor, config.image_size)
        return image_processor_with(processor, run.data, config.num_channels)

    def views(self, processor: ImageProcessor) -> str | None:
        """The views of a sample in evaluation: there is but one of an image."""
        return None

    def datasets(
        self,
        run: ImageRun,
        train: LabelledImages,
        evaluation: LabelledImages | None,
        processor: ImageProcessor,
    ) -> tuple[TorchDataset, TorchDataset | None]:
        """The torch data sets of both splits."""
        # which transformers declares on the classes below
        resample = processor.resample  # type: ignore[union-attr]
        mean = processor.image_mean  # type: ignore[union-attr]
        augmentation = TrainingAugmentation(run.data, image_output_size(processor), resample, mean)
        seed, bad_list = run.training.seed, run.output_dir / BAD_LIST
        return (
            torch_dataset(train, processor, augmentation, arguments=run.data, seed=seed, bad_list=bad_list),
            None
            if evaluation is None
            else torch_dataset(evaluation, processor, arguments=run.data, bad_list=bad_list),
        )

    def sampler(self, run: ImageRun, dataset: TorchDataset) -> Sampler | None:
        """The sampler of repeated augmentation, `None` for the Trainer's own sampler."""
        if run.data.repeated_augmentation == 1:
            return None
        if run.data.streaming:
            raise ConfigurationError("data.repeated_augmentation needs random access: leave out streaming.")
        seed = run.training.seed if run.training.data_seed is None else run.training.data_seed
        return RepeatedSampler(dataset, run.data.repeated_augmentation, seed)


class VideoTask(Task[VideoDataArguments, LabelledVideos, DnATimesformerVideoProcessor]):
    """Classification of videos."""

    kind = VIDEO
    single_label_metrics = (*ImageTask.single_label_metrics, "mean_class_accuracy")

    def load(self, run: VideoRun) -> tuple[LabelledVideos, LabelledVideos | None]:
        """The splits to train on and to evaluate on."""
        problem_type = _problem_type(run)
        if problem_type not in (SINGLE_LABEL, None):
            raise ConfigurationError(f"problem_type {problem_type} is for images: of videos, each has one class.")
        return load_videos(run.data, run.training.seed, _evaluates(run))

    def provenance(self, data: VideoDataArguments, split: LabelledVideos) -> DatasetRecord:
        """Where a split came from."""
        return video_provenance(data, split)

    def fresh_processor(self, run: VideoRun, config: PreTrainedConfig) -> DnATimesformerVideoProcessor:
        """The processor of a fresh model."""
        if config.num_channels != 3:
            raise ConfigurationError(
                f"section 'model': videos have 3 channels, but num_channels is {config.num_channels}: leave it out."
            )
        return video_processor(run.data, _image_size(config), config.num_frames)

    def load_processor(
        self,
        run: VideoRun,
        config: PreTrainedConfig,
        source: str,
        revision: str | None,
    ) -> DnATimesformerVideoProcessor:
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
        if "image_size" in run.model and not _makes(processor, _image_size(config), video_output_size):
            resize_video_processor(processor, config.image_size)
        if "num_frames" in run.model:
            processor.num_frames = config.num_frames
        return processor

    def views(self, processor: DnATimesformerVideoProcessor) -> str | None:
        """The views of a video in evaluation."""
        return processor.describe()["views"]

    def datasets(
        self,
        run: VideoRun,
        train: LabelledVideos,
        evaluation: LabelledVideos | None,
        processor: DnATimesformerVideoProcessor,
    ) -> tuple[TorchDataset, TorchDataset | None]:
        """The torch data sets of both splits."""
        bad_list, seed = run.output_dir / BAD_LIST, run.training.seed
        augmentation = VideoAugmentation(run.data, processor)
        return (
            VideoDataset(train, processor, run.data, augmentation, seed=seed, bad_list=bad_list),
            None if evaluation is None else VideoDataset(evaluation, processor, run.data, bad_list=bad_list),
        )


AnyTask = Task[CommonDataArguments, Split, AnyProcessor]
TASKS: dict[Kind, Task] = {task.kind: task for task in (ImageTask(), VideoTask())}


def task_of(run: ClassifierRun) -> AnyTask:
    """The task of the model of a run. Its methods take the data, splits and processor of this run alone."""
    return cast(AnyTask, TASKS[run.kind])


def _evaluates(run: ClassifierRun) -> bool:
    """Whether figures are asked for while training; a split that the data has is evaluated on in any case."""
    return run.training.eval_strategy != "no"


def _problem_type(run: ClassifierRun) -> str | None:
    """The problem type that the run gives, if it gives one."""
    given = run.model.get("problem_type")
    if given is not None and given not in PROBLEM_TYPES:
        raise ConfigurationError(f"model.problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {given!r}.")
    return given


def _image_size(config: PreTrainedConfig) -> tuple[int, int]:
    return pair(config.image_size, "image_size")


def _makes(processor: Any, image_size: tuple[int, int], output_size: Callable[[Any], tuple[int, int]]) -> bool:
    """Whether a processor makes all images of a size."""
    try:
        return output_size(processor) == image_size
    except DataError:
        return False
