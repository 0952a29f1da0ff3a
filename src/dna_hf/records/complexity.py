"""What a model costs, counted without running it on data."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from ..models.configuration_dna import pair


def count_macs(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> int:
    """Multiply-accumulates of one image or video of the configured size: half of what `FlopCounterMode` counts.

    Under eager attention, on the meta device: nothing is computed.
    """
    height, width = pair(config.image_size, "image_size")
    frames = [config.num_frames] if hasattr(config, "num_frames") else []
    with torch.device("meta"), torch.no_grad():
        model: Any = model_class(type(config).from_dict(config.to_dict())).eval()
        model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, *frames, config.num_channels, height, width))
    return counter.get_total_flops() // 2


def count_parameters(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> int:
    """Parameters of a model, from its configuration."""
    with torch.device("meta"):
        return model_class(config).num_parameters()
