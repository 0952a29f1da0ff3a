"""What is seen inside attention modules against what they put out, and against the float64 reference."""

import pytest
import torch

from dna_hf.analysis.branches import AttentionPlace, attention_places, visit_branches
from dna_hf.analysis.errors import AnalysisError
from dna_hf.models.attention_variants import ATTENTION_VARIANTS, TWO_MAP_VARIANTS, VariantAttention
from tests.kit.models import FRAMES, HEAD_DIM, HEADS, LAYERS, images, tiny_timesformer, tiny_vit, videos
from tests.reference import reference_attention


every_variant = pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
two_branches = pytest.mark.parametrize("variant", TWO_MAP_VARIANTS)
every_backend = pytest.mark.parametrize("backend", ["eager", "sdpa", "flex_attention"])


def seen(model, pixel_values, **kwargs):
    """The branches of all modules, and the inputs and outputs that the modules really had."""
    branches, calls = [], {}
    places = attention_places(model)

    def record(module, args, kwargs, output):
        calls[places[module]] = (module, args[0], output[0])

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in places]
    visit_branches(model, {"pixel_values": pixel_values}, branches.append, **kwargs)
    for handle in handles:
        handle.remove()
    return branches, calls


def combine(module, branches):
    """The output of a module from its branches, written out."""
    states = branches.outputs[0]
    if branches.scale is not None:
        states = states + branches.scale[:, None, None] * branches.outputs[1]
    if branches.variant == "differential":
        size = (states.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        states = states / size * module.head_norm.weight * (1 - module.lambda_init)
    return module.o_proj(states.transpose(1, 2).flatten(2))


@every_backend
@every_variant
@torch.no_grad()
def test_branches_and_scale_make_up_the_output(variant, backend):
    model = tiny_vit(variant, attn_implementation=backend)
    branches, calls = seen(model, images())
    assert [item.place.layer for item in branches] == list(range(LAYERS))
    for item in branches:
        module, _, output = calls[item.place]
        assert output.abs().mean() > 0.1
        torch.testing.assert_close(combine(module, item), output, rtol=1e-5, atol=2e-6)


@every_variant
@torch.no_grad()
def test_branches_of_videos_make_up_the_output(variant):
    branches, calls = seen(tiny_timesformer(variant), videos())
    # time comes first in every layer
    axes = [(layer, axis) for layer in range(LAYERS) for axis in ("time", "space")]
    assert [(item.place.layer, item.place.axis) for item in branches] == axes
    for item in branches:
        sequences, tokens = (2 * 9, FRAMES) if item.place.axis == "time" else (2 * FRAMES, 10)
        assert item.outputs[0].shape == (sequences, HEADS, tokens, HEAD_DIM)
        module, _, output = calls[item.place]
        torch.testing.assert_close(combine(module, item), output, rtol=1e-5, atol=2e-6)


@every_variant
@torch.no_grad()
def test_maps_values_and_outputs_are_those_of_the_reference(variant):
    branches, calls = seen(tiny_vit(variant), images(2))
    for item in branches:
        module, hidden_states, _ = calls[item.place]
        weights = {name: tensor.double() for name, tensor in module.state_dict().items()}
        states = hidden_states.double()
        _, *maps = reference_attention(item.variant, weights, states, states, HEADS, layer_idx=item.place.layer)
        names = ["v_pos_proj", "v_neg_proj"] if variant == "dna" else ["v_proj", "v_proj"]
        for index, (values, weight_map, output) in enumerate(zip(item.values, item.maps, item.outputs, strict=True)):
            projected = states @ weights[f"{names[index]}.weight"].T + weights[f"{names[index]}.bias"]
            for head in range(HEADS):
                own = projected[..., head * HEAD_DIM : (head + 1) * HEAD_DIM]
                torch.testing.assert_close(values[:, head].double(), own, rtol=1e-5, atol=2e-6)
                expected = maps[index][:, head] @ own
                torch.testing.assert_close(output[:, head].double(), expected, rtol=1e-5, atol=2e-6)
            torch.testing.assert_close(weight_map.double(), maps[index], rtol=1e-5, atol=2e-6)


@torch.no_grad()
def test_cog_leaves_layers_to_softmax():
    branches, _ = seen(tiny_vit("cog"), images())
    assert [item.variant for item in branches] == ["softmax", "cog"]
    assert branches[1].maps[0].min() < 0 <= branches[0].maps[0].min()


@torch.no_grad()
def test_joint_attention_is_over_space_and_time():
    branches, _ = seen(tiny_timesformer(attention_type="joint_space_time"), videos())
    assert {item.place.axis for item in branches} == {"space_time"}


def test_layers_and_axes_are_chosen():
    model = tiny_timesformer()
    assert list(attention_places(model, [-1], "time").values()) == [AttentionPlace(LAYERS - 1, "time")]
    assert len(attention_places(model)) == 2 * LAYERS
    branches, _ = seen(model, videos(), layers=[1], axis="space")
    assert [str(item.place) for item in branches] == ["attention over space in layer 1"]


@torch.no_grad()
def test_masked_keys_have_no_weight():
    model = tiny_vit()
    attention = next(module for module in model.modules() if isinstance(module, VariantAttention))
    model.forward = lambda mask: attention(tokens_of_images(), attention_mask=mask)
    allowed = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    allowed[..., 4:] = False
    found = []
    visit_branches(model, {"mask": allowed}, found.append)
    for weights in found[0].maps:
        assert not weights[..., 4:].any() and weights[..., :4].all()
    with pytest.raises(AnalysisError, match="mask of the attention over space in layer 0.*use eager or sdpa"):
        visit_branches(model, {"mask": allowed[0, 0].expand(6, 6)}, found.append)


def tokens_of_images():
    return torch.randn(2, 6, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_cross_attention_reads_values_from_its_sources():
    model = tiny_vit()
    attention = next(module for module in model.modules() if isinstance(module, VariantAttention))
    sources = torch.randn(2, 9, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(4))
    outputs = []

    def forward(tokens, sources):
        outputs.append(attention(tokens, key_value_states=sources, rotary=lambda states: 2 * states)[0])

    model.forward = forward
    found = []
    visit_branches(model, {"tokens": tokens_of_images(), "sources": sources}, found.append)
    assert found[0].maps[0].shape == (2, HEADS, 6, 9)
    torch.testing.assert_close(combine(attention, found[0]), outputs[0], rtol=1e-5, atol=2e-6)


def test_the_model_is_left_as_it_was():
    model = tiny_vit(attention_probs_dropout_prob=0.5).train()
    model.classifier.eval()
    before = {name: module.training for name, module in model.named_modules()}
    first, second = seen(model, images())[0], seen(model, images())[0]
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks for module in attention_places(model))
    # without dropout nothing is random
    assert all(torch.equal(one.outputs[0], two.outputs[0]) for one, two in zip(first, second, strict=True))
    assert not first[0].outputs[0].requires_grad


@pytest.mark.parametrize("variant", ["softmax", "cog"])
def test_one_branch_is_no_pair(variant):
    branches, _ = seen(tiny_vit(variant), images())
    with pytest.raises(AnalysisError, match=f"{variant} attention has one branch, so that .* are undefined"):
        branches[-1].pair()


def test_what_cannot_be_asked_ends_in_a_sentence():
    model = tiny_vit()
    for layer in (LAYERS, -LAYERS - 1):
        with pytest.raises(AnalysisError, match=f"layer {layer} does not exist: the model has 2, counted from 0"):
            visit_branches(model, {"pixel_values": images()}, print, layers=[layer])
    with pytest.raises(AnalysisError, match="does not attend over 'time': choose space"):
        attention_places(model, axis="time")
    with pytest.raises(AnalysisError, match="Linear has no attention"):
        attention_places(torch.nn.Linear(1, 1))
    broken = images()
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(AnalysisError, match="branch of the attention over space in layer 0 has values that are not"):
        visit_branches(model, {"pixel_values": broken}, print)
    assert not any(module._forward_hooks for module in attention_places(model))
