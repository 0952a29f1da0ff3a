"""How to convert a softmax transformer; see [`~dna_hf.conversion.from_pretrained_softmax`]."""

from dataclasses import dataclass, field
from typing import Any

import torch

from .attention import NegativeInit, initial_negative_scale


@dataclass(frozen=True)
class Options:
    """The arguments of [`~dna_hf.conversion.from_pretrained_softmax`]; `probes` are those of VideoLLaMA3 alone."""

    attention_variant: str
    negative_init: NegativeInit
    warm_scale: float
    negative_scale_init: float
    image_size: int | tuple[int, int] | None = None
    num_attention_heads: int | None = None
    dtype: torch.dtype | None = None
    probes: dict[str, Any] = field(default_factory=dict)

    def config_fields(self) -> dict[str, Any]:
        """What the configuration of the result says of its attention."""
        scale = initial_negative_scale(
            self.attention_variant, self.negative_init, self.warm_scale, self.negative_scale_init
        )
        return {"attention_variant": self.attention_variant, "negative_scale_init": scale}

    @property
    def keeps_function(self) -> bool:
        """Whether the converted model computes what the source computes."""
        if self.attention_variant in ("dna", "dna_shared_value"):
            return self.negative_init == "zero"
        return self.attention_variant == "softmax"
