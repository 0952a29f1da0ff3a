"""DnA VideoLLaMA3 for lmms-eval, which finds it by the entry point `lmms_eval.models` of this package.

    lmms_eval --model dna_video_llama3 --model_args pretrained=CHECKPOINT,max_frames=64 --tasks egoschema_subset

Nothing but lmms-eval imports this module.
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm


try:
    from lmms_eval.api.model import lmms
    from lmms_eval.models.registry_v2 import ModelManifest
except ImportError as error:
    raise ImportError("this module is a plug-in of lmms_eval 0.7 or newer: pip install lmms_eval.") from error

from ..data.inputs import encode, inference_processor
from ..kinds import VIDEO_LLM, load
from .video_llm import generate


MODEL_ID = "dna_video_llama3"
# of lmms-eval's options of generation, those that `generate` knows under the same name
GENERATION_OPTIONS = (
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "num_beams",
    "do_sample",
    "repetition_penalty",
)
Conversation = list[dict[str, Any]]


def manifest() -> ModelManifest:
    """What lmms-eval has to know of the model."""
    return ModelManifest(model_id=MODEL_ID, chat_class_path=f"{__name__}.DnAVideoLlama3")


class DnAVideoLlama3(lmms):
    """The model for all tasks that are answered by text.

    Args:
        pretrained: folder, or name on the Hub.
        revision: commit, tag or branch on the Hub.
        device: device to run on, e.g. `"cuda:1"`; by default that of this process, else the first GPU, else the CPU.
        dtype: dtype of the weights; by default as they were saved.
        batch_size: number of requests that go through the model together.
        max_batch_size: not used; lmms-eval gives it to all models.
        fps: frames per second to look at; by default as the processor of the checkpoint says.
        max_frames: largest number of frames, which are spread over a longer video; by default as the processor says.
        max_visual_tokens: largest number of tokens of all images and frames of a request together; by default as the
            processor says.
        max_new_tokens: largest number of tokens of an answer, where the task does not say.

    Raises:
        DataError: if the checkpoint is no such model, or a setting is impossible.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        max_visual_tokens: int | None = None,
        max_new_tokens: int = 128,
    ) -> None:
        super().__init__()
        # which lmms-eval gathers with
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if self.world_size > 1:
            device = str(self.accelerator.device)
        loaded = load(pretrained, wanted=(VIDEO_LLM,), device=device, revision=revision, dtype=dtype)
        self.model, processor = loaded.model, loaded.processor
        self.processor = inference_processor(
            processor, fps=fps, max_frames=max_frames, max_visual_tokens=max_visual_tokens
        )
        self.batch_size = int(batch_size)
        self.max_new_tokens = max_new_tokens

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def tokenizer_name(self) -> str:
        """For lmms-eval's cache of requests."""
        return str(self.processor.tokenizer.name_or_path)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers to requests, in their order, each up to the first of its stop words."""
        answers: list[str] = [""] * len(requests)
        settings = [self._settings(request) for request in requests]
        # equal settings go through the model together, and questions about one video after one another
        order = sorted(range(len(requests)), key=lambda number: (repr(settings[number]), requests[number].doc_id))
        with tqdm(total=len(requests), disable=self.rank != 0, desc="answer") as progress:
            while order:
                first = settings[order[0]]
                batch = [number for number in order[: self.batch_size] if settings[number] == first]
                order = order[len(batch) :]
                inputs = encode(self.processor, [self._conversation(requests[number]) for number in batch])
                texts = generate(self.model, self.processor, inputs, **first["options"])
                for number, text in zip(batch, texts, strict=True):
                    answers[number] = cut(text, first["until"]).strip()
                    context, _, given, *_ = requests[number].args
                    self.cache_hook.add_partial("generate_until", (context, given), answers[number])
                progress.update(len(batch))
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuse: the evaluator of lmms_eval 0.7 makes text of what this returns and fails on it."""
        raise NotImplementedError("dna_video_llama3 answers by text: leave out tasks that compare likelihoods.")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: a request has one round."""
        raise NotImplementedError("dna_video_llama3 answers in one round: leave out tasks of several rounds.")

    def _settings(self, request: Any) -> dict[str, Any]:
        given = request.args[2]
        options = {name: given[name] for name in GENERATION_OPTIONS if given.get(name) is not None}
        # without sampling or with a temperature of 0 the most likely token is meant
        if not options.get("do_sample", bool(options.get("temperature"))) or options.get("temperature") == 0:
            options = {name: options[name] for name in options.keys() - {"do_sample", "temperature", "top_p", "top_k"}}
        else:
            options["do_sample"] = True
        until = given.get("until") or []
        return {
            "options": {"max_new_tokens": self.max_new_tokens} | dict(sorted(options.items())),
            "until": [until] if isinstance(until, str) else list(until),
        }

    def _conversation(self, request: Any) -> Conversation:
        """The messages of a request, in the form of our processor."""
        _, to_messages, _, number, task, split = request.args
        messages = to_messages(self.task_dict[task][split][number])
        return [
            {"role": message["role"], "content": [as_content(part) for part in message["content"]]}
            for message in messages
        ]


def as_content(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a message in the form of our processor.

    Raises:
        ValueError: for sound, which the model does not hear.
    """
    kind = part.get("type", "video")
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    if kind not in ("image", "video"):
        raise ValueError(f"dna_video_llama3 takes text, images and videos, not {kind!r}: leave out this task.")
    media = part.get("url") or part.get("path") or part.get(kind)
    if isinstance(media, dict):
        return as_content(media | {"type": kind})
    start, end = (part.get(f"{end}_time", part.get(f"video_{end}")) for end in ("start", "end"))
    if start is not None or end is not None:
        media = {"path": media, "start": start, "end": end}
    return {"type": kind, kind: media}


def cut(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of the words that end it."""
    places = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(places)] if places else text
