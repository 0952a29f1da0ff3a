"""Video processor of the DnA VideoLLaMA3; it needs no torchvision.

Frames are chosen by time, decoded with PyAV, and resized with Pillow, as images are.
"""

import math
import os
from bisect import bisect_right
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import resize
from transformers.image_utils import ChannelDimension, PILImageResampling
from transformers.processing_utils import VideosKwargs
from transformers.utils import logging

# from its module, which is there without torchvision; the name at the top level is not
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .image_processing_dna_video_llama3 import (
    MAX_VISUAL_TOKENS,
    MIN_VISUAL_TOKENS,
    download,
    is_url,
    resized_sides,
)
from .processing_options import WITHOUT_USE, check_names, check_without_use, is_scaled, pixel_limits
from .video_decoding import VideoDecodingError, decode_video
from .video_inputs import as_frames, as_part, is_list, is_video
from .video_metadata import even, frame_metadata, listed_metadata, spread, times_of


logger = logging.get_logger(__name__)

# frames per second that a folder of frames is taken to have
FOLDER_FRAME_RATE = 3
FRAME_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
# part of a frame by which times may be off: files round them
TIME_TOLERANCE = 0.005
# change of a token, in levels of 255, below which it is left out
COMPRESSION_THRESHOLD = 0.1


class DnAVideoLlama3VideoProcessorKwargs(VideosKwargs, total=False):
    """Options beyond those of every video processor, see below."""

    min_pixels: int | None
    max_pixels: int | None
    max_frames: int | None
    max_visual_tokens: int | None
    min_visual_tokens: int | None
    patch_size: int | None
    temporal_patch_size: int | None
    merge_size: int | None
    use_token_compression: bool | None


class SampledVideo(NamedTuple):
    """Chosen frames of a video (frames, height, width, 3), their times in seconds, and what is known of it."""

    frames: torch.Tensor
    timestamps: list[float]
    metadata: VideoMetadata


class DnAVideoLlama3VideoProcessor(BaseVideoProcessor):
    r"""
    Makes of videos `pixel_values_videos` (patches, 3 * patch_size ** 2), the patches of a token next to each other,
    `video_grid_thw` (videos, 3), frames, rows and columns of patches of each video, and `video_merge_sizes` (videos,).

    Args:
        fps (`float`, *optional*, defaults to 1):
            Frames to choose of each second: at time k / fps the last frame that has begun.
        num_frames (`int`, *optional*):
            Frames to choose of a video, evenly, as transformers does; instead of `fps` and `max_frames`.
        max_frames (`int`, *optional*, defaults to 180):
            Of more frames than these, so many are chosen, evenly from the first to the last.
        max_visual_tokens (`int`, *optional*, defaults to 16384):
            Tokens that all frames of a video may have together.
        min_visual_tokens (`int`, *optional*, defaults to 16):
            Tokens that a frame grows to.
        patch_size (`int`, *optional*, defaults to 14):
            Side of a patch in pixels.
        merge_size (`int`, *optional*, defaults to 2):
            A token stands for `merge_size ** 2` patches.
        use_token_compression (`bool`, *optional*, defaults to `False`):
            Whether to add `video_compression_mask` (tokens,), false for the tokens that hardly differ from the frame
            before, as transformers' video processor does.
        do_resize, do_rescale, do_normalize, do_sample_frames, resample, rescale_factor, image_mean, image_std:
            As of every video processor of transformers.
        size, min_pixels, max_pixels:
            As of transformers' video processor: pixels of a frame at least, of all frames of a video at most. They set
            `min_visual_tokens` and `max_visual_tokens`.
        input_data_format (`str`, *optional*):
            Of frames: `"channels_first"` or `"channels_last"`; by default where 1 or 3 numbers are.
        return_metadata (`bool`, *optional*, defaults to `False`):
            Whether to return `video_metadata`, too: a [`VideoMetadata`] for each video.

    A video is one of:

    - the path or URL of a video, the path of a folder of frames (at 3 frames per second, in the order of their names),
      or `{"path": ..., "start": seconds, "end": seconds}` for a part of it, which may have an `fps`, `max_frames` and
      `num_frames` of its own; `video_path`, `start_time` and `end_time` are other names of these;
    - frames (frames, height, width, channels) or (frames, channels, height, width), or a list of images: PIL images,
      arrays, or paths. They are bytes, or floating-point numbers, of which those in [0, 1] are not scaled again.
      With `video_metadata` they keep their times, and are chosen by these; without, they are taken to be chosen
      already, one every 1 / fps seconds.

    Raises:
        ValueError: for an unknown or impossible option, one that would have no effect, a video that cannot be read, or
            frames that do not fit `max_visual_tokens`.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    do_resize = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_sample_frames = True
    fps = 1
    num_frames = None
    max_frames = 180
    max_visual_tokens = MAX_VISUAL_TOKENS
    min_visual_tokens = MIN_VISUAL_TOKENS
    patch_size = 14
    merge_size = 2
    use_token_compression = False
    valid_kwargs = DnAVideoLlama3VideoProcessorKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values_videos", "video_grid_thw", "video_merge_sizes"]

    def __init__(self, **options: Any) -> None:
        least, most = pixel_limits(*(options.pop(name, None) for name in LIMITS))
        if options.pop("temporal_patch_size", None) not in (None, 1):
            raise ValueError("temporal_patch_size must be 1: every frame has patches of its own.")
        # all of them are saved, also those that are not given
        given = {name: value for name, value in options.items() if value is not None or name.startswith("do_")}
        super().__init__(**{name: getattr(type(self), name, None) for name in SETTINGS} | given)
        if least is not None and options.get("min_visual_tokens") is None:
            self.min_visual_tokens = max(1, math.ceil(least / self.factor**2))
        if most is not None and options.get("max_visual_tokens") is None:
            self.max_visual_tokens = most // self.factor**2
        self._check_settings()

    def _check_settings(self) -> None:
        names = ("max_frames", "max_visual_tokens", "min_visual_tokens", "patch_size", "merge_size", "num_frames")
        for name in names:
            value = getattr(self, name)
            if name == "num_frames" and value is None:
                continue
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
        if not isinstance(self.fps, int | float) or not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be a number above 0, got {self.fps!r}.")

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Make a processor of saved settings; of what an image processor saved, all but the number of tokens."""
        settings = dict(video_processor_dict)
        if settings.get("video_processor_type") == "VideoLlama3VideoProcessor":
            # transformers' own needs it for the times
            settings.pop("return_metadata", None)
        if "image_processor_type" in settings:
            for name in ("merge_size", "size", "min_pixels", "max_pixels"):
                settings.pop(name, None)
        return super().from_dict(settings, **kwargs)

    @property
    def factor(self) -> int:
        """Side of a token in pixels."""
        return self.patch_size * self.merge_size

    def preprocess(  # type: ignore[override]
        self, videos: Any, return_tensors: str | None = None, video_metadata: Any = None, **options: Any
    ) -> BatchFeature:
        """Process a video or a list of videos; any argument of the class can be overridden by name.

        Args:
            videos: a video, a list of them, or a list for each sample.
            return_tensors: `"pt"` or `"np"`.
            video_metadata: a [`VideoMetadata`] or a dictionary like it for each video whose frames are given:
                `fps`, and `frames_indices` where the frames are not all of the video.
            options: settings of this call.
        """
        settings = self.with_options(**options)
        videos = [videos] if is_video(videos) else videos
        if not isinstance(videos, list | tuple) or not videos:
            raise ValueError(f"videos must be a video or a list of videos, got {videos!r:.100}.")
        videos = [video for part in videos for video in (part if is_list(part) else [part])]
        read = [
            settings.read_video(video, *([known] if known is not None else []))
            for video, known in zip(videos, listed_metadata(video_metadata, len(videos)), strict=True)
        ]
        processed = [
            settings.process_frames(video.frames, settings.pixels_per_frame(len(video.frames))) for video in read
        ]
        data: dict[str, Any] = dict(settings.batch(processed))
        if settings.return_metadata:
            data["video_metadata"] = [video.metadata for video in read]
        return BatchFeature(data, return_tensors, skip_tensor_conversion=["video_metadata"])

    def with_options(self, **options: Any) -> "DnAVideoLlama3VideoProcessor":
        """This processor with other settings; `None` leaves one as it is.

        Raises:
            ValueError: for an option that is unknown, impossible, given twice, or would have no effect.
        """
        given = {name: value for name, value in options.items() if value is not None}
        check_names(type(self).__name__, given, (*SETTINGS, *LIMITS, *WITHOUT_USE))
        check_without_use(type(self).__name__, given)
        others = [name for name in ("fps", "max_frames") if name in given]
        if "num_frames" in given and others:
            raise ValueError(
                f"num_frames and {others[0]} are both given: the one or the other says which frames to choose."
            )
        # what is given now is meant rather than a number of frames that was set before
        kept = [name for name in SETTINGS if name != "num_frames" or not others]
        least, most = pixel_limits(*(given.pop(name, None) for name in LIMITS))
        factor = given.get("patch_size", self.patch_size) * given.get("merge_size", self.merge_size)
        tokens = {
            "min_visual_tokens": None if least is None else math.ceil(least / factor**2),
            "max_visual_tokens": None if most is None else max(1, most // factor**2),
        }
        for name, value in tokens.items():
            if value is not None and name in given:
                raise ValueError(f"{name} is given twice, as a number of pixels, too: give it once.")
            if value is not None:
                given[name] = value
        given = {name: value for name, value in given.items() if name in SETTINGS}
        if not given:
            return self
        return type(self)(**{name: getattr(self, name) for name in kept} | given)

    def pixels_per_frame(self, frames: int) -> int:
        """Pixels that each of so many frames may have.

        Raises:
            ValueError: if they are too many for `max_visual_tokens`.
        """
        check_budget(frames, self.max_visual_tokens, self.min_visual_tokens)
        return self.max_visual_tokens * self.factor**2 // frames

    def tokens_of(self, frames: int, height: int, width: int, max_pixels: int) -> int:
        """Tokens of so many frames of so many pixels, each of which may have `max_pixels`."""
        least = min(self.min_visual_tokens * self.factor**2, max_pixels)
        sides = resized_sides(height, width, self.factor, least, max_pixels) if self.do_resize else (height, width)
        return frames * (sides[0] // self.factor) * (sides[1] // self.factor)

    def get_num_of_video_patches(
        self, num_frames: int, height: int, width: int, videos_kwargs: dict[str, Any] | None = None
    ) -> int:
        """Patches of so many frames of so many pixels, with the options of a call."""
        settings = self.with_options(**(videos_kwargs or {}))
        tokens = settings.tokens_of(num_frames, height, width, settings.pixels_per_frame(num_frames))
        return tokens * settings.merge_size**2

    def read_video(self, video: Any, video_metadata: Any = None) -> SampledVideo:
        """The chosen frames of one video, of which more may be known; see `preprocess`."""
        source, start, end, own = as_part(video)
        settings = self.with_options(**own)
        if isinstance(source, str | os.PathLike):
            if video_metadata is not None:
                raise ValueError(
                    f"video_metadata tells of frames that are decoded already, but {os.fspath(source)[:200]!r} is "
                    "read here and tells itself: leave it out, or give None for this video."
                )
            return settings._read_file(os.fspath(source), start, end)
        if start is not None or end is not None:
            raise ValueError("start and end need the path of a video: of frames, give only those that are meant.")
        return settings._read_frames(source, video_metadata)

    def _read_frames(self, source: Any, video_metadata: Any) -> SampledVideo:
        frames = as_frames(source, getattr(self, "input_data_format", None), self.do_rescale)
        known, numbers = frame_metadata(video_metadata, len(frames)), list(range(len(frames)))
        if known is None:
            logger.warning_once(
                "frames of a video without video_metadata are taken to be one every 1 / fps seconds: give "
                "video_metadata with their fps, and they keep their times."
            )
            known = VideoMetadata(len(frames), self.fps, frames_indices=numbers)
            chosen = numbers
        else:
            chosen = self._shown(known.timestamps, known.fps)
        if not self.do_sample_frames:
            chosen = numbers
        elif self.num_frames is not None:
            if self.num_frames > len(frames):
                raise ValueError(f"a video of {len(frames)} frames has fewer than num_frames={self.num_frames}.")
            chosen = even(len(frames), self.num_frames)
        else:
            chosen = spread(chosen, self.max_frames)
        times, own = known.timestamps, known.frames_indices or numbers
        known.height, known.width = frames.shape[1:3]
        known.frames_indices = [own[index] for index in chosen]
        # an index copies, even if it takes all
        frames = frames if len(chosen) == len(frames) else frames[chosen]
        return SampledVideo(frames, [times[index] for index in chosen], known)

    def _shown(self, times: list[float], frame_rate: float | None) -> list[int]:
        """Numbers of the frames that are shown every 1 / fps seconds from the first on, each of them once."""
        late = TIME_TOLERANCE / (frame_rate or self.fps)
        moments = math.floor((times[-1] - times[0] + late) * self.fps) + 1
        found = (bisect_right(times, times[0] + moment / self.fps + late) - 1 for moment in range(moments))
        return sorted(set(found))

    def _read_file(self, name: str, start: float | None, end: float | None) -> SampledVideo:
        timestamps: list[float] = []
        known = VideoMetadata(0, video_backend="pyav")

        def choose(total: int, frame_rate: float) -> list[int]:
            indices, times = self.choose_frames(total, frame_rate)
            timestamps[:] = [(start or 0) + time for time in times]
            known.update(times_of(total, frame_rate, indices, start))
            return indices

        try:
            if Path(name).is_dir():
                return self._read_folder(Path(name), start, end)
            source = BytesIO(download(name)) if is_url(name) else name
            frames, _ = decode_video(source, choose, start, end)
        except (VideoDecodingError, OSError) as error:
            raise ValueError(f"cannot read video {name!r}: {error}.") from error
        known.height, known.width = frames.shape[1:3]
        return SampledVideo(torch.from_numpy(frames), timestamps, known)

    def _read_folder(self, folder: Path, start: float | None, end: float | None) -> SampledVideo:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES)
        first = math.ceil((start or 0) * FOLDER_FRAME_RATE)
        paths = paths[first : None if end is None else math.ceil(end * FOLDER_FRAME_RATE)]
        if not paths:
            raise ValueError(
                f"cannot read video {str(folder)!r}: the folder has no frames from {start or 0} to {end} s."
            )
        indices, times = self.choose_frames(len(paths), FOLDER_FRAME_RATE)
        frames = as_frames([paths[index] for index in indices])
        known = VideoMetadata(0, height=frames.shape[1], width=frames.shape[2])
        known.update(times_of(len(paths), FOLDER_FRAME_RATE, indices, start))
        return SampledVideo(frames, [(start or 0) + time for time in times], known)

    def choose_frames(self, total: int, frame_rate: float) -> tuple[list[int], list[float]]:
        """Numbers of the frames to take of a video of `total` frames, and their times from its start in seconds.

        Raises:
            VideoDecodingError: if it has fewer than `num_frames`.
        """
        if not self.do_sample_frames or self.num_frames is not None:
            indices = even(total, self.num_frames) if self.do_sample_frames else list(range(total))
            return indices, [index / frame_rate for index in indices]
        step = frame_rate / self.fps
        count = max(1, math.ceil((total - TIME_TOLERANCE) / step))
        chosen = spread(list(range(count)), self.max_frames)
        indices = [min(math.floor(index * step + TIME_TOLERANCE), total - 1) for index in chosen]
        return indices, [index / self.fps for index in chosen]

    def process_frames(self, frames: torch.Tensor, max_pixels: int) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Patches (patches, 3 * patch_size ** 2) of frames (frames, height, width, 3), and their grid.

        Args:
            max_pixels: most pixels that a frame may have.
        """
        if self.do_resize:
            min_pixels = min(self.min_visual_tokens * self.factor**2, max_pixels)
            height, width = frames.shape[1:3]
            frames = self._resize(frames, resized_sides(height, width, self.factor, min_pixels, max_pixels))
        count, height, width, _ = frames.shape
        if height % self.factor or width % self.factor:
            raise ValueError(f"frames of {height}x{width} pixels are no multiples of {self.factor}: set do_resize.")
        patch, merge = self.patch_size, self.merge_size
        rows, columns = height // patch, width // patch
        # frame, token row and column, row and column in the token, channel, row and column in the patch
        patches = self._normalize(frames).view(count, rows // merge, merge, patch, columns // merge, merge, patch, 3)
        patches = patches.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(count * rows * columns, 3 * patch**2)
        return patches, (count, rows, columns)

    def _resize(self, frames: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
        if tuple(frames.shape[1:3]) == sides:
            return frames
        if is_scaled(frames):
            # Pillow resizes bytes
            return self._resize((frames * 255).round().to(torch.uint8), sides) / 255
        last = ChannelDimension.LAST
        resized = [
            resize(frame.numpy(), sides, self.resample, data_format=last, input_data_format=last) for frame in frames
        ]
        return torch.stack([torch.from_numpy(frame) for frame in resized])

    def _normalize(self, frames: torch.Tensor) -> torch.Tensor:
        values = frames.float()
        if self.do_rescale:
            values = values * self.rescale_factor
        if self.do_normalize:
            values = (values - torch.tensor(self.image_mean)) / torch.tensor(self.image_std)
        return values

    def compression_mask(self, patches: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        """Which tokens of a video to keep, (frames, tokens of a frame): one of each frame at least."""
        tokens = patches.view(grid[0], grid[1] * grid[2] // self.merge_size**2, -1)
        change = (tokens[1:] - tokens[:-1]).abs().mean(dim=-1) * 255
        keep = torch.cat([torch.ones(1, tokens.shape[1], dtype=torch.bool), change > COMPRESSION_THRESHOLD])
        keep[~keep.any(dim=1), 0] = True
        return keep

    def batch(self, processed: list[tuple[torch.Tensor, tuple[int, int, int]]]) -> dict[str, torch.Tensor]:
        """The inputs of the model for what `process_frames` made of each video."""
        data = {
            "pixel_values_videos": torch.cat([patches for patches, _ in processed]),
            "video_grid_thw": torch.tensor([grid for _, grid in processed]),
            "video_merge_sizes": torch.tensor([self.merge_size] * len(processed)),
        }
        if self.use_token_compression:
            masks = [self.compression_mask(*video).flatten() for video in processed]
            data["video_compression_mask"] = torch.cat(masks)
        return data


SETTINGS = (
    *("resample", "image_mean", "image_std", "do_resize", "do_rescale", "rescale_factor", "do_normalize"),
    *("do_sample_frames", "fps", "num_frames", "max_frames", "max_visual_tokens", "min_visual_tokens", "patch_size"),
    *("merge_size", "use_token_compression", "input_data_format", "return_metadata"),
)
LIMITS = ("size", "min_pixels", "max_pixels")


def check_budget(visuals: int, max_visual_tokens: int, min_visual_tokens: int) -> None:
    """
    Raises:
        ValueError: if so many images and frames are too many for so many tokens.
    """
    if visuals * min_visual_tokens > max_visual_tokens:
        raise ValueError(
            f"{visuals} images or frames of at least {min_visual_tokens} tokens each do not fit max_visual_tokens="
            f"{max_visual_tokens}: lower fps or max_frames, or raise max_visual_tokens."
        )


__all__ = ["DnAVideoLlama3VideoProcessor"]
