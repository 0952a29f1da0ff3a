"""Labelled clips and splits of them. No video is opened here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..models.video_decoding import BASE_FRAME_RATE, FrameSampling
from .errors import DataError
from .files import LeftOut
from .image_reading import read_image_file
from .splits import Split


class Decoder(Protocol):
    """Decodes video files, as [`~dna_hf.data.videos.VideoReader`] does."""

    def decode(
        self,
        path: str,
        sampling: FrameSampling,
        start: float | None,
        end: float | None,
        frames: tuple[int, int | None] | None = None,
    ) -> np.ndarray:
        """Frames (frames, height, width, 3), uint8, of a file from `start` to `end` in seconds, or of `frames`."""
        ...


@dataclass(frozen=True)
class Clip:
    """One labelled clip.

    Args:
        path: video file; where `frames` is given, a name for messages.
        label: index of the clip's class.
        start: seconds into the file at which the clip begins; `None`: at the beginning of the file.
        end: seconds into the file at which the clip ends; `None`: at the end of the file.
        frames: image files, in order, instead of a video file.
        part: number of the clip's first frame in the file, from 0, and of the first one behind it, `None` at the end
            of the file; `None`: `start` and `end` say what the clip is.
    """

    path: str
    label: int
    start: float | None = None
    end: float | None = None
    frames: tuple[str, ...] | None = None
    part: tuple[int, int | None] | None = None

    def frames_for(self, sampling: FrameSampling, decoder: Decoder) -> np.ndarray:
        """Read those frames of the clip that are sampled.

        Args:
            sampling: function that says which frames to read, of their number and the frame rate.
            decoder: object that decodes video files.

        Returns:
            Frames (frames, height, width, 3), uint8.

        Raises:
            DataError: naming the clip, if it cannot be read.
        """
        if self.frames is None:
            part = () if self.part is None else (self.part,)
            return decoder.decode(self.path, sampling, self.start, self.end, *part)
        numbers = sampling(len(self.frames), BASE_FRAME_RATE)
        pictures = [np.asarray(read_image_file(self.frames[number])) for number in numbers]
        if len({picture.shape for picture in pictures}) > 1:
            raise DataError(f"cannot read video {self.path!r}: its frames have different sizes.")
        return np.stack(pictures)

    @property
    def key(self) -> tuple[str, float | None, float | None, Any]:
        """What two clips of the same part of the same file have in common: the file, and what tells the part."""
        frames = self.frames
        return self.path, self.start, self.end, (frames[0], frames[-1]) if frames else self.part


@dataclass
class LabelledVideos(Split):
    """One split of videos.

    Args:
        clips: clips whose files are there, in order.
        class_names: names that the labels index.
        name: name of the split.
        missing: files that the split lists and that are not there.
        notes: sentences about what was decided for the user.
        left_out: what lies in the data set and is in no split.
        hint: what to do about the missing files, where something is known.
    """

    clips: list[Clip]
    class_names: list[str]
    name: str
    missing: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    hint: str = ""

    unit = "videos"

    def __len__(self) -> int:
        return len(self.clips)

    def labels(self) -> np.ndarray:
        """Label of each clip, in order."""
        return np.array([clip.label for clip in self.clips], dtype=int)

    def part(self, numbers: Sequence[int], name: str | None = None) -> "LabelledVideos":
        """The clips of these numbers, in the order of the split."""
        clips = [self.clips[number] for number in sorted(numbers)]
        return replace(self, clips=clips) if name is None else replace(self, clips=clips, name=name, missing=[])

    def with_classes(self, names: list[str]) -> "LabelledVideos":
        """The same clips, their labels numbered by other names, among which those of the data are."""
        clips = [replace(clip, label=names.index(self.class_names[clip.label])) for clip in self.clips]
        return replace(self, clips=clips, class_names=names)
