"""Make whole checkpoints of adapters, of video language models and of classifiers."""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..errors import must_be_empty
from ..kinds import CLASSIFIERS, kind_of_config
from ..pretrained import load_config
from ..records.checkpoint_records import read_training, record_training
from ..records.digest import weights_digest
from .adapter import load_adapted, read_description
from .errors import ConfigurationError
from .lora import load_adapted_classifier


def merge_adapter(
    folder: str | Path, output: str | Path, base: str | None = None, *, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Write the whole checkpoint that an adapter makes of its base.

    Args:
        folder: folder of the adapter.
        output: empty folder to write to; made if it does not exist.
        base: folder or name on the Hub of the base; by default where it was when the adapter was trained.
        dtype: dtype of the weights; by default the one in which the base is stored.

    Returns:
        The model.

    Raises:
        ConfigurationError: if the base is missing, is another one, or the adapter is damaged; if `output` is not
            empty.
    """
    output = must_be_empty(output, ConfigurationError)
    read_description(folder)
    is_classifier = kind_of_config(load_config(folder, None, ConfigurationError)) in CLASSIFIERS
    model, processor = (load_adapted_classifier if is_classifier else load_adapted)(folder, base, dtype=dtype)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    training = read_training(folder)
    if training is not None:
        record_training(output, replace(training, weights=weights_digest(model.state_dict())))
    return model
