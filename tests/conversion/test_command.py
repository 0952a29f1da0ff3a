"""`dna-hf convert` as a user meets it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf import DnAViTConfig, DnAViTForImageClassification
from dna_hf.cli import main
from dna_hf.conversion import export_authors_checkpoint
from tests.kit.conversion import convert_command


SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@pytest.fixture
def vit(tmp_path):
    """The folder of a native ViT with labels and an image processor."""
    torch.manual_seed(0)
    labels = {0: "cat", 1: "dog", 2: "bird"}
    config = ViTConfig(**SIZES, id2label=labels, label2id={name: i for i, name in labels.items()})
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.fixture
def authors(tmp_path):
    """A file in the authors' layout, and the model it was written from."""
    torch.manual_seed(0)
    model = DnAViTForImageClassification(DnAViTConfig(**SIZES, num_labels=3))
    export_authors_checkpoint(model, tmp_path / "authors.pth")
    return tmp_path / "authors.pth", model


def refused(capsys, *words):
    """The sentence with which a command is refused."""
    code, _, errors = convert_command(capsys, *words)
    assert code == 2
    sentence = errors.strip().splitlines()[-1]
    assert sentence.startswith("dna-hf: error: ") and "Traceback" not in errors
    return sentence


@pytest.mark.auto_image_processor
def test_writes_a_complete_checkpoint_and_prints_the_report(tmp_path, capsys, vit):
    out = tmp_path / "out"
    code, output, _ = convert_command(capsys, vit, out, "--negative-init", "zero", "--from", "vit")
    assert code == 0
    assert "copied" in output and "layers.*.attention.v_neg_proj.weight" in output and str(out) in output
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "conversion.json"} < {
        path.name for path in out.iterdir()
    }
    assert {path.name for path in out.glob("*.py")} == {
        "attention_variants.py",
        "configuration_dna.py",
        "configuration_dna_vit.py",
        "layers_dna.py",
        "modeling_dna_vit.py",
    }
    model = AutoModelForImageClassification.from_pretrained(out).eval()
    source = ViTForImageClassification.from_pretrained(vit).eval()
    assert model.config.label2id == {"cat": 0, "dog": 1, "bird": 2}
    assert AutoImageProcessor.from_pretrained(out).size["height"] == 32
    pixel_values = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(pixel_values).logits, source(pixel_values).logits, atol=1e-5, rtol=0)
    report = json.loads((out / "conversion.json").read_text())
    assert {record["source"] for record in report["tensors"]} - {None} == source.state_dict().keys()


@pytest.mark.auto_image_processor
def test_dry_run_writes_nothing(tmp_path, capsys, vit):
    code, output, _ = convert_command(capsys, vit, tmp_path / "out", "--dry-run")
    assert code == 0 and "dry run" in output
    assert not (tmp_path / "out").exists()


def test_authors_file_is_recognised(tmp_path, capsys, authors):
    path, model = authors
    code, output, _ = convert_command(capsys, path, tmp_path / "out", "--dtype", "float32")
    assert code == 0 and "from authors-vit" in output and "added" in output
    converted = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(converted[name], tensor), name


def test_negative_sign_of_an_authors_file(tmp_path, capsys, authors):
    path, model = authors
    code, output, _ = convert_command(capsys, path, tmp_path / "out", "--negative-sign", "-1")
    assert code == 0 and "subtracted" in output
    name = "dna_vit.layers.0.attention.negative_scale"
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[name], -model.state_dict()[name])


def test_baseline_of_the_authors_has_to_be_named(tmp_path, capsys):
    model = DnAViTForImageClassification(DnAViTConfig(**SIZES, attention_variant="softmax"))
    export_authors_checkpoint(model, tmp_path / "baseline.safetensors")
    source = tmp_path / "baseline.safetensors"
    words = (source, tmp_path / "out", "--num-attention-heads", 4, "--dry-run")
    assert "from timm" in convert_command(capsys, *words)[1]
    assert "from authors-vit" in convert_command(capsys, *words, "--from", "authors-vit")[1]


@pytest.mark.auto_image_processor
def test_image_processor_of_another_checkpoint(tmp_path, capsys, authors, vit):
    code, *_ = convert_command(capsys, authors[0], tmp_path / "out", "--image-processor", vit)
    assert code == 0
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "out")) is ViTImageProcessorPil


@pytest.mark.auto_image_processor
def test_seed_of_random_weights(tmp_path, capsys, vit):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert convert_command(capsys, vit, tmp_path / name, "--negative-init", "random", "--seed", seed)[0] == 0
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    name = "dna_vit.layers.0.attention.q_neg_proj.weight"
    assert torch.equal(a[name], b[name]) and not torch.equal(a[name], c[name])


@pytest.mark.auto_image_processor
def test_refusals(tmp_path, capsys, vit, authors):
    out = tmp_path / "out"
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious.txt").write_text("mine")
    assert str(full) in refused(capsys, vit, full)
    assert (full / "precious.txt").read_text() == "mine"
    assert "'vit', not 'dinov2'" in refused(capsys, vit, out, "--from", "dinov2")
    assert "choose one of dna," in refused(capsys, vit, out, "--attention-variant", "dnaa")
    assert "(--negative-init) does not apply" in refused(capsys, authors[0], out, "--negative-init", "zero")
    assert "negative_sign" in refused(capsys, vit, out, "--negative-sign", "+1")
    assert "multiple of patch_size" in refused(capsys, vit, out, "--image-size", 30)
    assert "nowhere" in refused(capsys, vit, out, "--image-processor", tmp_path / "nowhere")
    assert "does-not-exist" in refused(capsys, "does-not-exist", out)
    weights = load_file(vit / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] * float("nan")
    save_file(weights, vit / "model.safetensors", metadata={"format": "pt"})
    assert "not finite" in refused(capsys, vit, out)
    assert not out.exists()


@pytest.mark.parametrize(
    "words", [["--unknown", "1"], ["--image-size", "-3"], ["--from", "bert"], ["--negative-sign", "2"]]
)
def test_wrong_options(tmp_path, capsys, vit, words):
    assert main(["convert", str(vit), str(tmp_path / "out"), *words]) == 2
    assert words[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
