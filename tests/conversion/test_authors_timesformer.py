"""TimeSformer checkpoints of the authors' code: every layout and attention type, in and out."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from dna_hf.conversion import (
    ConversionError,
    authors,
    convert_authors_checkpoint,
    export_authors_checkpoint,
    load_authors_checkpoint,
)
from dna_hf.models import DnATimesformerForVideoClassification, DnATimesformerModel, DnAViTConfig, DnAViTModel
from tests.kit.authors import LAYOUTS
from tests.reference import ReferenceTimesformer


# what is in other people's files does not depend on the version of transformers
pytestmark = pytest.mark.once

WIDTH, LAYERS, HEADS, CLASSES, PATCH, GRID, FRAMES = 16, 2, 4, 3, 4, 2, 3
TYPES = ["divided_space_time", "joint_space_time", "space_only"]
# the authors' names of what is not a projection of queries, keys and values
NAMES = {
    "layernorm_before": "norm1",
    "attention.o_proj": "attn.proj",
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "temporal_layernorm": "temporal_norm1",
    "temporal_attention.o_proj": "temporal_attn.proj",
    "temporal_dense": "temporal_fc",
}
ATTENTIONS = {"attention": "attn", "temporal_attention": "temporal_attn"}


def draw(layout, attention_type, head=True, bias=True, dtype=torch.float64):
    """Random weights under the names of the reference implementation, and the same as the authors' file has them."""
    generator = torch.Generator().manual_seed(0)
    packing = LAYOUTS[layout][1]
    parts, state = {}, {}

    def random(name, authors_name, *shape):
        parts[name] = torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.4).to(dtype)
        if authors_name:
            state[authors_name] = parts[name]

    def linear(name, authors_name, rows, columns, bias=True):
        random(f"{name}.weight", authors_name and f"{authors_name}.weight", rows, columns)
        if bias:
            random(f"{name}.bias", authors_name and f"{authors_name}.bias", rows)

    random("embeddings.cls_token", "cls_token", 1, 1, WIDTH)
    random("embeddings.position_embeddings", "pos_embed", 1, 1 + GRID**2, WIDTH)
    if attention_type != "space_only":
        random("embeddings.time_embeddings", "time_embed", 1, FRAMES, WIDTH)
    random("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH)
    random("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias", WIDTH)
    divided = attention_type == "divided_space_time"
    for index in range(LAYERS):
        layer, block = f"layers.{index}", f"blocks.{index}"
        for name, authors_name in NAMES.items():
            if name.startswith("temporal") and not divided:
                continue
            places = (f"{layer}.{name}", f"{block}.{authors_name}")
            if "norm" in name:
                random(f"{places[0]}.weight", f"{places[1]}.weight", WIDTH)
                random(f"{places[0]}.bias", f"{places[1]}.bias", WIDTH)
            else:
                shape = {"mlp.fc1": (2 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 2 * WIDTH)}.get(name, (WIDTH, WIDTH))
                linear(*places, *shape)
        for name, authors_name in list(ATTENTIONS.items())[: 2 if divided else 1]:
            for projection in {projection for rows in packing.values() for projection in rows}:
                linear(f"{layer}.{name}.{projection}_proj", None, WIDTH, WIDTH, bias)
            if layout != "softmax":
                random(f"{layer}.{name}.negative_scale", f"{block}.{authors_name}.neg_scalers", HEADS)
            for packed, rows in packing.items():
                for kind in ("weight", "bias") if bias else ("weight",):
                    tensors = [parts[f"{layer}.{name}.{projection}_proj.{kind}"] for projection in rows]
                    state[f"{block}.{authors_name}.{packed}.{kind}"] = torch.cat(tensors)
    random("layernorm.weight", "norm.weight", WIDTH)
    random("layernorm.bias", "norm.bias", WIDTH)
    if head:
        linear("classifier", "head", CLASSES, WIDTH)
    return parts, state


def video(frames=FRAMES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, frames, 3, GRID * PATCH, GRID * PATCH, generator=generator, dtype=torch.float64).to(dtype)


def oracle(parts, variant, attention_type, pixels, sign=1):
    """Logits, or the normalised class token where there is no head."""
    parts = {name: tensor.double() for name, tensor in parts.items()}
    parts |= {name: sign * tensor for name, tensor in parts.items() if name.endswith("negative_scale")}
    model = ReferenceTimesformer([variant] * LAYERS, attention_type, parts, HEADS, PATCH, (GRID, GRID))
    tokens = torch.stack([token for token, _ in model(pixels)])
    return tokens @ parts["classifier.weight"].T + parts["classifier.bias"] if "classifier.weight" in parts else tokens


@torch.no_grad()
def evaluate(model, pixels):
    output = model(pixels)
    return output.logits if isinstance(model, DnATimesformerForVideoClassification) else output.pooler_output


def assert_close(actual, expected, tolerance=1e-10):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


def write(path, state, wrapped=True):
    """A file as the authors' program writes it: `.pyth` with a prefix before every name, or tensors alone."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)
    elif wrapped:
        content = {"epoch": 14, "model_state": {f"model.{name}": tensor for name, tensor in state.items()}, "cfg": "x"}
        torch.save(content, path)
    else:
        torch.save(state, path)
    return path


def convert(path, layout="split", **options):
    if layout == "softmax":
        options = {"num_attention_heads": HEADS} | options
    return convert_authors_checkpoint(path, architecture="timesformer", **options)


def refusal(path, layout="split", **options):
    with pytest.raises(ConversionError) as caught:
        convert(path, layout, **options)
    assert len(str(caught.value).splitlines()) == 1
    return " ".join([str(caught.value), *caught.value.problems])


@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
class TestEveryLayout:
    @pytest.mark.parametrize("head", [True, False], ids=["head", "no head"])
    def test_output_and_account(self, tmp_path, layout, attention_type, head):
        variant = LAYOUTS[layout][0]
        parts, state = draw(layout, attention_type, head)
        model, report = convert(write(tmp_path / "weights.pyth", state), layout)
        assert type(model) is (DnATimesformerForVideoClassification if head else DnATimesformerModel)
        assert not model.training
        assert (model.config.attention_variant, model.config.attention_type) == (variant, attention_type)
        if attention_type != "space_only":
            assert model.config.num_frames == FRAMES
        assert_close(evaluate(model, video()), oracle(parts, variant, attention_type, video()))
        assert report.family == "authors-timesformer" and report.max_difference < 1e-10
        assert sorted(record.source for record in report.records) == sorted(state)
        targets = [target for record in report.records for target in record.targets]
        assert sorted(targets) == sorted(model.state_dict())
        notes = " ".join(report.notes)
        assert "epoch" in notes and "cfg" in notes and report.image_processor is None
        assert report.video_processor.sampling == "released"

    @pytest.mark.parametrize("suffix", [".pyth", ".pth", ".safetensors"])
    def test_export_inverts_load(self, tmp_path, layout, attention_type, suffix):
        _, state = draw(layout, attention_type, head=suffix != ".pth", dtype=torch.float32)
        model = convert(write(tmp_path / f"weights{suffix}", state), layout).model
        path = tmp_path / f"exported{suffix}"
        options = {} if layout == "softmax" else {"layout": layout.removesuffix("_shared")}
        export_authors_checkpoint(model, path, architecture="timesformer", **options)
        content = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
        if suffix == ".pyth":
            content = {name.removeprefix("model."): tensor for name, tensor in content["model_state"].items()}
        assert_same(content.get("model", content), state)
        assert_same(convert(path, layout).model.state_dict(), model.state_dict())

    def test_without_bias(self, tmp_path, layout, attention_type):
        parts, state = draw(layout, attention_type, bias=False)
        model = convert(write(tmp_path / "weights.pth", state, wrapped=False), layout).model
        assert model.config.qkv_bias is False
        assert_close(evaluate(model, video()), oracle(parts, LAYOUTS[layout][0], attention_type, video()))

    def test_sign(self, tmp_path, layout, attention_type):
        parts, state = draw(layout, attention_type)
        path = write(tmp_path / "weights.pyth", state)
        added, subtracted = (oracle(parts, LAYOUTS[layout][0], attention_type, video(), sign) for sign in (1, -1))
        assert_close(evaluate(convert(path, layout).model, video()), added)
        assert_close(evaluate(convert(path, layout, negative_sign=-1).model, video()), subtracted)
        assert layout == "softmax" or (added - subtracted).abs().max() > 1e-3

    def test_wrong_order_of_rows_is_noticed(self, tmp_path, monkeypatch, layout, attention_type):
        _, state = draw(layout, attention_type)
        path = write(tmp_path / "weights.pyth", state)
        (packed, (first, second, *others)), *rest = authors.ROWS[layout].items()
        monkeypatch.setitem(authors.ROWS, layout, {packed: (second, first, *others)} | dict(rest))
        assert "differs" in refusal(path, layout)


def test_default_layout_of_export_is_that_of_the_program(tmp_path):
    _, state = draw("packed", "divided_space_time")
    model = convert(write(tmp_path / "weights.pyth", state)).model
    export_authors_checkpoint(model, tmp_path / "exported.pyth", architecture="timesformer")
    assert "model.blocks.0.temporal_attn.q_neg.weight" in torch.load(tmp_path / "exported.pyth")["model_state"]


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_other_numbers_of_frames(tmp_path, frames):
    parts, state = draw("split", "divided_space_time")
    model = convert(write(tmp_path / "weights.pyth", state)).model
    expected = oracle(parts, "dna", "divided_space_time", video(frames))
    # the model resamples times in float32
    assert_close(evaluate(model, video(frames)), expected, 1e-5)


def test_reference_vectors(golden):
    """The released model, evaluated in float64."""
    path = golden / "timesformer_dna_divided.weights.safetensors"
    expected = load_file(golden / "timesformer_dna_divided.io.safetensors")
    model = load_authors_checkpoint(path, architecture="timesformer").double()
    assert model.config.attention_type == "divided_space_time"
    pixels = expected["input_bcthw"].transpose(1, 2)
    with torch.no_grad():
        assert_close(model(pixels).logits, expected["logits"])
        assert_close(model.dna_timesformer(pixels).pooler_output, expected["features"])


# --- the attention type


@pytest.mark.parametrize("given", TYPES)
@pytest.mark.parametrize("found", TYPES)
def test_attention_type_is_checked_against_the_tensors(tmp_path, found, given):
    _, state = draw("split", found)
    path = write(tmp_path / "weights.pyth", state)
    if given == found:
        assert convert(path, attention_type=given).model.config.attention_type == given
        return
    text = refusal(path, attention_type=given)
    times = {found, given} & {"divided_space_time", "joint_space_time"}
    assert "temporal_" in text if len(times) == 2 or found == "divided_space_time" else "time_embed" in text


def test_unknown_attention_type(tmp_path):
    _, state = draw("split", "divided_space_time")
    assert "attention_type" in refusal(write(tmp_path / "weights.pyth", state), attention_type="divided")
    with pytest.raises(ConversionError, match="attention_type .* does not apply"):
        load_authors_checkpoint("x.pth", architecture="vit", attention_type="space_only")


# --- files that are not what they should be


def without(name):
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


def changed(name, change):
    return lambda state: state | {name: change(state[name])}


def added(name, *shape):
    return lambda state: state | {name: torch.ones(shape, dtype=torch.float64)}


def poisoned(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[-1] = math.nan
    return tensor


MUTATIONS = {f"without {name}": (without(name), name) for name in draw("split", "divided_space_time")[1]}
for key in (
    "cls_token",
    "pos_embed",
    "time_embed",
    "blocks.1.temporal_attn.qkv.weight",
    "blocks.1.temporal_attn.q_neg.bias",
    "blocks.0.temporal_attn.neg_scalers",
    "blocks.0.temporal_norm1.weight",
    "blocks.1.temporal_fc.weight",
):
    MUTATIONS |= {
        f"{key} cut": (changed(key, lambda tensor: tensor[..., :-1]), key),
        f"{key} with nan": (changed(key, poisoned), key),
        f"{key} of integers": (changed(key, lambda tensor: tensor.long()), key),
        f"{key} empty": (changed(key, lambda tensor: tensor[:0]), key),
        f"{key} with a dimension more": (changed(key, lambda tensor: tensor.unsqueeze(0)), key),
    }
for key, shape in {
    "blocks.0.temporal_temporal_attn.qkv.weight": (3 * WIDTH, WIDTH),  # left by the released loader
    "blocks.1.temporal_attn.qqkvv.weight": (5 * WIDTH, WIDTH),
    "blocks.5.temporal_norm1.weight": (WIDTH,),
    "dist_token": (1, 1, WIDTH),
    "temporal_fc.weight": (WIDTH, WIDTH),
}.items():
    MUTATIONS[f"with {key}"] = (added(key, *shape), key)
MUTATIONS["no row for the class token"] = (changed("pos_embed", lambda tensor: tensor[:, 1:]), "pos_embed")


@pytest.mark.parametrize(("change", "named"), MUTATIONS.values(), ids=MUTATIONS)
def test_mutated_file_is_refused(tmp_path, change, named):
    state = change(draw("split", "divided_space_time")[1])
    assert named in refusal(write(tmp_path / "weights.pyth", state))


def test_all_problems_are_listed(tmp_path):
    _, state = draw("split", "divided_space_time")
    del state["blocks.0.temporal_fc.bias"], state["norm.weight"]
    state |= {"extra": torch.ones(1), "blocks.1.temporal_attn.proj.bias": torch.ones(WIDTH + 1)}
    state["blocks.0.temporal_norm1.bias"] = poisoned(state["blocks.0.temporal_norm1.bias"])
    with pytest.raises(ConversionError) as caught:
        convert(write(tmp_path / "weights.pyth", state))
    assert len(caught.value.problems) == 5


def test_vit_and_timesformer_are_told_apart(tmp_path):
    _, state = draw("split", "divided_space_time")
    path = write(tmp_path / "weights.pyth", state)
    with pytest.raises(ConversionError, match="pos_embed"):
        convert_authors_checkpoint(path, architecture="vit")
    sizes = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 1}
    vit = DnAViTModel(DnAViTConfig(**sizes, intermediate_size=16))
    export_authors_checkpoint(vit, tmp_path / "vit.pth")
    assert "time_embed" in refusal(tmp_path / "vit.pth", attention_type="divided_space_time")
    assert "pos_embed" in refusal(tmp_path / "vit.pth")
    with pytest.raises(ConversionError, match="only DnATimesformerModel"):
        export_authors_checkpoint(vit, tmp_path / "other.pyth", architecture="timesformer")


def test_number_of_heads(tmp_path):
    path = write(tmp_path / "softmax.pyth", draw("softmax", "divided_space_time")[1])
    assert "num_attention_heads" in refusal(path)
    path = write(tmp_path / "dna.pyth", draw("split", "divided_space_time")[1])
    assert "num_attention_heads" in refusal(path, num_attention_heads=2)
