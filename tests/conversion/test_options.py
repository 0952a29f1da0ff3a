"""Every option of a conversion is used by a kind of source, or refused by name: the whole table."""

from dataclasses import fields
from functools import cache

import pytest
import torch
import transformers
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from dna_hf import DnATimesformerConfig, DnATimesformerModel, DnAViTConfig, DnAViTForImageClassification
from dna_hf.conversion import (
    ConversionError,
    Options,
    export_authors_checkpoint,
    from_image_model,
    from_pretrained_softmax,
    load_authors_checkpoint,
)
from dna_hf.conversion.command import convert_source
from dna_hf.conversion.options import APPLIES, spelled
from dna_hf.models import DnAVideoLlama3VisionConfig, DnAVideoLlama3VisionModel
from dna_hf.records.digest import weights_digest
from tests.kit.native_video_llm import OWN, native_model, own_config, renamed, write_folder


SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 8,
    "patch_size": 4,
}
VALUES = {
    "attention_variant": "softmax",
    "negative_init": "zero",
    "warm_scale": 0.5,
    "negative_scale_init": 0.25,
    "image_size": 16,
    "image_processor": BitImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}),
    "num_attention_heads": 4,
    "num_probes": 3,
    "interaction_layers": [1],
    "include_visual_tokens": False,
    "include_visual_probes": False,
    "normalize_keys": True,
    "num_frames": 2,
    "attention_type": "space_only",
    "keep_head": True,
    "negative_sign": -1,
    "base_model": "somewhere",
    "dtype": torch.float64,
    "revision": "main",
}
# where the source has a say: what is given is checked against it
CHECKED = {
    ("deit", "num_frames"): "a distillation token",
    ("deit", "attention_type"): "a distillation token",
    ("deit", "keep_head"): "a distillation token",
    ("dinov2", "num_frames"): "layer scale",
    ("dinov2", "attention_type"): "layer scale",
    ("dinov2", "keep_head"): "layer scale",
    ("authors-vit", "num_attention_heads"): "has 2 scales .* num_attention_heads is 4",
    ("authors-timesformer", "num_attention_heads"): "has 2 scales .* num_attention_heads is 4",
    ("authors-timesformer", "attention_type"): "'time_embed' is unexpected",
    ("authors-viscop", "num_attention_heads"): "has 2 scales .* num_attention_heads is 4",
    ("authors-viscop", "base_model"): "is no LoRA .* has no base_model",
}
# what a source does not tell, or an option that is of use with another one alone
NEEDED = {
    "timm": {"num_attention_heads": 2},
    "videollama3": {"num_attention_heads": 2},
    "authors-viscop": {"interaction_layers": [0]},
    "dna_vit": {"num_frames": 1},
    "dna_timesformer": {"image_size": 8},
}
OTHERS = {
    ("dna_vit", "attention_variant"): "dna",
    ("dna_vit", "num_frames"): 3,
    ("dna_timesformer", "num_frames"): 3,
    ("authors-viscop", "negative_sign"): 1,
}
# what a source becomes without the option
WITHOUT: dict = {}
NAMES = [field.name for field in fields(Options)]


@cache
def native(family):
    """transformers' classifier of a family; of a video language model, the model or its vision encoder."""
    torch.manual_seed(0)
    if family.startswith("video_llama_3"):
        model = native_model()
        return model if family == "video_llama_3" else model.model.vision_model
    names = {"vit": "ViT", "deit": "DeiT", "dinov2": "Dinov2", "timesformer": "Timesformer"}
    config = getattr(transformers, f"{names[family]}Config")(**SIZES | ({"num_frames": 2} if "time" in family else {}))
    task = "ForVideoClassification" if family == "timesformer" else "ForImageClassification"
    return getattr(transformers, names[family] + task)(config).eval()


@cache
def dna_model(kind, variant):
    torch.manual_seed(0)
    if kind == "viscop":
        vision = {name: value for name, value in SIZES.items() if name != "image_size"}
        config = DnAVideoLlama3VisionConfig(**vision, interaction_layers=[0], attention_variant=variant)
        return DnAVideoLlama3VisionModel(config).eval()
    if kind == "timesformer":
        return DnATimesformerModel(DnATimesformerConfig(**SIZES, num_frames=2, attention_variant=variant)).eval()
    return DnAViTForImageClassification(DnAViTConfig(**SIZES, attention_variant=variant)).eval()


@pytest.fixture
def source(request, tmp_path):
    """A source of the family that the test is about."""
    family = request.node.callspec.params["family"]
    if family == "dna_vit":
        return dna_model("vit", "softmax")
    if family == "dna_timesformer":
        return dna_model("timesformer", "dna")
    if family in ("timm", "authors-vit", "authors-timesformer", "authors-viscop"):
        kind = "vit" if family == "timm" else family.removeprefix("authors-")
        path = tmp_path / "source.pth"
        model = dna_model(kind, "softmax" if family == "timm" else "dna")
        export_authors_checkpoint(model, path, architecture=kind)
        return str(path)
    if family == "videollama3":
        state = renamed(native("video_llama_3").state_dict(), OWN)
        return str(write_folder(tmp_path / "source", own_config(vision=False), state))
    return native(family)


def convert(family, source, options):
    torch.manual_seed(0)
    if family.startswith("authors-"):
        return convert_source(source, Options(**options | {"family": family}))
    if options.get("num_frames") and family != "dna_timesformer":
        return from_image_model(source, **options)
    return from_pretrained_softmax(source, **options)


def fingerprint(conversion):
    """All that a conversion makes, in a form that can be compared."""
    model, report = conversion
    processors = (report.image_processor, report.video_processor, report.processor)
    return (
        type(model).__name__,
        model.config.to_dict(),
        {name: tensor.dtype for name, tensor in model.state_dict().items()},
        weights_digest(model.state_dict()),
        report.notes,
        [processor if processor is None else processor.to_dict() for processor in processors],
    )


def request_of(family, option):
    """The request without an option, and with it."""
    base = NEEDED.get(family, {})
    if option in ("attention_type", "keep_head") and "num_frames" in APPLIES[family]:
        base = base | {"num_frames": 2}
    value = OTHERS.get((family, option), VALUES[option])
    return base, base | {option: value}


@pytest.mark.parametrize("option", [name for name in NAMES if name != "family"])
@pytest.mark.parametrize("family", APPLIES)
def test_an_option_is_used_or_refused_by_name(family, option, source):
    base, request = request_of(family, option)
    if option == "revision":
        with pytest.raises(ConversionError, match=r"^revision \(--revision\) does not apply to .* names on the Hub"):
            convert(family, source, request)
    elif option != "dtype" and option not in APPLIES[family]:
        with pytest.raises(ConversionError) as caught:
            convert(family, source, request)
        assert str(caught.value).startswith(f"{spelled(option)} does not apply to ")
        assert f"of kind {family!r}: it is for " in str(caught.value)
    elif (family, option) in CHECKED:
        with pytest.raises(ConversionError, match=CHECKED[family, option]):
            convert(family, source, request)
    else:
        key = (family, *base)
        if key not in WITHOUT:
            WITHOUT[key] = fingerprint(convert(family, source, base))
            assert WITHOUT[key] == fingerprint(convert(family, source, base))
        assert WITHOUT[key] != fingerprint(convert(family, source, request))


@pytest.mark.parametrize("family", APPLIES)
def test_a_source_of_another_kind_is_refused(family, source):
    other = next(kind for kind in APPLIES if kind.startswith("authors-") == family.startswith("authors-"))
    other = other if other != family else "timesformer" if family != "authors-vit" else "authors-timesformer"
    if family.startswith("authors-"):
        with pytest.raises(ConversionError):
            convert_source(source, Options(family=other))
        return
    with pytest.raises(ConversionError, match=f"is of kind '{family}', not '{other}'"):
        convert(family, source, NEEDED.get(family, {}) | {"family": other})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"family": "bert"}, "unknown family 'bert': choose one of vit, "),
        ({"attention_variant": "sigmoid"}, "unknown attention_variant 'sigmoid': choose one of dna, "),
        ({"negative_init": "cold"}, "unknown negative_init 'cold': choose one of warm, zero, random"),
        ({"warm_scale": float("nan")}, "warm_scale must be a finite number, got nan"),
        ({"negative_scale_init": "1"}, "negative_scale_init must be a finite number, got '1'"),
        ({"image_size": 0}, "image_size must be a positive number of pixels, or a pair of them, got 0"),
        ({"image_size": (8, -8)}, "image_size must be"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
        ({"num_probes": True}, "num_probes must be at least 1, got True"),
        ({"num_frames": 1.5}, "num_frames must be at least 1, got 1.5"),
        ({"attention_type": "divided"}, "unknown attention_type 'divided'"),
        ({"negative_sign": 0}, r"negative_sign must be \+1 or -1, got 0"),
        ({"dtype": "float32"}, "dtype must be a floating-point type of torch, got 'float32'"),
        ({"dtype": torch.int8}, "dtype must be a floating-point type of torch"),
    ],
    ids=lambda values: "-".join(values) if isinstance(values, dict) else "",
)
def test_values_that_no_source_can_have(values, message):
    with pytest.raises(ConversionError, match=message):
        Options(**values)


def test_an_option_that_does_not_exist():
    with pytest.raises(TypeError, match="negative_inti"):
        from_pretrained_softmax(native("vit"), negative_inti="zero")


def test_functions_that_make_no_video_model_say_which_does(tmp_path):
    export_authors_checkpoint(dna_model("vit", "dna"), tmp_path / "source.pth")
    for call in (
        lambda: from_pretrained_softmax(native("vit"), num_frames=2),
        lambda: load_authors_checkpoint(tmp_path / "source.pth", architecture="vit", num_frames=2),
    ):
        with pytest.raises(ConversionError, match="num_frames makes a video model .*: call from_image_model"):
            call()


def test_what_has_no_effect_is_noted(tmp_path):
    idle = "of no effect, as softmax attention begins without it"
    report = from_pretrained_softmax(native("vit"), attention_variant="softmax", negative_init="zero").report
    assert f"negative_init: {idle}" in report.notes
    report = from_pretrained_softmax(native("vit"), negative_init="random", warm_scale=1e-3).report
    assert "warm_scale: of no effect, as negative_init is 'random'" in report.notes
    report = from_image_model(dna_model("vit", "dna"), negative_init="zero").report
    assert "negative_init: of no effect, as the source has dna attention already" in report.notes
    export_authors_checkpoint(dna_model("vit", "softmax"), tmp_path / "source.pth")
    options = Options(family="authors-vit", negative_sign=1, num_attention_heads=2)
    report = convert_source(str(tmp_path / "source.pth"), options).report
    assert "negative_sign: of no effect, as the source has softmax attention" in report.notes


@pytest.mark.parametrize("kind", ["a file", "below a file", "not empty"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path, kind, monkeypatch):
    (tmp_path / "file").write_text("mine")
    output = {"a file": "file", "below a file": "file/out", "not empty": "."}[kind]
    monkeypatch.setattr("dna_hf.conversion.command.set_seed", lambda seed: pytest.fail("the work has begun"))
    with pytest.raises(ConversionError, match="is a file; choose another|is not empty: choose another"):
        convert_source("nowhere", Options(), output=tmp_path / output)
    if kind != "not empty":
        with pytest.raises(ConversionError, match="is a file; choose another"):
            from_pretrained_softmax(native("vit")).save_pretrained(tmp_path / output)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    model = dna_model("vit", "dna")
    with pytest.raises(ConversionError, match="'.*weights.pth' is a folder: name a file"):
        (tmp_path / "weights.pth").mkdir()
        export_authors_checkpoint(model, tmp_path / "weights.pth")
    with pytest.raises(ConversionError, match="is a file; choose another folder"):
        export_authors_checkpoint(model, tmp_path / "file" / "weights.pth")
    export_authors_checkpoint(model, tmp_path / "new" / "weights.pth")
    assert load_authors_checkpoint(tmp_path / "new" / "weights.pth", architecture="vit").num_parameters() > 0
