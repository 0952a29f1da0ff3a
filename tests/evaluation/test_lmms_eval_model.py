"""The plug-in of lmms-eval, run by its real registry, tasks and evaluator; skipped without lmms_eval."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from dna_hf.evaluation.multiple_choice import question_prompt
from tests.kit.taught_video_llm import ask, tiny_video_llm, train, write_colours


ENTRY_POINT = "[lmms_eval.models]\ndna_video_llama3 = dna_hf.evaluation.lmms_eval_model:manifest\n"
needs_lmms_eval = pytest.mark.skipif(not importlib.util.find_spec("lmms_eval"), reason="lmms_eval is not installed")

TASK = """\
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
task: tiny
test_split: test
output_type: generate_until
doc_to_visual: !function utils.to_visual
doc_to_text: !function utils.to_text
doc_to_target: expected
generation_kwargs:
  max_new_tokens: 8
  temperature: 0
  until: [" is"]
process_results: !function utils.process
metric_list:
  - {{metric: right, aggregation: mean, higher_is_better: true}}
metadata:
  version: 0
"""
UTILS = """\
from PIL import Image

def to_visual(doc):
    return [Image.open(doc["media"]).convert("RGB") if doc["media"].endswith("png") else doc["media"]]

def to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["text"]

def process(doc, results):
    return {"right": float(results[0] == doc["expected"])}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A taught checkpoint, a task about videos and an image, and the plug-in as an installed package announces it."""
    folder = write_colours(tmp_path_factory.mktemp("lmms_eval"))
    model, processor = tiny_video_llm()
    questions = [ask(folder, "red.mp4"), ask(folder, "blue.mp4"), ask(folder, "red.png")]
    answers = ["(A) red", "The answer is B.", "It is it"]
    train(model, processor, list(zip(questions, answers, strict=True)))
    for part in (model, processor):
        part.save_pretrained(folder / "checkpoint")
    rows = [
        {"text": question_prompt(question), "media": question.media, "expected": answer.partition(" is")[0]}
        for question, answer in zip(questions, answers, strict=True)
    ]
    (folder / "data.json").write_text(json.dumps(rows))
    (folder / "tasks").mkdir()
    (folder / "tasks" / "utils.py").write_text(UTILS)
    (folder / "tasks" / "tiny.yaml").write_text(TASK.format(data=folder / "data.json"))
    installed = folder / "site" / "plugin-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINT)
    return folder


@needs_lmms_eval
@pytest.mark.slow
def test_a_task_of_the_harness(folder):
    path = os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "lmms_eval", "--model", "dna_video_llama3", "--tasks", "tiny", "--device", "cpu"]
    command += ["--model_args", f"pretrained={folder / 'checkpoint'},fps=1", "--include_path", str(folder / "tasks")]
    command += ["--output_path", str(folder / "out"), "--batch_size", "2"]
    environment = os.environ | {"PYTHONPATH": path, "HF_HOME": str(folder / "home")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    reports = list((folder / "out").rglob("*results.json"))
    assert reports, result.stdout[-3000:] + result.stderr[-3000:]
    assert json.loads(reports[0].read_text())["results"]["tiny"]["right,none"] == 1.0


@needs_lmms_eval
def test_parts_of_messages():
    from dna_hf.evaluation.lmms_eval_model import as_content, cut

    picture = Image.new("RGB", (8, 8))
    assert as_content({"type": "text", "text": "a"}) == {"type": "text", "text": "a"}
    assert as_content({"type": "image", "url": picture}) == {"type": "image", "image": picture}
    assert as_content({"type": "video", "url": "a.mp4"}) == {"type": "video", "video": "a.mp4"}
    part = {"type": "video", "video": {"path": "a.mp4", "start": 1.0, "end": 2.5}}
    assert as_content({"type": "video", "url": "a.mp4", "start_time": 1.0, "end_time": 2.5}) == part
    # as the harness writes documents that give the part of a video themselves
    assert as_content({"type": "video", "url": {"path": "a.mp4", "video_start": 1.0, "video_end": 2.5}}) == part
    with pytest.raises(ValueError, match="takes text, images and videos, not 'audio'"):
        as_content({"type": "audio", "url": "a.wav"})
    assert cut("one. two\n\nthree", ["\n\n", "two", ""]) == "one. "
    assert cut("one", ["two"]) == "one"


@needs_lmms_eval
@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, {"max_new_tokens": 5}),
        ({"max_new_tokens": 9, "until": ["x"], "image_aspect_ratio": "pad"}, {"max_new_tokens": 9}),
        ({"temperature": 0, "top_p": 0.9, "num_beams": 2}, {"max_new_tokens": 5, "num_beams": 2}),
        ({"do_sample": False, "temperature": 0.7}, {"max_new_tokens": 5}),
        ({"temperature": 0.7}, {"max_new_tokens": 5, "temperature": 0.7, "do_sample": True}),
        ({"do_sample": True, "top_k": 3}, {"max_new_tokens": 5, "top_k": 3, "do_sample": True}),
    ],
)
def test_options_of_generation(folder, given, options):
    from lmms_eval.api.instance import Instance

    from dna_hf.evaluation.lmms_eval_model import DnAVideoLlama3

    plugin = DnAVideoLlama3(str(folder / "checkpoint"), device="cpu", max_new_tokens=5)
    metadata = {"task": "tiny", "doc_id": 0, "repeats": 1}
    request = Instance("generate_until", ("", None, given, 0, "tiny", "test"), 0, metadata)
    assert plugin._settings(request)["options"] == options


def test_without_lmms_eval():
    code = "import sys; sys.modules['lmms_eval'] = None; import dna_hf.evaluation.lmms_eval_model"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last == "ImportError: this module is a plug-in of lmms_eval 0.7 or newer: pip install lmms_eval."
