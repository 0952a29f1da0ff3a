"""The speed of reading and of training, measured through the command line. No test depends on how fast anything is."""

import csv
import itertools
import json
import math

import pytest
import yaml

from dna_hf.benchmark import data as benchmark
from dna_hf.benchmark.data import EndlessSampler, Stopwatch, benchmark_data
from dna_hf.cli import main
from dna_hf.data.errors import DataError
from dna_hf.data.videos import VideoReader
from dna_hf.training.arguments import DnATrainingArguments
from dna_hf.training.config_file import run_config
from dna_hf.training.yaml_file import read_sections
from tests.kit.command_line import run_cli
from tests.kit.videos import write_video


MODEL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VIDEO_MODEL = {"model_type": "dna_timesformer", "image_size": 16, "patch_size": 8, "num_frames": 2}
TRAINING = {"per_device_train_batch_size": 4, "dataloader_pin_memory": False, "use_cpu": True}
# a part that is measured takes so long, but for five batches
SECONDS = 1


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of tiny videos, one of the training videos cut off."""
    folder = tmp_path_factory.mktemp("clips")
    for split, name, number in itertools.product(("train", "test"), ("a", "b"), range(3)):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        write_video(folder / split / name / f"{number}.mp4", 5)
    whole = (folder / "train" / "a" / "0.mp4").read_bytes()
    (folder / "train" / "a" / "broken.mp4").write_bytes(whole[:500])
    return folder


def video_sections(clips, **training):
    data = {"dataset": str(clips), "on_error": "skip", "max_bad_fraction": 0.2}
    return {"model": MODEL | VIDEO_MODEL, "data": data, "training": TRAINING | training}


def image_sections(**training):
    return {"model": MODEL | {"image_size": 28, "patch_size": 14}, "training": TRAINING | training}


def measure(folder, sections, *words):
    """Run `dna-hf benchmark data`; returns the file that it wrote and what it printed."""
    (folder / "run.yaml").write_text(yaml.safe_dump(sections))
    words = ("benchmark", "data", "run.yaml", "--seconds", SECONDS, *words, "--output", "deep/speed.json")
    result = run_cli(*words, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["deep", "run.yaml"]
    return json.loads((folder / "deep" / "speed.json").read_text()), result


def check_figures(report, samples, workers, step):
    """What must hold between the figures whatever they are."""
    assert (report["samples"], report["workers"], report["device"]) == (samples, workers, "cpu")
    for name in ("reading", "one_core", "training"):
        speed = report[name]
        assert 0 < speed["lowest"] <= speed["per_second"] <= speed["highest"]
        assert speed["lowest"] <= speed["samples"] / speed["seconds"] * 1.0001
        assert speed["samples"] / speed["seconds"] <= speed["highest"] * 1.0001
        assert speed["samples"] >= 5 * report["batch_size"] and speed["seconds"] >= SECONDS
        assert speed["samples"] % (step if name == "training" else report["batch_size"]) == 0
    rate = report["training"]["per_second"]
    assert report["ratio"] == pytest.approx(report["reading"]["per_second"] / rate)
    assert report["workers_needed"] == math.ceil(1.2 * rate / report["one_core"]["per_second"])
    assert report["feeds"] == (workers > 0 and report["ratio"] >= 1.2)
    assert report["cores"] >= 1 and report["threads"] >= 1 and report["processor"]
    assert {"machine", "torch", "transformers"} <= set(report["environment"])
    assert report["command"].startswith(f"dna-hf benchmark data run.yaml --seconds {SECONDS}")


def test_images_with_workers(tmp_path):
    words = ("--gradient_accumulation_steps", "2", "--mixup_alpha", "0.2", "--label_smoothing_factor", "0.1")
    report, result = measure(tmp_path, image_sections(dataloader_num_workers=1), *words)
    check_figures(report, "images", workers=1, step=8)
    assert report["decoding"] is None and report["unreadable"] == {}
    assert report["dataset"]["splits"] == {"train": 2000}
    assert report["settings"]["training"]["gradient_accumulation_steps"] == 2
    assert "max_steps" not in report["settings"]["training"]
    lines = result.stdout.splitlines()
    assert lines[0].split()[:5] == ["images", "of", "4", "a", "batch"]
    assert lines[2].startswith("reading, 1 worker ") and lines[4].startswith("training, cpu ")
    assert "train_runtime" not in result.stdout


def test_videos_in_this_process(tmp_path, clips):
    # what training would do beside its steps takes no part
    extras = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "ema_decay": 0.9}
    extras |= {"metric_for_best_model": "top1", "early_stopping_patience": 1, "dataloader_persistent_workers": False}
    report, result = measure(tmp_path, video_sections(clips, **extras))
    check_figures(report, "videos", workers=0, step=4)
    assert 0 < report["decoding"] < 1
    assert [path.rpartition("/")[2] for path in report["unreadable"]] == ["broken.mp4"]
    assert "broken.mp4" in result.stderr
    assert "no: with dataloader_num_workers 0, nothing is read while the model trains" in result.stdout


def test_a_stream_of_images_is_read_again(tmp_path):
    sections = image_sections(max_steps=1) | {"data": {"streaming": True, "max_train_samples": 8}}
    report, _ = measure(tmp_path, sections)
    check_figures(report, "images", workers=0, step=4)


def test_as_many_clips_are_counted_as_are_read(clips, monkeypatch):
    read = []
    original = VideoReader.read

    def counting(self, clip, sampling):
        frames = original(self, clip, sampling)
        read.append(clip.path)
        return frames

    monkeypatch.setattr(VideoReader, "read", counting)
    result = benchmark_data(run_config(video_sections(clips)), 0.1)
    counted = result.reading.samples + result.one_core.samples
    # two batches before the clock starts, two that lie ready when it stops
    assert counted <= len(read) <= counted + 4 * 4
    assert len(set(read)) == 6


def test_speeds_of_parts(monkeypatch):
    # 10 laps of 3 samples: two a second, then one
    times = iter([0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(times))
    watch = Stopwatch(seconds=13)
    assert [watch.lap(3) for _ in range(11)] == [False] * 10 + [True]
    speed = watch.speed()
    assert (speed.per_second, speed.lowest, speed.highest) == (3, 1.5, 3)
    assert (speed.samples, speed.seconds) == (30, 14)


def test_a_watch_waits_for_enough_laps():
    watch = Stopwatch(seconds=0)
    assert [watch.lap(1) for _ in range(6)] == [False] * 5 + [True]


def test_epochs_follow_each_other():
    assert list(itertools.islice(EndlessSampler([2, 0, 1]), 7)) == [2, 0, 1, 2, 0, 1, 2]
    assert list(itertools.islice(benchmark._endless(["a", "b"]), 5)) == ["a", "b", "a", "b", "a"]
    with pytest.raises(DataError, match="fewer samples than a batch"):
        next(benchmark._endless([]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.yaml"], "'missing.yaml' is no file and not the name of a recipe"),
        (["run.yaml", "--dataset", "/nowhere"], "nowhere"),
        (["run.yaml", "--video_rot", "x"], "did you mean 'video_root'?"),
        (["run.yaml", "--on_error", "raise"], "broken.mp4"),
        (["run.yaml", "--on_error", "raise", "--dataloader_num_workers", "1"], "broken.mp4"),
        (["run.yaml", "--fp16"], "fp16 does nothing on the CPU"),
    ],
)
def test_mistakes_are_one_sentence(clips, tmp_path, monkeypatch, capfd, words, message):
    sections = video_sections(clips)
    if "raise" in words:
        # has no effect where the first video that cannot be read ends the run
        del sections["data"]["max_bad_fraction"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections))
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", "data", *words, "--seconds", "1"]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("dna-hf: error: ") and message in last


def test_missing_videos_are_one_sentence(tmp_path, capsys):
    for name in ("train", "test"):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label"], ["a.mp4", "a"], ["b.mp4", "b"]])
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(video_sections(tmp_path)))
    assert main(["benchmark", "data", str(tmp_path / "run.yaml")]) == 2
    assert "2 of 2 videos of split 'train' do not exist" in capsys.readouterr().err


def test_several_processes_are_refused(tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(image_sections()))
    run = run_config(read_sections(tmp_path / "run.yaml"))
    monkeypatch.setattr(DnATrainingArguments, "world_size", 2)
    with pytest.raises(benchmark.ConfigurationError, match="without a launcher"):
        benchmark_data(run, 1)


@pytest.mark.parametrize("words", [["benchmark"], ["benchmark", "data", "run.yaml", "--seconds", "0"]])
def test_incomplete_commands_are_one_sentence(words, capsys):
    assert main(words) == 2
    assert "see dna-hf benchmark" in capsys.readouterr().err
