"""The models that are looked into side by side: checkpoints of one kind."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig

from ..data.errors import DataError
from ..evaluation.image_classification import load_classifier
from ..evaluation.video_classification import load_video_classifier
from ..evaluation.video_llm import load_video_llm
from ..records.names import checkpoint_labels
from .sight import Classifier


IMAGE_MODEL, VIDEO_MODEL, VIDEO_LLM = "dna_vit", "dna_timesformer", "dna_video_llama3"
LOADERS: dict[str, Any] = {
    IMAGE_MODEL: load_classifier,
    VIDEO_MODEL: load_video_classifier,
    VIDEO_LLM: load_video_llm,
}


def common_model_type(checkpoints: Sequence[str], revision: str | None) -> str:
    """Which of the known models all checkpoints are.

    Args:
        checkpoints: folders, or names on the Hub.
        revision: commit, tag or branch on the Hub, of all checkpoints.

    Raises:
        DataError: if one cannot be read, or is of another kind.
    """
    kinds = {}
    for checkpoint in checkpoints:
        try:
            kinds[checkpoint] = AutoConfig.from_pretrained(checkpoint, revision=revision).model_type
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"cannot load a model from {checkpoint!r}: {reason}") from error
    for checkpoint, kind in kinds.items():
        if kind not in LOADERS:
            raise DataError(
                f"checkpoint {checkpoint!r} is a {kind} model, but one of {', '.join(LOADERS)} is needed: convert it "
                "with dna-hf convert, or give another one."
            )
    if len(set(kinds.values())) > 1:
        raise DataError(f"the checkpoints are {', '.join(kinds.values())} models: give models of one kind.")
    return kinds[checkpoints[0]]


def load_models(
    checkpoints: Sequence[str], device: str | None = None, revision: str | None = None
) -> list[Classifier]:
    """Load checkpoints, all of one kind, each with a label of its own.

    Args:
        checkpoints: folders, or names on the Hub.
        device: e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub, of all checkpoints.

    Raises:
        DataError: see [`common_model_type`], and for one that cannot be loaded.
    """
    load = LOADERS[common_model_type(checkpoints, revision)]
    return [
        Classifier(label, *load(checkpoint, device, revision))
        for label, checkpoint in zip(checkpoint_labels(checkpoints), checkpoints, strict=True)
    ]
