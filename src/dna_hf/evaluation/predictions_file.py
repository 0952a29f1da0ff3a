"""The answers of a video language model, and the file that keeps them as soon as they are there."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.errors import DataError
from ..errors import must_be_file


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
    """

    id: str
    answer: str
    letter: str | None
    rule: str
    truth: str | None
    category: str | None
    view: str | None
    unparsed: bool

    @property
    def correct(self) -> bool:
        """Whether the right option was chosen."""
        return self.letter is not None and self.letter == self.truth


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
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.settings.write_text(json.dumps(self.conditions, indent=2) + "\n", encoding="utf-8")
            self.path.touch()
            return {}
        if not resume:
            raise DataError(f"{str(self.path)!r} exists: continue it with resume, or choose another file.")
        self._check_settings()
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        # a line that was cut when the run ended is answered again
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
            self.path.write_text("".join(lines), encoding="utf-8")
        answered = {}
        for number, line in enumerate(lines, 1):
            try:
                content = json.loads(line)
                content.pop("correct")
                answered[content["id"]] = AnsweredQuestion(**content)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DataError(f"line {number} of {str(self.path)!r} is damaged: remove the file.") from error
        return answered

    def append(self, predictions: Iterable[AnsweredQuestion]) -> None:
        """Write answers down."""
        with self.path.open("a", encoding="utf-8") as file:
            for each in predictions:
                correct = None if each.truth is None else each.correct
                file.write(json.dumps(asdict(each) | {"correct": correct}, ensure_ascii=False) + "\n")

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
