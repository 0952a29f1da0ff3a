"""Which multiple-choice questions an analysis of a video LLM asks, and how their videos are read."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class QuestionDataArguments:
    """A file of questions; see [`~dna_hf.data.multiple_choice.load_questions`].

    Raises:
        ValueError: for a value that is out of range, or no file.
    """

    dataset: str = field(default="", metadata={"help": "file of multiple-choice questions (.json, .jsonl)"})
    data_folder: str | None = field(
        default=None, metadata={"help": "folder that paths of images and videos start from; by default the file's"}
    )
    format: str | None = field(
        default=None, metadata={"help": "perception_mcq, egoschema or generic; by default as the file looks"}
    )
    views: list[str] | None = field(
        default=None, metadata={"help": "views to ask about, e.g. [ego, exo]; by default as for dna-hf answer"}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "ask only this many questions"})
    fps: float | None = field(
        default=None, metadata={"help": "frames per second to read; by default as the checkpoint's processor"}
    )
    max_frames: int | None = field(
        default=None, metadata={"help": "most frames of a video; by default as the checkpoint's processor"}
    )
    max_visual_tokens: int | None = field(
        default=None,
        metadata={"help": "visual tokens that the frames of a video share; by default as the checkpoint's processor"},
    )
    on_error: Literal["raise", "skip"] = field(
        default="raise",
        metadata={"help": "raise, or skip to leave out a question that is wrong or whose video cannot be read"},
    )

    def __post_init__(self) -> None:
        if not self.dataset:
            raise ValueError("dataset is missing: name a file of multiple-choice questions.")
        if self.max_eval_samples is not None and self.max_eval_samples < 1:
            raise ValueError(f"max_eval_samples must be at least 1, got {self.max_eval_samples}.")
