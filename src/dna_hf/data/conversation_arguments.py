"""What a video LLM reads: the `data` section of its configuration file, and what an analysis asks it."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class VisualDataArguments:
    """A file about images and videos, and how these become tokens.

    Raises:
        ValueError: for a value that is out of range.
    """

    dataset: str = ""
    data_folder: str | None = field(
        default=None, metadata={"help": "folder that paths of images and videos start from; by default the file's"}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "read only this many evaluation samples"})
    fps: float | None = field(
        default=None, metadata={"help": "frames per second to read; by default as the checkpoint's processor"}
    )
    max_frames: int | None = field(
        default=None, metadata={"help": "most frames of a video; by default as the checkpoint's processor"}
    )
    max_visual_tokens: int | None = field(
        default=None,
        metadata={"help": "visual tokens that the frames of a sample share; by default as the checkpoint's processor"},
    )

    def __post_init__(self) -> None:
        self._check_positive("max_eval_samples", "max_frames", "max_visual_tokens")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps must be positive, got {self.fps}.")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

    def reading(self) -> dict[str, Any]:
        """What is asked of the processor, where anything is."""
        given = {name: getattr(self, name) for name in ("fps", "max_frames", "max_visual_tokens")}
        return {name: value for name, value in given.items() if value is not None}


@dataclass
class ConversationDataArguments(VisualDataArguments):
    """Which conversations a run reads."""

    dataset: str = field(default="", metadata={"help": "file of conversations to train on (.json, .jsonl)"})
    eval_dataset: str | None = field(
        default=None, metadata={"help": "file of conversations to measure the loss on; by default there is none"}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "read only this many training samples"})
    system: str | None = field(
        default=None, metadata={"help": "system turn of samples that have none; by default they go without"}
    )
    model_max_length: int = field(
        default=16384, metadata={"help": "longest sequence in tokens: nothing is cut, a longer sample is an error"}
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise",
        metadata={
            "help": "a sample that is wrong or cannot be read ends the run, or is left out and listed; where it shows "
            "only when it is read, the next one takes its place"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("max_train_samples", "model_max_length")


@dataclass
class QuestionDataArguments(VisualDataArguments):
    """Which multiple-choice questions are asked; see [`~dna_hf.data.multiple_choice.load_questions`].

    Raises:
        ValueError: for a value that is out of range, or no file.
    """

    dataset: str = field(default="", metadata={"help": "file of multiple-choice questions (.json, .jsonl)"})
    format: str | None = field(
        default=None, metadata={"help": "perception_mcq, egoschema or generic; by default as the file looks"}
    )
    views: list[str] | None = field(
        default=None, metadata={"help": "views to ask about, e.g. [ego, exo]; by default as for dna-hf answer"}
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise",
        metadata={"help": "raise, or skip to leave out a question that is wrong or whose video cannot be read"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset:
            raise ValueError("dataset is missing: name a file of multiple-choice questions.")
