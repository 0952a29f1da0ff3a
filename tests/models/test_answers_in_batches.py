"""Answers to several conversations at once are those to each of them alone, with nothing said but `padding=True`."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.kit.video_llm import tiny_model, tiny_processor


GENERATOR = np.random.default_rng(0)
CLIP = GENERATOR.integers(0, 256, (3, 56, 56, 3), dtype=np.uint8)
PICTURE = Image.fromarray(GENERATOR.integers(0, 256, (56, 70, 3), dtype=np.uint8))
VIDEO, IMAGE = {"type": "video", "video": CLIP}, {"type": "image", "image": PICTURE}


def user(*content):
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]}


CHATS = [
    [user(VIDEO, "What happens here?")],
    [user("Hi")],
    [{"role": "system", "content": "Be brief."}, user(IMAGE, "What is it?")],
    [user(IMAGE, "and", IMAGE, "?"), {"role": "assistant", "content": "Two pictures."}, user("Are they the same?")],
    [user(VIDEO, IMAGE, "Is the picture a frame of the video, or is it something else altogether?")],
]
OPTIONS = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def model(processor):
    # spread widely, so that what is read decides the answer
    return tiny_model(processor, spread=0.3)


def answers(model, inputs):
    generated = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    return generated[:, inputs["input_ids"].shape[1] :].tolist()


def test_batched_answers_are_those_of_each_alone(processor, model):
    alone = []
    for chat in CHATS:
        alone += answers(model, processor.apply_chat_template(chat, add_generation_prompt=True, **OPTIONS))
    assert len({tuple(answer) for answer in alone}) == len(CHATS)
    batch = processor.apply_chat_template(CHATS, add_generation_prompt=True, padding=True, **OPTIONS)
    together = answers(model, batch)
    # what ended early is padded
    end = processor.tokenizer.pad_token_id
    assert [row[: len(one)] for row, one in zip(together, alone, strict=True)] == alone
    assert all(set(row[len(one) :]) <= {end} for row, one in zip(together, alone, strict=True))


def test_what_is_generated_from_is_padded_on_the_left_and_what_is_learned_as_the_tokenizer_pads(processor):
    def sides(**options):
        mask = processor.apply_chat_template(CHATS, **{"padding": True} | OPTIONS | options)["attention_mask"]
        return mask[:, 0].all().item(), mask[:, -1].all().item()

    left, right = (False, True), (True, False)
    assert sides(add_generation_prompt=True) == left
    assert sides() == right
    ended = [[*chat, {"role": "assistant", "content": "It "}] for chat in CHATS]
    mask = processor.apply_chat_template(ended, continue_final_message=True, padding=True, **OPTIONS)["attention_mask"]
    assert mask[:, -1].all()
    # what is said is done
    for given in (
        {"padding_side": "right"},
        {"processor_kwargs": {"padding_side": "right"}},
        {"processor_kwargs": {"text_kwargs": {"padding_side": "right"}}},
    ):
        assert sides(add_generation_prompt=True, **given) == right
    assert sides(padding_side="left") == left


def test_a_batch_with_padding_on_the_right_is_not_generated_from(processor, model):
    batch = processor.apply_chat_template(
        CHATS, add_generation_prompt=True, padding=True, padding_side="right", **OPTIONS
    )
    message = "^attention_mask has padding on the right in 4 of 5 rows, the first of them row 0: .* pad on the left"
    with pytest.raises(ValueError, match=message):
        model.generate(**batch, max_new_tokens=2)
    # it can be learned from all the same
    with torch.no_grad():
        assert torch.isfinite(model(**batch).logits).all()
