"""Adapters of PEFT, merged into the weights that they belong to: `W + scale * B A`.

Only plain LoRA, which is what the authors train: anything else in `adapter_config.json` is refused by name.
"""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .errors import ConversionError
from .files import read_state_dict
from .loading import has_file, read_json
from .report import TensorRecord
from .tensors import TensorMap


ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# what would make it something else than plain LoRA, if it is neither absent nor one of these
PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "lora_bias": (False,),
    "modules_to_save": ([],),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layers_to_transform": ([],),
    "layer_replication": ([],),
    "trainable_token_indices": ([], {}),
    "target_parameters": ([],),
    "use_bdlora": ({}, False),
    "arrow_config": ({},),
}


class Adapter(NamedTuple):
    """A LoRA adapter.

    Args:
        file: name of the file that holds the adapter.
        tensors: tensors by the names that the file gives them.
        pairs: name of each module, without PEFT's prefix -> the names of its A (rank, in) and B (out, rank).
        rank: rank of all pairs.
        scale: factor of `B A`.
        targets: modules that the adapter should have tensors for: a regular expression, or ends of names.
    """

    file: str
    tensors: dict[str, torch.Tensor]
    pairs: dict[str, tuple[str, str]]
    rank: int
    scale: float
    targets: str | list[str]

    def is_target(self, module: str) -> bool:
        """Whether a module should have tensors, as PEFT decides it."""
        if isinstance(self.targets, str):
            return re.fullmatch(self.targets, module) is not None
        return any(module == target or module.endswith(f".{target}") for target in self.targets)


def read_adapter(folder: str) -> Adapter:
    """Read the adapter in a folder.

    Raises:
        ConversionError: if there is none, it is not plain LoRA, or its tensors do not come in pairs.
    """
    config = read_json(folder, ADAPTER_CONFIG)
    name = f"{ADAPTER_CONFIG} of {folder!r}"
    if config.get("peft_type") != "LORA":
        raise ConversionError(f"{name} has peft_type {config.get('peft_type')!r}: only 'LORA' can be merged.")
    for key, plain in PLAIN.items():
        if config.get(key) is not None and config[key] not in plain:
            raise ConversionError(f"{name} has {key} {config[key]!r}: only plain LoRA can be merged.")
    rank, alpha, targets = (config.get(key) for key in ("r", "lora_alpha", "target_modules"))
    if not isinstance(rank, int) or rank < 1:
        raise ConversionError(f"{name} has r {rank!r}, no positive whole number.")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ConversionError(f"{name} has lora_alpha {alpha!r}, no number.")
    if not isinstance(targets, str) and not (isinstance(targets, list) and targets):
        raise ConversionError(f"{name} has target_modules {targets!r}, no names of modules.")
    file = next((file for file in ADAPTER_WEIGHTS if has_file(folder, file)), None)
    if file is None:
        raise ConversionError(f"folder {folder!r} has no {' or '.join(ADAPTER_WEIGHTS)}.")
    tensors = read_state_dict(Path(folder, file))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Adapter(file, tensors, _pairs(f"{file} of {folder!r}", tensors), rank, scale, targets)


def _pairs(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, tuple[str, str]]:
    halves: dict[str, dict[str, str]] = {}
    problems = []
    for key in tensors:
        found = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight", key)
        if found is None:
            problems.append(f"{key!r} is unexpected")
        elif halves.setdefault(found[1], {}).setdefault(found[2], key) != key:
            problems.append(f"{key!r} is there twice")
    for module, half in halves.items():
        problems += [f"{module!r} has no lora_{side}" for side in "AB" if side not in half]
    if problems:
        raise ConversionError(f"{name} is no LoRA adapter", problems)
    return {module: (half["A"], half["B"]) for module, half in halves.items()}


def merge_lora(mapping: TensorMap, source: str, pair: tuple[str, str], target: str, rank: int, scale: float) -> None:
    """Copy a weight (out, in) with `scale * B A` added, computed in float32.

    Args:
        mapping: map of tensors that has the weight and the pair among its source.
        source: name of the weight in the source.
        pair: names of A (rank, in) and B (out, rank) in the source.
        target: name of the weight that the sum becomes.
        rank: rank of the adapter.
        scale: factor of `B A`.
    """
    names = (source, *pair)
    taken = [mapping.take(name) for name in names]
    mapping.records += [TensorRecord("merged", name, (target,), f"W + {scale:g} B A") for name in names]
    if any(tensor is None for tensor in taken):
        return
    weight, a, b = (mapping.source[name] for name in names)
    expected = {1: (rank, *weight.shape[1:]), 2: (*weight.shape[:1], rank)}
    for index, shape in expected.items():
        if tuple(mapping.source[names[index]].shape) != shape:
            found = tuple(mapping.source[names[index]].shape)
            mapping.problems.append(f"{names[index]!r} has shape {found}, not {shape}")
            return
    total = weight.float() + scale * (b.float() @ a.float())
    mapping.tensors[target] = total.to(mapping.dtype or weight.dtype)
