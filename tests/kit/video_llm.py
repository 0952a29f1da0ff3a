"""A tiny video language model with its processor, which needs no files."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dna_hf import (
    DnAVideoLlama3Config,
    DnAVideoLlama3ForConditionalGeneration,
    DnAVideoLlama3ImageProcessor,
    DnAVideoLlama3Processor,
    DnAVideoLlama3VideoProcessor,
)
from tests.kit.models import moved


PROBES = 4


def byte_tokenizer():
    """One token for each byte, and those of ChatML."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>")


def tiny_processor(tokenizer=None):
    """Patches of 14 pixels, at most 256 visual tokens."""
    return DnAVideoLlama3Processor(
        DnAVideoLlama3ImageProcessor(),
        tokenizer or byte_tokenizer(),
        DnAVideoLlama3VideoProcessor(max_visual_tokens=256),
        num_probes=PROBES,
    )


def tiny_model(processor, text=(), vision=(), seed=0, spread=0.05):
    """A model for a processor, in evaluation mode, the same one at every call.

    Args:
        text: fields of the language model, over those here.
        vision: fields of the encoder, over those here.
        seed: of the weights.
        spread: how far every parameter is moved from its initial value, so that no two are alike.
    """
    tokenizer = processor.tokenizer
    text_config = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision_config = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "num_probes": processor.num_probes,
    }
    torch.manual_seed(seed)
    config = DnAVideoLlama3Config(
        text_config=text_config | dict(text), vision_config=vision_config | dict(vision), **processor.token_ids()
    )
    model = DnAVideoLlama3ForConditionalGeneration(config).eval()
    return moved(model, spread) if spread else model
