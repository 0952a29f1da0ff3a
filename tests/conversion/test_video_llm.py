"""VideoLLaMA3 to DnA: the same logits without probes, names of both programs, placeholders, refusals."""

import copy
import json

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import _http, close_session
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, LlamaConfig, set_seed

from dna_hf import DnAVideoLlama3ForConditionalGeneration
from dna_hf.cli import main
from dna_hf.conversion import ConversionError, from_pretrained_softmax
from dna_hf.conversion.loading import has_file
from dna_hf.conversion.video_llm import video_llm_config
from tests.kit.native_video_llm import (
    IMAGE,
    LAYERS,
    OWN,
    VIDEO,
    VISCOP,
    VISION,
    VOCABULARY,
    inputs,
    native_model,
    own_config,
    renamed,
    write_folder,
)


EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def source():
    return native_model()


def convert(source, **options):
    set_seed(0)
    return from_pretrained_softmax(source, **{"num_probes": 4} | options)


@torch.no_grad()
def logits(model, **keywords):
    return model(**inputs(**keywords)).logits[..., :VOCABULARY]


@torch.no_grad()
def logits_without_probes(model, **keywords):
    model.config.include_visual_probes = False
    try:
        return logits(model, **keywords)
    finally:
        model.config.include_visual_probes = True


def assert_same_tensors(model, expected):
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        rows = VOCABULARY if name in EMBEDDINGS else None
        assert torch.equal(found[name][:rows], tensor[:rows]), name


@pytest.mark.parametrize("options", [{}, {"text": "llama"}, {"text": "gpt_neox"}, {"tied": True}])
@torch.no_grad()
def test_without_probes_the_logits_are_those_of_the_source(options):
    source = native_model(**options)
    model, report = convert(source)
    assert isinstance(model, DnAVideoLlama3ForConditionalGeneration) and not model.training
    torch.testing.assert_close(logits_without_probes(model), logits(source), rtol=0, atol=1e-5)
    # the native model packs videos by a mask; all of it is the whole video
    mask = {"video_compression_mask": torch.ones(8, dtype=torch.bool)}
    expected = source(**inputs(video=True), **mask).logits
    torch.testing.assert_close(logits_without_probes(model, video=True), expected, rtol=0, atol=1e-5)
    words = {"input_ids": torch.tensor([[3, 4, 5]])}
    torch.testing.assert_close(model(**words).logits[..., :VOCABULARY], source(**words).logits, rtol=0, atol=1e-5)
    assert report.family == "video_llama_3" and report.max_difference < 1e-5
    shared = model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert shared == options.get("tied", False) == model.config.tie_word_embeddings


def test_every_tensor_is_accounted_for(source):
    model, report = convert(source, interaction_layers=[0, 2])
    state = model.state_dict()
    targets = [name for record in report.records for name in record.targets]
    assert sorted(targets) == sorted(state)
    assert {record.source for record in report.records} - {None} == source.state_dict().keys()
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        projector = state[f"model.projector.readout.{name}"]
        assert torch.equal(state[f"model.probe_projector.readout.{name}"], projector)
    vision = model.model.vision_model
    for index, layer in enumerate((0, 2)):
        own, module = (
            source.model.vision_model.encoder.layers[layer].self_attn,
            vision.encoder.interaction_modules[index],
        )
        assert torch.equal(module.attention.q_neg_proj.weight, 1e-4 * own.q_proj.weight)
        assert torch.equal(module.attention.v_neg_proj.bias, 1e-4 * own.v_proj.bias)
        assert torch.equal(module.attention.k_proj.weight, own.k_proj.weight)
    assert vision.encoder.visual_probes.shape == (1, 4, 16)


def probe_inputs(model):
    ids = model.config.placeholder_token_ids
    one = inputs(ids["image_token_id"])
    probes = torch.full((1, 4), ids["image_probe_token_id"])
    one["input_ids"] = torch.cat((one["input_ids"][:, :-2], probes, one["input_ids"][:, -2:]), dim=1)
    return one


def test_greedy_text_is_that_of_the_source(source):
    model, _ = convert(source, include_visual_probes=False)
    source = copy.deepcopy(source)
    source.generation_config.suppress_tokens = model.generation_config.suppress_tokens[:2]
    for given in (inputs(), {"input_ids": torch.tensor([[3, 4, 5]])}):
        expected = source.generate(**given, max_new_tokens=8, do_sample=False)
        assert torch.equal(model.generate(**given, max_new_tokens=8, do_sample=False), expected)


@torch.no_grad()
def test_zero_start_is_plain_viscop(source):
    plain, zero, warm = (
        convert(source, **options).model
        for options in ({"attention_variant": "softmax"}, {"negative_init": "zero"}, {})
    )
    given = probe_inputs(plain)
    expected = plain(**given).logits
    assert torch.equal(zero(**given).logits, expected)
    assert 0 < (warm(**given).logits - expected).abs().max() < 1e-3


def test_a_layer_norm_before_the_keys_begins_as_that_of_the_layer(source):
    model, _ = convert(source, interaction_layers=[1], normalize_keys=True)
    norm = model.model.vision_model.encoder.interaction_modules[0].norm
    own = source.model.vision_model.encoder.layers[1].layer_norm1
    assert torch.equal(norm.weight, own.weight) and torch.equal(norm.bias, own.bias)


def test_placeholders_are_spare_rows_of_qwen(source):
    native = copy.deepcopy(source.config)
    native.text_config.vocab_size = 151700
    config, rows = video_llm_config(native, VISION, None, {})
    assert rows == 0 and config.text_config.vocab_size == 151700
    assert config.placeholder_token_ids == {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "image_probe_token_id": 151665,
        "video_probe_token_id": 151666,
    }
    # where VideoLLaMA3's own code has its placeholder
    native.image_token_id = 151665
    assert video_llm_config(native, VISION, None, {})[0].image_probe_token_id == 151666
    native.text_config = LlamaConfig(vocab_size=151700)
    assert video_llm_config(native, VISION, None, {})[0].image_probe_token_id == 151700


@torch.no_grad()
def test_placeholders_without_room_are_new_rows(source):
    model, report = convert(source)
    assert model.config.placeholder_token_ids["video_probe_token_id"] == VOCABULARY + 1
    assert f"the vocabulary grew from {VOCABULARY} to {VOCABULARY + 2} rows, for placeholders" in report.notes
    for name in EMBEDDINGS:
        old, new = source.state_dict()[name], model.state_dict()[name]
        assert torch.equal(new[:VOCABULARY], old)
        torch.testing.assert_close(new[VOCABULARY], old[0::2].mean(dim=0), rtol=0, atol=1e-6)
        torch.testing.assert_close(new[VOCABULARY + 1], old[1::2].mean(dim=0), rtol=0, atol=1e-6)
    assert source.config.text_config.vocab_size == VOCABULARY
    assert set(model.generation_config.suppress_tokens) == {IMAGE, VIDEO, VOCABULARY, VOCABULARY + 1}
    # where the source's own placeholders lie outside its vocabulary, it could never see an image
    far = native_model()
    far.config.image_token_id = 151655
    model, report = convert(far)
    assert sorted(model.config.placeholder_token_ids.values()) == [VIDEO, 50, 51, 52]
    assert model(**probe_inputs(model)).logits.isfinite().all()


def test_the_result_shares_nothing_with_the_source():
    source = native_model(tied=True)
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    model, _ = convert(source)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("tied", [False, True])
def test_a_folder_in_several_files(tmp_path, tied):
    source = native_model(tied=tied)
    source.generation_config.temperature, source.generation_config.do_sample = 0.3, True
    source.save_pretrained(tmp_path / "native", max_shard_size="20KB")
    assert (tmp_path / "native" / "model.safetensors.index.json").exists()
    conversion = convert(tmp_path / "native")
    assert_same_tensors(conversion.model, convert(source).model.state_dict())
    assert conversion.model.generation_config.temperature == 0.3
    conversion.save_pretrained(tmp_path / "dna")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "dna")
    assert_same_tensors(loaded, conversion.model.state_dict())
    assert loaded.config.placeholder_token_ids == conversion.model.config.placeholder_token_ids
    with pytest.raises(ConversionError, match="is a DnA model already"):
        from_pretrained_softmax(tmp_path / "dna")
    narrow = convert(tmp_path / "native", dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}


FILES = {
    "one": ("model.safetensors",),
    "several": ("model-1.safetensors", "model-2.safetensors", "model-3.safetensors"),
    "pickle": ("pytorch_model.bin",),
    "pickles": ("pytorch_model-1.bin", "pytorch_model-2.bin"),
}


@pytest.mark.parametrize(
    ("files", "prefixes"), [("one", OWN), ("several", VISCOP), ("pickle", VISCOP), ("pickles", OWN)]
)
def test_what_its_own_code_saves(tmp_path, source, prefixes, files):
    state = renamed(source.state_dict(), prefixes)
    folder = write_folder(tmp_path / "own", own_config(), state, FILES[files])
    model, report = convert(folder)
    assert report.family == "videollama3"
    assert_same_tensors(model, convert(source).model.state_dict())
    assert model.config.placeholder_token_ids["image_token_id"] == 44
    assert {record.source for record in report.records} - {None} == state.keys()
    torch.testing.assert_close(logits_without_probes(model, image_id=44), logits(source))
    text = model.config.text_config
    assert (text.num_key_value_heads, text.eos_token_id, text.rope_parameters["rope_theta"]) == (1, 2, 10000.0)
    assert model.config.vision_config.num_attention_heads == VISION["num_attention_heads"]


def test_its_own_code_with_tied_embeddings_and_llama(tmp_path):
    source = native_model("llama", tied=True)
    state = renamed(source.state_dict(), OWN)
    del state["lm_head.weight"]
    folder = write_folder(tmp_path, own_config("llama", tie_word_embeddings=True), state)
    model, _ = convert(folder)
    assert_same_tensors(model, convert(source).model.state_dict())
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_an_output_layer_that_is_not_tied(tmp_path, source):
    folder = write_folder(tmp_path, own_config(tie_word_embeddings=True), renamed(source.state_dict(), OWN))
    with pytest.raises(ConversionError, match="'lm_head.weight' is not the embedding, although tie_word_embeddings"):
        convert(folder)


def test_its_own_code_with_a_thousand_million_layers(tmp_path, source):
    folder = write_folder(tmp_path, own_config(num_hidden_layers=10**9), renamed(source.state_dict(), OWN))
    with pytest.raises(ConversionError, match="describes 1,000,000,000 layers, but its weights are"):
        convert(folder)


def test_its_own_code_without_the_number_of_heads(tmp_path, source):
    folder = write_folder(tmp_path, own_config(vision=False), renamed(source.state_dict(), OWN))
    with pytest.raises(ConversionError, match="do not tell the number of heads"):
        convert(folder)
    model, _ = convert(folder, num_attention_heads=2)
    assert model.config.vision_config.num_attention_heads == 2


MODULE = "model.vision_encoder.vision_encoder.encoder.interaction_modules.0"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda state: state.pop("model.layers.1.mlp.up_proj.weight"),
            "'model.layers.1.mlp.up_proj.weight' is missing",
        ),
        (
            lambda state: state.pop("model.mm_projector.readout.2.bias"),
            "'model.mm_projector.readout.2.bias' is missing",
        ),
        (lambda state: state.update({"model.extra": torch.ones(1)}), "'model.extra' is unexpected"),
        (lambda state: state.update({"lm_head.weight": torch.ones(3, 24)}), "'lm_head.weight' gives"),
        (lambda state: state.update({"model.norm.weight": torch.ones(3)}), "'model.norm.weight' gives"),
        (lambda state: state["model.norm.weight"].fill_(torch.nan), "'model.norm.weight' holds a number"),
        (lambda state: state.update({f"{MODULE}.k_proj.bias": torch.ones(16)}), "has visual probes already"),
    ],
)
def test_refusals_of_tensors(tmp_path, source, change, expected):
    state = renamed(source.state_dict(), OWN)
    change(state)
    folder = write_folder(tmp_path, own_config(), state)
    with pytest.raises(ConversionError, match=expected):
        convert(folder)


def test_shards_are_what_the_index_says(tmp_path, source):
    state = renamed(source.state_dict(), OWN)
    folder = write_folder(tmp_path, own_config(), state, FILES["several"])
    shard = load_file(folder / "model-2.safetensors")
    name = next(iter(shard))
    save_file({key: tensor for key, tensor in shard.items() if key != name}, folder / "model-2.safetensors")
    with pytest.raises(ConversionError, match=f"'{name}' is not in model-2.safetensors"):
        convert(folder)
    save_file(shard | {"stranger": torch.ones(1)}, folder / "model-2.safetensors")
    with pytest.raises(ConversionError, match="'stranger' in model-2.safetensors is unexpected"):
        convert(folder)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ConversionError, match="model-2.safetensors"):
        convert(folder)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (own_config(model_type="videollama3_mystery"), "knows no language model 'mystery'"),
        (
            own_config(vision_encoder_config=VISION | {"hidden_size": 32}),
            "states hidden_size 32, but its tensors",
        ),
        ({"model_type": "video_llama_3", "architectures": ["VideoLlama3Model"]}, "a 'VideoLlama3Model': known are"),
    ],
)
def test_refusals_of_configurations(tmp_path, source, config, expected):
    folder = write_folder(tmp_path, config, renamed(source.state_dict(), OWN))
    with pytest.raises(ConversionError, match=expected):
        convert(folder)


def test_the_command(tmp_path, capsys, source):
    source.save_pretrained(tmp_path / "native")
    words = [
        "--interaction-layers",
        f"0,{LAYERS - 1}",
        "--num-probes",
        "4",
        "--negative-init",
        "zero",
        "--no-visual-tokens",
    ]
    assert main(["convert", str(tmp_path / "native"), str(tmp_path / "out"), *words]) == 0
    output = capsys.readouterr().out
    assert "from video_llama_3" in output and "copy of model.projector" in output and "largest difference" in output
    assert "placeholder tokens: image 40" in output
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert model.config.vision_config.interaction_layers == [0, LAYERS - 1] and not model.config.include_visual_tokens
    report = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert report["source"] == "native" and report["family"] == "video_llama_3"
    for words, expected in (
        (["--image-size", "32"], "(--image-size) does not apply"),
        (["--negative-sign", "-1"], "negative_sign"),
        (["--interaction-layers", "0,9"], "different layers from 0 to 2"),
        (["--num-frames", "8"], "video"),
        (["--no-visual-tokens", "--no-visual-probes"], "both off"),
        (["--from", "vit"], "'video_llama_3', not 'vit'"),
    ):
        assert main(["convert", str(tmp_path / "native"), str(tmp_path / "other"), *words]) == 2
        errors = capsys.readouterr().err
        assert expected in errors.splitlines()[-1], errors


def test_a_file_that_cannot_be_asked_for_is_not_taken_to_be_missing(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    assert has_file(str(tmp_path), "config.json") and not has_file(str(tmp_path), "generation_config.json")
    # without a network by choice, the cache decides
    assert not has_file("nobody/nothing", "generation_config.json")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(_http.http_backoff.__kwdefaults__, "max_retries", 0)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    close_session()
    with pytest.raises(ConversionError, match="cannot tell whether 'nobody/nothing' has generation_config.json"):
        has_file("nobody/nothing", "generation_config.json")
    close_session()
