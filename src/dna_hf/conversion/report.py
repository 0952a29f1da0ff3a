"""The result of a conversion: a model, and an account of every tensor."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import SafetensorError
from transformers import PreTrainedModel

from ..errors import must_be_writable, sentence
from ..records.names import CONVERSION_FILE
from .errors import ConversionError


Action = Literal["copied", "split", "merged", "resampled", "new", "dropped"]


@dataclass(frozen=True)
class TensorRecord:
    """What became of one source tensor, or where one new tensor comes from.

    Args:
        action: `"copied"`, `"split"` (into several), `"merged"` (of several), `"resampled"` (to another grid of
            patches), `"dropped"` (no target) or `"new"` (no source).
        source: name of the tensor in the source, `None` for a new tensor.
        targets: names of what it became in the DnA model, empty for a dropped tensor.
        reason: why a tensor was dropped, how a new one is made, or what was done to the values.
    """

    action: Action
    source: str | None
    targets: tuple[str, ...]
    reason: str = ""


@dataclass
class ConversionReport:
    """An account of every tensor of a source and of the model made from it.

    Args:
        source: path or name of what was converted.
        family: kind of the source: `"vit"`, `"deit"`, `"dinov2"`, `"timesformer"`, `"video_llama_3"`,
            `"video_llama_3_vision"`, `"videollama3"` (saved by its own code), `"timm"`, `"authors-vit"`,
            `"authors-timesformer"`, `"authors-viscop"`, or `"dna_vit"` or `"dna_timesformer"`, where a DnA model is
            resized or a video model is made of it.
        records: one record for each source tensor and each new tensor.
        notes: sentences on what else the user should know, e.g. what a file held beside tensors.
        max_difference: largest difference between what the converted model and an evaluation of the source make of one
            random image or video (see `compared`); `None` where the source could not be run.
        compared: what `max_difference` compares.
        image_processor: the image processor that belongs to an image model, if the source has one.
        video_processor: the video processor that belongs to a video model, if the source says how to preprocess.
        processor: the processor that belongs to a video language model, if the source has a tokenizer.
    """

    source: str
    family: str
    records: list[TensorRecord]
    notes: list[str] = field(default_factory=list)
    max_difference: float | None = None
    compared: str = ""
    image_processor: Any = None
    video_processor: Any = None
    processor: Any = None

    def count(self, action: Action) -> int:
        """Number of records with an action."""
        return sum(record.action == action for record in self.records)

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Table rows (tensors, source, action, targets, reason); tensors that differ in the layer share a row."""
        groups: dict[tuple[str, str, str, str], int] = {}
        for record in self.records:
            names = (record.source or "-", ", ".join(record.targets) or "-")
            source, targets = (re.sub(r"\.\d+\.", ".*.", name) for name in names)
            key = (source, record.action, targets, re.sub(r"\.\d+\.", ".*.", record.reason))
            groups[key] = groups.get(key, 0) + 1
        return [(str(count), *key) for key, count in groups.items()]

    def to_dict(self) -> dict[str, Any]:
        """All but the processors, as plain types; of a source on this machine, the last part of its path.

        Of a video processor, what it does, in words.
        """
        path = Path(self.source)
        return {
            "source": path.resolve().name if path.is_absolute() or path.exists() else self.source,
            "family": self.family,
            "notes": self.notes,
            "max_difference": self.max_difference,
            "compared": self.compared,
            "video_processor": None if self.video_processor is None else self.video_processor.describe(),
            "tensors": [asdict(record) for record in self.records],
        }


class Conversion(NamedTuple):
    """What a conversion returns: `model, report = from_pretrained_softmax(...)`."""

    model: PreTrainedModel
    report: ConversionReport

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a complete checkpoint folder: weights, configuration, code, processor and `conversion.json`.

        Args:
            folder: folder to write to; it need not exist.

        Raises:
            ConversionError: if it cannot be written.
        """
        must_be_writable(folder, ConversionError)
        text = json.dumps(self.report.to_dict(), indent=2) + "\n"
        try:
            self.model.save_pretrained(folder)
            for processor in (self.report.image_processor, self.report.video_processor, self.report.processor):
                if processor is not None:
                    processor.save_pretrained(folder)
            Path(folder, CONVERSION_FILE).write_text(text, encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise ConversionError(f"cannot write {str(folder)!r}: {sentence(error)}.") from error
