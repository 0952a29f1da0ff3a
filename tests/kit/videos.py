"""Small videos whose frames carry their numbers, written with PyAV."""

import struct
from fractions import Fraction

import numpy as np
import pytest


# of a frame: eight bits, most significant first, then the complement of the last four
GRID = (3, 4)
DARK, BRIGHT = 40, 215


def numbered(number, height=48, width=64):
    """A grey frame that says its number, up to 255, in blocks that survive compression."""
    bits = [number >> place & 1 for place in range(7, -1, -1)]
    bits += [1 - bit for bit in bits[4:]]
    levels = np.where(np.array(bits).reshape(GRID), BRIGHT, DARK).astype(np.uint8)
    rows, columns = np.arange(height) * GRID[0] // height, np.arange(width) * GRID[1] // width
    return np.repeat(levels[rows][:, columns, None], 3, axis=2)


def number_of(frame):
    """The number that a decoded frame says; `None` if it cannot be made out."""
    height, width = frame.shape[:2]
    bits = []
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            y, x = (2 * row + 1) * height // (2 * GRID[0]), (2 * column + 1) * width // (2 * GRID[1])
            level = float(frame[y - 1 : y + 2, x - 1 : x + 2].mean())
            if 95 < level < 160:
                return None
            bits.append(int(level > 128))
    if any(bit == check for bit, check in zip(bits[4:8], bits[8:], strict=True)):
        return None
    return int("".join(map(str, bits[:8])), 2)


def numbers_of(frames):
    return [number_of(frame) for frame in frames]


def needs_encoder(name):
    """Skip the test, saying why, if PyAV is missing or cannot write this codec."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    try:
        av.codec.Codec(name, "w")
    except (ValueError, av.error.FFmpegError):
        pytest.skip(f"this PyAV cannot write {name}")
    return av


def write_video(
    path, frames, fps=30, codec="libx264", pixel_format="yuv420p", options=None, movflags="", pts=None, audio=False
):
    """Write frames (height, width, 3), or the numbers of frames, or how many there are, to a video.

    Args:
        pts: milliseconds at which each frame is shown, instead of `fps`.
    """
    av = needs_encoder(codec)
    frames = range(frames) if isinstance(frames, int) else frames
    frames = [numbered(frame) if isinstance(frame, int) else frame for frame in frames]
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", rate=16000) if audio else None
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.time_base = Fraction(1, fps) if pts is None else Fraction(1, 1000)
            frame.pts = index if pts is None else pts[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            _write_silence(av, container, sound, len(frames) / fps)
    return path


def write_sound(path, seconds=1.0):
    """A file with sound alone."""
    av = needs_encoder("aac")
    with av.open(str(path), "w") as container:
        _write_silence(av, container, container.add_stream("aac", rate=16000), seconds)
    return path


def _write_silence(av, container, stream, seconds):
    for start in range(0, int(16000 * seconds), 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def copy_packets(source, target, keep=lambda index: True, shift=0):
    """Copy the packets of a video, those that `keep` says, earlier by `shift` of their time unit."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for index, packet in enumerate(packet for packet in reader.demux(video=0) if packet.size):
            if keep(index):
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                writer.mux(packet)
    return target


def turn(path, degrees):
    """Write into an MP4 file that it is to be shown turned clockwise by 90, 180 or 270 degrees."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd")
    assert data[place + 4] == 0, "not version 0"
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    data[place + 44 : place + 80] = matrix
    path.write_bytes(data)
    return path


def decode_everything(path, wanted=None):
    """All frames, by PyAV alone, as bytes (height, width, 3); of the wanted numbers, a dictionary."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), metadata_errors="ignore") as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = container.decode(video=0)
        if wanted is not None:
            return {k: frame.to_ndarray(format="rgb24") for k, frame in enumerate(frames) if k in wanted}
        return [frame.to_ndarray(format="rgb24") for frame in frames]
