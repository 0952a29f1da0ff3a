"""DnA VideoLLaMA3 for lmms-eval, which finds it by the entry point `lmms_eval.models` of this package.

    lmms_eval --model dna_video_llama3 --model_args pretrained=CHECKPOINT,max_frames=64 --tasks egoschema_subset

Nothing but lmms-eval imports this module.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm


try:
    from lmms_eval.api.model import lmms
    from lmms_eval.models.registry_v2 import ModelManifest
except ImportError as error:
    raise ImportError("this module is a plug-in of lmms_eval 0.7 or newer: pip install lmms_eval.") from error

from .video_llm import encode, generate, inference_processor, load_video_llm, user_turn


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
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tiff", ".webp")
Conversation = list[dict[str, Any]]


def manifest() -> ModelManifest:
    """What lmms-eval has to know of the model."""
    return ModelManifest(
        model_id=MODEL_ID,
        chat_class_path=f"{__name__}.DnAVideoLlama3Chat",
        simple_class_path=f"{__name__}.DnAVideoLlama3Simple",
    )


class DnAVideoLlama3Chat(lmms):
    """The model for tasks that are answered by text.

    Args:
        pretrained: folder, or name on the Hub.
        revision: commit, tag or branch on the Hub.
        device: e.g. `"cuda:1"`; by default the one of this process, else the first GPU, else the CPU.
        dtype: of the weights; by default as they were saved.
        batch_size: requests that go through the model together.
        max_batch_size: not used; lmms-eval gives it to all models.
        fps: frames per second to look at; by default as the processor of the checkpoint says, as the next two.
        max_frames: of a longer video, so many are spread over it.
        max_visual_tokens: that all images and frames of a request have together.
        max_new_tokens: of an answer, where the task does not say.

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
        self.model, processor = load_video_llm(pretrained, device, revision, dtype)
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
                    self.cache_hook.add_partial("generate_until", requests[number].args, answers[number])
                progress.update(len(batch))
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """As of [`DnAVideoLlama3Simple`], whose tasks ask for it."""
        raise NotImplementedError("tasks that compare likelihoods need lmms_eval --force_simple.")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not there: no task asks for it."""
        raise NotImplementedError("dna_video_llama3 answers in one round: leave out tasks of several rounds.")

    def _document(self, request: Any) -> Any:
        *_, number, task, split = request.args
        return self.task_dict[task][split][number]

    def _settings(self, request: Any) -> dict[str, Any]:
        given = next(part for part in request.args if isinstance(part, dict))
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
        messages = request.args[1](self._document(request))
        return [
            {"role": message["role"], "content": [as_content(part) for part in message["content"]]}
            for message in messages
        ]


class DnAVideoLlama3Simple(DnAVideoLlama3Chat):
    """The model for tasks that compare how likely given answers are (`lmms_eval --force_simple`)."""

    is_simple = True

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Mean negative log-likelihood of a token of each given answer, and whether it is the greedy one.

        It is the loss, not its negative: lmms-eval takes the option with the lowest figure.
        """
        figures = []
        for request in tqdm(requests, disable=self.rank != 0, desc="likelihood"):
            target = request.args[1]
            target = target(self._document(request)) if callable(target) else target
            figures.append(self._loss(self._conversation(request), str(target)))
        return figures

    @torch.no_grad()
    def _loss(self, conversation: Conversation, target: str) -> tuple[float, bool]:
        inputs = encode(self.processor, [conversation])
        tokens = torch.tensor([self.processor.tokenizer.encode(target, add_special_tokens=False)])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs = inputs.to(self.device, dtype=self.model.dtype)
        logits = self.model(**inputs).logits[0, -tokens.shape[1] - 1 : -1].float().cpu()
        loss = torch.nn.functional.cross_entropy(logits, tokens[0])
        return float(loss), bool((logits.argmax(dim=-1) == tokens[0]).all())

    def _conversation(self, request: Any) -> Conversation:
        to_visual: Callable = request.args[2]
        visuals = to_visual(self._document(request)) or []
        content = [as_content(visual) for visual in visuals]
        return [user_turn(request.args[0], [(part["type"], part[part["type"]]) for part in content])]


def as_content(part: Any) -> dict[str, Any]:
    """A part of a message, or a bare image or video of a document, in the form of our processor.

    Raises:
        ValueError: for sound, which the model does not hear.
    """
    if not isinstance(part, dict):
        kind = "video" if isinstance(part, str) and not part.lower().endswith(IMAGE_SUFFIXES) else "image"
        return {"type": kind, kind: part}
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
