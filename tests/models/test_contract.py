"""What every model class does with every attention variant: the contract behind transformers' common tests.

The common tests themselves run on two variants, see `test_modeling_dna_vit_common.py`.
"""

import pytest
import torch
from safetensors.torch import save_file

from dna_hf import models
from dna_hf.models.attention_variants import ATTENTION_VARIANTS
from tests.kit.models import moved


LAYERS = 2
SIZES = {"hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24}
# one layer of each kind
COG = {"cog_softmax_layers": [0]}
PICTURES = SIZES | COG | {"image_size": 8, "patch_size": 4, "num_labels": 5}
FRAMES, PATCHES = 2, 8
GRID = {"grid_thw": torch.tensor([[1, 2, 4]] * 2), "merge_sizes": torch.tensor([1, 2])}
CASES = {
    **dict.fromkeys(
        (models.DnAViTModel, models.DnAViTForImageClassification), (models.DnAViTConfig, PICTURES, (2, 3, 8, 8), {})
    ),
    models.DnAViTForMaskedImageModeling: (
        models.DnAViTConfig,
        PICTURES,
        (2, 3, 8, 8),
        {"bool_masked_pos": torch.tensor([[True, False, True, False]] * 2)},
    ),
    models.DnAViTBackbone: (models.DnAViTConfig, PICTURES | {"out_indices": [0, 1, 2]}, (2, 3, 8, 8), {}),
    **dict.fromkeys(
        (models.DnATimesformerModel, models.DnATimesformerForVideoClassification),
        (models.DnATimesformerConfig, PICTURES | {"num_frames": FRAMES}, (2, FRAMES, 3, 8, 8), {}),
    ),
    models.DnAVideoLlama3VisionModel: (
        models.DnAVideoLlama3VisionConfig,
        SIZES | COG | {"patch_size": 4, "num_probes": 3},
        (2 * PATCHES, 3 * 4 * 4),
        GRID,
    ),
}
pytestmark = [
    pytest.mark.parametrize("variant", ATTENTION_VARIANTS),
    pytest.mark.parametrize("model_class", CASES, ids=lambda model_class: model_class.__name__),
]


def build(model_class, variant, fresh=False, **fields):
    """A model in evaluation mode and its inputs; by default, no parameter has its initial value."""
    config_class, sizes, shape, others = CASES[model_class]
    torch.manual_seed(0)
    model = model_class(config_class(attention_variant=variant, **sizes | fields)).eval()
    if not fresh:
        moved(model, 0.1)
    return model, {"pixel_values": torch.randn(shape)} | others


def tensors(output):
    """All tensors of an output, in its order."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        output = output.values()
    return [tensor for value in output if value is not None for tensor in tensors(value)]


def assert_same(actual, expected, **tolerance):
    actual, expected = tensors(actual), tensors(expected)
    assert len(actual) == len(expected) > 0
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_outputs(model_class, variant):
    model, inputs = build(model_class, variant, attn_implementation="eager")
    with torch.no_grad():
        output = model(**inputs)
        full = model(**inputs, output_hidden_states=True, output_attentions=True)
        as_tuple = model(**inputs, output_hidden_states=True, output_attentions=True, return_dict=False)
    assert "hidden_states" not in output and "attentions" not in output
    assert all(tensor.isfinite().all() for tensor in tensors(full))
    assert_same({name: full[name] for name in output}, output, rtol=0, atol=0)
    assert isinstance(as_tuple, tuple)
    assert_same(as_tuple, full, rtol=0, atol=0)
    assert len(full.hidden_states) == LAYERS + 1
    assert len(full.attentions) >= 1


def test_gradients_reach_every_parameter(model_class, variant):
    model, inputs = build(model_class, variant)
    model.train()
    output = tensors(model(**inputs))
    sum((tensor * torch.randn_like(tensor)).sum() for tensor in output if tensor.requires_grad).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_saved_and_loaded_bit_for_bit(model_class, variant, tmp_path):
    model, inputs = build(model_class, variant)
    model.save_pretrained(tmp_path)
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    saved_to = {"_name_or_path": str(tmp_path), "dtype": "float32"}
    assert loaded.config.to_dict() == model.config.to_dict() | saved_to
    assert_same(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    with torch.no_grad():
        assert_same(loaded(**inputs), model(**inputs), rtol=0, atol=0)


def test_eager_equals_sdpa(model_class, variant):
    model, inputs = build(model_class, variant, attn_implementation="eager")
    with torch.no_grad():
        expected = model(**inputs)
        model.set_attn_implementation("sdpa")
        assert_same(model(**inputs), expected, rtol=1e-5, atol=1e-5)


def test_whatever_a_checkpoint_lacks_is_initialised(model_class, variant, tmp_path):
    """A parameter that is drawn has the spread of a fresh one, any other its value."""
    fresh, _ = build(model_class, variant, fresh=True)
    fresh.save_pretrained(tmp_path)
    save_file({"of_nothing": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    expected = fresh.state_dict()
    assert set(report["missing_keys"]) == set(expected)
    for name, tensor in loaded.state_dict().items():
        assert tensor.isfinite().all(), name
        if expected[name].std() == 0:
            assert torch.equal(tensor, expected[name]), name
        elif tensor.numel() < 30:
            assert 0 < tensor.abs().max() < 1, name
        else:
            assert 0.3 < tensor.std() / expected[name].std() < 3, name
