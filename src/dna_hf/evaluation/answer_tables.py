"""Figures of a video LLM's answers as text, for a table."""

from collections.abc import Sequence

from .multiple_choice import AccuracyRow


def answer_rows(rows: Sequence[AccuracyRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header and the rows of a table of accuracies.

    Args:
        rows: rows that [`~dna_hf.evaluation.multiple_choice.accuracy_table`] made.
    """
    header = ("view", "category", "questions", "accuracy", "95 % interval", "unparsed")
    return header, [
        (
            row.view,
            row.category,
            str(row.questions),
            "-" if row.accuracy is None else f"{100 * row.accuracy:.1f} %",
            "-" if row.low is None or row.high is None else f"{100 * row.low:.1f} to {100 * row.high:.1f} %",
            str(row.unparsed),
        )
        for row in rows
    ]


def answer_facts(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """What all answers together come to: name and value, as text.

    Args:
        metrics: figures of a [`~dna_hf.evaluation.multiple_choice.MultipleChoiceResult`], by name.
    """
    names = {"average": "average of the categories", "overall": "of all questions"}
    facts = [(names[name], f"{100 * metrics[name]:.2f} %") for name in names if name in metrics]
    facts += [("right answers", "not known")] if "overall" not in metrics else []
    facts += [("answers that name no option", f"{metrics['unparsed']} of {metrics['questions']}")]
    return facts + ([("second chances", str(metrics["second_chance"]))] if "second_chance" in metrics else [])
