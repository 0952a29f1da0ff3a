"""What the probes of a video language model look at in one image or video."""

import dataclasses
from typing import Any

import numpy as np
import torch

from ..evaluation.class_answers import Answer
from ..kinds import Loaded
from .drawing import pictures
from .errors import AnalysisError
from .layout import CLASS, PROBES
from .relevance import attention_relevance
from .sight import Sight, VisualizeSettings, see_attention


QUESTION = "What happens here?"
# of a video, so that they fit on a sheet
MAX_FRAMES = 8


def probe_settings(settings: VisualizeSettings) -> VisualizeSettings:
    """The settings for a video language model: it is asked something, and its probes attend.

    Raises:
        AnalysisError: for what probes do not have.
    """
    if settings.kind == "rollout":
        raise AnalysisError("visual probes cannot be rolled out: choose attention or relevance.")
    if settings.axis is not None:
        raise AnalysisError("visual probes read all frames at once: leave out the axis.")
    query = PROBES if settings.query == CLASS else settings.query
    return dataclasses.replace(settings, query=query, question=settings.question or QUESTION)


def see_by_probes(loaded: Loaded, inputs: Any, settings: VisualizeSettings) -> Sight:
    """What a video language model looks at in one image or video, and what it would say first.

    Args:
        loaded: the video language model.
        inputs: arguments of the model, as [`~dna_hf.data.inputs.read_question_input`] returns them.
        settings: what to look at, as [`probe_settings`] returns it.
    """
    model: Any = loaded.model
    inputs = dict(inputs.to(model.device, dtype=model.dtype))
    if settings.kind == "attention":
        outputs, heats = see_attention(loaded, inputs, settings)
    else:
        with torch.no_grad():
            outputs = model(**inputs, logits_to_keep=1)
        (heat,) = attention_relevance(model, inputs, _token(loaded.processor, settings.target))
        heats = {settings.kind: {"": heat}}
    probability, token = outputs.logits[0, -1].float().softmax(dim=0).max(dim=0)
    said = loaded.processor.tokenizer.decode(int(token))
    answer = Answer([(repr(said), float(probability))])
    return Sight(loaded.label, answer, frames_of_patches(loaded.processor, inputs), heats)


def _token(processor: Any, text: str | None) -> int | None:
    """The number of the token that a text is."""
    if text is None:
        return None
    tokens = processor.tokenizer.encode(text, add_special_tokens=False)
    if len(tokens) != 1:
        raise AnalysisError(f"target {text!r} is {len(tokens)} tokens: give one that the answer can begin with.")
    return tokens[0]


def vision_inputs(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The arguments of the vision encoder among the inputs of a question about one image or video."""
    ending, kind = ("", "image") if "pixel_values" in inputs else ("_videos", "video")
    return {
        "pixel_values": inputs[f"pixel_values{ending}"],
        "grid_thw": inputs[f"{kind}_grid_thw"],
        "merge_sizes": inputs[f"{kind}_merge_sizes"],
    }


def frames_of_patches(processor: Any, inputs: dict[str, Any]) -> np.ndarray:
    """The frames (frames, height, width, 3) that the patches of a visual were cut of, in bytes."""
    part = processor.image_processor if "pixel_values" in inputs else processor.video_processor
    visual = vision_inputs(inputs)
    frames, rows, columns = visual["grid_thw"][0].tolist()
    merge = int(visual["merge_sizes"][0])
    # the patches of a block of merge x merge follow one another
    blocks = (frames, rows // merge, columns // merge, merge, merge, 3, part.patch_size, part.patch_size)
    pixels = visual["pixel_values"].reshape(blocks).permute(0, 5, 1, 3, 6, 2, 4, 7)
    return pictures(pixels.reshape(frames, 3, rows * part.patch_size, columns * part.patch_size), part)
