"""What users give for a video: paths, parts with settings of their own, frames, and what is known of frames."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers.image_utils import is_pil_image, to_numpy_array

from .image_processing_dna_video_llama3 import read_image
from .processing_options import BYTES, nearest, to_bytes
from .video_metadata import channels_first


# names of a part of a video, and the ones that VideoLLaMA3 has for them
PART = {"path": "path", "video_path": "path", "start": "start", "start_time": "start", "end": "end", "end_time": "end"}
# what a video of a sample may have for itself
OWN_SETTINGS = ("fps", "max_frames", "num_frames")


def as_part(video: Any) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Path or frames of a video, the seconds at which its part starts and ends, and settings of its own.

    Raises:
        ValueError: for a name that is unknown or given twice, no path, or times that are none.
    """
    if not isinstance(video, Mapping):
        return video, None, None, {}
    part: dict[str, Any] = {}
    for name, value in video.items():
        if name not in PART and name not in OWN_SETTINGS:
            raise ValueError(
                f"a video has a path, start, end, {', '.join(OWN_SETTINGS)}, got {name!r}"
                f"{nearest(name, [*PART, *OWN_SETTINGS])}"
            )
        if value is None:
            continue
        own = PART.get(name, str(name))
        if own in part:
            raise ValueError(f"a video has {own!r} twice, the second time as {name!r}: give it once.")
        part[own] = value
    if "path" not in part:
        raise ValueError(f"a part of a video needs a path, got {', '.join(map(str, video)) or 'nothing'}.")
    path, start, end = (part.pop(name, None) for name in ("path", "start", "end"))
    seconds = all(time is None or isinstance(time, int | float) for time in (start, end))
    if not seconds or (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise ValueError(f"start and end are seconds, the first before the second, got {start!r} and {end!r}.")
    return path, start, end, part


def is_video(video: Any) -> bool:
    """Whether it is one video, not a list of videos."""
    if isinstance(video, str | os.PathLike | Mapping):
        return True
    if isinstance(video, list | tuple):
        return bool(video) and all(is_pil_image(frame) or getattr(frame, "ndim", 0) == 3 for frame in video)
    return getattr(video, "ndim", 0) == 4


def is_list(videos: Any) -> bool:
    """Whether it is a list of videos, and no list of paths of frames."""
    return isinstance(videos, list | tuple) and bool(videos) and not is_video(videos) and _holds_videos(videos)


def _holds_videos(videos: Any) -> bool:
    # paths in a list of lists are those of frames
    return all(not isinstance(video, str | os.PathLike) and is_video(video) for video in videos)


def as_frames(video: Any, input_data_format: str | None = None, do_rescale: bool = True) -> torch.Tensor:
    """Frames (frames, height, width, 3), of an array, a tensor or a list of images.

    Args:
        video: frames, or paths of images.
        input_data_format: `"channels_first"` or `"channels_last"`; by default where 1 or 3 numbers are.
        do_rescale: whether to make bytes of all numbers; else floating-point ones are left as they are.

    Raises:
        ValueError: if it is something else.
    """
    if isinstance(video, list | tuple) and video:
        if all(is_pil_image(frame) or isinstance(frame, str | os.PathLike) for frame in video):
            input_data_format = "channels_last"
        images = [read_image(frame, do_rescale) for frame in video]
        images = [frame.convert("RGB") if is_pil_image(frame) else frame for frame in images]
        arrays = [frame if isinstance(frame, torch.Tensor) else to_numpy_array(frame) for frame in images]
        shapes = sorted({tuple(array.shape) for array in arrays})
        if len(shapes) > 1:
            raise ValueError(f"the frames of a video have different shapes: {', '.join(map(str, shapes))}.")
        video = torch.stack([torch.as_tensor(array) for array in arrays])
    if not hasattr(video, "ndim"):
        raise ValueError(
            f"a video is a path, an array or tensor of frames, or a list of images, got {type(video).__name__}."
        )
    frames = torch.as_tensor(video)
    first = channels_first(input_data_format)
    if frames.ndim == 4 and (frames.shape[-1] not in (1, 3) if first is None else first):
        frames = frames.permute(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3) or not frames.numel():
        said = f" ({input_data_format})" if input_data_format else ""
        raise ValueError(
            "a video is (frames, height, width, channels) or (frames, channels, height, width) with 1 or 3 channels, "
            f"got shape {tuple(torch.as_tensor(video).shape)}{said}."
        )
    if do_rescale:
        frames = to_bytes(frames, "a video")
    elif frames.dtype != torch.uint8 and not frames.is_floating_point():
        raise ValueError(f"a video has {BYTES}, got {frames.dtype}.")
    return frames.expand(*frames.shape[:-1], 3).contiguous()
