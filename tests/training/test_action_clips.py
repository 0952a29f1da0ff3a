"""Real clips of several containers, one with broken metadata: a small model learns them by heart."""

import csv

import pytest
import yaml

from dna_hf.cli import main
from dna_hf.records.checkpoint_records import read_measurements
from tests.kit.paths import shared_path


@pytest.mark.slow
def test_a_small_model_learns_all_classes_and_predicts_them(tmp_path, capsys):
    folder = shared_path("data", "action-clips")
    with (folder / "labels.csv").open(newline="") as file:
        labels = {row["file"]: row["label"] for row in csv.DictReader(file)}
    assert (len(labels), len(set(labels.values()))) == (19, 14)

    table = tmp_path / "clips.csv"
    rows = [f"{name},{label},{split}" for name, label in labels.items() for split in ("train", "test")]
    table.write_text("\n".join(["video,label,split", *rows]) + "\n")
    sections = {
        "model": {
            **{"model_type": "dna_timesformer", "image_size": 32, "patch_size": 8, "num_frames": 4},
            **{"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96},
        },
        "data": {
            **{"dataset": str(table), "video_root": str(folder), "label_column": "label", "eval_split": "test"},
            **{"short_side": [32, 32], "flip_probability": 0, "train_sampling": "uniform"},
        },
        "training": {
            **{"output_dir": str(tmp_path / "out"), "num_train_epochs": 50, "per_device_train_batch_size": 4},
            **{"learning_rate": 4e-3, "warmup_steps": 0.1, "save_strategy": "no", "dataloader_pin_memory": False},
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections))
    assert main(["train", str(tmp_path / "run.yaml")]) == 0
    measurement, *_ = read_measurements(tmp_path / "out")
    assert (measurement.samples, measurement.metrics["top1"]) == (19, 1.0)

    capsys.readouterr()
    assert main(["predict", str(tmp_path / "out"), str(folder), "--top-k", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    predicted = {line[0].rpartition("/")[2]: line[1] for line in lines if line and line[0].startswith(str(folder))}
    assert predicted == labels
