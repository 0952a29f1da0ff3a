"""What the page shows, without the page: predictions and coloured pictures for one choice of its controls."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel

from ..analysis.drawing import overlay, pictures, shared_scale
from ..analysis.errors import AnalysisError
from ..analysis.layout import CLASS, Query
from ..analysis.maps import HeatMap, look
from ..analysis.observer import attention_places
from ..analysis.video_llm_sight import MAX_FRAMES, QUESTION, frames_of_patches
from ..data.inputs import read_question_input
from ..data.problem_types import REGRESSION
from ..evaluation.class_answers import Answer, answers_of, ranked
from ..evaluation.image_classification import class_names
from ..kinds import VIDEO, VIDEO_LLM, Loaded, load_all
from ..models.attention_variants import DenoisingAttention
from ..models.configuration_dna import pair


# pixels of the long side of a picture on the page, whatever its size: at least about, and at most
SHOWN_SIZE, LARGEST_SIZE = 448, 1024
# what is drawn of each model, where it has it
MAPS = {"positive": "positive branch", "negative": "negative branch", "combined": "combined"}
# classes or tokens that are named
PREDICTIONS = 5
# around the patch that is clicked
MARK = (255, 200, 0)


@dataclass(frozen=True)
class Choices:
    """What a visitor has chosen, by the controls of the page and by a click.

    Args:
        layer: number of the layer, counted from 0; for a video language model, of the interaction module.
        head: number of the head, counted from 0; `None` for the mean of all.
        point: (x, y) of a click, in parts of the width and the height; `None` without one.
        probe: number of a probe of a video language model, if no patch is clicked; `None` for the mean of all.
        frame: number of the frame of a video, counted from 0.
        opacity: opacity of the strongest colour, in (0, 1].
        strength: the factor of the negative branch is multiplied by this before the model runs; 0 turns it off.
    """

    layer: int
    head: int | None = None
    point: tuple[float, float] | None = None
    probe: int | None = None
    frame: int = 0
    opacity: float = 0.85
    strength: float = 1.0


@dataclass
class Reading:
    """One file as one model takes it.

    Args:
        path: path of the file.
        inputs: arguments of `model.forward`.
        pictures: (frames, height, width, 3) in bytes: what the model sees.
    """

    path: Path
    inputs: dict[str, Any]
    pictures: np.ndarray


@dataclass
class Shown:
    """What one model does with one picture.

    Args:
        label: name of the model.
        asking: who attends, in words.
        predictions: name -> probability, of the most probable classes, or first tokens of an answer; of a regression,
            name -> value of its outputs. Empty for a model without a classifier.
        is_regression: whether `predictions` holds values, and no probabilities.
        picture: (height, width, 3) in bytes: what the model saw.
        maps: name of `MAPS` -> picture with colours, the names that the variant has.
    """

    label: str
    asking: str
    predictions: dict[str, float]
    picture: np.ndarray
    maps: dict[str, np.ndarray]
    is_regression: bool = False


class Explorer(ABC):
    """Models of one kind that look at the same file.

    Args:
        models: the models, each with its processor.
    """

    # who attends before anything is chosen
    everyone: ClassVar[str]
    # what a layer is called, and what is to be known of these models
    layer_name: ClassVar[str]
    about: ClassVar[str]
    pictures_per_row: ClassVar[int]
    # that a model is asked by default; `None` for models that are asked none
    question: ClassVar[str | None] = None

    def __init__(self, models: Sequence[Loaded]) -> None:
        self.models = list(models)
        # the factor of the negative branch is a weight of the model: one visitor at a time
        self.lock = Lock()

    @property
    @abstractmethod
    def media(self) -> str:
        """What the models look at, in words."""

    @property
    def layers(self) -> int:
        """Layers that all models have."""
        return min(len(_layers(each.model)) for each in self.models)

    @property
    def heads(self) -> int:
        """Heads that all models have."""
        return min(attention_config(each.model).num_attention_heads for each in self.models)

    @property
    def probes(self) -> int:
        """Probes that all models have."""
        return 0

    @abstractmethod
    def read(self, path: str | Path, question: str = "") -> list[Reading]:
        """A file as each model takes it.

        Args:
            path: the file.
            question: question about the file, for models that are asked one; the default one if it is empty.

        Raises:
            DataError: if it cannot be read.
        """

    def show(self, readings: Sequence[Reading], choices: Choices) -> list[Shown]:
        """What every model does with a file.

        Args:
            readings: the file as [`read`] returned it.
            choices: what the visitor has chosen.

        Raises:
            AnalysisError: for a layer, head, probe or frame that does not exist.
        """
        with self.lock:
            return [self._show(*pair, choices) for pair in zip(self.models, readings, strict=True)]

    def _show(self, loaded: Loaded, reading: Reading, choices: Choices) -> Shown:
        layers, frames = _layers(loaded.model), len(reading.pictures)
        if not 0 <= choices.layer < len(layers):
            raise AnalysisError(f"there is no {self.layer_name.lower()} {choices.layer}: the model has {len(layers)}.")
        if not 0 <= choices.frame < frames:
            raise AnalysisError(f"there is no frame {choices.frame}: the model takes {frames}.")
        heads = None if choices.head is None else [choices.head]
        inputs = {
            name: value.to(loaded.model.dtype) if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in reading.inputs.items()
        }
        with scaled_negative_branch(loaded.model, choices.strength):
            logits, heat, asking = self._look(loaded, inputs, layers[choices.layer], heads, choices)
        patch = None if choices.point is None else patch_at(choices.point, heat.grid.rows, heat.grid.columns)
        picture = _resized(reading.pictures[choices.frame])
        coloured = _coloured(picture, heat, choices.frame, choices.opacity)
        answer = None if logits is None else self._answer(loaded, logits)
        is_regression = answer is not None and answer.problem_type == REGRESSION
        return Shown(
            loaded.label,
            asking,
            {} if answer is None else dict(answer.scores[: None if is_regression else PREDICTIONS]),
            _mark(picture, heat, patch),
            {name: _mark(colours, heat, patch) for name, colours in coloured.items()},
            is_regression,
        )

    @abstractmethod
    def _look(
        self, loaded: Loaded, inputs: dict[str, Any], layer: int, heads: list[int] | None, choices: Choices
    ) -> tuple[torch.Tensor | None, HeatMap, str]:
        """The logits (classes or tokens) of a model that has some, where it looks, and who attends, in words."""

    @abstractmethod
    def _answer(self, loaded: Loaded, logits: torch.Tensor) -> Answer:
        """What logits (classes or tokens) say; no two of its names are the same."""


class ClassifierExplorer(Explorer):
    """Classifiers, all of images or all of videos, whose class token attends, or a patch that is clicked."""

    everyone = "the class token"
    layer_name = "Layer"
    about = "Click on a picture to ask what that patch attends to, and what it pushes away."
    pictures_per_row = 4

    @property
    def is_video(self) -> bool:
        """Whether they take videos."""
        return self.models[0].kind is VIDEO

    @property
    def media(self) -> str:
        """What the models look at, in words."""
        return "a video" if self.is_video else "an image"

    def read(self, path: str | Path, question: str = "") -> list[Reading]:
        """A file as each model takes it; see [`Explorer.read`]."""
        path = Path(path)
        readings = []
        for loaded in self.models:
            inputs = loaded.kind.read(path, loaded.processor)
            readings.append(Reading(path, inputs, _seen(loaded, inputs["pixel_values"])))
        return readings

    def _look(
        self, loaded: Loaded, inputs: dict[str, Any], layer: int, heads: list[int] | None, choices: Choices
    ) -> tuple[torch.Tensor | None, HeatMap, str]:
        config: Any = loaded.model.config
        patch = None if choices.point is None else patch_at(choices.point, *config.grid_size)
        query: Query = CLASS if patch is None else patch
        axis = None
        if self.is_video:
            joint = config.attention_type == "joint_space_time"
            axis = "space_time" if joint else "space"
            if joint and patch is not None:
                query = (choices.frame, *patch)
        outputs, (maps,) = look(loaded.model, inputs, [layer], heads, [query], axis)
        logits = outputs.logits[0] if loaded.has_head else None
        return logits, maps.heat(), self.everyone if patch is None else _patch_name(patch)

    def _answer(self, loaded: Loaded, logits: torch.Tensor) -> Answer:
        names = class_names(loaded.model)
        (answer,) = answers_of(logits[None], _told_apart(names, range(len(names))), loaded.model.config)
        return answer


class VideoLLMExplorer(Explorer):
    """Video language models, whose probes attend: all, one, or the one that looks most at a patch that is clicked."""

    everyone = "all probes"
    layer_name = "Interaction module"
    about = (
        "Here visual probes attend: every interaction module reads one layer of the vision encoder. What they look at "
        "does not depend on the question; beside it stand the tokens that the answer most probably begins with. Click "
        "on a picture to find the probe that attends most to that patch."
    )
    # larger ones: their patches are many
    pictures_per_row = 2
    question = QUESTION

    @property
    def media(self) -> str:
        """What the models look at, in words."""
        return "an image or a video"

    @property
    def probes(self) -> int:
        """Probes that all models have."""
        return min(attention_config(each.model).num_probes for each in self.models)

    def read(self, path: str | Path, question: str = "") -> list[Reading]:
        """A file, and a question about it, as each model takes them; see [`Explorer.read`]."""
        path, question = Path(path), question.strip() or QUESTION
        readings = []
        for loaded in self.models:
            inputs = read_question_input(path, loaded.processor, question, MAX_FRAMES)
            readings.append(Reading(path, dict(inputs), frames_of_patches(loaded.processor, inputs)))
        return readings

    def _look(
        self, loaded: Loaded, inputs: dict[str, Any], layer: int, heads: list[int] | None, choices: Choices
    ) -> tuple[torch.Tensor | None, HeatMap, str]:
        clicked = choices.point is not None
        queries = None if clicked or choices.probe is None else [choices.probe]
        # the other tokens of a long sequence would take gigabytes of logits
        outputs, (maps,) = look(loaded.model, inputs | {"logits_to_keep": 1}, [layer], heads, queries, None)
        logits = outputs.logits[0, -1]
        if choices.point is None:
            return logits, maps.heat(), self.everyone if choices.probe is None else f"probe {choices.probe}"
        row, column = patch_at(choices.point, maps.grid.rows, maps.grid.columns)
        heats = {probe: maps.heat(query=probe) for probe in maps.queries}
        probe = max(heats, key=lambda each: float(heats[each].value("positive")[choices.frame, row, column]))
        return logits, heats[probe], f"probe {probe}, which attends most to {_patch_name((row, column))}"

    def _answer(self, loaded: Loaded, logits: torch.Tensor) -> Answer:
        values, numbers = logits.float().softmax(dim=0).topk(min(PREDICTIONS, len(logits)))
        tokens = [repr(loaded.processor.tokenizer.decode(number)) for number in numbers.tolist()]
        return Answer(ranked(_told_apart(tokens, numbers.tolist()), values.tolist()))


def _told_apart(names: Iterable[str], numbers: Iterable[int]) -> list[str]:
    """The names, with its number behind one that another had before it: several classes or tokens may share a name."""
    found: dict[str, None] = {}
    for name, number in zip(names, numbers, strict=True):
        found[name if name not in found else f"{name} ({number})"] = None
    return list(found)


def load_explorer(checkpoints: Sequence[str], device: str | None = None, revision: str | None = None) -> Explorer:
    """Load checkpoints (folders, or names on the Hub), all of one kind.

    Raises:
        DataError: for one that is no classifier of images or videos and no video language model, or if they are of
            several kinds.
    """
    models = load_all(checkpoints, device=device, revision=revision, needs_head=False)
    is_llm = models[0].kind is VIDEO_LLM
    return VideoLLMExplorer(models) if is_llm else ClassifierExplorer(models)


def asking(shown: Sequence[Shown]) -> str:
    """Who attends, in Markdown: in one line if it is the same in all models."""
    texts = [one.asking for one in shown]
    if len(set(texts)) == 1:
        return f"Asking: {texts[0]}"
    return "Asking:\n" + "\n".join(f"- {one.label}: {one.asking}" for one in shown)


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


def attention_config(model: PreTrainedModel) -> PreTrainedConfig:
    """The configuration of the attention that is looked into: a video language model keeps it apart."""
    return getattr(model.config, "vision_config", model.config)


def has_two_branches(model: PreTrainedModel) -> bool:
    """Whether there is more to draw than one map; cog attention has one, of both signs."""
    return attention_config(model).attention_variant != "softmax"


def has_negative_scale(model: PreTrainedModel) -> bool:
    """Whether a model has an alpha."""
    return any(isinstance(module, DenoisingAttention) for module in model.modules())


def patch_at(point: tuple[float, float], rows: int, columns: int) -> tuple[int, int]:
    """(row, column) of the patch at a point, in parts of the width and the height."""
    return min(int(point[1] * rows), rows - 1), min(int(point[0] * columns), columns - 1)


def _patch_name(patch: tuple[int, int]) -> str:
    return f"the patch in row {patch[0]}, column {patch[1]}"


def _layers(model: PreTrainedModel) -> list[int]:
    """The layers whose attention can be looked into; of a video language model those that its probes read."""
    return sorted({place.layer for place in attention_places(model).values()})


def _seen(loaded: Loaded, pixel_values: torch.Tensor) -> np.ndarray:
    """The frames that a classifier sees; an image is one."""
    config = loaded.model.config
    patch = pair(config.patch_size, "patch_size")
    height, width = (count * side for count, side in zip(config.grid_size, patch, strict=True))
    # a rest that is smaller than a patch is seen by no token
    seen = pictures(pixel_values[0, ..., :height, :width], loaded.processor)
    return seen.reshape(-1, *seen.shape[-3:])


def _resized(picture: np.ndarray) -> np.ndarray:
    """A picture as the page shows it: a whole number of times as large, or smaller if it is very large."""
    height, width = picture.shape[:2]
    longest = max(height, width)
    times = max(1, SHOWN_SIZE // longest) if longest <= LARGEST_SIZE else LARGEST_SIZE / longest
    size = max(1, round(width * times)), max(1, round(height * times))
    resample = Image.Resampling.NEAREST if times >= 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize(size, resample))


def _coloured(picture: np.ndarray, heat: HeatMap, frame: int, opacity: float) -> dict[str, np.ndarray]:
    """The picture with each map over it; all maps of all frames share one scale."""
    drawn = {name: heat.drawn(name) for name in MAPS if name in heat.values}
    scale = shared_scale(drawn.values())
    return {name: overlay(picture, values[frame], scale, opacity=opacity) for name, values in drawn.items()}


def _mark(picture: np.ndarray, heat: HeatMap, patch: tuple[int, int] | None) -> np.ndarray:
    """The picture with a frame around the patch that is clicked."""
    if patch is None:
        return picture
    marked = picture.copy()
    counts = (heat.grid.rows, heat.grid.columns)
    # the first pixels of the patch and of the next one, as the colours are laid over the picture
    (top, bottom), (left, right) = (
        (-(-place * size // count), -(-(place + 1) * size // count))
        for place, size, count in zip(patch, picture.shape[:2], counts, strict=True)
    )
    part = marked[top:bottom, left:right]
    side = min(part.shape[:2])
    # thin lines of small patches would vanish where the page shows the picture smaller than it is
    thick = max(1, side // 8, min(side // 3, max(picture.shape) // 200))
    for edge in (part[:thick], part[-thick:], part[:, :thick], part[:, -thick:]):
        edge[:] = MARK
    return marked


__all__ = ["Explorer", "Reading", "Shown", "Choices", "load_explorer"]
