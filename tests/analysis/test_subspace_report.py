"""The report over a data set against statistics of all branches at once."""

import gc
import json

import pytest
import torch

from dna_hf.analysis.errors import AnalysisError
from dna_hf.analysis.observer import attention_places, watch_attention
from dna_hf.analysis.subspace_report import analyze_subspaces
from dna_hf.analysis.subspaces import (
    intruder_dimensions,
    left_singular_vectors,
    map_entropy,
    map_mass,
    principal_angles,
    token_cosine,
    trace_similarity,
)
from dna_hf.models.attention_variants import TWO_MAP_VARIANTS
from tests.kit.models import (
    FRAMES,
    HEAD_DIM,
    HEADS,
    LAYERS,
    images,
    tiny_probes,
    tiny_timesformer,
    tiny_vit,
    videos,
)


K = 3
MAP_STATISTICS = {"positive_entropy", "positive_mass"}
TWO_MAP_STATISTICS = MAP_STATISTICS | {"negative_entropy", "negative_mass"}
PAIR_STATISTICS = {
    "value_similarity",
    "output_cosine",
    "output_similarity",
    "smallest_angle",
    "mean_angle",
    "largest_angle",
    "negative_intruders",
    "positive_intruders",
}


def batches(pixel_values, size):
    return [{"pixel_values": part} for part in pixel_values.split(size)]


def all_branches(model, pixel_values):
    """What the branches of every attention module do, by layer."""
    found = []
    inputs = {"pixel_values": pixel_values}
    watch_attention(model, inputs, attention_places(model), lambda call: found.append(call.branches()))
    return found


def expected_statistics(branches, epsilon=0.5, against="top_k"):
    positive, negative = (output.double() for output in branches.outputs)
    angles = principal_angles(left_singular_vectors(positive), left_singular_vectors(negative), K)
    return {
        "value_similarity": trace_similarity(*branches.values),
        "output_cosine": token_cosine(positive, negative),
        "output_similarity": trace_similarity(positive, negative),
        "smallest_angle": angles[..., 0],
        "mean_angle": angles.mean(dim=-1),
        "largest_angle": angles[..., -1],
        "negative_intruders": intruder_dimensions(positive, negative, K, epsilon, "negative", against),
        "positive_intruders": intruder_dimensions(positive, negative, K, epsilon, "positive", against),
        "positive_entropy": map_entropy(branches.maps[0]),
        "negative_entropy": map_entropy(branches.maps[1]),
        "positive_mass": map_mass(branches.maps[0]),
        "negative_mass": map_mass(branches.maps[1]),
    }


@pytest.mark.parametrize("against", ["top_k", "all"])
@pytest.mark.parametrize("variant", TWO_MAP_VARIANTS)
def test_streaming_equals_all_at_once(variant, against):
    model, pixel_values = tiny_vit(variant), images(7)
    report = analyze_subspaces(model, batches(pixel_values, 3), k=K, epsilon=0.6, against=against)
    branches = all_branches(model, pixel_values)
    assert report.samples == 7
    assert len(report.layers) == len(branches) == LAYERS
    for layer, item in zip(report.layers, branches, strict=True):
        expected = expected_statistics(item, 0.6, against)
        assert layer.statistics.keys() == expected.keys() == TWO_MAP_STATISTICS | PAIR_STATISTICS
        assert layer.undefined is None
        for name, values in expected.items():
            distribution = layer.statistics[name]
            assert distribution.count.tolist() == [7] * HEADS
            assert distribution.mean() == pytest.approx(values.double().mean(dim=0).tolist(), abs=2e-5), name


def test_alpha_is_that_of_the_layer_and_lambda_is_subtracted():
    model = tiny_vit()
    report = analyze_subspaces(model, batches(images(), 5), k=K)
    for layer, block in zip(report.layers, model.dna_vit.layers, strict=True):
        assert layer.scale == block.attention.negative_scale.tolist()
    differential = tiny_vit("differential")
    report = analyze_subspaces(differential, batches(images(), 5), k=K)
    for layer, block in zip(report.layers, differential.dna_vit.layers, strict=True):
        assert layer.scale == pytest.approx([-block.attention.current_lambda().item()] * HEADS)


def test_sensitivity_holds_every_k_and_epsilon():
    model, pixel_values = tiny_vit(), images(4)
    epsilons = (0.3, 0.5, 0.8)
    report = analyze_subspaces(model, batches(pixel_values, 3), k=K, epsilons=epsilons)
    branches = all_branches(model, pixel_values)
    for layer, item in zip(report.layers, branches, strict=True):
        for direction, table in layer.sensitivity().items():
            assert len(table) == HEADS
            for k in range(1, K + 1):
                for column, epsilon in enumerate(epsilons):
                    counts = intruder_dimensions(*item.outputs, k, epsilon, direction).double().mean(dim=0)
                    assert [head[k - 1][column] for head in table] == pytest.approx(counts.tolist())
            at_defaults = [head[K - 1][1] for head in table]
            assert at_defaults == pytest.approx(layer.statistics[f"{direction}_intruders"].mean())


@pytest.mark.parametrize("variant", ["dna_shared_value", "differential"])
def test_shared_values_are_similar_by_construction(variant):
    report = analyze_subspaces(tiny_vit(variant), batches(images(), 5), k=K)
    assert report.layers[0].statistics["value_similarity"].mean() == pytest.approx([1.0] * HEADS, abs=1e-6)


def test_maps_of_softmax_are_reported_and_the_rest_is_said_to_be_undefined():
    report = analyze_subspaces(tiny_vit("softmax"), batches(images(), 2))
    for layer in report.layers:
        assert layer.statistics.keys() == MAP_STATISTICS
        assert layer.scale is None and layer.sensitivity() == {}
        assert layer.undefined.startswith("softmax attention has one branch")
        assert layer.undefined.count(".") == 1


def test_a_signed_map_divides_its_mass():
    first, second = analyze_subspaces(tiny_vit("cog"), batches(images(), 2)).layers
    assert first.variant == "softmax" and first.statistics.keys() == MAP_STATISTICS
    assert second.variant == "cog" and second.statistics.keys() == TWO_MAP_STATISTICS
    positive, negative = (second.statistics[f"{sign}_mass"].mean() for sign in ("positive", "negative"))
    assert [a + b for a, b in zip(positive, negative, strict=True)] == pytest.approx([1.0] * HEADS, abs=1e-6)
    assert 0 < min(positive) < 1


def test_space_and_time_are_apart():
    report = analyze_subspaces(tiny_timesformer(), batches(videos(), 1), k=2)
    assert report.samples == 2
    counts = {
        (layer.place.layer, layer.place.axis): layer.statistics["output_cosine"].count for layer in report.layers
    }
    expected = {
        (index, axis): count for index in range(LAYERS) for axis, count in (("space", 2 * FRAMES), ("time", 18))
    }
    assert {place: count.tolist() for place, count in counts.items()} == {
        place: [count] * HEADS for place, count in expected.items()
    }
    assert report.overall().keys() == {"space", "time"}
    alone = analyze_subspaces(tiny_timesformer(), batches(videos(), 1), k=2, axis="time", layers=[1])
    assert [str(layer.place) for layer in alone.layers] == ["attention over time in layer 1"]


def test_the_whole_is_pooled_from_layers_and_heads():
    report = analyze_subspaces(tiny_vit(), batches(images(4), 2), k=K)
    pooled = report.overall()["space"]["value_similarity"]
    assert pooled.count.tolist() == [4 * HEADS * LAYERS]
    means = [mean for layer in report.layers for mean in layer.statistics["value_similarity"].mean()]
    assert pooled.mean() == [pytest.approx(sum(means) / len(means))]


def test_the_report_is_deterministic_and_fits_json():
    first, second = (analyze_subspaces(tiny_vit(), batches(images(), 2), k=K).to_dict() for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    layer = first["layers"][1]
    assert (layer["layer"], layer["axis"], layer["variant"]) == (1, "space", "dna")
    assert sum(layer["statistics"]["negative_intruders"]["histogram"]["counts"]) == 5 * HEADS
    assert len(layer["statistics"]["negative_intruders"]["histogram"]["counts"]) == K + 1


def test_a_branch_of_zeros_is_undefined_and_not_an_error():
    model = tiny_vit()
    with torch.no_grad():
        for block in model.dna_vit.layers:
            block.attention.v_neg_proj.weight.zero_()
            block.attention.v_neg_proj.bias.zero_()
    statistics = analyze_subspaces(model, batches(images(), 5), k=K).layers[0].statistics
    for name in ("value_similarity", "output_cosine", "output_similarity", "mean_angle"):
        assert statistics[name].undefined.tolist() == [5] * HEADS
        assert statistics[name].mean() == [None] * HEADS
    assert statistics["positive_intruders"].mean() == [K] * HEADS
    assert statistics["negative_intruders"].mean() == [0] * HEADS


def test_memory_does_not_grow_with_the_batches():
    alive = []

    def watched(count):
        for _ in range(count):
            gc.collect()
            alive.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
            yield {"pixel_values": images(2)}

    def numbers(count):
        report = analyze_subspaces(tiny_vit(), watched(count), k=K)
        statistics = [values for layer in report.layers for values in layer.statistics.values()]
        return sum(values.histogram.numel() + values.total.numel() for values in statistics)

    few = numbers(2)
    alive.clear()
    assert numbers(20) == few
    # the first batch makes the accumulators; no later one leaves a tensor behind
    assert len(alive) == 20 and len(set(alive[1:])) == 1


def test_what_cannot_be_asked_ends_in_a_sentence():
    model, inputs = tiny_vit(), batches(images(), 5)
    with pytest.raises(AnalysisError, match=f"attention over space in layer 0: k is 10, .* between 1 and {HEAD_DIM}"):
        analyze_subspaces(model, inputs)
    with pytest.raises(AnalysisError, match=f"attention over time in layer 0: k is 5, .* between 1 and {FRAMES}"):
        analyze_subspaces(tiny_timesformer(), batches(videos(), 2), k=5)
    with pytest.raises(AnalysisError, match="layer 2 does not exist"):
        analyze_subspaces(model, inputs, layers=[2])
    with pytest.raises(AnalysisError, match="epsilon is 0"):
        analyze_subspaces(model, inputs, k=K, epsilon=0)
    with pytest.raises(AnalysisError, match="no batches"):
        analyze_subspaces(model, [])
    with pytest.raises(AnalysisError, match="inputs are a Tensor, but arguments"):
        analyze_subspaces(model, [images()], k=K)
    with pytest.raises(AnalysisError, match="not finite"):
        analyze_subspaces(model, [{"pixel_values": torch.full((1, 3, 12, 12), torch.inf)}], k=K)


def test_visual_probes_one_visual_at_a_time():
    model = tiny_probes().eval()
    torch.manual_seed(0)
    batches = [
        {
            "pixel_values": torch.randn(frames * 8, 3 * 4**2),
            "grid_thw": torch.tensor([[frames, 2, 4]]),
            "merge_sizes": torch.tensor([2]),
        }
        for frames in (1, 2, 3)
    ]
    report = analyze_subspaces(model, batches, k=4)
    assert report.samples == 3 and [layer.place.layer for layer in report.layers] == [0]
    attention = model.encoder.interaction_modules[0].attention
    similarities, counts = [], []
    for batch in batches:
        with torch.no_grad():
            tokens = model(**batch, output_hidden_states=True).hidden_states[1].double()
            probes = model.encoder.visual_probes[0].double()

            def heads(projection, states):
                weight, bias = projection.weight.double(), projection.bias.double()
                return (states @ weight.T + bias).unflatten(-1, (attention.num_heads, -1)).transpose(0, 1)

            values = [heads(attention.v_pos_proj, tokens), heads(attention.v_neg_proj, tokens)]
            keys = heads(attention.k_proj, tokens).transpose(1, 2) / attention.head_dim**0.5
            outputs = [
                (heads(attention.q_pos_proj, probes) @ keys).softmax(-1) @ values[0],
                (-heads(attention.q_neg_proj, probes) @ keys).softmax(-1) @ values[1],
            ]
        similarities.append(
            (values[0] * values[1]).sum((1, 2)) / (values[0].norm(dim=(1, 2)) * values[1].norm(dim=(1, 2)))
        )
        counts.append(intruder_dimensions(outputs[0], outputs[1], 4, 0.5))
    statistics = report.layers[0].statistics
    assert statistics["value_similarity"].mean() == pytest.approx(torch.stack(similarities).mean(0).tolist(), abs=1e-6)
    assert statistics["negative_intruders"].mean() == pytest.approx(torch.stack(counts).double().mean(0).tolist())
    together = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    with pytest.raises(AnalysisError, match="give one at a time"):
        analyze_subspaces(model, [together], k=4)
