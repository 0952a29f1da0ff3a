"""What an analysis shows to a model: batches of a data set, what the model answers, and what it looks at."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.data.data_collator import default_data_collator

from ..data.arguments import ImageDataArguments, VideoDataArguments
from ..data.conversation_arguments import QuestionDataArguments
from ..data.errors import DataError
from ..data.file_summary import FileSummary, question_summary
from ..data.images import torch_dataset
from ..data.inputs import encode, inference_processor, read_question_input, user_turn
from ..data.multiple_choice import load_questions
from ..data.problem_types import MULTI_LABEL, REGRESSION
from ..data.provenance import DatasetRecord, provenance, question_provenance, video_provenance
from ..data.sources import load_split
from ..data.splits import Split
from ..data.summary import DataSummary, summarize
from ..data.unreadable import UNREADABLE
from ..data.video_sources import load_split as load_video_split
from ..data.videos import VideoDataset
from ..evaluation.class_answers import Answer, answers_of, ranked
from ..evaluation.image_classification import class_names
from ..evaluation.multiple_choice import option_scores, question_prompt
from ..kinds import Loaded, problem_type_of
from .errors import AnalysisError
from .sight import Sight, VisualizeSettings, see
from .video_llm_sight import MAX_FRAMES, probe_settings, see_by_probes, vision_inputs


DEFAULT_SPLIT = "test"
# how answers count as right, where that needs a word
NOTES = {
    MULTI_LABEL: "Of several labels, an answer is right if it has all classes of a sample and no other.",
    REGRESSION: "A regression answers with values, which have no accuracy.",
}


@dataclass
class Batch:
    """Some rows of the data.

    Args:
        rows: numbers of the rows.
        truths: the right answer of each row, its number; of several labels, the names of all; `None` where there is
            no right one, or it is not known.
        inputs: arguments of the model whose attention is measured.
        asked: arguments of the model that answers, of one or several rows each.
    """

    rows: list[int]
    truths: list[Any]
    inputs: dict[str, torch.Tensor]
    asked: list[Any]


class Samples(ABC):
    """The data of an analysis as one model takes it.

    Attributes:
        loaded: the model, with its processor.
        names: names of the rows of the data.
        record: where the data came from.
        split: split of the data; questions have none.
        skipped: why parts of the data were left out before anything was shown.
        unread: why rows were left out of the batches, by their number.
        answers: what the model chooses from, by number; empty for a model without a classifier.
        note: how the model chooses, for readers; empty where that needs no word.
        looks: what the pictures show of its attention.
    """

    loaded: Loaded
    names: list[str]
    record: DatasetRecord
    split: str | None = None
    skipped: Sequence[str] = ()
    unread: dict[int, str]
    answers: list[str]
    note: str = ""
    looks: str

    @property
    def measured(self) -> PreTrainedModel:
        """The model whose attention is measured."""
        return self.loaded.model

    @abstractmethod
    def summary(self) -> DataSummary | FileSummary:
        """What the data holds."""

    @abstractmethod
    def untrained(self) -> PreTrainedModel:
        """That model as it is before its attention learns, its weights drawn from torch's generator."""

    @abstractmethod
    def batches(self, size: int, what: str) -> Iterator[Batch]:
        """Batches of what can be read, `size` rows at a time, with a progress bar that says `what`.

        Raises:
            DataError: for what cannot be read, unless that is to be skipped.
        """

    @abstractmethod
    def answered(self, batch: Batch) -> list[tuple[Answer, bool | None]]:
        """What the model says of each row, and whether it is right, where that is known; only for one that answers."""

    @abstractmethod
    def title(self, row: int) -> str:
        """A row of the data in a few words."""

    @abstractmethod
    def truth(self, row: int) -> str:
        """The right answer of a row."""

    @abstractmethod
    def see(self, row: int, settings: VisualizeSettings) -> Sight:
        """What the model looks at in a row of the data."""


def samples_of(
    loaded: Loaded,
    arguments: ImageDataArguments | VideoDataArguments | QuestionDataArguments,
    split: str | None,
    seed: int | None = None,
) -> Samples:
    """The data that the arguments name.

    Args:
        loaded: the model, with its processor.
        arguments: section `data`, which says what is read.
        split: split of the data, `test` by default; questions have none.
        seed: seed of the training that held a part out, for split `held-out`.

    Raises:
        AnalysisError: if the model takes data of another kind.
        DataError: if the data is empty or streamed, or cannot be read.
    """
    kind = loaded.kind.data
    if not isinstance(arguments, kind):
        raise AnalysisError(f"{loaded.label} takes {kind.__name__}, got {type(arguments).__name__}.")
    if not isinstance(arguments, QuestionDataArguments):
        return ClassSamples(loaded, arguments, split or DEFAULT_SPLIT, seed)
    if split is not None:
        raise AnalysisError("a file of questions has no splits: leave out the split.")
    return QuestionSamples(loaded, arguments)


class ClassSamples(Samples):
    """Images or videos of classes.

    Raises:
        DataError: see [`samples_of`].
    """

    looks = "Attention of the class token in the last layer, mean over heads."

    def __init__(
        self,
        loaded: Loaded,
        arguments: ImageDataArguments | VideoDataArguments,
        split: str,
        seed: int | None = None,
    ) -> None:
        self.loaded, self.split, self.unread, self.arguments = loaded, split, {}, arguments
        # of a model without its classifier, the configuration names classes that nothing has learned
        self.answers = class_names(loaded.model) if loaded.has_head else []
        if isinstance(arguments, VideoDataArguments):
            self.data: Split = (videos := load_video_split(arguments, split, seed))
            self.dataset: Dataset = VideoDataset(videos, loaded.processor, arguments)
            self.names = [clip.path for clip in videos.clips]
            self.class_names, self.record = videos.class_names, video_provenance(arguments, videos)
        elif arguments.streaming:
            raise DataError("an analysis needs random access to the data: leave out --streaming.")
        else:
            # a body would go with labels of any kind
            problem_type = problem_type_of(loaded.model.config) if loaded.has_head else None
            self.data = images = load_split(arguments, split, seed, problem_type=problem_type)
            self.dataset = torch_dataset(images, loaded.processor, arguments=arguments)
            self.names = [f"{split} {row}" for row in range(len(images.rows))]
            self.class_names, self.record = images.class_names, provenance(arguments, images)
        if not self.names:
            raise DataError(f"split {split!r} of {arguments.dataset!r} is empty.")
        self.note = NOTES.get(self.data.problem_type, "")
        # a model may be shown pictures of other classes than its own, and no value is the right one of a regression
        self.has_truths = self.data.problem_type != REGRESSION and set(self.class_names) <= set(self.answers)
        # a row is asked for its class and drawn, which should not decode a video twice
        self._sample = lru_cache(1)(self.dataset.__getitem__)

    def summary(self) -> DataSummary:
        """What the split holds."""
        return summarize(self.arguments, [self.data])

    def untrained(self) -> PreTrainedModel:
        """A model of the same configuration."""
        return type(self.measured)(self.measured.config)

    def batches(self, size: int, what: str) -> Iterator[Batch]:
        """Images or videos, `size` at a time."""
        start, model = 0, self.loaded.model
        loader = DataLoader(self.dataset, batch_size=size, collate_fn=default_data_collator)
        for batch in tqdm(loader, desc=what, leave=False):
            labels = batch["labels"].numpy()
            kept = [number for number, label in enumerate(labels) if not _is_unreadable(label)]
            if kept:
                inputs = {"pixel_values": batch["pixel_values"][kept].to(model.device, model.dtype)}
                truths = [self._right_answer(labels[number]) for number in kept]
                yield Batch([start + number for number in kept], truths, inputs, [inputs])
            for number in set(range(len(labels))) - set(kept):
                self.unread[start + number] = f"{self.names[start + number]!r} cannot be read."
            start += len(labels)

    def _right_answer(self, label: np.ndarray) -> Any:
        """What the model should answer where the data says this; see [`Batch`]."""
        if not self.has_truths:
            return None
        if self.data.problem_type == MULTI_LABEL:
            return set(self._labelled(label))
        # two classes of a model may have one name
        return int(label) if self.class_names == self.answers else self.answers.index(self.class_names[int(label)])

    def _labelled(self, label: np.ndarray) -> list[str]:
        """The names of several labels."""
        return [name for name, holds in zip(self.class_names, label, strict=True) if holds]

    @torch.no_grad()
    def answered(self, batch: Batch) -> list[tuple[Answer, bool | None]]:
        """What the model says of each image or video, and whether this is its class, or these are all its classes."""
        (inputs,) = batch.asked
        model = self.loaded.model
        logits = model(**inputs).logits
        answers = answers_of(logits, self.answers, model.config)
        # a class by its number, for two classes of a model may have one name
        several = self.data.problem_type == MULTI_LABEL
        said: list[Any] = [set(each.classes) for each in answers] if several else logits.argmax(dim=1).tolist()
        rights = [None if truth is None else truth == own for truth, own in zip(batch.truths, said, strict=True)]
        return list(zip(answers, rights, strict=True))

    def title(self, row: int) -> str:
        """The name of the file, or the number of the row, and the class; without it for a model that names none."""
        name = Path(self.names[row]).name
        return f"{name}: {self.truth(row)}" if self.loaded.has_head else name

    def truth(self, row: int) -> str:
        """The class in the data; of several labels all of them, and of a regression its values."""
        label = np.asarray(self._sample(row)["labels"])
        if self.data.problem_type == REGRESSION:
            return ", ".join(f"{name} {value:.6g}" for name, value in zip(self.class_names, label, strict=True))
        if self.data.problem_type == MULTI_LABEL:
            return ", ".join(self._labelled(label)) or "none"
        return self.class_names[int(label)]

    def see(self, row: int, settings: VisualizeSettings) -> Sight:
        """What the class token looks at."""
        values = self._sample(row)["pixel_values"]
        values = values if isinstance(values, torch.Tensor) else torch.as_tensor(np.asarray(values))
        return see(self.loaded, values[None], settings)


def _is_unreadable(label: np.ndarray) -> bool:
    """Whether a label says that its sample could not be read: a class does by its number, several values are nan."""
    return bool(np.isnan(label).any()) if label.ndim else label == UNREADABLE


class QuestionSamples(Samples):
    """Multiple-choice questions to a video language model, about images and videos that its probes look at.

    Every image or video is measured once, however many questions are about it.

    Raises:
        DataError: see [`~dna_hf.data.multiple_choice.load_questions`].
    """

    note = (
        "A video language model answers with the option whose letter it finds most likely to begin its answer with; "
        "dna-hf answer reads whole answers. The attention is that of its visual probes, and an untrained model has "
        "their modules and the probes themselves fresh, on the same vision encoder."
    )
    looks = (
        f"Attention of the visual probes in their last module, mean over heads and probes; of a video {MAX_FRAMES} "
        "frames at most."
    )

    def __init__(self, loaded: Loaded, arguments: QuestionDataArguments) -> None:
        self.loaded, self.unread = loaded, {}
        self.skip = arguments.on_error == "skip"
        file = load_questions(
            arguments.dataset,
            arguments.data_folder,
            format=arguments.format,
            views=arguments.views,
            on_error=arguments.on_error,
        )
        self.path, self.file = arguments.dataset, file
        self.questions = file.questions[: arguments.max_eval_samples]
        self.skipped = [each["error"] for each in file.skipped]
        self.record = question_provenance(file, len(self.questions))
        self.names = [question.id for question in self.questions]
        self.answers = sorted({letter for question in self.questions for letter in question.options})
        self.processor = inference_processor(loaded.processor, **arguments.reading())

    @property
    def measured(self) -> PreTrainedModel:
        """The vision encoder, with the modules through which its probes look at it."""
        model: Any = self.loaded.model
        return model.model.vision_model

    def summary(self) -> FileSummary:
        """What the file of questions holds."""
        return question_summary(self.path, replace(self.file, questions=self.questions))

    def untrained(self) -> PreTrainedModel:
        """The vision encoder with fresh probes and modules."""
        trained: Any = self.measured
        model = type(trained)(trained.config).to(trained.dtype)
        encoder = {
            name: values
            for name, values in trained.state_dict().items()
            if not name.startswith(("encoder.visual_probes", "encoder.interaction_modules."))
        }
        model.load_state_dict(encoder, strict=False)
        return model

    def batches(self, size: int, what: str) -> Iterator[Batch]:
        """One image or video at a time, because its probes stand for it, with all questions about it."""
        by_media: dict[str, list[int]] = {}
        for row, question in enumerate(self.questions):
            by_media.setdefault(question.media, []).append(row)
        for rows in tqdm(by_media.values(), desc=what, leave=False):
            asked = {row: inputs for row in rows if (inputs := self._encoded(row)) is not None}
            if asked:
                truths = [self.questions[row].answer for row in asked]
                numbers = [None if truth is None else self.answers.index(truth) for truth in truths]
                encoded = list(asked.values())
                yield Batch(list(asked), numbers, vision_inputs(encoded[0]), encoded)

    def _encoded(self, row: int) -> dict[str, torch.Tensor] | None:
        """The inputs of a question, `None` for one that is left out."""
        question, model = self.questions[row], self.loaded.model
        turn = user_turn(question_prompt(question), [(question.kind, question.media)])
        try:
            inputs = encode(self.processor, [[turn]])
        except ValueError as error:
            reason = f"question {question.id!r}: {error}"
            if not self.skip:
                raise DataError(reason) from error
            self.unread[row] = reason
            return None
        return dict(inputs.to(model.device, dtype=model.dtype))

    @torch.no_grad()
    def answered(self, batch: Batch) -> list[tuple[Answer, bool | None]]:
        """The letters of each question's options with their probabilities, and whether the likeliest is right."""
        found: list[tuple[Answer, bool | None]] = []
        for row, truth, inputs in zip(batch.rows, batch.truths, batch.asked, strict=True):
            logits = self.loaded.model(**inputs, logits_to_keep=1).logits[0, -1].float()
            scores = option_scores(self.loaded.processor.tokenizer, logits, self.questions[row].options)
            values = torch.tensor(list(scores.values())).softmax(dim=0).tolist()
            answer = Answer(ranked(scores, values))
            found.append((answer, None if truth is None else answer.classes == (self.answers[truth],)))
        return found

    def title(self, row: int) -> str:
        """The question."""
        return f"{self.names[row]}: {self.questions[row].text}"

    def truth(self, row: int) -> str:
        """Letter and text of the right option."""
        letter, options = self.questions[row].answer, self.questions[row].options
        return "not known" if letter is None else f"({letter}) {options[letter]}"

    def see(self, row: int, settings: VisualizeSettings) -> Sight:
        """What the probes look at."""
        question = self.questions[row]
        inputs = read_question_input(question.media, self.loaded.processor, question.text, MAX_FRAMES)
        return see_by_probes(self.loaded, inputs, probe_settings(settings))
