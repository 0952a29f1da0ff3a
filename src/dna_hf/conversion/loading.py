"""Read the configuration and the weights of a checkpoint folder or of a repository on the Hub, strictly."""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import PreTrainedModel
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)

from .. import pretrained
from ..errors import first_line, told_as
from .errors import ConversionError
from .files import read_state_dict


def saved_class(config: dict[str, Any]) -> str | None:
    """Name of the class that wrote a `config.json`, `None` if it does not say."""
    architectures = config.get("architectures")
    return architectures[0] if isinstance(architectures, list) and architectures else None


def load_exactly(
    name: str, model_class: Any, revision: str | None, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Load a checkpoint whose tensors are exactly those of its model, in its own dtype if no other is given.

    Raises:
        ConversionError: if it cannot be read, or tensors are missing, misshaped or unexpected.
    """

    # before memory is taken
    pretrained.fitting_config(model_class, name, revision, ConversionError)

    def load(**options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        # misshaped tensors are refused below, by name
        return model_class.from_pretrained(
            name,
            revision=revision,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **({} if dtype is None else {"dtype": dtype}),
            **options,
        )

    with told_as(ConversionError, f"cannot load {name!r}"):
        model, info = load()
        # the base models have two optional parts, and no configuration says whether the file has them
        if info["missing_keys"] and all(key.startswith("pooler.") for key in info["missing_keys"]):
            model, info = load(add_pooling_layer=False)
        elif set(info["unexpected_keys"]) == {"embeddings.mask_token"}:
            model, info = load(use_mask_token=True)
    problems = [f"{key!r} is missing" for key in sorted(info["missing_keys"])]
    problems += [f"{key!r} is misshaped" for key, *_ in sorted(info["mismatched_keys"])]
    problems += [f"{key!r} is unexpected" for key in sorted(info["unexpected_keys"])]
    if problems:
        raise ConversionError(f"{name!r} is not the {model_class.__name__} that its config.json says", problems)
    return model


def read_weights(name: str, revision: str | None) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint of one file or several, mapped from the files and not read yet.

    Raises:
        ConversionError: if there are none, or the files do not hold what their index says.
    """
    for file in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        if not has_file(name, file, revision):
            continue
        if file in (SAFE_WEIGHTS_NAME, WEIGHTS_NAME):
            return read_state_dict(find_file(name, file, revision))
        return _read_shards(name, read_json(name, file, revision), file, revision)
    raise ConversionError(f"{name!r} has no weights: neither {SAFE_WEIGHTS_NAME} nor {WEIGHTS_NAME}, nor an index.")


def _read_shards(name: str, index: dict[str, Any], file: str, revision: str | None) -> dict[str, torch.Tensor]:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise ConversionError(f"{file} of {name!r} has no weight_map.")
    tensors: dict[str, torch.Tensor] = {}
    problems = []
    for shard in sorted(set(places.values())):
        found = read_state_dict(find_file(name, shard, revision))
        promised = {key for key, place in places.items() if place == shard}
        problems += [f"{key!r} is not in {shard}" for key in sorted(promised - found.keys())]
        problems += [f"{key!r} in {shard} is unexpected" for key in sorted(found.keys() - promised)]
        tensors |= found
    if problems:
        raise ConversionError(f"the weights of {name!r} are not what {file} says", problems)
    return tensors


def has_file(name: str, file: str, revision: str | None = None) -> bool:
    """Whether a folder or a repository on the Hub has a file.

    Raises:
        ConversionError: if the Hub does not say: a file that cannot be asked for is not one that is not there.
    """
    if Path(name).is_dir():
        return Path(name, file).is_file()
    try:
        hf_hub_download(name, file, revision=revision)
    except EntryNotFoundError as error:
        # who asks for no network is answered by the cache
        if isinstance(error, LocalEntryNotFoundError) and not is_offline_mode():
            raise ConversionError(f"cannot tell whether {name!r} has {file}: the Hub cannot be reached.") from error
        return False
    except (OSError, ValueError) as error:
        raise ConversionError(f"cannot tell whether {name!r} has {file}: {first_line(error)}.") from error
    return True


def read_config(name: str, revision: str | None) -> dict[str, Any]:
    """The `config.json` of a folder or of a repository on the Hub.

    Raises:
        ConversionError: if there is none, or it is no JSON object.
    """
    if Path(name).is_dir() and not Path(name, "config.json").is_file():
        raise ConversionError(f"folder {name!r} has no config.json: it is no checkpoint of transformers or timm.")
    try:
        return pretrained.read_config(name, revision, ConversionError)
    except ConversionError as error:
        if Path(name).exists() or "/" in name:
            raise
        reason = str(error).removesuffix(".")
        raise ConversionError(f"{reason} (a name of timm's needs timm installed).") from error


def read_json(name: str, file: str, revision: str | None = None) -> dict[str, Any]:
    """A JSON file of a folder or of a repository on the Hub.

    Raises:
        ConversionError: if there is none, or it is no JSON object.
    """
    with told_as(ConversionError, f"{file} of {name!r} is no valid JSON"):
        content = json.loads(Path(find_file(name, file, revision)).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ConversionError(f"{file} of {name!r} is no JSON object.")
    return content


def find_file(name: str, file: str, revision: str | None) -> str:
    """Path of a file of a folder or of a repository on the Hub.

    Raises:
        ConversionError: if it has none.
    """
    with told_as(ConversionError, f"cannot read {file} of {name!r}"):
        return str(cached_file(name, file, revision=revision))


def source_name(source: Any) -> str:
    """What to call a source in a message."""
    return str(source) if isinstance(source, (str, Path)) else type(source).__name__
