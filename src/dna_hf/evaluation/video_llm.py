"""A video LLM at inference: load it, turn conversations into its inputs, generate text."""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from .. import models  # noqa: F401 - registers them with the Auto classes
from ..data.errors import DataError
from .image_classification import inference_device


MODEL_TYPE = "dna_video_llama3"
# that training writes beside an adapter
ADAPTER_FILE = "dna_adapter.json"
# ends the turn of the assistant
END_OF_TURN = "<|im_end|>"


def load_video_llm(
    checkpoint: str, device: str | None = None, revision: str | None = None, dtype: str | None = None
) -> tuple[PreTrainedModel, Any]:
    """Load a checkpoint (folder or Hub name) and its processor for inference.

    Args:
        checkpoint: where `save_pretrained` wrote, or a name on the Hub.
        device: e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub.
        dtype: of the weights, e.g. `"bfloat16"`; by default as they were saved.

    Raises:
        DataError: if there is no such checkpoint, it is no video LLM of this package, or an adapter of one.
    """
    if Path(checkpoint, ADAPTER_FILE).exists():
        raise DataError(f"{checkpoint!r} holds an adapter, no whole model: make one of it with dna-hf merge.")
    where: dict[str, Any] = {"pretrained_model_name_or_path": checkpoint, "revision": revision or "main"}
    try:
        model_type = AutoConfig.from_pretrained(**where).model_type
        if model_type != MODEL_TYPE:
            raise DataError(f"{checkpoint!r} holds a {model_type}, but a {MODEL_TYPE} is needed: convert it.")
        processor = AutoProcessor.from_pretrained(**where)
        model: Any = AutoModelForImageTextToText.from_pretrained(**where, dtype=dtype or "auto")
    except DataError:
        raise
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"cannot load a video LLM from {checkpoint!r}: {reason}") from error
    return model.to(inference_device(device)).eval(), processor


def inference_processor(processor: Any, keep: int = 1, **settings: Any) -> Any:
    """A copy of a processor with other settings of videos, which keeps the videos that it read last.

    So several questions about one video cost its decoding once.

    Args:
        processor: of the model.
        keep: how many videos to keep the frames of.
        settings: of the video processor, e.g. `fps` and `max_frames`; `None` leaves one as it is.

    Raises:
        DataError: for an impossible setting.
    """
    try:
        videos = copy.copy(processor.video_processor.with_options(**settings))
    except ValueError as error:
        raise DataError(str(error)) from error
    read, kept = videos.read_video, lru_cache(keep)(videos.read_video)
    # what cannot be told from another one by its name is read every time
    videos.read_video = lambda video: kept(video) if isinstance(video, str) else read(video)
    copied = copy.copy(processor)
    copied.video_processor = videos
    return copied


def user_turn(text: str, media: list[tuple[str, Any]]) -> dict[str, Any]:
    """A message of the user: videos and images, each its kind and what it is, and a text behind them."""
    content = [{"type": kind, kind: what} for kind, what in media]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def encode(processor: Any, conversations: list[list[dict[str, Any]]]) -> Any:
    """Inputs of the model for conversations, padded on the left, with the beginning of the answer.

    Raises:
        ValueError: naming what cannot be read, or does not fit.
    """
    return processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        padding=True,
        padding_side="left",
    )


@torch.no_grad()
def generate(model: Any, processor: Any, inputs: Any, **options: Any) -> list[str]:
    """Answers to inputs of [`encode`], without special tokens; greedily, unless the options say otherwise.

    Args:
        model: the video LLM.
        processor: its processor.
        inputs: of a batch.
        options: of `generate`, e.g. `max_new_tokens`.
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
