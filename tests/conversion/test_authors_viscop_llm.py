"""VisCoP with its language model, complete and as LoRA: formulas, PEFT, what the files say, refusals."""

import copy
import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from dna_hf import DnAVideoLlama3Config, DnAVideoLlama3ForConditionalGeneration, DnAVideoLlama3VisionModel
from dna_hf.conversion import ConversionError, convert_authors_checkpoint, load_authors_checkpoint
from tests.kit.conversion import convert_command
from tests.kit.native_video_llm import (
    VISCOP,
    VISION,
    VOCABULARY,
    inputs,
    native_model,
    own_config,
    renamed,
    scatter,
    text_config,
    write_folder,
)


PROBES, IMAGE, VIDEO, IMAGE_PROBE, VIDEO_PROBE = 4, 44, 50, 51, 52
KINDS = {"dna": "cross_denoising_attention", "softmax": "cross_attention"}
RANK, ALPHA = 2, 3
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PEFT = "base_model.model."


def dna_model(variant="dna", layers=None, text="qwen2"):
    """A trained DnA model, in which no two tensors are alike."""
    vision = VISION | {"num_probes": PROBES, "attention_variant": variant, "interaction_layers": layers}
    config = DnAVideoLlama3Config(
        text_config=text_config(text, vocabulary=VOCABULARY + 3),
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_probe_token_id=IMAGE_PROBE,
        video_probe_token_id=VIDEO_PROBE,
    )
    return scatter(DnAVideoLlama3ForConditionalGeneration(config), seed=1)


def viscop_state(model, rows=VOCABULARY):
    """A model under the names of VisCoP, which subtracts the branch; its vocabulary has fewer rows."""
    state = {}
    for name, tensor in renamed(model.state_dict(), VISCOP).items():
        head, found, tail = name.partition(".attention.")
        if found and "interaction_modules" in head:
            tensor = -tensor if tail == "negative_scale" else tensor
            name = f"{head}.{tail.replace('negative_scale', 'neg_scalers').replace('o_proj', 'out_proj')}"
        state[name] = tensor[:rows] if "embed_tokens" in name or "lm_head" in name else tensor
    return state


def viscop_config(variant="dna", layers=None, **fields):
    facts = {"interaction_module": KINDS[variant], "num_visual_probes": PROBES, "interaction_module_layers": layers}
    facts |= {"include_visual_tokens": True, "include_visual_probes": True, "probe_token_index": 45, "max_frames": 40}
    return own_config(program="viscop", **facts | fields)


def assert_same_model(found, expected):
    """All tensors, but the rows that were added to the vocabulary."""
    found, expected = found.state_dict(), expected.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        rows = VOCABULARY if "embed_tokens" in name or "lm_head" in name else None
        assert torch.equal(found[name][:rows], tensor[:rows]), name


def load(path, **options):
    return load_authors_checkpoint(path, architecture="viscop", **options)


@pytest.fixture(scope="module")
def model():
    return dna_model()


@pytest.mark.parametrize(
    ("name", "files"),
    [("DnA_lora_run", ("model.safetensors",)), ("plain", ("pytorch_model-1.bin", "pytorch_model-2.bin"))],
)
def test_complete_checkpoint(tmp_path, model, name, files):
    folder = write_folder(tmp_path / name, viscop_config(), viscop_state(model), files)
    found, report = convert_authors_checkpoint(f"{folder}/", architecture="viscop")
    assert isinstance(found, DnAVideoLlama3ForConditionalGeneration)
    assert_same_model(found, model)
    assert report.family == "authors-viscop" and report.max_difference < 1e-4
    assert "the negative branch of the source is subtracted" in report.notes
    assert {record.source for record in report.records} - {None} == viscop_state(model).keys()
    assert found.config.placeholder_token_ids["image_token_id"] == IMAGE
    given = inputs(image_id=IMAGE)
    given["input_ids"] = torch.cat((given["input_ids"], torch.full((1, PROBES), IMAGE_PROBE)), dim=1)
    with torch.no_grad():
        assert torch.equal(found(**given).logits[..., :VOCABULARY], model(**given).logits[..., :VOCABULARY])


@pytest.mark.parametrize(("variant", "layers"), [("softmax", None), ("dna", [0, 2]), ("softmax", [1]), ("dna", "0,2")])
def test_configuration_says_what_the_modules_are(tmp_path, variant, layers):
    expected = dna_model(variant, [0, 2] if layers == "0,2" else layers)
    folder = write_folder(tmp_path / "adeit", viscop_config(variant, layers), viscop_state(expected))
    found = load(folder)
    assert found.config.vision_config.attention_variant == variant
    assert_same_model(found, expected)


def test_flags_sign_and_dtype(tmp_path, model):
    config = viscop_config(layers="all", include_visual_tokens=False)
    folder = write_folder(tmp_path, config, viscop_state(model))
    found = load(folder, negative_sign=1, dtype=torch.bfloat16)
    assert not found.config.include_visual_tokens and found.config.include_visual_probes
    assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}
    scales = [one.model.vision_model.encoder.interaction_modules[2].attention.negative_scale for one in (found, model)]
    assert torch.equal(scales[0], -scales[1].bfloat16())


def test_a_file_beside_its_configuration(tmp_path, model):
    folder = write_folder(tmp_path / "a", viscop_config(), viscop_state(model), ("pytorch_model.bin",))
    assert_same_model(load(folder / "pytorch_model.bin"), model)
    (folder / "config.json").unlink()
    with pytest.raises(ConversionError, match="which needs its config.json beside it"):
        load(folder / "pytorch_model.bin")


def test_a_folder_without_a_language_model(tmp_path, model):
    state = {name: tensor for name, tensor in viscop_state(model).items() if "vision_encoder" in name}
    found = load(write_folder(tmp_path, viscop_config(), state))
    assert isinstance(found, DnAVideoLlama3VisionModel)
    for name, tensor in model.model.vision_model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


MODULE = "model.vision_encoder.vision_encoder.encoder.interaction_modules.1"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop(f"{MODULE}.v_neg_proj.bias"), f"'{MODULE}.v_neg_proj.bias' is missing"),
        (
            lambda state: state.pop("model.layers.0.mlp.up_proj.weight"),
            "'model.layers.0.mlp.up_proj.weight' is missing",
        ),
        (
            lambda state: state.pop("model.mm_projector_visual_probes.readout.0.bias"),
            "'model.mm_projector_visual_probes.readout.0.bias' is missing",
        ),
        (
            lambda state: state.update({f"{MODULE}.q_proj.bias": torch.ones(16)}),
            f"'{MODULE}.q_proj.bias' is unexpected",
        ),
        (lambda state: state.update({f"{MODULE}.neg_scalers": torch.ones(3)}), f"'{MODULE}.neg_scalers' gives"),
        (lambda state: state.update({f"{MODULE}.k_proj.bias": torch.ones(5)}), f"'{MODULE}.k_proj.bias' gives"),
        (lambda state: state[f"{MODULE}.k_proj.bias"].fill_(torch.nan), f"'{MODULE}.k_proj.bias' holds a number"),
        (lambda state: state.pop("model.vision_encoder.vision_encoder.encoder.visual_probes"), "no visual probes"),
        (
            lambda state: state.update({"model.vision_encoder.encoder.visual_probes": torch.ones(1, 4, 16)}),
            "which are the same tensor",
        ),
    ],
)
def test_refusals_of_tensors(tmp_path, model, change, expected):
    state = viscop_state(model)
    change(state)
    with pytest.raises(ConversionError, match=expected):
        load(write_folder(tmp_path, viscop_config(), state))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"interaction_module": "cross_attention"},
            "says interaction_module 'cross_attention', but it holds 'cross_den",
        ),
        ({"interaction_module": "cross_differential_attention"}, "known are 'cross_denoising_attention' and"),
        ({"num_visual_probes": 64}, "says num_visual_probes 64, but it has 4"),
        ({"interaction_module_layers": [0, 2]}, "3 interaction modules for 2 layers"),
        ({"interaction_module_layers": "some"}, "'some', no numbers of layers"),
        ({"model_type": "viscop_mystery"}, "knows no language model 'mystery'"),
        ({"model_type": "llama"}, "none of VisCoP"),
        ({"vision_encoder_config": VISION | {"num_attention_heads": 4}}, "states 4 heads"),
        ({"vision_encoder_config": VISION | {"layer_norm_eps": "small"}}, "layer_norm_eps"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"include_visual_tokens": None}, "include_visual_tokens"),
        ({"include_visual_tokens": False, "include_visual_probes": False}, "are both off"),
    ],
)
def test_refusals_of_configurations(tmp_path, model, fields, expected):
    with pytest.raises(ConversionError, match=expected):
        load(write_folder(tmp_path, viscop_config() | fields, viscop_state(model)))


def test_arguments_must_agree_with_the_configuration(tmp_path):
    model = dna_model(layers=[0, 2])
    folder = write_folder(tmp_path, viscop_config(layers=[0, 2]), viscop_state(model))
    assert_same_model(load(folder, interaction_layers=[0, 2]), model)
    with pytest.raises(ConversionError, match=r"says interaction_module_layers \[0, 2\], not \[0, 1\]"):
        load(folder, interaction_layers=[0, 1])
    with pytest.raises(ConversionError, match="is no LoRA and needs nothing below it"):
        load(folder, base_model=folder)
    config = viscop_config()
    del config["interaction_module_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match="2 interaction modules for 3 layers"):
        load(folder)
    assert_same_model(load(folder, interaction_layers=[0, 2]), model)


def base_of(model):
    """The VideoLLaMA3 below a model, without what VisCoP adds, under the names of its own code."""
    new = ("interaction_modules", "visual_probes", "mm_projector")
    state = {name: tensor for name, tensor in viscop_state(model).items() if not any(part in name for part in new)}
    projector = {name: tensor for name, tensor in viscop_state(model).items() if "mm_projector." in name}
    return state | {name: tensor + 1 for name, tensor in projector.items()}


def adapter_state(model, seed=2):
    """Random adapters for all linear layers of the language model."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, weight in viscop_state(model).items():
        module = name.removesuffix(".weight")
        if name.startswith("model.layers.") and module.rpartition(".")[2] in TARGETS and weight.dim() == 2:
            for side, shape in (("A", (RANK, weight.shape[1])), ("B", (weight.shape[0], RANK))):
                state[f"{PEFT}{module}.lora_{side}.weight"] = torch.randn(shape, generator=generator)
    return state


def adapter_config(**fields):
    plain = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "lora_dropout": 0.05}
    return plain | {"target_modules": TARGETS, "fan_in_fan_out": False, "modules_to_save": None} | fields


def write_lora(folder, model, adapter=None, config=None, others=None, file="adapter_model.bin"):
    """What the authors' training with LoRA writes, and its base beside it."""
    base = write_folder(folder / "base", own_config(vision=False), base_of(model))
    lora = write_folder(folder / "lora_run", viscop_config(_name_or_path="somewhere"), {})
    (lora / "model.safetensors").unlink()
    (lora / "adapter_config.json").write_text(json.dumps(config or adapter_config()))
    write_folder(lora, viscop_config(_name_or_path="somewhere"), adapter or adapter_state(model), (file,))
    trained = ("interaction_modules", "visual_probes", "mm_projector")
    state = {
        f"{PEFT}{name}": tensor for name, tensor in viscop_state(model).items() if any(p in name for p in trained)
    }
    torch.save(others(state) if others else state, lora / "non_lora_trainables.bin")
    return lora, base


@pytest.mark.parametrize("file", ["adapter_model.bin", "adapter_model.safetensors"])
def test_lora_is_merged(tmp_path, model, file):
    lora, base = write_lora(tmp_path, model, file=file)
    found, report = convert_authors_checkpoint(lora, architecture="viscop", base_model=base)
    adapter, state, expected = adapter_state(model), found.state_dict(), copy.deepcopy(model.state_dict())
    for name in [name for name in adapter if ".lora_A." in name]:
        a, b = adapter[name].double(), adapter[name.replace("lora_A", "lora_B")].double()
        place = name.removeprefix(f"{PEFT}model.").replace("lora_A.", "")
        expected[f"model.language_model.{place}"] = expected[f"model.language_model.{place}"] + ALPHA / RANK * (b @ a)
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        rows = VOCABULARY if "embed_tokens" in name or "lm_head" in name else None
        torch.testing.assert_close(state[name][:rows].double(), tensor[:rows].double(), rtol=0, atol=2e-6)
        assert "language_model.layers" in name or torch.equal(state[name][:rows], tensor[:rows]), name
    assert any("14 adapters of rank 2, times 1.5" in note for note in report.notes)
    replaced = {record.source for record in report.records if record.action == "dropped"}
    assert replaced == {
        f"model.mm_projector.readout.{index}.{part}" for index in (0, 2) for part in ("weight", "bias")
    }


def test_lora_is_what_peft_makes_of_it(tmp_path, model):
    lora, base = write_lora(tmp_path, model)
    native = native_model()
    native.load_state_dict(
        {
            name: tensor[:VOCABULARY] if "embed_tokens" in name or "lm_head" in name else tensor
            for name, tensor in model.state_dict().items()
            if name in native.state_dict()
        }
    )
    native.save_pretrained(tmp_path / "native")
    targets = r".*language_model\.layers.*\.(" + "|".join(TARGETS) + ")"
    peft = get_peft_model(copy.deepcopy(native), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    weights = {
        name.replace(f"{PEFT}model.", f"{PEFT}model.language_model.").replace(".weight", ".default.weight"): tensor
        for name, tensor in adapter_state(model).items()
    }
    assert not peft.load_state_dict(weights, strict=False).unexpected_keys
    merged = peft.merge_and_unload().state_dict()
    for source in (base, tmp_path / "native", native):
        found = load(lora, base_model=source).state_dict()
        for name, tensor in merged.items():
            rows = VOCABULARY if "embed_tokens" in name or "lm_head" in name else None
            torch.testing.assert_close(found[name][:rows], tensor, rtol=0, atol=2e-6)


def test_what_was_trained_without_lora(tmp_path, model):
    lora, base = write_lora(tmp_path, model)
    (lora / "adapter_config.json").unlink()
    (lora / "adapter_model.bin").unlink()
    (lora / "non_lora_trainables.bin").rename(lora / "mm_projector.bin")
    assert_same_model(load(lora, base_model=base), model)


def test_scale_of_rank_stabilised_lora(tmp_path, model):
    lora, base = write_lora(tmp_path, model, config=adapter_config(use_rslora=True))
    found = load(lora, base_model=base).model.language_model.layers[0].mlp.up_proj.weight
    adapter, module = adapter_state(model), f"{PEFT}model.layers.0.mlp.up_proj.lora_"
    change = ALPHA / math.sqrt(RANK) * adapter[f"{module}B.weight"] @ adapter[f"{module}A.weight"]
    torch.testing.assert_close(found, model.model.language_model.layers[0].mlp.up_proj.weight + change)


UP = f"{PEFT}model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop(f"{UP}.lora_B.weight"), "'model.layers.1.mlp.up_proj' has no lora_B"),
        (
            lambda state: [state.pop(f"{UP}.lora_{side}.weight") for side in "AB"],
            "has nothing for 'model.layers.1.mlp.up_proj', which is one of its target_modules",
        ),
        (
            lambda state: state.update({f"{UP}.lora_magnitude_vector": torch.ones(3)}),
            "vector' is unexpected",
        ),
        (lambda state: state.update({f"{UP}.lora_A.weight": torch.ones(3, 24)}), "lora_A.weight' has shape"),
        (lambda state: state.update({f"{UP}.lora_B.weight": torch.ones(9, 2)}), "lora_B.weight' has shape"),
        (lambda state: state[f"{UP}.lora_B.weight"].fill_(torch.inf), "lora_B.weight' holds a number"),
        (
            lambda state: state.update(
                {f"{PEFT}model.layers.9.mlp.up_proj.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
            ),
            "is for no module of the language model",
        ),
    ],
)
def test_refusals_of_adapters(tmp_path, model, change, expected):
    adapter = adapter_state(model)
    change(adapter)
    lora, base = write_lora(tmp_path, model, adapter=adapter)
    with pytest.raises(ConversionError, match=expected):
        load(lora, base_model=base)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_dora": True}, "use_dora True"),
        ({"bias": "all"}, "bias 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
        ({"r": 0}, "r 0, no positive"),
        ({"lora_alpha": "much"}, "lora_alpha 'much'"),
        ({"target_modules": None}, "target_modules None"),
        ({"r": 3}, "has shape"),
    ],
)
def test_refusals_of_adapter_configurations(tmp_path, model, fields, expected):
    lora, base = write_lora(tmp_path, model, config=adapter_config(**fields))
    with pytest.raises(ConversionError, match=expected):
        load(lora, base_model=base)


def without(name):
    return lambda state: {key: tensor for key, tensor in state.items() if name not in key}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (without("interaction_modules.1.k_proj.bias"), "interaction_modules.1.k_proj.bias' is missing"),
        (without("visual_probes.readout.2.weight"), "mm_projector_visual_probes.readout.2.weight' is missing"),
        (without("encoder.visual_probes"), "no visual probes"),
        (lambda state: state | {f"{PEFT}model.stranger": torch.ones(1)}, "model.stranger' is unexpected"),
        (
            lambda state: state | {f"{PEFT}model.mm_projector.readout.0.bias": torch.ones(3)},
            "readout.0.bias' gives",
        ),
    ],
)
def test_refusals_of_other_tensors(tmp_path, model, others, expected):
    lora, base = write_lora(tmp_path, model, others=others)
    with pytest.raises(ConversionError, match=expected):
        load(lora, base_model=base)


def test_refusals_of_lora_folders(tmp_path, model):
    lora, base = write_lora(tmp_path, model)
    with pytest.raises(ConversionError, match=r"give base_model .* it was trained from 'somewhere'"):
        load(lora)
    with pytest.raises(ConversionError, match="nowhere"):
        load(lora, base_model=tmp_path / "nowhere")
    with pytest.raises(ConversionError, match="no VideoLLaMA3 with its language model, but a 'dna_video_llama3'"):
        load(lora, base_model=model)
    (lora / "non_lora_trainables.bin").unlink()
    with pytest.raises(ConversionError, match=r"has no non_lora_trainables.bin: probes"):
        load(lora, base_model=base)
    (lora / "adapter_model.bin").unlink()
    with pytest.raises(ConversionError, match=r"has no adapter_model.safetensors or adapter_model.bin"):
        load(lora, base_model=base)
    with pytest.raises(ConversionError, match="base_model .* does not apply .* it is for authors-viscop"):
        load_authors_checkpoint(lora, architecture="vit", base_model=base)


def test_the_command_recognises_folders(tmp_path, capsys, model):
    full = write_folder(tmp_path / "full", viscop_config(), viscop_state(model))
    code, output, _ = convert_command(capsys, full, tmp_path / "out")
    assert code == 0 and "from authors-viscop" in output and "subtracted" in output
    assert_same_model(AutoModelForImageTextToText.from_pretrained(tmp_path / "out"), model)
    lora, base = write_lora(tmp_path, model)
    code, output, _ = convert_command(
        capsys, f"{lora}/", tmp_path / "merged", "--base-model", base, "--dtype", "bfloat16"
    )
    assert code == 0 and "W + 1.5 B A" in output and "14 adapters" in output
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16
    for words, expected in (
        ([lora, tmp_path / "x"], "give base_model (--base-model)"),
        ([full, tmp_path / "x", "--base-model", base], "has no base_model"),
        ([full, tmp_path / "x", "--negative-init", "zero"], "(--negative-init) does not apply"),
        ([base, tmp_path / "x", "--base-model", base], "(--base-model) does not apply"),
        ([full, tmp_path / "x", "--num-frames", "4"], "(--num-frames) does not apply"),
    ):
        code, _, errors = convert_command(capsys, *words)
        assert code == 2 and expected in errors.splitlines()[-1], errors
    assert not (tmp_path / "x").exists()
