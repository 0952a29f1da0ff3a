"""From timm's vision transformers: state dicts in its layout, its folders, and with timm installed its models."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from dna_hf.conversion import ConversionError, from_pretrained_softmax
from dna_hf.models import DnAViTForImageClassification, DnAViTModel


# what is in other people's files does not depend on the version of transformers
pytestmark = pytest.mark.once

WIDTH, HEADS, DEPTH, PATCH, GRID, CLASSES = 16, 4, 2, 8, 4, 5
TOLERANCE = 1e-9

KINDS = {
    "plain": {},
    "no_head": {"classes": 0},
    "no_embed_class": {"class_position": False},
    "layer_scale": {"layer_scale": True},
    "deit3": {"class_position": False, "layer_scale": True, "grid": 3},
    "distilled": {"distilled": True},
    "distilled_no_embed_class": {"distilled": True, "class_position": False},
    "no_qkv_bias": {"qkv_bias": False},
    "grey": {"channels": 1, "depth": 3},
}


def timm_tensors(
    classes=CLASSES,
    distilled=False,
    class_position=True,
    layer_scale=False,
    qkv_bias=True,
    channels=3,
    depth=DEPTH,
    grid=GRID,
    dtype=torch.float64,
):
    """A random state dict in timm's layout."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, grid * grid + (1 + distilled if class_position else 0), WIDTH),
        "patch_embed.proj.weight": (WIDTH, channels, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    for index in range(depth):
        layer = {
            "norm1.weight": (WIDTH,),
            "norm1.bias": (WIDTH,),
            "attn.qkv.weight": (3 * WIDTH, WIDTH),
            "attn.proj.weight": (WIDTH, WIDTH),
            "attn.proj.bias": (WIDTH,),
            "norm2.weight": (WIDTH,),
            "norm2.bias": (WIDTH,),
            "mlp.fc1.weight": (2 * WIDTH, WIDTH),
            "mlp.fc1.bias": (2 * WIDTH,),
            "mlp.fc2.weight": (WIDTH, 2 * WIDTH),
            "mlp.fc2.bias": (WIDTH,),
        }
        if qkv_bias:
            layer["attn.qkv.bias"] = (3 * WIDTH,)
        if layer_scale:
            layer |= {"ls1.gamma": (WIDTH,), "ls2.gamma": (WIDTH,)}
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in layer.items()}
    if distilled:
        shapes["dist_token"] = (1, 1, WIDTH)
    for head in ("head", "head_dist") if distilled else ("head",):
        if classes:
            shapes |= {f"{head}.weight": (classes, WIDTH), f"{head}.bias": (classes,)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) * 0.3 for name, shape in shapes.items()}


def timm_forward(tensors, images, heads=HEADS, eps=1e-6):
    """What timm's `VisionTransformer` makes of images: logits, or tokens where there is no head."""

    def linear(name, tokens):
        return functional.linear(tokens, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    def norm(name, tokens):
        return functional.layer_norm(tokens, (WIDTH,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)

    def attention(name, tokens):
        query, key, value = linear(f"{name}.qkv", tokens).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.mT / math.sqrt(WIDTH // heads)).softmax(-1)
        return linear(f"{name}.proj", (weights @ value).transpose(1, 2).flatten(2))

    def mlp(name, tokens):
        return linear(f"{name}.fc2", functional.gelu(linear(f"{name}.fc1", tokens)))

    patches = functional.conv2d(
        images, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=PATCH
    )
    tokens, positions = patches.flatten(2).mT, tensors["pos_embed"]
    prefix = [tensors[name].expand(len(images), -1, -1) for name in ("cls_token", "dist_token") if name in tensors]
    if positions.shape[1] == tokens.shape[1]:
        tokens = torch.cat((*prefix, tokens + positions), dim=1)
    else:
        tokens = torch.cat((*prefix, tokens), dim=1) + positions
    depth = sum(name.endswith("attn.qkv.weight") for name in tensors)
    for block in (f"blocks.{index}" for index in range(depth)):
        tokens = tokens + tensors.get(f"{block}.ls1.gamma", 1) * attention(
            f"{block}.attn", norm(f"{block}.norm1", tokens)
        )
        tokens = tokens + tensors.get(f"{block}.ls2.gamma", 1) * mlp(f"{block}.mlp", norm(f"{block}.norm2", tokens))
    tokens = norm("norm", tokens)
    if "head.weight" not in tensors:
        return tokens
    if "head_dist.weight" not in tensors:
        return linear("head", tokens[:, 0])
    return (linear("head", tokens[:, 0]) + linear("head_dist", tokens[:, 1])) / 2


def images_for(config, dtype=torch.float64, batch=2):
    height, width = (side * PATCH for side in config.grid_size)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, config.num_channels, height, width, generator=generator, dtype=dtype)


def write_file(folder, tensors, suffix=".safetensors", wrapped=False):
    path = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"model": tensors} if wrapped else tensors, path)
    return path


PRETRAINED_CFG = {
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "input_size": [3, 32, 32],
}


def write_timm_folder(folder, tensors, pretrained_cfg=None, **config):
    content = {"architecture": "vit_tiny_patch16_224", "num_classes": CLASSES, "num_features": WIDTH}
    content["pretrained_cfg"] = PRETRAINED_CFG | (pretrained_cfg or {})
    (folder / "config.json").write_text(json.dumps(content | config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def convert(source, **options):
    return from_pretrained_softmax(source, **{"num_attention_heads": HEADS} | options)


@torch.no_grad()
def assert_same_function(model, expected, images, tolerance=TOLERANCE):
    output = model(images)
    found = output.get("logits") if "logits" in output else output.last_hidden_state
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


class TestStateDict:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "options", [{"negative_init": "zero"}, {"attention_variant": "softmax"}], ids=lambda options: [*options][0]
    )
    def test_same_function(self, kind, options, tmp_path):
        tensors = timm_tensors(**KINDS[kind])
        model, report = convert(write_file(tmp_path, tensors), **options)
        images = images_for(model.config)
        assert type(model) is (DnAViTModel if kind == "no_head" else DnAViTForImageClassification)
        assert model.dtype == torch.float64
        assert_same_function(model, timm_forward(tensors, images), images)
        assert report.family == "timm"
        assert report.max_difference is None

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_tensor_is_accounted_for(self, kind, tmp_path):
        tensors = timm_tensors(**KINDS[kind])
        model, report = convert(write_file(tmp_path, tensors))
        sources = [record.source for record in report.records if record.source is not None]
        assert sorted(sources) == sorted(tensors)
        targets = {target for record in report.records for target in record.targets}
        assert targets == model.state_dict().keys()
        depth = model.config.num_hidden_layers
        assert report.count("split") == depth * (2 if model.config.qkv_bias else 1)
        assert report.count("merged") == (4 if "distilled" in kind else 0)
        json.dumps(report.to_dict())

    @pytest.mark.parametrize(
        ("kind", "fields"),
        [
            ("plain", {"use_class_token_position": True, "layer_scale_init_value": None, "qkv_bias": True}),
            ("no_embed_class", {"use_class_token_position": False}),
            ("distilled", {"use_distillation_token": True, "classifier_pooling": "cls_dist"}),
            ("no_qkv_bias", {"qkv_bias": False}),
            ("grey", {"num_channels": 1, "num_hidden_layers": 3}),
            ("deit3", {"image_size": 24, "patch_size": 8, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH}),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_configuration(self, kind, fields, tmp_path):
        config = convert(write_file(tmp_path, timm_tensors(**KINDS[kind]))).model.config
        assert {name: getattr(config, name) for name in fields} == fields
        assert config.num_labels == CLASSES
        assert config.layer_norm_eps == 1e-6
        assert (config.layer_scale_init_value is not None) == ("blocks.0.ls1.gamma" in timm_tensors(**KINDS[kind]))

    @pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
    @pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
    def test_files_of_torch_save(self, suffix, wrapped, tmp_path):
        tensors = timm_tensors(distilled=True)
        model = convert(write_file(tmp_path, tensors, suffix, wrapped), negative_init="zero").model
        images = images_for(model.config)
        assert_same_function(model, timm_forward(tensors, images), images)

    def test_rest_of_a_training_checkpoint_is_noted(self, tmp_path):
        torch.save({"model": timm_tensors(), "epoch": 3, "optimizer": {}}, tmp_path / "checkpoint.pth")
        notes = " ".join(convert(tmp_path / "checkpoint.pth").report.notes)
        assert "epoch" in notes and "optimizer" in notes

    @pytest.mark.parametrize("kind", ["plain", "deit3", "distilled"])
    @pytest.mark.parametrize("size", [48, (16, 40)], ids=str)
    def test_another_image_size(self, kind, size, tmp_path):
        tensors = timm_tensors(**KINDS[kind])
        model, report = convert(write_file(tmp_path, tensors), negative_init="zero", image_size=size)
        images = images_for(model.config)
        table = tensors["pos_embed"]
        side = math.isqrt(table.shape[1])
        prefix = table.shape[1] - side * side
        patches = table[:, prefix:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        patches = functional.interpolate(patches, model.config.grid_size, mode="bicubic", align_corners=False)
        resampled = torch.cat((table[:, :prefix], patches.flatten(2).mT), dim=1)
        assert_same_function(model, timm_forward(tensors | {"pos_embed": resampled}, images), images)
        assert report.count("resampled") == 1

    @pytest.mark.parametrize("heads", [1, 2, 8])
    def test_number_of_heads(self, heads, tmp_path):
        tensors = timm_tensors()
        model = convert(write_file(tmp_path, tensors), negative_init="zero", num_attention_heads=heads).model
        images = images_for(model.config)
        assert_same_function(model, timm_forward(tensors, images, heads=heads), images)

    @pytest.mark.parametrize("negative_init", ["warm", "random"])
    def test_negative_branch(self, negative_init, tmp_path):
        tensors = timm_tensors()
        model = convert(write_file(tmp_path, tensors), negative_init=negative_init).model
        for index, layer in enumerate(model.dna_vit.layers):
            query, key, value = tensors[f"blocks.{index}.attn.qkv.weight"].split(WIDTH)
            attention = layer.attention
            assert torch.equal(attention.q_pos_proj.weight, query)
            assert torch.equal(attention.k_proj.weight, key)
            assert torch.equal(attention.v_pos_proj.weight, value)
            for name, positive in (("q_neg_proj", query), ("v_neg_proj", value)):
                negative = attention.get_submodule(name).weight
                assert torch.equal(negative, positive * 1e-4) == (negative_init == "warm")
                assert (negative != 0).all()

    def test_mask_token_is_dropped(self, tmp_path):
        tensors = timm_tensors() | {"mask_token": torch.ones(1, WIDTH)}
        report = convert(write_file(tmp_path, tensors)).report
        [record] = [record for record in report.records if record.action == "dropped"]
        assert record.source == "mask_token" and record.reason

    def test_float16_is_kept(self, tmp_path):
        tensors = timm_tensors(dtype=torch.float16)
        assert convert(write_file(tmp_path, tensors)).model.dtype == torch.float16
        assert convert(write_file(tmp_path, tensors), dtype=torch.float32).model.dtype == torch.float32


class TestFolder:
    def test_same_function(self, tmp_path):
        tensors = timm_tensors()
        model, report = convert(write_timm_folder(tmp_path, tensors), negative_init="zero")
        images = images_for(model.config)
        assert_same_function(model, timm_forward(tensors, images), images)
        assert report.source == str(tmp_path)

    @pytest.mark.parametrize("interpolation, resample", [("bicubic", 3), ("bilinear", 2), ("nearest", 0)])
    @pytest.mark.parametrize("crop_pct, edge", [(0.9, 35), (0.875, 36), (1.0, 32), (None, 36)])
    def test_image_processor(self, interpolation, resample, crop_pct, edge, tmp_path):
        write_timm_folder(tmp_path, timm_tensors(), {"interpolation": interpolation, "crop_pct": crop_pct})
        processor = convert(tmp_path).report.image_processor
        values = processor.to_dict()
        assert dict(processor.size) == {"shortest_edge": edge}
        assert dict(processor.crop_size) == {"height": 32, "width": 32}
        assert list(values["image_mean"]) == [0.1, 0.2, 0.3]
        assert list(values["image_std"]) == [0.4, 0.5, 0.6]
        assert values["resample"] == resample
        assert values["do_resize"] and values["do_center_crop"] and values["do_rescale"] and values["do_normalize"]

    def test_image_processor_follows_a_new_size(self, tmp_path):
        processor = convert(write_timm_folder(tmp_path, timm_tensors()), image_size=(48, 64)).report.image_processor
        assert dict(processor.crop_size) == {"height": 48, "width": 64}
        assert dict(processor.size) == {"shortest_edge": 53}

    @pytest.mark.parametrize("cfg", [{"interpolation": "lanczos"}, {"crop_mode": "squash"}], ids=str)
    def test_preprocessing_that_cannot_be_had(self, cfg, tmp_path):
        report = convert(write_timm_folder(tmp_path, timm_tensors(), cfg)).report
        assert report.image_processor is None
        assert any("image processor" in note for note in report.notes)

    def test_a_bare_file_has_no_image_processor(self, tmp_path):
        report = convert(write_file(tmp_path, timm_tensors())).report
        assert report.image_processor is None
        assert any("image processor" in note for note in report.notes)

    @pytest.mark.parametrize("place", ["pretrained_cfg", "top"])
    def test_labels(self, place, tmp_path):
        labels = {"label_names": ["ant", "bee", "cat", "dog", "eel"]}
        config = {"pretrained_cfg": labels} if place == "pretrained_cfg" else labels
        config = convert(write_timm_folder(tmp_path, timm_tensors(), **config)).model.config
        assert config.id2label == dict(enumerate(labels["label_names"]))
        assert config.label2id == {"ant": 0, "bee": 1, "cat": 2, "dog": 3, "eel": 4}

    def test_labels_of_another_number_are_not_taken(self, tmp_path):
        write_timm_folder(tmp_path, timm_tensors(), {"label_names": ["ant", "bee"]})
        assert convert(tmp_path).model.config.id2label[4] == "LABEL_4"

    def test_saved_folder_loads(self, tmp_path):
        source = tmp_path / "timm"
        source.mkdir()
        tensors = timm_tensors(distilled=True, layer_scale=True)
        convert(write_timm_folder(source, tensors), negative_init="zero").save_pretrained(tmp_path / "dna")
        assert (tmp_path / "dna/preprocessor_config.json").is_file()
        model = DnAViTForImageClassification.from_pretrained(tmp_path / "dna")
        images = images_for(model.config)
        assert_same_function(model, timm_forward(tensors, images), images)

    @pytest.mark.parametrize(
        "config", [{"global_pool": "avg"}, {"model_args": {"global_pool": "avg"}}, {"global_pool": "map"}], ids=str
    )
    def test_other_pooling_is_refused(self, config, tmp_path):
        with pytest.raises(ConversionError, match="global_pool|pool"):
            convert(write_timm_folder(tmp_path, timm_tensors(), **config))

    def test_no_weights(self, tmp_path):
        write_timm_folder(tmp_path, timm_tensors())
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(ConversionError, match=r"model\.safetensors"):
            convert(tmp_path)

    @pytest.mark.parametrize("kept", [0, 100, 0.9])
    def test_truncated(self, kept, tmp_path):
        path = write_timm_folder(tmp_path, timm_tensors()) / "model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
        with pytest.raises(ConversionError, match=r"model\.safetensors"):
            convert(tmp_path)


DAMAGED = (
    "cls_token",
    "pos_embed",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "blocks.0.attn.qkv.weight",
    "blocks.1.attn.qkv.bias",
    "blocks.0.mlp.fc1.weight",
    "blocks.1.mlp.fc1.weight",
    "blocks.1.ls2.gamma",
    "norm.bias",
    "head.weight",
    "head.bias",
)


class TestRefused:
    def refused(self, source, message, **options):
        with pytest.raises(ConversionError, match=message) as caught:
            convert(source, **options)
        return str(caught.value)

    @pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
    def test_unknown_number_of_heads(self, folder, tmp_path):
        source = (write_timm_folder if folder else write_file)(tmp_path, timm_tensors())
        self.refused(source, "num_attention_heads", num_attention_heads=None)

    @pytest.mark.parametrize("heads", [0, 3, -4, "four"])
    def test_impossible_number_of_heads(self, heads, tmp_path):
        self.refused(write_file(tmp_path, timm_tensors()), "num_attention_heads", num_attention_heads=heads)

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("fc_norm.weight", (WIDTH,)),
            ("norm_pre.weight", (WIDTH,)),
            ("reg_token", (1, 4, WIDTH)),
            ("attn_pool.q.weight", (WIDTH, WIDTH)),
            ("blocks.0.attn.q_norm.weight", (WIDTH // HEADS,)),
            ("blocks.1.attn.k_norm.weight", (WIDTH // HEADS,)),
            ("blocks.0.attn.norm.weight", (WIDTH,)),
            ("blocks.0.mlp.fc1_g.weight", (2 * WIDTH, WIDTH)),
            ("blocks.0.mlp.w12.weight", (4 * WIDTH, WIDTH)),
            ("blocks.0.mlp.norm.weight", (2 * WIDTH,)),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_parts_that_dna_lacks(self, name, shape, tmp_path):
        part = next(part for part in reversed(name.split(".")) if part not in ("weight", "q"))
        words = {"fc1_g": "gated", "w12": "gated", "norm": "normalise", "fc_norm": r"fc_norm"}
        tensors = timm_tensors() | {name: torch.ones(shape)}
        message = self.refused(write_file(tmp_path, tensors), words.get(part, part))
        assert "DnA ViT does not" in message

    # a patch projection of another shape would be that of another patch size
    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            (name, damage)
            for name in DAMAGED
            for damage in ("missing", "nan", "inf", "misshaped", "one_dimension_more", "integer")
            if (name, damage) != ("patch_embed.proj.weight", "misshaped")
        ],
    )
    def test_damaged_tensor(self, name, damage, tmp_path):
        tensors = timm_tensors(layer_scale=True)
        tensor = tensors.pop(name)
        shown = name.replace(".", r"\.")
        if damage in ("nan", "inf"):
            tensor.flatten()[-1] = float(damage)
        elif damage == "misshaped":
            tensor = torch.cat((tensor, tensor), dim=-1)
        elif damage == "one_dimension_more":
            tensor = tensor.unsqueeze(0)
        elif damage == "integer":
            tensor = tensor.long()
        if damage != "missing":
            tensors[name] = tensor
        if (name, damage) == ("head.weight", "missing"):
            shown = r"head\.(weight|bias)"
        self.refused(write_file(tmp_path, tensors), shown)

    @pytest.mark.parametrize(
        "name", ["pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "head.weight", "norm.weight"]
    )
    def test_scalar_in_place_of_a_tensor(self, name, tmp_path):
        tensors = timm_tensors() | {name: torch.tensor(1.0)}
        self.refused(write_file(tmp_path, tensors), name.replace(".", r"\."))

    @pytest.mark.parametrize("name", ["head_dist.weight", "head_dist.bias", "dist_token"])
    def test_distilled_in_part(self, name, tmp_path):
        tensors = timm_tensors(distilled=True)
        del tensors[name]
        self.refused(write_file(tmp_path, tensors), "head_dist|dist_token|position table")

    @pytest.mark.parametrize(
        "name", ["extra", "blocks.0.attn.gate", "blocks.7.norm1.weight", "blocks.0.ls1.gamma", "head_dist.weight"]
    )
    def test_extra_tensor(self, name, tmp_path):
        tensors = timm_tensors() | {name: torch.ones(WIDTH)}
        self.refused(write_file(tmp_path, tensors), name.replace(".", r"\.").replace("ls1", "ls."))

    @pytest.mark.parametrize("rows", [0, 3, 12, 19])
    def test_position_table_of_no_square_grid(self, rows, tmp_path):
        tensors = timm_tensors() | {"pos_embed": torch.ones(1, rows, WIDTH)}
        self.refused(write_file(tmp_path, tensors), "position table|pos_embed")

    @pytest.mark.parametrize("content", [{"hello": torch.ones(2)}, {"cls_token": torch.ones(1, 1, 4)}], ids=list)
    def test_other_model(self, content, tmp_path):
        self.refused(write_file(tmp_path, content), "'pos_embed' is missing")

    def test_size_that_patches_do_not_fill(self, tmp_path):
        self.refused(write_file(tmp_path, timm_tensors()), "image_size", image_size=30)


@pytest.fixture(scope="module")
def timm():
    try:
        return pytest.importorskip("timm", reason="timm is not installed", exc_type=ImportError)
    except RuntimeError as error:
        pytest.skip(f"timm cannot be imported, its torchvision does not fit torch: {error}")


MODELS = [
    ("vit_tiny_patch16_224", {"img_size": 64}),
    ("vit_tiny_patch16_224", {"img_size": (32, 80)}),
    ("vit_tiny_patch16_224", {"img_size": 48, "qkv_bias": False}),
    ("deit_tiny_distilled_patch16_224", {"img_size": 64}),
    ("deit3_small_patch16_224", {"img_size": 64}),
    ("vit_small_patch14_dinov2", {"img_size": 56}),
]


@torch.no_grad()
def timm_model(timm, name, depth=2, **options):
    model = timm.create_model(name, pretrained=False, depth=depth, **options).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(std=0.1, generator=generator)
    return model


class TestModels:
    @pytest.mark.parametrize("num_classes", [7, 0])
    @pytest.mark.parametrize(("name", "options"), MODELS, ids=str)
    @torch.no_grad()
    def test_same_function(self, timm, name, options, num_classes):
        source = timm_model(timm, name, num_classes=num_classes, **options)
        model, report = from_pretrained_softmax(source, negative_init="zero")
        images = torch.randn(2, 3, *source.patch_embed.img_size, generator=torch.Generator().manual_seed(1))
        output = model(images)
        if num_classes:
            torch.testing.assert_close(output.logits, source(images), rtol=1e-5, atol=1e-5)
        else:
            expected = source.forward_features(images)
            torch.testing.assert_close(output.last_hidden_state, expected, rtol=1e-5, atol=1e-5)
        assert report.max_difference <= 1e-5
        sources = [record.source for record in report.records if record.source is not None]
        assert sorted(sources) == sorted(source.state_dict())

    @pytest.mark.parametrize("num_classes", [7, 0])
    @torch.no_grad()
    def test_without_pooling(self, timm, num_classes):
        source = timm_model(timm, "vit_tiny_patch16_224", img_size=32, global_pool="", num_classes=num_classes)
        if num_classes:
            with pytest.raises(ConversionError, match="global_pool"):
                from_pretrained_softmax(source)
            return
        model = from_pretrained_softmax(source, negative_init="zero").model
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(model(images).last_hidden_state, source(images), rtol=1e-5, atol=1e-5)

    def test_the_source_is_left_alone(self, timm):
        source = timm_model(timm, "deit_tiny_distilled_patch16_224", img_size=32).train()
        before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
        from_pretrained_softmax(source)
        assert source.training
        torch.testing.assert_close(dict(source.state_dict()), before, rtol=0, atol=0)

    @torch.no_grad()
    def test_image_processor_is_timms_transform(self, timm):
        from PIL import Image

        source = timm_model(timm, "vit_tiny_patch16_224", img_size=64)
        source.pretrained_cfg = dict(source.pretrained_cfg) | {
            "input_size": (3, 64, 64),
            "crop_pct": 0.8,
            "mean": (0.1, 0.2, 0.3),
            "std": (0.4, 0.5, 0.6),
        }
        transform = timm.data.create_transform(**timm.data.resolve_data_config(source.pretrained_cfg))
        noise = torch.randint(0, 256, (120, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        image = Image.fromarray(noise.numpy())
        processor = from_pretrained_softmax(source).report.image_processor
        found = processor(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(found, transform(image), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("vit_tiny_patch16_224", {"img_size": 32, "global_pool": "avg"}, "avg|fc_norm"),
            ("vit_tiny_patch16_224", {"img_size": 32, "global_pool": "avg", "fc_norm": False}, "avg"),
            ("vit_tiny_patch16_224", {"img_size": 32, "qk_norm": True}, "q_norm"),
            ("vit_tiny_patch16_224", {"img_size": 32, "act_layer": "relu"}, "ReLU"),
            ("vit_tiny_patch16_224", {"img_size": 32, "class_token": False, "global_pool": "avg"}, "avg|cls_token"),
            ("vit_small_patch14_reg4_dinov2", {"img_size": 28}, "reg_token"),
            ("vit_giant_patch14_dinov2", {"img_size": 28, "depth": 1}, "MLP|mlp|activation"),
        ],
        ids=str,
    )
    def test_other_vision_transformer(self, timm, name, options, message):
        source = timm.create_model(name, pretrained=False, **{"depth": 2} | options)
        with pytest.raises(ConversionError, match=message):
            from_pretrained_softmax(source)

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}, "SwinTransformer"),
            ("eva02_tiny_patch14_224", {"depth": 1}, "Eva"),
            ("resnet18", {}, "ResNet"),
            ("beit_base_patch16_224", {"depth": 1}, "Beit"),
        ],
        ids=str,
    )
    def test_other_model(self, timm, name, options, message):
        source = timm.create_model(name, pretrained=False, **options)
        with pytest.raises(ConversionError, match=message):
            from_pretrained_softmax(source)

    @pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "timm/vit_tiny_patch16_224"])
    def test_name_while_offline(self, timm, name):
        with pytest.raises(ConversionError, match="vit_tiny_patch16_224"):
            from_pretrained_softmax(name)

    def test_saved_for_the_hub(self, timm, tmp_path):
        source = timm_model(timm, "vit_tiny_patch16_224", img_size=32, num_classes=3)
        labels = ["ant", "bee", "cat"]
        timm.models.save_for_hf(source, tmp_path, model_config={"label_names": labels}, safe_serialization=True)
        model, report = from_pretrained_softmax(tmp_path, negative_init="zero", num_attention_heads=3)
        images = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(model(images).logits, source(images), rtol=1e-5, atol=1e-5)
        assert model.config.id2label == dict(enumerate(labels))
        assert report.image_processor is not None
