"""Models small enough for tests, with every parameter moved from its initial value."""

import torch

from dna_hf import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnAVideoLlama3VisionConfig,
    DnAVideoLlama3VisionModel,
    DnAViTConfig,
    DnAViTForImageClassification,
)


HEADS, HEAD_DIM, LAYERS, FRAMES = 2, 8, 2, 3
SIZES = {
    "image_size": 12,
    "patch_size": 4,
    "hidden_size": HEADS * HEAD_DIM,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 16,
    "cog_softmax_layers": [0],
}


def _moved(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # a large lambda subtracts nearly equal numbers
            parameter.add_(torch.randn_like(parameter) * (0.1 if "lambda" in name else 0.3))
    return model.eval()


def tiny_vit(variant="dna", seed=0, **overrides):
    torch.manual_seed(seed)
    return _moved(DnAViTForImageClassification(DnAViTConfig(**SIZES, attention_variant=variant, **overrides)))


def tiny_timesformer(variant="dna", attention_type="divided_space_time", seed=0):
    torch.manual_seed(seed)
    config = DnATimesformerConfig(**SIZES, attention_variant=variant, attention_type=attention_type, num_frames=FRAMES)
    return _moved(DnATimesformerForVideoClassification(config))


def tiny_probes():
    config = DnAVideoLlama3VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=4
    )
    return DnAVideoLlama3VisionModel(config)


def images(count=5, seed=1):
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def videos(count=2, seed=1):
    return torch.randn(count, FRAMES, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
