"""Maps over the frames of a video, as a GIF or an mp4 file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .drawing import overlay, shared_scale
from .errors import AnalysisError


GAP = 4
CODEC = "libx264"


def overlay_frames(
    frames: np.ndarray,
    maps: Sequence[np.ndarray],
    colours: str = "red-blue",
    opacity: float = 0.85,
    min_height: int = 224,
) -> np.ndarray:
    """Every frame of a video, with its maps over copies of it at its right.

    Args:
        frames: (frames, height, width, 3) in bytes.
        maps: values (frames, rows, columns) of any sign; all share one scale, over all frames.
        colours: see [`~dna_hf.analysis.drawing.COLOURS`].
        opacity: of the strongest colour, in [0, 1].
        min_height: smaller frames are enlarged by a whole number, to at least this height in pixels.

    Returns:
        (frames, height, width, 3) in bytes; height and width are even, as video codecs want them.
    """
    scale = shared_scale(maps)
    times = max(1, -(-min_height // frames.shape[1]))
    pictures = []
    for number, frame in enumerate(frames):
        line = [frame, *(overlay(frame, values[number], scale, colours, opacity) for values in maps)]
        line = [picture.repeat(times, axis=0).repeat(times, axis=1) for picture in line]
        gap = np.full((line[0].shape[0], GAP, 3), 255, dtype=np.uint8)
        joined = np.concatenate([part for picture in line for part in (picture, gap)][:-1], axis=1)
        height, width = (size // 2 * 2 for size in joined.shape[:2])
        pictures.append(joined[:height, :width])
    return np.stack(pictures)


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
        AnalysisError: if PyAV cannot write H.264.
    """
    import av

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
