"""From softmax attention to the attention variants: which tensor goes where, and what is new."""

import math
from typing import Any, Literal, get_args

from .errors import ConversionError
from .tensors import TensorMap


NegativeInit = Literal["warm", "zero", "random"]

# where the query and the value of softmax attention go; the key and the output projection keep their names
QUERY_NAMES = {"dna": "q_pos_proj", "dna_shared_value": "q_pos_proj"}
VALUE_NAMES = {"dna": "v_pos_proj"}


def projection_names(variant: str) -> tuple[str, str, str]:
    """Names of the modules that take the query, key and value of softmax attention."""
    return QUERY_NAMES.get(variant, "q_proj"), "k_proj", VALUE_NAMES.get(variant, "v_proj")


def check_negative_init(negative_init: str, **scales: float) -> None:
    """Refuse what [`add_new_tensors`] cannot do.

    Raises:
        ConversionError: for an unknown initialisation or a scale that is no finite number.
    """
    if negative_init not in get_args(NegativeInit):
        known = ", ".join(get_args(NegativeInit))
        raise ConversionError(f"unknown negative_init {negative_init!r}: choose one of {known}.")
    for name, scale in scales.items():
        if not isinstance(scale, (int, float)) or not math.isfinite(scale):
            raise ConversionError(f"{name} must be a finite number, got {scale!r}.")


def add_new_tensors(
    mapping: TensorMap, config: Any, layer: str, negative_init: NegativeInit, warm_scale: float
) -> None:
    """Add what the attention of one layer has beyond softmax attention.

    Args:
        mapping: already has the positive branch.
        config: of the target; gives `attention_variant`, `qkv_bias` and `negative_scale_init`.
        layer: name of the attention module in the target.
        negative_init: see [`~dna_hf.conversion.from_pretrained_softmax`].
        warm_scale: see there.
    """
    variant = config.attention_variant
    if variant == "differential":
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2", "head_norm.weight"):
            mapping.new(f"{layer}.{name}", None, "as in a fresh model")
    if variant not in QUERY_NAMES:
        return
    parameters = ("weight", "bias") if config.qkv_bias else ("weight",)
    for parameter in parameters:
        _scaled(
            mapping, f"{layer}.q_pos_proj.{parameter}", f"{layer}.q_neg_proj.{parameter}", negative_init, warm_scale
        )
        if variant == "dna":
            scale = 0.0 if negative_init == "zero" else warm_scale
            source, target = f"{layer}.v_pos_proj.{parameter}", f"{layer}.v_neg_proj.{parameter}"
            _scaled(mapping, source, target, negative_init, scale)
    mapping.new(f"{layer}.negative_scale", None, f"{config.negative_scale_init:g} for every head")


def _scaled(mapping: TensorMap, source: str, target: str, negative_init: NegativeInit, scale: float) -> None:
    """Add a tensor of the negative branch: a multiple of its positive sibling, or random."""
    if negative_init == "random":
        mapping.new(target, None, "random, as in a fresh model")
        return
    tensor = mapping.tensors.get(source)
    name = ".".join(source.split(".")[-2:])
    mapping.new(target, None if tensor is None else tensor * scale, f"{scale:g} x {name}" if scale else "0")


def initial_negative_scale(variant: str, negative_init: NegativeInit, warm_scale: float, given: float) -> float:
    """Initial alpha: as given, but small where both branches read the same values and no value can be made small."""
    if variant != "dna_shared_value" or negative_init == "random":
        return given
    return 0.0 if negative_init == "zero" else warm_scale
