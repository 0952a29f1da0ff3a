"""The command line as a user meets it."""

import json
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

import dna_hf
from dna_hf.cli import main
from dna_hf.cli.overrides import parse_overrides
from dna_hf.cli.table import table
from dna_hf.records.checkpoint_records import read_measurements, read_training
from dna_hf.records.digest import weights_digest
from dna_hf.training.errors import ConfigurationError
from tests.kit.command_line import run_cli
from tests.kit.training import SECTIONS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a configuration and the run that `dna-hf train` made of it."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SECTIONS))
    result = run_cli("train", "tiny.yaml", "--max_steps", 4, "--learning-rate=1e-2", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


@pytest.fixture
def pictures(tmp_path):
    """A folder of images, one of them in a subfolder."""
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for name in ("one.png", "more/two.jpg"):
        Image.effect_noise((40, 30), 60).convert("RGB").save(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def test_train_saves_in_runs_and_prints_a_summary(trained):
    folder, result = trained
    assert (folder / "runs" / "tiny" / "model.safetensors").exists()
    for line in ("attention variant", "parameters", "top-1", "saved in"):
        assert line in result.stdout
    record = yaml.safe_load((folder / "runs" / "tiny" / "run.yaml").read_text())
    assert record["training"]["max_steps"] == 4 and record["training"]["learning_rate"] == 0.01


def test_unfinished_models_are_not_published(trained, tmp_path, capsys):
    words = ["train", str(trained[0] / "tiny.yaml"), "--push_to_hub", "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--hub_strategy", "every_save"]) == 2
    assert "hub_strategy must be end" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_data_is_summarized_before_the_first_step(trained):
    lines = trained[1].stdout.splitlines()
    first_step = next(number for number, line in enumerate(lines) if line.startswith("{'"))
    for start in (
        "from  ",
        "train  ",
        "test  ",
        "looked at ",
        "duplicates across splits",
        "model ",
        "device",
        "training ",
    ):
        assert any(line.startswith(start) for line in lines[:first_step]), start
    summary = json.loads((trained[0] / "runs" / "tiny" / "data_summary.json").read_text())
    assert {name: split["samples"] for name, split in summary["splits"].items()} == {"train": 40, "test": 20}


def test_train_draws_its_curves_and_its_confusion(trained):
    folder, printed = trained[0] / "runs" / "tiny", trained[1].stdout
    rows = [line.split(",") for line in (folder / "confusion.csv").read_text().splitlines()]
    # the 20 images of the evaluation split
    assert sum(int(count) for row in rows[1:] for count in row[1:]) == 20
    names = ["confusion.png", "curves.png"] if find_spec("matplotlib") else []
    assert [name for name in ("confusion.png", "curves.png") if (folder / name).exists()] == names
    assert "class, worst first" in printed and "95 % interval of top-1" in printed


def test_train_records_what_a_card_may_say(trained):
    folder = trained[0] / "runs" / "tiny"
    (measurement,) = read_measurements(folder)
    training = read_training(folder)
    digest = weights_digest(load_file(folder / "model.safetensors"))
    measurement.verify(digest)
    training.verify(digest)
    figures = json.loads((folder / "eval_results.json").read_text())
    assert measurement.metrics == {name: figures[f"eval_{name}"] for name in ("top1", "top5", "loss")}
    assert (measurement.samples, measurement.split) == (20, "test")
    assert training.dataset.licence == "MIT" and training.dataset.splits == {"train": 40}
    assert training.settings["training"]["max_steps"] == 4
    assert training.command == "dna-hf train tiny.yaml --max_steps 4 --learning-rate=1e-2"


def test_evaluate_keeps_figures_for_the_card(trained, tmp_path, capsys):
    checkpoint = shutil.copytree(trained[0] / "runs" / "tiny", tmp_path / "checkpoint")
    words = ["evaluate", str(checkpoint), "--dataset", "fashion-mnist-mini"]
    before = (checkpoint / "measurements.json").read_text()
    assert main(words) == 0
    assert (checkpoint / "measurements.json").read_text() == before
    assert main([*words, "--record"]) == 0
    (measurement,) = read_measurements(checkpoint)
    measurement.verify(weights_digest(load_file(checkpoint / "model.safetensors")))
    assert measurement.samples == 500 and "mean_class_accuracy" in measurement.metrics
    assert main(["evaluate", "user/name", "--dataset", "fashion-mnist-mini", "--record"]) == 2
    assert "--record writes into the checkpoint folder" in capsys.readouterr().err


def test_evaluate_prints_and_writes(trained, tmp_path, capsys):
    output = tmp_path / "deep" / "figures.json"
    checkpoint = trained[0] / "runs" / "tiny"
    assert main(["evaluate", str(checkpoint), "--dataset", "fashion-mnist-mini", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "Ankle boot" in printed and "mean class accuracy" in printed
    assert "looked at " in printed and "duplicates" not in printed and "dna_vit, dna attention" in printed
    report = json.loads(output.read_text())
    assert report["metrics"]["images"] == 500 and report["data"]["dataset"] == "fashion-mnist-mini"
    assert f"{100 * report['metrics']['top1']:.2f} %" in printed


def test_evaluate_by_slices(trained, tmp_path, capsys):
    words = ["evaluate", str(trained[0] / "runs" / "tiny"), "--dataset", "fashion-mnist-mini"]
    assert main([*words, "--output", str(tmp_path / "whole.json")]) == 0
    assert "slice  " not in capsys.readouterr().out
    assert json.loads((tmp_path / "whole.json").read_text())["slices"] is None
    assert main([*words, "--slices", "label", "--output", str(tmp_path / "slices.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(number for number, line in enumerate(lines) if line.split()[:3] == ["slice", "images", "top-1"])
    assert lines[header].endswith("95 % interval")
    report = json.loads((tmp_path / "slices.json").read_text())
    assert len(report["slices"]) == 10 and sum(each["images"] for each in report["slices"].values()) == 500
    figures = report["slices"]["Ankle boot"]
    assert figures["accuracy"] == report["per_class"]["Ankle boot"]["accuracy"]
    ends = f"{100 * figures['low']:.1f} to {100 * figures['high']:.1f} %"
    assert lines[header + 11].startswith("Ankle boot") and lines[header + 11].endswith(ends)


def test_distractors_writes_and_prints(trained, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    one, two = (shutil.copytree(trained[0] / "runs" / "tiny", tmp_path / name / "tiny") for name in "ab")
    words = ["--dataset", "fashion-mnist-mini", "--grid", "3", "--max-tiles", "2", "--target-position", "center"]
    output = tmp_path / "deep" / "out"
    assert main(["distractors", str(one), str(two), *words, "--batch-size", "50", "--output-dir", str(output)]) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = printed[next(number for number, line in enumerate(printed) if line.startswith("distractors ")) :]
    assert printed.index(lines[0]) > 5 and lines[0].split() == ["distractors", "a/tiny", "b/tiny"]
    assert [line.split()[0] for line in lines[2:5]] == ["0", "1", "2"]
    names = ["distractors.csv", "distractors.md", "distractors.png", "distractors_example.png"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert all(str(output / name) in lines[-1] for name in names)
    rows = [line.split(",") for line in (output / "distractors.csv").read_text().splitlines()]
    assert rows[0] == ["checkpoint", "distractors", "images", "top1", "low", "high"]
    # the same weights on the same pictures
    assert [row[1:] for row in rows[1:4]] == [row[1:] for row in rows[4:]]
    assert lines[3].split()[1] == f"{100 * float(rows[2][3]):.2f}"


def test_distractors_without_matplotlib(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    words = ["distractors", str(trained[0] / "runs" / "tiny"), "--max-tiles", "1", "--output-dir", str(tmp_path)]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "matplotlib is not installed" in captured.err and "distractors.png" not in captured.out
    assert not (tmp_path / "distractors.png").exists() and (tmp_path / "distractors.csv").exists()


def test_predict_files_and_folders(trained, pictures, capsys):
    checkpoint = str(trained[0] / "runs" / "tiny")
    single = str(pictures / "one.png")
    assert main(["predict", checkpoint, single, str(pictures), "--top-k", "2", "--batch-size", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == 6
    # the single file comes first, then the folder in order
    assert [lines[0].split()[0], lines[2].split()[0]] == [single, str(pictures / "more" / "two.jpg")]
    assert lines[0].split()[1:] == lines[4].split()[1:]


def test_predict_names_what_it_cannot_read_and_classifies_the_rest(trained, pictures, capsys):
    (pictures / "broken.png").write_bytes(b"no image")
    assert main(["predict", str(trained[0] / "runs" / "tiny"), str(pictures)]) == 2
    captured = capsys.readouterr()
    assert "one.png" in captured.out and "two.jpg" in captured.out
    errors = [line for line in captured.err.splitlines() if line.startswith("dna-hf: error: ")]
    assert len(errors) == 1 and "cannot read image" in errors[0] and "broken.png" in errors[0]
    assert "Traceback" not in captured.err


def test_a_second_run_into_the_same_folder_is_refused_and_resume_continues(trained):
    folder, _ = trained
    refused = run_cli("train", "tiny.yaml", cwd=folder)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    resumed = run_cli("train", "tiny.yaml", "--max_steps", 6, "--resume", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads((folder / "runs/tiny/trainer_state.json").read_text())["global_step"] == 6


def test_an_unreadable_image_in_a_loader_worker_is_one_sentence(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (28, 28)).save(tmp_path / "data" / label / f"{number}.png")
    for number in range(6):
        (tmp_path / "data" / "b" / f"{number}.png").write_bytes(b"broken")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SECTIONS))
    words = ("--dataset", tmp_path / "data", "--validation_fraction", 0.34, "--dataloader_num_workers", 1)
    result = run_cli("train", "tiny.yaml", *words, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("dna-hf: error: cannot read image")
    assert not list(tmp_path.glob("runs/tiny/*"))


WRONG = {
    "no config": (["train", "nowhere.yaml"], "nowhere.yaml"),
    "unknown key": (["train", "tiny.yaml", "--learning_rat", "1"], "did you mean 'learning_rate'"),
    "unknown variant": (["train", "tiny.yaml", "--attention_variant", "dnaa"], "dna_shared_value"),
    "wrong type": (["train", "tiny.yaml", "--hidden_size", "big"], "model.hidden_size must be int, got 'big'"),
    "heads": (["train", "tiny.yaml", "--num_attention_heads", "3"], "not a multiple of num_attention_heads"),
    "image size": (["train", "tiny.yaml", "--image_size", "30"], "multiple of patch_size"),
    "no data set": (["train", "tiny.yaml", "--dataset", "./missing"], "./missing"),
    "no column": (["train", "tiny.yaml", "--label_column", "lable"], "lable"),
    "loose word": (["train", "tiny.yaml", "hidden_size=3"], "--key value"),
    "nothing to resume": (["train", "tiny.yaml", "--resume", "--output_dir", "new"], "no checkpoint to resume"),
    "no checkpoint": (["evaluate", "missing", "--dataset", "fashion-mnist-mini"], "missing"),
    "no split": (["evaluate", "runs/tiny", "--split", "dev"], "'dev'"),
    "training key": (["evaluate", "runs/tiny", "--learning_rate", "1"], "learning_rate"),
    "no slices": (["evaluate", "runs/tiny", "--slices", "lable"], "did you mean 'label'"),
    "streamed slices": (["evaluate", "runs/tiny", "--slices", "label", "--streaming"], "leave out --streaming"),
    "no grid": (["distractors", "runs/tiny", "--grid", "1", "--output-dir", "out"], "grid must be at least 2"),
    "no centre": (
        ["distractors", "runs/tiny", "--target-position", "center", "--output-dir", "out"],
        "choose an odd grid",
    ),
    "many tiles": (["distractors", "runs/tiny", "--max-tiles", "4", "--output-dir", "out"], "from 1 to 3"),
    "twice": (["distractors", "runs/tiny", "runs/tiny/", "--output-dir", "out"], "given twice"),
    "streamed pictures": (
        ["distractors", "runs/tiny", "--streaming", "--output-dir", "out"],
        "--streaming has no effect",
    ),
    "no folder": (["distractors", "runs/tiny", "--output-dir", "tiny.yaml/out"], "'tiny.yaml/out' cannot be written"),
    "loose checkpoint": (["distractors", "runs/tiny", "--grid", "3", "x", "--output-dir", "out"], "'x'"),
    "no image": (["predict", "runs/tiny", "missing.png"], "missing.png"),
    "empty folder": (["predict", "runs/tiny", "nothing"], "nothing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_end_in_one_sentence_and_exit_code_2(trained, tmp_path, monkeypatch, capsys, name):
    words, message = WRONG[name]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SECTIONS))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "runs").symlink_to(trained[0] / "runs")
    monkeypatch.chdir(tmp_path)
    words = [*words, "--output_dir", "out"] if words[0] == "train" and "--output_dir" not in words else words
    assert main(words) == 2
    error = capsys.readouterr().err
    sentence = error.splitlines()[-1]
    assert sentence.startswith("dna-hf: error: ") and message in sentence
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nothing", "runs", "tiny.yaml"]


def test_overrides():
    words = ["--a", "1", "--b-c=[1, x]", "--flag", "--d", "-3", "--e=", "--last"]
    assert parse_overrides(words) == {"a": 1, "b_c": [1, "x"], "flag": True, "d": -3, "e": None, "last": True}
    with pytest.raises(ConfigurationError, match="'loose'"):
        parse_overrides(["--a", "1", "loose"])


def test_table_aligns_numbers_to_the_right():
    expected = "name  count\n----  -----\na         5\nbcd      10"
    assert table(("name", "count"), [("a", "5"), ("bcd", "10")]) == expected


def test_the_program_is_installed():
    program = Path(sysconfig.get_path("scripts"), "dna-hf")
    result = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"dna-hf {dna_hf.__version__}\n", "")
