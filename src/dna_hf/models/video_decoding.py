"""Choose frames of a video and decode them, with PyAV.

This file takes nothing from its siblings, so that a process that does nothing but decode can run it alone.

A video is scanned first, without decoding: its packets say how many frames there are and when, where the header of the
file may not. Frames are then looked up by number in the order of presentation; from key frames on where the time
stamps allow it, else from the start. A file that ends before its header says it does is refused.

torchcodec is not used where it is installed: version 0.12 is no faster on MP4, gives other frames than those asked for
in AVI and MPEG-TS files with B frames, and takes files that were cut off for whole ones.
"""

import bisect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


try:
    import av
    import numpy as np
except ImportError:
    av = None  # type: ignore[assignment]


SAMPLINGS = ("uniform", "centered", "random", "released")
# the rate that a sampling rate counts in, in frames per second
BASE_FRAME_RATE = 30
# part of the announced frames or seconds that may be missing
TOLERANCE = 0.02
FrameChoice = Callable[[int, float], list[int]]


class VideoDecodingError(ValueError):
    """A video cannot be decoded; says why, without its name."""


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video stand for it.

    - `uniform`: one of each of `num_frames` equal parts of the whole video: that in the middle, or a drawn one.
    - `centered`: as `uniform`, of a window in the middle.
    - `random`: as `uniform`, of a window that starts anywhere.
    - `released`: as the authors' code, `num_frames` from the first to the last of a window at the start, or one that
      starts where it is drawn to; the last frame stands in for all that a short video lacks.

    A window covers `num_frames * sampling_rate` frames of a video of 30 frames per second; it never exceeds the video,
    save under `released`. A video of fewer frames than `num_frames` shows some of them more than once.

    Args:
        kind: `uniform`, `centered`, `random` or `released`.
        num_frames: number of frames to choose.
        sampling_rate: frames of a video of 30 frames per second from one chosen frame to the next, in a window.
        clip: number of the view over time, of `num_clips`.
        num_clips: views over time; windows and frames are spread evenly over them.
        draws: random numbers in [0, 1): of `uniform` one per frame, of `random` and `released` one for the start.

    Raises:
        ValueError: for an unknown kind, or `random` without a draw.
    """

    kind: str
    num_frames: int
    sampling_rate: int = 32
    clip: int = 0
    num_clips: int = 1
    draws: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in SAMPLINGS:
            raise ValueError(f"unknown sampling {self.kind!r}: choose one of {', '.join(SAMPLINGS)}.")
        if self.kind == "random" and not self.draws:
            raise ValueError("sampling 'random' needs a random number: choose another one for what must repeat.")

    def __call__(self, total: int, frame_rate: float) -> list[int]:
        """Numbers of the frames, in order, of a video of `total` frames at `frame_rate` frames per second."""
        window = self.num_frames * self.sampling_rate * frame_rate / BASE_FRAME_RATE
        if self.kind == "released":
            return self._released(total, window)
        if self.kind == "uniform":
            middle = (self.clip + 0.5) / self.num_clips
            places = self.draws or (middle,) * self.num_frames
            return [min(int(total * (part + place) / self.num_frames), total - 1) for part, place in enumerate(places)]
        window = min(max(window, min(self.num_frames, total)), total)
        place = self.draws[0] if self.kind == "random" and self.draws else (self.clip + 0.5) / self.num_clips
        start = (total - window) * place
        return [
            min(int(start + window * (part + 0.5) / self.num_frames), total - 1) for part in range(self.num_frames)
        ]

    def _released(self, total: int, window: float) -> list[int]:
        place = self.draws[0] if self.draws else self.clip / self.num_clips
        start = math.ceil(max(total - window, 0) * place)
        step = (window - 1) / max(self.num_frames - 1, 1)
        return [min(start + math.floor(step * part), total - 1) for part in range(self.num_frames)]


def decode_video(
    source: Any, choose: FrameChoice, start: float | None = None, end: float | None = None
) -> tuple[Any, list[int]]:
    """Decode frames of a video.

    Args:
        source: path, or a file-like object.
        choose: given the number of frames and the frames per second, says which to decode, in order.
        start: seconds at which the video begins, as far as the caller is concerned.
        end: seconds at which the video ends, as far as the caller is concerned.

    Returns:
        An array (frames, height, width, 3) of bytes, turned as the file says, and the numbers of the frames.

    Raises:
        VideoDecodingError: if it is no video, ends too early, or is damaged where it was looked at.
        ImportError: without PyAV.
    """
    if av is None:
        raise ImportError("decoding videos needs PyAV: pip install av.")
    try:
        scan = _scan(source)
        first, total = _part(scan, start, end)
        indices = [first + index for index in choose(total, scan.frame_rate)]
        frames = _frames(source, scan, indices)
        if frames is None:
            # some files announce a frame or two more than they have
            count = _count_decoded(source)
            if count < scan.total * (1 - TOLERANCE) - 2 or not first < count:
                raise VideoDecodingError(f"it is damaged: {count} of {scan.total} frames can be decoded")
            indices = [first + index for index in choose(min(total, count - first), scan.frame_rate)]
            frames = _frames(source, scan, indices)
        if frames is None:
            raise VideoDecodingError("it is damaged: it ends before its last frame")
    except av.error.FFmpegError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise VideoDecodingError(f"{reason[0].lower()}{reason[1:]}".rstrip(".")) from error
    shapes = {frame.shape for frame in frames}
    if len(shapes) > 1:
        raise VideoDecodingError("its frames change their size")
    return np.stack(frames), [index - first for index in indices]


@dataclass
class _Scan:
    """What the packets of a video say: times in its own unit in order of presentation, or `None` if not to be trusted.

    Args:
        total: number of frames.
        frame_rate: frames per second.
        times: times of all frames.
        seconds: times of all frames in seconds, from the first frame on.
        key_times: times of the frames that decoding can begin with.
    """

    total: int
    frame_rate: float
    times: list[int] | None
    seconds: list[float] | None
    key_times: list[int]


def _open(source: Any) -> tuple[Any, Any]:
    """Container and video stream; metadata in a broken encoding is no reason to refuse a file."""
    if hasattr(source, "seek"):
        source.seek(0)
    container = av.open(source, metadata_errors="ignore")
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        container.close()
        raise VideoDecodingError("it has no video, only sound or data")
    if streams[0].codec_context is None:
        container.close()
        raise VideoDecodingError("its codec is unknown")
    # one thread: several videos are decoded at a time
    streams[0].codec_context.thread_count = 1
    return container, streams[0]


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _scan(source: Any) -> _Scan:
    container, stream = _open(source)
    with container:
        packets = [packet for packet in _from_first_key(container, stream) if packet.size]
        # where a file was cut without encoding it anew, frames before the cut are only there to be decoded
        key_times = sorted(packet.pts for packet in packets if packet.is_keyframe and packet.pts is not None)
        packets = [packet for packet in packets if not packet.is_discard]
        if not packets:
            raise VideoDecodingError("it has no frames")
        total, announced = len(packets), _announced_frames(stream)
        if total < announced * (1 - TOLERANCE) - 2:
            raise VideoDecodingError(f"it is truncated: {total} of {announced} frames are there")
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        unit = float(stream.time_base or 0)
        # AVI has no times of presentation: what is there is made up
        if len(set(times)) < total or not unit or "avi" in container.format.name:
            return _Scan(total, float(stream.average_rate or BASE_FRAME_RATE), None, None, [])
        seconds = [(time - times[0]) * unit for time in times]
        rate = (total - 1) / seconds[-1] if total > 1 else float(stream.average_rate or BASE_FRAME_RATE)
        claimed = _announced_seconds(container, stream)
        # where the header counts the frames, it has been checked already
        last = (packets[-1].duration or 0) * unit or 1 / rate
        if claimed is not None and not announced and seconds[-1] + last < claimed - min(1, 0.1 * claimed):
            raise VideoDecodingError(f"it is truncated: {seconds[-1] + last:.1f} of {claimed:.1f} s are there")
        return _Scan(total, rate, times, seconds, key_times)


def _from_first_key(container: Any, stream: Any) -> Iterator[Any]:
    """Packets from the first key frame on: what comes before it cannot be decoded, or looks wrong."""
    return itertools.dropwhile(lambda packet: packet.size and not packet.is_keyframe, container.demux(stream))


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    for packet in _from_first_key(container, stream):
        yield from packet.decode()


def _announced_frames(stream: Any) -> int:
    """How many frames the header tells of; of MP4, without those before or behind a cut."""
    if "mp4" not in stream.container.format.name or stream.duration is None or not stream.average_rate:
        return stream.frames
    return min(stream.frames, round(stream.duration * stream.time_base * stream.average_rate))


def _announced_seconds(container: Any, stream: Any) -> float | None:
    """How long the video lasts by its header."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if len(container.streams) == 1 and container.duration is not None:
        return container.duration / av.time_base
    return None


def _part(scan: _Scan, start: float | None, end: float | None) -> tuple[int, int]:
    """First frame and number of frames between two times."""
    if start is None and end is None:
        return 0, scan.total
    seconds = scan.seconds or [index / scan.frame_rate for index in range(scan.total)]
    first = 0 if start is None else bisect.bisect_left(seconds, start)
    last = scan.total if end is None else bisect.bisect_left(seconds, end)
    if first >= last:
        raise VideoDecodingError(f"it lasts {seconds[-1]:.1f} s and has no frame from {start or 0} to {end} s")
    return first, last - first


def _frames(source: Any, scan: _Scan, indices: list[int]) -> list[Any] | None:
    """Decode frames by their numbers; `None` if some of them are not there."""
    wanted = sorted(set(indices))
    found = _by_time(source, scan, wanted) if scan.times is not None else None
    found = found or _in_order(source, wanted)
    return None if found is None else [found[index] for index in indices]


def _by_time(source: Any, scan: _Scan, wanted: list[int]) -> dict[int, Any] | None:
    """Decode from the last key frame before each wanted frame on; `None` if a frame does not come up."""
    assert scan.times is not None
    container, stream = _open(source)
    found: dict[int, Any] = {}
    with container:
        position, decoder = None, container.decode(stream)
        for index in wanted:
            time = scan.times[index]
            key = bisect.bisect_right(scan.key_times, time) - 1
            if key < 0:
                return None
            if position is None or scan.key_times[key] > position:
                container.seek(scan.key_times[key], stream=stream)
                decoder = container.decode(stream)
            frame = next((frame for frame in decoder if frame.pts is not None and frame.pts >= time), None)
            if frame is None or frame.pts != time:
                return None
            position, found[index] = time, _pixels(frame)
    return found


def _in_order(source: Any, wanted: list[int]) -> dict[int, Any] | None:
    """Decode from the start on; `None` if the video ends too early."""
    container, stream = _open(source)
    found: dict[int, Any] = {}
    with container:
        missing = set(wanted)
        for index, frame in enumerate(_decoded(container, stream)):
            if index in missing:
                found[index] = _pixels(frame)
            if index == wanted[-1]:
                return found
    return None


def _count_decoded(source: Any) -> int:
    container, stream = _open(source)
    with container:
        return sum(1 for _ in _decoded(container, stream))


def _pixels(frame: Any) -> Any:
    """A frame as (height, width, 3) bytes, upright."""
    if frame.is_corrupt:
        raise VideoDecodingError("a frame in it is damaged")
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns % 4 else pixels
