"""`dna-hf visualize` of a video language model: what its probes look at in images and videos."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from dna_hf.analysis import attention_relevance, visual_maps
from dna_hf.analysis.sight import VisualizeSettings
from dna_hf.analysis.video_llm_sight import MAX_FRAMES, probe_settings, see_by_probes
from dna_hf.cli import main
from dna_hf.data.inputs import encode, read_question_input, user_turn
from dna_hf.kinds import load
from tests.kit.seeing import bright_patches, seek_brightness
from tests.kit.video_llm import PROBES, tiny_model, tiny_processor
from tests.kit.videos import decode_everything, write_video


pytest.importorskip("matplotlib", reason="matplotlib is not installed")
PLACE, PATH = (4, 1), [(0, 3), (5, 6), (7, 0)]


def as_bytes(frames):
    return (255 * frames).movedim(1, -1).to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models that seek brightness, and that do not; an image of 6 x 8 patches and a video of 3 frames of 8 x 8."""
    folder = tmp_path_factory.mktemp("visualize")
    processor = tiny_processor()
    for name, variant in (("dna", "dna"), ("softmax", "softmax"), ("seeking", "dna")):
        model = tiny_model(processor, vision={"attention_variant": variant})
        if name == "seeking":
            seek_brightness(model.model.vision_model, sharpness=0.1)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    (folder / "files").mkdir()
    Image.fromarray(as_bytes(bright_patches([PLACE], 6, 8, size=14))[0]).save(folder / "files" / "image.png")
    write_video(folder / "files" / "clip.mp4", as_bytes(bright_patches(PATH, 8, 8, size=14)), fps=1)
    (folder / "files" / "broken.mp4").write_bytes(b"no video")
    (folder / "empty").mkdir()
    return folder


def run(folder, checkpoint, what, output, *words):
    return main(["visualize", str(folder / checkpoint), str(folder / what), "-o", str(output), *map(str, words)])


def panels(output):
    with (output / "panels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_images_and_videos(folder, tmp_path, capsys):
    assert run(folder, "seeking", "files", tmp_path) == 0
    assert "left out: " in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {
        *("image.png", "clip.png", "clip.gif", "panels.csv", "settings.json")
    }
    rows = {(row["file"].rpartition("/")[2], row["map"]): row for row in panels(tmp_path)}
    assert {name for _, name in rows} == {"positive", "negative", "difference"}
    image, clip = rows["image.png", "positive"], rows["clip.mp4", "positive"]
    assert (int(image["strongest_row"]), int(image["strongest_column"])) == PLACE
    assert (int(clip["strongest_row"]), int(clip["strongest_column"])) == PATH[int(clip["strongest_frame"])]
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["settings"]["question"] == "What happens here?" and settings["settings"]["query"] == "probes"
    assert len(settings["skipped"]) == 1 and "broken.mp4" in settings["skipped"][0]
    with Image.open(tmp_path / "clip.gif") as moving:
        assert moving.n_frames == len(PATH)


@pytest.mark.parametrize("name", ["image.png", "clip.mp4"])
def test_what_is_seen_is_the_file_and_the_first_word(folder, name):
    path = folder / "files" / name
    loaded = load(folder / "dna", device="cpu")
    model, processor = loaded.model, loaded.processor
    settings = probe_settings(VisualizeSettings(question="Who?"))
    sight = see_by_probes(loaded, read_question_input(path, processor, "Who?", MAX_FRAMES), settings)
    pictures = [np.asarray(Image.open(path))] if name == "image.png" else decode_everything(path)
    assert np.abs(sight.pictures.astype(int) - np.stack(pictures).astype(int)).max() <= 1
    kind = "image" if name == "image.png" else "video"
    inputs = encode(processor, [[user_turn("Who?", [(kind, str(path))])]])
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=1, suppress_tokens=None)
    assert sight.answer.short == repr(processor.tokenizer.decode(tokens[0, -1]))
    maps = visual_maps(model, inputs, layers=[-1])[0]
    heat = sight.heats["last layer"][""]
    torch.testing.assert_close(heat.value("combined"), maps.combined().patches.mean((0, 1)))
    assert heat.uniform == pytest.approx(1 / (maps.grid.frames * maps.grid.patches))


def test_one_probe_each_head_and_relevance(folder, tmp_path):
    words = ("--head", "all", "--show", "difference")
    assert run(folder, "dna", "files/image.png", tmp_path, "--query", PROBES - 1, *words) == 0
    loaded = load(folder / "dna", device="cpu")
    model, processor = loaded.model, loaded.processor
    inputs = read_question_input(folder / "files" / "image.png", processor, "What happens here?")
    (maps,) = visual_maps(model, inputs, layers=[-1], queries=[PROBES - 1])
    for head, row in enumerate(panels(tmp_path)):
        place = divmod(int(np.abs(maps.heat(head=head).drawn("difference")).argmax()), 8)
        assert row["row"] == f"head {head}"
        assert (int(row["strongest_row"]), int(row["strongest_column"])) == place
    words = ("--kind", "relevance", "--target", "B", "--show", "combined")
    assert run(folder, "dna", "files/image.png", tmp_path, *words) == 0
    (heat,) = attention_relevance(model, inputs, processor.tokenizer.convert_tokens_to_ids("B"))
    (row,) = panels(tmp_path)
    assert float(row["strongest_value"]) == pytest.approx(float(heat.drawn("combined").max()), rel=1e-4)


def test_two_models_side_by_side(folder, tmp_path):
    assert run(folder, "dna", "files/clip.mp4", tmp_path, "--compare", folder / "softmax", "--format", "svg") == 0
    text = (tmp_path / "clip.svg").read_text()
    assert [row["variant"] for row in panels(tmp_path)] == ["dna", "softmax"] and "<svg" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kind", "rollout"), "visual probes cannot be rolled out"),
        (("--axis", "space"), "visual probes read all frames at once"),
        (("--query", "99"), f"the queries are the {PROBES} probes"),
        (("--query", "1,2"), f"the queries are the {PROBES} probes"),
        (("--layer", "7"), "layer 7"),
        (("--kind", "relevance", "--target", "carrot"), "target 'carrot' is 6 tokens"),
        (("--kind", "relevance", "--query", "1"), "leave out the query"),
    ],
)
def test_what_probes_do_not_have(folder, tmp_path, capsys, words, message):
    assert run(folder, "dna", "files/image.png", tmp_path, *words) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert message in printed[-1] and printed[-1].startswith("dna-hf: error: ")


def test_missing_weights_are_an_error(folder, tmp_path, capsys):
    # a language model has no part that can be left out
    shutil.copytree(folder / "dna", tmp_path / "headless")
    weights = load_file(folder / "dna" / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"},
        tmp_path / "headless" / "model.safetensors",
        metadata={"format": "pt"},
    )
    words = ["visualize", str(tmp_path / "headless"), str(folder / "files"), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "lm_head.weight" in line and not (tmp_path / "out").exists()


def test_files_that_are_none(folder, tmp_path, capsys):
    for what, message in (("empty", "holds no image or video"), ("missing.png", "does not exist")):
        assert run(folder, "dna", what, tmp_path) == 2
        assert message in capsys.readouterr().err
    assert run(folder, "dna", "files/broken.mp4", tmp_path) == 2
    assert "none of the 1 files can be read" in capsys.readouterr().err
