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


def moved(model, spread=0.2):
    """Move every parameter from its initial value, and put the model into evaluation mode.

    Initial values are small, zero or constant, which hides what is applied in the wrong place.

    Args:
        spread: standard deviation of the changes, but for the lambda of differential attention: a large one subtracts
            nearly equal numbers.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (min(spread, 0.1) if "lambda" in name else spread))
    return model.eval()


ANIMALS = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}
ACTIONS = {"id2label": {0: "fall", 1: "walk", 2: "sit"}, "label2id": {"fall": 0, "walk": 1, "sit": 2}}
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "patch_size": 8}


def animal_model(model_class=DnAViTForImageClassification, **fields):
    """A model of images of 32x32 pixels, and of classes that have names."""
    torch.manual_seed(0)
    return moved(model_class(DnAViTConfig(**WIDE | ANIMALS | {"image_size": 32} | fields)))


def action_model(model_class=DnATimesformerForVideoClassification, **fields):
    """A model of videos of three frames of 16x16 pixels, and of classes that have names."""
    torch.manual_seed(0)
    return moved(model_class(DnATimesformerConfig(**WIDE | ACTIONS | {"image_size": 16, "num_frames": 3} | fields)))


def tiny_vit(variant="dna", seed=0, **overrides):
    torch.manual_seed(seed)
    return moved(
        DnAViTForImageClassification(DnAViTConfig(**SIZES, attention_variant=variant, **overrides)), spread=0.3
    )


def tiny_timesformer(variant="dna", attention_type="divided_space_time", seed=0):
    torch.manual_seed(seed)
    config = DnATimesformerConfig(**SIZES, attention_variant=variant, attention_type=attention_type, num_frames=FRAMES)
    return moved(DnATimesformerForVideoClassification(config), spread=0.3)


def tiny_probes():
    config = DnAVideoLlama3VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=4
    )
    return DnAVideoLlama3VisionModel(config)


def images(count=5, seed=1):
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def videos(count=2, seed=1):
    return torch.randn(count, FRAMES, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
