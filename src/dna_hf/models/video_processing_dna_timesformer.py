"""Video processor of the DnA TimeSformer; it needs no torchvision.

transformers' own video processors resize with torchvision and decode with torchcodec. This one resizes with torch and
decodes with PyAV; everything else is as users of `transformers.BaseVideoProcessor` know it.
"""

import os
from io import BytesIO
from typing import Any
from urllib.request import urlopen

import torch
from huggingface_hub import is_offline_mode
from torch.nn import functional
from transformers.image_processing_utils import BatchFeature, get_size_dict
from transformers.image_utils import PILImageResampling, is_pil_image
from transformers.processing_utils import VideosKwargs

# from its module, which is there without torchvision; the name at the top level is not
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata, make_batched_videos

from .processing_options import WITHOUT_USE, check_names, check_without_use, scaled_to_levels
from .video_decoding import BASE_FRAME_RATE, FrameSampling, VideoDecodingError, decode_video
from .video_metadata import channels_first, even, frame_metadata, listed_metadata, times_of


# seconds without an answer
DOWNLOAD_TIMEOUT = 60
# part by which the frames a second of a file may be off
RATE_TOLERANCE = 1e-3
INTERPOLATIONS = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


class DnATimesformerVideoProcessorKwargs(VideosKwargs, total=False):
    """Options beyond those of every video processor, see below."""

    sampling: str | None
    sampling_rate: int | None
    num_clips: int | None
    num_crops: int | None


class DnATimesformerVideoProcessor(BaseVideoProcessor):
    r"""
    Makes `pixel_values` (videos, frames, channels, height, width) of videos: chooses frames, resizes their short side,
    cuts out the centre, scales to [0, 1] and normalises.

    Args:
        num_frames (`int`, *optional*, defaults to 8):
            Frames to choose.
        sampling (`str`, *optional*, defaults to `"uniform"`):
            How they are chosen, `"uniform"`, `"centered"` or `"released"`: see `FrameSampling` in `video_decoding.py`.
        fps (`float`, *optional*):
            Frames to choose of each second, as transformers does, instead of `num_frames` and `sampling`: as many as
            the video is long. Of frames that are given it needs their `video_metadata`.
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
        input_data_format (`str`, *optional*):
            Of frames: `"channels_first"` or `"channels_last"`; by default where 1 or 3 numbers are.
        return_metadata (`bool`, *optional*, defaults to `False`):
            Whether to return `video_metadata`, too: a [`VideoMetadata`] for each video and view over time.
        do_resize, do_center_crop, do_rescale, do_normalize, do_sample_frames, resample, rescale_factor, image_mean,
        image_std:
            As of every video processor of transformers.

    The inputs are videos or lists of them: paths, URLs, and arrays or tensors (frames, height, width, channels) or
    (frames, channels, height, width), or lists of PIL images; of these, frames are chosen if there are more than
    `num_frames`. Floating-point numbers in [0, 1] are not scaled again. A video of fewer frames than `num_frames`
    shows some of them more than once.

    Raises:
        ValueError: for an unknown option or one that would have no effect, a video that cannot be decoded, or frames
            that cannot be cropped.
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
    fps: float | None = None
    valid_kwargs = DnATimesformerVideoProcessorKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values"]

    def preprocess(  # type: ignore[override]
        self, videos: Any, return_tensors: str | None = "pt", video_metadata: Any = None, **options: Any
    ) -> BatchFeature:
        """Process videos; any argument of the class can be overridden by name.

        Args:
            videos: a video or a list of them.
            return_tensors: `"pt"`, `"np"`, or `None` for a list of tensors.
            video_metadata: a [`VideoMetadata`] or a dictionary like it for each video whose frames are given:
                `fps`, and `frames_indices` where the frames are not all of the video.
            options: settings of this call.
        """
        settings = self._with_options(options)
        batch = make_batched_videos(_paths_as_text(_pictures_as_rgb(videos)))
        views, known = [], []
        for video, metadata in zip(batch, listed_metadata(video_metadata, len(batch)), strict=True):
            for clip, own in settings.read_clips_with_metadata(video, metadata):
                views += settings.crops(clip)
                known.append(own)
        shapes = {tuple(view.shape) for view in views}
        if return_tensors is not None and len(shapes) > 1:
            raise ValueError(
                f"the videos have different shapes ({', '.join(map(str, shapes))}): set do_center_crop, and "
                "num_frames instead of fps."
            )
        data: dict[str, Any] = {"pixel_values": torch.stack(views) if return_tensors else views}
        if settings.return_metadata:
            data["video_metadata"] = known
        return BatchFeature(data, return_tensors, skip_tensor_conversion=["video_metadata"])

    def _with_options(self, options: dict[str, Any]) -> "DnATimesformerVideoProcessor":
        """This processor with other settings.

        Raises:
            ValueError: for an option that is unknown, or would have no effect.
        """
        given = {name: value for name, value in options.items() if value is not None}
        check_names(type(self).__name__, given, (*SETTINGS, *WITHOUT_USE))
        check_without_use(type(self).__name__, given, SETTINGS)
        if "num_frames" in given and "fps" in given:
            raise ValueError("num_frames and fps are both given: the one or the other says which frames to choose.")
        for name in ("size", "crop_size"):
            if name in given and not hasattr(given[name], "get"):
                given[name] = get_size_dict(
                    given[name], default_to_square=name == "crop_size" or given.get("default_to_square", False)
                )
        given = {name: value for name, value in given.items() if name in SETTINGS}
        if not given:
            return self
        # a number of frames that is given now is meant rather than an fps that was set before
        kept = [name for name in SETTINGS if name != "fps" or "num_frames" not in given]
        return type(self)(**{name: getattr(self, name) for name in kept} | given)

    def samplings(self) -> list[FrameSampling]:
        """How the frames of every view over time are chosen."""
        return [
            FrameSampling(self.sampling, self.num_frames, self.sampling_rate, clip, self.num_clips)
            for clip in range(self.num_clips)
        ]

    def read_clips_with_metadata(self, video: Any, video_metadata: Any) -> list[tuple[torch.Tensor, VideoMetadata]]:
        """Views over time of one video, its chosen frames (frames, channels, height, width), and which they are.

        Raises:
            ValueError: if it cannot be decoded, or what is known of it does not fit.
        """
        if not isinstance(video, str):
            return self._choose_of(video, video_metadata)
        if video_metadata is not None:
            raise ValueError(
                f"video_metadata tells of frames that are decoded already, but {video[:200]!r} is read here and tells "
                "itself: leave it out, or give None for this video."
            )
        source: Any = video
        if video.startswith(("http://", "https://")):
            if is_offline_mode():
                raise ValueError(f"cannot read video {video!r}: HF_HUB_OFFLINE=1 forbids downloads.")
            with urlopen(video, timeout=DOWNLOAD_TIMEOUT) as response:
                source = BytesIO(response.read())
        clips = []
        for choose in self._choices():
            known = VideoMetadata(0, video_backend="pyav")

            def chosen(total: int, frame_rate: float, choose: Any = choose, known: VideoMetadata = known) -> list[int]:
                indices = choose(total, frame_rate)
                known.update(times_of(total, frame_rate, indices, None))
                return indices

            try:
                frames = as_frames(decode_video(source, chosen)[0])
            except VideoDecodingError as error:
                raise ValueError(f"cannot read video {video!r}: {error}.") from error
            known.height, known.width = frames.shape[-2:]
            clips.append((frames, known))
        return clips

    def _choose_of(self, video: Any, video_metadata: Any) -> list[tuple[torch.Tensor, VideoMetadata]]:
        """Views over time of frames that are decoded already."""
        frames = as_frames(video, getattr(self, "input_data_format", None))
        if self.do_rescale:
            frames = scaled_to_levels(frames, "a video")
        known = frame_metadata(video_metadata, len(frames))
        if known is None and self.fps is not None and self.do_sample_frames:
            raise ValueError("fps needs video_metadata of frames that are given: how many of them are there a second?")
        rate = BASE_FRAME_RATE if known is None else rate_of(known)
        own = known.frames_indices if known is not None and known.frames_indices else list(range(len(frames)))
        clips = []
        for choose in self._choices():
            indices = choose(len(frames), rate)
            about = VideoMetadata(**known) if known is not None else VideoMetadata(len(frames))
            about.height, about.width = frames.shape[-2:]
            about.frames_indices = [own[index] for index in indices]
            clips.append((frames[indices], about))
        return clips

    def _choices(self) -> list[Any]:
        """For every view over time, what chooses the numbers of frames of their count and frames per second."""
        if not self.do_sample_frames:
            return [lambda total, rate: list(range(total))]
        fps = self.fps
        if fps is not None:
            if self.num_clips > 1:
                raise ValueError("fps chooses frames of the whole video: with num_clips, give num_frames.")
            return [lambda total, rate: every(fps, total, rate)]
        return list(self.samplings())

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
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.image_mean, self.image_std))
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
    *("num_crops", "fps", "input_data_format", "return_metadata"),
)


def every(fps: float, total: int, frame_rate: float) -> list[int]:
    """Numbers of `fps` frames a second of so many frames, evenly, as transformers chooses.

    Raises:
        VideoDecodingError: if there are fewer a second.
    """
    # files round their times
    if fps > frame_rate * (1 + RATE_TOLERANCE):
        raise VideoDecodingError(f"it has {frame_rate:g} frames a second, fewer than fps={fps:g}")
    return even(total, min(max(1, int(total / frame_rate * fps + RATE_TOLERANCE)), total))


def rate_of(known: VideoMetadata) -> float:
    """Frames a second of frames that may be some of a video only."""
    times = known.timestamps
    return (len(times) - 1) / (times[-1] - times[0]) if times[-1] > times[0] else float(known.fps or BASE_FRAME_RATE)


def _paths_as_text(videos: Any) -> Any:
    """Videos with `pathlib` paths as strings, as transformers wants them."""
    if isinstance(videos, list | tuple):
        return [_paths_as_text(video) for video in videos]
    return os.fspath(videos) if isinstance(videos, os.PathLike) else videos


def _pictures_as_rgb(videos: Any) -> Any:
    """Videos with pictures of every mode, e.g. with transparency, in RGB."""
    if isinstance(videos, list | tuple):
        return [_pictures_as_rgb(video) for video in videos]
    return videos.convert("RGB") if is_pil_image(videos) else videos


def as_frames(video: Any, input_data_format: str | None = None) -> torch.Tensor:
    """Frames (frames, channels, height, width) of an array or tensor with the channels behind or in front.

    Args:
        video: frames.
        input_data_format: `"channels_first"` or `"channels_last"`; by default where 1 or 3 numbers are.

    Raises:
        ValueError: if it is neither.
    """
    frames = torch.as_tensor(video)
    first = channels_first(input_data_format)
    if frames.dim() == 4 and (frames.shape[-1] in (1, 3) if first is None else not first):
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
