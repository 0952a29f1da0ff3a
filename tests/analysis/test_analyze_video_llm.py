"""`dna-hf analyze` of video language models: the attention of the probes, over the videos of a file of questions."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from dna_hf.analysis import AnalysisError, analyze_subspaces
from dna_hf.analysis.analyze import analyze
from dna_hf.analysis.samples import QuestionSamples
from dna_hf.cli import main
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.conversation_arguments import QuestionDataArguments
from dna_hf.data.inputs import encode, user_turn
from dna_hf.data.multiple_choice import load_questions
from dna_hf.evaluation.multiple_choice import question_prompt
from dna_hf.kinds import load
from tests.kit.page import Page
from tests.kit.video_llm import PROBES, tiny_model, tiny_processor
from tests.kit.videos import write_video


pytest.importorskip("matplotlib", reason="matplotlib is not installed")
OPTIONS = ["walks", "sits", "swims"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models; four questions about three files, one of them without a known answer, and a damaged video."""
    folder = tmp_path_factory.mktemp("analyze")
    processor = tiny_processor()
    for name, variant in (("dna", "dna"), ("softmax", "softmax")):
        tiny_model(processor, vision={"attention_variant": variant}).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    frames = np.random.default_rng(0).integers(0, 255, (4, 56, 84, 3), dtype=np.uint8)
    write_video(folder / "a.mp4", frames, fps=1)
    write_video(folder / "b.mp4", frames[::-1], fps=1)
    Image.fromarray(frames[0]).save(folder / "c.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    asked = [
        {"id": "first", "question": "Who?", "options": OPTIONS, "video": "a.mp4", "answer": "A"},
        {"id": "second", "question": "Why?", "options": OPTIONS, "video": "b.mp4", "answer": "C"},
        {"id": "third", "question": "Where?", "options": OPTIONS[:2], "video": "a.mp4", "answer": "B"},
        {"id": "fourth", "question": "When?", "options": OPTIONS, "image": "c.png"},
    ]
    (folder / "questions.json").write_text(json.dumps(asked))
    damaged = [*asked, asked[0] | {"id": "broken", "video": "broken.mp4"}]
    # one of several questions about a video
    damaged += [asked[0] | {"id": "placeholder", "question": "What is <|video_pad|>?"}]
    damaged += [asked[0] | {"id": "lost", "video": "lost.mp4"}]
    (folder / "damaged.json").write_text(json.dumps(damaged))
    return folder


@pytest.fixture(scope="module")
def compared(folder):
    output = folder / "compared"
    words = ["--compare", str(folder / "softmax"), "--dataset", str(folder / "questions.json")]
    assert main(["analyze", str(folder / "dna"), *words, "--output_dir", str(output), "--pictures", "3"]) == 0
    return output


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_are_those_of_the_probes(compared, folder):
    loaded = load(folder / "dna", device="cpu")
    model, processor = loaded.model, loaded.processor
    questions = load_questions(folder / "questions.json").questions
    inputs = {
        each.id: encode(processor, [[user_turn(question_prompt(each), [(each.kind, each.media)])]])
        for each in questions
    }
    # every video and image once, by the model as a whole
    report = analyze_subspaces(model, [dict(inputs[name]) for name in ("first", "second", "fourth")], k=PROBES)
    rows = [row for row in read(compared / "statistics.csv") if row["model"] == "dna"]
    assert {row["axis"] for row in rows} == {"space"}
    for layer in report.layers:
        for row in (row for row in rows if row["layer"] == str(layer.place.layer) and row["statistic"] != "scale"):
            expected, head = layer.statistics[row["statistic"]], int(row["head"])
            # random probes of the second layer are all alike, so that their outputs span one direction
            undefined = 3 if layer.place.layer == 1 and "angle" in row["statistic"] else 0
            assert (int(row["count"]), int(row["undefined"])) == (3 - undefined, undefined)
            assert undefined or float(row["mean"]) == pytest.approx(expected.mean()[head], abs=1e-6)
    answers = {row["sample"]: row for row in read(compared / "predictions.csv") if row["model"] == "dna"}
    hits = 0
    for each in questions:
        with torch.no_grad():
            logits = model(**inputs[each.id]).logits[0, -1]
        letters = {letter: float(logits[processor.tokenizer.encode(letter)[0]]) for letter in each.options}
        total = sum(np.exp(value) for value in letters.values())
        best = max(letters, key=letters.get)
        assert answers[each.id]["prediction"] == best
        assert float(answers[each.id]["probability"]) == pytest.approx(np.exp(letters[best]) / total, abs=1e-5)
        hits += best == each.answer
    words = " ".join(Page((compared / "report.html").read_text()).words)
    # of those whose answer is known
    assert f"{100 * hits / 3:.2f} %" in words


def test_page_says_what_was_asked_and_answered(compared):
    text = (compared / "report.html").read_text()
    page = Page(text)
    words = " ".join(page.words)
    # statistics, sensitivity, scales and three pictures
    assert len(page.images) == 6 and all(image["alt"] for image in page.images)
    assert "questions.json, 3 samples" in words and "letter it finds most likely" in words
    assert "dna, untrained" in words and "softmax, untrained" not in words
    asked = {"Who?": "(A) walks", "Why?": "(C) swims", "Where?": "(B) sits", "When?": "not known"}
    shown = [question for question in asked if f": {question}" in words]
    assert len(shown) == 3 and all(f"Right answer: {asked[question]}" in words for question in shown)
    settings = json.loads((compared / "settings.json").read_text())
    assert settings["split"] is None and settings["settings"]["k"] == PROBES
    assert settings["data"]["splits"] == {"questions": 4} and settings["data"]["config"] == "generic"


def test_untrained_probes_look_through_the_same_encoder(compared, folder):
    loaded = load(folder / "dna", device="cpu")
    data = QuestionDataArguments(str(folder / "questions.json"))
    samples = QuestionSamples(loaded, data)
    trained, fresh = samples.measured.state_dict(), samples.untrained().state_dict()
    changed = {name for name in trained if not torch.equal(trained[name], fresh[name])}
    assert changed and all(
        name.startswith(("encoder.visual_probes", "encoder.interaction_modules")) for name in changed
    )
    assert "encoder.visual_probes" in changed
    means = {}
    for row in read(compared / "statistics.csv"):
        if (row["statistic"], row["layer"], row["head"]) == ("output_cosine", "1", "0"):
            means[row["model"]] = float(row["mean"])
    assert means["dna"] != means["dna, untrained"]


def test_what_cannot_be_read_is_left_out_or_ends_it(folder, tmp_path, capsys):
    words = ["analyze", str(folder / "dna"), "--dataset", str(folder / "damaged.json"), "--no-untrained"]
    words += ["--output_dir", str(tmp_path), "--pictures", "0"]
    assert main(words) == 2
    assert "lost.mp4" in capsys.readouterr().err
    assert main([*words, "--on_error", "skip"]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "left out: " in line]
    assert len(said) == 3 and "lost.mp4" in said[0]
    assert "question 'broken': cannot read video" in said[1] and "question 'placeholder': " in said[2]
    assert {row["sample"] for row in read(tmp_path / "predictions.csv")} == {"first", "second", "third", "fourth"}


def test_nothing_that_can_be_read(folder, tmp_path, capsys):
    asked = {"id": "broken", "question": "Who?", "options": OPTIONS, "video": str(folder / "broken.mp4")}
    (tmp_path / "questions.json").write_text(json.dumps([asked]))
    words = [
        "--dataset",
        str(tmp_path / "questions.json"),
        "--on_error",
        "skip",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert main(["analyze", str(folder / "dna"), *words]) == 2
    assert "nothing of 'questions.json' can be read; the first: question 'broken': " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a file of multiple-choice questions"),
        (["--dataset", "{}/nowhere.json"], "nowhere.json"),
        (["--dataset", "{}/questions.json", "--split", "test"], "leave out the split"),
        (["--dataset", "{}/questions.json", "--k", "9"], f"choose k between 1 and {PROBES}"),
        (["--dataset", "{}/questions.json", "--max_eval_samples", "0"], "max_eval_samples must be at least 1"),
        (["--dataset", "{}/questions.json", "--fps", "0"], "fps"),
        (["--dataset", "{}/questions.json", "--format", "quiz"], "unknown format of questions 'quiz'"),
        (["--dataset", "{}/questions.json", "--train_split", "a"], "train_split"),
        (["--dataset", "{}/questions.json", "--on_error", "ignore"], "raise, skip"),
    ],
)
def test_what_cannot_be_asked(folder, tmp_path, capsys, words, message):
    words = [word.format(folder) for word in words]
    assert main(["analyze", str(folder / "dna"), "--output_dir", str(tmp_path / "out"), *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1].rpartition("dna-hf: error: ")[2]
    assert message in line


def test_data_of_another_kind(folder, tmp_path):
    with pytest.raises(AnalysisError, match="dna takes QuestionDataArguments, got ImageDataArguments"):
        analyze([str(folder / "dna")], ImageDataArguments(), None, tmp_path)
