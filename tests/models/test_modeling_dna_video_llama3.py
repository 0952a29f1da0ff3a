"""The VideoLLaMA3 vision encoder with visual probes: reference vectors, float64 oracle, transformers' own encoder."""

import json
from functools import lru_cache

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModel
from transformers.models.video_llama_3.configuration_video_llama_3 import VideoLlama3VisionConfig
from transformers.models.video_llama_3.modeling_video_llama_3 import VideoLlama3VisionModel

from dna_hf.models import DnAVideoLlama3VisionConfig, DnAVideoLlama3VisionModel
from tests.kit.models import moved
from tests.reference import reference_attention


VARIANTS = ("dna", "dna_shared_value", "softmax", "differential", "cog")
TWO_MAPS = ("dna", "dna_shared_value", "differential")
LAYERS, HEADS, WIDTH, PATCH, PROBES = 3, 2, 16, 2, 4
NATIVE_SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 24,
    "patch_size": PATCH,
}
# a video of 3 frames and an image, whose blocks of patches differ
GRIDS = torch.tensor([[3, 2, 4], [1, 3, 3]])
MERGES = torch.tensor([2, 1])
PATCHES = [24, 9]
FEATURES = [6, 9]

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def tiny_config(**overrides):
    return DnAVideoLlama3VisionConfig(**NATIVE_SIZES | {"num_probes": PROBES, "cog_softmax_layers": [1]} | overrides)


def tiny_model(seed=0, **overrides):
    """A small model in evaluation mode, with every parameter moved from its initial value."""
    torch.manual_seed(seed)
    return moved(DnAVideoLlama3VisionModel(tiny_config(**overrides)))


def native_model(model):
    """transformers' own encoder with the weights of a model."""
    config = VideoLlama3VisionConfig(**NATIVE_SIZES, attn_implementation=model.config._attn_implementation)
    native = VideoLlama3VisionModel(config).to(model.dtype).eval()
    own = model.state_dict()
    native.load_state_dict({name: own[name] for name in native.state_dict()})
    return native


def pixels(grids=GRIDS, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(int(grids.prod(dim=1).sum()), 3 * PATCH**2, generator=generator).to(dtype)


@torch.no_grad()
def run(model, *args, **kwargs):
    return model(*args, **kwargs)


# --- reference vectors and sizes


def from_original(weights):
    """Weights of the released encoder under the names used here; it subtracts the negative branch."""
    mapped = {}
    for name, tensor in weights.items():
        start, found, rest = name.partition("interaction_modules.")
        if found:
            index, _, rest = rest.partition(".")
            if rest == "neg_scalers":
                rest, tensor = "negative_scale", -tensor
            name = f"{start}{found}{index}.attention.{rest.replace('out_proj', 'o_proj')}"
        mapped[name] = tensor.double()
    return mapped


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_golden_vectors_of_the_original_encoder(golden, implementation):
    weights = from_original(load_file(golden / "viscop_dna_encoder.weights.safetensors"))
    tensors = load_file(golden / "viscop_dna_encoder.io.safetensors")
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"patch_size": 4, "num_probes": 5}
    config = DnAVideoLlama3VisionConfig(**sizes, attn_implementation=implementation)
    model = DnAVideoLlama3VisionModel(config).double().eval()
    model.load_state_dict(weights)
    output = run(model, tensors["pixel_values"], tensors["grid_thw"], tensors["merge_sizes"])
    # rotary embeddings and, under eager, the softmax of the encoder are computed in float32
    torch.testing.assert_close(output.last_hidden_state, tensors["features"], rtol=0, atol=2e-6)
    assert output.probe_hidden_states.shape == (10, 48)
    torch.testing.assert_close(output.probe_hidden_states, tensors["visual_probes"], rtol=0, atol=2e-6)


# derived from the sizes: 27 modules of 4 or 6 linear layers of 1152, and 16 scales each
@pytest.mark.parametrize(("variant", "expected"), [("softmax", 143_451_648), ("dna", 215_177_904)])
def test_released_sizes(variant, expected):
    with torch.device("meta"):
        model = DnAVideoLlama3VisionModel(DnAVideoLlama3VisionConfig(attention_variant=variant))
    assert sum(parameter.numel() for parameter in model.encoder.interaction_modules.parameters()) == expected
    assert model.encoder.visual_probes.shape == (1, 16, 1152)
    rest = sum(parameter.numel() for parameter in model.parameters()) - expected - 16 * 1152
    assert round(rest / 1e6, 1) == 412.1


# --- the oracle


def run_oracle(variant, weights, hidden_states, layers=range(LAYERS)):
    """The probes (visuals * probes, width) and, per module and visual, both maps; written from the equations."""
    results, maps = [], [[] for _ in layers]
    for visual in range(len(PATCHES)):
        probes = weights["encoder.visual_probes"]
        for index, layer in enumerate(layers):
            prefix = f"encoder.interaction_modules.{index}.attention."
            own = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
            tokens = hidden_states[layer + 1].split(PATCHES)[visual]
            kind = "softmax" if variant == "cog" and layer == 1 else variant
            probes, first, second = reference_attention(kind, own, probes, tokens[None], HEADS, layer_idx=layer)
            maps[index].append((first[0], None if second is None else second[0]))
        results.append(probes[0])
    return torch.cat(results), maps


# the lambda of differential attention is computed in float32
def tolerance(variant):
    return 1e-6 if variant == "differential" else 1e-11


@lru_cache(maxsize=1)
def reference_case(variant):
    """A model, and the oracle on what transformers' own encoder with the same weights returns; gradients of both."""
    model = tiny_model(attention_variant=variant, attn_implementation="eager").double()
    native = native_model(model)
    hidden_states = native(pixels(dtype=torch.float64), GRIDS, MERGES, output_hidden_states=True).hidden_states
    weights = dict(native.named_parameters())
    for name, tensor in model.named_parameters():
        if name not in weights:
            weights[name] = tensor.detach().clone().requires_grad_()
    probes, maps = run_oracle(variant, weights, hidden_states)
    cotangent = torch.randn(probes.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    probes.backward(cotangent)
    return model, weights, probes.detach(), maps, cotangent


def test_keys_are_normalised_on_request():
    model = tiny_model(normalize_keys=True, attn_implementation="eager").double()
    output = run(model, pixels(dtype=torch.float64), GRIDS, MERGES, output_hidden_states=True)
    weights = dict(model.named_parameters())
    hidden_states = [output.hidden_states[0]]
    for index, tokens in enumerate(output.hidden_states[1:]):
        prefix = f"encoder.interaction_modules.{index}.norm."
        centred = tokens - tokens.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + model.config.layer_norm_eps).sqrt()
        hidden_states.append(normed * weights[prefix + "weight"] + weights[prefix + "bias"])
    expected, _ = run_oracle("dna", weights, hidden_states)
    torch.testing.assert_close(output.probe_hidden_states, expected.detach(), rtol=0, atol=1e-11)


@every_variant
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_probes_are_those_of_the_oracle(variant, implementation):
    model, _, expected, _, _ = reference_case(variant)
    model.set_attn_implementation("eager")
    hidden_states = run(model, pixels(dtype=torch.float64), GRIDS, MERGES, output_hidden_states=True).hidden_states
    assert len(hidden_states) == LAYERS + 1
    model.set_attn_implementation(implementation)
    output = run(model, pixels(dtype=torch.float64), GRIDS, MERGES)
    # under sdpa transformers' encoder does not round its softmax to float32
    atol = tolerance(variant) if implementation == "eager" else 1e-5
    torch.testing.assert_close(output.probe_hidden_states, expected, rtol=0, atol=atol)


@every_variant
def test_gradients_are_those_of_the_oracle(variant):
    model, weights, _, _, cotangent = reference_case(variant)
    model.set_attn_implementation("eager")
    model.zero_grad()
    model(pixels(dtype=torch.float64), GRIDS, MERGES).probe_hidden_states.backward(cotangent)
    for name, parameter in model.named_parameters():
        reference = weights[name].grad
        if "post_layernorm" in name:
            assert parameter.grad is None and reference is None
        elif name.endswith("attention.k_proj.bias") and (variant != "cog" or "modules.1." in name):
            # softmax does not feel what all keys share; rounding is all that is left
            assert max(parameter.grad.abs().max(), reference.abs().max()) < 1e-7, name
        else:
            assert reference.abs().max() > 1e-5, name
            error = (parameter.grad - reference).abs().max() / reference.abs().max()
            assert error < 100 * tolerance(variant), name


@every_variant
def test_maps_are_those_of_the_oracle(variant):
    model, _, _, expected, _ = reference_case(variant)
    model.set_attn_implementation("eager")
    output = run(model, pixels(dtype=torch.float64), GRIDS, MERGES, output_attentions=True)
    assert [len(layer) for layer in output.attentions] == [4] * LAYERS
    for kind, branch in (("probe_attentions", 0), ("negative_probe_attentions", 1)):
        if branch and variant not in TWO_MAPS:
            assert getattr(output, kind) is None
            continue
        assert len(output[kind]) == LAYERS
        for actual, visuals in zip(output[kind], expected, strict=True):
            reference = torch.zeros(HEADS, 2 * PROBES, sum(PATCHES), dtype=torch.float64)
            reference[:, :PROBES, : PATCHES[0]] = visuals[0][branch].detach()
            reference[:, PROBES:, PATCHES[0] :] = visuals[1][branch].detach()
            torch.testing.assert_close(actual[0], reference, rtol=0, atol=tolerance(variant))
    model.set_attn_implementation("sdpa")
    maps = model.attention_maps(pixel_values=pixels(dtype=torch.float64), grid_thw=GRIDS, merge_sizes=MERGES)
    for actual, reference in zip(maps.positive, output.probe_attentions, strict=True):
        torch.testing.assert_close(actual, reference, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [[0], [1, 2], [0, 2]], ids=str)
def test_chosen_layers(layers):
    model = tiny_model(attention_variant="differential", interaction_layers=layers, attn_implementation="eager")
    model = model.double()
    assert len(model.encoder.interaction_modules) == len(layers)
    output = run(model, pixels(dtype=torch.float64), GRIDS, MERGES, output_hidden_states=True)
    expected, _ = run_oracle("differential", model.state_dict(), output.hidden_states, layers)
    torch.testing.assert_close(output.probe_hidden_states, expected, rtol=0, atol=1e-6)


# --- visuals, backends, training


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_features_are_those_of_the_native_encoder(implementation):
    model = tiny_model(attn_implementation=implementation)
    output = run(model, pixels(), GRIDS, MERGES, output_hidden_states=True)
    expected = run(native_model(model), pixels(), GRIDS, MERGES, output_hidden_states=True)
    assert output.last_hidden_state.shape == (sum(FEATURES), WIDTH)
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)
    for actual, reference in zip(output.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(actual, reference)


@every_variant
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_visuals_of_a_batch_are_as_alone(variant, implementation):
    model = tiny_model(attention_variant=variant, attn_implementation=implementation).double()
    values = pixels(dtype=torch.float64)
    both = run(model, values, GRIDS, MERGES)
    for index, (own, features) in enumerate(
        zip(values.split(PATCHES), both.last_hidden_state.split(FEATURES), strict=True)
    ):
        alone = run(model, own, GRIDS[index : index + 1], MERGES[index : index + 1])
        # a float32 rounding in the encoder may fall otherwise in another batch
        torch.testing.assert_close(alone.last_hidden_state, features, rtol=0, atol=1e-6)
        probes = both.probe_hidden_states.chunk(2)[index]
        torch.testing.assert_close(alone.probe_hidden_states, probes, rtol=0, atol=1e-6)
    other = values.clone()
    other[: PATCHES[0]] += 1
    changed, unchanged = run(model, other, GRIDS, MERGES).probe_hidden_states.chunk(2)
    before = both.probe_hidden_states.chunk(2)
    assert (changed - before[0]).abs().max() > 1e-3
    torch.testing.assert_close(unchanged, before[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("variant", "implementation"),
    # flex attention has no masks for cog
    [*((variant, "sdpa") for variant in VARIANTS), *((variant, "flex_attention") for variant in VARIANTS[:4])],
)
def test_backends_agree(variant, implementation):
    model = tiny_model(attention_variant=variant, attn_implementation="eager")
    expected = run(model, pixels(), GRIDS, MERGES)
    model.set_attn_implementation(implementation)
    output = run(model, pixels(), GRIDS, MERGES)
    torch.testing.assert_close(output.last_hidden_state, expected.last_hidden_state, rtol=0, atol=2e-5)
    torch.testing.assert_close(output.probe_hidden_states, expected.probe_hidden_states, rtol=0, atol=2e-5)


def packed_attention(module, query, key, value, attention_mask, scaling, cu_seq_lens_q=None, **kwargs):
    """What flash attention does with packed sequences, one after the other."""
    assert attention_mask is None
    if cu_seq_lens_q is None:
        cu_seq_lens_q, cu_seq_lens_k = [0, query.shape[2]], [0, key.shape[2]]
    else:
        cu_seq_lens_q, cu_seq_lens_k = cu_seq_lens_q.tolist(), kwargs["cu_seq_lens_k"].tolist()
        assert kwargs["max_length_q"] == max(b - a for a, b in zip(cu_seq_lens_q, cu_seq_lens_q[1:], strict=False))
        assert kwargs["max_length_k"] == max(b - a for a, b in zip(cu_seq_lens_k, cu_seq_lens_k[1:], strict=False))
    outputs = []
    for index in range(len(cu_seq_lens_q) - 1):
        queries = query[:, :, cu_seq_lens_q[index] : cu_seq_lens_q[index + 1]]
        rows = slice(cu_seq_lens_k[index], cu_seq_lens_k[index + 1])
        weights = (queries @ key[:, :, rows].transpose(2, 3) * scaling).softmax(dim=-1)
        outputs.append((weights @ value[:, :, rows]).transpose(1, 2))
    return torch.cat(outputs, dim=1), None


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "cog"])
def test_packed_sequences_of_flash_attention(variant):
    AttentionInterface.register("flash_imitation", packed_attention)
    model = tiny_model(attention_variant=variant)
    expected = run(model, pixels(), GRIDS, MERGES).probe_hidden_states
    model.config._attn_implementation = "flash_imitation"
    torch.testing.assert_close(run(model, pixels(), GRIDS, MERGES).probe_hidden_states, expected, rtol=0, atol=2e-5)
    # one visual needs no bounds; of several, the maps cannot be formed from them
    inputs = {"pixel_values": pixels()[: PATCHES[0]], "grid_thw": GRIDS[:1], "merge_sizes": MERGES[:1]}
    assert model.attention_maps(**inputs).positive[0].shape == (1, HEADS, PROBES, PATCHES[0])
    with pytest.raises(ValueError, match="need flash attention"):
        model.attention_maps(pixel_values=pixels(), grid_thw=GRIDS, merge_sizes=MERGES)


def test_packed_sequences_are_not_for_cog():
    AttentionInterface.register("flash_imitation", packed_attention)
    model = tiny_model(attention_variant="cog")
    model.config._attn_implementation = "flash_imitation"
    with pytest.raises(ValueError, match="no cog variant: give a mask"):
        model(pixels(), GRIDS, MERGES)


@pytest.mark.parametrize("options", [{"use_reentrant": False}, {"use_reentrant": True}], ids=str)
def test_gradient_checkpointing(options):
    model = tiny_model().train()

    def gradients():
        model.zero_grad()
        output = model(pixels().requires_grad_(), GRIDS, MERGES)
        (output.probe_hidden_states.square().sum() + output.last_hidden_state.square().sum()).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    expected = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    modules = model.encoder.interaction_modules
    assert all(module.gradient_checkpointing for module in modules)
    calls = []
    for module in modules:
        module.attention.register_forward_pre_hook(lambda *args: calls.append(1))
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
        assert gradient.abs().max() > 0, name
    assert len(calls) == 2 * LAYERS


def test_bfloat16():
    model = tiny_model()
    expected = run(model, pixels(), GRIDS, MERGES).probe_hidden_states
    output = run(model.bfloat16(), pixels(), GRIDS, MERGES)
    assert output.probe_hidden_states.dtype == output.last_hidden_state.dtype == torch.bfloat16
    assert (output.probe_hidden_states - expected).abs().max() < 0.1 * expected.abs().max()


def test_initial_values():
    torch.manual_seed(0)
    config = tiny_config(hidden_size=64, num_probes=64, negative_scale_init=0.25)
    model = DnAVideoLlama3VisionModel(config)
    assert abs(model.encoder.visual_probes.std().item() - 0.02) < 0.001
    for module in model.encoder.interaction_modules:
        assert torch.equal(module.attention.negative_scale, torch.full((HEADS,), 0.25))
        for linear in (layer for layer in module.modules() if isinstance(layer, nn.Linear)):
            assert abs(linear.weight.std().item() - 0.02) < 0.001
            assert not linear.bias.any()


# --- saving and loading


@pytest.mark.parametrize("auto", [False, True], ids=["own", "auto"])
def test_saving_and_loading(tmp_path, auto):
    model = tiny_model(interaction_layers=[0, 2])
    model.save_pretrained(tmp_path)
    loaded = (AutoModel if auto else DnAVideoLlama3VisionModel).from_pretrained(tmp_path)
    assert type(loaded) is DnAVideoLlama3VisionModel
    assert type(AutoConfig.from_pretrained(tmp_path)) is DnAVideoLlama3VisionConfig
    assert loaded.config.interaction_layers == [0, 2]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    expected, output = run(model, pixels(), GRIDS, MERGES), run(loaded, pixels(), GRIDS, MERGES)
    assert torch.equal(output.probe_hidden_states, expected.probe_hidden_states)
    assert torch.equal(output.last_hidden_state, expected.last_hidden_state)


def test_loading_weights_of_the_native_encoder(tmp_path):
    native = native_model(tiny_model())
    native.save_pretrained(tmp_path)
    model, info = DnAVideoLlama3VisionModel.from_pretrained(tmp_path, config=tiny_config(), output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all("interaction_modules" in name or "visual_probes" in name for name in info["missing_keys"])
    assert 0.01 < model.encoder.visual_probes.std() < 0.03
    expected = run(native, pixels(), GRIDS, MERGES).last_hidden_state
    assert torch.equal(run(model, pixels(), GRIDS, MERGES).last_hidden_state, expected)


def test_configuration_on_disk(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "dna_video_llama3_vision"
    assert config["auto_map"] == DnAVideoLlama3VisionConfig.auto_classes
    assert config["interaction_layers"] is None


# --- bad input


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"grid_thw": torch.zeros(0, 3, dtype=torch.long), "merge_sizes": MERGES[:0]}, "at least one image or video"),
        ({"grid_thw": GRIDS[0]}, "grid_thw must give"),
        ({"grid_thw": GRIDS[:, :2]}, "grid_thw must give"),
        ({"merge_sizes": MERGES[:1]}, "one size for each of the 2 rows"),
        ({"grid_thw": torch.tensor([[3, 2, 4], [0, 3, 3]])}, "0 x 3 x 3 patches with merge size 1: all must be"),
        ({"merge_sizes": torch.tensor([2, 0])}, "with merge size 0: all must be"),
        ({"merge_sizes": torch.tensor([2, 2])}, "3 x 3 patches cannot be merged in blocks of 2 x 2"),
        ({"pixel_values": torch.zeros(32, 3 * PATCH**2)}, "pixel_values has 32 patches, but grid_thw counts 33"),
        ({"pixel_values": torch.zeros(33, 7)}, r"pixel_values must be \(patches, 12\), got shape \(33, 7\)"),
        ({"pixel_values": torch.zeros(1, 33, 12)}, r"pixel_values must be \(patches, 12\), got shape \(1, 33, 12\)"),
    ],
)
def test_bad_visuals(change, expected):
    inputs = {"pixel_values": pixels(), "grid_thw": GRIDS, "merge_sizes": MERGES} | change
    with pytest.raises(ValueError, match=expected) as error:
        tiny_model()(**inputs)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_probes": 0}, "num_probes must be at least 1"),
        ({"num_attention_heads": 3}, "not a multiple of num_attention_heads"),
        ({"num_attention_heads": 8}, "multiple of 4, got 16 / 8"),
        ({"interaction_layers": []}, "names no layer"),
        ({"interaction_layers": [0, 3]}, r"from 0 to 2 in ascending order, got \[0, 3\]"),
        ({"interaction_layers": [-1]}, "from 0 to 2 in ascending order"),
        ({"interaction_layers": [2, 0]}, "from 0 to 2 in ascending order"),
        ({"interaction_layers": [1, 1]}, "from 0 to 2 in ascending order"),
        ({"interaction_layers": "all"}, "interaction_layers"),
        ({"attention_variant": "cross_attention"}, "attention_variant"),
        ({"attention_dropout": 1.0}, r"attention_dropout must lie in \[0, 1\)"),
        ({"hidden_act": "none"}, "hidden_act"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps must not be negative"),
        ({"cog_softmax_layers": [3]}, "cog_softmax_layers names layers"),
        ({"patch_size": [2, 2]}, "patch_size"),
    ],
)
def test_bad_configurations(change, expected):
    with pytest.raises(StrictDataclassError, match=expected):
        tiny_config(**change)
