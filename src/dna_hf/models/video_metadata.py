"""What is known of the frames of a video that were decoded elsewhere, and which of its frames are chosen."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers.video_utils import VideoMetadata

from .processing_options import nearest
from .video_decoding import VideoDecodingError


def channels_first(input_data_format: Any) -> bool | None:
    """Whether the channels stand in front; `None` if nothing is said.

    Raises:
        ValueError: for an unknown format.
    """
    name = getattr(input_data_format, "value", input_data_format)
    if name not in (None, "channels_first", "channels_last"):
        raise ValueError(f"input_data_format must be channels_first or channels_last, got {name!r}.")
    return None if name is None else name == "channels_first"


def listed_metadata(video_metadata: Any, videos: int) -> list[Any]:
    """What is known of each video, `None` where nothing is: of one of them, a list, or a list for each sample.

    Raises:
        ValueError: if there are not as many as videos.
    """
    if video_metadata is None:
        return [None] * videos
    given = video_metadata if isinstance(video_metadata, list | tuple) else [video_metadata]
    flat = [one for part in given for one in (part if isinstance(part, list | tuple) else [part])]
    if len(flat) != videos:
        raise ValueError(f"video_metadata tells of {len(flat)} videos, but there are {videos}: give one for each.")
    return flat


def frame_metadata(known: Any, frames: int) -> VideoMetadata | None:
    """Which frames of a video at how many per second so many decoded ones are; `None` if that is not known.

    Args:
        known: [`VideoMetadata`] or a dictionary like it: `fps`, or `total_num_frames` and `duration` in seconds, and
            `frames_indices` where the frames are not all of the video.
        frames: number of frames that are there.

    Raises:
        ValueError: for unknown names, or numbers that do not fit the frames.
    """
    if known is None:
        return None
    if not isinstance(known, Mapping):
        raise ValueError(f"video_metadata must be a VideoMetadata or a dictionary, got {known!r:.100}.")
    names = [field.name for field in fields(VideoMetadata)]
    for name in known:
        if name not in names:
            raise ValueError(f"video_metadata has no {name!r}{nearest(name, names)}")
    given = {name: known[name] for name in known if known[name] is not None}
    total = given.setdefault("total_num_frames", frames)
    if not given.get("fps") and given.get("duration"):
        given["fps"] = total / given["duration"]
    if not isinstance(given.get("fps"), int | float) or not given["fps"] > 0:
        raise ValueError("video_metadata needs fps above 0, or total_num_frames and duration: when is a frame shown?")
    if "frames_indices" not in given and total != frames:
        raise ValueError(
            f"video_metadata tells of {total} frames, but there are {frames}: give frames_indices, their numbers."
        )
    indices = [int(index) for index in given.get("frames_indices", range(frames))]
    if len(indices) != frames or indices != sorted(indices) or indices[0] < 0:
        raise ValueError(
            f"frames_indices of video_metadata are {len(indices)} numbers for {frames} frames: give the number of "
            "each frame, in order."
        )
    return VideoMetadata(**given | {"frames_indices": indices})


def even(total: int, count: int) -> list[int]:
    """Numbers of `count` of `total` frames, each the first of one of so many equal parts, as transformers chooses.

    Raises:
        VideoDecodingError: if there are fewer.
    """
    if count > total:
        raise VideoDecodingError(f"it has {total} frames, fewer than num_frames={count}: lower it, or give fps")
    return [part * total // count for part in range(count)]


def times_of(total: int, frame_rate: float, indices: list[int], start: float | None) -> dict[str, Any]:
    """Fields of [`VideoMetadata`] for frames chosen of a video or of a part that begins at `start` seconds."""
    first = round((start or 0) * frame_rate)
    return {
        "total_num_frames": total,
        "fps": frame_rate,
        "duration": total / frame_rate,
        "frames_indices": [first + index for index in indices],
    }


def spread(items: list[int], limit: int) -> list[int]:
    """At most `limit` of the items, evenly from the first to the last."""
    if len(items) <= limit:
        return items
    return [items[part * (len(items) - 1) // max(limit - 1, 1)] for part in range(limit)]
