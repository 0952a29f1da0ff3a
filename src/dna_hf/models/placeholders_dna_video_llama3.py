"""Texts with placeholders of images and videos: which belong to which text, and where tokens stand in them."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature


IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
IMAGE_PROBE_TOKEN = "<|image_probe|>"
VIDEO_PROBE_TOKEN = "<|video_probe|>"
VISUAL_TOKENS = (IMAGE_TOKEN, VIDEO_TOKEN, IMAGE_PROBE_TOKEN, VIDEO_PROBE_TOKEN)


@dataclass
class Sample:
    """Pixels of the images and videos of one text, and what stands for each of them."""

    images: list[BatchFeature]
    image_texts: list[str]
    videos: list[tuple[torch.Tensor, tuple[int, int, int]]]
    video_texts: list[str]
    metadata: list[Any]


def is_image(image: Any) -> bool:
    """Whether it may be one image: it is no list of images."""
    return not isinstance(image, list | tuple)


def deal(texts: list[str], visuals: Any, token: str, is_one: Callable[[Any], bool]) -> list[list[Any]]:
    """Images or videos of each text, one for each `token`.

    Raises:
        ValueError: if there are more or fewer.
    """
    counts = [text.count(token) for text in texts]
    if visuals is None:
        visuals = []
    given = list(visuals) if isinstance(visuals, list | tuple) and not is_one(visuals) else [visuals]
    if len(given) == len(texts) and all(isinstance(part, list | tuple) and not is_one(part) for part in given):
        dealt = [list(part) for part in given]
    else:
        places = iter(given)
        dealt = [list(islice(places, count)) for count in counts]
        dealt[-1] += places
    for number, (part, count) in enumerate(zip(dealt, counts, strict=True)):
        if len(part) != count:
            kind = "images" if token == IMAGE_TOKEN else "videos"
            raise ValueError(f"sample {number} has {count} {token} but {len(part)} {kind}: they must be as many.")
    return dealt


def given_offsets(
    offsets: list[tuple[int, int]], replacements: list[dict[str, Any]], length: int
) -> list[tuple[int, int]]:
    """Offsets of tokens in the text that was given, of `length` characters, from those in the expanded one.

    The tokens of an image or a video have the offsets of what stood for it. Padding on the right stands at the end,
    so that the offsets never fall.

    Args:
        offsets: first and last place of each token in the expanded text, in characters.
        replacements: what was put into it, as `get_text_with_replacements` of transformers' processors tells it.
        length: characters of the text that was given.
    """
    spans = [(*replaced["new_span"], *replaced["span"]) for replaced in replacements]
    result, shift, number = [], 0, 0
    for start, end in offsets:
        while number < len(spans) and start >= spans[number][1]:
            shift = spans[number][3] - spans[number][1]
            number += 1
        if number < len(spans) and start >= spans[number][0]:
            result.append(spans[number][2:])
        elif end == 0 and result and result[-1][1]:
            result.append((length, length))
        else:
            # text and what was put in may share a token
            end = end if number == len(spans) else min(end, spans[number][0])
            result.append((start + shift, end + shift))
    return result
