"""Turn clips into tensors: reading, augmentation and the torch data set that a Trainer reads.

Augmentation draws from a generator seeded by (seed, epoch, row), as for images.
"""

import dataclasses
import os
import subprocess
import sys
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..models.video_decoding import FrameSampling
from ..models.video_processing_dna_timesformer import DnATimesformerVideoProcessor, as_frames, short_side_size
from .arguments import VideoDataArguments
from .clips import Clip, LabelledVideos
from .errors import DataError
from .sampling import EpochClock
from .unreadable import UNREADABLE, Unreadable


# seconds
START_TIMEOUT = 120


class VideoReader:
    """Reads frames of clips, videos in a process of its own that is killed when it takes too long.

    Args:
        timeout: seconds that decoding a video may take.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._owner = 0
        self._process: subprocess.Popen | None = None
        self._connection: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"timeout": self.timeout, "_owner": 0, "_process": None, "_connection": None}

    def read(self, clip: Clip, sampling: FrameSampling) -> torch.Tensor:
        """Frames (frames, channels, height, width) of a clip, in bytes.

        Raises:
            DataError: naming the clip, if it cannot be read in time.
        """
        return as_frames(clip.frames_for(sampling, self))

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._owner == os.getpid():
            self._connection.close()
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def decode(
        self,
        path: str,
        sampling: FrameSampling,
        start: float | None,
        end: float | None,
        frames: tuple[int, int | None] | None = None,
    ) -> np.ndarray:
        """Read those frames of a video file that are sampled.

        Args:
            path: video file.
            sampling: function that says which frames to read, of their number and the frame rate.
            start: seconds into the file at which the clip begins; `None`: at the beginning of the file.
            end: seconds into the file at which the clip ends; `None`: at the end of the file.
            frames: instead of `start` and `end`, number of the clip's first frame, from 0, and of the first one
                behind it, `None` at the end of the file.

        Returns:
            Frames (frames, height, width, 3), uint8.

        Raises:
            DataError: naming the file, if it cannot be read in time.
        """
        try:
            self._start()
            self._connection.send((path, dataclasses.asdict(sampling), start, end, frames))
            if not self._connection.poll(self.timeout):
                self.close()
                raise DataError(f"cannot read video {path!r}: it is not decoded after {self.timeout:g} s.")
            kind, answer = self._connection.recv()
            if kind == "frames":
                return np.frombuffer(bytearray(self._connection.recv_bytes()), dtype=np.uint8).reshape(answer)
        except (EOFError, OSError) as error:
            self.close()
            raise DataError(f"cannot read video {path!r}: decoding it crashed.") from error
        raise DataError(f"cannot read video {path!r}: {answer}.")

    def _start(self) -> None:
        """Start the process, one for each worker of a loader."""
        if self._process is not None and self._owner == os.getpid():
            return
        self._connection, other = Pipe()
        script = str(Path(__file__).with_name("decoding_process.py"))
        with other:
            self._process = subprocess.Popen(
                [sys.executable, script, str(other.fileno()), str(self.timeout)],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._owner = os.getpid()
        # the time of a video does not count what the process takes to start
        if not self._connection.poll(START_TIMEOUT):
            self.close()
            raise DataError(f"no process to decode videos has started in {START_TIMEOUT} s.")
        self._connection.recv()


class VideoAugmentation:
    """Random frames, random size, random crop and horizontal flip, the same for all frames of a clip.

    Args:
        arguments: fields of the `data` section, for the frames, the size and the flip.
        processor: video processor that says how many frames, of which size.
    """

    def __init__(self, arguments: VideoDataArguments, processor: DnATimesformerVideoProcessor) -> None:
        self.kind = arguments.train_sampling
        self.rate = processor.sampling_rate
        self.flip_probability = arguments.flip_probability
        self.num_frames = processor.num_frames
        self.crop_size = output_size(processor)
        short = min(self.crop_size)
        self.short_side = arguments.short_side or [short * 8 // 7, short * 10 // 7]
        if self.short_side[0] < max(self.crop_size):
            raise DataError(f"short_side ({self.short_side[0]}) is smaller than the crop of {self.crop_size} pixels.")

    def sampling(self, random: np.random.Generator) -> FrameSampling:
        """Which frames of a clip to read."""
        draws = tuple(random.random(self.num_frames).tolist())
        return FrameSampling(self.kind, self.num_frames, self.rate, draws=draws)

    def __call__(
        self, frames: torch.Tensor, processor: DnATimesformerVideoProcessor, random: np.random.Generator
    ) -> torch.Tensor:
        """Augment and normalise frames (frames, channels, height, width)."""
        short_side = int(random.integers(self.short_side[0], self.short_side[1] + 1))
        size = short_side_size(frames.shape[-2], frames.shape[-1], short_side)
        frames = processor.resize_frames(frames.float(), size)
        height, width = self.crop_size
        top = int(random.integers(frames.shape[-2] - height + 1))
        left = int(random.integers(frames.shape[-1] - width + 1))
        frames = frames[..., top : top + height, left : left + width]
        if random.random() < self.flip_probability:
            frames = frames.flip(-1)
        return processor.normalize_frames(frames)


class VideoDataset(EpochClock, Dataset):
    """A split: rows to samples `{"pixel_values": (frames, channels, height, width), "labels": int, "rows": int}`.

    Args:
        videos: split to read.
        processor: video processor that makes tensors; in evaluation its views over time and space come one after the
            other.
        arguments: fields of the `data` section, for reading and for clips that cannot be read.
        augmentation: augmentation for training; without it nothing is random.
        seed: seed of the augmentation, with the epoch and the row.
        bad_list: file that gets a line for every clip that could not be read.
    """

    def __init__(
        self,
        videos: LabelledVideos,
        processor: DnATimesformerVideoProcessor,
        arguments: VideoDataArguments,
        augmentation: VideoAugmentation | None = None,
        *,
        seed: int = 0,
        bad_list: Path | None = None,
    ) -> None:
        super().__init__()
        self.videos = videos
        self.processor = processor
        self.augmentation = augmentation
        self.seed = seed
        self.unreadable = Unreadable(arguments, videos, self._name, bad_list)
        self.reader = VideoReader(arguments.video_timeout)

    def __len__(self) -> int:
        return len(self.videos.clips)

    def __getitem__(self, row: int) -> dict[str, Any]:
        try:
            return self._sample(row)
        except DataError as error:
            self.unreadable.add(row, error)
        if self.augmentation is None:
            return {"pixel_values": self._blank(), "labels": UNREADABLE, "rows": row}
        return self.unreadable.stand_in(row, self._sample)

    def _sample(self, row: int) -> dict[str, Any]:
        clip = self.videos.clips[row]
        return {"pixel_values": self._pixels(clip, row), "labels": clip.label, "rows": row}

    def _name(self, row: int) -> str:
        return self.videos.clips[row].path

    def _pixels(self, clip: Clip, row: int) -> torch.Tensor:
        if self.augmentation is not None:
            random = np.random.default_rng((self.seed, self.epoch, row))
            frames = self.reader.read(clip, self.augmentation.sampling(random))
            return self.augmentation(frames, self.processor, random)
        views = [
            view
            for sampling in self.processor.samplings()
            for view in self.processor.crops(self.reader.read(clip, sampling))
        ]
        return views[0] if len(views) == 1 else torch.stack(views)

    def _blank(self) -> torch.Tensor:
        shape = (self.processor.num_frames, 3, *output_size(self.processor))
        views = self.processor.num_clips * self.processor.num_crops
        return torch.zeros(shape if views == 1 else (views, *shape))


def video_processor(
    arguments: VideoDataArguments, image_size: tuple[int, int], num_frames: int
) -> DnATimesformerVideoProcessor:
    """The video processor of a new model: `num_frames` frames of (height, width) pixels."""
    height, width = image_size
    processor = DnATimesformerVideoProcessor(
        num_frames=num_frames,
        size={"shortest_edge": max(image_size)},
        crop_size={"height": height, "width": width},
    )
    return with_given(processor, arguments)


def with_given(processor: DnATimesformerVideoProcessor, arguments: VideoDataArguments) -> Any:
    """The processor with the frames and the normalisation that are asked for; where nothing is, with its own."""
    given = {name: getattr(arguments, name) for name in ("sampling", "sampling_rate", "image_mean", "image_std")}
    return type(processor).from_dict(
        processor.to_dict() | {name: value for name, value in given.items() if value is not None}
    )


def output_size(processor: DnATimesformerVideoProcessor) -> tuple[int, int]:
    """Height and width of the frames that a processor makes of any video, in pixels.

    Raises:
        DataError: if they depend on the video.
    """
    size = processor.crop_size if processor.do_center_crop else processor.size
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    raise DataError(f"the video processor makes frames of different sizes ({processor.size}): set do_center_crop.")


def view_processor(processor: DnATimesformerVideoProcessor, arguments: VideoDataArguments) -> Any:
    """The processor with what is asked for and the views over time and space that evaluation averages over.

    Raises:
        DataError: for several crops by a processor that does not crop.
    """
    if arguments.num_crops > 1 and not processor.do_center_crop:
        raise DataError(
            f"num_crops is {arguments.num_crops}, but the video processor keeps whole frames: leave it at 1."
        )
    processor = with_given(processor, arguments)
    return type(processor).from_dict(
        processor.to_dict() | {"num_clips": arguments.num_clips, "num_crops": arguments.num_crops}
    )


def split_views(pixel_values: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A batch (clips, [views,] frames, channels, height, width) as (clips * views, ...), and the number of views."""
    if pixel_values.dim() == 5:
        return pixel_values, 1
    return pixel_values.flatten(0, 1), pixel_values.shape[1]
