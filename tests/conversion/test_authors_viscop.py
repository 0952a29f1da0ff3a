"""The vision encoder of the authors' VisCoP: reference vectors, names, signs, refusals."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, VideoLlama3VisionConfig, VideoLlama3VisionModel

from dna_hf.conversion import (
    ConversionError,
    convert_authors_checkpoint,
    export_authors_checkpoint,
    load_authors_checkpoint,
)
from dna_hf.conversion.authors_check import evaluate_authors_viscop
from dna_hf.models import DnAVideoLlama3VisionConfig, DnAVideoLlama3VisionModel
from tests.kit.conversion import convert_command
from tests.kit.models import moved


PROBES, WIDTH, HEADS, LAYERS = 4, 16, 2, 3
GRIDS, MERGES = torch.tensor([[2, 2, 4], [1, 4, 2]]), torch.tensor([2, 2])


def source_of(variant="dna", seed=0, **overrides):
    """A state dict in the authors' names, and the model that it is, for a program that subtracts the branch."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "patch_size": 2}
    sizes |= {"intermediate_size": 24, "num_probes": PROBES, "attention_variant": variant}
    model = moved(DnAVideoLlama3VisionModel(DnAVideoLlama3VisionConfig(**sizes | overrides)))
    state = {}
    for name, tensor in model.state_dict().items():
        head, found, tail = name.partition(".attention.")
        if found and tail == "negative_scale":
            tail, tensor = "neg_scalers", -tensor
        state[f"{head}.{tail.replace('o_proj', 'out_proj')}" if found else name] = tensor
    return state, model


def write(path, state):
    state = {name: tensor.clone() for name, tensor in state.items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@torch.no_grad()
def run(model):
    patches = int(GRIDS.prod(dim=1).sum())
    pixels = torch.randn(patches, 12, generator=torch.Generator().manual_seed(1)).to(model.dtype)
    return model(pixels, GRIDS, MERGES)


def assert_same_model(actual, expected):
    state = expected.state_dict()
    assert actual.state_dict().keys() == state.keys()
    for name, tensor in actual.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert torch.equal(run(actual).probe_hidden_states, run(expected).probe_hidden_states)


def test_reference_vectors(golden, tmp_path):
    tensors = load_file(golden / "viscop_dna_encoder.io.safetensors")
    model, report = convert_authors_checkpoint(
        golden / "viscop_dna_encoder.weights.safetensors", architecture="viscop"
    )
    assert report.family == "authors-viscop" and report.max_difference < 1e-5
    assert report.notes == ["the negative branch of the source is subtracted"]
    with torch.no_grad():
        output = model.double()(tensors["pixel_values"], tensors["grid_thw"], tensors["merge_sizes"])
    torch.testing.assert_close(output.last_hidden_state, tensors["features"], rtol=0, atol=2e-6)
    torch.testing.assert_close(output.probe_hidden_states, tensors["visual_probes"], rtol=0, atol=2e-6)


def test_plain_evaluation_of_the_reference_vectors(golden):
    weights = load_file(golden / "viscop_dna_encoder.weights.safetensors")
    tensors = load_file(golden / "viscop_dna_encoder.io.safetensors")
    grids = [tuple(grid) for grid in tensors["grid_thw"].tolist()]
    assert tensors["merge_sizes"].tolist() == [2, 2]
    sizes = [frames * rows * columns for frames, rows, columns in grids]
    pixels, features = tensors["pixel_values"].split(sizes), tensors["features"].split([size // 4 for size in sizes])
    for own, grid, expected, probes in zip(pixels, grids, features, tensors["visual_probes"].chunk(2), strict=True):
        found = evaluate_authors_viscop(weights, own, grid, 4, [0, 1, 2])
        torch.testing.assert_close(found[0], expected, rtol=0, atol=2e-6)
        torch.testing.assert_close(found[1], probes, rtol=0, atol=2e-6)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("prefix", ["", "vision_encoder.", "model.vision_encoder.vision_encoder."])
def test_every_tensor_lands_in_its_place(tmp_path, prefix, suffix):
    state, expected = source_of()
    path = write(tmp_path / f"weights{suffix}", {prefix + name: tensor for name, tensor in state.items()})
    model, report = convert_authors_checkpoint(path, architecture="viscop")
    assert_same_model(model, expected)
    assert len(report.records) == len(state)
    assert {record.action for record in report.records} == {"copied"}


def test_plain_cross_attention(tmp_path):
    state, expected = source_of("softmax")
    path = write(tmp_path / "weights.pt", state)
    model, report = convert_authors_checkpoint(path, architecture="viscop", num_attention_heads=HEADS)
    assert_same_model(model, expected)
    assert not report.notes
    with pytest.raises(ConversionError, match="do not tell the number of heads: give num_attention_heads"):
        load_authors_checkpoint(path, architecture="viscop")


def test_chosen_layers(tmp_path):
    state, expected = source_of(interaction_layers=[0, 2])
    path = write(tmp_path / "weights.pt", state)
    assert_same_model(load_authors_checkpoint(path, architecture="viscop", interaction_layers=[0, 2]), expected)
    with pytest.raises(ConversionError, match="has 2 interaction modules on 3 layers: give interaction_layers"):
        load_authors_checkpoint(path, architecture="viscop")
    with pytest.raises(ConversionError, match=r"in ascending order, got \[2, 0\]"):
        load_authors_checkpoint(path, architecture="viscop", interaction_layers=[2, 0])


@pytest.mark.parametrize("sign", [1, -1])
def test_sign(tmp_path, sign):
    state, expected = source_of()
    model, report = convert_authors_checkpoint(
        write(tmp_path / "weights.pt", state), architecture="viscop", negative_sign=sign
    )
    for module, other in zip(model.encoder.interaction_modules, expected.encoder.interaction_modules, strict=True):
        assert torch.equal(module.attention.negative_scale, -sign * other.attention.negative_scale)
    assert report.notes == [f"the negative branch of the source is {'added' if sign == 1 else 'subtracted'}"]


def test_narrow_dtype(tmp_path):
    state, expected = source_of(hidden_size=48)
    state = {name: tensor.bfloat16() for name, tensor in state.items()}
    model = load_authors_checkpoint(write(tmp_path / "weights.pt", state), architecture="viscop")
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.rotary_pos_emb.inv_freq, expected.rotary_pos_emb.inv_freq)


def test_saving_and_loading(tmp_path):
    conversion = convert_authors_checkpoint(write(tmp_path / "weights.pt", source_of()[0]), architecture="viscop")
    conversion.save_pretrained(tmp_path / "converted")
    assert_same_model(AutoModel.from_pretrained(tmp_path / "converted"), conversion.model)
    assert (tmp_path / "converted" / "conversion.json").exists()


MODULE = "encoder.interaction_modules.1."


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: {name: state[name] for name in state if "probes" not in name}, "visual_probes' is missing"),
        (lambda state: {name: state[name] for name in state if name != f"{MODULE}k_proj.bias"}, "k_proj.bias' is mis"),
        (lambda state: state | {"encoder.visual_probes": torch.zeros(PROBES, WIDTH)}, "visual_probes' has shape"),
        (lambda state: state | {"encoder.visual_probes": torch.zeros(1, PROBES, 8)}, "not \\(1, 4, 16\\)"),
        (lambda state: state | {f"{MODULE}norm.weight": torch.ones(WIDTH)}, "norm.weight' is unexpected"),
        (lambda state: state | {f"{MODULE}neg_scalers": torch.full((HEADS,), torch.nan)}, "not finite"),
        (
            lambda state: {f"vision_encoder.{name}": state[name] for name in state} | {"stranger": torch.ones(1)},
            "has 'stranger' beside a vision encoder",
        ),
        (
            lambda state: (
                {f"vision_encoder.{name}": state[name] for name in state} | {"lm_head.weight": torch.ones(1)}
            ),
            "which needs its config.json beside it",
        ),
    ],
)
def test_refusals(tmp_path, change, expected):
    path = write(tmp_path / "weights.pt", change(source_of()[0]))
    with pytest.raises(ConversionError, match=expected):
        load_authors_checkpoint(path, architecture="viscop")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"architecture": "viscop", "attention_type": "space_only"},
            "attention_type .* does not apply",
        ),
        ({"architecture": "vit", "interaction_layers": [0]}, "interaction_layers .* does not apply .* authors-viscop"),
        ({"architecture": "viscop", "num_attention_heads": 4}, "num_attention_heads is 4"),
        ({"architecture": "viscop", "negative_sign": 0}, "negative_sign must be"),
    ],
)
def test_bad_arguments(tmp_path, options, expected):
    path = write(tmp_path / "weights.pt", source_of()[0])
    with pytest.raises(ConversionError, match=expected):
        load_authors_checkpoint(path, **options)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("sign", [None, 1])
@pytest.mark.parametrize("options", [{}, {"variant": "softmax"}, {"interaction_layers": [0, 2]}])
def test_export_is_inverted_exactly(tmp_path, options, sign, suffix):
    state, model = source_of(**options)
    path = tmp_path / f"exported{suffix}"
    export_authors_checkpoint(model, path, architecture="viscop", negative_sign=sign)
    exported = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert exported.keys() == state.keys()
    for name, tensor in exported.items():
        assert torch.equal(tensor, -state[name] if sign == 1 and "neg_scalers" in name else state[name]), name
    loaded = load_authors_checkpoint(
        path,
        architecture="viscop",
        negative_sign=sign,
        num_attention_heads=HEADS,
        interaction_layers=options.get("interaction_layers"),
    )
    assert_same_model(loaded, model)


def test_export_of_the_reference_vectors(golden, tmp_path):
    weights = load_file(golden / "viscop_dna_encoder.weights.safetensors")
    model = load_authors_checkpoint(golden / "viscop_dna_encoder.weights.safetensors", architecture="viscop")
    export_authors_checkpoint(model, tmp_path / "encoder.bin", architecture="viscop")
    exported = torch.load(tmp_path / "encoder.bin", weights_only=True)
    assert exported.keys() == weights.keys()
    for name, tensor in exported.items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"variant": "cog"}, "no 'cog' attention"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_parameters": {"rope_type": "axial", "rope_theta": 100.0}}, "not those of base 10000"),
    ],
)
def test_export_refuses_what_the_authors_cannot_hold(tmp_path, overrides, expected):
    model = source_of(**overrides)[1]
    with pytest.raises(ConversionError, match=expected):
        export_authors_checkpoint(model, tmp_path / "encoder.bin", architecture="viscop")
    with pytest.raises(ConversionError, match="cannot export a DnAVideoLlama3VisionModel"):
        export_authors_checkpoint(model, tmp_path / "encoder.bin", architecture="vit")
    with pytest.raises(ConversionError, match="leave layout out"):
        export_authors_checkpoint(model, tmp_path / "encoder.bin", architecture="viscop", layout="packed")
    assert not (tmp_path / "encoder.bin").exists()


@pytest.mark.parametrize("prefix", ["", "model.vision_encoder.vision_encoder."])
def test_the_command_recognises_a_file(tmp_path, capsys, prefix):
    state, expected = source_of(interaction_layers=[0, 2])
    path = write(tmp_path / "weights.bin", {prefix + name: tensor for name, tensor in state.items()})
    code, output, _ = convert_command(capsys, path, tmp_path / "out", "--interaction-layers", "0,2")
    assert code == 0 and "from authors-viscop" in output and "subtracted" in output
    assert_same_model(AutoModel.from_pretrained(tmp_path / "out"), expected)
    code, output, _ = convert_command(
        capsys,
        path,
        tmp_path / "added",
        "--interaction-layers",
        "0,2",
        "--negative-sign",
        "+1",
        "--from",
        "authors-viscop",
    )
    scale = AutoModel.from_pretrained(tmp_path / "added").encoder.interaction_modules[0].attention.negative_scale
    assert torch.equal(scale, -expected.encoder.interaction_modules[0].attention.negative_scale)


SENSELESS = {
    "--num-frames 8": "(--num-frames) does not apply",
    "--attention-type space_only": "(--attention-type) does not apply",
    "--negative-init warm": "(--negative-init) does not apply",
    "--num-probes 8": "(--num-probes) does not apply",
    "--no-visual-probes": "(--no-visual-probes) does not apply",
    "--interaction-layers 0,7": "3 interaction modules on 3 layers",
    "--image-processor somewhere": "(--image-processor) does not apply",
    "--from authors-vit": "is no model of the authors' code",
}


@pytest.mark.parametrize(("words", "expected"), SENSELESS.items())
def test_the_command_refuses_what_makes_no_sense(tmp_path, capsys, words, expected):
    path = write(tmp_path / "weights.bin", source_of()[0])
    code, _, errors = convert_command(capsys, path, tmp_path / "out", *words.split())
    assert code == 2 and expected in errors
    assert not (tmp_path / "out").exists()


def test_the_command_converts_a_native_encoder(tmp_path, capsys):
    VideoLlama3VisionModel(
        VideoLlama3VisionConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, patch_size=2
        )
    ).save_pretrained(tmp_path / "native")
    words = ("--interaction-layers", "1", "--num-probes", "4", "--from", "video_llama_3_vision")
    code, output, _ = convert_command(capsys, tmp_path / "native", tmp_path / "out", *words)
    assert code == 0 and "copy of encoder.layers.*.self_attn.k_proj.weight" in output
    config = AutoModel.from_pretrained(tmp_path / "out").config
    assert (config.interaction_layers, config.num_probes, config.num_hidden_layers) == ([1], 4, 2)
    code, _, errors = convert_command(capsys, tmp_path / "native", tmp_path / "other", "--num-frames", "4", *words[:2])
    assert code == 2 and "(--num-frames) does not apply" in errors
    code, _, errors = convert_command(
        capsys, tmp_path / "native", tmp_path / "other", "--num-frames", "4", *words[2:4]
    )
    assert code == 2 and "(--num-frames) does not apply" in errors
