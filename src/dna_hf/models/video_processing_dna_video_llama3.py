"""Video processor of the DnA VideoLLaMA3; it needs no torchvision.

Frames are chosen by time, decoded with PyAV, and resized with Pillow, as images are.
"""

import math
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import resize
from transformers.image_utils import ChannelDimension, PILImageResampling, is_pil_image, to_numpy_array
from transformers.processing_utils import VideosKwargs

# from its module, which is there without torchvision; the name at the top level is not
from transformers.video_processing_utils import BaseVideoProcessor

from .image_processing_dna_video_llama3 import (
    MAX_VISUAL_TOKENS,
    MIN_VISUAL_TOKENS,
    download,
    is_url,
    read_image,
    resized_sides,
)
from .video_decoding import VideoDecodingError, decode_video


# frames per second that a folder of frames is taken to have
FOLDER_FRAME_RATE = 3
FRAME_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
# part of a frame by which times may be off: files round them
TIME_TOLERANCE = 0.005
# change of a token, in levels of 255, below which it is left out
COMPRESSION_THRESHOLD = 0.1


class DnAVideoLlama3VideosKwargs(VideosKwargs, total=False):
    """Options beyond those of every video processor, see below."""

    max_frames: int
    max_visual_tokens: int
    min_visual_tokens: int
    patch_size: int
    merge_size: int
    use_token_compression: bool


class SampledVideo(NamedTuple):
    """Chosen frames of a video: bytes (frames, height, width, 3), and their times in seconds."""

    frames: torch.Tensor
    timestamps: list[float]


class DnAVideoLlama3VideoProcessor(BaseVideoProcessor):
    r"""
    Makes of videos `pixel_values_videos` (patches, 3 * patch_size ** 2), the patches of a token next to each other,
    `video_grid_thw` (videos, 3), frames, rows and columns of patches of each video, and `video_merge_sizes` (videos,).

    Args:
        fps (`float`, *optional*, defaults to 1):
            Frames to choose of each second: at time k / fps the last frame that has begun.
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
            As saved by transformers' video processor: pixels of a frame at least, of all frames at most. They set
            `min_visual_tokens` and `max_visual_tokens`.

    A video is one of:

    - the path or URL of a video, the path of a folder of frames (at 3 frames per second, in the order of their names),
      or `{"path": ..., "start": seconds, "end": seconds}` for a part of it;
    - frames that are chosen already, one every 1 / fps seconds: bytes (frames, height, width, channels) or (frames,
      channels, height, width), or a list of images: PIL images, bytes, or paths.

    Raises:
        ValueError: for an unknown or impossible option, a video that cannot be read, or frames that do not fit
            `max_visual_tokens`.
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
    max_frames = 180
    max_visual_tokens = MAX_VISUAL_TOKENS
    min_visual_tokens = MIN_VISUAL_TOKENS
    patch_size = 14
    merge_size = 2
    use_token_compression = False
    valid_kwargs = DnAVideoLlama3VideosKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values_videos", "video_grid_thw", "video_merge_sizes"]

    def __init__(self, **options: Any) -> None:
        size = options.pop("size", None) or {}
        least = options.pop("min_pixels", None) or size.get("shortest_edge")
        most = options.pop("max_pixels", None) or size.get("longest_edge")
        if options.pop("temporal_patch_size", None) not in (None, 1):
            raise ValueError("temporal_patch_size must be 1: every frame has patches of its own.")
        # all of them are saved, also those that are not given
        given = {name: value for name, value in options.items() if value is not None}
        super().__init__(**{name: getattr(type(self), name) for name in SETTINGS} | given)
        if least is not None and options.get("min_visual_tokens") is None:
            self.min_visual_tokens = max(1, math.ceil(least / self.factor**2))
        if most is not None and options.get("max_visual_tokens") is None:
            self.max_visual_tokens = most // self.factor**2
        self._check_settings()

    def _check_settings(self) -> None:
        for name in ("max_frames", "max_visual_tokens", "min_visual_tokens", "patch_size", "merge_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
        if not isinstance(self.fps, int | float) or not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be a number above 0, got {self.fps!r}.")

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> Any:  # type: ignore[override]
        """Make a processor of saved settings; of what an image processor saved, all but the number of tokens."""
        settings = dict(video_processor_dict)
        if "image_processor_type" in settings:
            for name in ("merge_size", "size", "min_pixels", "max_pixels"):
                settings.pop(name, None)
        return super().from_dict(settings, **kwargs)

    @property
    def factor(self) -> int:
        """Side of a token in pixels."""
        return self.patch_size * self.merge_size

    def preprocess(self, videos: Any, return_tensors: str | None = None, **options: Any) -> BatchFeature:
        """Process a video or a list of videos; any argument of the class can be overridden by name."""
        settings = self.with_options(**options)
        processed = []
        videos = [videos] if is_video(videos) else videos
        if not isinstance(videos, list | tuple) or not videos:
            raise ValueError(f"videos must be a video or a list of videos, got {videos!r:.100}.")
        for video in videos:
            frames = settings.read_video(video).frames
            processed.append(settings.process_frames(frames, settings.pixels_per_frame(len(frames))))
        return BatchFeature(settings.batch(processed), return_tensors)

    def with_options(self, **options: Any) -> "DnAVideoLlama3VideoProcessor":
        """This processor with other settings; `None` leaves one as it is."""
        given = {name: value for name, value in options.items() if value is not None}
        unknown = [name for name in given if name not in SETTINGS]
        if unknown:
            raise ValueError(f"{type(self).__name__} has no option {unknown[0]!r}.")
        if not given:
            return self
        return type(self)(**{name: getattr(self, name) for name in SETTINGS} | given)

    def pixels_per_frame(self, frames: int) -> int:
        """Pixels that each of so many frames may have.

        Raises:
            ValueError: if they are too many for `max_visual_tokens`.
        """
        check_budget(frames, self.max_visual_tokens, self.min_visual_tokens)
        return self.max_visual_tokens * self.factor**2 // frames

    def read_video(self, video: Any) -> SampledVideo:
        """The chosen frames of one video."""
        part: Mapping = video if isinstance(video, Mapping) else {"path": video}
        if "path" not in part or part.keys() - {"path", "start", "end"}:
            raise ValueError(f"a part of a video is a path, start and end, got {', '.join(map(str, part))}.")
        source, start, end = part["path"], part.get("start"), part.get("end")
        check_part(start, end)
        if isinstance(source, str | os.PathLike):
            return self._read_file(os.fspath(source), start, end)
        if start is not None or end is not None:
            raise ValueError("start and end need the path of a video: of frames, give only those that are meant.")
        frames = as_frames(source)
        chosen = spread(list(range(len(frames))), self.max_frames if self.do_sample_frames else len(frames))
        # an index copies, even if it takes all
        frames = frames if len(chosen) == len(frames) else frames[chosen]
        return SampledVideo(frames, [index / self.fps for index in chosen])

    def _read_file(self, name: str, start: float | None, end: float | None) -> SampledVideo:
        timestamps: list[float] = []

        def choose(total: int, frame_rate: float) -> list[int]:
            indices, times = self.choose_frames(total, frame_rate)
            timestamps[:] = [(start or 0) + time for time in times]
            return indices

        try:
            if Path(name).is_dir():
                return self._read_folder(Path(name), start, end)
            source = BytesIO(download(name)) if is_url(name) else name
            frames, _ = decode_video(source, choose, start, end)
        except (VideoDecodingError, OSError) as error:
            raise ValueError(f"cannot read video {name!r}: {error}.") from error
        return SampledVideo(torch.from_numpy(frames), timestamps)

    def _read_folder(self, folder: Path, start: float | None, end: float | None) -> SampledVideo:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in FRAME_SUFFIXES)
        first = math.ceil((start or 0) * FOLDER_FRAME_RATE)
        paths = paths[first : None if end is None else math.ceil(end * FOLDER_FRAME_RATE)]
        if not paths:
            raise ValueError(
                f"cannot read video {str(folder)!r}: the folder has no frames from {start or 0} to {end} s."
            )
        indices, times = self.choose_frames(len(paths), FOLDER_FRAME_RATE)
        return SampledVideo(as_frames([paths[index] for index in indices]), [(start or 0) + time for time in times])

    def choose_frames(self, total: int, frame_rate: float) -> tuple[list[int], list[float]]:
        """Numbers of the frames to take of a video of `total` frames, and their times from its start in seconds."""
        if not self.do_sample_frames:
            return list(range(total)), [index / frame_rate for index in range(total)]
        step = frame_rate / self.fps
        count = max(1, math.ceil((total - TIME_TOLERANCE) / step))
        chosen = spread(list(range(count)), self.max_frames)
        indices = [min(math.floor(index * step + TIME_TOLERANCE), total - 1) for index in chosen]
        return indices, [index / self.fps for index in chosen]

    def process_frames(self, frames: torch.Tensor, max_pixels: int) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Patches (patches, 3 * patch_size ** 2) of frames of bytes (frames, height, width, 3), and their grid.

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
    *("do_sample_frames", "fps", "max_frames", "max_visual_tokens", "min_visual_tokens", "patch_size", "merge_size"),
    "use_token_compression",
)


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


def check_part(start: Any, end: Any) -> None:
    """
    Raises:
        ValueError: if these are not the seconds at which a part of a video begins and ends.
    """
    seconds = all(time is None or isinstance(time, int | float) for time in (start, end))
    if not seconds or (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise ValueError(f"start and end are seconds, the first before the second, got {start!r} and {end!r}.")


def spread(items: list[int], limit: int) -> list[int]:
    """At most `limit` of the items, evenly from the first to the last."""
    if len(items) <= limit:
        return items
    return [items[part * (len(items) - 1) // max(limit - 1, 1)] for part in range(limit)]


def is_video(video: Any) -> bool:
    """Whether it is one video, not a list of videos."""
    if isinstance(video, str | os.PathLike | Mapping):
        return True
    if isinstance(video, list | tuple):
        return bool(video) and all(is_pil_image(frame) or getattr(frame, "ndim", 0) == 3 for frame in video)
    return getattr(video, "ndim", 0) == 4


def as_frames(video: Any) -> torch.Tensor:
    """Frames as bytes (frames, height, width, 3), of an array, a tensor or a list of images.

    Raises:
        ValueError: if it is something else.
    """
    if isinstance(video, list | tuple) and video:
        images = [read_image(frame) for frame in video]
        images = [frame.convert("RGB") if is_pil_image(frame) else frame for frame in images]
        arrays = [frame if isinstance(frame, torch.Tensor) else to_numpy_array(frame) for frame in images]
        shapes = sorted({tuple(array.shape) for array in arrays})
        if len(shapes) > 1:
            raise ValueError(f"the frames of a video have different shapes: {', '.join(map(str, shapes))}.")
        video = torch.stack([torch.as_tensor(array) for array in arrays])
    if not hasattr(video, "ndim"):
        raise ValueError(
            f"a video is a path, an array or tensor of frames, or a list of images, got {type(video).__name__}."
        )
    frames = torch.as_tensor(video)
    if frames.ndim == 4 and frames.shape[-1] not in (1, 3):
        frames = frames.permute(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3) or not frames.numel():
        raise ValueError(
            "a video is (frames, height, width, channels) or (frames, channels, height, width) with 1 or 3 channels, "
            f"got shape {tuple(torch.as_tensor(video).shape)}."
        )
    if frames.dtype != torch.uint8:
        raise ValueError(f"the frames of a video are bytes from 0 to 255 (uint8), got {frames.dtype}.")
    return frames.expand(*frames.shape[:-1], 3).contiguous()


__all__ = ["DnAVideoLlama3VideoProcessor"]
