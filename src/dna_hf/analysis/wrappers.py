"""What tools for explanations (Captum, pytorch-grad-cam) need to know of our models."""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.configuration_dna import DnATransformerConfig, pair
from .errors import AnalysisError


class LogitsModel(nn.Module):
    """A classifier that takes `pixel_values` alone and returns its logits (batch, classes), not an output object."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits of images (batch, channels, height, width) or videos (batch, frames, channels, height, width)."""
        return self.model(pixel_values=pixel_values).logits


def reshape_transform(
    model: PreTrainedModel, height: int | None = None, width: int | None = None, num_frames: int | None = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """How to put the tokens of a layer where they lie in the picture, as pytorch-grad-cam asks for it.

    Good target layers are `model.dna_vit.layers[-1].layernorm_before`, and `layernorm_after` of a TimeSformer.

    Args:
        model: a DnA model of images or videos.
        height: height of the images in pixels; by default the one that the model was built for.
        width: width of the images in pixels; by default the one that the model was built for.
        num_frames: number of frames of a video; by default the one that the model was built for.

    Returns:
        A function of tokens (batch, tokens, channels) to (batch, channels, rows, columns), of the tokens of a whole
        video to (batch, channels, frames, rows, columns), of those of single frames as of images. Prefix tokens are
        left out. It raises an [`AnalysisError`] for another number of tokens.

    Raises:
        AnalysisError: for another model.
    """
    config = model.config
    if not isinstance(config, DnATransformerConfig):
        raise AnalysisError(f"{type(model).__name__} has no grid of tokens: give a DnA model of images or videos.")
    size, patch = pair(config.image_size, "image_size"), pair(config.patch_size, "patch_size")
    rows, columns = (
        (size[0] if height is None else height) // patch[0],
        (size[1] if width is None else width) // patch[1],
    )
    prefix = getattr(config, "num_prefix_tokens", 1)
    frames = getattr(config, "num_frames", 1) if num_frames is None else num_frames

    def transform(tokens: torch.Tensor) -> torch.Tensor:
        patches = tokens[:, prefix:].transpose(1, 2)
        if patches.shape[2] == rows * columns:
            return patches.unflatten(2, (rows, columns))
        if patches.shape[2] == rows * columns * frames:
            # the frames change fastest
            return patches.unflatten(2, (rows, columns, frames)).permute(0, 1, 4, 2, 3)
        raise AnalysisError(
            f"{tokens.shape[1]} tokens are not those of {frames} x {rows} x {columns} patches: say the size of the "
            "images by height and width, and the number of frames."
        )

    return transform
