"""The files of a checkpoint, and the one strict way to make a model of them.

A checkpoint is a folder that `save_pretrained` wrote, or the name of a repository on the Hub. What `from_pretrained`
only reports is an error here: missing and misshaped tensors, for which it draws random numbers, and unexpected ones.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import set_zero3_state
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
    logging,
)

from .data.errors import DataError
from .errors import DnaError, told_as
from .presence import must_be_there


# what training a video LLM writes beside an adapter, to say what it belongs to
ADAPTER_FILE = "dna_adapter.json"
# what PEFT writes beside an adapter
PEFT_FILE = "adapter_config.json"
# in the order in which transformers looks for them
WEIGHT_FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
# a configuration that describes this many times the numbers that are stored belongs to other weights
TOO_LARGE = 4
Shapes = dict[str, tuple[int, ...]]


def read_config(
    checkpoint: str | Path, revision: str | None = None, error_class: type[DnaError] = DataError
) -> dict[str, Any]:
    """Read `config.json` of a checkpoint as it stands there.

    Args:
        checkpoint: folder, or name on the Hub.
        revision: commit, tag or branch on the Hub.
        error_class: class of the errors.

    Raises:
        DnaError: if the checkpoint is not there, the Hub cannot be reached, or the file is damaged.
    """
    name = str(checkpoint)
    must_be_there(name, revision, error_class)
    if Path(name).exists():
        path = _local_config(Path(name), error_class)
    else:
        path = _found(name, CONFIG_NAME, revision, error_class)
    with told_as(error_class, f"{CONFIG_NAME} in {name!r} is damaged"):
        config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise error_class(f"{CONFIG_NAME} in {name!r} is damaged: it holds no object.")
    return config


def _local_config(folder: Path, error_class: type[DnaError]) -> Path:
    if (folder / ADAPTER_FILE).exists() or ((folder / PEFT_FILE).exists() and not (folder / CONFIG_NAME).exists()):
        raise error_class(f"{str(folder)!r} holds an adapter, no whole model: make one of it with dna-hf merge.")
    if not (folder / CONFIG_NAME).is_file():
        raise error_class(f"{str(folder)!r} has no {CONFIG_NAME}: it is no checkpoint folder.")
    return folder / CONFIG_NAME


def tensor_shapes(
    checkpoint: str | Path, revision: str | None = None, error_class: type[DnaError] = DataError
) -> Shapes:
    """Names and shapes of the tensors of a checkpoint; weights as safetensors are not read for it.

    Raises:
        DnaError: of class `error_class`, if there are no weights, or a file is missing or damaged.
    """
    name = str(checkpoint)
    shapes: Shapes = {}
    for path in _weight_files(name, revision, error_class):
        with told_as(error_class, f"the weights of {name!r} cannot be read: {path.name!r} is damaged or cut off"):
            shapes |= _shapes_in(path)
    return shapes


def _weight_files(name: str, revision: str | None, error_class: type[DnaError]) -> list[Path]:
    for file in WEIGHT_FILES:
        with told_as(error_class, f"cannot read the weights of {name!r}"):
            found = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        # nor is a pipe a file, which would be waited for without end
        if found is None or not Path(found).is_file():
            continue
        if not file.endswith(".index.json"):
            return [Path(found)]
        with told_as(error_class, f"{file} of {name!r} is damaged"):
            shards = sorted(set(json.loads(Path(found).read_text(encoding="utf-8"))["weight_map"].values()))
        return [_found(name, shard, revision, error_class) for shard in shards]
    raise error_class(f"{name!r} holds no weights: it has no {SAFE_WEIGHTS_NAME}.")


def _found(name: str, file: str, revision: str | None, error_class: type[DnaError]) -> Path:
    """A file of a checkpoint that must be there, downloaded if need be."""
    with told_as(error_class, f"{name!r} is not whole: {file!r} cannot be read"):
        return Path(cached_file(name, file, revision=revision) or "")


def _shapes_in(path: Path) -> Shapes:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    tensors = torch.load(path, map_location="meta", weights_only=True)
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if torch.is_tensor(tensor)}


def check_size(checkpoint: str | Path, config: dict[str, Any], shapes: Shapes, error_class: type[DnaError]) -> None:
    """See that a configuration has no more layers than there are tensors, before any are made.

    Args:
        checkpoint: folder, or name on the Hub, for the message.
        config: content of `config.json`, as [`read_config`] returns it.
        shapes: names and shapes of the tensors, as [`tensor_shapes`] returns them.
        error_class: class of the error.
    """
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        layers = part.get("num_hidden_layers", 0)
        if isinstance(layers, int) and layers > len(shapes):
            raise error_class(
                f"{CONFIG_NAME} in {str(checkpoint)!r} describes {layers:,} layers, but its weights are "
                f"{len(shapes):,} tensors: they do not belong together."
            )


def load_config(
    checkpoint: str | Path, revision: str | None = None, error_class: type[DnaError] = DataError, **fields: Any
) -> PreTrainedConfig:
    """The configuration of a checkpoint, with some fields replaced.

    Raises:
        DnaError: of class `error_class`, for a field that the configuration refuses, in its own words.
    """
    from transformers import AutoConfig

    with told_as(error_class, f"{CONFIG_NAME} in {str(checkpoint)!r} is wrong"):
        return AutoConfig.from_pretrained(checkpoint, revision=revision, trust_remote_code=False, **fields)


def fitting_config(
    model_class: Any, checkpoint: str | Path, revision: str | None = None, error_class: type[DnaError] = DataError
) -> PreTrainedConfig:
    """The configuration of a checkpoint, if it describes no larger a model than there are weights for.

    Raises:
        DnaError: of class `error_class`, if it does, or if a file is missing or damaged.
    """
    name = str(checkpoint)
    shapes = tensor_shapes(name, revision, error_class)
    check_size(name, read_config(name, revision, error_class), shapes, error_class)
    config = load_config(name, revision, error_class)
    _check_numbers(model_class, name, config, shapes, error_class)
    return config


def load_whole(
    model_class: Any,
    checkpoint: str | Path,
    *,
    revision: str | None = None,
    config: PreTrainedConfig | None = None,
    dtype: Any = "auto",
    new: Iterable[str] = (),
    error_class: type[DnaError] = DataError,
) -> PreTrainedModel:
    """Load a model, insisting that each of its tensors comes from the checkpoint and each of these has its place.

    Args:
        model_class: class of the model, or an Auto class.
        checkpoint: folder, or name on the Hub.
        revision: commit, tag or branch on the Hub.
        config: configuration in place of the checkpoint's own.
        dtype: dtype of the weights; by default as they were saved.
        new: beginnings of names of tensors that need not agree, such as those of the head where training starts.
        error_class: class of the errors.

    Raises:
        DnaError: of class `error_class`, naming the first tensor that is missing, unexpected, misshaped or not
            finite.
    """
    name, asked = str(checkpoint), "its configuration" if config is None else "the configuration that was asked for"
    if config is None:
        config = fitting_config(model_class, name, revision, error_class)
    else:
        _check_numbers(model_class, name, config, tensor_shapes(name, revision, error_class), error_class)
    with told_as(error_class, f"cannot load {name!r}"), _silent():
        model, info = model_class.from_pretrained(
            name,
            config=config,
            revision=revision,
            dtype=dtype,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    wrong = {
        "missing": info["missing_keys"],
        "unexpected": info["unexpected_keys"],
        "of another shape": [key for key, *_ in info["mismatched_keys"]],
    }
    wrong = {how: sorted(key for key in keys if not key.startswith(tuple(new))) for how, keys in wrong.items()}
    if any(wrong.values()):
        counts = ", ".join(f"{len(keys)} {how} (first {keys[0]!r})" for how, keys in wrong.items() if keys)
        raise error_class(f"the weights in {name!r} are not those of {asked}; tensors: {counts}.")
    for key, tensor in model.state_dict().items():
        # under FSDP the first process alone makes what is new, the others get it from there
        if not tensor.is_meta and not tensor.isfinite().all():
            raise error_class(f"tensor {key!r} in {name!r} holds a number that is not finite.")
    return model


def _check_numbers(
    model_class: Any, name: str, config: PreTrainedConfig, shapes: Shapes, error_class: type[DnaError]
) -> None:
    """See that a model does not need many times the memory of what is stored."""
    build: Callable = getattr(model_class, "_from_config", None) or model_class.from_config
    # on the meta device there is nothing for ZeRO stage 3 to divide
    meta, whole = torch.device("meta"), set_zero3_state()
    with told_as(error_class, f"the configuration of {name!r} describes no model"), meta, whole:
        wanted = build(config).num_parameters()
    stored = sum(torch.Size(shape).numel() for shape in shapes.values())
    if wanted > TOO_LARGE * stored:
        raise error_class(
            f"the configuration of {name!r} describes a model of {wanted:,} parameters, but its weights hold "
            f"{stored:,} numbers: they do not belong together."
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' report of tensors that differ: they are an error, which names them."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
