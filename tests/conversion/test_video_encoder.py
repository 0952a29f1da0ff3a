"""The vision encoder of transformers' VideoLLaMA3 to DnA: formulas written out, layers, refusals."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, VideoLlama3VisionConfig, VideoLlama3VisionModel, set_seed

from dna_hf.conversion import ConversionError, from_pretrained_softmax
from dna_hf.models import DnAVideoLlama3VisionModel
from tests.kit.models import moved


WIDTH, HEADS, LAYERS, PROBES = 16, 2, 3, 4
GRIDS, MERGES = torch.tensor([[2, 2, 4], [1, 4, 2]]), torch.tensor([2, 2])


def encoder(seed=0):
    """A native encoder in which no two tensors are alike."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "patch_size": 2}
    config = VideoLlama3VisionConfig(**sizes, intermediate_size=24, layer_norm_eps=1e-5)
    return moved(VideoLlama3VisionModel(config))


@pytest.fixture(scope="module")
def source():
    return encoder()


@torch.no_grad()
def run(model):
    patches = int(GRIDS.prod(dim=1).sum())
    pixels = torch.randn(patches, 12, generator=torch.Generator().manual_seed(1))
    return model(pixel_values=pixels, grid_thw=GRIDS, merge_sizes=MERGES)


def convert(source, seed=0, **options):
    set_seed(seed)
    return from_pretrained_softmax(source, **{"num_probes": PROBES} | options)


def test_features_are_those_of_the_source_and_every_tensor_is_accounted_for(source):
    model, report = convert(source)
    assert isinstance(model, DnAVideoLlama3VisionModel) and not model.training
    assert model.config.layer_norm_eps == 1e-5 and model.config.num_probes == PROBES
    assert torch.equal(run(model).last_hidden_state, run(source).last_hidden_state)
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert report.family == "video_llama_3_vision" and report.max_difference < 1e-6
    assert {record.source for record in report.records if record.action == "copied"} == source.state_dict().keys()
    assert {name for record in report.records for name in record.targets} == model.state_dict().keys()


@pytest.mark.parametrize("layers", [None, [0, 2], [1]])
@pytest.mark.parametrize("scale", [1e-4, 0.25])
def test_warm_start_reads_the_layer_of_each_module(source, layers, scale):
    model, report = convert(source, interaction_layers=layers, warm_scale=scale)
    state = source.state_dict()
    read = [0, 1, 2] if layers is None else layers
    assert len(model.encoder.interaction_modules) == len(read)
    reasons = {record.targets: record.reason for record in report.records}
    for index, layer in enumerate(read):
        module = model.encoder.interaction_modules[index].attention.state_dict()
        for parameter in ("weight", "bias"):
            old = {name: state[f"encoder.layers.{layer}.self_attn.{name}_proj.{parameter}"] for name in "qkv"}
            out = state[f"encoder.layers.{layer}.self_attn.out_proj.{parameter}"]
            assert torch.equal(module[f"q_pos_proj.{parameter}"], old["q"])
            assert torch.equal(module[f"k_proj.{parameter}"], old["k"])
            assert torch.equal(module[f"v_pos_proj.{parameter}"], old["v"])
            assert torch.equal(module[f"o_proj.{parameter}"], out)
            assert torch.equal(module[f"q_neg_proj.{parameter}"], scale * old["q"])
            assert torch.equal(module[f"v_neg_proj.{parameter}"], scale * old["v"])
        assert module["negative_scale"].tolist() == [0.5] * HEADS
        target = (f"encoder.interaction_modules.{index}.attention.k_proj.bias",)
        assert reasons[target] == f"copy of encoder.layers.{layer}.self_attn.k_proj.bias"


def first_module(probes, read, state, alpha, scale):
    """What a module makes of the probes (probes, width) at its warm start, in float64, with the branch added."""

    def heads(name, states, factor=1.0):
        weight, bias = (state[f"encoder.layers.0.self_attn.{name}.{part}"].double() for part in ("weight", "bias"))
        return factor * (states @ weight.T + bias).unflatten(-1, (HEADS, -1)).transpose(0, 1)

    query, key, value = heads("q_proj", probes), heads("k_proj", read), heads("v_proj", read)
    scores = query @ key.mT / (WIDTH // HEADS) ** 0.5
    output = scores.softmax(-1) @ value + alpha * ((-scale * scores).softmax(-1) @ (scale * value))
    return heads("out_proj", output.transpose(0, 1).flatten(1)).transpose(0, 1).flatten(1)


@pytest.mark.parametrize(("alpha", "scale"), [(0.5, 1e-4), (-0.5, 0.3)])
def test_what_the_probes_read_at_the_start(source, alpha, scale):
    model, _ = convert(source, interaction_layers=[0], warm_scale=scale, negative_scale_init=alpha)
    kept = {}
    hook = model.encoder.layers[0].register_forward_hook(lambda *call: kept.update(read=call[2]))
    found = run(model).probe_hidden_states.unflatten(0, (2, PROBES))
    hook.remove()
    probes = model.encoder.visual_probes[0].detach().double()
    for visual, read in enumerate(kept["read"].double().split(GRIDS.prod(dim=1).tolist())):
        expected = first_module(probes, read, source.state_dict(), alpha, scale)
        torch.testing.assert_close(found[visual].double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["dna", "dna_shared_value"])
def test_zero_start_is_plain_cross_attention(source, variant):
    plain, _ = convert(source, attention_variant="softmax")
    zero, _ = convert(source, attention_variant=variant, negative_init="zero")
    assert torch.equal(zero.encoder.visual_probes, plain.encoder.visual_probes)
    assert torch.equal(run(zero).probe_hidden_states, run(plain).probe_hidden_states)
    random, _ = convert(source, attention_variant=variant, negative_init="random")
    assert torch.equal(random.encoder.visual_probes, plain.encoder.visual_probes)
    warm, _ = convert(source, attention_variant=variant)
    difference = (run(warm).probe_hidden_states - run(plain).probe_hidden_states).abs().max()
    assert 0 < difference < 1e-3


@pytest.mark.parametrize("variant", ["softmax", "differential", "cog"])
def test_other_variants_take_the_projections(source, variant):
    model, report = convert(source, attention_variant=variant, interaction_layers=[1, 2])
    for index, layer in enumerate((1, 2)):
        module, own = model.encoder.interaction_modules[index].attention, source.encoder.layers[layer].self_attn
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            assert torch.equal(getattr(module, name.replace("out", "o")).weight, getattr(own, name).weight)
        if variant == "differential":
            assert (module.head_norm.weight == 1).all() and 0.02 < module.lambda_q1.std() < 0.5
    assert {name for record in report.records for name in record.targets} == model.state_dict().keys()


def test_random_numbers_follow_the_seed(source):
    first, second, other = (convert(source, seed, negative_init="random", num_probes=600) for seed in (1, 1, 2))
    for name in ("encoder.visual_probes", "encoder.interaction_modules.0.attention.q_neg_proj.weight"):
        tensors = [conversion.model.state_dict()[name] for conversion in (first, second, other)]
        assert torch.equal(tensors[0], tensors[1]) and not torch.equal(tensors[0], tensors[2])
    probes = first.model.encoder.visual_probes
    assert abs(probes.std().item() - 0.02) < 2e-3 and abs(probes.mean().item()) < 2e-3


def test_the_result_shares_nothing_with_the_source():
    source = encoder()
    model, _ = convert(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for name, tensor in encoder().state_dict().items():
        assert torch.equal(source.state_dict()[name], tensor), name


def test_from_a_folder_and_back(tmp_path, source):
    source.save_pretrained(tmp_path / "native")
    conversion = convert(tmp_path / "native", interaction_layers=[1], dtype=torch.bfloat16)
    assert conversion.model.dtype == torch.bfloat16
    conversion.save_pretrained(tmp_path / "dna")
    loaded = AutoModel.from_pretrained(tmp_path / "dna")
    assert loaded.config.interaction_layers == [1]
    for name, tensor in conversion.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    with pytest.raises(ConversionError, match="is a DnA model already"):
        from_pretrained_softmax(tmp_path / "dna")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("encoder.layers.1.mlp.fc1.bias"), "fc1.bias' is missing"),
        (lambda state: state.update(stranger=torch.ones(1)), "'stranger' is unexpected"),
        (lambda state: state.update({"post_layernorm.bias": torch.ones(3)}), "post_layernorm.bias' is misshaped"),
        (lambda state: state["post_layernorm.bias"].fill_(torch.inf), "post_layernorm.bias' holds a number"),
    ],
)
def test_refusals_of_a_folder(tmp_path, change, expected):
    encoder().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionError, match=expected):
        from_pretrained_softmax(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"interaction_layers": [3]}, "different layers from 0 to 2"),
        ({"interaction_layers": [1, 0]}, "ascending"),
        ({"num_probes": 0}, "num_probes must be at least 1"),
        ({"image_size": 32}, r"image_size \(--image-size\) does not apply"),
        ({"include_visual_tokens": False}, r"include_visual_tokens \(--no-visual-tokens\) does not apply"),
        ({"negative_init": "cold"}, "unknown negative_init"),
    ],
)
def test_bad_arguments(source, options, expected):
    with pytest.raises(ConversionError, match=expected):
        convert(source, **options)


def test_other_models_have_no_probes():
    from transformers import ViTConfig, ViTModel

    vit = ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4))
    with pytest.raises(
        ConversionError, match=r"num_probes \(--num-probes\) does not apply to 'ViTModel'.* it is for video_llama_3,"
    ):
        from_pretrained_softmax(vit, num_probes=4)
