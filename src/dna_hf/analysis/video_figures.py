"""Maps over the frames of a video, as a GIF or an mp4 file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..errors import needed
from .drawing import overlay, printable, shared_scale
from .errors import AnalysisError


# pixels
GAP, STRIP = 4, 16
CODEC = "libx264"


def overlay_frames(
    frames: np.ndarray,
    maps: Sequence[tuple[str, np.ndarray]],
    colours: str = "red-blue",
    opacity: float = 0.85,
    min_height: int = 224,
) -> np.ndarray:
    """Every frame of a video, with its maps over copies of it at its right.

    Args:
        frames: (frames, height, width, 3) in bytes.
        maps: label and values (frames, rows, columns) of each map, of any sign; all share one scale, over all frames.
        colours: name of a pair of colours, `red-blue` or `orange-purple`.
        opacity: opacity of the strongest colour, in [0, 1].
        min_height: smaller frames are enlarged by a whole number, to at least this height in pixels.

    Returns:
        (frames, height, width, 3) in bytes; height and width are even, as video codecs want them.
    """
    scale = shared_scale(values for _, values in maps)
    times = max(1, -(-min_height // frames.shape[1]))
    pictures = []
    for number, frame in enumerate(frames):
        line = [(f"frame {number}", frame)]
        line += [(label, overlay(frame, values[number], scale, colours, opacity)) for label, values in maps]
        pictures.append(_beside([(label, picture.repeat(times, 0).repeat(times, 1)) for label, picture in line]))
    return np.stack(pictures)


def _beside(pictures: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Pictures of one size beside each other, each below its label."""
    height, width = pictures[0][1].shape[:2]
    step = width + GAP
    size = (len(pictures) * step - GAP) // 2 * 2, (STRIP + height) // 2 * 2
    joined = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(joined)
    for number, (label, picture) in enumerate(pictures):
        draw.text((number * step + 2, 2), printable(label.replace("\n", ": ")), fill="black")
        joined.paste(Image.fromarray(picture), (number * step, STRIP))
    return np.asarray(joined)


def write_gif(frames: np.ndarray, path: str | Path, fps: float = 2.0) -> Path:
    """Write frames (frames, height, width, 3) in bytes to a GIF that repeats for ever."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    return path


def write_mp4(frames: np.ndarray, path: str | Path, fps: int = 2) -> Path:
    """Write frames (frames, height, width, 3) in bytes, of even height and width, to an mp4 file (H.264).

    Raises:
        AnalysisError: if PyAV is not there, or cannot write H.264.
    """
    av = needed("av", AnalysisError, "writing an mp4 file")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if CODEC not in av.codecs_available:
        raise AnalysisError(f"this PyAV cannot write H.264 ({CODEC}): write a GIF, or install PyAV from PyPI.")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODEC, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path
