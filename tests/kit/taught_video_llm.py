"""A tiny video LLM, which can be trained in seconds to give chosen answers, and videos to ask it about."""

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dna_hf.data.multiple_choice import Question
from dna_hf.evaluation.multiple_choice import PROMPT, question_prompt
from dna_hf.models import (
    DnAVideoLlama3ImageProcessor,
    DnAVideoLlama3Processor,
    DnAVideoLlama3VideoProcessor,
)
from tests.kit.video_llm import tiny_model
from tests.kit.videos import write_video


PATCH, PROBES = 4, 2
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
OPTIONS = {"A": "red paint", "B": "blue paint", "C": "no paint"}


def tiny_tokenizer():
    """Byte-level BPE as of the released models, of the words of the prompt."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([PROMPT, " assistant user paint red blue What is shown? The answer is"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def tiny_video_llm():
    """A model of random weights and its processor."""
    tokenizer = tiny_tokenizer()
    processor = DnAVideoLlama3Processor(
        DnAVideoLlama3ImageProcessor(patch_size=PATCH, merge_size=2),
        tokenizer,
        DnAVideoLlama3VideoProcessor(patch_size=PATCH, max_visual_tokens=8, min_visual_tokens=1, max_frames=4),
        num_probes=PROBES,
    )
    text = {"num_key_value_heads": 1}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "patch_size": PATCH}
    return tiny_model(processor, text, vision, spread=0), processor


def write_colours(folder):
    """A video of two seconds and an image of each colour, by the name of the colour."""
    for name, colour in COLOURS.items():
        frame = np.full((16, 24, 3), colour, np.uint8)
        write_video(folder / f"{name}.mp4", [frame] * 4, fps=2)
        Image.fromarray(frame).save(folder / f"{name}.png")
    return folder


def ask(folder, name, text="What is shown?", **fields):
    """A question about a video or an image of a folder."""
    kind = "video" if name.endswith("mp4") else "image"
    return Question(
        **{"id": name, "text": text, "options": OPTIONS, "media": str(folder / name), "kind": kind} | fields
    )


def turn(text, media):
    """A turn of the user: media are pairs of a kind and a path."""
    content = [{"type": kind, kind: str(path)} for kind, path in media]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def train(model, processor, answers):
    """Train a model until it gives the answers to questions, `[(question, answer), ...]`."""
    train_turns(
        model,
        processor,
        [[turn(question_prompt(question), [(question.kind, question.media)]), answer] for question, answer in answers],
    )


def train_turns(model, processor, conversations):
    """Train a model until it holds conversations, lists of turns of the user and texts of the assistant."""
    messages = [
        [
            {"role": "assistant", "content": [{"type": "text", "text": part}]} if isinstance(part, str) else part
            for part in conversation
        ]
        for conversation in conversations
    ]
    inputs = processor.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        padding=True,
    )
    labels = inputs["input_ids"].masked_fill(~inputs.pop("assistant_masks").bool(), -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(400):
        loss = model(**inputs, labels=labels).loss
        if loss < 0.02:
            return
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError(f"not learnt: {loss.item()}")
