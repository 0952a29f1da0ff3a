"""A comparison of variants: the same data for all, every figure from a run, resumable and repeatable."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from dna_hf import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnAViTConfig,
    DnAViTForImageClassification,
)
from dna_hf.cli import main
from dna_hf.experiments import compare as comparing
from dna_hf.experiments.compare import compare
from dna_hf.experiments.summary import RunFigures, draw, matched_intermediate_size, summary
from dna_hf.records.complexity import count_parameters
from dna_hf.training import classification as training
from dna_hf.training.errors import ConfigurationError
from tests.kit.command_line import instead_of_processes
from tests.kit.pictures import save_turned
from tests.kit.training import SECTIONS, tiny_run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(SECTIONS))
    return path


@pytest.fixture(scope="module")
def compared(recipe, tmp_path_factory):
    """Two variants under two seeds, and what was reported."""
    folder, told = tmp_path_factory.mktemp("compared") / "out", []
    with instead_of_processes(comparing):
        figures = compare(
            recipe,
            ["softmax", "dna"],
            [0, 1],
            folder,
            overrides={"num_train_epochs": 1},
            report=told.append,
            announce=lambda *what: told.append(what),
        )
    return folder, figures, told


def run_of(variant, seed, top1, **changes):
    facts = {"loss": 1.0, "parameters": 1000, "macs": 2_000_000, "seconds": 10.0, "samples_per_second": 50.0}
    return RunFigures(variant, seed, top1, **facts | {"peak_memory": 2**20, "resumed": False} | changes)


def test_figures_are_those_of_the_runs(compared):
    folder, figures, (announced, *told) = compared
    summary, facts = announced
    assert {split.name: split.samples for split in summary.splits} == {"train": 40, "test": 20}
    assert dict(facts).items() >= {"variants": "softmax, dna", "seeds": "0, 1", "runs": "4, each of 1 epochs"}.items()
    assert [(run.variant, run.seed) for run in figures] == [("softmax", 0), ("softmax", 1), ("dna", 0), ("dna", 1)]
    assert len(told) == 4 and all("starts" in line for line in told)
    for run in figures:
        place = folder / run.variant / f"seed{run.seed}"
        results = yaml.safe_load((place / "eval_results.json").read_text())
        assert (run.top1, run.loss) == (results["eval_top1"], results["eval_loss"])
        assert run.parameters == sum(tensor.numel() for tensor in load_file(place / "model.safetensors").values())
        assert run.samples_per_second > 0 and run.peak_memory > 2**26 and not run.resumed
        settings = yaml.safe_load((place / "run.yaml").read_text())
        assert settings["training"]["seed"] == settings["training"]["data_seed"] == run.seed
    with (folder / "runs.csv").open() as file:
        assert [row["top1"] for row in csv.DictReader(file)] == [str(run.top1) for run in figures]


def test_the_same_command_does_nothing_again(compared, recipe):
    folder, figures, _ = compared
    told = []
    again = compare(recipe, ["softmax", "dna"], [0, 1], folder, overrides={"num_train_epochs": 1}, report=told.append)
    assert again == figures
    assert all("finished before" in line for line in told)


def test_a_stopped_comparison_goes_on(compared, recipe, tmp_path):
    folder, figures, _ = compared
    copy = Path(shutil.copytree(folder, tmp_path / "out"))
    unfinished = copy / "dna" / "seed1"
    for name in ("training.json", "measurements.json", "model.safetensors"):
        (unfinished / name).unlink()
    shutil.rmtree(copy / "dna" / "seed0")
    with instead_of_processes(comparing):
        again = compare(
            recipe, ["softmax", "dna"], [0, 1], copy, overrides={"num_train_epochs": 1}, report=lambda line: None
        )
    assert [run.resumed for run in again] == [False, False, False, True]
    assert [(run.top1, run.loss) for run in again] == [(run.top1, run.loss) for run in figures]
    for seed in (0, 1):
        first, second = (load_file(root / "dna" / f"seed{seed}" / "model.safetensors") for root in (folder, copy))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_recipe_does_not_mix(compared, recipe):
    folder, *_ = compared
    with pytest.raises(ConfigurationError, match=r"training.num_train_epochs = 1.*, not 2"):
        compare(recipe, ["softmax"], [0], folder, overrides={"num_train_epochs": 2})


def test_data_order_and_augmentation_are_the_same_for_all_variants(tmp_path):
    batches = {}
    for variant in ("softmax", "dna", "cog"):
        run = tiny_run(tmp_path / variant, attention_variant=variant, seed=3, data_seed=3)
        training.set_seed(run.training.seed)
        train_images, eval_images = training.task_of(run).load(run)
        model, processor = training.build_model(run, train_images.class_names)
        loader = training.build_trainer(run, model, processor, train_images, eval_images).get_train_dataloader()
        batches[variant] = [(batch["rows"], batch["pixel_values"]) for batch in loader]
    for variant in ("dna", "cog"):
        for (rows, pixels), (other_rows, other_pixels) in zip(batches["softmax"], batches[variant], strict=True):
            assert torch.equal(rows, other_rows) and torch.equal(pixels, other_pixels)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
        {
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 192,
            "qkv_bias": False,
        },
    ],
)
def test_matched_parameters(sizes):
    dna = DnAViTConfig(**sizes)
    widened = DnAViTConfig(
        **sizes | {"attention_variant": "softmax", "intermediate_size": matched_intermediate_size(dna)}
    )
    wanted, found = (count_parameters(DnAViTForImageClassification, config) for config in (dna, widened))
    assert abs(found - wanted) <= dna.num_hidden_layers * (2 * dna.hidden_size + 1)


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time", "space_only"])
def test_matched_parameters_of_videos(attention_type):
    sizes = {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 192}
    sizes |= {"attention_type": attention_type}
    dna = DnATimesformerConfig(**sizes)
    widened = DnATimesformerConfig(
        **sizes | {"attention_variant": "softmax", "intermediate_size": matched_intermediate_size(dna)}
    )
    wanted, found = (count_parameters(DnATimesformerForVideoClassification, config) for config in (dna, widened))
    assert abs(found - wanted) <= 4 * (2 * 96 + 1)


def test_summary():
    figures = [run_of("softmax", seed, top1) for seed, top1 in enumerate((0.80, 0.81, 0.82))]
    figures += [run_of("dna", seed, top1, parameters=1164) for seed, top1 in enumerate((0.81, 0.83, 0.825))]
    lines = summary(figures).splitlines()
    assert len(lines) == 4
    assert "| softmax | 3 | 81.00 ± 1.00 % |  |" in lines[2]
    # differences 1, 2 and 0.5 points
    assert "| dna | 3 | 82.17 ± 1.04 % | +1.17 ± 1.90 | 1,164 | 2.0 M | 10 s | 50 | 1 MiB |" in lines[3]


def test_summary_with_the_mean_over_classes():
    figures = [run_of("softmax", seed, 0.8, mean_class_accuracy=0.7 + 0.02 * seed) for seed in (0, 1)]
    header, rule, row = summary(figures).splitlines()
    assert "| mean class accuracy, mean ± standard deviation |" in header
    assert "| softmax | 2 | 80.00 ± 0.00 % |  | 71.00 ± 1.41 % | 1,000 |" in row
    assert header.count("|") == rule.count("|") == row.count("|")
    # not stated where a run lacks it
    assert "mean class" not in summary([*figures, run_of("dna", 0, 0.8)])


def test_summary_of_what_cannot_be_said():
    assert "no softmax run" in summary([run_of("dna", 0, 0.5)])
    single = summary([run_of("softmax", 0, 0.5), run_of("dna", 0, 0.6, resumed=True)])
    assert "| dna | 1 | 60.00 % | +10.00 |" in single and "not measured (resumed)" in single


def test_figure(tmp_path):
    figures = [
        run_of(variant, seed, 0.8 + 0.01 * seed) for variant in ("softmax", "softmax_matched") for seed in (0, 1)
    ]
    draw(figures, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 300 and len(image.convert("L").getcolors()) > 10


def test_converted_checkpoints(tmp_path):
    """From one pretrained checkpoint, each variant is converted from it, softmax being its plain fine-tune."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    sizes = {"image_size": 28, "patch_size": 14, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTForImageClassification(ViTConfig(**sizes, intermediate_size=32)).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(tmp_path / "vit")
    sections = SECTIONS | {"model": {"checkpoint": str(tmp_path / "vit")}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    code = main(
        ["compare", str(tmp_path / "recipe.yaml"), "--variants", "softmax,dna", "--seeds", "4", "--output_dir"]
        + [str(tmp_path / "out"), "--max_steps", "2"]
    )
    assert code == 0
    for variant in ("softmax", "dna"):
        config = yaml.safe_load((tmp_path / "out" / variant / "seed4" / "config.json").read_text())
        assert config["attention_variant"] == variant and config["num_hidden_layers"] == 2
    assert "| dna | 1 |" in (tmp_path / "out" / "summary.md").read_text()
    assert (tmp_path / "out" / "summary.png").exists()


VIDEO_SIZES = {"image_size": 16, "patch_size": 8, "num_frames": 2, "hidden_size": 16, "num_hidden_layers": 1}
VIDEO_SIZES |= {"num_attention_heads": 2, "intermediate_size": 32}


def video_recipe(folder, **model):
    """A recipe of videos, for a run of two steps."""
    sections = {
        "model": {"model_type": "dna_timesformer", **model},
        "data": {"dataset": "moving-fashion-mnist", "max_train_samples": 16, "max_eval_samples": 16},
        "training": {**SECTIONS["training"], "max_steps": 2, "per_device_train_batch_size": 8},
    }
    path = folder / "videos.yaml"
    path.write_text(yaml.safe_dump(sections))
    return str(path)


@pytest.mark.slow
def test_videos(tmp_path):
    """Variants and seeds through the command line: a table with the mean over classes, and a figure."""
    out = tmp_path / "out"
    words = ["--variants", "softmax,dna", "--seeds", "0,1", "--output_dir", str(out)]
    assert main(["compare", video_recipe(tmp_path, **VIDEO_SIZES), *words]) == 0
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"]) for row in rows] == [
        ("softmax", "0"),
        ("softmax", "1"),
        ("dna", "0"),
        ("dna", "1"),
    ]
    for row in rows:
        place = out / row["variant"] / f"seed{row['seed']}"
        results = yaml.safe_load((place / "eval_results.json").read_text())
        for name in ("top1", "mean_class_accuracy", "loss"):
            assert float(row[name]) == results[f"eval_{name}"]
        config = DnATimesformerConfig.from_pretrained(place)
        assert config.attention_variant == row["variant"]
        assert int(row["parameters"]) == count_parameters(DnATimesformerForVideoClassification, config)
        assert int(row["macs"]) > 0
    table = (out / "summary.md").read_text()
    assert "mean class accuracy" in table and "| dna | 2 |" in table and (out / "summary.png").exists()


@pytest.mark.slow
def test_converted_checkpoint_of_videos(tmp_path, capsys):
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    TimesformerForVideoClassification(TimesformerConfig(**VIDEO_SIZES)).save_pretrained(tmp_path / "source")
    recipe = video_recipe(tmp_path, checkpoint=str(tmp_path / "source"))
    words = ["compare", recipe, "--variants", "dna", "--seeds", "4", "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--model_type", "dna_vit"]) == 2
    assert "becomes a video classifier, but an image classifier is trained: set model_type" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("model.safetensors"))
    shutil.rmtree(tmp_path / "out")
    assert main(words) == 0
    for folder in ("converted/dna", "dna/seed4"):
        settings = yaml.safe_load((tmp_path / "out" / folder / "video_preprocessor_config.json").read_text())
        assert settings["num_frames"] == 2 and settings["crop_size"] == {"height": 16, "width": 16}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variants", "softmax,linear"], "unknown variant 'linear'"),
        (["--variants", "dna,dna"], "give every variant once"),
        (["--seeds", "1,1"], "give every seed once"),
        (["--variants", "dna", "--param-matched"], "put it among the variants"),
        (["--seed", "3"], "leave --seed out"),
        (["--attention_variant", "dna"], "leave --attention_variant out"),
        (["--hidden_sizes", "3"], "hidden_size"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--checkpoint", "nowhere", "--param-matched"], "does not go with model.checkpoint"),
        (["--push_to_hub"], "a comparison publishes none of its runs"),
        (["--learning_rate", "nan"], "training.learning_rate must be"),
    ],
)
def test_wrong_descriptions(recipe, tmp_path, capsys, words, message):
    assert main(["compare", str(recipe), "--output_dir", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("dna-hf: error: ") and message in error
    assert not list((tmp_path / "out").rglob("model.safetensors"))


def test_a_foreign_folder_is_left_alone(recipe, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="holds no comparison"):
        compare(recipe, ["softmax"], [0], tmp_path / "out")
    assert (tmp_path / "out" / "precious.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_used_is_said_before_a_run(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(ConfigurationError, match="cannot be written: .* is a file"):
            compare(recipe, ["softmax"], [0], folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "compare.yaml").write_text("model: {a")
    with pytest.raises(ConfigurationError, match=r"compare.yaml' is no valid YAML"):
        compare(recipe, ["softmax"], [0], tmp_path / "out")


def test_video_llms_are_not_compared(tmp_path):
    (tmp_path / "llm.yaml").write_text(
        "model: {model_type: dna_video_llama3}\ntraining: {learning_rates: {lora: 1e-4}}\n"
    )
    with pytest.raises(ConfigurationError, match="'dna_video_llama3' is for dna-hf train alone: it is no classifier"):
        compare(tmp_path / "llm.yaml", ["softmax"], [0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_run_is_named(recipe, tmp_path):
    with pytest.raises(ConfigurationError, match=r"softmax/seed0' failed .*seed0-log.txt.*nonexistent"):
        compare(recipe, ["softmax"], [0], tmp_path / "out", overrides={"report_to": "nonexistent"})


@pytest.mark.parametrize(
    ("figures", "header", "row"),
    [
        (
            {"map": (0.8, 0.9), "f1_macro": (0.7, 0.7)},
            "| mAP, mean ± standard deviation | difference to softmax, 95 % interval | F1, mean over classes, mean",
            "| dna | 2 | 85.00 ± 7.07 % | +5.00 ± 63.53 | 70.00 ± 0.00 % |",
        ),
        (
            {"r2": (0.5, 0.75), "rmse": (0.2, 0.1)},
            "| R², mean ± standard deviation | difference to softmax, 95 % interval | root mean square error, mean",
            "| dna | 2 | 0.6250 ± 0.1768 | +0.0250 ± 1.5882 | 0.1500 ± 0.0707 |",
        ),
    ],
    ids=["several labels", "regression"],
)
def test_summary_of_other_problem_types(tmp_path, figures, header, row):
    """The first figure is compared, the second one stated beside it; greater is better."""
    first, second = figures
    base = (0.8, 0.8) if first == "map" else (0.6, 0.6)
    runs = [run_of("softmax", seed, None, **{first: base[seed], second: 0.5}) for seed in (0, 1)]
    runs += [run_of("dna", seed, None, **{name: values[seed] for name, values in figures.items()}) for seed in (0, 1)]
    lines = summary(runs).splitlines()
    assert header in lines[0] and row in lines[3]
    draw(runs, tmp_path / "figure.png")
    assert {"map", "f1_macro", "r2", "rmse"} & runs[0].by_name().keys() == figures.keys()
    assert "map" not in run_of("dna", 0, 0.5).by_name() and "mean_class_accuracy" in run_of("dna", 0, 0.5).by_name()


def test_a_comparison_of_a_regression(tmp_path, recipe):
    pictures = save_turned(tmp_path / "turned", {"train": 16, "test": 8})
    keys = {"dataset": str(pictures), "label_column": "angle", "num_train_epochs": 1}
    with instead_of_processes(comparing):
        figures = compare(recipe, ["softmax", "dna"], [0], tmp_path / "out", overrides=keys)
    with (tmp_path / "out" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    for run, row in zip(figures, rows, strict=True):
        results = yaml.safe_load((tmp_path / "out" / run.variant / "seed0" / "eval_results.json").read_text())
        assert (run.r2, run.rmse, run.top1) == (results["eval_r2"], results["eval_rmse"], None)
        assert (row["r2"], row["top1"]) == (str(run.r2), "")
