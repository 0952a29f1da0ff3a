"""What a run reads: the `data` section of a configuration file."""

from dataclasses import dataclass, field
from typing import Literal


PROBABILITIES = (
    *("validation_fraction", "flip_probability", "erasing_probability"),
    *("mix_probability", "mix_switch_probability"),
)


@dataclass
class DataArguments:
    """Which images a run reads, and how they become tensors."""

    dataset: str = field(
        default="fashion-mnist-mini",
        metadata={
            "help": "'fashion-mnist-mini' (embedded), a folder of images in class folders, a parquet file or a folder "
            "of them, or the name of a data set on the Hub"
        },
    )
    dataset_config: str | None = field(default=None, metadata={"help": "configuration of a Hub data set"})
    dataset_revision: str | None = field(default=None, metadata={"help": "commit, tag or branch of a Hub data set"})
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    eval_split: str | None = field(
        default=None, metadata={"help": "split to evaluate on; by default validation, valid, val, dev or test"}
    )
    validation_fraction: float = field(
        default=0.1, metadata={"help": "part of the training split to evaluate on where there is no evaluation split"}
    )
    image_column: str | None = field(default=None, metadata={"help": "column of the images; found if there is one"})
    label_column: str | None = field(default=None, metadata={"help": "column of the labels; found if there is one"})
    class_names: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "class names in the order of the labels, where the data does not name them: a list, or a text "
            "file with a name a line"
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "read only this many training images"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "read only this many evaluation images"})
    streaming: bool = field(default=False, metadata={"help": "read the data as it comes, without a local copy"})
    shuffle_buffer: int = field(default=1000, metadata={"help": "images among which a streamed epoch is shuffled"})
    image_mean: list[float] = field(
        default_factory=lambda: [0.5, 0.5, 0.5], metadata={"help": "mean per channel that is subtracted, in [0, 1]"}
    )
    image_std: list[float] = field(
        default_factory=lambda: [0.5, 0.5, 0.5], metadata={"help": "standard deviation per channel to divide by"}
    )
    interpolation: Literal["bilinear", "bicubic"] = field(
        default="bilinear", metadata={"help": "bilinear or bicubic: how images of a fresh model are resized"}
    )
    crop_pct: float = field(
        default=1.0,
        metadata={
            "help": "part of the resized short side that evaluation of a fresh model cuts from the centre; 1: the "
            "whole image, resized to the wanted shape"
        },
    )
    crop_scale: list[float] = field(
        default_factory=lambda: [0.08, 1.0],
        metadata={"help": "smallest and largest area of the random resized crop, as parts of the image; [1, 1]: none"},
    )
    crop_ratio: list[float] = field(
        default_factory=lambda: [3 / 4, 4 / 3],
        metadata={"help": "smallest and largest aspect ratio of the random resized crop"},
    )
    flip_probability: float = field(default=0.5, metadata={"help": "probability of a horizontal flip in training"})
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
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must lie in (0, 1], got {self.crop_pct}.")
        for name in ("max_train_samples", "max_eval_samples", "shuffle_buffer", "repeated_augmentation"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for name in ("crop_scale", "crop_ratio"):
            bounds = getattr(self, name)
            if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
                raise ValueError(f"{name} is a pair of positive numbers, the smaller first, got {bounds}.")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale is a part of the image, at most 1, got {self.crop_scale}.")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise ValueError("image_mean and image_std are three numbers each, image_std positive.")
