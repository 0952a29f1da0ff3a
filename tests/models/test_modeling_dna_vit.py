"""The DnA vision transformer: reference vectors, sizes, outputs, loading and saving, compilation, training."""

import json
import logging
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging as transformers_logging

from dna_hf.models import (
    DnAViTBackbone,
    DnAViTConfig,
    DnAViTForImageClassification,
    DnAViTForMaskedImageModeling,
    DnAViTModel,
)
from dna_hf.models.layers_dna import DnADropPath
from dna_hf.models.modeling_dna_vit import DnAViTLayer, DnAViTLayerScale
from tests.kit.models import moved


VARIANTS = ("dna", "dna_shared_value", "softmax", "differential", "cog")
TWO_MAPS = ("dna", "dna_shared_value", "differential")
LAYERS, HEADS, TOKENS = 3, 4, 17  # a 4 x 4 grid of patches and a class token


def tiny_config(**overrides):
    sizes = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 64,
        "num_labels": 5,
        "cog_softmax_layers": [0],
    }
    return DnAViTConfig(**sizes | overrides)


def tiny_model(model_class=DnAViTForImageClassification, seed=0, **overrides):
    """A small model in evaluation mode, with every parameter moved from its initial value."""
    torch.manual_seed(seed)
    return moved(model_class(tiny_config(**overrides)))


def images(batch=2, height=32, width=32, channels=3, seed=1):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run(model, *args, **kwargs):
    return model(*args, **kwargs)


def assert_same_weights(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


# --- reference vectors and sizes


def from_original(weights):
    """Weights of the original ViT under the names used here; rows of a packed projection are q+, q-, k, v+, v-."""
    mapped = {
        "dna_vit.embeddings.cls_token": weights["cls_token"],
        "dna_vit.embeddings.position_embeddings": weights["pos_embed"],
    }
    for kind in ("weight", "bias"):
        mapped[f"dna_vit.embeddings.patch_embeddings.projection.{kind}"] = weights[f"patch_embed.proj.{kind}"]
        mapped[f"dna_vit.layernorm.{kind}"] = weights[f"norm.{kind}"]
        mapped[f"classifier.{kind}"] = weights[f"head.{kind}"]
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for index in range(depth):
        source, target = f"blocks.{index}", f"dna_vit.layers.{index}"
        mapped[f"{target}.attention.negative_scale"] = weights[f"{source}.attn.neg_scalers"]
        for kind in ("weight", "bias"):
            packed = weights[f"{source}.attn.qqkvv.{kind}"].chunk(5)
            for name, rows in zip(("q_pos", "q_neg", "k", "v_pos", "v_neg"), packed, strict=True):
                mapped[f"{target}.attention.{name}_proj.{kind}"] = rows
            mapped[f"{target}.attention.o_proj.{kind}"] = weights[f"{source}.attn.proj.{kind}"]
            mapped[f"{target}.layernorm_before.{kind}"] = weights[f"{source}.norm1.{kind}"]
            mapped[f"{target}.layernorm_after.{kind}"] = weights[f"{source}.norm2.{kind}"]
            mapped[f"{target}.mlp.fc1.{kind}"] = weights[f"{source}.mlp.fc1.{kind}"]
            mapped[f"{target}.mlp.fc2.{kind}"] = weights[f"{source}.mlp.fc2.{kind}"]
    return mapped


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_golden_vectors_of_the_original_vit(golden, implementation):
    weights = load_file(golden / "vit_dna_plus.weights.safetensors")
    tensors = load_file(golden / "vit_dna_plus.io.safetensors")
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = DnAViTConfig(**sizes, intermediate_size=256, num_labels=10, attn_implementation=implementation)
    model = DnAViTForImageClassification(config).double().eval()
    model.load_state_dict(from_original(weights))
    features = run(model.dna_vit, tensors["input"]).pooler_output
    torch.testing.assert_close(features, tensors["features"], rtol=0, atol=1e-10)
    torch.testing.assert_close(run(model, tensors["input"]).logits, tensors["logits"], rtol=0, atol=1e-10)


def vit_base(variant):
    """ViT-B/16 at 224 pixels with 1000 classes, without memory for its weights."""
    config = DnAViTConfig(attention_variant=variant, num_labels=1000, attn_implementation="eager")
    with torch.device("meta"):
        return DnAViTForImageClassification(config).eval()


@pytest.mark.parametrize(
    ("variant", "expected"), [("softmax", 86_566_888), ("dna", 100_741_240), ("dna_shared_value", 93_654_136)]
)
def test_number_of_parameters(variant, expected):
    assert vit_base(variant).num_parameters() == expected


@pytest.mark.parametrize("variant", ["differential", "cog"])
def test_baselines_have_as_many_parameters_as_softmax_attention(variant):
    assert vit_base(variant).num_parameters() == pytest.approx(86_566_888, rel=1e-3)


@pytest.mark.parametrize(("variant", "expected"), [("softmax", 17.56e9), ("dna", 21.07e9)])
def test_number_of_multiplications(variant, expected):
    with FlopCounterMode(display=False) as counter:
        run(vit_base(variant), torch.empty(1, 3, 224, 224, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(expected, rel=5e-3)


# --- initial values and loading


def test_initial_values():
    torch.manual_seed(0)
    config = tiny_config(hidden_size=192, layer_scale_init_value=1e-3, negative_scale_init=0.25)
    model = DnAViTForMaskedImageModeling(config).dna_vit
    layer = model.layers[1]
    assert layer.attention.negative_scale.tolist() == [0.25] * HEADS
    assert (layer.layer_scale_mlp.scale == 1e-3).all()
    for tensor in (
        model.embeddings.position_embeddings,
        model.embeddings.cls_token,
        layer.attention.q_neg_proj.weight,
    ):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.15)
        assert abs(tensor.mean().item()) < 5e-3
    assert (layer.mlp.fc1.bias == 0).all()
    assert (model.embeddings.mask_token == 0).all()
    # as torch initialises a convolution: uniform within 1 / sqrt(fan in)
    bound = (3 * 8 * 8) ** -0.5
    projection = model.embeddings.patch_embeddings.projection
    assert 0.9 * bound < projection.bias.abs().max() <= bound
    assert projection.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def save_without(model, folder, *parts):
    """Save a model less the weights whose names contain one of `parts`; returns their names."""
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    removed = {name for name in weights if any(part in name for part in parts)}
    kept = {name: tensor for name, tensor in weights.items() if name not in removed}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return removed


def test_weights_missing_from_a_checkpoint_are_initialised_and_reported(tmp_path):
    missing = ("negative_scale", "cls_token", "position_embeddings", "mask_token", "layer_scale")
    # wide, so that the deviation of the class token can be told from its values
    saved = tiny_model(DnAViTForMaskedImageModeling, hidden_size=192, layer_scale_init_value=0.1)
    removed = save_without(saved, tmp_path, *missing)
    assert len(removed) == LAYERS * 3 + 3
    model, report = DnAViTForMaskedImageModeling.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == removed
    assert not report["unexpected_keys"]
    for layer in model.dna_vit.layers:
        assert layer.attention.negative_scale.tolist() == [0.5] * HEADS
        assert (layer.layer_scale_attention.scale == 0.1).all()
    embeddings = model.dna_vit.embeddings
    assert embeddings.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert embeddings.position_embeddings.std().item() == pytest.approx(0.02, rel=0.1)
    assert (embeddings.mask_token == 0).all()
    loaded = model.state_dict()
    for name, tensor in saved.state_dict().items():
        assert name in removed or torch.equal(loaded[name], tensor)


def test_one_missing_scale_leaves_the_others_as_saved(tmp_path):
    saved = tiny_model()
    save_without(saved, tmp_path, "layers.1.attention.negative_scale")
    model = DnAViTForImageClassification.from_pretrained(tmp_path)
    scales = [layer.attention.negative_scale for layer in model.dna_vit.layers]
    assert scales[1].tolist() == [0.5] * HEADS
    for index in (0, 2):
        assert torch.equal(scales[index], saved.dna_vit.layers[index].attention.negative_scale)


def test_lambda_vectors_missing_from_a_checkpoint_are_initialised(tmp_path):
    removed = save_without(
        tiny_model(attention_variant="differential", hidden_size=256), tmp_path, "lambda_", "head_norm"
    )
    model, report = DnAViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == removed
    vectors = torch.cat([tensor for name, tensor in model.named_parameters() if "lambda_" in name])
    assert vectors.std().item() == pytest.approx(0.1, rel=0.2)
    assert all((layer.attention.head_norm.weight == 1).all() for layer in model.dna_vit.layers)


def test_base_weights_load_into_a_head_and_back(tmp_path):
    base = tiny_model(DnAViTModel)
    base.save_pretrained(tmp_path / "base")
    head, report = DnAViTForImageClassification.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not report["unexpected_keys"]
    assert_same_weights(head.dna_vit.state_dict(), base.state_dict())

    head = tiny_model(DnAViTForImageClassification, seed=3)
    head.save_pretrained(tmp_path / "head")
    base, report = DnAViTModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not report["missing_keys"]
    assert set(report["unexpected_keys"]) == {"classifier.weight", "classifier.bias"}
    assert_same_weights(base.state_dict(), head.dna_vit.state_dict())
    backbone = DnAViTBackbone.from_pretrained(tmp_path / "head")
    assert_same_weights(backbone.dna_vit.state_dict(), head.dna_vit.state_dict())


def test_pretrained_masked_image_model_becomes_a_classifier(tmp_path):
    pretrained = tiny_model(DnAViTForMaskedImageModeling)
    pretrained.save_pretrained(tmp_path)
    model, report = DnAViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    weights = pretrained.dna_vit.state_dict()
    del weights["embeddings.mask_token"]
    assert_same_weights(model.dna_vit.state_dict(), weights)


def test_sharded_checkpoint_loads_bit_for_bit(tmp_path):
    model = tiny_model(hidden_size=64, intermediate_size=128)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    loaded = DnAViTForImageClassification.from_pretrained(tmp_path)
    assert_same_weights(loaded.state_dict(), model.state_dict())
    assert torch.equal(run(loaded, images()).logits, run(model, images()).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision(tmp_path, variant, dtype):
    saved = tiny_model(attention_variant=variant)
    saved.save_pretrained(tmp_path)
    model = DnAViTForImageClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    # float32 images, as processors give them
    logits = run(model, images()).logits
    assert logits.dtype == dtype
    expected = run(saved, images()).logits
    error = (logits.float() - expected).norm() / expected.norm()
    if variant == "cog":
        assert error < 0.1  # its output jumps where rounding turns the sign of a score
    else:
        assert error < (0.03 if dtype == torch.bfloat16 else 0.004)


def test_device_map(tmp_path):
    pytest.importorskip("accelerate")
    saved = tiny_model()
    saved.save_pretrained(tmp_path)
    model = DnAViTForImageClassification.from_pretrained(tmp_path, device_map="cpu")
    assert torch.equal(run(model, images()).logits, run(saved, images()).logits)


# --- outputs


@pytest.mark.parametrize("where", ["call", "config"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_attention_maps(variant, where):
    config = {"output_attentions": True} if where == "config" else {}
    call = {"output_attentions": True} if where == "call" else {}
    for model_class in (DnAViTModel, DnAViTForImageClassification, DnAViTForMaskedImageModeling, DnAViTBackbone):
        model = tiny_model(model_class, attention_variant=variant, attn_implementation="eager", **config)
        output = run(model, images(), **call)
        maps = {"attentions": output.attentions}
        if variant in TWO_MAPS:
            maps["negative_attentions"] = output.negative_attentions
        else:
            assert output.negative_attentions is None
        for kind in maps.values():
            assert len(kind) == LAYERS
            for weights in kind:
                assert weights.shape == (2, HEADS, TOKENS, TOKENS)
                sums = weights.abs().sum(dim=-1)
                torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-5, atol=0)
        if variant in TWO_MAPS:
            assert not torch.allclose(output.attentions[0], output.negative_attentions[0])


def test_no_maps_unless_asked():
    for config, call in (({}, {}), ({"output_attentions": True}, {"output_attentions": False})):
        output = run(tiny_model(attn_implementation="eager", **config), images(), **call)
        assert output.attentions is None
        assert output.negative_attentions is None
        assert output.hidden_states is None


def test_tuple_output_contains_both_maps():
    model = tiny_model(attn_implementation="eager")
    output = run(model, images(), output_attentions=True)
    logits, attentions, negative_attentions = run(model, images(), output_attentions=True, return_dict=False)
    assert torch.equal(logits, output.logits)
    for actual, expected in ((attentions, output.attentions), (negative_attentions, output.negative_attentions)):
        assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_maps_are_those_of_eager(variant):
    model = tiny_model(attention_variant=variant, attn_implementation="sdpa")
    maps = model.attention_maps(pixel_values=images())
    chosen = model.attention_maps(layers=[2, -3], pixel_values=images())
    assert model.config._attn_implementation == "sdpa"
    assert run(model, images()).attentions is None

    model.set_attn_implementation("eager")
    expected = run(model, images(), output_attentions=True)
    pairs = [(maps.positive, expected.attentions, chosen.positive)]
    if variant in TWO_MAPS:
        pairs.append((maps.negative, expected.negative_attentions, chosen.negative))
    else:
        assert maps.negative == chosen.negative == ()
    for all_layers, eager, some in pairs:
        assert len(all_layers) == LAYERS
        for actual, reference in zip(all_layers, eager, strict=True):
            torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-6)
        # in the order of the layers, whatever the order asked for
        assert torch.equal(torch.stack(some), torch.stack([all_layers[0], all_layers[2]]))


def test_attention_maps_under_a_padding_mask():
    model = tiny_model(attn_implementation="sdpa")
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[1, -5:] = 0
    maps = model.attention_maps(pixel_values=images(), attention_mask=mask)
    for weights in maps.positive + maps.negative:
        assert (weights[1, :, :, -5:] == 0).all()
        assert (weights[0] > 0).all()


@pytest.mark.parametrize("layers", [[3], [0, -4]], ids=str)
def test_attention_maps_of_a_layer_that_does_not_exist(layers):
    with pytest.raises(ValueError, match="are not all among the 3 attention modules"):
        tiny_model().attention_maps(layers=layers, pixel_values=images())


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states(variant):
    model = tiny_model(DnAViTModel, attention_variant=variant)
    output = run(model, images(), output_hidden_states=True)
    assert len(output.hidden_states) == LAYERS + 1
    assert all(states.shape == (2, TOKENS, 32) for states in output.hidden_states)
    assert torch.equal(output.hidden_states[0], run(model.embeddings, images()))
    assert torch.equal(run(model.layernorm, output.hidden_states[-1]), output.last_hidden_state)
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])


def test_classification_loss():
    model, labels = tiny_model(), torch.tensor([3, 0])
    output = run(model, images(), labels=labels)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))
    headless = tiny_model(num_labels=0)
    features = run(headless.dna_vit, images()).pooler_output
    assert torch.equal(run(headless, images()).logits, features)


@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_implementations_agree(variant):
    model = tiny_model(attention_variant=variant, attn_implementation="eager")
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[1, 4:9] = 0
    for attention_mask in (None, mask):
        model.set_attn_implementation("eager")
        expected = run(model, images(), attention_mask=attention_mask).logits
        model.set_attn_implementation("sdpa")
        assert model.dna_vit.layers[0].attention.config._attn_implementation == "sdpa"
        logits = run(model, images(), attention_mask=attention_mask).logits
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


# every variant compiles its own kernels: the variant of most interest, with a mask, which flex turns into a block mask
def test_flex_attention_agrees():
    model = tiny_model(num_hidden_layers=1, attn_implementation="flex_attention")
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[1, 4:9] = 0
    logits = [run(model, images(), attention_mask=chosen).logits for chosen in (None, mask)]
    model.set_attn_implementation("eager")
    for actual, chosen in zip(logits, (None, mask), strict=True):
        expected = run(model, images(), attention_mask=chosen).logits
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_masked_tokens_have_no_influence():
    model = tiny_model()
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    mask[:, 1] = False  # the patch in the upper left corner
    changed = images()
    changed[..., :8, :8] += 10.0
    logits = run(model, images(), attention_mask=mask).logits
    assert torch.equal(run(model, changed, attention_mask=mask).logits, logits)
    assert not torch.allclose(run(model, changed).logits, run(model, images()).logits)


# --- images of other sizes


@pytest.mark.parametrize("class_position", [False, True], ids=["patches", "patches-and-class"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 40), (64, 24), (37, 18)])
def test_interpolated_positions(height, width, class_position):
    model = tiny_model(DnAViTModel, use_class_token_position=class_position)
    embeddings = model.embeddings
    pixels = images(height=height, width=width)
    actual = run(embeddings, pixels, interpolate_pos_encoding=True)
    rows, columns = height // 8, width // 8
    assert actual.shape == (2, 1 + rows * columns, 32)

    table = embeddings.position_embeddings.detach()
    assert table.shape[1] == 16 + class_position
    class_token = embeddings.cls_token.detach()[0, 0] + (table[0, 0] if class_position else 0)
    grid = table[0, int(class_position) :].reshape(4, 4, 32)
    weight, bias = embeddings.patch_embeddings.projection.weight, embeddings.patch_embeddings.projection.bias
    resized = nn.functional.interpolate(
        grid.permute(2, 0, 1)[None], size=(rows, columns), mode="bicubic", align_corners=False
    )
    for row in range(rows):
        for column in range(columns):
            patch = pixels[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            token = (patch.flatten(1) @ weight.flatten(1).T + bias).detach() + resized[0, :, row, column]
            torch.testing.assert_close(actual[:, 1 + row * columns + column], token, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(actual[:, 0], class_token.expand(2, -1))


@pytest.mark.parametrize("class_position", [False, True], ids=["patches", "patches-and-class"])
def test_interpolation_at_the_size_of_the_model_changes_nothing(class_position):
    model = tiny_model(use_class_token_position=class_position)
    assert torch.equal(run(model, images(), interpolate_pos_encoding=True).logits, run(model, images()).logits)


def test_rectangular_images_and_patches():
    model = tiny_model(image_size=[16, 40], patch_size=[8, 4], encoder_stride=8)
    assert model.config.grid_size == (2, 10)
    output = run(model, images(height=16, width=40), output_hidden_states=True)
    assert output.hidden_states[0].shape == (2, 21, 32)
    with pytest.raises(ValueError, match="40x16.*16x40"):
        run(model, images(height=40, width=16))


@pytest.mark.parametrize(("height", "width"), [(24, 32), (32, 40), (64, 16)])
def test_wrong_image_size_names_both_sizes(height, width):
    with pytest.raises(ValueError, match=f"{height}x{width}.*32x32"):
        run(tiny_model(), images(height=height, width=width))


@pytest.mark.parametrize("interpolate", [False, True], ids=["fixed", "interpolated"])
def test_wrong_number_of_channels_names_both_numbers(interpolate):
    with pytest.raises(ValueError, match="4 channels, but config.num_channels is 3"):
        run(tiny_model(), images(channels=4), interpolate_pos_encoding=interpolate)


# --- masked image modeling and backbone


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 24), (40, 8)])
def test_masked_image_modeling_loss(height, width):
    model = tiny_model(DnAViTForMaskedImageModeling)
    pixels, columns = images(height=height, width=width), width // 8
    masked = torch.rand(2, height * width // 64, generator=torch.Generator().manual_seed(2)) > 0.4
    output = run(model, pixels, bool_masked_pos=masked, interpolate_pos_encoding=True)
    assert output.reconstruction.shape == pixels.shape
    errors = []
    for sample, patch in masked.nonzero().tolist():
        top, left = 8 * (patch // columns), 8 * (patch % columns)
        window = (sample, slice(None), slice(top, top + 8), slice(left, left + 8))
        errors.append((pixels[window] - output.reconstruction[window]).abs().mean())
    torch.testing.assert_close(output.loss, torch.stack(errors).mean(), rtol=1e-5, atol=1e-6)


def test_masked_patches_are_hidden_from_the_model():
    model = tiny_model(DnAViTForMaskedImageModeling)
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[:, 5] = True  # second row, second column
    changed = images()
    changed[..., 8:16, 8:16] += 10.0
    reconstruction = run(model, images(), bool_masked_pos=masked).reconstruction
    assert torch.equal(run(model, changed, bool_masked_pos=masked).reconstruction, reconstruction)
    output = run(model, images())
    assert output.loss is None
    assert not torch.allclose(output.reconstruction, reconstruction)


def test_masked_loss_needs_a_reconstruction_of_the_size_of_the_image():
    model = tiny_model(DnAViTForMaskedImageModeling, encoder_stride=4)
    assert run(model, images()).reconstruction.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"encoder_stride \(4\) must equal patch_size \(8\)"):
        run(model, images(), bool_masked_pos=torch.ones(2, 16, dtype=torch.bool))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 40)])
@pytest.mark.parametrize("normed", [True, False], ids=["normed", "raw"])
def test_backbone_feature_maps(height, width, normed):
    model = tiny_model(DnAViTBackbone, out_features=["stem", "stage2", "stage3"], apply_layernorm=normed)
    assert model.channels == [32, 32, 32]
    output = run(model, images(height=height, width=width), interpolate_pos_encoding=True, output_hidden_states=True)
    assert len(output.feature_maps) == 3
    assert len(output.hidden_states) == LAYERS + 1
    for index, feature_map in zip((0, 2, 3), output.feature_maps, strict=True):
        assert feature_map.shape == (2, 32, height // 8, width // 8)
        states = output.hidden_states[index]
        states = run(model.dna_vit.layernorm, states) if normed else states
        for row in range(height // 8):
            for column in range(width // 8):
                token = states[:, 1 + row * (width // 8) + column]
                assert torch.equal(feature_map[:, :, row, column], token)


# --- what models converted from DeiT and DINOv2 need


@pytest.mark.parametrize("class_position", [False, True])
def test_distillation_token(class_position):
    model = tiny_model(
        use_distillation_token=True, use_class_token_position=class_position, classifier_pooling="cls_dist"
    )
    embeddings = model.dna_vit.embeddings
    assert embeddings.position_embeddings.shape[1] == TOKENS - 1 + 2 * class_position
    pixel_values = images()
    tokens = embeddings(pixel_values)
    assert tokens.shape[1] == TOKENS + 1
    position = embeddings.position_embeddings[0, 1] if class_position else 0
    torch.testing.assert_close(tokens[0, 1], embeddings.distillation_token[0, 0] + position)
    hidden = model.dna_vit(pixel_values).last_hidden_state
    expected = model.classifier(torch.cat((hidden[:, 0], hidden[:, 1]), dim=1))
    torch.testing.assert_close(model(pixel_values).logits, expected)
    model(pixel_values, labels=torch.tensor([0, 1])).loss.backward()
    assert embeddings.distillation_token.grad.abs().min() > 0


def test_distillation_token_is_no_patch():
    pixel_values = images()
    backbone = tiny_model(DnAViTBackbone, use_distillation_token=True)
    tokens = backbone.dna_vit(pixel_values).last_hidden_state
    (feature_map,) = backbone(pixel_values).feature_maps
    torch.testing.assert_close(feature_map.flatten(2).transpose(1, 2), tokens[:, 2:])
    masked = tiny_model(DnAViTForMaskedImageModeling, use_distillation_token=True)
    mask = torch.zeros(2, TOKENS - 1, dtype=torch.bool)
    assert masked(pixel_values, bool_masked_pos=mask).reconstruction.shape == pixel_values.shape


def test_classifier_reads_the_mean_of_the_patches():
    model = tiny_model(classifier_pooling="cls_mean", use_distillation_token=True)
    pixel_values = images()
    hidden = model.dna_vit(pixel_values).last_hidden_state
    expected = model.classifier(torch.cat((hidden[:, 0], hidden[:, 2:].mean(dim=1)), dim=1))
    torch.testing.assert_close(model(pixel_values).logits, expected)


def test_positions_are_interpolated_where_the_configuration_says_so():
    pixel_values = images(height=40, width=24)
    welcoming, strict = tiny_model(interpolate_pos_encoding=True), tiny_model()
    torch.testing.assert_close(
        welcoming(pixel_values).logits, strict(pixel_values, interpolate_pos_encoding=True).logits
    )
    with pytest.raises(ValueError, match="40x24"):
        welcoming(pixel_values, interpolate_pos_encoding=False)


def test_backbone_returns_the_last_stage_by_default_and_tokens_on_request():
    model = tiny_model(DnAViTBackbone, reshape_hidden_states=False)
    assert model.out_features == ["stage3"]
    output = run(model, images())
    assert output.hidden_states is None
    (tokens,) = output.feature_maps
    assert torch.equal(tokens, run(model.dna_vit, images()).last_hidden_state)
    by_index = tiny_model(DnAViTBackbone, out_indices=[1, -1])
    assert by_index.out_features == ["stage1", "stage3"]


# --- regularisation


@pytest.mark.parametrize(
    ("schedule", "expected"), [("constant", [0.3, 0.3, 0.3]), ("linear", [0.0, 0.15, 0.3])], ids=["constant", "linear"]
)
def test_drop_path_rates(schedule, expected):
    model = DnAViTModel(tiny_config(drop_path_rate=0.3, drop_path_schedule=schedule))
    assert [layer.drop_path.rate for layer in model.layers] == pytest.approx(expected)


def test_linear_drop_path_of_a_single_layer():
    model = DnAViTModel(tiny_config(num_hidden_layers=1, drop_path_rate=0.3, drop_path_schedule="linear"))
    assert model.layers[0].drop_path.rate == 0


def test_drop_path_drops_samples_and_keeps_the_expectation():
    torch.manual_seed(0)
    drop_path = DnADropPath(0.3).train()
    output = drop_path(torch.ones(20_000, 2, 3))
    per_sample = output.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    torch.testing.assert_close(output.unique(), torch.tensor([0.0, 1 / 0.7]))
    assert output.mean().item() == pytest.approx(1.0, abs=0.02)
    assert (output == 0).double().mean().item() == pytest.approx(0.3, abs=0.02)
    states = torch.randn(4, 2, 3)
    assert drop_path.eval()(states) is states
    assert DnADropPath(0.0).train()(states) is states


def test_drop_path_and_dropout_are_off_in_evaluation():
    rates = {"drop_path_rate": 0.5, "hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    model, plain = tiny_model(**rates), tiny_model()
    assert torch.equal(run(model, images()).logits, run(plain, images()).logits)
    model.train()
    assert not torch.allclose(run(model, images()).logits, run(plain, images()).logits)


def test_drop_path_acts_on_both_branches_of_a_layer():
    torch.manual_seed(0)
    layer = DnAViTLayer(tiny_config(drop_path_rate=0.5), 1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    states = torch.randn(1, 5, 32)
    with torch.no_grad():
        outputs = layer.train()(states.expand(64, -1, -1))
    # each branch is dropped or doubled: four outcomes, of which one is the identity
    outcomes = {tuple(output.flatten().mul(1e3).round().tolist()) for output in outputs}
    assert len(outcomes) == 4
    assert tuple(states.flatten().mul(1e3).round().tolist()) in outcomes


def test_layer_scale():
    model = tiny_model(DnAViTModel, layer_scale_init_value=0.1)
    layer = model.layers[0]
    states = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention, *_ = layer.attention(layer.layernorm_before(states))
        middle = states + layer.layer_scale_attention.scale * attention
        expected = middle + layer.layer_scale_mlp.scale * layer.mlp(layer.layernorm_after(middle))
        torch.testing.assert_close(layer(states), expected)
        for module in model.modules():
            if isinstance(module, DnAViTLayerScale):
                module.scale.zero_()
    identity = run(model.layernorm, run(model.embeddings, images()))
    assert torch.equal(run(model, images()).last_hidden_state, identity)
    assert not [name for name, _ in tiny_model().named_parameters() if "layer_scale" in name]


# --- compilation, export, memory


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("variant", "compiler"),
    [("dna", "inductor")] + [(variant, "aot_eager") for variant in VARIANTS[1:]],
    ids=lambda value: value,
)
def test_compiled_model_equals_eager(variant, compiler, fresh_compiler):
    model = tiny_model(attention_variant=variant)
    expected = run(model, images()).logits
    compiled = torch.compile(model, fullgraph=True, backend=compiler)
    torch.testing.assert_close(run(compiled, images()).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "variant",
    ["dna", "softmax", *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS[1:] if name != "softmax")],
)
def test_compiled_training_step_equals_eager(variant, fresh_compiler):
    model, labels = tiny_model(attention_variant=variant).train(), torch.tensor([1, 4])
    model(images(), labels=labels).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(images(), labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_export_with_any_batch_size(variant):
    model = tiny_model(attention_variant=variant)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(
        model, (), {"pixel_values": images()}, dynamic_shapes={"pixel_values": {0: batch}}, strict=False
    ).module()
    for size in (1, 2, 5):
        pixels = images(batch=size)
        logits = run(exported, pixel_values=pixels).logits
        torch.testing.assert_close(logits, run(model, pixels).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_activation_checkpointing_changes_nothing_but_memory(variant):
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "drop_path_rate": 0.2}
    model, labels = tiny_model(attention_variant=variant, **rates).train(), torch.tensor([1, 4])
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable()
            assert all(layer.gradient_checkpointing for layer in model.dna_vit.layers)
        model.zero_grad()
        torch.manual_seed(0)
        loss = model(images(), labels=labels).loss
        loss.backward()
        results.append((loss.item(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}))
    (loss, gradients), (other_loss, other_gradients) = results
    assert loss == other_loss
    for name, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-6, atol=1e-8)


# --- training


def training_loss(model, optimizer, pixels, labels):
    optimizer.zero_grad()
    loss = model(pixels, labels=labels).loss
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_lowers_the_loss_and_reaches_every_parameter(variant):
    torch.manual_seed(0)
    model = DnAViTForImageClassification(tiny_config(attention_variant=variant, layer_scale_init_value=1.0)).train()
    pixels, labels = images(batch=8), torch.arange(8) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = [training_loss(model, optimizer, pixels, labels) for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_image_modeling_reaches_every_parameter(variant):
    model = tiny_model(DnAViTForMaskedImageModeling, attention_variant=variant).train()
    masked = torch.rand(2, 16, generator=torch.Generator().manual_seed(2)) > 0.4
    model(images(), bool_masked_pos=masked).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_low_rank_adapters(tmp_path):
    peft = pytest.importorskip("peft")
    targets = ["q_pos_proj", "q_neg_proj", "v_pos_proj", "v_neg_proj"]
    base = tiny_model()
    base.save_pretrained(tmp_path / "base")
    before = run(base, images()).logits
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    assert torch.equal(run(model, images()).logits, before)

    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == LAYERS * len(targets) * 2
    assert all("lora_" in name for name in trained)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = [training_loss(model.train(), optimizer, images(), torch.tensor([1, 4])) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained

    after = run(model.eval(), images()).logits
    assert not torch.allclose(after, before)
    model.save_pretrained(tmp_path / "adapter")
    loaded = DnAViTForImageClassification.from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(loaded, tmp_path / "adapter").eval()
    assert torch.equal(run(loaded, images()).logits, after)
    merged = loaded.merge_and_unload()
    assert isinstance(merged, DnAViTForImageClassification)
    torch.testing.assert_close(run(merged, images()).logits, after, rtol=1e-5, atol=1e-5)


# --- configuration


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"attention_variant": "cog", "cog_softmax_layers": [0, 5, -1]},
        {"image_size": [64, 96], "patch_size": [8, 16], "encoder_stride": 8, "num_channels": 1},
        {"layer_scale_init_value": 1e-5, "drop_path_rate": 0.1, "drop_path_schedule": "linear", "qkv_bias": False},
        {"out_features": ["stem", "stage4"], "apply_layernorm": False, "reshape_hidden_states": False},
        {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}, "negative_scale_init": -1},
    ],
    ids=["defaults", "cog", "rectangular", "regularised", "backbone", "labels"],
)
def test_configuration_survives_json(tmp_path, values):
    config = DnAViTConfig(**values)
    config.save_pretrained(tmp_path)
    loaded = DnAViTConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "dna_vit"
    for name, value in values.items():
        assert getattr(loaded, name) == value


def test_defaults_are_those_of_the_paper():
    config = DnAViTConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.image_size, config.patch_size, config.layer_norm_eps) == (224, 16, 1e-6)
    assert (config.attention_variant, config.negative_scale_init) == ("dna", 0.5)
    assert (config.drop_path_schedule, config.use_class_token_position) == ("constant", False)


INVALID_VALUES = [
    ("hidden_size", "32"),
    ("hidden_size", 32.5),
    ("hidden_size", 0),
    ("hidden_size", -32),
    ("hidden_size", None),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", 3.0),
    ("num_attention_heads", 0),
    ("num_attention_heads", -4),
    ("num_attention_heads", 5),  # does not divide hidden_size
    ("intermediate_size", 0),
    ("intermediate_size", [64]),
    ("hidden_act", 3),
    ("hidden_act", "no_such_activation"),
    ("hidden_dropout_prob", -0.1),
    ("hidden_dropout_prob", "0.1"),
    ("attention_probs_dropout_prob", 1.0),
    ("attention_probs_dropout_prob", None),
    ("initializer_range", "small"),
    ("initializer_range", -0.02),
    ("layer_norm_eps", None),
    ("layer_norm_eps", -1e-6),
    ("image_size", 0),
    ("image_size", -32),
    ("image_size", 30),  # not a multiple of the patch size
    ("image_size", 4),  # smaller than a patch
    ("image_size", "32"),
    ("image_size", [32, 30]),
    ("image_size", [32, 32, 32]),
    ("patch_size", 0),
    ("patch_size", -8),
    ("patch_size", 7),
    ("patch_size", 8.0),
    ("patch_size", [8]),
    ("num_channels", 0),
    ("num_channels", "rgb"),
    ("qkv_bias", "yes"),
    ("attention_variant", "linear"),
    ("attention_variant", None),
    ("negative_scale_init", "half"),
    ("cog_softmax_layers", [3]),
    ("cog_softmax_layers", [-4]),
    ("cog_softmax_layers", "first"),
    ("drop_path_rate", 1.5),
    ("drop_path_rate", -0.1),
    ("drop_path_rate", math.nan),
    ("drop_path_schedule", "cosine"),
    ("layer_scale_init_value", "small"),
    ("use_class_token_position", 2),
    ("use_distillation_token", "yes"),
    ("interpolate_pos_encoding", None),
    ("classifier_pooling", "mean"),
    ("classifier_pooling", "cls_dist"),  # without a distillation token
    ("encoder_stride", 0),
    ("encoder_stride", 8.5),
    ("apply_layernorm", "no"),
    ("reshape_hidden_states", None),
]


@pytest.mark.parametrize(("name", "value"), INVALID_VALUES, ids=str)
def test_invalid_values_name_the_field(name, value):
    with pytest.raises((StrictDataclassError, ValueError), match=name):
        tiny_config(**{name: value})


@pytest.mark.parametrize("values", [{"out_features": ["stage9"]}, {"out_indices": [9]}], ids=["features", "indices"])
def test_stages_that_do_not_exist_raise(values):
    with pytest.raises((StrictDataclassError, ValueError), match=next(iter(values))):
        tiny_config(**values)


def test_differential_attention_with_heads_of_odd_width_raises():
    with pytest.raises((StrictDataclassError, ValueError), match="hidden_size / num_attention_heads is odd"):
        tiny_config(attention_variant="differential", hidden_size=20)


def test_valid_values_are_taken():
    config = tiny_config(drop_path_rate=0, negative_scale_init=0, hidden_dropout_prob=0, image_size=(32, 64))
    assert config.grid_size == (4, 8)


def test_cog_that_is_softmax_everywhere_is_said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("dna_hf.models.configuration_dna"), "propagate", True)
    transformers_logging.warning_once.cache_clear()  # another test may have been warned
    with caplog.at_level("WARNING", logger="dna_hf.models.configuration_dna"):
        DnAViTConfig(attention_variant="cog", num_hidden_layers=3)
        assert not caplog.records
        DnAViTConfig(attention_variant="cog", num_hidden_layers=2)
    assert "keeps softmax in every layer" in caplog.text
