"""A DnA ViT or TimeSformer, and its processor, at another image size or number of frames.

Training from a checkpoint and conversion both come here. Positions are resampled as the models do in their own forward
pass, bicubic on the grid of patches, and times linearly; all other tensors stay as they are.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .models.configuration_dna import pair


# fields of a configuration that another size changes
SIZE_FIELDS = ("image_size", "num_frames")


@torch.no_grad()
def resize_model(model: PreTrainedModel, image_size: Any, num_frames: int | None = None) -> dict[str, str]:
    """Resample what belongs to places in images and videos, and let the configuration say so.

    Args:
        model: DnA ViT or TimeSformer, with or without a head; changed in place.
        image_size: height and width in pixels, or one number for both, that the patch size divides.
        num_frames: frames of a video; `None` for a model of images, or to leave their number.

    Returns:
        Name of each tensor that was resampled -> how.
    """
    config: Any = model.config
    is_video = hasattr(config, "num_frames")
    where, embeddings = next(
        (name, module) for name, module in model.named_modules() if hasattr(module, "position_embeddings")
    )
    rows, columns = config.grid_size
    height, width = (
        side // patch
        for side, patch in zip(pair(image_size, "image_size"), pair(config.patch_size, "patch_size"), strict=True)
    )
    resampled: dict[str, tuple[torch.Tensor, str]] = {}
    if (height, width) != (rows, columns):
        how = f"bicubic, from {rows}x{columns} to {height}x{width} patches"
        resampled["position_embeddings"] = _positions(embeddings, image_size, (height, width), is_video), how
    if is_video and num_frames not in (None, config.num_frames):
        if embeddings.time_embeddings is not None:
            how = f"linear, from {config.num_frames} to {num_frames} frames"
            resampled["time_embeddings"] = embeddings.times(num_frames), how
        config.num_frames = num_frames
    config.image_size = image_size
    for name, (tensor, _) in resampled.items():
        setattr(embeddings, name, nn.Parameter(tensor, requires_grad=getattr(embeddings, name).requires_grad))
    return {f"{where}.{name}" if where else name: how for name, (_, how) in resampled.items()}


def _positions(embeddings: Any, image_size: Any, grid: tuple[int, int], is_video: bool) -> torch.Tensor:
    """The position table of a grid of patches, as the model itself would have it."""
    if is_video:
        return embeddings.positions(grid)
    prefix, patches = embeddings.positions(*pair(image_size, "image_size"), interpolate=True)
    return patches if prefix is None else torch.cat((prefix, patches), dim=1)


def resize_image_processor(processor: Any, image_size: Any) -> str:
    """Let an image processor make images of another size, cutting off the same part of the border.

    Args:
        processor: image processor; changed in place.
        image_size: height and width in pixels, or one number for both.

    Returns:
        What it does now.
    """
    height, width = pair(image_size, "image_size")
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else None
    shortest = processor.size.get("shortest_edge")
    if crop is not None and shortest is not None:
        edge = round(shortest * min(height, width) / min(crop["height"], crop["width"]))
        processor.size = {"shortest_edge": edge}
        processor.crop_size = {"height": height, "width": width}
        return f"resizes the shorter side to {edge} and crops {height}x{width} pixels"
    processor.size = {"height": height, "width": width}
    processor.do_resize, processor.do_center_crop = True, False
    return f"resizes to {height}x{width} pixels"


def resize_video_processor(processor: Any, image_size: Any) -> None:
    """Let a video processor make frames of another size, cutting off the same part of the border.

    Args:
        processor: video processor of this package; changed in place.
        image_size: height and width in pixels, or one number for both.
    """
    height, width = pair(image_size, "image_size")
    shortest = processor.size.get("shortest_edge")
    if shortest is None or not processor.do_center_crop:
        processor.size, processor.do_center_crop = {"height": height, "width": width}, False
        return
    # frames are never smaller than what is cut out of them
    scale = max(height, width) / max(processor.crop_size["height"], processor.crop_size["width"])
    processor.size = {"shortest_edge": max(round(shortest * scale), height, width)}
    processor.crop_size = {"height": height, "width": width}
