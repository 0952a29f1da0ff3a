"""From image models to video models: of a video that repeats one image, the features of the image."""

import json

import pytest
import torch
from transformers import (
    AutoModel,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

from dna_hf.cli import main
from dna_hf.conversion import ConversionError, export_authors_checkpoint, from_image_model
from dna_hf.models import (
    DnATimesformerForVideoClassification,
    DnATimesformerModel,
    DnAViTBackbone,
    DnAViTConfig,
    DnAViTForImageClassification,
    DnAViTModel,
)


SIZES = {"image_size": 16, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48}
SIZES |= {"num_hidden_layers": 2, "num_attention_heads": 4}
VARIANTS = ["dna", "dna_shared_value", "softmax", "differential", "cog"]
TYPES = ["divided_space_time", "space_only"]


@torch.no_grad()
def lively(model):
    """A model in evaluation mode, every parameter of which shows in the output."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def dna_vit(head=False, **overrides):
    config = DnAViTConfig(**SIZES | {"cog_softmax_layers": [0]} | overrides)
    return lively((DnAViTForImageClassification if head else DnAViTModel)(config))


def native_vit(head=False, **overrides):
    return lively((ViTForImageClassification if head else ViTModel)(ViTConfig(**SIZES | overrides)))


def image(height=16, width=16, seed=1):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def still(pixels, frames):
    return pixels.unsqueeze(1).expand(-1, frames, -1, -1, -1)


@torch.no_grad()
def assert_same_features(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize("own_row", [True, False], ids=["class row", "no class row"])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_still_video_of_a_dna_vit(variant, own_row, attention_type):
    source = dna_vit(attention_variant=variant, use_class_token_position=own_row)
    model, report = from_image_model(source, num_frames=3, attention_type=attention_type)
    assert type(model) is DnATimesformerModel and not model.training
    assert model.config.attention_variant == variant and model.config.num_frames == 3
    for frames in (1, 3, 4):
        assert_same_features(model(still(image(), frames)).pooler_output, source(image()).pooler_output)
    assert report.family == "dna_vit" and report.max_difference < 1e-6


@pytest.mark.parametrize("options", [{"attention_variant": "softmax"}, {"negative_init": "zero"}], ids=str)
@pytest.mark.parametrize("native", [ViTModel, ViTForImageClassification])
@torch.no_grad()
def test_still_video_of_a_native_vit(native, options):
    source = native_vit(head=native is ViTForImageClassification)
    model, report = from_image_model(source, num_frames=5, **options)
    base = getattr(source, "vit", source)
    assert_same_features(model(still(image(), 5)).pooler_output, base(image()).last_hidden_state[:, 0])
    assert report.family == "vit" and report.video_processor is None
    sources = [record.source for record in report.records if record.source is not None]
    assert sorted(sources) == sorted(source.state_dict())
    targets = [target for record in report.records for target in record.targets]
    assert sorted(targets) == sorted(model.state_dict())


@torch.no_grad()
def test_softmax_dna_vit_becomes_dna():
    source = dna_vit(attention_variant="softmax")
    model, report = from_image_model(source, attention_variant="dna", negative_init="zero")
    assert model.config.attention_variant == "dna"
    assert_same_features(model(still(image(), 8)).pooler_output, source(image()).pooler_output)
    assert (model.layers[1].temporal_attention.v_neg_proj.weight == 0).all()
    assert torch.equal(
        model.layers[1].temporal_attention.q_neg_proj.weight, model.layers[1].attention.q_neg_proj.weight
    )
    shared = from_image_model(source, attention_variant="dna_shared_value", negative_init="zero").model
    assert_same_features(shared(still(image(), 8)).pooler_output, source(image()).pooler_output)
    warm, report = from_image_model(source, attention_variant="dna")
    assert 0 < report.max_difference < 1e-2
    with pytest.raises(ConversionError, match="only softmax can become cog"):
        from_image_model(dna_vit(), attention_variant="cog")


@torch.no_grad()
def test_joint_attention_is_exact_for_one_frame():
    source = dna_vit()
    model, report = from_image_model(source, attention_type="joint_space_time")
    assert_same_features(model(still(image(), 1)).pooler_output, source(image()).pooler_output)
    assert report.max_difference < 1e-6 and (model.embeddings.time_embeddings == 0).all()


@pytest.mark.parametrize("attention_type", [*TYPES, "joint_space_time"])
@torch.no_grad()
def test_order_of_frames_is_ignored(attention_type):
    model = from_image_model(dna_vit(), num_frames=4, attention_type=attention_type).model
    video = torch.stack([image(seed=seed) for seed in range(4)], dim=1)
    features = model(video).pooler_output
    assert_same_features(model(video[:, [2, 0, 3, 1]]).pooler_output, features)
    assert (model(still(image(), 4)).pooler_output - features).abs().max() > 1e-3


@pytest.mark.parametrize("own_row", [True, False])
def test_every_parameter_has_its_place(own_row):
    source = dna_vit(use_class_token_position=own_row)
    model, report = from_image_model(source, num_frames=3)
    state, old = model.state_dict(), source.state_dict()
    # all rows of the patches, in place
    table = old.pop("embeddings.position_embeddings")
    assert torch.equal(state["embeddings.position_embeddings"][:, 0 if own_row else 1 :], table)
    assert own_row or (state["embeddings.position_embeddings"][:, 0] == 0).all()
    for name, tensor in old.items():
        assert torch.equal(state.pop(name), tensor), name
        for space, time in (("attention", "temporal_attention"), ("layernorm_before", "temporal_layernorm")):
            if f".{space}." in name:
                assert torch.equal(state.pop(name.replace(f".{space}.", f".{time}.")), tensor), name
    del state["embeddings.position_embeddings"]
    assert state["embeddings.time_embeddings"].shape == (1, 3, 32)
    assert all((tensor == 0).all() for tensor in state.values())
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in state} == {"embeddings", "temporal_dense"}
    targets = [target for record in report.records for target in record.targets]
    assert sorted(targets) == sorted(model.state_dict())
    sources = [record.source for record in report.records if record.source is not None]
    assert sorted(sources) == sorted(source.state_dict())


def test_nothing_is_shared_with_the_source():
    source = dna_vit()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    model = from_image_model(source.train()).model
    assert source.training
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("source", [dna_vit(True, num_labels=5), native_vit(True, num_labels=5)], ids=["dna", "vit"])
@torch.no_grad()
def test_head(source):
    model, report = from_image_model(source, keep_head=True, num_frames=2, negative_init="zero")
    assert type(model) is DnATimesformerForVideoClassification
    assert model.config.id2label == source.config.id2label and model.config.num_labels == 5
    assert_same_features(model(still(image(), 2)).logits, source(image()).logits)
    assert report.count("dropped") == 0
    _, report = from_image_model(source)
    dropped = {record.source for record in report.records if record.action == "dropped"}
    assert dropped == {"classifier.weight", "classifier.bias"}


def test_no_head_to_keep():
    for source in (dna_vit(), dna_vit(True, num_labels=0)):
        with pytest.raises(ConversionError, match="no classifier to keep"):
            from_image_model(source, keep_head=True)


@pytest.mark.parametrize("own_row", [True, False])
@torch.no_grad()
def test_resampled(own_row):
    source = dna_vit(use_class_token_position=own_row)
    model, report = from_image_model(source, image_size=(32, 24), num_frames=2)
    pixels = image(32, 24)
    expected = source(pixels, interpolate_pos_encoding=True).pooler_output
    assert_same_features(model(still(pixels, 2)).pooler_output, expected)
    assert report.count("resampled") == 1 and report.max_difference < 1e-6


def test_settings_come_along():
    values = {
        "hidden_dropout_prob": 0.1,
        "drop_path_rate": 0.2,
        "drop_path_schedule": "constant",
        "layer_norm_eps": 1e-3,
        "hidden_act": "relu",
        "qkv_bias": False,
        "negative_scale_init": 0.25,
    }
    config = from_image_model(dna_vit(**values)).model.config
    assert {name: getattr(config, name) for name in values} == values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_dtype(dtype):
    model = from_image_model(dna_vit().to(dtype)).model
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    model = from_image_model(dna_vit(), dtype=dtype).model
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@torch.no_grad()
def test_folder(tmp_path):
    source = dna_vit(head=True)
    source.save_pretrained(tmp_path / "image")
    conversion = from_image_model(tmp_path / "image", num_frames=2)
    conversion.save_pretrained(tmp_path / "video")
    model = AutoModel.from_pretrained(tmp_path / "video")
    assert type(model) is DnATimesformerModel
    assert_same_features(model(still(image(), 2)).pooler_output, source.dna_vit(image()).pooler_output)


# --- refusals


def refusal(source, **options):
    with pytest.raises(ConversionError) as caught:
        from_image_model(source, **options)
    assert len(str(caught.value).splitlines()) == 1
    return " ".join([str(caught.value), *caught.value.problems])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: dna_vit(use_distillation_token=True), "a distillation token"),
        (lambda: dna_vit(layer_scale_init_value=0.1), "layer scale"),
        (lambda: dna_vit(True, classifier_pooling="cls_mean"), "mean of its patches"),
        (lambda: DnAViTBackbone(dna_vit().config), "DnAViTBackbone"),
        (lambda: lively(DeiTModel(DeiTConfig(**SIZES))), "a distillation token"),
        (lambda: lively(DeiTForImageClassificationWithTeacher(DeiTConfig(**SIZES))), "a distillation token"),
        (
            lambda: lively(Dinov2Model(Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=4))),
            "scale",
        ),
        (lambda: lively(ViTForMaskedImageModeling(ViTConfig(**SIZES, encoder_stride=8))), "MaskedImageModeling"),
        (lambda: torch.nn.Linear(2, 2), "Linear"),
        (lambda: "does-not-exist", "does-not-exist"),
        (lambda: from_image_model(dna_vit()).model, "'DnATimesformerModel' is a video model already"),
    ],
)
def test_what_has_no_place_is_refused(make, named):
    assert named in refusal(make())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_frames": 0}, "num_frames"),
        ({"num_frames": "3"}, "num_frames"),
        ({"attention_type": "divided"}, "attention_type"),
        ({"attention_variant": "dnaa"}, "attention_variant"),
        ({"negative_init": "cold"}, "negative_init"),
        ({"image_size": 17}, "image_size"),
    ],
)
def test_bad_arguments(options, named):
    assert named in refusal(dna_vit(), **options)


def test_wrong_tensors_are_refused(tmp_path):
    source = dna_vit()
    with torch.no_grad():
        source.layers[1].attention.k_proj.weight[0] = torch.nan
    assert "layers.1.attention.k_proj.weight" in refusal(source)
    source.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert "layers.2.attention.k_proj.weight" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["DnAViTBackbone"]}))
    assert "DnAViTBackbone" in refusal(tmp_path)


# --- the command


@torch.no_grad()
def test_command(tmp_path, capsys):
    source = native_vit()
    source.save_pretrained(tmp_path / "vit")
    words = ["--num-frames", "3", "--negative-init", "zero", "--attention-type", "space_only", "--from", "vit"]
    assert main(["convert", str(tmp_path / "vit"), str(tmp_path / "out"), *words]) == 0
    assert "image as 3 frames" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert (model.config.num_frames, model.config.attention_type) == (3, "space_only")
    assert_same_features(model(still(image(), 3)).pooler_output, source(image()).last_hidden_state[:, 0])


@pytest.mark.parametrize("kind", ["folder", "authors"])
@torch.no_grad()
def test_command_on_a_dna_vit(tmp_path, capsys, kind):
    """The paper's chain: from its image model to the video model."""
    source, path = dna_vit(head=True), tmp_path / "image.pth"
    if kind == "folder":
        path = tmp_path / "image"
        source.save_pretrained(path)
    else:
        export_authors_checkpoint(source, path)
    assert main(["convert", str(path), str(tmp_path / "out"), "--num-frames", "8"]) == 0
    assert f"from {'dna_vit' if kind == 'folder' else 'authors-vit'}" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert_same_features(model(still(image(), 8)).pooler_output, source.dna_vit(image()).pooler_output)


def test_command_refuses_a_dna_vit_without_frames(tmp_path, capsys):
    dna_vit().save_pretrained(tmp_path / "image")
    assert main(["convert", str(tmp_path / "image"), str(tmp_path / "out")]) == 2
    assert "DnA model already" in capsys.readouterr().err
