"""Checkpoints without a classifier, as a converted base model is one: maps and statistics, and no word of classes."""

import csv

import pytest
import torch
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf import DnATimesformerVideoProcessor
from dna_hf.analysis import AnalysisError
from dna_hf.analysis.sight import VisualizeSettings, see
from dna_hf.cli import main
from dna_hf.kinds import load
from tests.kit.models import tiny_timesformer, tiny_vit
from tests.kit.seeing import bright_patches
from tests.kit.videos import numbered, write_video


pytestmark = pytest.mark.auto_image_processor
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
SIZE = {"height": 12, "width": 12}
NAMES = {"id2label": {0: "axolotl", 1: "heron"}, "label2id": {"axolotl": 0, "heron": 1}}
# what only a trained classifier can say
CLAIMS = ("axolotl", "heron", "LABEL_", "prediction", "probability", " %", "accuracy", "Right answer")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of images and of videos, a classifier and its body alone."""
    folder = tmp_path_factory.mktemp("headless")
    image, video = tiny_vit(**NAMES), tiny_timesformer()
    video.config.id2label, video.config.label2id = NAMES["id2label"], NAMES["label2id"]
    processor = DnATimesformerVideoProcessor(num_frames=3, size={"shortest_edge": 12}, crop_size=SIZE)
    for name, whole, own in (("image", image, ViTImageProcessorPil(size=SIZE)), ("video", video, processor)):
        body = getattr(whole, whole.base_model_prefix)
        assert body.config.id2label == NAMES["id2label"]
        for path, model in ((folder / name, whole), (folder / f"{name}_body", body)):
            model.save_pretrained(path)
            own.save_pretrained(path)
    picture = (255 * bright_patches([(1, 2)], 3, 3)[0]).movedim(0, -1).to(torch.uint8).numpy()
    Image.fromarray(picture).save(folder / "a.png")
    write_video(folder / "a.mp4", [numbered(frame) for frame in (10, 120, 240)])
    for number, name in enumerate(("heron", "axolotl")):
        (folder / "data" / "test" / name).mkdir(parents=True)
        for copy in range(3):
            tones = Image.effect_noise((12, 12), 20 + 30 * number + copy).convert("RGB")
            tones.save(folder / "data" / "test" / name / f"{copy}.png")
    return folder


def texts(folder):
    """Everything in a folder that can be read as text, by file; pictures in a page are left out."""
    files = [path for path in folder.rglob("*") if path.suffix in (".csv", ".json", ".svg", ".html")]
    assert files
    return {path.name: path.read_text().partition('src="data:')[0] for path in files}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["attention", "rollout"])
@pytest.mark.parametrize(("name", "file"), [("image", "a.png"), ("video", "a.mp4")])
def test_figures_name_no_class(folder, tmp_path, name, file, kind):
    panels = {}
    for checkpoint in (name, f"{name}_body"):
        words = ["visualize", str(folder / checkpoint), str(folder / file), "--output", str(tmp_path / checkpoint)]
        assert main([*words, "--kind", kind, "--format", "svg"]) == 0
        panels[checkpoint] = rows(tmp_path / checkpoint / "panels.csv")
    # the command and the file of the data may be called anything
    for path, text in texts(tmp_path / f"{name}_body").items():
        assert not [claim for claim in CLAIMS if claim in text], path
    assert f"{name}_body" in (tmp_path / f"{name}_body" / "a.svg").read_text()
    # what they show is what the classifier looks at
    strongest = [name for name in panels[name][0] if name.startswith(("strongest", "map"))]
    for whole, body in zip(panels[name], panels[f"{name}_body"], strict=True):
        assert [whole[each] for each in strongest] == [body[each] for each in strongest]
        assert whole.keys() - body.keys() == {"prediction", "probability"}


def test_beside_a_classifier_only_that_one_names_classes(folder, tmp_path):
    words = ["visualize", str(folder / "image_body"), str(folder / "a.png"), "--compare", str(folder / "image")]
    assert main([*words, "--output", str(tmp_path)]) == 0
    body, whole = rows(tmp_path / "panels.csv")
    assert (body["prediction"], body["probability"]) == ("", "")
    assert whole["prediction"] in NAMES["label2id"] and float(whole["probability"]) > 0


def test_relevance_needs_a_classifier(folder, tmp_path, capsys):
    words = ["visualize", str(folder / "image_body"), str(folder / "a.png"), "--output", str(tmp_path / "out")]
    assert main([*words, "--kind", "relevance"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and "has no classifier" in errors[0] and "convert a checkpoint that has one" in errors[0]
    assert not (tmp_path / "out").exists()
    body = load(folder / "image_body", needs_head=False, device="cpu")
    with pytest.raises(AnalysisError, match="relevance needs logits"):
        see(body, torch.zeros(1, 3, 12, 12), VisualizeSettings(kind="relevance"))


def test_a_report_has_statistics_and_no_accuracy(folder, tmp_path):
    data = ["--dataset", str(folder / "data"), "--pictures", "2"]
    for checkpoint in ("image", "image_body"):
        assert main(["analyze", str(folder / checkpoint), "--output_dir", str(tmp_path / checkpoint), *data]) == 0
    body, whole = tmp_path / "image_body", tmp_path / "image"
    assert (whole / "predictions.csv").exists() and not (body / "predictions.csv").exists()
    found = texts(body)
    assert "picture_" in str(list(body.rglob("*.png")))
    for path, text in found.items():
        assert not [claim for claim in CLAIMS if claim in text], path
    assert "accuracy here" in (whole / "report.html").read_text()
    # an untrained body draws other weights than an untrained classifier
    values = [
        [
            row["mean"]
            for row in rows(path / "statistics.csv")
            if not row["model"].endswith("untrained") and row["statistic"] != "scale"
        ]
        for path in (whole, body)
    ]
    assert values[0] and values[0] == values[1]


def test_names_of_files_are_shown_as_they_are(folder, tmp_path):
    # no formula between the dollars, and a byte that is no UTF-8
    name = b"caf\xe9 $\\frac$.png".decode("utf-8", "surrogateescape")
    picture = tmp_path / name
    picture.write_bytes((folder / "a.png").read_bytes())
    words = ["visualize", str(folder / "image"), str(picture), "--output", str(tmp_path / "out"), "--format", "svg"]
    assert main(words) == 0
    row = rows(tmp_path / "out" / "panels.csv")[0]
    assert row["file"].endswith(r"caf\udce9 $\frac$.png")
    assert r"caf\udce9 $\frac$.png" in (tmp_path / "out" / row["figure"]).read_text()


@pytest.mark.parametrize("verb", ["visualize", "analyze"])
def test_an_output_that_cannot_be_written_costs_no_work(folder, tmp_path, capsys, verb, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(f"dna_hf.analysis.{verb}.load_all", lambda *args, **kwargs: pytest.fail("models were loaded"))
    what = [str(folder / "a.png")] if verb == "visualize" else ["--dataset", str(folder / "data")]
    assert main([verb, str(folder / "image"), *what, "--output_dir", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err
