"""What a checkpoint is, and that one that is not whole is an error: one sentence, before anything is computed."""

import json
import os
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, modeling_utils

from dna_hf import DnATimesformerVideoProcessor, DnAViTForMaskedImageModeling
from dna_hf.data.errors import DataError
from dna_hf.kinds import IMAGE, KINDS, VIDEO, VIDEO_LLM, common_kind, inference_device, kind_of, load, load_all
from dna_hf.pretrained import load_whole
from dna_hf.training.errors import ConfigurationError
from tests.kit.classifier import save_classifier
from tests.kit.fake_hub import FakeHub
from tests.kit.hub_client import client_of
from tests.kit.models import tiny_timesformer, tiny_vit
from tests.kit.video_llm import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of each kind, and the body of an image classifier alone."""
    folder = tmp_path_factory.mktemp("kinds")
    save_classifier(folder / "image", ["left", "right"])
    tiny_vit().dna_vit.save_pretrained(folder / "body")
    shutil.copy(folder / "image" / IMAGE.processor_file, folder / "body")
    edit(folder / "body", IMAGE.processor_file, size={"height": 12, "width": 12})
    tiny_timesformer().save_pretrained(folder / "video")
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(folder / "llm")
    processor.save_pretrained(folder / "llm")
    return folder


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy of the image classifier, to be damaged."""
    return shutil.copytree(folder / "image", tmp_path / "damaged")


def sentence_of(function, *arguments, error=DataError, **options):
    with pytest.raises(error) as caught:
        function(*arguments, **options)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.endswith(".")
    return text


def edit(folder, file, **fields):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewrite(folder, change):
    """Change the tensors of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def cut(folder, file, part):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: int(len(content) * part)])


def as_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(("name", "kind"), [("image", IMAGE), ("body", IMAGE), ("video", VIDEO), ("llm", VIDEO_LLM)])
def test_the_kind_of_a_checkpoint(folder, name, kind):
    assert kind_of(folder / name) is kind


def test_a_whole_checkpoint_is_loaded_as_it_was_saved(folder):
    loaded = load(folder / "image", device="cpu")
    assert (loaded.label, loaded.kind, loaded.has_head) == ("image", IMAGE, True)
    assert not loaded.model.training
    stored = load_file(folder / "image" / "model.safetensors")
    state = loaded.model.state_dict()
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], stored[name]) for name in stored)


def test_weights_that_were_pickled_are_loaded_too(damaged, folder):
    as_pickle(damaged)
    expected = load(folder / "image", device="cpu").model.state_dict()
    for name, tensor in load(damaged, device="cpu").model.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_a_body_has_no_head_to_name_classes_with(folder):
    text = sentence_of(load, folder / "body", device="cpu")
    assert "has no classifier" in text
    assert "dna-hf train" in text
    body = load(folder / "body", device="cpu", needs_head=False)
    assert not body.has_head
    assert not hasattr(body.model, "classifier")


def test_a_masked_image_model_has_a_body_and_no_head(folder, tmp_path):
    torch.manual_seed(0)
    pretrained = DnAViTForMaskedImageModeling(tiny_vit().config)
    pretrained.save_pretrained(tmp_path / "masked")
    shutil.copy(folder / "body" / IMAGE.processor_file, tmp_path / "masked")
    assert "has no classifier" in sentence_of(load, tmp_path / "masked", device="cpu")
    body = load(tmp_path / "masked", device="cpu", needs_head=False).model.state_dict()
    trained = pretrained.dna_vit.state_dict()
    assert body.keys() == trained.keys() - {"embeddings.mask_token"}
    assert all(torch.equal(body[name], trained[name]) for name in body)
    # a stranger is one here, too
    rewrite(tmp_path / "masked", lambda tensors: tensors.update(stranger=torch.zeros(1)))
    text = sentence_of(load, tmp_path / "masked", device="cpu", needs_head=False)
    assert "1 unexpected (first 'stranger')" in text


def test_where_training_starts_a_new_head_is_allowed_and_nothing_else(folder, damaged):
    model_class = type(tiny_vit())
    model = load_whole(model_class, folder / "body", new=("classifier.",))
    assert model.classifier.weight.isfinite().all()
    rewrite(damaged, lambda tensors: tensors.pop("dna_vit.layernorm.weight"))
    text = sentence_of(
        load_whole,
        model_class,
        damaged,
        new=("classifier.",),
        error=ConfigurationError,
        error_class=ConfigurationError,
    )
    assert "1 missing (first 'dna_vit.layernorm.weight')" in text


def test_a_configuration_that_was_asked_for_takes_no_memory_before_it_is_compared(folder):
    config = AutoConfig.from_pretrained(folder / "image", hidden_size=10**6)
    text = sentence_of(load_whole, type(tiny_vit()), folder / "image", config=config, new=("classifier.",))
    assert "they do not belong together" in text


DAMAGE = {
    "a tensor is missing": (
        lambda folder: rewrite(folder, lambda tensors: tensors.pop("dna_vit.layernorm.weight")),
        "1 missing (first 'dna_vit.layernorm.weight')",
    ),
    "a tensor is unexpected": (
        lambda folder: rewrite(folder, lambda tensors: tensors.update(stranger=torch.zeros(2))),
        "1 unexpected (first 'stranger')",
    ),
    "a tensor has another shape": (
        lambda folder: rewrite(folder, lambda tensors: tensors.update({"classifier.bias": torch.zeros(5)})),
        "1 of another shape (first 'classifier.bias')",
    ),
    "half of the head is missing": (
        lambda folder: rewrite(folder, lambda tensors: tensors.pop("classifier.bias")),
        "1 missing (first 'classifier.bias')",
    ),
    "the weights are cut off": (
        lambda folder: cut(folder, "model.safetensors", 0.5),
        "'model.safetensors' is damaged or cut off",
    ),
    "the weights are empty": (
        lambda folder: cut(folder, "model.safetensors", 0),
        "'model.safetensors' is damaged or cut off",
    ),
    "there are no weights": (lambda folder: (folder / "model.safetensors").unlink(), "it has no model.safetensors"),
    "pickled weights are cut off": (
        lambda folder: (as_pickle(folder), cut(folder, "pytorch_model.bin", 0.5)),
        "'pytorch_model.bin' is damaged or cut off",
    ),
    "a weight that is no number": (
        lambda folder: rewrite(folder, lambda tensors: tensors["classifier.bias"].fill_(float("nan"))),
        "tensor 'classifier.bias' in",
    ),
    "a pipe in place of the weights": (
        lambda folder: ((folder / "model.safetensors").unlink(), os.mkfifo(folder / "model.safetensors")),
        "it has no model.safetensors",
    ),
    "1e9 layers": (
        lambda folder: edit(folder, "config.json", num_hidden_layers=10**9),
        "describes 1,000,000,000 layers",
    ),
    "a width of 1e6": (lambda folder: edit(folder, "config.json", hidden_size=10**6), "they do not belong together"),
    "an unknown variant": (
        lambda folder: edit(folder, "config.json", attention_variant="dnb"),
        "Field 'attention_variant' expected one of ('dna', 'dna_shared_value', 'softmax', 'differential', 'cog')",
    ),
    "a width that is text": (
        lambda folder: edit(folder, "config.json", hidden_size="wide"),
        "Field 'hidden_size' expected int, got str",
    ),
    "a configuration that is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json in",
    ),
    "a configuration that is a list": (lambda folder: (folder / "config.json").write_text("[]"), "it holds no object"),
    "a configuration nested 100,000 deep": (
        lambda folder: (folder / "config.json").write_text("[" * 100_000),
        "is damaged",
    ),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "another model": (
        lambda folder: edit(folder, "config.json", model_type="vit"),
        "holds a vit model, but an image classifier (dna_vit), a video classifier (dna_timesformer) or",
    ),
    "an adapter": (lambda folder: (folder / "dna_adapter.json").write_text("{}"), "dna-hf merge"),
    "no processor": (lambda folder: (folder / IMAGE.processor_file).unlink(), "has no preprocessor_config.json"),
    "a processor that is no JSON": (
        lambda folder: (folder / IMAGE.processor_file).write_text("{"),
        "preprocessor_config.json of",
    ),
    "a standard deviation of 0": (
        lambda folder: edit(folder, IMAGE.processor_file, image_std=[0.5, 0, 0.5]),
        "image_std must be finite numbers above 0",
    ),
    "a standard deviation of NaN": (
        lambda folder: edit(folder, IMAGE.processor_file, image_std=[float("nan"), 1, 1]),
        "image_std must be finite numbers above 0",
    ),
    "a mean of infinity": (
        lambda folder: edit(folder, IMAGE.processor_file, image_mean=[float("inf"), 0, 0]),
        "image_mean must be finite numbers",
    ),
    "a mean that is text": (lambda folder: edit(folder, IMAGE.processor_file, image_mean="grey"), "image_mean is"),
    "two standard deviations": (
        lambda folder: edit(folder, IMAGE.processor_file, image_std=[0.5, 0.5]),
        "std must have 3 elements",
    ),
    "a factor of NaN": (
        lambda folder: edit(folder, IMAGE.processor_file, rescale_factor=float("nan")),
        "the pixel_values that it makes are not finite",
    ),
    "a processor with a height that is text": (
        lambda folder: edit(folder, IMAGE.processor_file, size={"height": "tall", "width": 8}),
        "height of size must be a number from 1 to 4,096, got 'tall'",
    ),
    "a processor of a million pixels": (
        lambda folder: edit(folder, IMAGE.processor_file, size={"height": 10**6, "width": 10**6}),
        "height of size must be a number from 1 to 4,096, got 1000000",
    ),
    "a processor for a larger model": (
        lambda folder: edit(folder, IMAGE.processor_file, size={"height": 64, "width": 64}),
        "makes images of (64, 64) pixels, but the model takes",
    ),
    "a processor whose images differ in size": (
        lambda folder: edit(folder, IMAGE.processor_file, size={"shortest_edge": 8}),
        "set do_center_crop",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_whole_is_named_in_one_sentence(damaged, damage, capfd):
    break_it, expected = DAMAGE[damage]
    break_it(damaged)
    text = sentence_of(load, damaged, device="cpu")
    assert expected in text
    assert str(damaged) in text
    # transformers' own report would say it a second time
    assert capfd.readouterr().err.count("MISSING") == 0


@pytest.mark.parametrize(
    ("name", "wanted", "hint"),
    [("image", VIDEO, "dna-hf evaluate"), ("llm", IMAGE, "dna-hf answer"), ("video", VIDEO_LLM, "dna-hf predict")],
)
def test_another_kind_is_told_what_it_is_for(folder, name, wanted, hint):
    text = sentence_of(kind_of, folder / name, wanted=(wanted,))
    assert kind_of(folder / name).name in text
    assert wanted.model_type in text
    assert hint in text


def test_models_side_by_side_are_of_one_kind(folder):
    assert common_kind([str(folder / "image"), str(folder / "body")]) is IMAGE
    text = sentence_of(common_kind, [str(folder / "image"), str(folder / "llm")])
    assert "an image classifier" in text
    assert "a video language model" in text
    assert "given twice" in sentence_of(load_all, [str(folder / "image")] * 2)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"size": {"shortest_edge": 0}}, "shortest_edge of size must be a number from 1"),
        ({"num_crops": 2}, "num_crops must be 1 or 3"),
        ({"rescale_factor": float("inf")}, "not finite"),
        ({"crop_size": {"height": 64, "width": 64}, "size": {"shortest_edge": 8}}, "cannot be cropped"),
    ],
)
def test_a_video_processor_that_makes_nothing_of_a_video(folder, tmp_path, fields, expected):
    damaged = shutil.copytree(folder / "video", tmp_path / "damaged")
    DnATimesformerVideoProcessor().save_pretrained(damaged)
    edit(damaged, VIDEO.processor_file, **fields)
    assert expected in sentence_of(load, damaged, device="cpu")


def test_a_video_classifier_without_a_processor_says_which_file_is_missing(folder):
    assert VIDEO.processor_file in sentence_of(load, folder / "video")


@pytest.mark.parametrize("name", ["./runs/typo", "/no/such/folder", "a/b/c", "../x"])
def test_a_path_that_is_not_there(name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert sentence_of(kind_of, name) == f"checkpoint {name!r} is not there: there is no such folder."


def test_a_file_in_place_of_a_folder(folder):
    assert "is a file: name the folder" in sentence_of(kind_of, folder / "image" / "config.json")


def test_a_name_that_may_be_a_path_is_asked_for_once(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "it is not in the cache, and HF_HUB_OFFLINE is set" in sentence_of(kind_of, "runs/typo")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # a port that nobody listens on
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    text = sentence_of(kind_of, "runs/typo")
    assert text.startswith("checkpoint 'runs/typo' is not there: there is no such folder, and the Hub (")
    assert "cannot be reached" in text


def test_names_on_the_hub(folder, tmp_path):
    with FakeHub() as hub, client_of(hub, tmp_path):
        hub.add("user/model", folder / "image")
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty" / "notes.txt").write_text("nothing")
        hub.add("user/empty", tmp_path / "empty")
        assert kind_of("user/model") is IMAGE
        loaded = load("user/model", device="cpu")
        assert torch.equal(
            loaded.model.classifier.weight, load(folder / "image", device="cpu").model.classifier.weight
        )
        assert "no repository of that name on the Hub" in sentence_of(kind_of, "user/typo")
        assert "has no config.json" in sentence_of(kind_of, "user/empty")
        assert "no revision 'v9'" in sentence_of(kind_of, "user/model", "v9")


@pytest.mark.parametrize("device", ["nope", "cuda:7", "cuda:-1", "", "cpu:x"])
def test_a_device_that_is_not_there(device):
    if device.startswith("cuda") and torch.cuda.device_count() > 7:
        pytest.skip("has as many GPUs")
    assert repr(device) in sentence_of(inference_device, device)


def test_the_facts_of_the_kinds_differ():
    assert len({kind.model_type for kind in KINDS}) == len({kind.unit for kind in KINDS}) == len(KINDS)


def test_processes_that_get_a_new_head_from_another_load_too(folder, monkeypatch):
    """Under FSDP, all processes of a machine but the first keep what is new on the meta device."""
    monkeypatch.setattr(modeling_utils, "is_fsdp_enabled", lambda: True)
    monkeypatch.setattr(modeling_utils, "is_local_dist_rank_0", lambda: False)
    model = load_whole(type(tiny_vit()), folder / "body", new=("classifier.",))
    assert model.classifier.weight.is_meta and not model.dna_vit.layernorm.weight.is_meta
