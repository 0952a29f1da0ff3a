"""What a file of conversations or of questions holds: samples, turns, videos and images, and what is left out."""

import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .conversation_arguments import ConversationDataArguments, QuestionDataArguments
from .conversations import ConversationDataset, Conversations, read_conversations
from .errors import DataError
from .multiple_choice import QuestionFile, load_questions


# sentences about what is left out that are shown
EXAMPLES = 5


@dataclass
class FileSummary:
    """What a file holds.

    Args:
        dataset: path of the file, as it was given.
        facts: name and value of each count.
        left_out: a sentence for every entry that cannot be used.
        groups: what each group of questions is called -> group -> how many.
    """

    dataset: str
    facts: dict[str, int | str]
    left_out: list[str]
    groups: dict[str, dict[str, int]] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each fact, as text for a table."""
        rows = [(name, f"{value:,}" if isinstance(value, int) else value) for name, value in self.facts.items()]
        rows.append(("left out", f"{len(self.left_out):,}" if self.left_out else "nothing"))
        for name, counts in self.groups.items():
            shown = ", ".join(f"{group} ({count:,})" for group, count in counts.items())
            rows.append((name, textwrap.shorten(shown, 100, placeholder=" ...")))
        return rows

    def class_rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The header and the rows of a table of classes: there are none."""
        return (), []

    def all_classes(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """See [`class_rows`]."""
        return self.class_rows()

    def left_out_lines(self) -> list[str]:
        """A sentence for every entry that cannot be used."""
        return self.left_out

    def findings(self) -> list[str]:
        """A sentence for each entry that cannot be used, the first few of many."""
        more = len(self.left_out) - EXAMPLES
        return self.left_out[:EXAMPLES] + ([f"{more:,} more entries cannot be used."] if more > 0 else [])

    def report(self) -> dict[str, Any]:
        """The summary in the layout of `data_summary.json`."""
        content = {"dataset": Path(self.dataset).name, **self.facts, "left_out": self.left_out, **self.groups}
        return {name.replace(" ", "_"): value for name, value in content.items()}


def summarize_conversations(arguments: ConversationDataArguments, processor: Any = None) -> FileSummary:
    """Say what a file of conversations holds.

    Args:
        arguments: fields of the `data` section: which file, and the folder of its images and videos.
        processor: processor of a video LLM, which every sample is then encoded with, to find the longest one.

    Raises:
        DataError: if it cannot be read, or no sample can be used.
    """
    found = read_conversations(arguments.dataset, arguments.data_folder, on_error="skip", system=arguments.system)
    summary = conversation_summary(found)
    if processor is not None:
        _add_lengths(summary, found, processor)
    return summary


def _add_lengths(summary: FileSummary, found: Conversations, processor: Any) -> None:
    """Encode every sample: how long the longest is, and which cannot be read."""
    dataset = ConversationDataset(found, processor, ConversationDataArguments(model_max_length=sys.maxsize))
    longest = (0, "")
    for row, sample in enumerate(tqdm(found.samples, desc="encode", leave=False)):
        try:
            longest = max(longest, (len(dataset[row]["input_ids"]), sample.name))
        except DataError as error:
            summary.left_out.append(str(error))
    summary.facts["longest sample"] = f"{longest[0]:,} tokens: {longest[1]}" if longest[1] else "none can be encoded"


def conversation_summary(found: Conversations) -> FileSummary:
    """What conversations hold that were read."""
    return FileSummary(found.path, _conversation_facts(found), found.bad)


def _conversation_facts(found: Conversations) -> dict[str, int | str]:
    turns: Counter[str] = Counter()
    media: dict[str, list[str]] = {"video": [], "image": []}
    parts = 0
    for message in (message for sample in found.samples for message in sample.messages):
        turns[message["role"]] += 1
        for part in message["content"]:
            if part["type"] in media:
                source = part[part["type"]]
                parts += isinstance(source, dict)
                media[part["type"]].append(source["path"] if isinstance(source, dict) else source)
    return {
        "samples": len(found.samples),
        "read as": ", ".join(f"{form} ({count:,})" for form, count in found.forms.items()),
        "questions": turns["user"],
        "answers": turns["assistant"],
        "system turns": turns["system"],
        **_media_facts(media),
        "parts of videos": parts,
        "samples without video or image": sum(not sample.visuals for sample in found.samples),
    }


def summarize_questions(arguments: QuestionDataArguments) -> FileSummary:
    """Say what a file of multiple-choice questions holds.

    Raises:
        DataError: if it cannot be read, or no question is left.
    """
    found = load_questions(
        arguments.dataset, arguments.data_folder, format=arguments.format, views=arguments.views, on_error="skip"
    )
    return question_summary(arguments.dataset, found)


def question_summary(path: str, found: QuestionFile) -> FileSummary:
    """What questions hold that were read from a file."""
    groups = {
        name: dict(
            Counter(value for each in found.questions if (value := getattr(each, key)) is not None).most_common()
        )
        for name, key in (("categories", "category"), ("views", "view"), ("right answers", "answer"))
    }
    left_out = [each["error"] for each in found.skipped]
    return FileSummary(path, _question_facts(found), left_out, {k: v for k, v in groups.items() if v})


def _question_facts(found: QuestionFile) -> dict[str, int | str]:
    questions = found.questions
    media = {kind: [each.media for each in questions if each.kind == kind] for kind in ("video", "image")}
    options = sorted({len(each.options) for each in questions})
    return {
        "format": found.format,
        "questions": len(questions),
        "options": str(options[0]) if len(options) == 1 else f"{options[0]} to {options[-1]}",
        "without the right answer": sum(each.answer is None for each in questions),
        **_media_facts(media),
    }


def _media_facts(media: Mapping[str, Sequence[str]]) -> dict[str, int | str]:
    """How many videos and images are named, and how many files that are."""
    facts: dict[str, int | str] = {}
    for kind, paths in media.items():
        facts[f"{kind}s"] = len(paths)
        if len(set(paths)) < len(paths):
            facts[f"{kind} files"] = len(set(paths))
    return facts
