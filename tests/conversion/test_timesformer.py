"""From transformers' TimeSformer: the same function, every tensor accounted for, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForVideoClassification,
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerModel,
)

from dna_hf.conversion import ConversionError, export_authors_checkpoint, from_pretrained_softmax
from dna_hf.models import DnATimesformerForVideoClassification, DnATimesformerModel
from tests.kit.conversion import convert_command


TYPES = ["divided_space_time", "joint_space_time", "space_only"]
SIZES = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 4}
LABELS = {0: "run", 1: "jump", 2: "sit"}


@torch.no_grad()
def native_model(attention_type="divided_space_time", head=True, num_frames=3, **overrides):
    """A small native model in evaluation mode; every parameter is large enough to show in the output."""
    labels = {"id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}} if head else {}
    config = TimesformerConfig(
        **SIZES | labels | {"attention_type": attention_type, "num_frames": num_frames} | overrides
    )
    model = (TimesformerForVideoClassification if head else TimesformerModel)(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(std=0.3, generator=generator)
    return model


def video(config, frames=None, batch=2):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, frames or config.num_frames, config.num_channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=generator)


@torch.no_grad()
def assert_same_function(native, model, pixels):
    expected, found = native(pixels), model(pixels)
    name = "logits" if "logits" in expected else "last_hidden_state"
    torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", [True, False], ids=["head", "no head"])
@pytest.mark.parametrize("num_frames", [1, 3, 5, 8])
@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize(
    "options",
    [{"attention_variant": "softmax"}, {"negative_init": "zero"}]
    + [{"attention_variant": "dna_shared_value", "negative_init": "zero"}],
    ids=["softmax", "dna", "shared"],
)
def test_same_function(options, attention_type, num_frames, head):
    native = native_model(attention_type, head, num_frames)
    model, report = from_pretrained_softmax(native, **options)
    assert type(model) is (DnATimesformerForVideoClassification if head else DnATimesformerModel)
    assert not model.training and model.config.num_frames == num_frames
    # of several frames, the native space_only model makes several outputs
    frames = 1 if attention_type == "space_only" else num_frames
    assert_same_function(native, model, video(native.config, frames))
    assert report.max_difference < 1e-5 and report.family == "timesformer"
    assert report.video_processor.num_frames == num_frames and report.image_processor is None


@torch.no_grad()
def test_space_only_classifies_the_mean_of_the_frames():
    """The native tokens of each frame before the last norm, averaged and normalised."""
    native = native_model("space_only", head=False)
    model = from_pretrained_softmax(native, negative_init="zero").model
    pixels = video(native.config)
    tokens = native(pixels, output_hidden_states=True).hidden_states[-1]
    expected = native.layernorm(tokens.unflatten(0, (2, 3)).mean(dim=1))
    torch.testing.assert_close(model(pixels).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"qkv_bias": False}, {"num_channels": 1, "hidden_act": "relu"}], ids=str)
@pytest.mark.parametrize("attention_type", TYPES)
def test_other_settings(attention_type, options):
    native = native_model(attention_type, num_frames=1, layer_norm_eps=1e-3, **options)
    model = from_pretrained_softmax(native, negative_init="zero").model
    assert_same_function(native, model, video(native.config))


def test_configuration():
    values = {
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.2,
        "initializer_range": 0.05,
        "problem_type": "multi_label_classification",
    }
    config = from_pretrained_softmax(native_model(**values)).model.config
    assert {name: getattr(config, name) for name in values} == values
    assert config.id2label == LABELS and config.label2id == {"run": 0, "jump": 1, "sit": 2}
    assert config.drop_path_schedule == "linear" and config.num_frames == 3


@pytest.mark.parametrize("variant", ["dna", "dna_shared_value", "softmax", "differential", "cog"])
@pytest.mark.parametrize("attention_type", TYPES)
def test_every_tensor_is_accounted_for_once(attention_type, variant):
    native = native_model(attention_type)
    model, report = from_pretrained_softmax(native, attention_variant=variant)
    sources = [record.source for record in report.records if record.source is not None]
    assert sorted(sources) == sorted(native.state_dict())
    targets = [target for record in report.records for target in record.targets]
    assert sorted(targets) == sorted(model.state_dict())


@pytest.mark.parametrize("negative_init", ["warm", "zero", "random"])
def test_negative_branch_of_both_attentions(negative_init):
    native = native_model(head=False)
    model = from_pretrained_softmax(native, negative_init=negative_init, warm_scale=0.01).model
    for source, layer in zip(native.encoder.layer, model.layers, strict=True):
        for name in ("attention", "temporal_attention"):
            query, key, value = getattr(source, name).attention.qkv.weight.chunk(3)
            attention = getattr(layer, name)
            assert torch.equal(attention.q_pos_proj.weight, query)
            assert torch.equal(attention.k_proj.weight, key)
            assert torch.equal(attention.v_pos_proj.weight, value)
            assert (attention.negative_scale == 0.5).all()
            if negative_init == "random":
                assert 0.01 < attention.q_neg_proj.weight.std() < 0.03
                assert 0.01 < attention.v_neg_proj.weight.std() < 0.03
                continue
            scale = 0.01 if negative_init == "warm" else 0
            torch.testing.assert_close(attention.q_neg_proj.weight, query * 0.01)
            torch.testing.assert_close(attention.v_neg_proj.weight, value * scale)


@torch.no_grad()
def test_resampled():
    native = native_model()
    model, report = from_pretrained_softmax(native, negative_init="zero", image_size=32)
    assert report.count("resampled") == 1 and report.max_difference is None
    plain = from_pretrained_softmax(native, negative_init="zero").model
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, 3, 32, 32, generator=generator)
    torch.testing.assert_close(model(pixels).logits, plain(pixels).logits, rtol=1e-5, atol=1e-5)


def test_image_size_as_a_pair_is_not_compared():
    native = native_model(image_size=(16, 24))
    model, report = from_pretrained_softmax(native)
    assert model.config.grid_size == (2, 3)
    assert report.max_difference is None and any("not compared" in note for note in report.notes)


@pytest.mark.parametrize("head", [True, False], ids=["head", "no head"])
@pytest.mark.parametrize("attention_type", TYPES)
def test_folder(tmp_path, attention_type, head):
    native = native_model(attention_type, head)
    native.save_pretrained(tmp_path)
    # what such folders have; not read
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "VideoMAEImageProcessor"}')
    model = from_pretrained_softmax(tmp_path, negative_init="zero").model
    expected = from_pretrained_softmax(native, negative_init="zero").model.state_dict()
    torch.testing.assert_close(dict(model.state_dict()), dict(expected), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("timesformer.encoder.layer.1.temporal_dense.bias"), "temporal_dense.bias"),
        (lambda state: state.update(extra=torch.ones(2)), "extra"),
        (
            lambda state: state.update({"timesformer.embeddings.time_embeddings": torch.ones(1, 4, 32)}),
            "time_embeddings",
        ),
        (lambda state: state["timesformer.encoder.layer.0.temporal_attention.attention.qkv.weight"].fill_(torch.nan),
         "temporal_attention.attention.qkv.weight"),
    ],
)  # fmt: skip
def test_wrong_tensors_are_refused(tmp_path, change, named):
    native_model().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConversionError) as caught:
        from_pretrained_softmax(tmp_path)
    assert named in " ".join(caught.value.problems)


# --- the command


@pytest.mark.parametrize("family", [None, "timesformer"])
def test_command(tmp_path, capsys, family):
    native = native_model()
    native.save_pretrained(tmp_path / "native")
    words = ["--from", family] if family else []
    code, output, _ = convert_command(capsys, tmp_path / "native", tmp_path / "out", "--negative-init", "zero", *words)
    assert code == 0 and "from timesformer" in output and "DnATimesformerForVideoClassification" in output
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "out").eval()
    assert model.config.id2label == LABELS
    assert_same_function(native, model, video(native.config))
    account = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert {record["source"] for record in account["tensors"]} - {None} == native.state_dict().keys()


@pytest.mark.parametrize("variant", ["dna", "softmax"])
@pytest.mark.parametrize("attention_type", TYPES)
def test_command_on_an_authors_file(tmp_path, capsys, attention_type, variant):
    model = from_pretrained_softmax(native_model(attention_type), attention_variant=variant).model
    path = tmp_path / "authors.pyth"
    export_authors_checkpoint(model, path, architecture="timesformer")
    words = ["--num-attention-heads", 4] if variant == "softmax" else []
    if variant == "softmax" and attention_type == "space_only":
        words += ["--from", "authors-timesformer"]  # nothing else tells it from timm's
    code, output, _ = convert_command(capsys, path, tmp_path / "out", *words)
    assert code == 0 and "from authors-timesformer" in output
    converted = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(converted[name], tensor), name
    assert (
        convert_command(capsys, path, tmp_path / "x", *words, "--attention-type", attention_type, "--dry-run")[0] == 0
    )


def test_refusals_of_the_command(tmp_path, capsys):
    native_model().save_pretrained(tmp_path / "native")
    path = tmp_path / "authors.pyth"
    model = from_pretrained_softmax(native_model()).model
    export_authors_checkpoint(model, path, architecture="timesformer")
    for words, expected in (
        ((tmp_path / "native", "--attention-type", "space_only"), "(--attention-type) does not apply"),
        ((tmp_path / "native", "--num-frames", 4), "(--num-frames) does not apply"),
        ((path, "--num-frames", 4), "(--num-frames) does not apply"),
        ((path, "--negative-init", "zero"), "(--negative-init) does not apply"),
        ((path, "--attention-type", "joint_space_time"), "temporal_"),
        ((path, "--from", "authors-vit"), "pos_embed"),
        ((tmp_path / "native", "--from", "vit"), "'timesformer', not 'vit'"),
    ):
        source, *rest = words
        code, _, errors = convert_command(capsys, source, tmp_path / "out", *rest)
        assert code == 2 and expected in errors.strip().splitlines()[-1], words
    assert not (tmp_path / "out").exists()
