"""What the demo shows of video language models: where their probes look, and how their answers begin."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dna_hf.analysis import AnalysisError, visual_maps
from dna_hf.analysis.drawing import overlay, shared_scale
from dna_hf.cli import main
from dna_hf.data.errors import DataError
from dna_hf.data.inputs import encode, user_turn
from dna_hf.demo import space as space_module
from dna_hf.demo.explore import MARK, Choices, asking, load_explorer
from tests.kit.models import tiny_vit
from tests.kit.seeing import bright_patches, seek_brightness
from tests.kit.video_llm import PROBES, tiny_model, tiny_processor
from tests.kit.videos import write_video


# file -> its bright patch (row, column) in each frame, and its rows and columns
FILES = {
    "image.png": ([(4, 1)], 6, 8),
    "wide.png": ([(5, 71)], 8, 80),
    "clip.mp4": ([None, (5, 6), None], 8, 8),
}


def unlike_probes(model):
    """Sharpen attention, so that every probe looks at patches of its own."""
    with torch.no_grad():
        for name, parameter in model.model.vision_model.named_parameters():
            if "interaction_modules" in name and ".q_" in name:
                parameter.mul_(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    processor = tiny_processor()
    processor.video_processor.max_visual_tokens = 1024
    for name, vision in (
        ("dna", {}),
        ("softmax", {"attention_variant": "softmax"}),
        ("last", {"interaction_layers": [1]}),
        ("seeking", {}),
    ):
        model = tiny_model(processor, vision=vision)
        if name == "seeking":
            seek_brightness(model.model.vision_model, sharpness=0.1)
        else:
            unlike_probes(model)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    for name, (places, rows, columns) in FILES.items():
        frames = (255 * bright_patches(places, rows, columns, size=14)).movedim(1, -1).to(torch.uint8).numpy()
        if len(frames) == 1:
            Image.fromarray(frames[0]).save(folder / name)
        else:
            write_video(folder / name, frames, fps=1)
    noise = np.random.default_rng(0).integers(0, 255, (3, 8, 10, 3), dtype=np.uint8).repeat(14, 1).repeat(14, 2)
    write_video(folder / "noise.mp4", noise, fps=1)
    return folder


@pytest.fixture(scope="module")
def explorer(folder):
    return load_explorer([str(folder / "dna"), str(folder / "softmax")])


def redness(picture, rows, columns):
    """How red the patches (rows, columns) of a picture are, in their middles."""
    height, width = picture.shape[:2]
    tops, lefts = (
        (2 * np.arange(rows) + 1) * height // (2 * rows),
        (2 * np.arange(columns) + 1) * width // (2 * columns),
    )
    middles = picture[tops][:, lefts].astype(int)
    return middles[..., 0] - middles[..., 2]


def alike(first, second):
    """Whether pictures are the same but for rounding."""
    return np.abs(first.astype(int) - second.astype(int)).max() <= 2


def middle(place, rows, columns):
    """The point in the middle of a patch."""
    return (place[1] + 0.5) / columns, (place[0] + 0.5) / rows


@pytest.mark.parametrize("name", FILES)
def test_probes_that_seek_brightness_find_it(folder, name):
    places, rows, columns = FILES[name]
    explorer = load_explorer([str(folder / "seeking")])
    readings = explorer.read(folder / name)
    assert readings[0].pictures.shape[:3] == (len(places), 14 * rows, 14 * columns)
    (frame,) = [frame for frame, place in enumerate(places) if place]
    seen = [explorer.show(readings, Choices(1, frame=number))[0] for number in range(len(places))]
    red = np.stack([redness(one.maps["positive"], rows, columns) for one in seen])
    assert np.unravel_index(red.argmax(), red.shape) == (frame, *places[frame])
    # the picture on the page is neither tiny nor huge, and the patch that is clicked has a frame
    height, width = seen[frame].picture.shape[:2]
    assert 400 < max(height, width) <= 1024 and height / width == pytest.approx(rows / columns, rel=0.02)
    clicked = explorer.show(readings, Choices(1, frame=frame, point=middle(places[frame], rows, columns)))[0]
    assert clicked.asking.endswith("most to the patch in row {}, column {}".format(*places[frame]))
    changed = (clicked.picture != seen[frame].picture).any(-1)
    top, left = np.argwhere(changed).min(0)
    assert tuple(clicked.picture[top, left]) == MARK
    assert (top * rows // height, left * columns // width) == places[frame]
    bottom, right = np.argwhere(changed).max(0)
    assert (bottom * rows // height, right * columns // width) == places[frame]


@pytest.mark.parametrize("name", ["image.png", "clip.mp4"])
def test_beginnings_of_the_answer(explorer, folder, name):
    found = {question: explorer.show(explorer.read(folder / name, question), Choices(0)) for question in ("Who?", " ")}
    for question, shown in found.items():
        for own, one in zip(explorer.models, shown, strict=True):
            kind = "video" if name.endswith("mp4") else "image"
            turn = user_turn(question.strip() or "What happens here?", [(kind, str(folder / name))])
            with torch.no_grad():
                logits = own.model(**encode(own.processor, [[turn]])).logits[0, -1]
            values, tokens = logits.softmax(0).topk(5)
            assert list(one.predictions.values()) == pytest.approx(values.tolist(), rel=1e-4)
            for said, token in zip(one.predictions, tokens.tolist(), strict=True):
                assert said.startswith(repr(own.processor.tokenizer.decode(token)))
    # probes do not hear what is asked
    for first, second in zip(*found.values(), strict=True):
        assert first.predictions != second.predictions
        assert all(np.array_equal(first.maps[each], second.maps[each]) for each in first.maps)


def test_strength_is_the_factor_of_alpha(explorer, folder):
    readings = explorer.read(folder / "image.png")
    own = explorer.models[0]
    kept = {name: value.clone() for name, value in own.model.state_dict().items()}
    shown = [explorer.show(readings, Choices(1, strength=strength))[0].predictions for strength in (0.0, 1.0, 2.0)]
    assert all(torch.equal(kept[name], value) for name, value in own.model.state_dict().items())
    for strength, predictions in zip((0.0, 1.0, 2.0), shown, strict=True):
        other = tiny_model(own.processor)
        other.load_state_dict(
            {name: value * strength if "negative_scale" in name else value for name, value in kept.items()}
        )
        with torch.no_grad():
            probabilities = other(**readings[0].inputs).logits[0, -1].softmax(0)
        assert list(predictions.values()) == pytest.approx(probabilities.topk(5).values.tolist(), rel=1e-5)
    assert shown[0] != shown[1] != shown[2]


@pytest.mark.parametrize("head", [None, 1])
def test_a_click_finds_the_probe(explorer, folder, head):
    rows, columns, frame, patches = 8, 10, 2, [(0, 0), (3, 9), (7, 2), (4, 4)]
    readings = explorer.read(folder / "noise.mp4")
    chosen = set()
    for place in patches:
        shown = explorer.show(readings, Choices(1, head, middle(place, rows, columns), frame=frame))
        for own, reading, one in zip(explorer.models, readings, shown, strict=True):
            (maps,) = visual_maps(own.model, reading.inputs, [1], None if head is None else [head])
            probe = int(maps.positive.patches.mean(0)[:, frame, place[0], place[1]].argmax())
            row, column = place
            assert one.asking == f"probe {probe}, which attends most to the patch in row {row}, column {column}"
            chosen.add((own.label, probe))
            # the colours are those of this probe, as if it was chosen by its number
            by_number = explorer.show(readings, Choices(1, head, probe=probe, frame=frame))[explorer.models.index(own)]
            assert by_number.asking == f"probe {probe}"
            values = {name: maps.heat(query=probe).drawn(name) for name in one.maps}
            for name, picture in by_number.maps.items():
                coloured = overlay(by_number.picture, values[name][frame], shared_scale(values.values()))
                assert alike(picture, coloured)
                assert alike(redness(picture, rows, columns), redness(one.maps[name], rows, columns))
    assert len(chosen) > 2


def test_two_models_side_by_side(explorer, folder):
    readings = explorer.read(folder / "noise.mp4")
    dna, softmax = everyone = explorer.show(readings, Choices(0))
    assert set(dna.maps) == {"positive", "negative", "combined"} and set(softmax.maps) == {"positive", "combined"}
    assert asking(everyone) == "Asking: all probes"
    lines = set()
    for column in range(8):
        shown = explorer.show(readings, Choices(0, point=middle((0, column), 8, 10)))
        lines.add(asking(shown))
        if shown[0].asking != shown[1].asking:
            assert asking(shown) == f"Asking:\n- dna: {shown[0].asking}\n- softmax: {shown[1].asking}"
    assert any("softmax" in line for line in lines)


def test_controls_follow_the_models(explorer, folder):
    assert (explorer.layers, explorer.heads, explorer.probes) == (2, 2, PROBES)
    last = load_explorer([str(folder / "last")])
    assert last.layers == 1
    readings = last.read(folder / "image.png")
    (maps,) = visual_maps(last.models[0].model, readings[0].inputs, layers=[1])
    values = {name: maps.heat().drawn(name) for name in ("positive", "negative", "combined")}
    (shown,) = last.show(readings, Choices(0))
    for name, picture in shown.maps.items():
        assert alike(picture, overlay(shown.picture, values[name][0], shared_scale(values.values())))
    for choices, message in (
        (Choices(1), "no interaction module 1: the model has 1"),
        (Choices(0, frame=1), "no frame 1: the model takes 1"),
        (Choices(0, probe=PROBES), f"the queries are the {PROBES} probes"),
        (Choices(0, head=2), "head 2 does not exist"),
    ):
        with pytest.raises(AnalysisError, match=message):
            last.show(readings, choices)


def test_files_that_cannot_be_read(explorer, folder, tmp_path, monkeypatch):
    whole = (folder / "image.png").read_bytes()
    for name, content in (
        ("cut.png", whole[: len(whole) // 2]),
        ("none.jpg", b"no picture"),
        ("broken.mp4", b"no video"),
        ("text.txt", b"What happens here?"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"cannot read (image|video) .*{name}"):
            explorer.read(tmp_path / name)
    with pytest.raises(DataError, match="2 <|image_pad|> but 1 image"):
        explorer.read(folder / "image.png", "What is <|image_pad|>?")
    # a video by its ending, though Pillow knows that one, too
    shutil.copy(folder / "clip.mp4", tmp_path / "clip.mpg")
    assert len(explorer.read(tmp_path / "clip.mpg")[0].pictures) == 3
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"cannot read image .*image\.png: .*decompression bomb"):
        explorer.read(folder / "image.png")


def test_models_of_one_kind(folder, tmp_path, capsys):
    tiny_vit("dna").save_pretrained(tmp_path / "vit")
    assert main(["demo", str(folder / "dna"), "--compare", str(tmp_path / "vit")]) == 2
    assert "give models of one kind" in capsys.readouterr().err


def test_space(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(space_module, "requires", lambda name: ["torch", 'gradio>=6; extra == "demo"'])
    assert main(["demo", str(folder / "dna"), "--export-space", str(tmp_path / "space")]) == 0
    assert 'load_explorer(["models/dna"]' in (tmp_path / "space" / "app.py").read_text()
    shown, expected = (
        explorer.show(explorer.read(folder / "image.png"), Choices(1))[0]
        for explorer in (
            load_explorer([str(tmp_path / "space" / "models" / "dna")]),
            load_explorer([str(folder / "dna")]),
        )
    )
    assert shown.predictions == expected.predictions
