"""Parameter groups: every parameter in exactly one, with the decay and the learning rate it should have."""

import pytest
import torch

from dna_hf import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnAViTConfig,
    DnAViTForImageClassification,
)
from dna_hf.training.optimizer import apply_layer_decay, decay_parameter_names, layer_number


SIZES = {
    **{"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2},
    "intermediate_size": 32,
}


def tiny(variant="dna"):
    return DnAViTForImageClassification(
        DnAViTConfig(attention_variant=variant, layer_scale_init_value=0.1, use_distillation_token=True, **SIZES)
    )


def tiny_video(variant="dna"):
    return DnATimesformerForVideoClassification(DnATimesformerConfig(attention_variant=variant, **SIZES))


@pytest.mark.parametrize("build", [tiny, tiny_video])
@pytest.mark.parametrize("variant", ["dna", "dna_shared_value", "softmax", "differential", "cog"])
def test_decay(variant, build):
    model = build(variant)
    parameters = dict(model.named_parameters())
    assert set(decay_parameter_names(model, decay_all=True)) == parameters.keys()
    decayed = set(decay_parameter_names(model))
    # written out: the weights of projections, of the MLP, of the patches and of the head
    ends = ("_proj.weight", "fc1.weight", "fc2.weight", "temporal_dense.weight", "projection.weight")
    assert decayed == {name for name in parameters if name.endswith((*ends, "classifier.weight"))}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dna_vit.embeddings.cls_token", 0),
        ("dna_vit.embeddings.patch_embeddings.projection.bias", 0),
        ("dna_vit.layers.0.attention.k_proj.weight", 1),
        ("layers.11.mlp.fc1.bias", 12),
        ("dna_vit.layernorm.weight", 13),
        ("classifier.weight", 13),
        ("dna_timesformer.embeddings.time_embeddings", 0),
        ("dna_timesformer.layers.3.temporal_dense.bias", 4),
        ("dna_timesformer.layers.3.temporal_attention.k_proj.weight", 4),
    ],
)
def test_layer_numbers(name, expected):
    assert layer_number(name, 12) == expected


def test_layer_decay_goes_into_the_learning_rates():
    model = tiny()
    decayed = set(decay_parameter_names(model))
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for n, p in named.items() if n in decayed], "weight_decay": 0.1},
        {"params": [p for n, p in named.items() if n not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    apply_layer_decay(optimizer, model, 0.5)
    seen = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(seen) == len(set(seen)) == len(named)
    expected = {"embeddings.": 1e-3 / 16, "layers.0.": 1e-3 / 8, "layers.1.": 1e-3 / 4, "layers.2.": 1e-3 / 2}
    for name, parameter in named.items():
        (group,) = [group for group in optimizer.param_groups if any(parameter is each for each in group["params"])]
        wanted = next((value for part, value in expected.items() if part in name), 1e-3)
        assert group["lr"] == pytest.approx(wanted), name
        assert group["weight_decay"] == (0.1 if name in decayed else 0.0)
    # a schedule multiplies each group's own rate
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1)
    assert min(schedule.get_last_lr()) == pytest.approx(1e-3 / 16 * 0.1)
    assert max(schedule.get_last_lr()) == pytest.approx(1e-3 * 0.1)
