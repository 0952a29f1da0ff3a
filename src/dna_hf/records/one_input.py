"""What two models are compared by: their main output for one random input."""

from typing import Any

import torch
from transformers import PreTrainedConfig

from ..models.configuration_dna import pair


def random_image(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The same normally distributed image (1, channels, height, width) for every model of a size."""
    height, width = pair(config.image_size, "image_size")
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


def random_inputs(config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Arguments of a model: a random image or video, for a video language model random text with a random image."""
    if not hasattr(config, "placeholder_token_ids"):
        return {"pixel_values": random_input(config)}
    vision = config.vision_config
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(config.text_config.vocab_size, (8,), generator=generator)
    text = text[~torch.isin(text, torch.tensor(list(config.placeholder_token_ids.values())))]
    tokens = [config.image_token_id] * (4 if config.include_visual_tokens else 0)
    probes = [config.image_probe_token_id] * (vision.num_probes if config.include_visual_probes else 0)
    return {
        "input_ids": torch.cat([torch.tensor(tokens + probes), text])[None],
        "pixel_values": torch.randn(16, vision.num_channels * vision.patch_size**2, generator=generator),
        "image_grid_thw": torch.tensor([[1, 4, 4]]),
        "image_merge_sizes": torch.tensor([2]),
    }


def main_output(output: Any) -> torch.Tensor:
    """Logits, reconstruction, last feature map or hidden states of a model output; a tensor is its own."""
    if isinstance(output, torch.Tensor):
        return output
    for name in ("logits", "reconstruction", "feature_maps", "last_hidden_state"):
        if (value := output.get(name)) is not None:
            return value[-1] if isinstance(value, tuple) else value
    raise TypeError(f"{type(output).__name__} holds no tensor to compare.")
