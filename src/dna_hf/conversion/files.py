"""Read other people's checkpoint files without running anything in them."""

import argparse
import re
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from ..errors import told_as
from .errors import ConversionError


PICKLE_SUFFIXES = (".pth", ".pyth", ".pt", ".bin", ".ckpt")
# under which keys training scripts keep the weights, beside optimizer, epoch and so on
WEIGHT_KEYS = ("model", "state_dict", "model_state")
# under which key TimeSformer's, and the authors' of it, keep their configuration
SETTINGS_KEY = "cfg"
# what wrappers put before every name: DistributedDataParallel, an outer module, torch.compile
PREFIXES = ("module.", "model.", "_orig_mod.")


class Checkpoint(NamedTuple):
    """What a checkpoint file holds.

    Args:
        tensors: tensors by name, without the prefixes of wrappers.
        notes: sentences on what else the file holds.
        settings: configuration of the training run, as it wrote it under `cfg`; `None` where it did not.
    """

    tensors: dict[str, torch.Tensor]
    notes: list[str]
    settings: Any


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Read the tensors of a checkpoint file, and notes on what else it holds; see [`read_checkpoint`]."""
    checkpoint = read_checkpoint(path)
    return checkpoint.tensors, checkpoint.notes


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file.

    Args:
        path: a `.safetensors` file, or a file of `torch.save`, which may be a whole training checkpoint.

    Raises:
        ConversionError: if there is no such file, it is damaged, it holds no tensors by name, or a pickle asks for
            anything but tensors, plain values and `argparse.Namespace`; nothing in the file is run.
    """
    path = Path(path)
    tensors, others = _weights(_content(path), path)
    settings = others.pop(SETTINGS_KEY, None)
    notes = [f"not read: {', '.join(others)} of the training checkpoint"] if others else []
    return Checkpoint(_without_prefixes(tensors), notes, settings)


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a file by the names that it gives them; see [`read_checkpoint`]."""
    return _weights(_content(Path(path)), Path(path))[0]


def _content(path: Path) -> Any:
    if not path.is_file():
        what = "is no file but a folder" if path.is_dir() else "does not exist"
        raise ConversionError(f"checkpoint file {str(path)!r} {what}.")
    if path.suffix == ".safetensors":
        with told_as(ConversionError, f"{str(path)!r} is no intact safetensors file"):
            return load_file(path)
    elif path.suffix in PICKLE_SUFFIXES:
        return _unpickle(path)
    suffixes = ", ".join((".safetensors", *PICKLE_SUFFIXES))
    raise ConversionError(f"{str(path)!r} is no checkpoint file: its name must end in one of {suffixes}.")


def _unpickle(path: Path) -> Any:
    with told_as(ConversionError, f"{str(path)!r} is no intact checkpoint file"):
        try:
            with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old pickle protocols, which either work or raise
                # mapped, tensors are read where they are used, and need not fit into memory twice
                with path.open("rb") as file:
                    is_zip = file.read(4) == b"PK\x03\x04"
                return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except UnpicklingError as error:
            found = re.search(r"GLOBAL (\S+)", str(error))
            wanted = f"asks to run {found[1]!r}" if found else "is not made of tensors and plain values"
            raise ConversionError(
                f"{str(path)!r} {wanted}, which no checkpoint needs: it was not loaded, ask its author for "
                "safetensors."
            ) from error


def _weights(content: Any, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state dict in what a file holds, and what else there is in a training checkpoint, sorted by name."""
    others: dict[str, Any] = {}
    if isinstance(content, dict):
        for key in WEIGHT_KEYS:
            if isinstance(content.get(key), dict):
                others = {str(name): content[name] for name in sorted(content, key=str) if name != key}
                content = content[key]
                break
    if not isinstance(content, dict) or not content:
        raise ConversionError(f"{str(path)!r} holds no tensors by name.")
    strangers = [
        f"{name!r} is a {_kind(value)}"
        for name, value in content.items()
        if not isinstance(name, str)
        or not isinstance(value, torch.Tensor)
        or value.layout != torch.strided
        or value.is_nested
    ]
    if strangers:
        raise ConversionError(f"{str(path)!r} holds something else than dense tensors by name", strangers)
    return dict(content), others


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor) and value.layout != torch.strided:
        return f"tensor of layout {value.layout}"
    return type(value).__name__


def _without_prefixes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
