"""What the page shows, without the page: predictions and coloured pictures for one choice of its controls."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel

from ..analysis.drawing import overlay, pictures, shared_scale
from ..analysis.errors import AnalysisError
from ..analysis.layout import CLASS, Query
from ..analysis.maps import HeatMap, look
from ..analysis.sight import Classifier
from ..analysis.visualize import takes_videos
from ..data.images import read_image_file
from ..data.video_sources import Clip
from ..data.videos import VideoReader
from ..evaluation.distractors import checkpoint_labels
from ..evaluation.image_classification import class_names, load_classifier
from ..evaluation.video_classification import load_video_classifier
from ..models.attention_variants import DenoisingAttention
from ..models.configuration_dna import pair


# pixels of the long side of a picture on the page
SHOWN_SIZE = 448
# what is drawn of each model, where it has it
MAPS = {"positive": "positive branch", "negative": "negative branch", "combined": "combined"}
# seconds to decode a video in
TIMEOUT = 60.0
# around the patch that asks
MARK = (255, 200, 0)


@dataclass(frozen=True)
class View:
    """One position of the controls.

    Args:
        layer: counted from 0.
        head: counted from 0; `None` for the mean of all.
        point: in the patch that attends, in parts of the width and the height; `None` for the class token.
        frame: of a video.
        opacity: of the strongest colour, in (0, 1].
        strength: the factor of the negative branch is multiplied by this before the model runs; 0 turns it off.
    """

    layer: int
    head: int | None = None
    point: tuple[float, float] | None = None
    frame: int = 0
    opacity: float = 0.85
    strength: float = 1.0


@dataclass
class Shown:
    """What one model does with one picture.

    Args:
        label: of the model.
        classes: name -> probability, of the five most probable classes.
        picture: (height, width, 3) in bytes: what the model saw.
        maps: name of `MAPS` -> picture with colours, the names that the variant has.
    """

    label: str
    classes: dict[str, float]
    picture: np.ndarray
    maps: dict[str, np.ndarray]


class Explorer:
    """Models that look at the same file.

    Args:
        classifiers: all of images or all of videos.
        is_video: which of them.
    """

    def __init__(self, classifiers: Sequence[Classifier], is_video: bool) -> None:
        self.classifiers = list(classifiers)
        self.is_video = is_video
        # the factor of the negative branch is a weight of the model: one visitor at a time
        self.lock = Lock()

    @property
    def layers(self) -> int:
        """Layers that all models have."""
        return min(each.model.config.num_hidden_layers for each in self.classifiers)

    @property
    def heads(self) -> int:
        """Heads that all models have."""
        return min(each.model.config.num_attention_heads for each in self.classifiers)

    @property
    def frames(self) -> int:
        """Frames of a video; 1 of an image."""
        return min(getattr(each.model.config, "num_frames", 1) for each in self.classifiers)

    def read(self, path: str | Path) -> list[torch.Tensor]:
        """A file as each model takes it.

        Raises:
            DataError: if it cannot be read.
        """
        if not self.is_video:
            image = read_image_file(Path(path))
            return [each.processor([image], return_tensors="pt")["pixel_values"] for each in self.classifiers]
        reader = VideoReader(TIMEOUT)
        try:
            clips = [reader.read(Clip(str(path), 0), each.processor.samplings()[0]) for each in self.classifiers]
        finally:
            reader.close()
        return [
            each.processor.crops(frames)[0].unsqueeze(0) for each, frames in zip(self.classifiers, clips, strict=True)
        ]

    def show(self, tensors: Sequence[torch.Tensor], view: View) -> list[Shown]:
        """What every model does with a file.

        Args:
            tensors: of [`read`].
            view: the controls.

        Raises:
            AnalysisError: for a layer, head or frame that does not exist.
        """
        with self.lock:
            return [_show(own, pixels, view) for own, pixels in zip(self.classifiers, tensors, strict=True)]


def load_explorer(checkpoints: Sequence[str], device: str | None = None, revision: str | None = None) -> Explorer:
    """Load checkpoints (folders, or names on the Hub).

    Raises:
        DataError: for one that is no classifier of images or videos, or if some take images and some videos.
    """
    is_video = takes_videos(checkpoints, revision)
    load = load_video_classifier if is_video else load_classifier
    return Explorer(
        [
            Classifier(label, *load(checkpoint, device, revision))
            for label, checkpoint in zip(checkpoint_labels(checkpoints), checkpoints, strict=True)
        ],
        is_video,
    )


@contextmanager
def scaled_negative_branch(model: PreTrainedModel, strength: float) -> Iterator[None]:
    """Multiply alpha of all layers and heads while the block runs; models without alpha are left as they are."""
    scales = [module.negative_scale for module in model.modules() if isinstance(module, DenoisingAttention)]
    kept = [scale.detach().clone() for scale in scales]
    try:
        with torch.no_grad():
            for scale in scales:
                scale.mul_(strength)
        yield
    finally:
        with torch.no_grad():
            for scale, value in zip(scales, kept, strict=True):
                scale.copy_(value)


def has_two_branches(model: PreTrainedModel) -> bool:
    """Whether there is more to draw than one map; cog attention has one, of both signs."""
    return model.config.attention_variant != "softmax"


def has_negative_scale(model: PreTrainedModel) -> bool:
    """Whether a model has an alpha."""
    return any(isinstance(module, DenoisingAttention) for module in model.modules())


def picture_size(config: PreTrainedConfig) -> tuple[int, int]:
    """Height and width of the pictures of a model on the page: a whole number of times what it sees."""
    rows, columns = config.grid_size
    patch = pair(config.patch_size, "patch_size")
    height, width = rows * patch[0], columns * patch[1]
    times = max(1, SHOWN_SIZE // max(height, width))
    return height * times, width * times


def patch_at(config: PreTrainedConfig, point: tuple[float, float]) -> tuple[int, int]:
    """(row, column) of the patch at a point, in parts of the width and the height."""
    rows, columns = config.grid_size
    return min(int(point[1] * rows), rows - 1), min(int(point[0] * columns), columns - 1)


def _show(classifier: Classifier, pixel_values: torch.Tensor, view: View) -> Shown:
    model = classifier.model
    heads = None if view.head is None else [view.head]
    axis = None
    patch = None if view.point is None else patch_at(model.config, view.point)
    query: Query = CLASS if patch is None else patch
    if model.config.model_type == "dna_timesformer":
        joint = model.config.attention_type == "joint_space_time"
        axis = "space_time" if joint else "space"
        if joint and patch is not None:
            query = (view.frame, *patch)
    with scaled_negative_branch(model, view.strength):
        inputs = {"pixel_values": pixel_values.to(model.dtype)}
        outputs, (maps,) = look(model, inputs, [view.layer], heads, [query], axis)
    heat = maps.heat()
    if not 0 <= view.frame < heat.grid.frames:
        raise AnalysisError(f"there is no frame {view.frame}: the model takes {heat.grid.frames}.")
    values, indices = outputs.logits[0].float().softmax(dim=0).topk(min(5, outputs.logits.shape[1]))
    names = class_names(model)
    picture = _picture(classifier, pixel_values, heat, view.frame)
    return Shown(
        classifier.label,
        {names[index]: value for index, value in zip(indices.tolist(), values.tolist(), strict=True)},
        _mark(picture, heat, patch),
        {name: _mark(colours, heat, patch) for name, colours in _coloured(picture, heat, view).items()},
    )


def _picture(classifier: Classifier, pixel_values: torch.Tensor, heat: HeatMap, frame: int) -> np.ndarray:
    """What the model saw, as large as the page shows it."""
    config = classifier.model.config
    patch = pair(config.patch_size, "patch_size")
    # a rest that is smaller than a patch is seen by no token
    covered = pixel_values[..., : heat.grid.rows * patch[0], : heat.grid.columns * patch[1]]
    seen = pictures(covered[0], classifier.processor)
    seen = seen.reshape(-1, *seen.shape[-3:])[frame]
    height, width = picture_size(config)
    return np.asarray(Image.fromarray(seen).resize((width, height), Image.Resampling.NEAREST))


def _coloured(picture: np.ndarray, heat: HeatMap, view: View) -> dict[str, np.ndarray]:
    """The picture with each map over it; all maps share one scale."""
    names = [name for name in MAPS if name in heat.values]
    drawn = {name: heat.drawn(name)[view.frame] for name in names}
    scale = shared_scale(drawn.values())
    return {name: overlay(picture, values, scale, opacity=view.opacity) for name, values in drawn.items()}


def _mark(picture: np.ndarray, heat: HeatMap, patch: tuple[int, int] | None) -> np.ndarray:
    """The picture with a frame around the patch that asks."""
    if patch is None:
        return picture
    marked = picture.copy()
    height, width = picture.shape[0] // heat.grid.rows, picture.shape[1] // heat.grid.columns
    top, left = patch[0] * height, patch[1] * width
    part = marked[top : top + height, left : left + width]
    thick = max(1, min(height, width) // 8)
    for edge in (part[:thick], part[-thick:], part[:, :thick], part[:, -thick:]):
        edge[:] = MARK
    return marked


__all__ = ["Explorer", "Shown", "View", "load_explorer"]
