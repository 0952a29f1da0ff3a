"""A process that decodes videos and nothing else, so that it can be killed when a file never comes to an end.

usage: decoding_process.py FILE_DESCRIPTOR SECONDS

It says "ready", and answers requests (path, fields of a FrameSampling, start, end) with ("frames", shape), followed by
their bytes, or ("error", reason). It is started by its path, without this package, which would have to import torch.
"""

import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

from video_decoding import FrameSampling, VideoDecodingError, decode_video  # noqa: E402


def main(descriptor: int, seconds: float) -> None:
    """Answer requests until the other side is gone."""
    with Connection(descriptor) as connection:
        connection.send("ready")
        while True:
            try:
                path, sampling, start, end = connection.recv()
            except (EOFError, ConnectionError):
                return
            # ends this process, in C code too, should its parent be gone by then
            signal.alarm(int(seconds) + 60)
            try:
                frames, _ = decode_video(path, FrameSampling(**sampling), start, end)
            except (VideoDecodingError, OSError, MemoryError) as error:
                connection.send(("error", str(error) or type(error).__name__))
            else:
                connection.send(("frames", frames.shape))
                connection.send_bytes(frames.reshape(-1).data)
            signal.alarm(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
