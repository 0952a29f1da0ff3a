"""Checkpoints of the authors' code: every layout in and out, compared with an oracle written from the equations."""

import argparse
import collections
import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from dna_hf.conversion import (
    ConversionError,
    authors,
    convert_authors_checkpoint,
    export_authors_checkpoint,
    load_authors_checkpoint,
)
from dna_hf.models import (
    DnAViTBackbone,
    DnAViTConfig,
    DnAViTForImageClassification,
    DnAViTForMaskedImageModeling,
    DnAViTModel,
)
from tests.kit.authors import LAYOUTS
from tests.reference import reference_attention


# what is in other people's files does not depend on the version of transformers
pytestmark = pytest.mark.once

WIDTH, LAYERS, HEADS, CLASSES, PATCH, GRID = 32, 2, 4, 5, 8, 4
PROJECTIONS = {
    "dna": ["q_pos", "q_neg", "k", "v_pos", "v_neg"],
    "dna_shared_value": ["q_pos", "q_neg", "k", "v"],
    "softmax": ["q", "k", "v"],
}
SIZES = ["patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.attn.neg_scalers", "head.weight"]
DNA_LAYOUTS = [layout for layout in LAYOUTS if layout != "softmax"]


def draw(variant, head=True, bias=True, dtype=torch.float64, seed=0, layers=LAYERS):
    """Random weights in the authors' names, except that every projection of the attention is a tensor of its own."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.3).to(dtype)

    def linear(name, rows, columns, bias=True):
        return {f"{name}.weight": random(rows, columns)} | ({f"{name}.bias": random(rows)} if bias else {})

    def norm(name):
        return {f"{name}.weight": 1 + random(WIDTH), f"{name}.bias": random(WIDTH)}

    parts = {
        "cls_token": random(1, 1, WIDTH),
        "pos_embed": random(1, GRID**2, WIDTH),
        "patch_embed.proj.weight": random(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": random(WIDTH),
    }
    for index in range(layers):
        block = f"blocks.{index}."
        parts |= norm(f"{block}norm1") | norm(f"{block}norm2") | linear(f"{block}attn.proj", WIDTH, WIDTH)
        parts |= linear(f"{block}mlp.fc1", 2 * WIDTH, WIDTH) | linear(f"{block}mlp.fc2", WIDTH, 2 * WIDTH)
        for projection in PROJECTIONS[variant]:
            parts |= linear(f"{block}attn.{projection}_proj", WIDTH, WIDTH, bias)
        if variant != "softmax":
            parts[f"{block}attn.negative_scale"] = 0.5 + random(HEADS)
    parts |= norm("norm")
    return parts | linear("head", CLASSES, WIDTH) if head else parts


def pack(parts, layout=None, rows=None):
    """The state dict of the authors' code for a layout, or with the given rows in its packed tensors."""
    rows = rows or LAYOUTS[layout][1]
    state = {key: tensor for key, tensor in parts.items() if not re.search(r"attn\.(\w+_proj|negative_scale)", key)}
    for index in range(layers_of(parts)):
        prefix = f"blocks.{index}.attn."
        for packed, projections in rows.items():
            for kind in ("weight", "bias"):
                if f"{prefix}k_proj.{kind}" in parts:
                    tensors = [parts[f"{prefix}{projection}_proj.{kind}"] for projection in projections]
                    state[f"{prefix}{packed}.{kind}"] = torch.cat(tensors)
        if f"{prefix}negative_scale" in parts:
            state[f"{prefix}neg_scalers"] = parts[f"{prefix}negative_scale"]
    return state


def layers_of(parts):
    return sum(bool(re.fullmatch(r"blocks\.\d+\.norm1\.weight", key)) for key in parts)


def oracle(parts, variant, images, sign=1):
    """The authors' ViT in float64: logits, or the normalised class token where there is no head."""
    parts = {key: tensor.double() for key, tensor in parts.items()}

    def linear(x, name):
        return x @ parts[f"{name}.weight"].T + parts[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + 1e-6) * parts[f"{name}.weight"] + parts[f"{name}.bias"]

    kernel = parts["patch_embed.proj.weight"]
    patches = images.unflatten(3, (GRID, PATCH)).unflatten(2, (GRID, PATCH))
    tokens = torch.einsum("bchpwq,dcpq->bhwd", patches, kernel).flatten(1, 2) + parts["patch_embed.proj.bias"]
    tokens = torch.cat((parts["cls_token"].expand(len(images), -1, -1), tokens + parts["pos_embed"]), dim=1)
    for index in range(layers_of(parts)):
        block = f"blocks.{index}."
        weights = {key.removeprefix(f"{block}attn."): tensor for key, tensor in parts.items() if block in key}
        weights |= {f"o_proj.{kind}": weights[f"proj.{kind}"] for kind in ("weight", "bias")}
        if "negative_scale" in weights:
            weights["negative_scale"] = sign * weights["negative_scale"]
        states = norm(tokens, f"{block}norm1")
        tokens = tokens + reference_attention(variant, weights, states, states, HEADS)[0]
        hidden = linear(norm(tokens, f"{block}norm2"), f"{block}mlp.fc1")
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + linear(hidden, f"{block}mlp.fc2")
    feature = norm(tokens, "norm")[:, 0]
    return linear(feature, "head") if "head.weight" in parts else feature


def images(batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, GRID * PATCH, GRID * PATCH, generator=generator, dtype=torch.float64)


def write(path, state):
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous().clone() for key, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def load(path, **options):
    """The model of a file; its number of heads is given only where the file does not tell it."""
    return convert(path, **options).model


def convert(path, **options):
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=False)
    if not any("neg_scalers" in key for key in state.get("model", state)):
        options = {"num_attention_heads": HEADS} | options
    return convert_authors_checkpoint(path, architecture="vit", **options)


def result(model, pixel_values):
    output = model(pixel_values)
    return output.logits if isinstance(model, DnAViTForImageClassification) else output.pooler_output


@torch.no_grad()
def evaluate(model, pixel_values=None):
    return result(model, images().to(model.dtype) if pixel_values is None else pixel_values)


def assert_close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


# --- what a checkpoint computes


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("head", [True, False], ids=["head", "no head"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_output(tmp_path, layout, head, suffix):
    variant = LAYOUTS[layout][0]
    parts = draw(variant, head, layers=3)
    path = write(tmp_path / f"weights{suffix}", pack(parts, layout))
    heads = {"num_attention_heads": HEADS} if layout == "softmax" else {}
    model = load_authors_checkpoint(path, architecture="vit", **heads).double()
    assert type(model) is (DnAViTForImageClassification if head else DnAViTModel)
    assert not model.training
    assert model.config.attention_variant == variant
    assert model.config.num_hidden_layers == 3
    assert_close(evaluate(model), oracle(parts, variant, images()))


@pytest.mark.parametrize("layout", ["packed", "split", "packed_shared", "softmax"])
def test_output_without_bias(tmp_path, layout):
    variant = LAYOUTS[layout][0]
    parts = draw(variant, bias=False)
    model = load(write(tmp_path / "weights.pth", pack(parts, layout)))
    assert model.config.qkv_bias is False
    assert_close(evaluate(model), oracle(parts, variant, images()))


@pytest.mark.parametrize("layout", ["packed", "split_shared"])
def test_gradients(tmp_path, layout):
    variant = LAYOUTS[layout][0]
    parts = draw(variant)
    model = load(write(tmp_path / "weights.pth", pack(parts, layout)))
    cotangent = torch.randn(2, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = []
    for function in (lambda pixels: result(model, pixels), lambda pixels: oracle(parts, variant, pixels)):
        pixels = images().requires_grad_()
        gradients += torch.autograd.grad(function(pixels), pixels, cotangent)
    assert gradients[1].abs().max() > 1e-3
    assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_dtype(tmp_path, dtype):
    parts = draw("dna", dtype=dtype)
    model = load(write(tmp_path / "weights.safetensors", pack(parts, "packed")))
    assert model.dtype == dtype
    assert_close(evaluate(model.double()), oracle(parts, "dna", images()))


def test_mixed_dtypes(tmp_path):
    """The model is as wide as the widest tensor, so that nothing is rounded."""
    parts = draw("dna")
    parts = {key: tensor if "attn" in key else tensor.half() for key, tensor in parts.items()}
    model = load(write(tmp_path / "weights.pth", pack(parts, "packed")))
    assert model.dtype == torch.float64
    assert_close(evaluate(model), oracle(parts, "dna", images()))


def test_reference_vectors(golden, tmp_path):
    expected = load_file(golden / "vit_dna_plus.io.safetensors")
    state = load_file(golden / "vit_dna_plus.weights.safetensors")
    path = golden / "vit_dna_plus.weights.safetensors"
    pixels = expected["input"].double()
    model = load_authors_checkpoint(path, architecture="vit").double()
    with torch.no_grad():
        assert_close(model(pixels).logits, expected["logits"].double())
        assert_close(model.dna_vit(pixels).pooler_output, expected["features"].double())
    headless = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
    model = load_authors_checkpoint(write(tmp_path / "weights.pth", headless), architecture="vit").double()
    assert_close(evaluate(model, pixels), expected["features"].double())


# --- what surrounds the tensors in a file


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "_orig_mod."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", ["packed", "split"])
def test_prefixes_of_wrappers(tmp_path, layout, suffix, prefix):
    state = pack(draw("dna"), layout)
    plain = load(write(tmp_path / f"plain{suffix}", state))
    prefixed = load(write(tmp_path / f"prefixed{suffix}", {prefix + key: tensor for key, tensor in state.items()}))
    assert_same(prefixed.state_dict(), plain.state_dict())


def training_checkpoint(state, key="model"):
    return {
        key: collections.OrderedDict(state),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "lr_scheduler": {"base_values": [1e-3], "warmup_steps": [2e-4]},
        "epoch": 3,
        "model_ema": None,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "args": argparse.Namespace(model="dna_vit_base_patch16_224", lr=5e-4, opt_betas=None),
    }


@pytest.mark.parametrize("suffix", [".pth", ".pyth"])
@pytest.mark.parametrize("key", ["model", "state_dict", "model_state"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_training_checkpoint(tmp_path, suffix, key, prefix):
    parts = draw("dna", dtype=torch.float32)
    content = training_checkpoint({prefix + name: tensor for name, tensor in pack(parts, "packed").items()}, key)
    path = tmp_path / f"checkpoint{suffix}"
    torch.save(content, path)
    model, report = convert_authors_checkpoint(path, architecture="vit")
    assert_close(evaluate(model.double()), oracle(parts, "dna", images()))
    notes = " ".join(report.notes)
    assert all(name in notes for name in set(content) - {key})


# --- the sign of the negative branch


@pytest.mark.parametrize("layout", DNA_LAYOUTS)
def test_sign(tmp_path, layout):
    variant = LAYOUTS[layout][0]
    parts = draw(variant)
    path = write(tmp_path / "weights.pth", pack(parts, layout))
    added, subtracted = (oracle(parts, variant, images(), sign) for sign in (1, -1))
    assert (added - subtracted).abs().max() > 1e-2
    assert_close(evaluate(load(path)), added)
    assert_close(evaluate(load(path, negative_sign=1)), added)
    assert_close(evaluate(load(path, negative_sign=-1)), subtracted)
    negated = {name: -tensor if name.endswith("neg_scalers") else tensor for name, tensor in torch.load(path).items()}
    twin = load(write(tmp_path / "negated.pth", negated))
    assert_same(load(path, negative_sign=-1).state_dict(), twin.state_dict())


@pytest.mark.parametrize(("sign", "verb"), [(None, "added"), (1, "added"), (-1, "subtracted")])
def test_sign_is_reported(tmp_path, sign, verb):
    _, report = convert(write(tmp_path / "weights.pth", pack(draw("dna"), "packed")), negative_sign=sign)
    assert any(verb in note for note in report.notes)
    reasons = {record.reason for record in report.records if record.source.endswith("neg_scalers")}
    assert all(("negated" in reason) == (sign == -1) for reason in reasons)


def test_sign_does_nothing_to_softmax(tmp_path):
    path = write(tmp_path / "weights.pth", pack(draw("softmax"), "softmax"))
    assert_same(load(path, negative_sign=-1).state_dict(), load(path).state_dict())


@pytest.mark.parametrize("sign", [0, 2, -2, 0.5, "+", "-1", "minus", math.nan])
def test_bad_sign(tmp_path, sign):
    path = write(tmp_path / "weights.pth", pack(draw("dna"), "packed"))
    with pytest.raises(ConversionError, match="negative_sign"):
        load(path, negative_sign=sign)
    with pytest.raises(ConversionError, match="negative_sign"):
        export_authors_checkpoint(load(path), tmp_path / "exported.pth", negative_sign=sign)
    assert not (tmp_path / "exported.pth").exists()


# --- the order of the rows


@pytest.mark.parametrize(("packed", "split"), [("packed", "split"), ("packed_shared", "split_shared")])
def test_split_file_gives_the_model_of_its_packed_twin(tmp_path, packed, split):
    parts = draw(LAYOUTS[packed][0], dtype=torch.float32)
    first, second = (load(write(tmp_path / f"{layout}.pth", pack(parts, layout))) for layout in (packed, split))
    assert_same(first.state_dict(), second.state_dict())
    assert torch.equal(evaluate(first), evaluate(second))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_slot_lands_in_its_module(tmp_path, layout):
    variant = LAYOUTS[layout][0]
    parts = draw(variant, head=False)
    constants = {}
    for layer in range(LAYERS):
        for slot, projection in enumerate(PROJECTIONS[variant]):
            for offset, kind in enumerate(("weight", "bias")):
                name = f"attn.{projection}_proj.{kind}"
                value = (1 + layer + 0.1 * slot + 0.01 * offset) / 64
                constants[f"layers.{layer}.attention.{projection}_proj.{kind}"] = value
                parts[f"blocks.{layer}.{name}"].fill_(value)
    state = load(write(tmp_path / "weights.pth", pack(parts, layout))).state_dict()
    assert len(set(constants.values())) == len(constants) == LAYERS * len(PROJECTIONS[variant]) * 2
    for name, value in constants.items():
        assert torch.equal(state[name], torch.full_like(state[name], value)), name


@pytest.mark.parametrize(
    ("layout", "packed", "released"),
    [
        ("packed", "qqkvv", ["q_pos", "k", "v_pos", "q_neg", "v_neg"]),
        ("packed_shared", "qqkv", ["q_pos", "k", "v", "q_neg"]),
    ],
    ids=["separate values", "shared value"],
)
def test_rows_as_the_released_loaders_join_them_are_another_model(tmp_path, layout, packed, released):
    variant = LAYOUTS[layout][0]
    parts = draw(variant)
    expected = oracle(parts, variant, images())
    scrambled = pack(parts, rows={packed: released})
    assert scrambled.keys() == pack(parts, layout).keys()
    wrong = evaluate(load(write(tmp_path / "scrambled.pth", scrambled)))
    assert (wrong - expected).abs().max() > 1e-2


# --- export


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("sign", [None, -1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_inverts_load(tmp_path, layout, sign, dtype):
    variant = LAYOUTS[layout][0]
    expected = pack(draw(variant, head=dtype != torch.float32, dtype=dtype), layout)
    options = {} if layout == "softmax" else {"layout": layout.removesuffix("_shared")}
    for suffix in (".pth", ".safetensors"):
        model = load(write(tmp_path / f"original{suffix}", expected), negative_sign=sign)
        path = tmp_path / f"exported{suffix}"
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        export_authors_checkpoint(model, path, negative_sign=sign, **options)
        assert_same(model.state_dict(), before)
        found = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)["model"]
        assert_same(found, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("model_class", [DnAViTModel, DnAViTForImageClassification])
@pytest.mark.parametrize("variant", ["dna", "dna_shared_value", "softmax"])
def test_load_inverts_export(tmp_path, variant, model_class, bias):
    model = tiny_model(model_class, attention_variant=variant, qkv_bias=bias)
    for layout in ("packed", "split"):
        for sign in (1, -1):
            path = tmp_path / "exported.pyth"
            export_authors_checkpoint(model, path, layout=layout, negative_sign=sign)
            again = load(path, negative_sign=sign)
            assert type(again) is model_class
            assert_same(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shared", ["", "_shared"])
def test_layouts_convert_into_each_other(tmp_path, shared, reverse):
    source, target = ("split", "packed") if reverse else ("packed", "split")
    parts = draw(LAYOUTS[source + shared][0])
    model = load(write(tmp_path / "source.pth", pack(parts, source + shared)))
    export_authors_checkpoint(model, tmp_path / "target.safetensors", layout=target)
    assert_same(load_file(tmp_path / "target.safetensors"), pack(parts, target + shared))


def tiny_config(**overrides):
    sizes = {
        "image_size": GRID * PATCH,
        "patch_size": PATCH,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * WIDTH,
        "num_labels": CLASSES,
    }
    return DnAViTConfig(**sizes | overrides)


def tiny_model(model_class=DnAViTForImageClassification, **overrides):
    torch.manual_seed(0)
    return model_class(tiny_config(**overrides)).eval()


def softmax_vit():
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": HEADS, "intermediate_size": WIDTH}
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes))


NOT_EXPORTED = {
    "differential": (lambda: tiny_model(attention_variant="differential"), "differential"),
    "cog": (lambda: tiny_model(attention_variant="cog"), "cog"),
    "class token position": (lambda: tiny_model(use_class_token_position=True), "use_class_token_position"),
    "layer scale": (lambda: tiny_model(layer_scale_init_value=0.1), "layer_scale_init_value"),
    "distillation token": (lambda: tiny_model(use_distillation_token=True), "use_distillation_token"),
    "epsilon": (lambda: tiny_model(layer_norm_eps=1e-12), "layer_norm_eps"),
    "activation": (lambda: tiny_model(hidden_act="relu"), "hidden_act"),
    "pooling": (lambda: tiny_model(classifier_pooling="cls_mean"), "classifier_pooling"),
    "mask token": (lambda: DnAViTModel(tiny_config(), use_mask_token=True), "mask token"),
    "masked image modeling": (lambda: tiny_model(DnAViTForMaskedImageModeling), "DnAViTForMaskedImageModeling"),
    "backbone": (lambda: tiny_model(DnAViTBackbone), "DnAViTBackbone"),
    "another model": (softmax_vit, "ViTForImageClassification"),
    "oblong image": (lambda: tiny_model(image_size=[32, 16]), "square"),
    "oblong patches": (lambda: tiny_model(image_size=[32, 16], patch_size=[8, 4]), "square"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("make", "reason"), NOT_EXPORTED.values(), ids=NOT_EXPORTED)
def test_what_has_no_place_is_not_exported(tmp_path, make, reason, suffix):
    path = tmp_path / f"exported{suffix}"
    with pytest.raises(ConversionError, match=reason) as caught:
        export_authors_checkpoint(make(), path)
    assert len(str(caught.value).splitlines()) == 1
    assert not path.exists()


def test_everything_without_a_place_is_listed(tmp_path):
    model = tiny_model(use_class_token_position=True, layer_norm_eps=1e-5, layer_scale_init_value=0.1)
    with pytest.raises(ConversionError) as caught:
        export_authors_checkpoint(model, tmp_path / "exported.pth")
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("weights", {}, "weights"),
        ("weights.npz", {}, "npz"),
        ("weights.pth", {"layout": "packed_shared"}, "packed_shared"),
        ("weights.pth", {"layout": "softmax"}, "softmax"),
        ("weights.pth", {"layout": ""}, "layout"),
        ("weights.pth", {"architecture": "timesformer"}, "only DnATimesformerModel"),
        ("weights.pth", {"architecture": "viscop"}, "as VisCoP: only DnAVideoLlama3VisionModel"),
        ("weights.pth", {"architecture": "ViT"}, "ViT"),
    ],
)
def test_bad_arguments_of_export(tmp_path, name, options, expected):
    with pytest.raises(ConversionError, match=re.escape(expected)):
        export_authors_checkpoint(tiny_model(), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


# --- files that are not what they should be


def changed(key, change):
    return lambda state: state | {key: change(state[key])}


def without(*keys):
    return lambda state: {key: tensor for key, tensor in state.items() if key not in keys}


def renamed(old, new):
    return lambda state: {key.replace(old, new): tensor for key, tensor in state.items()}


def added(key, *shape):
    return lambda state: state | {key: torch.ones(shape, dtype=torch.float64)}


def with_block_of(other, index):
    """The attention of one block as another layout has it."""
    prefix = f"blocks.{index}.attn."

    def change(state):
        foreign = {k: v for k, v in pack(draw(LAYOUTS[other][0]), other).items() if k.startswith(prefix)}
        return {k: v for k, v in state.items() if not k.startswith(prefix)} | foreign

    return change


def without_block(index):
    return lambda state: {key: tensor for key, tensor in state.items() if not key.startswith(f"blocks.{index}.")}


def poisoned(number):
    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[-1] = number
        return tensor

    return change


def mutations():
    """Name, layout, change of its state dict, and the tensor that the refusal names."""
    for layout in LAYOUTS:
        for key in pack(draw(LAYOUTS[layout][0]), layout):
            # a packed layout once in full; of the others what differs
            if layout == "packed" or "attn." in key and "proj" not in key:
                yield f"without {key}", layout, without(key), key

    for key, shape in {
        "dist_token": (1, 1, WIDTH),
        "mask_token": (1, 1, WIDTH),
        "fc_norm.weight": (WIDTH,),
        "head_dist.weight": (CLASSES, WIDTH),
        "blocks.0.ls1.gamma": (WIDTH,),
        "blocks.0.attn.q_norm.weight": (WIDTH,),
        "blocks.1.attn.extra": (1,),
        "blocks.1.temporal_attn.qkv.weight": (3 * WIDTH, WIDTH),
        "blocks.5.norm1.weight": (WIDTH,),
        "time_embed": (1, 8, WIDTH),
        "blocks.x.norm1.weight": (WIDTH,),
        "qqkvv.weight": (5 * WIDTH, WIDTH),
    }.items():
        yield f"with {key}", "packed", added(key, *shape), key
    yield "with qkv", "packed", added("blocks.0.attn.qkv.weight", 3 * WIDTH, WIDTH), "blocks.0.attn.qkv.weight"
    yield "with q_neg", "packed", added("blocks.0.attn.q_neg.weight", WIDTH, WIDTH), "blocks.0.attn.q_neg.weight"
    yield "with v_neg", "split_shared", added("blocks.0.attn.v_neg.weight", WIDTH, WIDTH), "attn.v_neg"
    yield "with q_neg", "softmax", added("blocks.1.attn.q_neg.weight", WIDTH, WIDTH), "neg_scalers"
    yield "with neg_scalers", "softmax", added("blocks.0.attn.neg_scalers", HEADS), "attn."
    yield "half-width", "packed", added("blocks.0.attn.qv.weight", 2 * WIDTH, WIDTH), "attn.qv"
    yield "half-width only", "packed", renamed("attn.qqkvv", "attn.qv"), "attn.qv"

    shapes = {
        "cut in its first dimension": lambda tensor: tensor[:-1],
        "cut in its last dimension": lambda tensor: tensor[..., :-1],
        "with a dimension more": lambda tensor: tensor.unsqueeze(0),
        "twice as long": lambda tensor: torch.cat((tensor, tensor)),
        "flat": lambda tensor: tensor.reshape(-1, 1, 1, 1, 1),
        "a number": lambda tensor: tensor.sum(),
        "empty": lambda tensor: tensor[:0],
    }
    for key in (
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
        "blocks.0.mlp.fc1.weight",
        "blocks.1.mlp.fc1.weight",
        "blocks.0.attn.qqkvv.weight",
        "blocks.1.attn.qqkvv.bias",
        "blocks.0.attn.neg_scalers",
        "blocks.1.attn.neg_scalers",
        "blocks.1.attn.proj.weight",
        "norm.weight",
        "head.weight",
        "head.bias",
    ):
        for name, change in shapes.items():
            # the model takes its sizes from some tensors, so that what disagrees with them is named
            named = key.removesuffix(".weight").removeprefix("blocks.0.") if key in SIZES else key
            yield f"{key} {name}", "packed", changed(key, change), named
    rows = [("split", "qkv"), ("split", "q_neg"), ("split", "v_neg"), ("packed_shared", "qqkv"), ("softmax", "qkv")]
    for layout, packed in rows:
        key = f"blocks.1.attn.{packed}.weight"
        yield f"{key} cut", layout, changed(key, shapes["cut in its first dimension"]), key
        yield f"{key} turned", layout, changed(key, lambda tensor: tensor[:, : WIDTH // 2]), key
    yield "transposed", "packed", changed("blocks.0.attn.qqkvv.weight", torch.t), "blocks.0.attn.qqkvv.weight"
    yield (
        "oblong patches",
        "packed",
        changed("patch_embed.proj.weight", lambda t: t[..., :4]),
        "patch_embed.proj.weight",
    )
    yield "one value", "packed", changed("blocks.1.attn.qqkvv.weight", lambda t: t[: 4 * WIDTH]), "attn.qqkvv.weight"
    row = torch.zeros(1, 1, WIDTH, dtype=torch.float64)
    yield "class row", "packed", changed("pos_embed", lambda tensor: torch.cat((row, tensor), dim=1)), "pos_embed"
    yield "three heads", "packed", lambda state: cut_scales(state, 3), "neg_scalers"

    for key in (
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.0.attn.qqkvv.weight",
        "blocks.1.attn.qqkvv.bias",
        "blocks.1.attn.neg_scalers",
        "blocks.0.norm1.weight",
        "head.weight",
    ):
        for number in (math.nan, math.inf, -math.inf):
            yield f"{key} with {number}", "packed", changed(key, poisoned(number)), key
        for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
            yield f"{key} as {dtype}", "packed", changed(key, lambda tensor, dtype=dtype: tensor.to(dtype)), key
    for layout in DNA_LAYOUTS:
        packed = next(iter(LAYOUTS[layout][1]))
        key = f"blocks.1.attn.{packed}.weight"
        yield f"{key} with nan", layout, changed(key, poisoned(math.nan)), key
    key = "blocks.0.attn.qqkvv.weight"
    yield "float8", "packed", changed(key, lambda tensor: tensor.to(torch.float8_e4m3fn)), key
    yield "meta", "packed", changed(key, lambda tensor: tensor.to("meta")), key

    for old, new, named in (
        ("norm1", "ln1", "norm1"),
        ("head.", "classifier.", "classifier.weight"),
        ("mlp.fc1", "mlp.c_fc", "mlp.fc1"),
        ("attn.proj", "attn.out_proj", "attn.proj"),
        ("neg_scalers", "neg_scaler", "neg_scalers"),
        ("neg_scalers", "alpha", "neg_scalers"),
        ("pos_embed", "position_embeddings", "pos_embed"),
        ("cls_token", "class_token", "cls_token"),
        ("patch_embed.proj", "patch_embed", "patch_embed.proj"),
        ("qqkvv", "qkvqv", "qkvqv"),
        ("attn.", "attention.", "attn.qqkvv"),
        ("blocks.", "layers.", "blocks"),
        ("blocks.1.", "blocks.2.", "blocks.2."),
        ("blocks.0.", "blocks.00.", "blocks.0"),
        ("cls_token", "Cls_token", "cls_token"),
        ("head.bias", "head.bias ", "head.bias"),
    ):
        yield f"{old} as {new}", "packed", renamed(old, new), named
    yield "q_neg as q_minus", "split", renamed("q_neg", "q_minus"), "q_neg"
    yield "v_neg as v_minus", "split", renamed("v_neg", "v_minus"), "v_minus"

    for layout in LAYOUTS:
        for other in LAYOUTS:
            if other != layout:
                yield f"block 1 as {other}", layout, with_block_of(other, 1), ".attn."
    yield "no block 0", "packed", without_block(0), "blocks.0."
    yield "no attention", "packed", lambda s: {k: v for k, v in s.items() if ".attn." not in k}, "blocks.0.attn"


def cut_scales(state, heads):
    return {key: tensor[:heads] if key.endswith("neg_scalers") else tensor for key, tensor in state.items()}


MUTATIONS = {f"{layout}: {name}": (layout, change, named) for name, layout, change, named in mutations()}


def refusal(path, **options):
    with pytest.raises(ConversionError) as caught:
        convert_authors_checkpoint(path, architecture="vit", **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return " ".join([message, *caught.value.problems])


@pytest.mark.parametrize(("layout", "change", "named"), MUTATIONS.values(), ids=MUTATIONS)
def test_mutated_file_is_refused(tmp_path, layout, change, named):
    path = tmp_path / "weights.pth"
    torch.save(change(pack(draw(LAYOUTS[layout][0]), layout)), path)
    assert named in refusal(path, num_attention_heads=HEADS if layout == "softmax" else None)


def test_number_of_mutations():
    assert len(MUTATIONS) == len(list(mutations())) >= 50


@pytest.mark.parametrize("layout", LAYOUTS)
def test_file_without_mutation_is_accepted(tmp_path, layout):
    path = tmp_path / "weights.pth"
    torch.save(pack(draw(LAYOUTS[layout][0]), layout), path)
    convert_authors_checkpoint(path, architecture="vit", num_attention_heads=HEADS if layout == "softmax" else None)


def test_all_problems_are_listed(tmp_path):
    state = pack(draw("dna"), "packed")
    for key in ("cls_token", "norm.weight", "blocks.0.norm1.bias", "blocks.1.attn.qqkvv.weight", "head.bias"):
        del state[key]
    state |= {"extra": torch.ones(1), "another": torch.ones(1)}
    state["blocks.0.attn.proj.bias"][0] = math.nan
    state["blocks.0.norm2.bias"] = torch.ones(WIDTH + 1)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ConversionError, match="and 4 more") as caught:
        load_authors_checkpoint(tmp_path / "weights.pth", architecture="vit")
    assert len(caught.value.problems) == 9


def test_missing_layer_between_layers(tmp_path):
    state = without_block(1)(pack(draw("dna", layers=3), "packed"))
    torch.save(state, tmp_path / "weights.pth")
    text = refusal(tmp_path / "weights.pth")
    assert all(f"'{key}' is unexpected" in text for key in state if key.startswith("blocks.2."))


# --- arguments


def test_vit_is_no_viscop(tmp_path):
    path = write(tmp_path / "weights.pth", pack(draw("dna"), "packed"))
    with pytest.raises(ConversionError, match="no vision encoder of the authors' VisCoP.*visual_probes' is missing"):
        load_authors_checkpoint(path, architecture="viscop")


@pytest.mark.parametrize("architecture", ["", "ViT", "vit_base", "dna", None, 3])
def test_unknown_architecture(tmp_path, architecture):
    path = write(tmp_path / "weights.pth", pack(draw("dna"), "packed"))
    with pytest.raises(ConversionError, match="unknown architecture.*vit"):
        load_authors_checkpoint(path, architecture=architecture)


def test_architecture_is_required(tmp_path):
    with pytest.raises(TypeError, match="architecture"):
        load_authors_checkpoint(write(tmp_path / "weights.pth", pack(draw("dna"), "packed")))


def test_number_of_heads_of_softmax(tmp_path):
    path = write(tmp_path / "weights.pth", pack(draw("softmax"), "softmax"))
    assert "num_attention_heads" in refusal(path)
    assert "heads" in refusal(path, num_attention_heads=5)
    assert "heads" in refusal(path, num_attention_heads=0)
    assert "heads" in refusal(path, num_attention_heads=-4)
    other = evaluate(load(path, num_attention_heads=2 * HEADS))
    assert (other - evaluate(load(path))).abs().max() > 1e-3


@pytest.mark.parametrize("layout", DNA_LAYOUTS)
def test_number_of_heads_is_read(tmp_path, layout):
    path = write(tmp_path / "weights.pth", pack(draw(LAYOUTS[layout][0]), layout))
    assert load(path).config.num_attention_heads == HEADS
    assert load(path, num_attention_heads=HEADS).config.num_attention_heads == HEADS
    for heads in (2, 8):
        text = refusal(path, num_attention_heads=heads)
        assert "num_attention_heads" in text and str(HEADS) in text and str(heads) in text
    assert "num_attention_heads must be at least 1, got 0" in refusal(path, num_attention_heads=0)


# --- the account


@pytest.mark.parametrize("head", [True, False], ids=["head", "no head"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_report_accounts_for_every_tensor(tmp_path, layout, head):
    state = pack(draw(LAYOUTS[layout][0], head), layout)
    path = write(tmp_path / "weights.safetensors", state)
    model, report = convert(path)
    assert report.source == str(path)
    assert sorted(record.source for record in report.records) == sorted(state)
    targets = [target for record in report.records for target in record.targets]
    assert sorted(targets) == sorted(model.state_dict())
    for record in report.records:
        assert record.action == ("split" if len(record.targets) > 1 else "copied")
    assert report.max_difference < 1e-10
    assert report.compared


@pytest.mark.parametrize("sign", [1, -1])
def test_saved_folder(tmp_path, sign):
    parts = draw("dna", dtype=torch.float32)
    content = training_checkpoint(pack(parts, "split"))
    torch.save(content, tmp_path / "checkpoint.pth")
    conversion = convert_authors_checkpoint(tmp_path / "checkpoint.pth", architecture="vit", negative_sign=sign)
    folder = tmp_path / "saved"
    conversion.save_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert_same(model.state_dict(), conversion.model.state_dict())
    assert_close(evaluate(model.double()), oracle(parts, "dna", images(), sign))

    account = json.loads((folder / "conversion.json").read_text())
    assert account == json.loads(json.dumps(conversion.report.to_dict()))
    assert {entry["source"] for entry in account["tensors"]} == content["model"].keys()
    assert any("optimizer" in note for note in account["notes"])

    size = GRID * PATCH
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    assert settings["size"] == {"shortest_edge": int(size / 0.875)}
    assert settings["crop_size"] == {"height": size, "width": size}
    assert settings["image_mean"] == [0.485, 0.456, 0.406]
    assert settings["image_std"] == [0.229, 0.224, 0.225]
    assert settings["resample"] == 3


@pytest.mark.auto_image_processor
def test_saved_folder_without_head(tmp_path):
    conversion = convert(write(tmp_path / "weights.pth", pack(draw("softmax", head=False), "softmax")))
    conversion.save_pretrained(tmp_path / "saved")
    model = AutoModel.from_pretrained(tmp_path / "saved", dtype=torch.float64)
    assert type(model) is DnAViTModel
    assert_same(model.state_dict(), conversion.model.state_dict())
    assert AutoImageProcessor.from_pretrained(tmp_path / "saved", backend="pil") is not None


# --- the check of a conversion by itself


@pytest.mark.parametrize("layout", LAYOUTS)
def test_wrong_order_of_rows_is_noticed(tmp_path, monkeypatch, layout):
    path = write(tmp_path / "weights.pth", pack(draw(LAYOUTS[layout][0]), layout))
    load(path)
    (packed, projections), *others = authors.ROWS[layout].items()
    for first in range(len(projections) - 1):
        order = list(projections)
        order[first], order[first + 1] = order[first + 1], order[first]
        monkeypatch.setitem(authors.ROWS, layout, {packed: tuple(order)} | dict(others))
        with pytest.raises(ConversionError, match="differs"):
            load(path)


@pytest.mark.parametrize("layout", DNA_LAYOUTS)
def test_wrong_sign_is_noticed(tmp_path, monkeypatch, layout):
    path = write(tmp_path / "weights.pth", pack(draw(LAYOUTS[layout][0]), layout))
    monkeypatch.setattr(authors.torch, "neg", lambda tensor: tensor)
    with pytest.raises(ConversionError, match="differs"):
        load(path, negative_sign=-1)
