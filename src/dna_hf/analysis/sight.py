"""What one model sees in one image or video, and how it looks at it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..evaluation.class_answers import Answer, answers_of
from ..evaluation.image_classification import class_names
from ..kinds import VIDEO, Loaded
from ..models.configuration_dna import pair
from .drawing import colour_pair, pictures
from .errors import AnalysisError
from .layout import CLASS, PROBES, Query
from .maps import HeatMap, look
from .relevance import attention_relevance
from .rollout import attention_rollout


KINDS = ("attention", "rollout", "relevance")
# `branches` is what one model shows by default: each branch on its own, and their difference
SHOWN = ("branches", "difference", "positive", "negative", "combined")
FORMATS = ("png", "svg")
ANIMATIONS = ("gif", "mp4", "none")


@dataclass
class VisualizeSettings:
    """What is drawn.

    Args:
        kind: maps of a layer (`attention`), `rollout` through all layers, or gradient-weighted `relevance`.
        layer: number of the layer for `attention`, counted from 0, negative ones from the end; `None` for all.
        head: number of the head for `attention`; `"mean"` of all, or `"all"` one by one.
        query: the token that attends, of `attention` and `rollout`; see [`~dna_hf.analysis.maps.visual_maps`]. Of
            a video language model a probe, or `"probes"`, the mean of all.
        axis: what `attention` in videos is over, `space` or `time`; by default the one with the class token.
        show: what of each map is drawn: one of `SHOWN`; by default `branches` of one model, `difference` of several.
        target: class whose logit `relevance` explains, by name or number, an output of a regression likewise, or a
            token of a video language model, by its text; by default what has the largest logit.
        question: what a video language model is asked; `None` for classifiers.
        colours: name of a pair of colours, `red-blue` or `orange-purple`.
        opacity: opacity of the strongest colour, in (0, 1].
        file_format: format of the figures, `png` or `svg`.
        animation: what a video gets beside its contact sheet: `gif`, `mp4` or `none`.
    """

    kind: str = "attention"
    layer: int | None = -1
    head: int | str = "mean"
    query: Query = CLASS
    axis: str | None = None
    show: str | None = None
    target: str | None = None
    question: str | None = None
    colours: str = "red-blue"
    opacity: float = 0.85
    file_format: str = "png"
    animation: str = "gif"

    def __post_init__(self) -> None:
        for name, choices in (("kind", KINDS), ("file_format", FORMATS), ("animation", ANIMATIONS)):
            if getattr(self, name) not in choices:
                raise AnalysisError(f"{name} is {getattr(self, name)!r}: choose {', '.join(choices)}.")
        if self.show is not None and self.show not in SHOWN:
            raise AnalysisError(f"show is {self.show!r}: choose {', '.join(SHOWN)}.")
        if not 0 < self.opacity <= 1:
            raise AnalysisError(f"opacity is {self.opacity}: choose a number above 0 and up to 1.")
        if isinstance(self.head, str) and self.head not in ("mean", "all"):
            raise AnalysisError(f"head is {self.head!r}: choose a number, mean or all.")
        if self.kind != "attention" and (self.layer != -1 or self.head != "mean" or self.axis is not None):
            raise AnalysisError(f"{self.kind} goes through all layers and heads: leave out layer, head and axis.")
        if self.kind != "relevance" and self.target is not None:
            raise AnalysisError("a target is for relevance: leave it out, or choose that kind.")
        if self.kind == "relevance" and self.query not in (CLASS, PROBES):
            raise AnalysisError("relevance begins with what the classifier reads: leave out the query.")
        colour_pair(self.colours)


@dataclass
class Sight:
    """What one model saw in one file, and how it looked at it.

    Args:
        label: name of the model.
        answer: what the model says of the file; of a language model, the next token. `None` for a model without a
            classifier.
        pictures: (frames, height, width, 3) in bytes, what the model saw; one frame of an image.
        heats: label of the row -> label of the column -> heat map.
    """

    label: str
    answer: Answer | None
    pictures: np.ndarray
    heats: dict[str, dict[str, HeatMap]]

    @property
    def title(self) -> str:
        """The model and what it says of the file."""
        return self.label if self.answer is None else f"{self.label}\n{self.answer.title}"


def see(loaded: Loaded, pixel_values: torch.Tensor, settings: VisualizeSettings) -> Sight:
    """What one model of images or videos sees in one of them.

    Args:
        loaded: the model; for relevance it needs its classifier.
        pixel_values: one image or video, in a batch of its own.
        settings: what to look at.

    Raises:
        AnalysisError: for a layer, head, query or class that does not exist, or relevance without a classifier.
    """
    model = loaded.model
    inputs = {"pixel_values": pixel_values.to(model.dtype)}
    if settings.kind == "attention":
        outputs, heats = see_attention(loaded, inputs, settings)
    else:
        with torch.no_grad():
            outputs = model(pixel_values=inputs["pixel_values"].to(model.device)) if loaded.has_head else None
        if settings.kind == "rollout":
            (heat,) = attention_rollout(model, inputs, settings.query)
        else:
            (heat,) = attention_relevance(model, inputs, _target(model, settings.target))
        heats = {settings.kind: {"": heat}}
    answer = None
    if loaded.has_head:
        (answer,) = answers_of(outputs.logits, class_names(model), model.config)
    patch = pair(model.config.patch_size, "patch_size")
    grid = next(heat.grid for row in heats.values() for heat in row.values())
    # a rest that is smaller than a patch is seen by no token
    covered = pixel_values[..., : grid.rows * patch[0], : grid.columns * patch[1]]
    seen = pictures(covered[0], loaded.processor)
    return Sight(loaded.label, answer, seen.reshape(-1, *seen.shape[-3:]), heats)


def see_attention(
    loaded: Loaded, inputs: dict[str, Any], settings: VisualizeSettings
) -> tuple[Any, dict[str, dict[str, HeatMap]]]:
    """What the model returned, and its maps by layer and head."""
    model: Any = loaded.model
    axis = settings.axis
    if axis is None and loaded.kind is VIDEO:
        axis = "space_time" if model.config.attention_type == "joint_space_time" else "space"
    layers = None if settings.layer is None else [settings.layer]
    heads = [settings.head] if isinstance(settings.head, int) else None
    # over time there is no class token: all frames ask
    everyone = settings.query == PROBES or (axis == "time" and settings.query == CLASS)
    queries = None if everyone else [settings.query]
    outputs, found = look(model, inputs, layers, heads, queries, axis)
    if settings.head != "all":
        return outputs, {_row_label(maps.place.layer, settings): {"": maps.heat()} for maps in found}
    if settings.layer is None:
        return outputs, {
            f"layer {maps.place.layer}": {f"head {head}": maps.heat(head=head) for head in maps.heads}
            for maps in found
        }
    (maps,) = found
    return outputs, {f"head {head}": {"": maps.heat(head=head)} for head in maps.heads}


def _row_label(layer: int, settings: VisualizeSettings) -> str:
    # the last layers of several models may have different numbers
    return "last layer" if settings.layer == -1 else f"layer {layer}"


def _target(model: PreTrainedModel, target: str | None) -> int | None:
    """The number of a class given by its name or number."""
    if target is None:
        return None
    names = class_names(model)
    if target in names:
        return names.index(target)
    if target.isdecimal() and int(target) < len(names):
        return int(target)
    raise AnalysisError(f"the model has no class {target!r}: its classes are {', '.join(names[:5])}, ...")
