"""`dna-hf visualize` as a user meets it."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf import DnATimesformerVideoProcessor
from dna_hf.analysis import attention_relevance, attention_rollout, visual_maps
from dna_hf.cli import main
from tests.kit.models import tiny_timesformer, tiny_vit
from tests.kit.seeing import bright_patches, seek_brightness
from tests.kit.videos import decode_everything, write_video


pytest.importorskip("matplotlib", reason="matplotlib is not installed")
SIZE = {"height": 12, "width": 12}
needs_image_processor = pytest.mark.auto_image_processor
PATH = [(0, 1), (2, 0), (1, 2)]


def rgb(frame):
    return (255 * frame).movedim(0, -1).to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints of all variants that seek brightness where they can, and of videos; pictures and videos."""
    folder = tmp_path_factory.mktemp("visualize")
    image_processor = ViTImageProcessorPil(size=SIZE, resample=0)
    names = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    models = {
        "seeking": seek_brightness(tiny_vit(**names)),
        **{variant: tiny_vit(variant, **names) for variant in ("dna", "softmax", "differential", "cog")},
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        image_processor.save_pretrained(folder / name)
    video_processor = DnATimesformerVideoProcessor(num_frames=3, size={"shortest_edge": 12}, crop_size=SIZE)
    for name, attention_type in (("divided", "divided_space_time"), ("joint", "joint_space_time")):
        seek_brightness(tiny_timesformer(attention_type=attention_type)).save_pretrained(folder / name)
        video_processor.save_pretrained(folder / name)
    native = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=12, patch_size=4
    )
    ViTForImageClassification(native).save_pretrained(folder / "native")
    image_processor.save_pretrained(folder / "native")
    BertConfig().save_pretrained(folder / "bert")

    (folder / "pictures" / "more").mkdir(parents=True)
    for name, place in (("pictures/one.png", (0, 2)), ("pictures/more/one.png", (2, 1)), ("two.png", (1, 0))):
        Image.fromarray(rgb(bright_patches([place], 3, 3)[0])).save(folder / name)
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")
    (folder / "empty").mkdir()
    frames = [rgb(frame).repeat(8, 0).repeat(8, 1) for frame in bright_patches(PATH, 3, 3)]
    write_video(folder / "moving.mp4", frames, fps=1, options={"crf": "1"}, pixel_format="yuv444p")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def run(folder, checkpoint, what, output, *words):
    return main(["visualize", str(folder / checkpoint), str(folder / what), "--output", str(output), *map(str, words)])


def panels(output):
    with (output / "panels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def strongest(row):
    return tuple(int(row[f"strongest_{name}"]) for name in ("frame", "row", "column"))


@needs_image_processor
def test_a_folder_of_images(folder, tmp_path, capsys):
    assert run(folder, "seeking", "pictures", tmp_path) == 0
    printed = capsys.readouterr()
    assert "left out: cannot read image" in printed.err and "broken.png" in printed.err
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["one.png", "one_2.png", "panels.csv", "settings.json"]
    assert all(str(tmp_path / name) in printed.out for name in written)
    rows = panels(tmp_path)
    assert len(rows) == 6
    for row in rows:
        place = (2, 1) if "more" in row["file"] else (0, 2)
        if row["map"] != "negative":
            assert strongest(row) == (0, *place)
        assert float(row["strongest_value"]) > 0 or row["map"] == "negative"
        assert (row["model"], row["row"], row["kind"]) == ("seeking", "last layer", "attention")
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert len(settings["skipped"]) == 1 and settings["settings"]["layer"] == -1
    assert settings["environment"]["torch"] == torch.__version__


@needs_image_processor
def test_models_side_by_side(folder, tmp_path):
    others = [folder / name for name in ("softmax", "differential", "cog")]
    assert run(folder, "dna", "two.png", tmp_path, "--compare", *others, "--colors", "orange-purple") == 0
    rows = panels(tmp_path)
    assert [(row["model"], row["map"]) for row in rows] == [
        (name, "difference") for name in ("dna", "softmax", "differential", "cog")
    ]
    assert {row["figure"] for row in rows} == {"two.png"}
    assert all(row["prediction"] in ("cat", "dog") for row in rows)


@needs_image_processor
@pytest.mark.parametrize("kind", ["attention", "rollout", "relevance"])
def test_panels_are_what_the_library_computes(folder, tmp_path, kind):
    words = ["--show", "combined", "--kind", kind, "--format", "svg"]
    words += ["--query", "1,2"] if kind != "relevance" else ["--target", "dog"]
    words += ["--layer", 0, "--head", 1] if kind == "attention" else []
    assert run(folder, "dna", "two.png", tmp_path, *words) == 0
    model = tiny_vit()
    processor = ViTImageProcessorPil(size=SIZE, resample=0)
    inputs = processor([Image.open(folder / "two.png").convert("RGB")], return_tensors="pt")
    if kind == "attention":
        heat = visual_maps(model, inputs, [0], [1], [(1, 2)])[0].heat()
    elif kind == "rollout":
        heat = attention_rollout(model, inputs, (1, 2))[0]
    else:
        heat = attention_relevance(model, inputs, 1)[0]
    (row,) = panels(tmp_path)
    values = heat.drawn("combined")
    assert strongest(row) == np.unravel_index(np.abs(values).argmax(), values.shape)
    assert float(row["strongest_value"]) == pytest.approx(float(values.flat[np.abs(values).argmax()]), rel=1e-4)
    text = (tmp_path / "two.svg").read_text()
    expected = {"attention": "layer 0, head 1", "rollout": "attention rollout", "relevance": "relevance for"}
    assert expected[kind] in text and row["prediction"] in text


@needs_image_processor
def test_layers_by_heads(folder, tmp_path):
    words = ["--layer", "all", "--head", "all", "--format", "svg", "--compare", folder / "softmax"]
    assert run(folder, "dna", "two.png", tmp_path, *words) == 0
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == ["two_dna.svg", "two_softmax.svg"]
    text = (tmp_path / "two_dna.svg").read_text()
    assert all(label in text for label in ("layer 0", "layer 1", "head 0", "head 1"))
    rows = panels(tmp_path)
    assert len(rows) == 2 * 2 * 2 and {row["figure"] for row in rows} == {"two_dna.svg", "two_softmax.svg"}


@pytest.mark.parametrize("checkpoint", ["divided", "joint"])
def test_a_video_with_a_moving_patch(folder, tmp_path, checkpoint):
    assert run(folder, checkpoint, "moving.mp4", tmp_path, "--layer", "all") == 0
    rows = [row for row in panels(tmp_path) if row["map"] == "positive"]
    assert len(rows) == 2
    for row in rows:
        frame, *place = strongest(row)
        assert tuple(place) == PATH[frame]
    # two layers do not move in one animation
    assert not (tmp_path / "moving.gif").exists()


def test_animations_of_a_video(folder, tmp_path):
    assert run(folder, "divided", "moving.mp4", tmp_path, "--axis", "time", "--show", "positive") == 0
    with Image.open(tmp_path / "moving.gif") as gif:
        assert gif.n_frames == 3
    assert run(folder, "divided", "moving.mp4", tmp_path, "--animation", "mp4", "--kind", "relevance") == 0
    assert len(decode_everything(tmp_path / "moving.mp4")) == 3
    assert (tmp_path / "moving.png").exists()


IMAGES_GO_WRONG = [
    (["--layer", 2], "layer 2 does not exist: the model has 2, counted from 0"),
    (["--head", 7], "head 7 does not exist: the model has 2"),
    (["--query", "3,0"], "query (3, 0) does not exist"),
    (["--axis", "time"], "does not attend over 'time': choose space"),
    (["--kind", "relevance", "--target", "cow"], "no class 'cow': its classes are cat"),
    (["--compare", "softmax", "--show", "negative"], "softmax attention has no negative map"),
]
ANYTHING_GOES_WRONG = [
    ("dna", "two.png", ["--head", "first"], "--head: must be a whole number or mean or all, got 'first'"),
    ("dna", "two.png", ["--query", "x"], "--query: must be class, a number or ROW,COLUMN, got 'x'"),
    ("dna", "two.png", ["--kind", "rollout", "--layer", 1], "rollout goes through all layers"),
    ("dna", "two.png", ["--target", "dog"], "a target is for relevance"),
    ("dna", "two.png", ["--opacity", 0], "opacity is 0.0: choose a number above 0"),
    ("dna", "empty", [], "holds no image"),
    ("dna", "nothing.png", [], "does not exist"),
    ("divided", "broken.mp4", [], "none of the 1 files can be read: cannot read video"),
    ("divided", "empty", [], "holds no video"),
    ("divided", "moving.mp4", ["--layer", "all", "--head", "all"], "choose one layer or one head"),
    (
        "bert",
        "two.png",
        [],
        "holds a bert model, but an image classifier (dna_vit), a video classifier (dna_timesformer) or a video",
    ),
    ("native", "two.png", [], "holds a vit model, but an image classifier (dna_vit)"),
    ("absent", "two.png", [], "is not there: there is no such folder"),
]


def assert_one_sentence(capsys, message):
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("dna-hf: error: ") and message in line


@needs_image_processor
@pytest.mark.parametrize(("words", "message"), IMAGES_GO_WRONG)
def test_what_images_do_not_have_is_one_sentence(folder, tmp_path, capsys, words, message):
    words = [folder / word if word == "softmax" else word for word in words]
    assert run(folder, "dna", "two.png", tmp_path / "out", *words) == 2
    assert_one_sentence(capsys, message)


@needs_image_processor
def test_files_that_cannot_be_read_are_one_sentence(folder, tmp_path, capsys):
    assert run(folder, "dna", "pictures/broken.png", tmp_path / "out") == 2
    assert_one_sentence(capsys, "none of the 1 files can be read: cannot read image")


@pytest.mark.parametrize(("checkpoint", "what", "words", "message"), ANYTHING_GOES_WRONG)
def test_what_goes_wrong_is_one_sentence(folder, tmp_path, capsys, checkpoint, what, words, message):
    assert run(folder, checkpoint, what, tmp_path / "out", *words) == 2
    assert_one_sentence(capsys, message)


def test_a_pipe_is_one_sentence(folder, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    assert run(folder, "dna", tmp_path / "pipe.png", tmp_path / "out") == 2
    assert_one_sentence(capsys, "pipe.png' is no regular file: name a file")


def test_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["visualize", "--help"])
    printed = capsys.readouterr().out
    assert all(option in printed for option in ("--compare", "--kind", "--layer", "--head", "--query", "--output"))


def test_models_of_two_kinds(folder, tmp_path, capsys):
    assert run(folder, "dna", "two.png", tmp_path, "--compare", folder / "divided") == 2
    assert_one_sentence(capsys, "give models of one kind")


def test_a_model_given_twice(folder, tmp_path, capsys):
    assert run(folder, "dna", "two.png", tmp_path, "--compare", folder / "dna") == 2
    assert_one_sentence(capsys, "is given twice")


def test_an_output_folder_that_is_a_file(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(folder, "divided", "moving.mp4", tmp_path / "file") == 2
    assert_one_sentence(capsys, "file' cannot be written: ")
