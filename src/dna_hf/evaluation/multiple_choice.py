"""Evaluate a video LLM on multiple-choice questions: answers, the options they choose, and accuracies.

The model answers freely and greedily; [`~dna_hf.evaluation.answers.parse_answer`] reads which option it chose. An
answer that cannot be read counts as wrong and is counted on its own. With the second chance `likelihood`, such a
question gets the option whose letter the model would most likely have begun its answer with, and is marked so.
"""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from ..data.errors import DataError
from ..data.inputs import encode, inference_processor, user_turn
from ..data.multiple_choice import Question, check_on_error
from ..records.digest import weights_digest
from ..whole_files import whole_file
from .answers import parse_answer
from .intervals import wilson_interval
from .predictions_file import AnsweredQuestion, PredictionsFile, read_predictions
from .video_llm import generate


# of PerceptionMCQ, word for word
PROMPT = "{question} The output should be the choice among one of the following choices. Choices are {choices}"
SECOND_CHANCES = ("likelihood",)
LIKELIHOOD = "likelihood"
NO_QUESTION = "there is no question to ask."


@dataclass(frozen=True)
class AnswerSettings:
    """How questions are asked.

    Args:
        prompt: text that the model is given, with `{question}` and `{choices}`, which become "(A) ... (B) ...".
        fps: frames per second to look at; `None`: as the processor of the checkpoint says.
        max_frames: largest number of frames, which are spread over a longer video; `None`: as the processor says.
        max_visual_tokens: largest number of tokens of all frames of a video together; `None`: as the processor says.
        max_new_tokens: largest number of tokens of an answer.
        second_chance: `"likelihood"`, or `None`: what cannot be read stays unread.
        batch_size: number of questions that go through the model together.

    Raises:
        DataError: for a prompt that lacks the question or the choices, and impossible values.
    """

    prompt: str = PROMPT
    fps: float | None = None
    max_frames: int | None = None
    max_visual_tokens: int | None = None
    max_new_tokens: int = 128
    second_chance: str | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.second_chance not in (None, *SECOND_CHANCES):
            raise DataError(f"unknown second_chance {self.second_chance!r}: choose {', '.join(SECOND_CHANCES)}.")
        if any(self.prompt.count(part) != 1 for part in ("{question}", "{choices}")):
            raise DataError(f"the prompt must hold {{question}} and {{choices}} once each, got {self.prompt!r}.")


@dataclass(frozen=True)
class AccuracyRow:
    """A row of the table of accuracies.

    Args:
        view: view of the questions; `"all"`: of all views.
        category: category of the questions, or `average` or `overall` of the view.
        questions: how many questions there are.
        accuracy: part of the questions whose right option is known that were answered right, in [0, 1]; `None` where
            no right option is known.
        low: lower end of the 95 % interval of the accuracy; `None` for an average.
        high: upper end of the 95 % interval of the accuracy; `None` for an average.
        unparsed: how many answers could not be read.
    """

    view: str
    category: str
    questions: int
    accuracy: float | None
    low: float | None
    high: float | None
    unparsed: int


@dataclass
class MultipleChoiceResult:
    """Figures of one model on one set of questions.

    Args:
        metrics: accuracies and numbers of questions, see [`multiple_choice_metrics`].
        table: accuracy on each category of each view, see [`accuracy_table`].
        predictions: answers, in the order of the questions.
        unreadable: questions whose video or image cannot be read, `{"id": ..., "error": ...}`; they count nowhere.
    """

    metrics: dict[str, float]
    table: list[AccuracyRow]
    predictions: list[AnsweredQuestion]
    unreadable: list[dict[str, str]] = field(default_factory=list)


def evaluate_questions(
    model: Any,
    processor: Any,
    questions: Sequence[Question],
    settings: AnswerSettings | None = None,
    *,
    predictions: str | Path | None = None,
    resume: bool = False,
    on_error: str = "raise",
) -> MultipleChoiceResult:
    """Ask a model questions. It is left in the mode, of training or evaluation, that it was in.

    Args:
        model: a video LLM, as [`~dna_hf.kinds.load`] returns it, or one in training.
        processor: processor of the model.
        questions: questions with different ids.
        settings: how the questions are asked.
        predictions: JSON Lines file that gets every answer as soon as it is there; a second file beside it holds the
            settings.
        resume: whether to go on with a file of predictions that is there already.
        on_error: `"raise"`, or `"skip"` to leave out a question whose video or image cannot be read.

    Raises:
        DataError: if two questions have one id, a video or image cannot be read, the file of predictions is there and
            `resume` is not given, it was written with other settings, or no question is left.
    """
    settings = settings or AnswerSettings()
    check_on_error(on_error)
    if len({question.id for question in questions}) < len(questions):
        raise DataError("some of the questions have the same id: give each one of its own.")
    videos = {name: getattr(settings, name) for name in ("fps", "max_frames", "max_visual_tokens")}
    processor = inference_processor(processor, **videos)
    answered: dict[str, AnsweredQuestion] = {}
    file = None
    if predictions is not None:
        file = PredictionsFile(Path(predictions), _conditions(model, processor, questions, settings))
        answered = file.read(resume)
    unreadable: list[dict[str, str]] = []
    # questions about one video one after the other, so that it is decoded once
    pending = sorted((question for question in questions if question.id not in answered), key=lambda each: each.media)
    was_training = model.training
    model.eval()
    try:
        size = settings.batch_size
        batches = [pending[start : start + size] for start in range(0, len(pending), size)]
        prepared = _ahead(lambda batch: _inputs(processor, batch, settings), batches)
        for inputs, batch, errors in tqdm(prepared, desc="answer", total=len(batches), leave=False):
            if errors and on_error == "raise":
                raise DataError(f"question {errors[0]['id']!r}: {errors[0]['error']}")
            unreadable += errors
            found = list(_answers(model, processor, inputs, batch, settings)) if batch else []
            answered |= {prediction.id: prediction for prediction in found}
            if file is not None:
                file.append(found)
    finally:
        model.train(was_training)
    done = [answered[question.id] for question in questions if question.id in answered]
    if not done:
        raise DataError(f"no question can be asked; the first: {unreadable[0]['error']}" if questions else NO_QUESTION)
    return MultipleChoiceResult(multiple_choice_metrics(done), accuracy_table(done), done, unreadable)


def reparse(path: str | Path) -> MultipleChoiceResult:
    """Read the answers of a file of predictions again, without asking the model again.

    The option of a second chance stands where the answer itself is not read now, either.

    Args:
        path: file that [`evaluate_questions`] wrote as `predictions`.

    Raises:
        DataError: see [`~dna_hf.evaluation.predictions_file.read_predictions`].
    """
    done = [_read_again(each) for each in read_predictions(Path(path))]
    return MultipleChoiceResult(multiple_choice_metrics(done), accuracy_table(done), done)


def _read_again(answered: AnsweredQuestion) -> AnsweredQuestion:
    parsed = parse_answer(answered.answer, answered.options or {})
    unparsed = parsed.letter is None
    if unparsed and answered.rule == LIKELIHOOD:
        return replace(answered, unparsed=True)
    return replace(answered, letter=parsed.letter, rule=parsed.rule, unparsed=unparsed)


def question_prompt(question: Question, prompt: str = PROMPT) -> str:
    """What the model is told of a question."""
    choices = " ".join(f"({letter}) {text}" for letter, text in question.options.items())
    parts = {"question": question.text, "choices": choices}
    return re.sub(r"\{(question|choices)\}", lambda match: parts[match[1]], prompt)


def _ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """What a function makes of each item, made in a thread while what it made of the one before is used."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        before = None
        for item in items:
            made = pool.submit(function, item)
            if before is not None:
                yield before.result()
            before = made
        if before is not None:
            yield before.result()


def _inputs(
    processor: Any, questions: Sequence[Question], settings: AnswerSettings
) -> tuple[Any, list[Question], list[dict[str, str]]]:
    """Inputs of a batch, the questions in it, and those that are not because their video or image cannot be read."""

    def encoded(batch: Sequence[Question]) -> Any:
        turns = [user_turn(question_prompt(each, settings.prompt), [(each.kind, each.visual)]) for each in batch]
        return encode(processor, [[turn] for turn in turns])

    try:
        return encoded(questions), list(questions), []
    except ValueError:
        readable, errors = [], []
        for question in questions:
            try:
                encoded([question])
                readable.append(question)
            except ValueError as error:
                errors.append({"id": question.id, "error": str(error)})
    return encoded(readable) if readable else None, readable, errors


def _answers(
    model: Any, processor: Any, inputs: Any, questions: Sequence[Question], settings: AnswerSettings
) -> Iterator[AnsweredQuestion]:
    first = _FirstScores()
    # a penalty on what was said already, which checkpoints for chats set, would not be the greedy answer
    texts = generate(
        model,
        processor,
        inputs,
        max_new_tokens=settings.max_new_tokens,
        repetition_penalty=1.0,
        logits_processor=LogitsProcessorList([first]),
    )
    for row, (question, text) in enumerate(zip(questions, texts, strict=True)):
        parsed = parse_answer(text, question.options)
        letter, rule = parsed.letter, parsed.rule
        if letter is None and settings.second_chance is not None:
            letter, rule = _most_likely(processor.tokenizer, first.scores[row], question.options), LIKELIHOOD
        yield AnsweredQuestion(
            question.id,
            text,
            letter,
            rule,
            question.answer,
            question.category,
            question.view,
            unparsed=parsed.letter is None,
            language=question.language,
            question=question.text,
            options=question.options,
            media=Path(question.media).name,
            start=question.start,
            end=question.end,
        )


class _FirstScores(LogitsProcessor):
    """Keeps the scores (batch, vocabulary) of the first token of an answer, and changes none."""

    def __init__(self) -> None:
        self.scores = torch.empty(0)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.scores.numel():
            self.scores = scores.float().cpu()
        return scores


def option_scores(tokenizer: Any, scores: torch.Tensor, options: Iterable[str]) -> dict[str, float]:
    """Scores of the letters of the options, taken from those (vocabulary,) of the first token of an answer.

    Raises:
        DataError: for a tokenizer that makes several tokens of a letter.
    """

    def token(letter: str) -> int:
        tokens = tokenizer.encode(letter, add_special_tokens=False)
        if len(tokens) != 1:
            raise DataError(f"the tokenizer makes {len(tokens)} tokens of {letter!r}: its likelihood needs one.")
        return tokens[0]

    return {letter: float(scores[token(letter)]) for letter in options}


def _most_likely(tokenizer: Any, scores: torch.Tensor, options: Iterable[str]) -> str:
    """The letter with the highest of the scores (vocabulary,)."""
    found = option_scores(tokenizer, scores, options)
    return max(found, key=found.__getitem__)


def multiple_choice_metrics(predictions: Sequence[AnsweredQuestion]) -> dict[str, float]:
    """Accuracies in [0, 1] of questions whose right option is known.

    Returns:
        `overall`: over all questions; `average`: the unweighted mean over the categories, as the paper states it, if
        there are any; both of each view too (`overall_ego`) where there are several; and how many `questions` there
        are, how many `unparsed`, and with a second chance how many had one. Without any truth, only the numbers.
    """
    metrics: dict[str, float] = {}
    for view, group in _by_view(predictions).items():
        suffix = "" if len(group) == len(predictions) else f"_{view}"
        known = [each for each in group if each.truth is not None]
        categories = _by_category(known).values()
        if known:
            metrics[f"overall{suffix}"] = _accuracy(known)
        if categories:
            metrics[f"average{suffix}"] = sum(map(_accuracy, categories)) / len(categories)
    unparsed = [each for each in predictions if each.unparsed]
    metrics |= {"questions": len(predictions), "unparsed": len(unparsed)}
    second = sum(each.rule == LIKELIHOOD for each in predictions)
    return metrics | ({"second_chance": second} if second else {})


def accuracy_table(predictions: Sequence[AnsweredQuestion]) -> list[AccuracyRow]:
    """A row for every category of every view, and for the `average` and the `overall` of each view and of all.

    Where questions tell their language, there is also a row for each language, of all views.
    """
    rows = []
    for view, of_view in _by_view(predictions).items():
        categories = [_row(view, name, group) for name, group in _by_category(of_view).items()]
        overall = _row(view, "overall", of_view)
        if categories:
            accuracies = [row.accuracy for row in categories if row.accuracy is not None]
            mean = sum(accuracies) / len(accuracies) if accuracies else None
            categories.append(replace(overall, category="average", accuracy=mean, low=None, high=None))
        rows += [*categories, overall]
    languages = sorted({each.language for each in predictions if each.language is not None})
    for language in languages:
        group = [each for each in predictions if each.language == language]
        rows.append(_row("all", f"language {language}", group))
    return rows


def _row(view: str, category: str, group: Sequence[AnsweredQuestion]) -> AccuracyRow:
    known = [each for each in group if each.truth is not None]
    hits = sum(each.correct for each in known)
    low, high = wilson_interval(hits, len(known)) if known else (None, None)
    return AccuracyRow(
        view=view,
        category=category,
        questions=len(group),
        accuracy=hits / len(known) if known else None,
        low=low,
        high=high,
        unparsed=sum(each.unparsed for each in group),
    )


def _accuracy(group: Sequence[AnsweredQuestion]) -> float:
    return sum(each.correct for each in group) / len(group)


def _by_view(predictions: Sequence[AnsweredQuestion]) -> dict[str, Sequence[AnsweredQuestion]]:
    """The answers of each view, and `"all"` of them where there is more than one view."""
    views = sorted({each.view for each in predictions if each.view is not None})
    if len(views) == 1 and all(each.view is not None for each in predictions):
        return {views[0]: predictions}
    groups: dict[str, Sequence[AnsweredQuestion]] = {}
    for view in views:
        groups[view] = [each for each in predictions if each.view == view]
    return groups | {"all": predictions}


def _by_category(predictions: Iterable[AnsweredQuestion]) -> dict[str, list[AnsweredQuestion]]:
    groups: dict[str, list[AnsweredQuestion]] = {}
    for each in predictions:
        if each.category is not None:
            groups.setdefault(each.category, []).append(each)
    return dict(sorted(groups.items()))


def write_table(rows: Sequence[AccuracyRow], path: str | Path) -> None:
    """Write the rows of [`accuracy_table`] to a file.

    Args:
        rows: rows of the table, at least one.
        path: path of the file; `.json`, or by any other name a table with commas between.
    """
    path, content = Path(path), [asdict(row) for row in rows]
    with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".json":
            file.write(json.dumps(content, indent=2) + "\n")
            return
        writer = csv.DictWriter(file, list(content[0]))
        writer.writeheader()
        writer.writerows(content)


def export_choices(
    predictions: Iterable[AnsweredQuestion], unreadable: Iterable[dict[str, str]], path: str | Path
) -> None:
    """Write what the server of EgoSchema takes: id -> index of the chosen option, -1 where there is none."""
    chosen = {each.id: -1 if each.letter is None else ord(each.letter) - ord("A") for each in predictions}
    chosen |= {each["id"]: -1 for each in unreadable}
    with whole_file(Path(path)) as unfinished:
        unfinished.write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")


def _asked(question: Question) -> dict[str, Any]:
    """What a question is, without the folder of its video, and without what it does not have."""
    later = ("language", "start", "end")  # files of predictions from before questions had these go on
    fields = {name: value for name, value in asdict(question).items() if value is not None or name not in later}
    return fields | {"media": Path(question.media).name}


def _conditions(model: Any, processor: Any, questions: Sequence[Question], settings: AnswerSettings) -> dict[str, Any]:
    """All that answers depend on. How many go through the model together is not among it."""
    asked = [_asked(question) for question in questions]
    videos = {name: getattr(processor.video_processor, name) for name in ("fps", "max_frames", "max_visual_tokens")}
    return {
        **{name: value for name, value in asdict(settings).items() if name != "batch_size"},
        **videos,
        "questions": hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest(),
        "weights": weights_digest(model.state_dict()),
    }
