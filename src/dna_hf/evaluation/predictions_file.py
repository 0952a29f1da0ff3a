"""The answers of a video language model, and the file that keeps them as soon as they are there."""

import json
import os
import string
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.errors import DataError
from ..errors import first_line, must_be_file
from ..whole_files import whole_file


@dataclass(frozen=True)
class AnsweredQuestion:
    """What a model answered to a question.

    Args:
        id: id of the question.
        answer: answer as the model wrote it.
        letter: letter of the option that the model chose, `None` where that cannot be told.
        rule: rule that decided, see [`~dna_hf.evaluation.answers.ParsedAnswer`]; `likelihood` of a second chance.
        truth: letter of the right option, `None` where the file does not tell.
        category: category of the question, if it has one.
        view: view of the question, e.g. `ego`, if it has one.
        unparsed: whether the answer itself could not be read.
        language: language of the question, if it has one.
        question: text of the question; `None` in files that were written without it, as for all that follows.
        options: text of each option by its letter.
        media: name of the video or image, without its folder.
        start: seconds into the video at which the part that was asked about begins; `None`: at its beginning.
        end: seconds into the video at which that part ends; `None`: at its end.
    """

    id: str
    answer: str
    letter: str | None
    rule: str
    truth: str | None
    category: str | None
    view: str | None
    unparsed: bool
    language: str | None = None
    question: str | None = None
    options: dict[str, str] | None = None
    media: str | None = None
    start: float | None = None
    end: float | None = None

    @property
    def correct(self) -> bool:
        """Whether the right option was chosen."""
        return self.letter is not None and self.letter == self.truth


def read_predictions(path: Path) -> list[AnsweredQuestion]:
    """The answers of a file of predictions, in its order.

    Raises:
        DataError: if it is missing or damaged, holds no answer, or has one without the options of its question.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the predictions in {str(path)!r}: {first_line(error)}.") from error
    lines = _lines(text)
    found = _answered(lines, path)
    if not found:
        raise DataError(f"{str(path)!r} holds no answer.")
    if len(found) < len(lines):
        raise DataError(
            f"{str(path)!r} answers {len(lines) - len(found)} questions twice: leave one answer for each id."
        )
    for each in found.values():
        _check_answer(each, path)
    return list(found.values())


def _check_answer(each: AnsweredQuestion, path: Path) -> None:
    """See that an answer can be read again.

    Raises:
        DataError: naming the question and the field that is wrong.
    """
    where = f"the answer to question {each.id!r} in {str(path)!r}"
    if not isinstance(each.answer, str):
        raise DataError(f"{where} is {each.answer!r:.40}, where text must be.")
    if each.options is None:
        raise DataError(
            f"{where} lacks the options of its question, which files of earlier versions do not hold: ask the model "
            "again."
        )
    letters = string.ascii_uppercase[: len(each.options)]
    if not isinstance(each.options, dict) or list(each.options) != list(letters):
        raise DataError(
            f"{where} has the options {each.options!r:.60}, where texts by their letters, A, B, ..., must be."
        )
    if each.truth not in (None, *letters):
        raise DataError(f"{where} has the truth {each.truth!r:.40}, which is none of {', '.join(letters)}.")


def _lines(text: str) -> list[tuple[int, str]]:
    """The numbered lines that are not blank. An answer may hold what `str.splitlines` takes for the end of a line."""
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _answered(lines: Iterable[tuple[int, str]], path: Path) -> dict[str, AnsweredQuestion]:
    answered = {}
    for number, line in lines:
        try:
            content = json.loads(line)
            content.pop("correct")
            answered[content["id"]] = AnsweredQuestion(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"line {number} of {str(path)!r} is no answer that dna-hf answer wrote: {first_line(error)}."
            ) from error
    return answered


def write_predictions(path: Path, predictions: Iterable[AnsweredQuestion]) -> None:
    """Write answers to a new file.

    Raises:
        DataError: if it is there already.
    """
    if path.exists():
        raise DataError(f"{str(path)!r} exists: choose another file.")
    with whole_file(path) as unfinished:
        unfinished.write_text("".join(map(_line, predictions)), encoding="utf-8")


def _line(prediction: AnsweredQuestion) -> str:
    correct = None if prediction.truth is None else prediction.correct
    return json.dumps(asdict(prediction) | {"correct": correct}, ensure_ascii=False) + "\n"


class PredictionsFile:
    """A line for every answer, and beside it `NAME.settings.json`.

    Args:
        path: file of the answers.
        conditions: settings, questions and weights that the answers depend on.
    """

    def __init__(self, path: Path, conditions: dict[str, Any]) -> None:
        self.path = path
        self.settings = path.with_suffix(".settings.json")
        self.conditions = conditions

    def read(self, resume: bool) -> dict[str, AnsweredQuestion]:
        """Answers that are there already, by id; the file is made if there is none.

        Raises:
            DataError: if it is there and is not to be continued, or cannot be; or if it cannot be written.
        """
        must_be_file(self.path, DataError)
        if not self.path.exists():
            with whole_file(self.settings) as unfinished:
                unfinished.write_text(json.dumps(self.conditions, indent=2) + "\n", encoding="utf-8")
            self.path.touch()
            return {}
        if not resume:
            raise DataError(f"{str(self.path)!r} exists: continue it with resume, or choose another file.")
        self._check_settings()
        content = self.path.read_bytes()
        # a line that was cut when the run ended, perhaps inside of a character, is answered again
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        try:
            text = whole.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"cannot read the predictions in {str(self.path)!r}: {first_line(error)}.") from error
        return _answered(_lines(text), self.path)

    def append(self, predictions: Iterable[AnsweredQuestion]) -> None:
        """Write answers down."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(map(_line, predictions))

    def _check_settings(self) -> None:
        try:
            before = json.loads(self.settings.read_text(encoding="utf-8"))
            different = [name for name, value in self.conditions.items() if before.get(name) != value]
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(
                f"{str(self.settings)!r}, which says how {self.path.name} was written, is missing or damaged: choose "
                "another file of predictions."
            ) from error
        if different:
            name = different[0]
            was, now = before.get(name), self.conditions[name]
            changed = name if name in ("questions", "weights") else f"{name}: {was!r}, now {now!r}"
            raise DataError(
                f"{str(self.path)!r} was written with other settings ({changed}): choose another file of predictions."
            )
