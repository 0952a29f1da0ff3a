"""The DnA TimeSformer: float64 oracle, reference vectors, sizes, frames, outputs, loading, compilation, training."""

import json
import math
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForVideoClassification

from dna_hf.models import DnATimesformerConfig, DnATimesformerForVideoClassification, DnATimesformerModel
from dna_hf.models.attention_variants import VariantAttention
from dna_hf.models.layers_dna import DnADropPath
from tests.kit.models import moved
from tests.reference import ReferenceTimesformer


VARIANTS = ("dna", "dna_shared_value", "softmax", "differential", "cog")
TWO_MAPS = ("dna", "dna_shared_value", "differential")
TYPES = ("divided_space_time", "joint_space_time", "space_only")
BATCH, FRAMES, ROWS, COLUMNS, PATCH = 2, 3, 2, 3, 4
LAYERS, HEADS, WIDTH = 2, 2, 16
PATCHES = ROWS * COLUMNS
MAP_KINDS = ("attentions", "negative_attentions", "temporal_attentions", "negative_temporal_attentions")

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_type = pytest.mark.parametrize("attention_type", TYPES)


def tiny_config(**overrides):
    sizes = {
        "image_size": [ROWS * PATCH, COLUMNS * PATCH],
        "patch_size": PATCH,
        "num_frames": FRAMES,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 24,
        "num_labels": 5,
        "cog_softmax_layers": [0],
    }
    return DnATimesformerConfig(**sizes | overrides)


def tiny_model(model_class=DnATimesformerForVideoClassification, seed=0, **overrides):
    """A small model in evaluation mode, with every parameter moved from its initial value."""
    torch.manual_seed(seed)
    return moved(model_class(tiny_config(**overrides)))


def videos(batch=BATCH, frames=FRAMES, height=ROWS * PATCH, width=COLUMNS * PATCH, channels=3, seed=1):
    return torch.randn(batch, frames, channels, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run(model, *args, **kwargs):
    return model(*args, **kwargs)


def assert_same_weights(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


# --- the oracle


def layer_variants(variant):
    """The variant of every layer: cog keeps softmax in the first."""
    return ["softmax", "cog"] if variant == "cog" else [variant] * LAYERS


def in_token_order(tokens, frames, rows, columns):
    """Tokens of the oracle as (batch, tokens, width): class token, then (row, column, frame), the frame fastest."""
    ordered = []
    for class_token, patches in tokens:
        places = [(row, column) for row in range(rows) for column in range(columns)]
        if (0, 0) in patches:
            ordered.append(torch.stack([class_token, *(patches[place] for place in places)]))
        else:
            keys = [(frame, *place) for place in places for frame in range(frames)]
            ordered.append(torch.stack([class_token, *(patches[key] for key in keys)]))
    return torch.stack(ordered)


def run_oracle(model, pixels):
    """The oracle with the weights of a model in float64; tokens, maps and leaves to ask for gradients."""
    config = model.config
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.named_parameters()}
    pixels = pixels.clone().requires_grad_()
    oracle = ReferenceTimesformer(
        layer_variants(config.attention_variant),
        config.attention_type,
        weights,
        HEADS,
        PATCH,
        (ROWS, COLUMNS),
    )
    rows, columns = pixels.shape[-2] // PATCH, pixels.shape[-1] // PATCH
    tokens = in_token_order(oracle(pixels), pixels.shape[1], rows, columns)
    return SimpleNamespace(tokens=tokens, oracle=oracle, weights=weights, pixels=pixels)


@lru_cache(maxsize=1)
def reference_case(variant, attention_type):
    model = tiny_model(
        DnATimesformerModel, attention_variant=variant, attention_type=attention_type, attn_implementation="eager"
    ).double()
    pixels = videos().double()
    expected = run_oracle(model, pixels)
    cotangent = torch.randn(expected.tokens.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected.tokens.backward(cotangent)
    return model, pixels, cotangent, expected


# the lambda of differential attention is computed in float32
def tolerance(variant):
    return 1e-6 if variant == "differential" else 1e-11


@every_type
@every_variant
def test_forward_is_that_of_the_oracle(variant, attention_type):
    model, pixels, _, expected = reference_case(variant, attention_type)
    output = run(model, pixels)
    assert output.last_hidden_state.shape == expected.tokens.shape
    torch.testing.assert_close(output.last_hidden_state, expected.tokens.detach(), rtol=0, atol=tolerance(variant))
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])


@every_type
@every_variant
def test_gradients_are_those_of_the_oracle(variant, attention_type):
    model, pixels, cotangent, expected = reference_case(variant, attention_type)
    pixels = pixels.clone().requires_grad_()
    model.zero_grad()
    model(pixels).last_hidden_state.backward(cotangent)
    pairs = {name: (parameter.grad, expected.weights[name].grad) for name, parameter in model.named_parameters()}
    pairs["pixels"] = (pixels.grad, expected.pixels.grad)
    for name, (actual, reference) in pairs.items():
        if name.endswith("k_proj.bias") and layer_variants(variant)[int(name.split(".")[1])] != "cog":
            # softmax does not feel what all keys share; rounding is all that is left
            assert max(actual.abs().max(), reference.abs().max()) < 1e-12, name
            continue
        assert reference.abs().max() > 1e-4, name
        error = (actual - reference).abs().max() / reference.abs().max()
        assert error < 100 * tolerance(variant), name


@every_type
@every_variant
def test_maps_are_those_of_the_oracle(variant, attention_type):
    model, pixels, _, expected = reference_case(variant, attention_type)
    output = run(model, pixels, output_attentions=True)
    places = [(row, column) for row in range(ROWS) for column in range(COLUMNS)]
    if attention_type == "joint_space_time":
        sequences = list(range(BATCH))
    else:
        sequences = [(video, frame) for video in range(BATCH) for frame in range(FRAMES)]
    series = [(video, *place) for video in range(BATCH) for place in places]
    assert (output.temporal_attentions is None) == (attention_type != "divided_space_time")
    for layer in range(LAYERS):
        checks = [("attentions", expected.oracle.spatial_maps[layer], sequences)]
        if attention_type == "divided_space_time":
            checks.append(("temporal_attentions", expected.oracle.temporal_maps[layer], series))
        for kind, maps, keys in checks:
            assert maps.keys() == set(keys)
            for branch in (0, 1) if variant in TWO_MAPS else (0,):
                actual = output[f"negative_{kind}" if branch else kind][layer]
                reference = torch.stack([maps[key][branch] for key in keys]).detach()
                torch.testing.assert_close(actual, reference, rtol=0, atol=tolerance(variant))


@every_type
@pytest.mark.parametrize(
    ("frames", "rows", "columns"), [(5, 2, 3), (1, 2, 3), (3, 3, 2), (4, 5, 1)], ids=lambda value: str(value)
)
def test_other_numbers_of_frames_and_other_sizes(attention_type, frames, rows, columns):
    model = tiny_model(DnATimesformerModel, num_hidden_layers=1, attention_type=attention_type).double()
    # a remainder below one patch is cut off
    pixels = videos(frames=frames, height=rows * PATCH + 1, width=columns * PATCH + 3, batch=1).double()
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    oracle = ReferenceTimesformer(["dna"], attention_type, weights, HEADS, PATCH, (ROWS, COLUMNS))
    expected = in_token_order(oracle(pixels), frames, rows, columns)
    # positions are resampled in float32
    torch.testing.assert_close(run(model, pixels).last_hidden_state, expected, rtol=0, atol=1e-5)


# --- reference vectors and sizes


def from_original(weights):
    """Weights of the original TimeSformer under the names used here; rows of a packed projection are q+, k, v+."""
    mapped = {
        "dna_timesformer.embeddings.cls_token": weights["cls_token"],
        "dna_timesformer.embeddings.position_embeddings": weights["pos_embed"],
        "dna_timesformer.embeddings.time_embeddings": weights["time_embed"],
    }
    modules = {"norm1": "layernorm_before", "norm2": "layernorm_after", "temporal_norm1": "temporal_layernorm"}
    modules |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2", "temporal_fc": "temporal_dense"}
    for kind in ("weight", "bias"):
        source = weights[f"patch_embed.proj.{kind}"]
        mapped[f"dna_timesformer.embeddings.patch_embeddings.projection.{kind}"] = source
        mapped[f"dna_timesformer.layernorm.{kind}"] = weights[f"norm.{kind}"]
        mapped[f"classifier.{kind}"] = weights[f"head.{kind}"]
        for layer in range(2):
            for theirs, ours in modules.items():
                mapped[f"dna_timesformer.layers.{layer}.{ours}.{kind}"] = weights[f"blocks.{layer}.{theirs}.{kind}"]
    for layer in range(2):
        for theirs, ours in (("attn", "attention"), ("temporal_attn", "temporal_attention")):
            source, target = f"blocks.{layer}.{theirs}", f"dna_timesformer.layers.{layer}.{ours}"
            mapped[f"{target}.negative_scale"] = weights[f"{source}.neg_scalers"]
            for kind in ("weight", "bias"):
                packed = weights[f"{source}.qkv.{kind}"].chunk(3)
                for name, rows in zip(("q_pos", "k", "v_pos"), packed, strict=True):
                    mapped[f"{target}.{name}_proj.{kind}"] = rows
                mapped[f"{target}.q_neg_proj.{kind}"] = weights[f"{source}.q_neg.{kind}"]
                mapped[f"{target}.v_neg_proj.{kind}"] = weights[f"{source}.v_neg.{kind}"]
                mapped[f"{target}.o_proj.{kind}"] = weights[f"{source}.proj.{kind}"]
    return mapped


@pytest.fixture
def original(golden):
    """The reference vectors: weights in float64 under our names, the video (frames first), features, logits."""
    weights = from_original(load_file(golden / "timesformer_dna_divided.weights.safetensors"))
    tensors = load_file(golden / "timesformer_dna_divided.io.safetensors")
    video = tensors["input_bcthw"].double().transpose(1, 2)
    return {name: tensor.double() for name, tensor in weights.items()}, video, tensors["features"], tensors["logits"]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_golden_vectors_of_the_original_timesformer(original, implementation):
    weights, video, features, logits = original
    sizes = {"image_size": 32, "patch_size": 8, "num_frames": 4, "hidden_size": 48, "intermediate_size": 192}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 7}
    config = DnATimesformerConfig(**sizes, attn_implementation=implementation)
    model = DnATimesformerForVideoClassification(config).double().eval()
    model.load_state_dict(weights)
    torch.testing.assert_close(run(model.dna_timesformer, video).pooler_output, features, rtol=0, atol=1e-10)
    torch.testing.assert_close(run(model, video).logits, logits, rtol=0, atol=1e-10)


def test_golden_vectors_hold_for_the_oracle(original):
    weights, video, features, _ = original
    prefix = "dna_timesformer."
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    oracle = ReferenceTimesformer(["dna", "dna"], "divided_space_time", own, 4, 8, (4, 4))
    actual = torch.stack([class_token for class_token, _ in oracle(video)])
    torch.testing.assert_close(actual, features, rtol=0, atol=1e-10)


def paper_model(variant):
    """The paper's model for Kinetics-400, without memory for its weights."""
    config = DnATimesformerConfig(attention_variant=variant, num_labels=400, attn_implementation="eager")
    with torch.device("meta"):
        return DnATimesformerForVideoClassification(config).eval()


@pytest.mark.parametrize(("variant", "expected"), [("softmax", 121_566_352), ("dna", 149_915_056)])
def test_number_of_parameters(variant, expected):
    assert paper_model(variant).num_parameters() == expected


@pytest.mark.parametrize("variant", ["differential", "cog"])
def test_baselines_have_as_many_parameters_as_softmax_attention(variant):
    assert paper_model(variant).num_parameters() == pytest.approx(121_566_352, rel=1e-3)


@pytest.mark.parametrize(("variant", "expected"), [("softmax", 195.8e9), ("dna", 246.3e9)])
def test_number_of_multiplications(variant, expected):
    with FlopCounterMode(display=False) as counter:
        run(paper_model(variant), torch.empty(1, 8, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(expected, rel=5e-3)


# --- initial values and loading


@every_type
def test_initial_values(attention_type):
    torch.manual_seed(0)
    config = tiny_config(hidden_size=192, negative_scale_init=0.25, attention_type=attention_type)
    model = DnATimesformerModel(config)
    layer, embeddings = model.layers[1], model.embeddings
    drawn = [embeddings.position_embeddings, embeddings.cls_token, layer.attention.q_neg_proj.weight]
    assert layer.attention.negative_scale.tolist() == [0.25] * HEADS
    assert (layer.mlp.fc1.bias == 0).all()
    if attention_type == "divided_space_time":
        drawn.append(layer.temporal_attention.v_pos_proj.weight)
        assert layer.temporal_attention.negative_scale.tolist() == [0.25] * HEADS
        for each in model.layers:
            assert not each.temporal_dense.weight.any() and not each.temporal_dense.bias.any()
    for tensor in drawn:
        assert tensor.std().item() == pytest.approx(0.02, rel=0.15)
        assert abs(tensor.mean().item()) < 5e-3
        assert tensor.unique().numel() > 100
    if attention_type == "space_only":
        assert embeddings.time_embeddings is None
    else:
        assert embeddings.time_embeddings.shape == (1, FRAMES, 192)
        assert not embeddings.time_embeddings.any()
    bound = (3 * PATCH * PATCH) ** -0.5
    assert embeddings.patch_embeddings.projection.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    temporal = [name for name, _ in model.named_parameters() if "temporal" in name]
    assert bool(temporal) == (attention_type == "divided_space_time")


def test_initial_values_are_those_of_a_truncated_normal():
    # cut at 2, which is far out at the deviation of 0.02: a wide one shows it
    torch.manual_seed(0)
    model = DnATimesformerModel(tiny_config(hidden_size=64, initializer_range=1.5))
    weight = model.layers[0].temporal_attention.q_pos_proj.weight
    assert 1.9 < weight.abs().max() <= 2


def save_without(model, folder, *parts):
    """Save a model less the weights whose names contain one of `parts`; returns their names."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    removed = {name for name in weights if any(part in name for part in parts)}
    kept = {name: tensor for name, tensor in weights.items() if name not in removed}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return removed


def test_weights_missing_from_a_checkpoint_are_initialised_and_reported(tmp_path):
    missing = ("negative_scale", "cls_token", "position_embeddings", "time_embeddings", "temporal_dense")
    saved = tiny_model(hidden_size=192)
    removed = save_without(saved, tmp_path, *missing)
    assert len(removed) == LAYERS * 4 + 3
    model, report = DnATimesformerForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == removed
    assert not report["unexpected_keys"]
    embeddings = model.dna_timesformer.embeddings
    for layer in model.dna_timesformer.layers:
        for attention in (layer.attention, layer.temporal_attention):
            assert attention.negative_scale.tolist() == [0.5] * HEADS
        assert not layer.temporal_dense.weight.any() and not layer.temporal_dense.bias.any()
    assert embeddings.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert embeddings.position_embeddings.std().item() == pytest.approx(0.02, rel=0.1)
    assert not embeddings.time_embeddings.any()
    loaded = model.state_dict()
    for name, tensor in saved.state_dict().items():
        assert name in removed or torch.equal(loaded[name], tensor)


@pytest.mark.parametrize(
    "missing",
    ["layers.1.temporal_dense.bias", "layers.0.temporal_dense.weight", "layers.0.temporal_attention", "cls_token"],
)
def test_what_is_missing_leaves_the_trained_rest_as_saved(tmp_path, missing):
    saved = tiny_model()
    removed = save_without(saved, tmp_path, missing)
    assert removed
    model = DnATimesformerForVideoClassification.from_pretrained(tmp_path)
    loaded = model.state_dict()
    for name, tensor in saved.state_dict().items():
        if name not in removed:
            assert torch.equal(loaded[name], tensor), name
        elif "temporal_dense" in name:
            assert not loaded[name].any(), name
        else:
            assert loaded[name].isfinite().all() and not torch.equal(loaded[name], tensor), name


@every_type
@every_variant
def test_saved_and_loaded_bit_for_bit(tmp_path, variant, attention_type):
    model = tiny_model(attention_variant=variant, attention_type=attention_type)
    model.save_pretrained(tmp_path)
    for loader in (DnATimesformerForVideoClassification, AutoModelForVideoClassification):
        loaded, report = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is DnATimesformerForVideoClassification
        assert not loaded.training
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert (loaded.config.attention_variant, loaded.config.attention_type) == (variant, attention_type)
        assert_same_weights(loaded.state_dict(), model.state_dict())
        assert torch.equal(run(loaded, videos()).logits, run(model, videos()).logits)


def test_base_weights_load_into_a_head_and_back(tmp_path):
    base = tiny_model(DnATimesformerModel)
    base.save_pretrained(tmp_path / "base")
    head, report = DnATimesformerForVideoClassification.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not report["unexpected_keys"]
    assert_same_weights(head.dna_timesformer.state_dict(), base.state_dict())

    head = tiny_model(seed=3)
    head.save_pretrained(tmp_path / "head")
    base, report = AutoModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert type(base) is DnATimesformerModel
    assert not report["missing_keys"]
    assert set(report["unexpected_keys"]) == {"classifier.weight", "classifier.bias"}
    assert_same_weights(base.state_dict(), head.dna_timesformer.state_dict())


def test_another_number_of_classes_starts_a_new_head(tmp_path):
    saved = tiny_model()
    saved.save_pretrained(tmp_path)
    model = DnATimesformerForVideoClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert run(model, videos()).logits.shape == (BATCH, 7)
    assert_same_weights(model.dna_timesformer.state_dict(), saved.dna_timesformer.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_variant
def test_half_precision(tmp_path, variant, dtype):
    saved = tiny_model(attention_variant=variant)
    saved.save_pretrained(tmp_path)
    model = DnATimesformerForVideoClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    # float32 frames, as processors give them; another number of frames and another size
    for pixels in (videos(), videos(frames=4, height=12)):
        logits = run(model, pixels).logits
        assert logits.dtype == dtype
        expected = run(saved, pixels).logits
        error = (logits.float() - expected).norm() / expected.norm()
        if variant == "cog":
            assert error < 0.2  # its output jumps where rounding turns the sign of a score
        else:
            assert error < (0.05 if dtype == torch.bfloat16 else 0.006)


# --- frames


@every_type
def test_a_fresh_model_ignores_the_order_of_the_frames(attention_type):
    torch.manual_seed(0)
    model = DnATimesformerForVideoClassification(tiny_config(attention_type=attention_type, num_frames=4)).eval()
    pixels, order = videos(frames=4), [2, 0, 3, 1]
    torch.testing.assert_close(run(model, pixels[:, order]).logits, run(model, pixels).logits, rtol=0, atol=1e-6)
    changed = pixels.clone()
    changed[:, 1] += torch.randn_like(changed[:, 1])
    assert not torch.allclose(run(model, changed).logits, run(model, pixels).logits, rtol=0, atol=1e-4)

    trained = tiny_model(attention_type=attention_type, num_frames=4)
    same = torch.allclose(run(trained, pixels[:, order]).logits, run(trained, pixels).logits, rtol=0, atol=1e-4)
    # without times, frames are a set
    assert same == (attention_type == "space_only")


def test_the_temporal_branch_of_a_fresh_model_adds_nothing():
    torch.manual_seed(0)
    model = DnATimesformerModel(tiny_config(num_hidden_layers=1)).eval()
    pixels = videos()
    changed = pixels.clone()
    changed[:, 1] += torch.randn_like(changed[:, 1])

    def patches(inputs):
        """(batch, patches, frames, width)"""
        return run(model, inputs).last_hidden_state[:, 1:].unflatten(1, (PATCHES, FRAMES))

    before, after = patches(pixels), patches(changed)
    assert torch.equal(before[:, :, [0, 2]], after[:, :, [0, 2]])
    assert not torch.allclose(before[:, :, 1], after[:, :, 1])
    with torch.no_grad():
        for parameter in model.layers[0].temporal_attention.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(patches(pixels), before)

    nn.init.normal_(model.layers[0].temporal_dense.weight, std=0.2)
    before, after = patches(pixels), patches(changed)
    for frame in range(FRAMES):
        assert not torch.allclose(before[:, :, frame], after[:, :, frame], atol=1e-4)


def test_space_only_averages_the_frames_before_the_norm():
    model = tiny_model(DnATimesformerModel, attention_type="space_only")
    output = run(model, videos(), output_hidden_states=True)
    last = output.hidden_states[-1].unflatten(0, (BATCH, FRAMES))
    averaged = sum(last[:, frame] for frame in range(FRAMES)) / FRAMES
    torch.testing.assert_close(run(model.layernorm, averaged), output.last_hidden_state, rtol=0, atol=1e-6)
    normed_first = run(model.layernorm, last).mean(dim=1)
    assert not torch.allclose(normed_first, output.last_hidden_state, atol=1e-2)
    single = torch.stack([run(model, videos()[:, frame : frame + 1]).last_hidden_state for frame in range(FRAMES)])
    assert not torch.allclose(single.mean(dim=0), output.last_hidden_state, atol=1e-2)


@every_type
def test_videos_of_a_batch_do_not_see_each_other(attention_type):
    model, pixels = tiny_model(attention_type=attention_type), videos(batch=3)
    together = run(model, pixels).logits
    alone = torch.cat([run(model, video[None]).logits for video in pixels])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


# --- wrong inputs


def test_a_batch_of_images_is_no_video():
    with pytest.raises(ValueError, match=r"\(batch, frames, channels, height, width\), got shape \(2, 3, 8, 12\)"):
        run(tiny_model(), torch.zeros(2, 3, 8, 12))


@every_type
def test_a_video_without_frames(attention_type):
    with pytest.raises(ValueError, match=r"no frames.*\(2, 0, 3, 8, 12\)"):
        run(tiny_model(attention_type=attention_type), videos(frames=0))


@pytest.mark.parametrize(("height", "width"), [(3, 12), (8, 2)])
def test_frames_smaller_than_a_patch(height, width):
    with pytest.raises(ValueError, match=f"{height}x{width}.*patch.*{PATCH}x{PATCH}"):
        run(tiny_model(), videos(height=height, width=width))


def test_wrong_number_of_channels_names_both_numbers():
    with pytest.raises(ValueError, match="4 channels, but config.num_channels is 3"):
        run(tiny_model(), videos(channels=4))
    # channels before frames, as in the original code
    with pytest.raises(ValueError, match=f"{FRAMES + 1} channels, but config.num_channels is 3"):
        run(tiny_model(), videos(frames=FRAMES + 1).transpose(1, 2))


@pytest.mark.parametrize("model_class", [DnATimesformerModel, DnATimesformerForVideoClassification])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention_mask", torch.ones(BATCH, 1 + FRAMES * ROWS * COLUMNS, dtype=torch.bool)),
        # it would fit over time and over space
        ("attention_mask", torch.ones(1, 1, 1, 1, dtype=torch.bool)),
        ("interpolate_pos_encoding", True),
        ("interpolate_pos_encoding", False),
    ],
    ids=["mask-of-tokens", "mask-of-maps", "interpolate", "do-not-interpolate"],
)
def test_what_image_models_alone_take_is_refused(model_class, name, value):
    model = tiny_model(model_class)
    with pytest.raises(ValueError, match=f"a video model takes no {name}, leave it out"):
        run(model, videos(), **{name: value})
    assert torch.equal(run(model, videos(), **{name: None})[0], run(model, videos())[0])


# --- outputs


def expected_shapes(variant, attention_type):
    """The maps that a model gives, by name, and their shapes."""
    spatial = {
        "divided_space_time": (BATCH * FRAMES, HEADS, 1 + PATCHES, 1 + PATCHES),
        "joint_space_time": (BATCH, HEADS, 1 + PATCHES * FRAMES, 1 + PATCHES * FRAMES),
        "space_only": (BATCH * FRAMES, HEADS, 1 + PATCHES, 1 + PATCHES),
    }
    shapes = {"attentions": spatial[attention_type]}
    if attention_type == "divided_space_time":
        shapes["temporal_attentions"] = (BATCH * PATCHES, HEADS, FRAMES, FRAMES)
    if variant in TWO_MAPS:
        shapes |= {f"negative_{name}": shape for name, shape in shapes.items()}
    return shapes


@pytest.mark.parametrize("where", ["call", "config"])
@every_type
@every_variant
def test_attention_maps_of_every_kind(variant, attention_type, where):
    config = {"output_attentions": True} if where == "config" else {}
    call = {"output_attentions": True} if where == "call" else {}
    shapes = expected_shapes(variant, attention_type)
    for model_class in (DnATimesformerModel, DnATimesformerForVideoClassification):
        model = tiny_model(
            model_class,
            attention_variant=variant,
            attention_type=attention_type,
            attn_implementation="eager",
            **config,
        )
        output = run(model, videos(), **call)
        for kind in MAP_KINDS:
            if kind not in shapes:
                assert output[kind] is None if kind in output else getattr(output, kind) is None
                continue
            assert len(output[kind]) == LAYERS
            for weights in output[kind]:
                assert weights.shape == shapes[kind]
                sums = weights.abs().sum(dim=-1)
                torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-5, atol=0)
        for kind in ("attentions", "temporal_attentions"):
            if f"negative_{kind}" in shapes:
                assert not torch.allclose(output[kind][0], output[f"negative_{kind}"][0])


def test_no_maps_unless_asked():
    for config, call in (({}, {}), ({"output_attentions": True}, {"output_attentions": False})):
        output = run(tiny_model(attn_implementation="eager", **config), videos(), **call)
        assert all(getattr(output, kind) is None for kind in MAP_KINDS)
        assert output.hidden_states is None


def test_tuple_output_contains_all_maps():
    model = tiny_model(attn_implementation="eager")
    output = run(model, videos(), output_attentions=True)
    logits, *maps = run(model, videos(), output_attentions=True, return_dict=False)
    assert torch.equal(logits, output.logits)
    for actual, kind in zip(maps, MAP_KINDS, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(actual, output[kind], strict=True)), kind


@every_type
@every_variant
def test_attention_maps_are_those_of_eager(variant, attention_type):
    model = tiny_model(attention_variant=variant, attention_type=attention_type, attn_implementation="sdpa")
    maps = model.attention_maps(pixel_values=videos())
    assert model.config._attn_implementation == "sdpa"
    assert run(model, videos()).attentions is None
    count = sum(isinstance(module, VariantAttention) for module in model.modules())
    divided = attention_type == "divided_space_time"
    assert count == len(maps.positive) == LAYERS * (2 if divided else 1)

    model.set_attn_implementation("eager")
    output = run(model, videos(), output_attentions=True)
    branches = [(maps.positive, "")]
    if variant in TWO_MAPS:
        branches.append((maps.negative, "negative_"))
    else:
        assert maps.negative == ()
    for actual, prefix in branches:
        expected = list(output[f"{prefix}attentions"])
        if divided:
            temporal = output[f"{prefix}temporal_attentions"]
            expected = [each for pair in zip(expected, temporal, strict=True) for each in pair]
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    # an index names the same module alone as among all
    for index in range(-count, count):
        chosen = model.attention_maps(layers=[index], pixel_values=videos())
        for one, all_of_them in zip(chosen, maps, strict=True):
            assert len(one) == bool(all_of_them)
            for each in one:
                assert each.shape == all_of_them[index].shape
                torch.testing.assert_close(each, all_of_them[index], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layers", [[4], [0, -5]], ids=str)
def test_attention_maps_of_a_module_that_does_not_exist(layers):
    with pytest.raises(ValueError, match="are not all among the 4 attention modules"):
        tiny_model().attention_maps(layers=layers, pixel_values=videos())


@every_type
def test_hidden_states(attention_type):
    model = tiny_model(DnATimesformerModel, attention_type=attention_type)
    output = run(model, videos(), output_hidden_states=True)
    shape = (BATCH, 1 + PATCHES * FRAMES, WIDTH)
    if attention_type == "space_only":
        shape = (BATCH * FRAMES, 1 + PATCHES, WIDTH)
    assert [states.shape for states in output.hidden_states] == [shape] * (LAYERS + 1)
    assert torch.equal(output.hidden_states[0], run(model.embeddings, videos()))
    if attention_type != "space_only":
        assert torch.equal(run(model.layernorm, output.hidden_states[-1]), output.last_hidden_state)


def test_classification_loss():
    model, labels = tiny_model(), torch.tensor([3, 0])
    output = run(model, videos(), labels=labels)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))
    headless = tiny_model(num_labels=0)
    features = run(headless.dna_timesformer, videos()).pooler_output
    assert torch.equal(run(headless, videos()).logits, features)


@every_type
@every_variant
def test_attention_implementations_agree(variant, attention_type):
    model = tiny_model(attention_variant=variant, attention_type=attention_type, attn_implementation="eager")
    expected = run(model, videos()).logits
    model.set_attn_implementation("sdpa")
    assert model.dna_timesformer.layers[0].attention.config._attn_implementation == "sdpa"
    torch.testing.assert_close(run(model, videos()).logits, expected, rtol=1e-5, atol=1e-5)


# slow: it compiles kernels for time and for space
@pytest.mark.slow
def test_flex_attention_agrees():
    model = tiny_model(attn_implementation="flex_attention", num_hidden_layers=1, hidden_size=32)
    logits = run(model, videos()).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits, run(model, videos()).logits, rtol=1e-5, atol=1e-5)


# --- regularisation


@pytest.mark.parametrize(
    ("schedule", "expected"), [("constant", [0.3, 0.3, 0.3]), ("linear", [0.0, 0.15, 0.3])], ids=["constant", "linear"]
)
def test_drop_path_rates(schedule, expected):
    config = tiny_config(num_hidden_layers=3, drop_path_rate=0.3, drop_path_schedule=schedule)
    model = DnATimesformerModel(config)
    assert [layer.drop_path.rate for layer in model.layers] == pytest.approx(expected)


@every_type
def test_drop_path_drops_series_frames_and_videos(attention_type):
    batch, calls = 60, []
    model = tiny_model(
        DnATimesformerModel,
        attention_type=attention_type,
        num_hidden_layers=1,
        drop_path_rate=0.3,
        drop_path_schedule="constant",
    ).train()
    for module in model.modules():
        if isinstance(module, DnADropPath):
            module.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
    torch.manual_seed(0)
    run(model, videos(batch=batch))
    tokens = {"space_only": 1 + PATCHES}.get(attention_type, 1 + PATCHES * FRAMES)
    rows = {"space_only": batch * FRAMES}.get(attention_type, batch)
    shapes = [(rows, tokens, WIDTH)] * 2
    if attention_type == "divided_space_time":
        shapes[0] = (batch * FRAMES, 1 + PATCHES, WIDTH)
        shapes.insert(0, (batch * PATCHES, FRAMES, WIDTH))
    assert [tuple(inputs.shape) for inputs, _ in calls] == shapes
    for inputs, outputs in calls:
        dropped = (outputs == 0).flatten(1).all(dim=1)
        torch.testing.assert_close(outputs[~dropped], inputs[~dropped] / 0.7)
        # within four standard deviations
        deviation = math.sqrt(0.3 * 0.7 / len(inputs))
        assert dropped.double().mean().item() == pytest.approx(0.3, abs=4 * deviation)


def test_drop_path_comes_before_the_linear_layer_behind_time():
    model = tiny_model(DnATimesformerModel, drop_path_rate=0.5, drop_path_schedule="constant")
    layer, patches = model.layers[0].train(), torch.randn(20, PATCHES, FRAMES, WIDTH)
    torch.manual_seed(0)
    with torch.no_grad():
        added = (layer.attend_time(patches) - patches).flatten(0, 1)
    # a series whose attention is dropped still gets the bias
    dropped = (added - layer.temporal_dense.bias).abs().flatten(1).amax(dim=1) < 1e-6
    assert 40 <= dropped.sum() <= 80


@every_type
def test_regularisation_is_off_in_evaluation(attention_type):
    rates = {"drop_path_rate": 0.5, "hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    model, plain = tiny_model(attention_type=attention_type, **rates), tiny_model(attention_type=attention_type)
    assert torch.equal(run(model, videos()).logits, run(plain, videos()).logits)
    model.train()
    assert not torch.allclose(run(model, videos()).logits, run(plain, videos()).logits)


# --- compilation, export, memory


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


# every variant and every type; the other pairs are made of the same modules
PAIRS = pytest.mark.parametrize(
    ("variant", "attention_type"),
    [
        ("dna", "divided_space_time"),
        pytest.param("dna_shared_value", "space_only", marks=pytest.mark.slow),
        pytest.param("softmax", "joint_space_time", marks=pytest.mark.once),
        pytest.param("differential", "divided_space_time", marks=pytest.mark.slow),
        pytest.param("cog", "joint_space_time", marks=pytest.mark.slow),
    ],
)


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_model_equals_eager(compiler, fresh_compiler):
    model = tiny_model()
    expected = run(model, videos()).logits
    compiled = torch.compile(model, fullgraph=True, backend=compiler)
    torch.testing.assert_close(run(compiled, videos()).logits, expected, rtol=1e-5, atol=1e-5)


@PAIRS
def test_compiled_training_step_equals_eager(variant, attention_type, fresh_compiler):
    model = tiny_model(attention_variant=variant, attention_type=attention_type).train()
    labels = torch.tensor([1, 4])
    model(videos(), labels=labels).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(videos(), labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


@PAIRS
def test_export_with_any_batch_size(variant, attention_type):
    model = tiny_model(attention_variant=variant, attention_type=attention_type)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(
        model, (), {"pixel_values": videos()}, dynamic_shapes={"pixel_values": {0: batch}}, strict=False
    ).module()
    for size in (1, 2, 5):
        pixels = videos(batch=size)
        logits = run(exported, pixel_values=pixels).logits
        torch.testing.assert_close(logits, run(model, pixels).logits, rtol=1e-5, atol=1e-5)


@every_type
@every_variant
def test_activation_checkpointing_changes_nothing_but_memory(variant, attention_type):
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "drop_path_rate": 0.2}
    model = tiny_model(attention_variant=variant, attention_type=attention_type, **rates).train()
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable()
            assert all(layer.gradient_checkpointing for layer in model.dna_timesformer.layers)
        model.zero_grad()
        torch.manual_seed(0)
        loss = model(videos(), labels=torch.tensor([1, 4])).loss
        loss.backward()
        results.append((loss.item(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}))
    (loss, gradients), (other_loss, other_gradients) = results
    assert loss == other_loss
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-6, atol=1e-8)


# --- training


@every_type
@every_variant
def test_training_lowers_the_loss_and_reaches_every_parameter(variant, attention_type):
    torch.manual_seed(0)
    config = tiny_config(attention_variant=variant, attention_type=attention_type)
    model = DnATimesformerForVideoClassification(config).train()
    pixels, labels = videos(batch=8), torch.arange(8) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
        assert not torch.equal(parameter, before[name]), name


# --- configuration


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"attention_variant": "cog", "cog_softmax_layers": [0, 5, -1], "attention_type": "joint_space_time"},
        {"image_size": [64, 96], "patch_size": [8, 16], "num_channels": 1, "num_frames": 3},
        {"attention_type": "space_only", "drop_path_rate": 0.1, "drop_path_schedule": "constant", "qkv_bias": False},
        {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}, "negative_scale_init": -1},
    ],
    ids=["defaults", "cog", "rectangular", "regularised", "labels"],
)
def test_configuration_survives_json(tmp_path, values):
    config = DnATimesformerConfig(**values)
    config.save_pretrained(tmp_path)
    loaded = DnATimesformerConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "dna_timesformer"
    for name, value in values.items():
        assert getattr(loaded, name) == value


def test_defaults_are_those_of_the_paper():
    config = DnATimesformerConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.image_size, config.patch_size, config.layer_norm_eps) == (224, 16, 1e-6)
    assert (config.attention_variant, config.negative_scale_init) == ("dna", 0.5)
    assert (config.attention_type, config.num_frames) == ("divided_space_time", 8)
    assert config.drop_path_schedule == "linear"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_frames", 0),
        ("num_frames", -1),
        ("num_frames", 2.5),
        ("num_frames", "8"),
        ("num_frames", None),
        ("attention_type", "divided"),
        ("attention_type", None),
        ("attention_variant", "linear"),
        ("hidden_size", 17),
        ("image_size", [8, 13]),
        ("patch_size", 0),
        ("num_channels", 0),
        ("drop_path_rate", 1.0),
        ("drop_path_schedule", "cosine"),
        ("cog_softmax_layers", [2]),
        ("initializer_range", -0.02),
    ],
    ids=str,
)
def test_invalid_values_name_the_field(name, value):
    with pytest.raises((StrictDataclassError, ValueError), match=name):
        tiny_config(**{name: value})
