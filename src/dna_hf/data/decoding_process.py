"""A process that decodes videos and nothing else, so that it can be killed when a file never comes to an end.

usage: decoding_process.py FILE_DESCRIPTOR SECONDS

It says "ready", and answers requests (path, fields of a FrameSampling, start, end, frames) with ("frames", shape),
followed by their bytes, or ("error", reason). It is started by its path, without this package, which would have to
import torch.
"""

import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from video_decoding import FrameChoice, FrameSampling, VideoDecodingError, decode_video  # noqa: E402


def _choice(sampling: FrameSampling, part: tuple[int, int | None] | None) -> FrameChoice:
    """What chooses the frames of a whole file, or of a part that is given by the numbers of its frames."""
    if part is None:
        return sampling
    first, last = part

    def choose(total: int, frame_rate: float) -> list[int]:
        if first >= total:
            raise VideoDecodingError(f"it has {total} frames, and none from number {first} on")
        end = total if last is None else min(last, total)
        return [first + index for index in sampling(end - first, frame_rate)]

    return choose


def main(descriptor: int, seconds: float) -> None:
    """Answer requests until the other side is gone."""
    with Connection(descriptor) as connection:
        connection.send("ready")
        while True:
            try:
                path, sampling, start, end, part = connection.recv()
            except (EOFError, ConnectionError):
                return
            # ends this process, in C code too, should its parent be gone by then
            signal.alarm(int(seconds) + 60)
            try:
                frames, _ = decode_video(path, _choice(FrameSampling(**sampling), part), start, end)
            except (VideoDecodingError, OSError, MemoryError) as error:
                connection.send(("error", str(error) or type(error).__name__))
            else:
                connection.send(("frames", frames.shape))
                connection.send_bytes(frames.reshape(-1).data)
            signal.alarm(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
