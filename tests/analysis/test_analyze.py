"""`dna-hf analyze` as a user meets it: the page in a browser, the tables against the library."""

import csv
import json
import re
import shutil
import subprocess

import pytest
import torch
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf import DnATimesformerVideoProcessor
from dna_hf.analysis import analyze_subspaces
from dna_hf.analysis.analyze import choose_rows
from dna_hf.cli import main
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.images import torch_dataset
from dna_hf.data.sources import load_split
from dna_hf.evaluation.class_answers import Answer
from dna_hf.kinds import load
from tests.kit.models import tiny_timesformer, tiny_vit
from tests.kit.page import Page
from tests.kit.videos import numbered, write_video


pytest.importorskip("matplotlib", reason="matplotlib is not installed")
SIZE = {"height": 12, "width": 12}
SAMPLES = 10
DATA = ("--max_eval_samples", str(SAMPLES), "--batch-size", "4", "--pictures", "3")
# a name that would break a page that does not escape it
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def names():
    return load_split(ImageDataArguments(), "test").class_names


@pytest.fixture(scope="module")
def folder(tmp_path_factory, names):
    """Checkpoints that know the classes of the embedded data, and one that does not."""
    folder = tmp_path_factory.mktemp("analyze")
    classes = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    for name, variant in (("dna", "dna"), ("softmax", "softmax"), ("differential", "differential")):
        torch.manual_seed(len(name))
        tiny_vit(variant, **classes, initializer_range=0.5).save_pretrained(folder / name)
    tiny_vit("dna", id2label={0: HOSTILE, 1: "dog"}, label2id={HOSTILE: 0, "dog": 1}).save_pretrained(folder / "other")
    for name in ("dna", "softmax", "differential", "other"):
        ViTImageProcessorPil(size=SIZE).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def compared(folder):
    """The analysis of three models side by side."""
    output = folder / "compared"
    others = ["--compare", str(folder / "softmax"), str(folder / "differential")]
    assert main(["analyze", str(folder / "dna"), *others, "--output_dir", str(output), *DATA]) == 0
    return output


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_are_those_of_the_library(compared, folder):
    loaded = load(folder / "dna")
    model, processor = loaded.model, loaded.processor
    samples = torch_dataset(load_split(ImageDataArguments(max_eval_samples=SAMPLES), "test"), processor)
    pixels = torch.stack([torch.as_tensor(samples[row]["pixel_values"]) for row in range(SAMPLES)])
    # the heads have 8 directions
    report = analyze_subspaces(model, [{"pixel_values": part} for part in pixels.split(4)], k=8)
    rows = [row for row in read(compared / "statistics.csv") if row["model"] == "dna"]
    for layer in report.layers:
        own = [row for row in rows if row["layer"] == str(layer.place.layer)]
        assert {row["statistic"] for row in own} == {*layer.statistics, "scale"}
        for row in own:
            if row["statistic"] != "scale":
                expected = layer.statistics[row["statistic"]]
                assert float(row["mean"]) == pytest.approx(expected.mean()[int(row["head"])], abs=1e-9)
                assert float(row["median"]) == pytest.approx(expected.median()[int(row["head"])], abs=1e-9)
    with torch.no_grad():
        probabilities = model(pixel_values=pixels).logits.softmax(-1)
    predictions = [row for row in read(compared / "predictions.csv") if row["model"] == "dna"]
    assert [row["prediction"] for row in predictions] == [
        model.config.id2label[index] for index in probabilities.argmax(-1).tolist()
    ]
    assert [float(row["probability"]) for row in predictions] == pytest.approx(
        probabilities.max(-1).values.tolist(), abs=1e-5
    )
    first = next(
        row
        for row in read(compared / "sensitivity.csv")
        if (row["model"], row["layer"], row["head"], row["k"], row["epsilon"]) == ("dna", "0", "0", "3", "0.5")
    )
    assert float(first["mean_intruders"]) == report.layers[0].sensitivity()[first["branch"]][0][2][4]


def test_page_has_everything_in_it(compared):
    text = (compared / "report.html").read_text()
    page = Page(text)
    words = " ".join(page.words)
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in page.images)
    # statistics, sensitivity, scales and three pictures
    assert len(page.images) == 6
    files = [address for address in page.addresses if not address.startswith(("data:", "#"))]
    assert files == ["statistics.csv", "sensitivity.csv", "predictions.csv", "settings.json"]
    assert all((compared / name).is_file() for name in files)
    assert not re.search(r"url\(|@import|<script", text)
    assert "dna, untrained" in words and "differential, untrained" in words and "softmax, untrained" not in words
    assert "softmax attention has one branch" in words
    settings = json.loads((compared / "settings.json").read_text())
    assert settings["split"] == "test" and settings["settings"]["k"] == 8 and settings["peak_memory_mib"] > 0
    assert len(list((compared / "figures").glob("*.png"))) == 6


def test_classes_of_others_are_no_accuracy(folder, tmp_path):
    assert main(["analyze", str(folder / "other"), "--no-untrained", "--output_dir", str(tmp_path), *DATA]) == 0
    page = Page((tmp_path / "report.html").read_text())
    words = " ".join(page.words)
    assert "not defined" in words and ", untrained" not in words
    # as text, not as markup
    assert "<script>" not in (tmp_path / "report.html").read_text()
    assert HOSTILE in words or "dog" in words


def test_what_is_undefined_everywhere_is_said_to_be(folder, tmp_path):
    model = tiny_vit("dna")
    with torch.no_grad():
        for block in model.dna_vit.layers:
            block.attention.v_neg_proj.weight.zero_()
            block.attention.v_neg_proj.bias.zero_()
    model.save_pretrained(tmp_path / "model")
    ViTImageProcessorPil(size=SIZE).save_pretrained(tmp_path / "model")
    words = ["--no-untrained", "--output_dir", str(tmp_path / "out"), *DATA]
    assert main(["analyze", str(tmp_path / "model"), *words]) == 0
    page = Page((tmp_path / "out" / "report.html").read_text())
    words = [word.strip() for word in page.words if word.strip()]
    assert words[words.index("cosine of the branch outputs, by token") + 1] == "undefined"
    assert words[words.index("entropy of the positive map") + 1] != "undefined"


def test_videos(tmp_path):
    for name, frame in (("dark", 10), ("light", 240)):
        (tmp_path / "clips" / "test" / name).mkdir(parents=True)
        write_video(tmp_path / "clips" / "test" / name / "0.mp4", [numbered(frame)] * 4)
    (tmp_path / "clips" / "test" / "dark" / "1.mp4").write_bytes(b"no video")
    for name, kind in (("model", "divided_space_time"), ("joint", "joint_space_time")):
        model = tiny_timesformer(attention_type=kind)
        model.config.id2label, model.config.label2id = {0: "dark", 1: "light"}, {"dark": 0, "light": 1}
        model.save_pretrained(tmp_path / name)
        DnATimesformerVideoProcessor(num_frames=3, size={"shortest_edge": 12}, crop_size=SIZE).save_pretrained(
            tmp_path / name
        )
    words = ["--dataset", str(tmp_path / "clips"), "--on_error", "skip", "--max_bad_fraction", "0.4"]
    words += ["--output_dir", str(tmp_path / "out")]
    words += ["--compare", str(tmp_path / "joint")]
    assert main(["analyze", str(tmp_path / "model"), "--no-untrained", *words]) == 0
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    # one model attends over space and over time, the other over both at once
    assert {
        f"{kind}_{axis}.png" for kind in ("statistics", "scales") for axis in ("space", "time", "space_time")
    } < names
    assert sum(name.startswith("picture") for name in names) == 2
    assert len(read(tmp_path / "out" / "predictions.csv")) == 4


def test_pictures_begin_with_what_is_disputed():
    cat, dog = Answer([("cat", 0.5), ("dog", 0.5)]), Answer([("dog", 0.9), ("cat", 0.1)])
    first = dict.fromkeys(range(8), cat)
    second = first | {3: dog, 6: dog}
    assert choose_rows(range(8), [first, second], 4) == [3, 6, 0, 4]
    assert choose_rows(range(8), [first, second], 1) == [3]
    assert choose_rows(range(8), [first], 3) == [0, 2, 5]
    assert choose_rows(range(8), [first], 20) == list(range(8))


REFUSED = {
    "--split nowhere": "has no split 'nowhere'",
    "--epsilon 2": "epsilon",
    "--k 9": "choose k between 1 and 8",
    "--pictures -1": "--pictures: must be a whole number of at least 0, got '-1'",
    "--streaming true": "--streaming has no effect on dna-hf analyze",
    "--compare /nowhere": "'/nowhere' is not there",
    "--no_such_key 1": "no_such_key",
}


@pytest.mark.parametrize(("words", "message"), REFUSED.items())
def test_what_cannot_be_analysed(folder, tmp_path, capsys, words, message):
    assert main(["analyze", str(folder / "dna"), "--output_dir", str(tmp_path / "out"), *words.split()]) == 2
    # what went before is a progress bar
    line = capsys.readouterr().err.strip().splitlines()[-1].rpartition("dna-hf: error: ")[2]
    assert message in line


def test_the_data_is_summarized_before_a_model_runs(folder, tmp_path, capsys):
    words = ["--no-untrained", "--max_eval_samples", "4", "--pictures", "0", "--output_dir", str(tmp_path / "out")]
    assert main(["analyze", str(folder / "softmax"), *words]) == 0
    printed = capsys.readouterr().out
    rows = {line[:26].strip(): line[26:] for line in printed.splitlines()}
    assert rows["looked at"] == "all 4 images" and rows["from"] == "embedded in dna-hf"
    assert printed.index("softmax: parameters") < printed.index("the report: ")


def test_page_in_a_browser(compared, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    shown = """<script>addEventListener("load", () => {
        const loaded = [...document.images].filter(image => image.complete && image.naturalWidth > 0).length;
        const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
        document.title = `${loaded} images, ${wide} too wide`;
    });</script>"""
    page = tmp_path / "page.html"
    text = (compared / "report.html").read_text().replace(' loading="lazy"', "")
    page.write_text(text.replace("</body>", shown + "</body>"))
    for width in (1200, 390):
        result = subprocess.run(
            [
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
                *(f"--window-size={width},800", f"--user-data-dir={tmp_path / 'user'}"),
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert "CONSOLE" not in result.stderr, result.stderr
        assert "<title>6 images, 0 too wide</title>" in result.stdout
