"""Numbers of parameters of VideoLLaMA3-7B with probes, as published; nothing is allocated."""

import pytest
import torch
from transformers import VideoLlama3Config

from dna_hf import DnAVideoLlama3ForConditionalGeneration, DnAVideoLlama3VisionConfig
from dna_hf.conversion.video_llm import video_llm_config
from dna_hf.conversion.video_llm_names import own_name


QWEN = {"model_type": "qwen2", "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944}
QWEN |= {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
ENCODER = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
WIDTH, HEADS, LAYERS = 1152, 16, 27


@pytest.fixture(scope="module", params=["dna", "softmax"])
def shapes(request):
    """Shapes by the names that VisCoP gives them, and the variant."""
    native = VideoLlama3Config(text_config=QWEN, vision_config=ENCODER)
    vision = DnAVideoLlama3VisionConfig(**ENCODER, attention_variant=request.param)
    config, rows = video_llm_config(native, vision, None, {})
    assert rows == 0 and config.placeholder_token_ids["video_probe_token_id"] == 151666
    with torch.device("meta"):
        model = DnAVideoLlama3ForConditionalGeneration(config)
    return {own_name(name): parameter.shape for name, parameter in model.named_parameters()}, request.param


def count(shapes, part):
    return sum(shape.numel() for name, shape in shapes.items() if part in name)


def test_published_sizes(shapes):
    shapes, variant = shapes
    projections = {"dna": 6, "softmax": 4}[variant]
    modules = LAYERS * (projections * (WIDTH * WIDTH + WIDTH) + (HEADS if variant == "dna" else 0))
    assert count(shapes, ".interaction_modules.") == modules
    assert round(modules / 1e6, 1) == {"dna": 215.2, "softmax": 143.5}[variant]
    assert count(shapes, ".encoder.visual_probes") == 16 * WIDTH == 18432
    projectors = count(shapes, "model.mm_projector.") + count(shapes, "model.mm_projector_visual_probes.")
    assert projectors == 2 * (1152 * 3584 + 3584 + 3584 * 3584 + 3584) and round(projectors / 1e6, 1) == 34.0
    assert round((count(shapes, "vision_encoder.") - modules - 18432) / 1e6, 1) == 412.1
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (152064, 3584)


def test_published_size_of_lora(shapes):
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    adapted = [
        shape
        for name, shape in shapes[0].items()
        if name.startswith("model.layers.") and name.rsplit(".", 2)[1] in names and name.endswith(".weight")
    ]
    assert len(adapted) == 7 * 28
    total = sum(64 * (rows + columns) for rows, columns in adapted)
    assert total == 161_480_704 and round(total / 1e6, 1) == 161.5
