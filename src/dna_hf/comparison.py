"""What two models are compared by: their main output for one random image or video."""

from typing import Any

import torch
from transformers import PreTrainedConfig


def random_image(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The same normally distributed image (1, channels, height, width) for every model of a size."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, config.num_channels, height, width, dtype=dtype, generator=generator)


def random_input(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A random image, or of a video model a random video (1, frames, channels, height, width)."""
    num_frames = getattr(config, "num_frames", None)
    if num_frames is None:
        return random_image(config, dtype)
    height, width = random_image(config).shape[-2:]
    generator = torch.Generator().manual_seed(0)
    shape = (1, num_frames, config.num_channels, height, width)
    return torch.randn(shape, dtype=dtype, generator=generator)


def main_output(output: Any) -> torch.Tensor:
    """Logits, reconstruction, last feature map or hidden states of a model output; a tensor is its own."""
    if isinstance(output, torch.Tensor):
        return output
    for name in ("logits", "reconstruction", "feature_maps", "last_hidden_state"):
        if (value := output.get(name)) is not None:
            return value[-1] if isinstance(value, tuple) else value
    raise TypeError(f"{type(output).__name__} holds no tensor to compare.")
