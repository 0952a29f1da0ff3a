"""Talk with a video LLM about videos and images."""

from pathlib import Path
from typing import Any

from transformers import TextStreamer

from .data.errors import DataError
from .data.inputs import encode, inference_processor, user_turn
from .evaluation.video_llm import generate
from .models.image_processing_dna_video_llama3 import read_image


# videos whose frames are kept, because every turn shows the model the whole conversation again
KEPT_VIDEOS = 4


class Chat:
    """A conversation with a model, which sees all of it in every turn.

    Args:
        model: a video LLM, as [`~dna_hf.kinds.load`] returns it.
        processor: processor of the model.
        stream: whether to print an answer while it is made.
        videos: settings of the video processor, e.g. `fps` and `max_frames`.
        options: options of `generate` of transformers; without any, answers are greedy.

    Raises:
        DataError: for an impossible setting of the video processor.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        stream: bool = False,
        videos: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.model = model
        self.processor = inference_processor(processor, KEPT_VIDEOS, **videos or {})
        self.stream = stream
        self.options = options
        self.reset()

    def reset(self) -> None:
        """Forget what was said and shown."""
        self.history: list[dict[str, Any]] = []
        self.shown: list[tuple[str, str]] = []

    def show(self, kind: str, path: str) -> None:
        """Show a `"video"` or an `"image"`, a path or a URL, with the next question.

        Raises:
            DataError: if it cannot be read.
        """
        if "://" not in path and not Path(path).exists():
            raise DataError(f"{kind} {path!r} does not exist.")
        _as_data_error(read_image if kind == "image" else self.processor.video_processor.read_video, path)
        self.shown.append((kind, path))

    def ask(self, question: str) -> str:
        """The model's answer to a question about what was shown.

        Raises:
            DataError: if what was shown is too much for the model; the conversation is as it was before.
        """
        turn = user_turn(question, list(self.shown))
        inputs = _as_data_error(encode, self.processor, [[*self.history, turn]])
        options = dict(self.options)
        if self.stream:
            options["streamer"] = TextStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        (answer,) = generate(self.model, self.processor, inputs, **options)
        self.history += [turn, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        self.shown = []
        return answer


def _as_data_error(function: Any, *arguments: Any) -> Any:
    """The result of a function of the processor, whose errors are the user's."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise DataError(str(error)) from error
