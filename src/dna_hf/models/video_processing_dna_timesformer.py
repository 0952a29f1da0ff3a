"""Video processor of the DnA TimeSformer; it needs no torchvision.

transformers' own video processors resize with torchvision and decode with torchcodec. This one resizes with torch and
decodes with PyAV; everything else is as users of `transformers.BaseVideoProcessor` know it.
"""

import os
from io import BytesIO
from typing import Any
from urllib.request import urlopen

import torch
from torch.nn import functional
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling

# from its module, which is there without torchvision; the name at the top level is not
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import make_batched_videos

from .video_decoding import BASE_FRAME_RATE, FrameSampling, VideoDecodingError, decode_video


# seconds without an answer
DOWNLOAD_TIMEOUT = 60
INTERPOLATIONS = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


class DnATimesformerVideoProcessor(BaseVideoProcessor):
    r"""
    Makes `pixel_values` (videos, frames, channels, height, width) of videos: chooses frames, resizes their short side,
    cuts out the centre, scales to [0, 1] and normalises.

    Args:
        num_frames (`int`, *optional*, defaults to 8):
            Frames to choose.
        sampling (`str`, *optional*, defaults to `"uniform"`):
            How they are chosen, `"uniform"`, `"centered"` or `"released"`: see `FrameSampling` in `video_decoding.py`.
        sampling_rate (`int`, *optional*, defaults to 32):
            Frames of a video of 30 frames per second from one chosen frame to the next, where a window is sampled.
        size (`dict`, *optional*, defaults to `{"shortest_edge": 224}`):
            Short side after resizing, or `{"height", "width"}`, in pixels.
        crop_size (`dict`, *optional*, defaults to `{"height": 224, "width": 224}`):
            What is cut out of the centre.
        num_clips (`int`, *optional*, defaults to 1):
            Views over time.
        num_crops (`int`, *optional*, defaults to 1):
            Views along the long side: 1, or 3 for left, middle and right (top, middle and bottom). The views of a
            video follow each other in `pixel_values`, the crops of a clip first.
        do_resize, do_center_crop, do_rescale, do_normalize, do_sample_frames, resample, rescale_factor, image_mean,
        image_std:
            As of every video processor of transformers.

    The inputs are videos or lists of them: paths, URLs, and arrays or tensors (frames, height, width, channels) or
    (frames, channels, height, width), or lists of PIL images; of these, frames are chosen if there are more than
    `num_frames`.

    Raises:
        ValueError: for an unknown option, a video that cannot be decoded, or frames that cannot be cropped.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = [0.45, 0.45, 0.45]
    image_std = [0.225, 0.225, 0.225]
    size = {"shortest_edge": 224}
    crop_size = {"height": 224, "width": 224}
    default_to_square = False
    do_resize = True
    do_center_crop = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    num_frames = 8
    sampling = "uniform"
    sampling_rate = 32
    num_clips = 1
    num_crops = 1
    model_input_names = ["pixel_values"]

    def preprocess(self, videos: Any, return_tensors: str | None = "pt", **options: Any) -> BatchFeature:
        """Process videos; any argument of the class can be overridden by name."""
        settings = self._with_options(options)
        views = [
            view
            for video in make_batched_videos(_paths_as_text(videos))
            for clip in settings.read_clips(video)
            for view in settings.crops(clip)
        ]
        shapes = {tuple(view.shape) for view in views}
        if return_tensors is not None and len(shapes) > 1:
            raise ValueError(f"the videos have different shapes ({', '.join(map(str, shapes))}): set do_center_crop.")
        return BatchFeature({"pixel_values": torch.stack(views) if return_tensors else views}, return_tensors)

    def _with_options(self, options: dict[str, Any]) -> "DnATimesformerVideoProcessor":
        """This processor with other settings."""
        given = {name: value for name, value in options.items() if value is not None}
        unknown = [name for name in given if name not in SETTINGS]
        if unknown:
            raise ValueError(f"{type(self).__name__} has no option {unknown[0]!r}.")
        if not given:
            return self
        return type(self)(**{name: getattr(self, name) for name in SETTINGS} | given)

    def samplings(self) -> list[FrameSampling]:
        """How the frames of every view over time are chosen."""
        return [
            FrameSampling(self.sampling, self.num_frames, self.sampling_rate, clip, self.num_clips)
            for clip in range(self.num_clips)
        ]

    def read_clips(self, video: Any) -> list[torch.Tensor]:
        """Views over time of one video: its chosen frames, (frames, channels, height, width) in bytes.

        Raises:
            ValueError: if it cannot be decoded.
        """
        if not isinstance(video, str):
            frames = as_frames(video)
            if not self.do_sample_frames:
                return [frames]
            return [frames[sampling(len(frames), BASE_FRAME_RATE)] for sampling in self.samplings()]
        source: Any = video
        if video.startswith(("http://", "https://")):
            with urlopen(video, timeout=DOWNLOAD_TIMEOUT) as response:
                source = BytesIO(response.read())
        choose: Any = self.samplings() if self.do_sample_frames else [lambda total, rate: list(range(total))]
        try:
            return [as_frames(decode_video(source, each)[0]) for each in choose]
        except VideoDecodingError as error:
            raise ValueError(f"cannot read video {video!r}: {error}.") from error

    def crops(self, frames: torch.Tensor) -> list[torch.Tensor]:
        """Resize, crop and normalise frames (frames, channels, height, width); one tensor per crop."""
        frames = frames.float()
        if self.do_resize:
            frames = self.resize_frames(frames, self._resized(*frames.shape[-2:]))
        if not self.do_center_crop:
            return [self.normalize_frames(frames)]
        height, width = self.crop_size["height"], self.crop_size["width"]
        rest_height, rest_width = frames.shape[-2] - height, frames.shape[-1] - width
        if rest_height < 0 or rest_width < 0:
            raise ValueError(
                f"frames of {frames.shape[-2]}x{frames.shape[-1]} pixels cannot be cropped to {height}x{width}."
            )
        if self.num_crops not in (1, 3):
            raise ValueError(f"num_crops must be 1 or 3, got {self.num_crops}.")
        parts = (0.5,) if self.num_crops == 1 else (0.0, 0.5, 1.0)
        corners = [
            (
                round(rest_height * (0.5 if rest_width >= rest_height else part)),
                round(rest_width * (part if rest_width >= rest_height else 0.5)),
            )
            for part in parts
        ]
        return [self.normalize_frames(frames[..., top : top + height, left : left + width]) for top, left in corners]

    def resize_frames(self, frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Resize frames (frames, channels, height, width) to (height, width) pixels, with anti-aliasing."""
        if tuple(frames.shape[-2:]) == size:
            return frames
        mode = INTERPOLATIONS.get(self.resample)
        if mode is None:
            raise ValueError(f"resample must be bilinear or bicubic, got {self.resample}.")
        return functional.interpolate(frames, size, mode=mode, align_corners=False, antialias=True)

    def normalize_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Scale and normalise frames (frames, channels, height, width) of values up to 255."""
        if self.do_rescale:
            frames = frames * self.rescale_factor
        if not self.do_normalize:
            return frames
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        return (frames - mean) / std

    def describe(self) -> dict[str, str]:
        """What is made of a video, in words: its `frames`, their `size` and `normalisation`, and the `views`."""
        kept = {
            "uniform": "spread over the whole video",
            "centered": f"of a window in the middle, one in {self.sampling_rate} at 30 per second",
            "released": f"of a window at the start, one in {self.sampling_rate} at 30 per second",
        }
        frames = f"{self.num_frames}, {self.sampling}: {kept[self.sampling]}" if self.do_sample_frames else "all"
        steps = []
        if self.do_resize:
            short = self.size.get("shortest_edge")
            sides = f"short side {short}" if short else f"{self.size['height']}x{self.size['width']}"
            steps.append(f"resized to {sides} pixels")
        if self.do_center_crop:
            steps.append(f"{self.crop_size['height']}x{self.crop_size['width']} cut from the centre")
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.image_mean, self.image_std))
        return {
            "frames": frames,
            "size": ", ".join(steps) or "as it is",
            "normalisation": f"mean {mean}; standard deviation {std}" if self.do_normalize else "none",
            "views": f"{self.num_clips} over time x {self.num_crops} over space",
        }

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing."""
        if self.size.get("shortest_edge"):
            return short_side_size(height, width, self.size["shortest_edge"])
        return self.size["height"], self.size["width"]


SETTINGS = (
    *("resample", "image_mean", "image_std", "size", "crop_size", "do_resize", "do_center_crop", "do_rescale"),
    *("rescale_factor", "do_normalize", "do_sample_frames", "num_frames", "sampling", "sampling_rate", "num_clips"),
    "num_crops",
)


def _paths_as_text(videos: Any) -> Any:
    """Videos with `pathlib` paths as strings, as transformers wants them."""
    if isinstance(videos, list | tuple):
        return [_paths_as_text(video) for video in videos]
    return os.fspath(videos) if isinstance(videos, os.PathLike) else videos


def as_frames(video: Any) -> torch.Tensor:
    """Frames (frames, channels, height, width) of an array or tensor with the channels behind or in front.

    Raises:
        ValueError: if it is neither.
    """
    frames = torch.as_tensor(video)
    if frames.dim() == 4 and frames.shape[-1] in (1, 3):
        frames = frames.permute(0, 3, 1, 2)
    if frames.dim() != 4 or frames.shape[1] not in (1, 3) or not len(frames):
        raise ValueError(
            "a video is (frames, height, width, channels) or (frames, channels, height, width) with 1 or 3 channels, "
            f"got shape {tuple(frames.shape)}."
        )
    return frames if frames.shape[1] == 3 else frames.expand(-1, 3, -1, -1)


def short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width after the short side is resized to `short_side` pixels."""
    if height <= width:
        return short_side, max(int(width * short_side / height), short_side)
    return max(int(height * short_side / width), short_side), short_side


__all__ = ["DnATimesformerVideoProcessor"]
