"""Recipes are listed with purpose and cost, found by name, and copied to be edited."""

from pathlib import Path

import pytest

from dna_hf import recipes
from dna_hf.cli import main
from dna_hf.recipes import RecipeError, default_output_dir, find
from tests.kit.paths import ROOT


CONFIGS = ROOT / "configs"
RUNS = sorted(CONFIGS.glob("*.yaml"))
LAUNCHERS = sorted((CONFIGS / "accelerate").glob("*.yaml"))


def test_all_files_are_recipes():
    found = recipes.recipes()
    # an installed package has files of its own, the same ones
    assert [recipe.path.relative_to(recipes.folder()) for recipe in found] == [
        path.relative_to(CONFIGS) for path in (*RUNS, *LAUNCHERS)
    ]
    assert [recipe.path.read_bytes() for recipe in found] == [path.read_bytes() for path in (*RUNS, *LAUNCHERS)]
    assert [recipe.name for recipe in found if recipe.is_launcher] == [f"accelerate/{path.stem}" for path in LAUNCHERS]
    for recipe in found:
        assert recipe.purpose.endswith(".") and recipe.header["Command"]
        assert bool(recipe.cost) != recipe.is_launcher
        assert find(recipe.name) == recipe.path


def test_the_list_has_names_purposes_and_costs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["recipes"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for recipe in recipes.recipes():
        cost = f" cost: {recipe.cost}" if recipe.cost else ""
        assert f"{recipe.name} {recipe.purpose}{cost}" in shown
    documents = Path(shown.rpartition("documents that explain them: ")[2])
    named = [word for recipe in recipes.recipes() for word in recipe.purpose.split() if word.startswith("docs/")]
    assert named and all((documents.parent / name).is_file() for name in named)


def test_a_recipe_is_printed_and_copied(capsys, tmp_path):
    path = ROOT / "configs" / "vit_tiny_fashion_mnist.yaml"
    assert main(["recipes", path.stem]) == 0
    assert capsys.readouterr().out == path.read_text()
    copy = tmp_path / "new" / "mine.yaml"
    assert main(["recipes", path.stem, "--copy", str(copy)]) == 0
    assert copy.read_bytes() == path.read_bytes()
    # what was edited stays
    copy.write_text("mine")
    assert main(["recipes", path.stem, "--copy", str(copy)]) == 2
    assert copy.read_text() == "mine" and "exists" in capsys.readouterr().err


def test_a_path_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("vit_tiny_cifar10").mkdir()
    assert find("vit_tiny_cifar10") == recipes.folder() / "vit_tiny_cifar10.yaml"
    Path("vit_tiny_cifar10").rmdir()
    Path("vit_tiny_cifar10").write_text("model: {}")
    assert find("vit_tiny_cifar10") == Path("vit_tiny_cifar10")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_fashion", "did you mean 'vit_tiny_fashion_mnist'"),
        ("vit_base_imagenet1k_dna", "did you mean 'vit_base_imagenet1k'"),
        ("configs/timesformer_base_smarthome_cs_dna.yaml", "did you mean 'timesformer_base_smarthome'"),
        ("dpp", "did you mean 'accelerate/ddp'"),
        ("nothing like it", "dna-hf recipes lists all"),
        (".", "'.' is a folder and not the name of a recipe"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(name, message):
    with pytest.raises(RecipeError, match=message) as caught:
        find(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", [["train"], ["compare"], ["benchmark", "data"], ["recipes"]], ids=" ".join)
def test_verbs_name_the_nearest_recipe(verb, capsys):
    assert main([*verb, "vit_tiny_cifar"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dna-hf: error: 'vit_tiny_cifar' is no file") and "'vit_tiny_cifar10'" in line


def test_a_file_that_is_no_text_is_one_sentence(capsys, tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    assert main(["recipes", str(tmp_path / "picture.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "picture.png" in line


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        ({}, "runs/mine"),
        ({"learning_rate": 1, "seed": 3}, "runs/mine"),
        ({"attention_variant": "dna"}, "runs/mine_dna"),
        ({"model.attention_variant": "cog", "data.protocol": "ntu60-xview"}, "runs/mine_ntu60-xview_cog"),
        ({"attention_variant": "softmax", "attention_type": "space_only"}, "runs/mine_space_only_softmax"),
    ],
)
def test_a_folder_is_named_by_what_was_chosen(overrides, folder):
    assert default_output_dir("somewhere/mine.yaml", overrides) == Path(folder)
    assert default_output_dir("mine", overrides) == Path(folder)


def test_two_variants_write_to_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {"max_steps": 1, "max_train_samples": 8, "max_eval_samples": 8, "hidden_size": 16, "use_cpu": "true"}
    small |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "save_strategy": "no"}
    words = [
        "train",
        "vit_tiny_fashion_mnist",
        *(word for key, value in small.items() for word in (f"--{key}", str(value))),
    ]
    assert main(words) == 0
    assert main([*words, "--attention_variant", "softmax"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "vit_tiny_fashion_mnist",
        "vit_tiny_fashion_mnist_softmax",
    ]
    # the same again would overwrite
    assert main(words) == 2
