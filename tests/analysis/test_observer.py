"""What is seen inside attention modules against what they put out, and against the float64 reference."""

import pytest
import torch

from dna_hf.analysis.errors import AnalysisError
from dna_hf.analysis.observer import AttentionPlace, attention_places, watch_attention
from dna_hf.models.attention_variants import ATTENTION_VARIANTS, TWO_MAP_VARIANTS, VariantAttention
from tests.kit.models import FRAMES, HEAD_DIM, HEADS, LAYERS, images, tiny_timesformer, tiny_vit, videos
from tests.reference import reference_attention


every_variant = pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
every_backend = pytest.mark.parametrize("backend", ["eager", "sdpa", "flex_attention"])


def watch(model, inputs, layers=None, axis=None):
    """Each call of the chosen modules, with what its branches did."""
    seen = []
    places = attention_places(model, layers, axis)
    watch_attention(model, inputs, places, lambda call: seen.append((call, call.branches())))
    return seen


def watch_pixels(model, pixel_values, **kwargs):
    return watch(model, {"pixel_values": pixel_values}, **kwargs)


def combine(call, branches):
    """The output of a module from its branches, written out."""
    states, module = branches.outputs[0], call.module
    if branches.scale is not None:
        states = states + branches.scale[:, None, None] * branches.outputs[1]
    if call.variant == "differential":
        size = (states.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        states = states / size * module.head_norm.weight * (1 - module.lambda_init)
    return module.o_proj(states.transpose(1, 2).flatten(2))


@every_backend
@every_variant
@torch.no_grad()
def test_branches_and_scale_make_up_the_output(variant, backend):
    model = tiny_vit(variant, attn_implementation=backend)
    seen = watch_pixels(model, images())
    assert [call.place.layer for call, _ in seen] == list(range(LAYERS))
    for call, branches in seen:
        assert call.output[0].abs().mean() > 0.1
        torch.testing.assert_close(combine(call, branches), call.output[0], rtol=1e-5, atol=2e-6)


@every_variant
@torch.no_grad()
def test_branches_of_videos_make_up_the_output(variant):
    seen = watch_pixels(tiny_timesformer(variant), videos())
    # time comes first in every layer
    axes = [(layer, axis) for layer in range(LAYERS) for axis in ("time", "space")]
    assert [(call.place.layer, call.place.axis) for call, _ in seen] == axes
    for call, branches in seen:
        sequences, tokens = (2 * 9, FRAMES) if call.place.axis == "time" else (2 * FRAMES, 10)
        assert branches.outputs[0].shape == (sequences, HEADS, tokens, HEAD_DIM)
        torch.testing.assert_close(combine(call, branches), call.output[0], rtol=1e-5, atol=2e-6)


@every_variant
@torch.no_grad()
def test_maps_values_and_outputs_are_those_of_the_reference(variant):
    for call, item in watch_pixels(tiny_vit(variant), images(2)):
        weights = {name: tensor.double() for name, tensor in call.module.state_dict().items()}
        states = call.args[0].double()
        _, *maps = reference_attention(call.variant, weights, states, states, HEADS, layer_idx=call.place.layer)
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
    (first, softmax), (second, cog) = watch_pixels(tiny_vit("cog"), images())
    assert [first.variant, second.variant] == ["softmax", "cog"]
    assert cog.maps[0].min() < 0 <= softmax.maps[0].min()


@torch.no_grad()
def test_joint_attention_is_over_space_and_time():
    seen = watch_pixels(tiny_timesformer(attention_type="joint_space_time"), videos())
    assert {call.place.axis for call, _ in seen} == {"space_time"}


def test_layers_and_axes_are_chosen():
    model = tiny_timesformer()
    assert list(attention_places(model, [-1], "time").values()) == [AttentionPlace(LAYERS - 1, "time")]
    assert len(attention_places(model)) == 2 * LAYERS
    seen = watch_pixels(model, videos(), layers=[1], axis="space")
    assert [str(call.place) for call, _ in seen] == ["attention over space in layer 1"]


@torch.no_grad()
def test_masked_keys_have_no_weight():
    model = tiny_vit()
    attention = next(module for module in model.modules() if isinstance(module, VariantAttention))
    model.forward = lambda mask: attention(tokens_of_images(), attention_mask=mask)
    allowed = torch.ones(2, 1, 1, 6, dtype=torch.bool)
    allowed[..., 4:] = False
    ((_, found),) = watch(model, {"mask": allowed}, layers=[0])
    for weights in found.maps:
        assert not weights[..., 4:].any() and weights[..., :4].all()
    with pytest.raises(AnalysisError, match="attention over space in layer 0 cannot .* mask .*: use eager or sdpa"):
        watch(model, {"mask": allowed[0, 0].expand(6, 6)})


def tokens_of_images():
    return torch.randn(2, 6, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_cross_attention_reads_values_from_its_sources():
    model = tiny_vit()
    attention = next(module for module in model.modules() if isinstance(module, VariantAttention))
    sources = torch.randn(2, 9, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(4))

    def forward(tokens, sources):
        attention(tokens, key_value_states=sources, rotary=lambda states: 2 * states)

    model.forward = forward
    ((call, branches),) = watch(model, {"tokens": tokens_of_images(), "sources": sources})
    assert branches.maps[0].shape == (2, HEADS, 6, 9)
    torch.testing.assert_close(combine(call, branches), call.output[0], rtol=1e-5, atol=2e-6)


@every_variant
@torch.no_grad()
def test_some_heads_and_queries_are_those_of_all(variant):
    model = tiny_vit(variant)
    attention = next(module for module in model.modules() if isinstance(module, VariantAttention))
    allowed = torch.rand(2, HEADS, 6, 6, generator=torch.Generator().manual_seed(5)) > 0.3
    every = attention.recompute(tokens_of_images(), allowed)
    some = attention.recompute(tokens_of_images(), allowed, heads=[1], queries=[4, 0])
    for name in ("outputs", "maps"):
        for own, whole in zip(getattr(some, name), getattr(every, name), strict=True):
            torch.testing.assert_close(own, whole[:, [1]][:, :, [4, 0]], rtol=0, atol=1e-6)
    for own, whole in zip(some.values, every.values, strict=True):
        torch.testing.assert_close(own, whole[:, [1]])
    assert (some.scale is None) == (variant not in TWO_MAP_VARIANTS)
    assert some.scale is None or some.scale.tolist() == every.scale[1:].tolist()


def test_the_model_is_left_as_it_was():
    model = tiny_vit(attention_probs_dropout_prob=0.5).train()
    model.classifier.eval()
    before = {name: module.training for name, module in model.named_modules()}
    (_, first), *_ = watch_pixels(model, images())
    (_, second), *_ = watch_pixels(model, images())
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks for module in attention_places(model))
    # without dropout nothing is random
    assert torch.equal(first.outputs[0], second.outputs[0])
    assert not first.outputs[0].requires_grad


def test_what_cannot_be_asked_ends_in_a_sentence():
    model = tiny_vit()
    for layer in (LAYERS, -LAYERS - 1):
        with pytest.raises(AnalysisError, match=f"layer {layer} does not exist: the model has 2, counted from 0"):
            attention_places(model, [layer])
    with pytest.raises(AnalysisError, match="does not attend over 'time': choose space"):
        attention_places(model, axis="time")
    with pytest.raises(AnalysisError, match="Linear has no attention"):
        attention_places(torch.nn.Linear(1, 1))
    broken = images()
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(AnalysisError, match="a map of the attention over space in layer 0 has values that are not"):
        watch_pixels(model, broken)
    with torch.no_grad():
        attention = next(module for module in model.modules() if isinstance(module, VariantAttention))
        attention.v_neg_proj.weight[0] = torch.inf
    with pytest.raises(AnalysisError, match="branch of the attention over space in layer 0 has values that are not"):
        watch_pixels(model, images())
    assert not any(module._forward_hooks for module in attention_places(model))
