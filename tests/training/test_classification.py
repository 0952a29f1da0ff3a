"""Training: what is written, that it can be repeated bit for bit, and that a stopped run continues exactly."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from dna_hf import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnAViTForImageClassification,
    DnAViTForMaskedImageModeling,
)
from dna_hf.data.errors import DataError
from dna_hf.training import classification as training
from dna_hf.training.config_file import run_config
from dna_hf.training.errors import ConfigurationError
from dna_hf.training.video_llm import train_video_llm
from tests.kit.paths import shared_path
from tests.kit.training import interrupt, tiny_run


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def log(folder):
    """Logged values without the timings."""
    history = json.loads((Path(folder) / "trainer_state.json").read_text())["log_history"]
    return [{k: v for k, v in entry.items() if "runtime" not in k and "per_second" not in k} for entry in history]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return training.train_classifier(tiny_run(folder))


def test_a_run_leaves_a_complete_checkpoint(finished):
    names = {path.name for path in finished.output_dir.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "attention_variants.py",
        "configuration_dna_vit.py",
        "layers_dna.py",
        "modeling_dna_vit.py",
        "run.yaml",
        "eval_results.json",
        "trainer_state.json",
    }
    model = AutoModelForImageClassification.from_pretrained(finished.output_dir)
    assert isinstance(model, DnAViTForImageClassification)
    assert model.config.id2label[9] == "Ankle boot" and model.config.label2id["Ankle boot"] == 9
    assert model.num_parameters() == finished.parameters
    assert AutoImageProcessor.from_pretrained(finished.output_dir).size == {"height": 28, "width": 28}
    assert set(finished.metrics) >= {"eval_loss", "eval_top1", "eval_top5"}


def test_the_same_seed_gives_the_same_model_bit_for_bit(finished, tmp_path):
    training.train_classifier(tiny_run(tmp_path / "again"))
    assert_same_weights(weights(finished.output_dir), weights(tmp_path / "again"))
    assert log(finished.output_dir) == log(tmp_path / "again")


def test_loader_workers_change_nothing(finished, tmp_path):
    training.train_classifier(tiny_run(tmp_path / "workers", dataloader_num_workers=2))
    assert_same_weights(weights(finished.output_dir), weights(tmp_path / "workers"))


def test_another_seed_gives_another_model(finished, tmp_path):
    training.train_classifier(tiny_run(tmp_path / "other", seed=1))
    other = weights(tmp_path / "other")
    assert any(not torch.equal(tensor, other[name]) for name, tensor in weights(finished.output_dir).items())


@pytest.mark.parametrize(
    ("save_steps", "stop", "options"),
    [
        (7, 9, {}),
        (5, 6, {}),
        (7, 9, {"dataloader_num_workers": 2}),
        (2, 3, {"gradient_accumulation_steps": 2}),
    ],
    ids=["mid-epoch", "epoch-boundary", "workers", "accumulation"],
)
def test_a_stopped_run_continues_exactly(tmp_path, monkeypatch, save_steps, stop, options):
    """Five batches an epoch; the run is interrupted after `stop` steps and resumed from its last checkpoint."""
    options = options | {"save_steps": save_steps}
    training.train_classifier(tiny_run(tmp_path / "straight", **options))

    interrupt(monkeypatch, tmp_path / "stopped", stop, options)
    assert [path.name for path in (tmp_path / "stopped").glob("checkpoint-*")] == [f"checkpoint-{save_steps}"]
    training.train_classifier(tiny_run(tmp_path / "stopped", **options), resume=True)

    assert_same_weights(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    evaluations = [[entry for entry in log(tmp_path / run) if "eval_loss" in entry] for run in ("straight", "stopped")]
    # an evaluation between the checkpoint and the interruption is not in the checkpoint's log
    assert evaluations[1] and evaluations[0][-len(evaluations[1]) :] == evaluations[1]


def test_an_output_folder_with_another_run_is_left_alone(finished, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in finished.output_dir.rglob("*")}
    with pytest.raises(ConfigurationError, match="not empty: pass --resume"):
        training.train_classifier(tiny_run(finished.output_dir))
    with pytest.raises(ConfigurationError, match=r"model.hidden_size = 16, not 32"):
        training.train_classifier(tiny_run(finished.output_dir, hidden_size=32), resume=True)
    with pytest.raises(ConfigurationError, match=r"data.max_train_samples"):
        training.train_classifier(tiny_run(finished.output_dir, max_train_samples=41), resume=True)
    assert before == {path: path.stat().st_mtime_ns for path in finished.output_dir.rglob("*")}
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file"):
        training.train_classifier(tiny_run(tmp_path / "file"))


def test_nothing_to_resume_is_said(tmp_path, finished):
    with pytest.raises(ConfigurationError, match="no checkpoint to resume"):
        training.train_classifier(tiny_run(tmp_path / "new"), resume=True)
    assert not (tmp_path / "new").exists()
    shutil.copytree(finished.output_dir, tmp_path / "foreign")
    (tmp_path / "foreign" / "run.yaml").unlink()
    with pytest.raises(ConfigurationError, match=r"no run\.yaml"):
        training.train_classifier(tiny_run(tmp_path / "foreign"), resume=True)


@pytest.mark.parametrize(
    "content", [b"", b"model: {a", b"model: 3\n", b"\xff\xfe"], ids=["empty", "cut", "scalar", "binary"]
)
def test_a_damaged_record_of_a_run_is_said(finished, tmp_path, content):
    shutil.copytree(finished.output_dir, tmp_path / "run")
    (tmp_path / "run" / "run.yaml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"^cannot resume: .*run\.yaml") as caught:
        training.train_classifier(tiny_run(tmp_path / "run"), resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resume", [False, True])
def test_where_a_run_writes_is_looked_at_before_its_data(tmp_path, resume):
    """A file, and a folder below one: said although the data set is not there either."""
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigurationError, match=r"cannot be written: '.*file' is a file"):
            training.train_classifier(tiny_run(output, dataset="/nowhere"), resume=resume)


def test_a_video_llm_is_no_classifier(tmp_path):
    values = {"model_type": "dna_video_llama3", "learning_rates": {"lora": 1e-4}, "output_dir": str(tmp_path / "run")}
    with pytest.raises(ConfigurationError, match="'dna_video_llama3' is for dna-hf train alone: it is no classifier"):
        training.train_classifier(run_config({}, values))
    with pytest.raises(ConfigurationError, match="'dna_vit' is no video LLM: set dna_video_llama3"):
        train_video_llm(tiny_run(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def without_embeddings(path):
    save_file({name: tensor for name, tensor in load_file(path).items() if "cls_token" not in name}, path)


def with_a_stranger(path):
    save_file(load_file(path) | {"stranger": torch.zeros(1)}, path)


def misshaped(path):
    save_file(load_file(path) | {"dna_vit.embeddings.cls_token": torch.zeros(1, 1, 3)}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "the weights of .* cannot be read: 'model.safetensors' is damaged or cut off"),
        (without_embeddings, r"tensors: 1 missing \(first 'dna_vit.embeddings.cls_token'\)"),
        (with_a_stranger, r"tensors: 1 unexpected \(first 'stranger'\)"),
        (misshaped, r"tensors: 1 of another shape \(first 'dna_vit.embeddings.cls_token'\)"),
    ],
)
def test_a_damaged_start_checkpoint_is_said(finished, tmp_path, damage, message):
    """Whatever is not its head comes from the checkpoint, whole."""
    start = tmp_path / "start"
    shutil.copytree(finished.output_dir, start, ignore=shutil.ignore_patterns("checkpoint-*"))
    damage(start / "model.safetensors")
    with pytest.raises(ConfigurationError, match=f"^section 'model': .*{message}") as caught:
        training.train_classifier(tiny_run(tmp_path / "run", checkpoint=str(start)))
    assert str(start) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_origin_that_cannot_be_told_is_said_before_training(finished, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(finished.output_dir, start, ignore=shutil.ignore_patterns("checkpoint-*"))
    (start / "conversion.json").write_text('{"sour')
    with pytest.raises(ConfigurationError, match=r"conversion\.json in .* is damaged: .*; remove it"):
        training.train_classifier(tiny_run(tmp_path / "run", checkpoint=str(start)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_attention_heads": 3}, "hidden_size .16. is not a multiple of num_attention_heads .3."),
        ({"patch_size": 5}, "image_size .28. must be a positive multiple of patch_size .5."),
        ({"hidden_size": -16}, "hidden_size"),
        ({"report_to": "nothing_known"}, "nothing_known"),
        ({"checkpoint": "/nowhere/checkpoint"}, "/nowhere/checkpoint"),
        ({"eval_strategy": "steps", "load_best_model_at_end": True, "save_steps": 7, "eval_steps": 3}, "multiple"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_run_that_cannot_work_writes_nothing(tmp_path, overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        training.train_classifier(tiny_run(tmp_path / "run", **overrides))
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_stops_the_run_and_is_named(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "data" / split / label).mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (28, 28)).save(tmp_path / "data" / split / label / f"{number}.png")
    (tmp_path / "data" / "train" / "b" / "2.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"cannot read image .*b.2\.png"):
        training.train_classifier(tiny_run(tmp_path / "run", dataset=str(tmp_path / "data")))
    assert not list(tmp_path.glob("run/*"))


def test_fine_tuning_starts_from_the_weights_of_a_checkpoint(finished, tmp_path):
    run = tiny_run(
        tmp_path / "tuned",
        checkpoint=str(finished.output_dir),
        dataset=str(shared_path("data", "cifar10")),
        max_steps=1,
        learning_rate=1e-9,
    )
    training.train_classifier(run)
    before, after = weights(finished.output_dir), weights(tmp_path / "tuned")
    name = "dna_vit.embeddings.cls_token"
    assert torch.allclose(before[name], after[name], atol=1e-6)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["id2label"]["0"] == "airplane"


def test_fine_tuning_starts_from_a_masked_image_model(finished, tmp_path):
    start = DnAViTForMaskedImageModeling(DnAViTForImageClassification.from_pretrained(finished.output_dir).config)
    start.save_pretrained(tmp_path / "masked")
    shutil.copy(finished.output_dir / "preprocessor_config.json", tmp_path / "masked")
    model, _ = training.build_model(tiny_run(tmp_path / "run", checkpoint=str(tmp_path / "masked")), ["a", "b"])
    for name, tensor in model.dna_vit.state_dict().items():
        assert torch.equal(tensor, start.dna_vit.state_dict()[name]), name
    assert model.classifier.out_features == 2


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"attention_variant": "softmax"},
            "model.attention_variant is 'softmax', .* 'dna': .* --attention_variant dna",
        ),
        ({"hidden_size": 32}, "model.hidden_size is 32, but checkpoint .* has 16: leave .* give --hidden_size 16"),
        ({"num_attention_heads": 1}, "num_attention_heads is 1, .* has 2: .* give --num_attention_heads 2"),
        ({"qkv_bias": False}, "qkv_bias is False, .* has True: .* give --qkv_bias true"),
        (
            {"hidden_size": 1024, "num_hidden_layers": 40, "intermediate_size": 4096, "num_attention_heads": 3},
            "hidden_size is 1024, .* --hidden_size 16 --num_hidden_layers . --num_attention_heads 2 --inter",
        ),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_structure_is_refused(finished, tmp_path, asked, said):
    run = tiny_run(tmp_path / "run", checkpoint=str(finished.output_dir), **asked)
    with pytest.raises(ConfigurationError, match=f"^section 'model': .*{said}"):
        training.train_classifier(run)


@pytest.mark.parametrize(
    ("config_class", "model_class", "said"),
    [
        (
            ViTConfig,
            ViTForImageClassification,
            "holds a vit model, but .* needed: make one of it with dna-hf convert",
        ),
        (
            DnATimesformerConfig,
            DnATimesformerForVideoClassification,
            "holds a video classifier, but model_type is 'dna_vit': set 'dna_timesformer'",
        ),
    ],
    ids=["softmax", "videos"],
)
def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, config_class, model_class, said):
    config = config_class(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model_class(config).save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigurationError, match=said):
        training.train_classifier(run_config({}, {"output_dir": "x", "checkpoint": str(tmp_path / "other")}))


def test_streamed_training(tmp_path):
    options = {"dataset": str(shared_path("data", "cifar10")), "streaming": True, "image_size": 28}
    with pytest.raises(ConfigurationError, match="max_steps"):
        training.train_classifier(tiny_run(tmp_path / "endless", **options))
    for name in ("first", "second"):
        training.train_classifier(tiny_run(tmp_path / name, max_steps=6, **options))
    assert_same_weights(weights(tmp_path / "first"), weights(tmp_path / "second"))


def test_trackers_write_when_asked(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    training.train_classifier(tiny_run(tmp_path / "run", report_to="tensorboard", max_steps=2))
    assert list((tmp_path / "board").rglob("events.out.tfevents.*"))
