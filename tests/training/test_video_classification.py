"""Videos through the command line: train, resume, evaluate, predict; and in transformers' pipeline."""

import json
import shutil

import av
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import pipeline

from dna_hf.cli import main
from dna_hf.data.unreadable import read_bad_list
from dna_hf.records.checkpoint_records import read_measurements, read_training


def write_video(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 40, 32, "yuv420p"
        for index in range(6):
            pixels = np.full((32, 40, 3), level + index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Dark and light videos in class folders, one of each split cut off."""
    folder = tmp_path_factory.mktemp("videos")
    for split, count in (("train", 6), ("test", 3)):
        for number in range(count):
            write_video(folder / split / "dark" / f"{number}.mp4", 20 + 5 * number)
            write_video(folder / split / "light" / f"{number}.mp4", 220 - 5 * number)
        broken = folder / split / "dark" / "broken.mp4"
        broken.write_bytes((folder / split / "dark" / "0.mp4").read_bytes()[:600])
    return folder


def config(folder, videos, **training):
    sections = {
        "model": {
            **{"model_type": "dna_timesformer", "image_size": 16, "patch_size": 8, "num_frames": 2, "hidden_size": 16},
            **{"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        },
        "data": {"dataset": str(videos), "eval_split": "test", "flip_probability": 0}
        | {"on_error": "skip", "max_bad_fraction": 0.2},
        "training": {
            **{"num_train_epochs": 4, "per_device_train_batch_size": 4, "learning_rate": 1e-2},
            **{"eval_strategy": "epoch", "save_strategy": "epoch", "dataloader_pin_memory": False},
            **{"load_best_model_at_end": True, "metric_for_best_model": "mean_class_accuracy"},
        }
        | training,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(sections))
    return str(path)


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", config(folder, videos), "--output_dir", str(folder / "out")]) == 0
    return folder / "out"


def test_training_learns_and_writes_down_what_it_could_not_read(finished):
    measurement, *_ = read_measurements(finished)
    assert (measurement.task, measurement.samples, measurement.metrics["top1"]) == ("video-classification", 6, 1.0)
    assert measurement.metrics["mean_class_accuracy"] == 1.0 and measurement.views == "1 over time x 1 over space"
    assert read_training(finished).dataset.splits == {"train": 13}
    bad = read_bad_list(finished / "unreadable.jsonl")
    assert {path.rpartition("/")[2] for path in bad} == {"broken.mp4"}
    assert len(bad) == 2


def test_a_resumed_run_continues_exactly(videos, finished, tmp_path):
    path = config(tmp_path, videos)
    shutil.copytree(finished, tmp_path / "out")
    checkpoints = sorted((tmp_path / "out").glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    for folder in checkpoints[2:]:
        shutil.rmtree(folder)
    for name in ("model.safetensors", "training.json", "measurements.json"):
        (tmp_path / "out" / name).unlink()
    assert main(["train", path, "--output_dir", str(tmp_path / "out"), "--resume"]) == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()


def test_a_linear_probe_with_class_weights(videos, finished, tmp_path):
    """The head alone learns, from videos of which one cannot be read."""
    words = ["--checkpoint", str(finished), "--freeze", "encoder", "--class_weights", "{dark: 3}"]
    words += ["--num_train_epochs", "1", "--output_dir", str(tmp_path / "probe")]
    assert main(["train", config(tmp_path, videos), *words]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (finished, tmp_path / "probe"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert read_training(tmp_path / "probe").settings["training"]["class_weights"] == {"dark": 3.0}


def test_evaluation_over_views(videos, finished, tmp_path, capsys):
    common = ["evaluate", str(finished), "--dataset", str(videos), "--num_clips", "2", "--num_crops", "3"]
    skip = ["--on_error", "skip", "--max_bad_fraction", "0.2"]
    report, confusion = tmp_path / "report.json", tmp_path / "confusion.csv"
    files = ["--output", str(report), "--confusion", str(confusion)]
    assert main([*common, *skip, *files]) == 0
    output = capsys.readouterr()
    assert ["top-1", "100.00", "%"] in [line.split() for line in output.out.splitlines()]
    assert "broken.mp4" in output.err
    content = json.loads(report.read_text())
    assert content["metrics"]["videos"] == 6
    assert content["metrics"]["unreadable"] == 1
    assert content["confusion"] == [[3, 0], [0, 3]]
    assert confusion.read_text().splitlines() == ["true class,dark,light", "dark,3,0", "light,0,3"]
    shutil.copytree(finished, tmp_path / "recorded")
    common[1] = str(tmp_path / "recorded")
    assert main([*common, *skip, "--view_average", "logit_sum", "--record"]) == 0
    assert read_measurements(tmp_path / "recorded")[-1].views == "2 over time x 3 over space, logits added"
    assert main(common) == 2
    assert "broken.mp4" in capsys.readouterr().err


def test_prediction_and_pipeline_agree(videos, finished, capsys):
    video = str(videos / "test" / "light" / "1.mp4")
    assert main(["predict", str(finished), video, str(videos / "test" / "dark")]) == 2
    output = capsys.readouterr()
    assert "broken.mp4" in output.err
    best = next(line for line in output.out.splitlines() if line.startswith(video)).split()
    found = pipeline("video-classification", str(finished))(video)[0]
    assert best[1] == found["label"] == "light"
    assert float(best[2]) == pytest.approx(100 * found["score"], abs=0.06)


def test_what_is_for_images_alone_is_refused_before_anything_happens(finished, tmp_path, capsys):
    assert main(["distractors", str(finished), "--output_dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("dna-hf: error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "/nowhere"], "nowhere"),
        (["--crop_pct", "0.9"], "--crop_pct has no effect on dna-hf evaluate"),
        (["--on_error", "ignore"], "raise, skip"),
        (["--slices", "label"], "--slices is for images"),
    ],
)
def test_careless_evaluation_is_one_sentence(finished, videos, options, message, capsys):
    dataset = [] if "--dataset" in options else ["--dataset", str(videos)]
    assert main(["evaluate", str(finished), *dataset, *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
