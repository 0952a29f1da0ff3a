"""Text that a video language model generates."""

from typing import Any

import torch


# ends the turn of the assistant
END_OF_TURN = "<|im_end|>"


@torch.no_grad()
def generate(model: Any, processor: Any, inputs: Any, **options: Any) -> list[str]:
    """Answers to a batch of inputs, without special tokens; greedily, unless the options say otherwise.

    Args:
        model: a video LLM, as [`~dna_hf.kinds.load`] returns it.
        processor: processor of the model.
        inputs: inputs of a batch, as [`~dna_hf.data.inputs.encode`] makes them.
        options: options of `generate` of transformers, e.g. `max_new_tokens`.
    """
    greedy: dict[str, Any] = {"do_sample": False, "num_beams": 1}
    if not options.get("do_sample"):
        # what a checkpoint sets for sampling means nothing here
        greedy |= {"temperature": None, "top_p": None, "top_k": None}
    inputs = inputs.to(model.device, dtype=model.dtype)
    tokens = model.generate(**inputs, **greedy | _special_tokens(model, processor) | options)
    return processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def _special_tokens(model: Any, processor: Any) -> dict[str, Any]:
    """Tokens that end an answer, and the one that fills up behind them."""
    ends = model.generation_config.eos_token_id or []
    ends = {*([ends] if isinstance(ends, int) else ends), processor.tokenizer.convert_tokens_to_ids(END_OF_TURN)}
    pad = processor.tokenizer.pad_token_id
    return {"eos_token_id": sorted(ends), "pad_token_id": min(ends) if pad is None else pad}
