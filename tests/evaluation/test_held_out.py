"""What training holds out can be evaluated again: the same images, the same figures."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.errors import DataError
from dna_hf.evaluation.held_out import as_trained
from dna_hf.records.checkpoint_records import read_measurements, read_training
from tests.kit.command_line import run_cli
from tests.kit.training import SECTIONS


RECORDS = {"training.json", "measurements.json"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images, the run of a checkpoint on them, and what the run printed."""
    folder = tmp_path_factory.mktemp("held out")
    random = np.random.default_rng(0)
    for name in ("rose", "tulip", "daisy"):
        (folder / "flowers" / name).mkdir(parents=True)
        for number in range(30):
            pixels = random.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "flowers" / name / f"test {number}.png")
    data = {"dataset": "flowers", "class_names": ["tulip", "daisy", "rose"], "validation_fraction": 0.2}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SECTIONS | {"data": data}))
    done = run_cli("train", "tiny.yaml", "--max_steps", 3, "--seed", 5, "--output_dir", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def evaluate(folder, *words):
    done = run_cli("evaluate", "run", "--split", "held-out", *words, "--output", "figures.json", cwd=folder)
    return done, json.loads((folder / "figures.json").read_text()) if done.returncode == 0 else None


def test_the_figures_are_exactly_those_of_training(trained):
    folder, printed = trained
    (measured,) = read_measurements(folder / "run")
    done, report = evaluate(folder, "--dataset", "flowers")
    assert done.returncode == 0, done.stderr
    again = report["measurement"]
    assert measured.metrics.items() <= again["metrics"].items() and again["samples"] == measured.samples == 18
    assert (again["split"], again["seed"]) == (measured.split, measured.seed) == ("held out", 5)
    rows = [line for line in printed.splitlines() if line.startswith(("top-1 ", "loss ", "mean class", "95 %"))]
    assert len(rows) == 4 and all(row.split() in [line.split() for line in done.stdout.splitlines()] for row in rows)
    # without what the record says it is another part, of another seed it certainly is
    (folder / "run").rename(folder / "kept")
    shutil.copytree(folder / "kept", folder / "run", ignore=shutil.ignore_patterns(*RECORDS))
    _, other = evaluate(folder, "--dataset", "flowers", "--seed", 6, "--validation_fraction", 0.2)
    _, same = evaluate(
        *(folder, "--dataset", "flowers", "--seed", 5, "--validation_fraction", 0.2),
        *("--class_names", "[tulip, daisy, rose]"),
    )
    shutil.rmtree(folder / "run")
    (folder / "kept").rename(folder / "run")
    assert measured.metrics.items() <= same["measurement"]["metrics"].items()
    assert other["metrics"]["loss"] != report["metrics"]["loss"]


def test_distractors_and_analyze_take_the_same_images(trained):
    folder, _ = trained
    common = ("run", "--dataset", "flowers", "--split", "held-out")
    for words in (("distractors", *common, "--max-tiles", 1), ("analyze", *common, "--no-untrained", "--pictures", 1)):
        done = run_cli(*words, "--output-dir", words[0], cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "18 of 90 images of 'train' are held out (validation_fraction 0.2, seed 5" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dataset", "flowers", "--seed", 4), "was trained with seed 5, not 4: leave --seed out"),
        (("--dataset", "flowers", "--validation_fraction", 0.3), "validation_fraction is 0.3, but .* with 0.2"),
        (("--dataset", "flowers", "--class_names", "[rose, tulip, daisy]"), "class_names is .*another part was held"),
        (("--dataset", "fashion-mnist-mini"), "was trained on 'flowers', which says nothing .* 'fashion-mnist-mini'"),
        (
            ("--dataset", "fashion-mnist-mini", "--seed", 1),
            "nothing of data set .* is held out, for it has split 'test'",
        ),
    ],
)
def test_what_contradicts_the_training_is_refused(trained, words, message):
    done, _ = evaluate(trained[0], *words)
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr


def test_what_has_no_effect_on_another_split_is_refused(trained):
    folder, _ = trained
    for words, message in (
        (("--seed", 5), "a seed says which part was held out"),
        (("--validation_fraction", 0.2), "it is for training and --split held-out"),
    ):
        done = run_cli("evaluate", "run", "--dataset", "flowers", "--split", "train", *words, cwd=folder)
        assert done.returncode == 2 and message in done.stderr


def test_checkpoints_with_other_parts_are_refused(trained, tmp_path):
    folder, _ = trained
    other = tmp_path / "other"
    shutil.copytree(folder / "run", other)
    content = json.loads((other / "training.json").read_text())
    (other / "training.json").write_text(json.dumps(content | {"seed": 6}))
    arguments = ImageDataArguments(dataset=str(folder / "flowers"))
    with pytest.raises(DataError, match=r"different parts were held out \(seeds 5 and 6\)"):
        as_trained([str(folder / "run"), str(other)], arguments, "held-out")
    (other / "training.json").unlink()
    with pytest.raises(DataError, match="has no record of its training.*give the seed"):
        as_trained([str(other)], arguments, "held out")
    found, seed = as_trained([str(folder / "run")], arguments, "held-out")
    assert seed == read_training(folder / "run").seed == 5
    assert (found.validation_fraction, found.class_names) == (0.2, ["tulip", "daisy", "rose"])
    assert as_trained([str(other)], arguments, "test") == (arguments, None)


def test_without_evaluation_nothing_is_held_out(trained, tmp_path):
    folder, _ = trained
    done = run_cli(
        *("train", "tiny.yaml", "--max_steps", 1, "--eval_strategy", "no", "--output_dir", tmp_path / "run"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "90 images, 3 classes" in done.stdout and "held out" not in done.stdout
    assert "none: eval_strategy is no, and the data has no split to evaluate on" in done.stdout
    assert read_measurements(tmp_path / "run") == []
    assert read_training(tmp_path / "run").dataset.splits == {"train": 90}
