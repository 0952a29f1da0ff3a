"""What the demo shows, and the folder of a Space; the page itself is tested in a browser."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf import DnATimesformerVideoProcessor
from dna_hf.analysis import AnalysisError, visual_maps
from dna_hf.cli import main
from dna_hf.data.errors import DataError
from dna_hf.demo.explore import Choices, load_explorer, patch_at, scaled_negative_branch
from dna_hf.demo.space import export_space
from tests.kit.models import tiny_timesformer, tiny_vit
from tests.kit.videos import numbered, write_video


SIZE = {"height": 12, "width": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    names = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
    for variant in ("dna", "softmax", "cog"):
        tiny_vit(variant, **names).save_pretrained(folder / variant)
        ViTImageProcessorPil(size=SIZE).save_pretrained(folder / variant)
    for name, kind in (("divided", "divided_space_time"), ("joint", "joint_space_time")):
        tiny_timesformer(attention_type=kind).save_pretrained(folder / name)
        DnATimesformerVideoProcessor(num_frames=3, size={"shortest_edge": 12}, crop_size=SIZE).save_pretrained(
            folder / name
        )
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(folder / "a.png")
    (folder / "bad.png").write_bytes(b"no picture")
    write_video(folder / "a.mp4", [numbered(frame) for frame in (10, 120, 240)])
    return folder


@pytest.fixture(scope="module")
def explorer(folder):
    return load_explorer([str(folder / "dna"), str(folder / "softmax")])


def test_shows_every_model(explorer, folder):
    readings = explorer.read(folder / "a.png")
    dna, softmax = explorer.show(readings, Choices(layer=1))
    model = explorer.models[0].model
    with torch.no_grad():
        expected = model(**readings[0].inputs).logits[0].softmax(0)
    assert list(dna.predictions.values()) == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-6)
    assert set(dna.maps) == {"positive", "negative", "combined"} and set(softmax.maps) == {"positive", "combined"}
    assert all(picture.shape == (444, 444, 3) for picture in (dna.picture, *dna.maps.values()))


def test_strength_is_the_factor_of_alpha(explorer, folder):
    readings = explorer.read(folder / "a.png")
    model = explorer.models[0].model
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    shown = [explorer.show(readings, Choices(1, strength=strength))[0].predictions for strength in (0.0, 1.0, 2.0)]
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    for strength, predictions in zip((0.0, 1.0, 2.0), shown, strict=True):
        scaled = {name: value * strength if "negative_scale" in name else value for name, value in kept.items()}
        other = tiny_vit("dna", id2label=model.config.id2label, label2id=model.config.label2id)
        other.load_state_dict(scaled)
        with torch.no_grad():
            probabilities = other(**readings[0].inputs).logits[0].softmax(0)
        for name, probability in predictions.items():
            assert probability == pytest.approx(probabilities[other.config.label2id[name]].item(), abs=1e-6)
    assert shown[0] != shown[1] != shown[2]
    with pytest.raises(RuntimeError), scaled_negative_branch(model, 0.0):
        raise RuntimeError
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


def test_a_click_asks_its_patch(explorer, folder):
    assert [patch_at(point, 3, 3) for point in ((0, 0), (0.34, 0.99), (1, 1))] == [(0, 0), (2, 1), (2, 2)]
    readings = explorer.read(folder / "a.png")
    by_class = explorer.show(readings, Choices(1, head=1))[0]
    by_patch = explorer.show(readings, Choices(1, head=1, point=(0.5, 0.9)))[0]
    assert not np.array_equal(by_class.maps["positive"], by_patch.maps["positive"])
    # the patch is marked, and the colours are those of its map
    row, column = 2, 1
    marked = by_patch.picture[row * 148 + 1, column * 148 + 1]
    assert tuple(marked) == (255, 200, 0)
    model, inputs = explorer.models[0].model, readings[0].inputs
    (maps,) = visual_maps(model, inputs, [1], heads=[1], queries=[(row, column)])
    strongest = np.unravel_index(maps.heat().drawn("positive")[0].argmax(), (3, 3))
    picture = by_patch.maps["positive"].astype(int)
    redness = (picture[..., 0] - picture[..., 2])[74::148, 74::148]
    assert np.unravel_index(redness.argmax(), (3, 3)) == strongest


@pytest.mark.parametrize("name", ["divided", "joint"])
def test_videos(folder, name):
    explorer = load_explorer([str(folder / name)])
    readings = explorer.read(folder / "a.mp4")
    assert explorer.media == "a video" and len(readings[0].pictures) == 3
    first, last = (explorer.show(readings, Choices(0, frame=frame))[0] for frame in (0, 2))
    assert first.picture.mean() < last.picture.mean() and first.predictions == last.predictions
    asked = explorer.show(readings, Choices(0, frame=2, point=(0.5, 0.5)))[0]
    assert not np.array_equal(asked.maps["positive"], last.maps["positive"])
    with pytest.raises(AnalysisError, match="no frame 3"):
        explorer.show(readings, Choices(0, frame=3))


@pytest.mark.parametrize(("name", "file"), [("dna", "a.png"), ("divided", "a.mp4")])
def test_a_model_without_a_classifier_names_no_class(folder, tmp_path, name, file):
    whole = load_explorer([str(folder / name)], "cpu")
    model, processor = whole.models[0].model, whole.models[0].processor
    getattr(model, model.base_model_prefix).save_pretrained(tmp_path / "body")
    processor.save_pretrained(tmp_path / "body")
    body = load_explorer([str(tmp_path / "body")], "cpu")
    choices = Choices(1, head=1, point=(0.4, 0.7), strength=0.5)
    (expected,), (found,) = (each.show(each.read(folder / file), choices) for each in (whole, body))
    assert expected.predictions and found.predictions == {}
    assert found.maps.keys() == expected.maps.keys()
    assert all(np.array_equal(found.maps[each], expected.maps[each]) for each in found.maps)


def test_what_cannot_be_shown(explorer, folder, capsys):
    with pytest.raises(DataError, match=r"bad\.png"):
        explorer.read(folder / "bad.png")
    with pytest.raises(AnalysisError, match="layer 9"):
        explorer.show(explorer.read(folder / "a.png"), Choices(9))
    assert main(["demo", str(folder / "dna"), "--compare", str(folder / "divided")]) == 2
    assert "give models of one kind" in capsys.readouterr().err
    assert main(["demo", str(folder / "nowhere")]) == 2
    assert "is not there" in capsys.readouterr().err


def test_space(folder, tmp_path, capsys):
    try:
        distribution("dna-hf")
    except PackageNotFoundError:
        with pytest.raises(AnalysisError, match="is not installed"):
            export_space([str(folder / "dna")], tmp_path / "space")
        pytest.skip("dna-hf is not installed here, so that no Space can be made")
    space = tmp_path / "space"
    assert main(["demo", str(folder / "dna"), "--compare", str(folder / "cog"), "--export-space", str(space)]) == 0
    assert "python app.py" in capsys.readouterr().out
    needed = (space / "requirements.txt").read_text().split("\n")
    assert any(line.startswith("transformers") for line in needed) and not any("gradio" in line for line in needed)
    assert "sdk: gradio" in (space / "README.md").read_text()
    # the folder is enough: its own package and its own models
    code = (
        "import json, dna_hf, pathlib\n"
        "assert pathlib.Path(dna_hf.__file__).parent == pathlib.Path('dna_hf').resolve(), dna_hf.__file__\n"
        "from dna_hf.demo.explore import load_explorer\n"
        "print(json.dumps([each.label for each in load_explorer(['models/dna', 'models/cog']).models]))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=space, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.strip().splitlines()[-1]) == ["dna", "cog"]
    assert main(["demo", str(folder / "dna"), "--export-space", str(space)]) == 2
    assert "is not empty" in capsys.readouterr().err
