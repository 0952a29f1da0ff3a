"""Checkpoints and places that cannot be used: one sentence, the same through every verb, before anything is done."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import yaml
from PIL import Image

from dna_hf.cli import main
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.sources import load_split
from tests.kit.classifier import save_classifier
from tests.kit.training import SECTIONS
from tests.kit.video_llm import tiny_model, tiny_processor


QUESTIONS = [{"id": "1", "video": "clip.mp4", "question": "What?", "options": ["a", "b"], "answer": "A"}]
# verb -> what follows the checkpoint; of `train` it is the checkpoint that training starts from
IMAGES = {
    "predict": ["picture.png"],
    "evaluate": [],
    "distractors": ["--output-dir", "out"],
    "visualize": ["picture.png", "--output-dir", "out"],
    "analyze": ["--output-dir", "out"],
    "demo": [],
    "publish": ["user/name", "--dry-run"],
    "train": ["--output_dir", "out"],
}
VIDEO_LLMS = {"answer": ["questions.json"], "chat": ["--question", "What?"]}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """An image classifier and a video LLM."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_classifier(folder / "image", load_split(ImageDataArguments(max_eval_samples=1), "test").class_names)
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(folder / "llm")
    processor.save_pretrained(folder / "llm")
    return folder


@pytest.fixture
def place(checkpoints, tmp_path, monkeypatch):
    """A folder to run in, with copies of the checkpoints, `image` and `llm`, to be damaged."""
    shutil.copytree(checkpoints, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SECTIONS | {"model": {}}))
    (tmp_path / "questions.json").write_text(json.dumps(QUESTIONS))
    Image.new("RGB", (28, 28)).save(tmp_path / "picture.png")
    Image.new("RGB", (28, 28)).save(tmp_path / "clip.mp4", format="PNG")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def sentence(capsys, *words):
    """What the command line says to words that it refuses."""
    before = sorted(Path.cwd().iterdir())
    assert main(list(map(str, words))) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and printed.out == ""
    line = printed.err.strip().splitlines()[-1]
    assert line.startswith("dna-hf: error: ") and line.endswith(".")
    assert sorted(Path.cwd().iterdir()) == before
    # training says in which section the checkpoint stands
    return line.removeprefix("dna-hf: error: ").removeprefix("section 'model': ")


def words_of(verb, checkpoint):
    if verb == "train":
        return ["train", "tiny.yaml", "--checkpoint", checkpoint, *IMAGES[verb]]
    return [verb, checkpoint, *(IMAGES | VIDEO_LLMS)[verb]]


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "broken config": lambda folder: (folder / "config.json").write_text("{"),
    "wrong config": lambda folder: edit(folder / "config.json", hidden_size="many"),
    "many layers": lambda folder: edit(folder / "config.json", num_hidden_layers=1_000_000_000),
    "cut weights": lambda folder: cut(folder / "model.safetensors"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "broken processor": lambda folder: (folder / "preprocessor_config.json").write_text("{"),
    "no deviation": lambda folder: edit(folder / "preprocessor_config.json", image_std=[0.5, 0, 0.5]),
    "no mean": lambda folder: edit(folder / "preprocessor_config.json", image_mean=[float("nan")] * 3),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint(place, capsys, damage):
    DAMAGE[damage](place / "image")
    said = {verb: sentence(capsys, *words_of(verb, "image")) for verb in IMAGES}
    assert len(set(said.values())) == 1, said


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere", "is not there: there is no such folder."), ("picture.png", "is a file: name the folder it lies in.")],
)
def test_a_checkpoint_that_is_not_there(place, capsys, name, says):
    for verb in IMAGES | VIDEO_LLMS:
        assert sentence(capsys, *words_of(verb, place / name)) == f"checkpoint '{place / name}' {says}", verb


@pytest.mark.parametrize("device", ["nope", "cuda:99", "meta"])
def test_a_device_that_is_not_there(place, capsys, device):
    verbs = [verb for verb in IMAGES if verb not in ("train", "publish")]
    said = {verb: sentence(capsys, *words_of(verb, "image"), "--device", device) for verb in verbs}
    said |= {verb: sentence(capsys, *words_of(verb, "llm"), "--device", device) for verb in VIDEO_LLMS}
    assert len(set(said.values())) == 1 and repr(device) in said["predict"], said


def test_a_checkpoint_of_another_kind(place, capsys):
    said = {verb: sentence(capsys, *words_of(verb, "image")) for verb in VIDEO_LLMS}
    assert len(set(said.values())) == 1 and "holds an image classifier, but a video language model" in said["chat"]
    said = {verb: sentence(capsys, *words_of(verb, "llm")) for verb in ("predict", "evaluate")}
    assert len(set(said.values())) == 1 and "holds a video language model" in said["predict"]


def test_figures_that_cannot_be_kept_are_not_measured(place, capsys, monkeypatch):
    (place / "image" / "measurements.json").write_text("{")
    said = sentence(capsys, "evaluate", "image", "--record")
    assert "measurements.json" in said


def test_a_name_that_is_no_text_costs_that_file_alone(place, capsys):
    name = os.fsdecode(b"b\xff.png")
    Image.new("RGB", (28, 28)).save(place / "picture.jpg")
    (place / "pictures").mkdir()
    Image.new("RGB", (28, 28)).save(place / "pictures" / "a.png")
    (place / "pictures" / name).write_bytes((place / "picture.png").read_bytes())
    (place / "pictures" / os.fsdecode(b"c\xff.png")).write_bytes(b"no image")
    assert main(["predict", "image", "pictures", "--top-k", "1"]) == 2
    printed = capsys.readouterr()
    assert "a.png" in printed.out and "b" in printed.out
    assert printed.err.count("dna-hf: error: ") == 1 and "cannot read image" in printed.err
    assert main(["visualize", "image", "pictures", "--output-dir", "out"]) == 0
    assert "left out" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["predict", "visualize"])
def test_a_pipe_is_no_file(place, capsys, verb):
    os.mkfifo(place / "pipe.png")
    words = [word.replace("picture.png", "pipe.png") for word in words_of(verb, "image")]
    assert sentence(capsys, *words) == "image 'pipe.png' is no regular file: name a file."


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_this_machine(place, capsys, host):
    pytest.importorskip("gradio", reason="gradio is not installed")
    assert f"cannot listen on '{host}'" in sentence(capsys, "demo", "image", "--host", host)


def test_a_port_that_is_taken(place, capsys):
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in sentence(capsys, "demo", "image", "--port", port)
