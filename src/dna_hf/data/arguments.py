"""What a run reads: the `data` section of a configuration file, for images or for videos."""

from dataclasses import dataclass, field
from typing import Literal


# data sets that come with the package; their names go before paths
EMBEDDED_IMAGES, EMBEDDED_VIDEOS = "fashion-mnist-mini", "moving-fashion-mnist"
# the part of the training split that is held out: as a word of --split, and as the name of a split in records
HELD_OUT, HELD_OUT_NAME = "held-out", "held out"


def is_held_out(split: str) -> bool:
    """Whether a split is called the part that training holds out, as a word or as records spell it."""
    return split.lower().replace("-", " ").replace("_", " ") == HELD_OUT_NAME


@dataclass
class CommonDataArguments:
    """What images and videos have in common: splits, classes, unreadable samples, flips and mixing."""

    dataset: str = field(default="", metadata={"help": "the data set"})
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    eval_split: str | None = field(
        default=None,
        metadata={
            "help": "split to evaluate on, which may be a folder of any name; by default validation, valid, val, dev "
            "or test"
        },
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "part of the training split to evaluate on where there is no evaluation split"}
    )
    label_column: str | None = field(default=None, metadata={"help": "column of the labels; found if there is one"})
    class_names: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "class names in the order of the labels: a list, or a text file with a name a line; names that "
            "the data has order its classes, and others rename them, one after the other"
        },
    )
    label_base: Literal[0, 1] = field(
        default=0, metadata={"help": "number of the first class, where labels are whole numbers: 0 or 1"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "read only this many training samples"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "read only this many evaluation samples"})
    on_error: Literal["raise", "skip"] = field(
        default="raise",
        metadata={
            "help": "raise: a sample that cannot be read ends the run; skip: it is left out, counted and listed in "
            "unreadable.jsonl, and in training the next one takes its place"
        },
    )
    max_bad_fraction: float = field(
        default=0.01,
        metadata={"help": "with on_error skip, part of a split above which samples that cannot be read end the run"},
    )
    flip_probability: float = field(default=0.5, metadata={"help": "probability of a horizontal flip in training"})
    mixup_alpha: float = field(default=0.0, metadata={"help": "Beta parameter of Mixup; 0: none"})
    cutmix_alpha: float = field(default=0.0, metadata={"help": "Beta parameter of CutMix; 0: none"})
    mix_probability: float = field(default=1.0, metadata={"help": "probability of mixing a batch, where either is on"})
    mix_switch_probability: float = field(
        default=0.5, metadata={"help": "probability of CutMix rather than Mixup, where both are on"}
    )

    def __post_init__(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in (
            *("validation_fraction", "max_bad_fraction"),
            *("flip_probability", "mix_probability", "mix_switch_probability"),
        ):
            self._check_probability(name)
        for name in ("max_train_samples", "max_eval_samples"):
            self._check_positive(name)
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is not None and (not values or (name == "image_std" and min(values) <= 0)):
                raise ValueError(f"{name} is a number for each channel, image_std positive, got {values}.")

    def _check_probability(self, name: str) -> None:
        if not 0 <= getattr(self, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")


@dataclass
class ImageDataArguments(CommonDataArguments):
    """Which images a run reads, and how they become tensors."""

    dataset: str = field(
        default=EMBEDDED_IMAGES,
        metadata={
            "help": "'fashion-mnist-mini' (embedded), a folder of images in class folders or with a table of them "
            "(metadata.csv), a ZIP archive of such a folder, a parquet file or a folder of them, or the name of a "
            "data set on the Hub"
        },
    )
    label_column: str | list[str] | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "column of the labels; found if there is one. Or a list of columns: of 0 and 1, one for each "
            "class, or of numbers, one for each output of a regression"
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of a Hub data set"})
    dataset_revision: str | None = field(default=None, metadata={"help": "commit, tag or branch of a Hub data set"})
    image_column: str | None = field(default=None, metadata={"help": "column of the images; found if there is one"})
    streaming: bool = field(default=False, metadata={"help": "read the data as it comes, without a local copy"})
    shuffle_buffer: int = field(default=1000, metadata={"help": "images among which a streamed epoch is shuffled"})
    interpolation: Literal["bilinear", "bicubic"] | None = field(
        default=None,
        metadata={"help": "bilinear or bicubic: how images are resized; by default as the checkpoint, or bilinear"},
    )
    crop_pct: float | None = field(
        default=None,
        metadata={
            "help": "part of the resized short side that evaluation cuts from the centre; 1: the whole image, resized "
            "to the wanted shape; by default as the checkpoint, or 1"
        },
    )
    image_mean: list[float] | None = field(
        default=None,
        metadata={
            "help": "mean per channel that is subtracted, in [0, 1]; by default that of the checkpoint, or 0.5 for a "
            "fresh model"
        },
    )
    image_std: list[float] | None = field(
        default=None,
        metadata={"help": "standard deviation per channel to divide by; by default that of the checkpoint, or 0.5"},
    )
    crop_scale: list[float] = field(
        default_factory=lambda: [0.08, 1.0],
        metadata={"help": "smallest and largest area of the random resized crop, as parts of the image; [1, 1]: none"},
    )
    crop_ratio: list[float] = field(
        default_factory=lambda: [3 / 4, 4 / 3],
        metadata={"help": "smallest and largest aspect ratio of the random resized crop"},
    )
    auto_augment: str | None = field(
        default=None, metadata={"help": "RandAugment in timm's notation, e.g. rand-m9-mstd0.5-inc1; needs timm"}
    )
    erasing_probability: float = field(
        default=0.0, metadata={"help": "probability of erasing a rectangle of a training image with noise"}
    )
    repeated_augmentation: int = field(
        default=1,
        metadata={
            "help": "how often an image that is drawn comes in its batch, each time augmented anew; an epoch "
            "keeps its length"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_probability("erasing_probability")
        if self.streaming and self.on_error == "skip":
            raise ValueError("on_error 'skip' needs random access to the data: leave out streaming.")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must lie in (0, 1], got {self.crop_pct}.")
        for name in ("shuffle_buffer", "repeated_augmentation"):
            self._check_positive(name)
        for name in ("crop_scale", "crop_ratio"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
                raise ValueError(f"{name} is a pair of positive numbers, the smaller first, got {bounds}.")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is a part of the image, at most 1, got {self.crop_scale}.")


@dataclass
class VideoDataArguments(CommonDataArguments):
    """Which videos a run reads, and how they become tensors."""

    dataset: str = field(
        default=EMBEDDED_VIDEOS,
        metadata={
            "help": "'moving-fashion-mnist' (embedded), a folder of videos in class folders, a folder with a table of "
            "videos (CSV, JSONL) for every split, or one table with a column 'split'"
        },
    )
    protocol: str | None = field(
        default=None,
        metadata={
            "help": "divide the videos in the folder by their names: smarthome-cs, smarthome-cv1, smarthome-cv2, "
            "ntu60-xsub or ntu60-xview"
        },
    )
    clip_list: str | None = field(
        default=None, metadata={"help": "text file with the names of all clips of the protocol, to find missing ones"}
    )
    video_column: str | None = field(default=None, metadata={"help": "column of the videos; found if there is one"})
    start_column: str | None = field(
        default=None, metadata={"help": "column of the second at which a clip begins; found if there is one"}
    )
    end_column: str | None = field(
        default=None, metadata={"help": "column of the second at which a clip ends; found if there is one"}
    )
    start_frame_column: str | None = field(
        default=None, metadata={"help": "column of the number of a clip's first frame, from 0; found if there is one"}
    )
    end_frame_column: str | None = field(
        default=None,
        metadata={"help": "column of the number of the first frame behind a clip, from 0; found if there is one"},
    )
    video_root: str | None = field(
        default=None,
        metadata={"help": "folder that paths in a table start from; by default that of the table, or the data set's"},
    )
    train_sampling: Literal["uniform", "centered", "random", "released"] = field(
        default="random",
        metadata={
            "help": "frames of a training clip. uniform: from all of it, one at random of each equal part; centered: "
            "from a window in the middle; random: from a window anywhere; released: as the authors' code, from a "
            "window anywhere, the last frame standing in for what a short clip lacks"
        },
    )
    sampling: Literal["uniform", "centered", "released"] | None = field(
        default=None,
        metadata={
            "help": "frames of an evaluated clip. uniform: from all of it, the middle of each equal part; centered: "
            "from a window in the middle; released: as the authors' code; by default as the checkpoint, or uniform"
        },
    )
    sampling_rate: int | None = field(
        default=None,
        metadata={
            "help": "frames of a video of 30 frames per second from a sampled frame to the next one; by default as "
            "the checkpoint, or 32"
        },
    )
    short_side: list[int] | None = field(
        default=None,
        metadata={
            "help": "smallest and largest short side, in pixels, that a training clip is resized to before it is "
            "cropped; by default 8/7 and 10/7 of the image size, i.e. 256 and 320 for 224"
        },
    )
    num_clips: int = field(default=1, metadata={"help": "windows over time that `dna-hf evaluate` averages over"})
    num_crops: Literal[1, 3] = field(
        default=1, metadata={"help": "crops along the long side that `dna-hf evaluate` averages over: 1 or 3"}
    )
    view_average: Literal["softmax", "logit_sum"] = field(
        default="softmax",
        metadata={"help": "what is averaged over clips and crops: probabilities, or logits as the authors' code does"},
    )
    image_mean: list[float] | None = field(
        default=None,
        metadata={
            "help": "mean per channel that is subtracted, in [0, 1]; by default that of the checkpoint, or 0.45 for a "
            "fresh model"
        },
    )
    image_std: list[float] | None = field(
        default=None,
        metadata={"help": "standard deviation per channel to divide by; by default that of the checkpoint, or 0.225"},
    )
    video_timeout: float = field(
        default=60.0, metadata={"help": "seconds after which a video counts as one that cannot be read"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name) or [0] * 3) != 3:
                raise ValueError(f"{name} is three numbers, one for each channel, got {getattr(self, name)}.")
        for name in ("sampling_rate", "num_clips"):
            self._check_positive(name)
        if not self.video_timeout > 0:
            raise ValueError(f"video_timeout must be positive, got {self.video_timeout}.")
        if self.short_side is not None and not (
            len(self.short_side) == 2 and 0 < self.short_side[0] <= self.short_side[1]
        ):
            raise ValueError(f"short_side is a pair of positive numbers, the smaller first, got {self.short_side}.")


_TRAINING_KEYS = (
    *("eval_split", "validation_fraction", "max_train_samples", "flip_probability"),
    *("mixup_alpha", "cutmix_alpha", "mix_probability", "mix_switch_probability"),
)
# what has no effect on a model that is trained: its processor resizes and normalises, and a split is named
TRAINING_KEYS: dict[type, tuple[str, ...]] = {
    ImageDataArguments: (
        *_TRAINING_KEYS,
        *("train_split", "shuffle_buffer", "interpolation", "crop_pct", "image_mean", "image_std"),
        *("crop_scale", "crop_ratio", "auto_augment", "erasing_probability", "repeated_augmentation"),
    ),
    VideoDataArguments: (*_TRAINING_KEYS, "train_sampling", "short_side"),
}
# how evaluation looks at a video several times, and averages
VIEW_KEYS = ("num_clips", "num_crops", "view_average")
