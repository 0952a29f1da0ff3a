"""One file, or conversations, as the arguments of a model."""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .errors import DataError
from .files import is_image
from .image_reading import image_mode, read_image_file
from .images import channels_of
from .video_folders import clip_of
from .videos import VideoReader


# seconds to decode a video in
TIMEOUT = 60.0


def read_image_input(path: str | Path, processor: Any) -> dict[str, torch.Tensor]:
    """`pixel_values` (1, channels, height, width) of an image file.

    Raises:
        DataError: if it cannot be read.
    """
    picture = read_image_file(path, image_mode(channels_of(processor)))
    return {"pixel_values": processor([picture], return_tensors="pt")["pixel_values"]}


def read_video_input(path: str | Path, processor: Any, reader: VideoReader | None = None) -> dict[str, torch.Tensor]:
    """`pixel_values` (1, frames, channels, height, width) of the first view over time and space of a video.

    Args:
        path: video file, or folder of frames.
        processor: video processor of this package.
        reader: reader that decodes the video; by default a new one, which takes a moment to start.

    Raises:
        DataError: if it cannot be read.
    """
    own = VideoReader(TIMEOUT) if reader is None else reader
    try:
        frames = own.read(clip_of(path), processor.samplings()[0])
    finally:
        if reader is None:
            own.close()
    return {"pixel_values": processor.crops(frames)[0].unsqueeze(0)}


def read_question_input(
    path: str | Path, processor: Any, question: str, max_frames: int | None = None
) -> dict[str, torch.Tensor]:
    """Arguments of a video language model for a question about an image or a video.

    Args:
        path: image or video file.
        processor: processor of the model.
        question: question about the image or the video.
        max_frames: most frames of a video; by default as the processor says.

    Raises:
        DataError: if it cannot be read, or does not fit.
    """
    path = Path(path)
    what = ("image", read_image_file(path)) if is_image(path) else ("video", str(path))
    few_frames = inference_processor(processor, max_frames=max_frames)
    try:
        return encode(few_frames, [[user_turn(question, [what])]])
    except ValueError as error:
        raise DataError(str(error)) from error


def inference_processor(processor: Any, keep: int = 1, **settings: Any) -> Any:
    """A copy of a processor with other settings of videos, which keeps the videos that it read last.

    So several questions about one video cost its decoding once.

    Args:
        processor: processor of the model.
        keep: how many videos to keep the frames of.
        settings: settings of the video processor, e.g. `fps` and `max_frames`; `None` leaves one as it is.

    Raises:
        DataError: for an impossible setting.
    """
    try:
        videos = copy.copy(processor.video_processor.with_options(**settings))
    except ValueError as error:
        raise DataError(str(error)) from error
    read, kept = videos.read_video, lru_cache(keep)(videos.read_video)
    # what cannot be told from another one by its name is read every time
    videos.read_video = lambda video, *known: (kept if isinstance(video, str) and not known else read)(video, *known)
    copied = copy.copy(processor)
    copied.video_processor = videos
    return copied


def user_turn(text: str, media: list[tuple[str, Any]]) -> dict[str, Any]:
    """A message of the user: videos and images, each its kind and what it is, and a text behind them."""
    content = [{"type": kind, kind: what} for kind, what in media]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def encode(processor: Any, conversations: list[list[dict[str, Any]]]) -> Any:
    """Inputs of the model for conversations, padded on the left, with the beginning of the answer.

    Raises:
        ValueError: naming what cannot be read, or does not fit.
    """
    return processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        padding=True,
        padding_side="left",
    )
