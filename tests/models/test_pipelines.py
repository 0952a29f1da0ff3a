"""transformers' pipelines on saved folders: what they say is what the model says of what the processor makes."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from dna_hf.models import DnATimesformerConfig, DnATimesformerForVideoClassification, DnATimesformerVideoProcessor
from tests.kit.models import moved
from tests.kit.video_llm import tiny_model, tiny_processor
from tests.kit.videos import write_video


NEW_TOKENS = 10
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 70, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("video") / "a.mp4", 30, fps=10))


# --- videos to classes


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timesformer")
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DnATimesformerForVideoClassification(DnATimesformerConfig(**sizes, num_frames=4, num_labels=3))
    moved(model, 0.5).save_pretrained(folder)
    sides = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    DnATimesformerVideoProcessor(**sides, num_frames=4).save_pretrained(folder)
    return folder


@torch.no_grad()
def scores(folder, video):
    model = DnATimesformerForVideoClassification.from_pretrained(folder)
    inputs = DnATimesformerVideoProcessor.from_pretrained(folder)(video)
    values = model(**inputs).logits[0].softmax(-1).tolist()
    return {f"LABEL_{label}": pytest.approx(value, abs=1e-6) for label, value in enumerate(values)}


def said(answer):
    return {one["label"]: one["score"] for one in answer}


def test_video_classification(classifier, path):
    array = np.random.default_rng(1).integers(0, 256, (9, 20, 24, 3), dtype=np.uint8)
    classify = pipeline("video-classification", str(classifier), device="cpu")
    expected = {"file": scores(classifier, path), "array": scores(classifier, array)}
    assert expected["file"] != scores(classifier, array)
    assert said(classify(path)) == expected["file"]
    assert said(classify(array)) == said(classify(array / 255)) == expected["array"]
    assert [said(one) for one in classify([path, array])] == [expected["file"], expected["array"]]
    with pytest.raises(ValueError, match="cannot read video 'https://example.org/a.mp4': HF_HUB_OFFLINE=1 forbids"):
        classify("https://example.org/a.mp4")
    # transformers batches what has an image processor
    batched = pipeline(
        "video-classification",
        str(classifier),
        image_processor=DnATimesformerVideoProcessor.from_pretrained(classifier),
        device="cpu",
        batch_size=2,
    )
    answers = batched([path, array, path])
    assert [said(one) for one in answers] == [expected["file"], expected["array"], expected["file"]]


# --- conversations


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm")
    processor = tiny_processor()
    tiny_model(processor, spread=0.3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def chat(*parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}]


@torch.no_grad()
def answer_of(messages, **options):
    processor = tiny_processor()
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
    )
    generated = tiny_model(processor, spread=0.3).generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    return processor.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
def test_conversations_with_videos(llm, path, task):
    if task == "any-to-any":
        pytest.importorskip("torchvision")
    ask = pipeline(task, str(llm), device="cpu")
    options = {"max_new_tokens": NEW_TOKENS, "return_full_text": False}
    chats = [
        chat({"type": "video", "video": path, "num_frames": 2}),
        chat({"type": "video", "video": path}, {"type": "image", "image": PICTURE}),
        chat({"type": "image", "image": PICTURE}),
        chat(),
    ]
    expected = [answer_of(one) for one in chats]
    assert len(set(expected)) == len(chats)
    assert [ask(text=one, **options)[0]["generated_text"] for one in chats] == expected
    assert [one[0]["generated_text"] for one in ask(text=chats, **options)] == expected
    few = ask(text=chats[1], processor_kwargs={"num_frames": 3}, **options)[0]["generated_text"]
    assert few == answer_of(chats[1], num_frames=3)


def test_batches_of_conversations_need_padding_on_the_left(llm, path):
    """The pipeline pads itself, on the side of the tokenizer."""
    ask = pipeline("image-text-to-text", str(llm), device="cpu")
    options = {"max_new_tokens": NEW_TOKENS, "return_full_text": False, "batch_size": 2}
    chats = [chat({"type": "text", "text": "Hello"}), chat()]
    with pytest.raises(ValueError, match="attention_mask has padding on the right in 1 of 2 rows"):
        ask(text=chats, **options)
    ask.tokenizer.padding_side = "left"
    assert [one[0]["generated_text"] for one in ask(text=chats, **options)] == [answer_of(one) for one in chats]
