"""Conversations about images and videos: files of questions and answers to what a video LLM trains on.

A file is a list of samples (`.json`), or one sample a line (`.jsonl`), in any of the forms of
[`~dna_hf.data.conversation_forms`]. Loss is on the answers alone.

A sample that is wrong, or cannot be read, ends the run or is left out and listed in a file. Where it shows when the
file is read, the sample is not there. Where it shows only when it is its turn (a video that does not decode, a
sequence that is too long), the next sample that can be used takes its place: the same one every time, so that runs
repeat and resume.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ..errors import one_line
from .conversation_arguments import ConversationDataArguments
from .conversation_forms import MEDIA, WrongSampleError, kind_of_value, read_sample
from .errors import DataError
from .provenance import DatasetRecord


# label of a token without loss, as transformers and torch have it
IGNORED = -100
# of what a processor returns, what has one entry per token, and the value that fills up shorter sequences
PER_TOKEN = {"attention_mask": 0, "mm_token_type_ids": 0, "labels": IGNORED}
MASK = "assistant_masks"


@dataclass(frozen=True)
class Conversation:
    """One sample.

    Args:
        name: what to call the sample in messages: its file, its line or place there, and its id.
        row: place of the sample in the file, from 0.
        messages: turns as chat templates take them, with the absolute paths of images and videos.
    """

    name: str
    row: int
    messages: list[dict[str, Any]]

    @property
    def visuals(self) -> int:
        """Number of images and videos."""
        return sum(part["type"] in MEDIA for message in self.messages for part in message["content"])


@dataclass(frozen=True)
class Conversations:
    """What a file holds.

    Args:
        path: file of conversations.
        samples: samples that can be used, in the order of the file.
        bad: what is wrong with samples that cannot be used, one sentence each.
        forms: form of samples, e.g. `"messages with role and content"` -> how many have it.
    """

    path: str
    samples: list[Conversation]
    bad: list[str]
    forms: dict[str, int] = field(default_factory=dict)

    def provenance(self, split: str) -> DatasetRecord:
        """Where the conversations came from, for records."""
        return DatasetRecord(name=Path(self.path).name, splits={split: len(self.samples)})


def read_conversations(
    path: str | Path,
    data_folder: str | Path | None = None,
    *,
    limit: int | None = None,
    on_error: str = "raise",
    system: str | None = None,
) -> Conversations:
    """Read a file of conversations and check all of them; images and videos must exist but are not read.

    Args:
        path: a `.json` file with a list, or a `.jsonl` file.
        data_folder: folder that paths of images and videos start from; by default that of the file.
        limit: read only this many samples.
        on_error: `"raise"`, or `"skip"` to leave out samples that are wrong.
        system: system turn of samples that have none.

    Raises:
        DataError: if the file cannot be read or has no sample that can be used; with `on_error="raise"` naming the
            file, the sample and the field of the first sample that is wrong.
    """
    path = Path(path)
    folder = (path.parent if data_folder is None else Path(data_folder)).absolute()
    if not folder.is_dir():
        raise DataError(f"data_folder {str(data_folder)!r} is no folder.")
    samples, bad, forms = [], [], Counter[str]()
    for row, (place, entry) in enumerate(_entries(path)):
        if row == limit:
            break
        sample_id = entry.get("id") if isinstance(entry, dict) else None
        name = f"{path.name!r}, {place}" + ("" if sample_id is None else f", sample {sample_id!r}")
        try:
            messages, form = read_sample(_whole(entry), folder, system)
            samples.append(Conversation(name, row, messages))
            forms[form] += 1
        except WrongSampleError as wrong:
            if on_error == "raise":
                raise DataError(f"{name}: {wrong}.") from None
            bad.append(f"{name}: {wrong}.")
    if not samples:
        raise DataError(f"{str(path)!r} has no sample that can be used" + (f", e.g. {bad[0]}" if bad else "."))
    return Conversations(str(path), samples, bad, dict(forms))


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """The samples of a file, and where each is."""
    if path.suffix not in (".json", ".jsonl"):
        raise DataError(f"{str(path)!r} is no file of conversations: its name must end in .json or .jsonl.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise DataError(f"cannot read the conversations in {str(path)!r}: {reason}.") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"line {number}", _parsed_line(line)
        return
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise DataError(f"{str(path)!r} is no valid JSON: {error}.") from error
    if not isinstance(entries, list):
        raise DataError(f"{str(path)!r} must hold a list of samples, got {kind_of_value(entries)}.")
    yield from ((f"entry {number}", entry) for number, entry in enumerate(entries, 1))


def _whole(entry: Any) -> Any:
    """A sample, unless its line is no JSON.

    Raises:
        WrongSampleError: if it is none.
    """
    if isinstance(entry, ValueError):
        raise WrongSampleError(f"it is no valid JSON: {entry}")
    return entry


def _parsed_line(line: str) -> Any:
    """The sample of a line; of a line that is no JSON, what is wrong with it."""
    try:
        return json.loads(line)
    except ValueError as error:
        return error


class ConversationDataset(Dataset):
    """Conversations as a processor encodes them: rows to samples of `{"input_ids": (tokens), "labels": ..., ...}`.

    A sample has `input_ids`, `attention_mask` and `labels`, (tokens) each, whatever else the processor makes of its
    images and videos, and `rows`, its place in the file.

    Args:
        conversations: file of conversations that was read.
        processor: processor of the video LLM.
        arguments: fields of the `data` section, for reading and for samples that are wrong.
        training: whether another sample takes the place of one that cannot be read; otherwise it has no labels.
        bad_list: file that gets a line for every sample that cannot be used.
    """

    def __init__(
        self,
        conversations: Conversations,
        processor: Any,
        arguments: ConversationDataArguments,
        *,
        training: bool = True,
        bad_list: Path | None = None,
    ) -> None:
        self.samples = conversations.samples
        self.path = conversations.path
        self.processor = processor
        self.reading = arguments.reading()
        self.max_length = arguments.model_max_length
        self.skips = arguments.on_error == "skip"
        self.training = training
        self.bad_list = bad_list
        self.special = sorted(set(processor.tokenizer.all_special_tokens), key=len, reverse=True)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> dict[str, Any]:
        reasons = []
        for step in range(len(self)):
            sample = self.samples[(row + step) % len(self)]
            try:
                encoded = self._encode(sample)
            except DataError as error:
                if not self.skips:
                    raise
                reasons.append(str(error))
                self._list(str(error))
                continue
            if step and not self.training:
                encoded["labels"] = torch.full_like(encoded["labels"], IGNORED)
            return encoded
        raise DataError(f"no sample of {self.path!r} can be used, e.g. {reasons[0]}")

    def _encode(self, sample: Conversation) -> dict[str, Any]:
        """One sample as tensors.

        Raises:
            DataError: naming the sample, if it cannot be read, is too long, or holds tokens that are not text.
        """
        self._check_text(sample)
        try:
            encoded = self.processor.apply_chat_template(
                sample.messages,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                return_assistant_tokens_mask=True,
                **self.reading,
            )
        except (ValueError, OSError) as error:
            raise DataError(f"{sample.name}: {one_line(error)}") from error
        tensors = {name: torch.as_tensor(value) for name, value in encoded.items()}
        length = tensors["input_ids"].shape[-1]
        if length > self.max_length:
            raise DataError(
                f"{sample.name}: its sequence has {length} tokens, more than model_max_length, {self.max_length}, and "
                "none may be cut: lower max_frames or max_visual_tokens, or raise model_max_length."
            )
        input_ids, mask = tensors["input_ids"].view(-1), tensors.pop(MASK).view(-1).bool()
        if not mask.any():
            raise DataError(f"{sample.name}: the chat template marks no token of its answers.")
        tensors["labels"] = torch.where(mask, input_ids, IGNORED)
        tensors |= {name: tensors[name].view(-1) for name in ("input_ids", *PER_TOKEN) if name in tensors}
        return tensors | {"rows": sample.row}

    def _check_text(self, sample: Conversation) -> None:
        """Special tokens in a text would be taken for the ends of turns, or for places of images."""
        for message in sample.messages:
            for part in message["content"]:
                found = [token for token in self.special if token in part.get("text", "")]
                if found:
                    raise DataError(
                        f"{sample.name}: field 'conversations' has the special token {found[0]!r} in a turn of the "
                        f"{message['role']}: take it out."
                    )

    def _list(self, sentence: str) -> None:
        """Write down a sample that cannot be used."""
        if self.bad_list is not None:
            list_bad_samples(self.bad_list, [sentence])


def list_bad_samples(path: Path, sentences: Sequence[str]) -> None:
    """Add samples that cannot be used to a list. Workers and processes share the file: a line is one write."""
    if not sentences:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for sentence in sentences:
            file.write(json.dumps({"error": sentence}) + "\n")


class ConversationCollator:
    """Makes a batch of samples: sequences are filled up on the right, images and videos come one after the other.

    Args:
        pad_token_id: token that fills up `input_ids`.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.fill = {"input_ids": pad_token_id} | PER_TOKEN

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids`, `attention_mask` and `labels` (samples, tokens), `rows` (samples), and visuals."""
        names = dict.fromkeys(name for sample in samples for name in sample)
        batch = {}
        for name in names:
            values = [sample[name] for sample in samples if name in sample]
            if name == "rows":
                batch[name] = torch.tensor(values)
            elif name in self.fill:
                batch[name] = pad_sequence(values, batch_first=True, padding_value=self.fill[name])
            else:
                batch[name] = torch.cat(values)
        return batch
