"""What a classifier says of a file, by its problem type: the one place for all that shows answers.

Its scores are those of transformers' `pipeline("image-classification")`: probabilities that sum to 1 over the classes,
a sigmoid for each class of several labels, and the outputs of a regression as they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..data.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..kinds import problem_type_of, threshold_of


# classes or outputs that a line has room for
NAMED = 3


@dataclass(frozen=True)
class Answer:
    """What a model says of one file.

    Args:
        scores: (name, score) of each class, the highest score first; of a regression, name and value of each output,
            in the order of the outputs.
        problem_type: what the scores are, in transformers' words: probabilities that sum to 1
            (`"single_label_classification"`), a probability for each class (`"multi_label_classification"`), or values
            (`"regression"`).
        threshold: score above which a class of several labels holds, in [0, 1].
    """

    scores: list[tuple[str, float]]
    problem_type: str = SINGLE_LABEL
    threshold: float = 0.5

    @property
    def classes(self) -> tuple[str, ...]:
        """The class of the highest score; of several labels those above the threshold; none of a regression."""
        if self.problem_type == REGRESSION:
            return ()
        if self.problem_type == MULTI_LABEL:
            return tuple(name for name, score in self.scores if score > self.threshold)
        return (self.scores[0][0],)

    @property
    def probability(self) -> float | None:
        """The probability of the class that was chosen, where one is."""
        return self.scores[0][1] if self.problem_type == SINGLE_LABEL else None

    @property
    def short(self) -> str:
        """The answer without its probability: `rose`; `rose, tulip`; `none`; `angle 7.2`."""
        if self.problem_type == REGRESSION:
            return _listed([f"{name} {self.text(value)}" for name, value in self.scores])
        return _listed(self.classes) or "none"

    @property
    def title(self) -> str:
        """The answer with its scores: `rose 93 %`; `rose 97 %, tulip 81 %`; `none above 0.5`; `angle 7.2`."""
        if self.problem_type == REGRESSION:
            return self.short
        if not self.classes:
            return f"none above {self.threshold:g}"
        # their scores are the highest
        return _listed([f"{name} {100 * score:.0f} %" for name, score in self.scores[: len(self.classes)]])

    def text(self, score: float) -> str:
        """A score of this answer as text, with its unit."""
        return f"{score:.6g}" if self.problem_type == REGRESSION else f"{100 * score:.1f} %"


def _listed(texts: Sequence[str]) -> str:
    more = [f"{len(texts) - NAMED} more"] if len(texts) > NAMED else []
    return ", ".join([*texts[:NAMED], *more])


def answers_of(logits: torch.Tensor, names: Sequence[str], config: Any) -> list[Answer]:
    """What a model says of several files.

    Args:
        logits: what the classifier returned, (files, classes).
        names: names of the classes or outputs, in the order of the logits.
        config: configuration of the model, which says what the logits mean.
    """
    return answers_of_scores(class_scores(logits, config), names, config)


def answers_of_scores(scores: torch.Tensor, names: Sequence[str], config: Any) -> list[Answer]:
    """What a model says of several files, of which the scores (files, classes) are known; see [`answers_of`]."""
    problem, threshold = answer_type(config), threshold_of(config)
    found = []
    for row in scores.tolist():
        named = list(zip(names, row, strict=True)) if problem == REGRESSION else ranked(names, row)
        found.append(Answer(named, problem, threshold))
    return found


def ranked(names: Iterable[str], scores: Iterable[float]) -> list[tuple[str, float]]:
    """(name, score), the highest score first; of equal ones the first in the order given."""
    return sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])


def class_scores(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """The scores (..., classes) of logits (..., classes), in float32, as transformers' pipeline computes them.

    Args:
        logits: what the classifier returned.
        config: configuration of the model.
    """
    problem = answer_type(config)
    if problem == REGRESSION:
        return logits.float()
    return logits.float().sigmoid() if problem == MULTI_LABEL else logits.float().softmax(dim=-1)


def answer_type(config: Any) -> str:
    """What the scores of a model's answers are: the `problem_type` of an [`Answer`].

    It is the problem type of the model, with one exception, which transformers' pipeline makes, too: the one output of
    a model whose configuration names no problem type is taken for the logit of a class.

    Args:
        config: configuration of the model.
    """
    if config.num_labels == 1 and config.problem_type is None:
        return MULTI_LABEL
    return problem_type_of(config)
