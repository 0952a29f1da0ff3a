"""From softmax attention to the attention variants: which tensor goes where, and what is new."""

from typing import Any, Literal, NamedTuple

from .tensors import TensorMap


NegativeInit = Literal["warm", "zero", "random"]

# where the query and the value of softmax attention go; the key and the output projection keep their names
QUERY_NAMES = {"dna": "q_pos_proj", "dna_shared_value": "q_pos_proj"}
VALUE_NAMES = {"dna": "v_pos_proj"}


def projection_names(variant: str) -> tuple[str, str, str]:
    """Names of the modules that take the query, key and value of softmax attention."""
    return QUERY_NAMES.get(variant, "q_proj"), "k_proj", VALUE_NAMES.get(variant, "v_proj")


class NegativeStart(NamedTuple):
    """How a negative branch begins that the source lacks; see [`~dna_hf.conversion.Options`].

    Args:
        negative_init: `"warm"`, `"zero"` or `"random"`.
        warm_scale: factor of the negative branch, where it begins as a multiple of the positive one.
        negative_scale_init: initial alpha of every head.
    """

    negative_init: NegativeInit = "warm"
    warm_scale: float = 1e-4
    negative_scale_init: float = 0.5

    def is_exact_for(self, variant: str) -> bool:
        """Whether a model of a variant begins by computing exactly what softmax attention computes."""
        return self.negative_init == "zero" and variant in QUERY_NAMES

    def scale_for(self, variant: str) -> float:
        """Initial alpha: as asked for, but small where both branches read the same values, none of which is small."""
        if variant != "dna_shared_value" or self.negative_init == "random":
            return self.negative_scale_init
        return 0.0 if self.negative_init == "zero" else self.warm_scale

    def idle(self, name: str, variant: str) -> str:
        """Why another value of a field would make no difference to a model of a variant; empty if it would."""
        if variant not in QUERY_NAMES:
            return f"{variant} attention begins without it"
        if name == "warm_scale" and self.negative_init == "random":
            return "negative_init is 'random'"
        if name == "negative_scale_init" and variant == "dna_shared_value" and self.negative_init != "random":
            return f"{variant} begins with alpha of negative_init {self.negative_init!r}"
        return ""


def add_new_tensors(mapping: TensorMap, config: Any, layer: str, start: NegativeStart) -> None:
    """Add what the attention of one layer has beyond softmax attention.

    Args:
        mapping: map of tensors that has the positive branch already.
        config: configuration of the target; gives `attention_variant`, `qkv_bias` and `negative_scale_init`.
        layer: name of the attention module in the target.
        start: how the negative branch begins.
    """
    variant = config.attention_variant
    if variant == "differential":
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2", "head_norm.weight"):
            mapping.new(f"{layer}.{name}", None, "as in a fresh model")
    if variant not in QUERY_NAMES:
        return
    parameters = ("weight", "bias") if config.qkv_bias else ("weight",)
    for parameter in parameters:
        scales = {"q": start.warm_scale}
        if variant == "dna":
            scales["v"] = 0.0 if start.negative_init == "zero" else start.warm_scale
        for name, scale in scales.items():
            source, target = f"{layer}.{name}_pos_proj.{parameter}", f"{layer}.{name}_neg_proj.{parameter}"
            _scaled(mapping, source, target, start.negative_init, scale)
    mapping.new(f"{layer}.negative_scale", None, f"{config.negative_scale_init:g} for every head")


def _scaled(mapping: TensorMap, source: str, target: str, negative_init: NegativeInit, scale: float) -> None:
    """Add a tensor of the negative branch: a multiple of its positive sibling, or random."""
    if negative_init == "random":
        mapping.new(target, None, "random, as in a fresh model")
        return
    tensor = mapping.tensors.get(source)
    name = ".".join(source.split(".")[-2:])
    mapping.new(target, None if tensor is None else tensor * scale, f"{scale:g} x {name}" if scale else "0")
