"""The shipped configurations: the paper's recipe against its table, and every one of them for two steps."""

from pathlib import Path

import pytest
import torch
import yaml

from dna_hf import DnAViTConfig, DnAViTForImageClassification
from dna_hf.data.images import image_processor
from dna_hf.recipes import default_output_dir, read_header
from dna_hf.training.classification import build_model, train_classifier
from dna_hf.training.config_file import run_config
from dna_hf.training.optimizer import decay_parameter_names
from dna_hf.training.schedule import epoch_cosine
from dna_hf.training.yaml_file import read_sections
from tests.kit.headers import commands, figures, runs
from tests.kit.paths import ROOT


ALL_CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
# those of videos: test_video_recipes.py, of video LLMs: test_video_llm.py
CONFIGS = [path for path in ALL_CONFIGS if read_sections(path)["model"].get("model_type", "dna_vit") == "dna_vit"]
IMAGENET = ROOT / "configs" / "vit_base_imagenet1k.yaml"
PARAMETERS = {
    "softmax": 86_566_888,
    "dna": 100_741_240,
    "dna_shared_value": 93_654_136,
    "differential": 86_569_192,
    "cog": 86_566_888,
}
# the launch script of the paper, setting by setting
RECIPE = {
    "model": {
        "image_size": 224,
        "patch_size": 16,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "drop_path_rate": 0.15,
        "drop_path_schedule": "constant",
    },
    "data": {
        "auto_augment": "rand-m9-mstd0.5-inc1",
        "crop_pct": 0.875,
        "crop_ratio": [3 / 4, 4 / 3],
        "crop_scale": [0.08, 1.0],
        "cutmix_alpha": 1.0,
        "erasing_probability": 0.25,
        "flip_probability": 0.5,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "interpolation": "bicubic",
        "mix_probability": 1.0,
        "mix_switch_probability": 0.5,
        "mixup_alpha": 0.8,
        "repeated_augmentation": 3,
    },
    "training": {
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "dataloader_drop_last": True,
        "dataloader_num_workers": 8,
        "decay_all": True,
        "ema_decay": 0.0,
        "epoch_cosine": True,
        "fp16": True,
        "gradient_accumulation_steps": 4,
        "label_smoothing_factor": 0.1,
        "layer_decay": 1.0,
        "learning_rate": 1e-3,
        "lr_scheduler_kwargs": {"warmup_epochs": 5, "warmup_lr": 1e-6, "min_lr": 1e-5},
        "max_grad_norm": 0,
        "num_train_epochs": 300,
        "per_device_eval_batch_size": 384,
        "per_device_train_batch_size": 256,
        "seed": 0,
        "weight_decay": 0.075,
    },
}


# top-1 and top-5 in percent, as the paper reports them
FIGURES = {
    "softmax": ("81.1", "95.6"),
    "differential": ("81.4", "95.7"),
    "cog": ("81.4", "95.7"),
    "dna": ("81.9", "95.9"),
    "dna_shared_value": ("-", "-"),
}


def imagenet(variant):
    """The run that the command of the recipe for this variant makes."""
    (run,) = [run for run in runs(IMAGENET) if run[1].get("attention_variant", "dna") == variant]
    return run_config(read_sections(run[0]), run[1] | {"output_dir": "unused"})


def test_there_is_a_command_and_a_figure_for_every_variant():
    assert sorted(given.get("attention_variant", "dna") for _, given in runs(IMAGENET)) == sorted(PARAMETERS)
    assert all(len(given) <= 1 for _, given in runs(IMAGENET))
    rows = figures(IMAGENET)
    assert {row["attention_variant"]: (row["top-1, %"], row["top-5, %"]) for row in rows} == FIGURES
    for row in rows:
        reported = "no figure reported, none measured" if row["top-1, %"] == "-" else "reported in the paper"
        assert row["source"] == reported


@pytest.mark.parametrize("variant", PARAMETERS)
def test_the_recipe_is_the_papers(variant):
    run = imagenet(variant)
    for name, value in RECIPE["model"].items():
        assert run.model[name] == value, name
    for section, arguments in (("data", run.data), ("training", run.training)):
        for name, value in RECIPE[section].items():
            assert getattr(arguments, name) == value, name
    assert run.model["attention_variant"] == variant
    assert run.training.optim == "adamw_torch"
    assert (run.data.train_split, run.data.eval_split) == ("train", "validation")


def test_the_variants_differ_in_the_variant_alone():
    sections = {variant: imagenet(variant).sections for variant in PARAMETERS}
    for variant, content in sections.items():
        assert content["model"].pop("attention_variant") == variant
    assert all(content == sections["dna"] for content in sections.values())


def test_the_variants_write_to_folders_of_their_own():
    folders = [default_output_dir(*run) for run in runs(IMAGENET)]
    assert folders[0] == Path("runs/vit_base_imagenet1k")
    assert len(set(folders)) == len(PARAMETERS)
    assert Path("runs/vit_base_imagenet1k_softmax") in folders


@pytest.mark.parametrize("variant", PARAMETERS)
def test_the_recipe_builds_the_papers_model(variant):
    run = imagenet(variant)
    with torch.device("meta"):
        model, processor = build_model(run, [str(number) for number in range(1000)])
    assert model.num_parameters() == PARAMETERS[variant]
    assert len(decay_parameter_names(model, run.training.decay_all)) == len(list(model.parameters()))
    assert (processor.size["shortest_edge"], processor.crop_size["height"], processor.resample) == (256, 224, 3)


def test_the_recipe_has_the_papers_learning_rates():
    training = imagenet("dna").training
    options = training.lr_scheduler_kwargs
    rates = [
        training.learning_rate
        * epoch_cosine(
            epoch,
            epochs=int(training.num_train_epochs),
            warmup_epochs=options["warmup_epochs"],
            warmup_rate=options["warmup_lr"] / training.learning_rate,
            min_rate=options["min_lr"] / training.learning_rate,
        )
        for epoch in (0, 1, 6, 299)
    ]
    assert rates == pytest.approx([1e-6, 1e-6, 9.993e-4, 1.011e-5], rel=1e-3)


SMALL = {
    "dataset": "fashion-mnist-mini",
    "eval_split": "test",
    "max_train_samples": 24,
    "max_eval_samples": 8,
    "per_device_train_batch_size": 6,
    "gradient_accumulation_steps": 2,
    "per_device_eval_batch_size": 8,
    "max_steps": 2,
    "num_train_epochs": 1,
    "dataloader_num_workers": 0,
    "dataloader_persistent_workers": False,
    "dataloader_pin_memory": False,
    "fp16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "auto_augment": None,
}
SMALL_MODEL = {"image_size": 28, "patch_size": 14, "hidden_size": 16, "intermediate_size": 32}
SMALL_MODEL |= {"num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_runs_when_scaled_down(path, tmp_path):
    sections = read_sections(path)
    overrides = SMALL | {"output_dir": str(tmp_path / "run")}
    if "checkpoint" in sections["model"]:
        overrides["checkpoint"] = small_checkpoint(tmp_path / "checkpoint")
    else:
        overrides |= SMALL_MODEL
    result = train_classifier(run_config(sections, overrides))
    assert result.metrics["eval_images"] == 8
    assert (tmp_path / "run" / "model.safetensors").is_file()
    state = yaml.safe_load((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 2


def small_checkpoint(folder: Path) -> str:
    DnAViTForImageClassification(DnAViTConfig(**SMALL_MODEL, num_labels=3)).save_pretrained(folder)
    image_processor(run_config({}, {"output_dir": "unused"}).data, (28, 28)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("path", ALL_CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_says_what_it_is(path):
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    for word in ("Purpose:", "Data:", "Expect:", "Time:", "Command:"):
        assert any(line.startswith(f"# {word}") for line in header), word
    assert list(read_header(path)) == ["Purpose", "Data", "Expect", "Time", "Command"]
    assert any(
        words[:3] in (["dna-hf", "train", path.stem], ["dna-hf", "compare", path.stem]) for words in commands(path)
    )
