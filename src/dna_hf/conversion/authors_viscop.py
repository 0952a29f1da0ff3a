"""The vision encoder of the authors' VisCoP: its names, its sizes, and where each tensor goes.

| source | target |
|---|---|
| `encoder.interaction_modules.{i}.out_proj` | `encoder.interaction_modules.{i}.attention.o_proj` |
| `encoder.interaction_modules.{i}.{x}_proj` | `encoder.interaction_modules.{i}.attention.{x}_proj` |
| `encoder.interaction_modules.{i}.neg_scalers` | `encoder.interaction_modules.{i}.attention.negative_scale` |
| all others | the same, which is also that of transformers' VideoLLaMA3 |

A module that has `neg_scalers` is Denoising Attention, one without is plain cross-attention.
"""

from typing import Any

import torch

from ..models import DnAVideoLlama3VisionConfig, DnAVideoLlama3VisionModel
from .authors_check import agreement, evaluate_authors_viscop
from .errors import ConversionError, refused_configuration
from .options import Options
from .report import Conversion, ConversionReport
from .tensors import TensorMap, shape_problems
from .vit_layout import count_layers


# what the programs that have the encoder inside put before its names
PREFIX = "vision_encoder."
LAYERS, MODULES = "encoder.layers.", "encoder.interaction_modules."
LAYER = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    *("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
)
# per attention variant, the projections of a module in the source and in the target
PROJECTIONS = {
    "dna": {name: name for name in ("q_pos_proj", "q_neg_proj", "k_proj", "v_pos_proj", "v_neg_proj")}
    | {"out_proj": "o_proj"},
    "softmax": {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "out_proj": "o_proj"},
}
SIZES = {
    "embeddings.patch_embedding.weight": 4,
    "encoder.visual_probes": 3,
    f"{LAYERS}0.mlp.fc1.weight": 2,
}
# how alpha is copied from a program that subtracts the branch
NEGATED: Any = (torch.neg, "copied", "negated: the source subtracts the branch")
# of the comparison: transformers computes rotary embeddings in float32
SELF_CHECK_TOLERANCE = 1e-4
CHECKED_GRID = (2, 4, 6)


def convert_vision_encoder(name: str, tensors: dict[str, torch.Tensor], sign: int, options: Options) -> Conversion:
    """Convert the tensors of a vision encoder alone; see [`~dna_hf.conversion.convert_authors_checkpoint`].

    Raises:
        ConversionError: for tensors that are not those of a vision encoder with probes.
    """
    tensors = vision_encoder_tensors(name, tensors)
    with refused_configuration(name):
        config = vision_encoder_config(name, tensors, options)
    mapping = map_vision_encoder(name, tensors, config, sign)
    model = mapping.build(DnAVideoLlama3VisionModel, config)
    report = ConversionReport(name, "authors-viscop", mapping.records)
    report.notes += branch_notes(config.attention_variant, sign, options)
    report.max_difference = self_check(model, tensors, sign)
    report.compared = "the model and a plain evaluation of the source tensors, in float64"
    return Conversion(model, report)


def branch_notes(variant: str, sign: int, options: Options) -> list[str]:
    """What to say about the sign before the negative branch of a source of the authors'."""
    if variant != "softmax":
        return [f"the negative branch of the source is {'added' if sign == 1 else 'subtracted'}"]
    if options.negative_sign is not None:
        return ["negative_sign: of no effect, as the source has softmax attention"]
    return []


def vision_encoder_tensors(name: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors by their names within the encoder.

    Raises:
        ConversionError: if there are others than the encoder's beside them.
    """
    tensors = {key.removeprefix("model."): tensor for key, tensor in tensors.items()}
    while tensors and all(key.startswith(PREFIX) for key in tensors):
        tensors = {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}
    if others := [key for key in tensors if any(other.startswith(PREFIX) for other in tensors) and PREFIX not in key]:
        raise ConversionError(f"{name!r} has {others[0]!r} beside a vision encoder, but no language model.")
    return tensors


def vision_encoder_config(name: str, tensors: dict[str, torch.Tensor], options: Options) -> DnAVideoLlama3VisionConfig:
    """Sizes, read from the tensors.

    Raises:
        ConversionError: if they are no vision encoder with probes, or do not tell the heads or the layers read from.
    """
    num_attention_heads = options.num_attention_heads
    variant = "dna" if any(key.startswith(MODULES) and key.endswith(".neg_scalers") for key in tensors) else "softmax"
    scales = {} if variant == "softmax" else {f"{MODULES}0.neg_scalers": 1}
    if problems := shape_problems(tensors, SIZES | scales):
        raise ConversionError(f"{name!r} is no vision encoder of the authors' VisCoP", problems)
    patch, probes, mlp = (tensors[key] for key in SIZES)
    if patch.shape[2] != patch.shape[3]:
        raise ConversionError(f"'embeddings.patch_embedding.weight' of {name!r} has patches that are not square.")
    if variant == "dna":
        heads = len(tensors[f"{MODULES}0.neg_scalers"])
        if num_attention_heads not in (None, heads):
            raise ConversionError(
                f"{name!r} has {heads} scales of the negative branch per module, but num_attention_heads is "
                f"{num_attention_heads}."
            )
        num_attention_heads = heads
    if num_attention_heads is None:
        raise ConversionError(f"the tensors of {name!r} do not tell the number of heads: give num_attention_heads.")
    layers, modules = count_layers(tensors, LAYERS), count_layers(tensors, MODULES)
    given = options.interaction_layers
    read = list(range(layers)) if given is None else list(given)
    if len(read) != modules:
        raise ConversionError(
            f"{name!r} has {modules} interaction modules on {layers} layers: give interaction_layers, the {modules} "
            "layers that they read."
        )
    return DnAVideoLlama3VisionConfig(
        hidden_size=patch.shape[0],
        intermediate_size=mlp.shape[0],
        num_hidden_layers=layers,
        num_attention_heads=num_attention_heads,
        num_channels=patch.shape[1],
        patch_size=patch.shape[2],
        num_probes=probes.shape[1],
        interaction_layers=None if given is None else read,
        attention_variant=variant,  # type: ignore[arg-type]
    )


def encoder_names(config: DnAVideoLlama3VisionConfig) -> dict[str, str]:
    """For every tensor, its name in the source and its name in the target."""
    modules = ["embeddings.patch_embedding", "post_layernorm"]
    modules += [f"{LAYERS}{index}.{module}" for index in range(config.num_hidden_layers) for module in LAYER]
    places = {module: module for module in modules}
    names = {"encoder.visual_probes": "encoder.visual_probes"}
    for index in range(len(config.interaction_layer_ids)):
        here, there = f"{MODULES}{index}", f"{MODULES}{index}.attention"
        for source, target in PROJECTIONS[config.attention_variant].items():
            places[f"{here}.{source}"] = f"{there}.{target}"
        if config.attention_variant == "dna":
            names[f"{here}.neg_scalers"] = f"{there}.negative_scale"
    for source, target in places.items():
        names |= {f"{source}.{parameter}": f"{target}.{parameter}" for parameter in ("weight", "bias")}
    return names


def map_vision_encoder(
    name: str, tensors: dict[str, torch.Tensor], config: DnAVideoLlama3VisionConfig, sign: int
) -> TensorMap:
    """Where every tensor goes; `sign` is the one before the negative branch in the source."""
    mapping = TensorMap(name, tensors)
    for source, target in encoder_names(config).items():
        negated = sign == -1 and target.endswith(".negative_scale")
        mapping.copy(source, target, *NEGATED if negated else ())
    return mapping


@torch.no_grad()
def self_check(model: Any, tensors: dict[str, torch.Tensor], sign: int) -> float:
    """Largest difference between the model and the tensors it was made from, on one random visual, in float64."""
    config, dtype = model.config, model.dtype
    frames, rows, columns = CHECKED_GRID
    shape = (frames * rows * columns, config.num_channels * config.patch_size**2)
    pixel_values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features, probes = evaluate_authors_viscop(
        tensors, pixel_values, CHECKED_GRID, config.num_attention_heads, config.interaction_layer_ids, sign
    )
    rotary = type(model.rotary_pos_emb)
    try:
        # its frequencies have been rounded to the dtype of the weights
        model.rotary_pos_emb = rotary(config)
        output = model.double()(pixel_values, torch.tensor([CHECKED_GRID]), torch.tensor([2]))
    finally:
        model.to(dtype)  # type: ignore[arg-type]
        model.rotary_pos_emb = rotary(config)
    return max(
        agreement(output.last_hidden_state, features, SELF_CHECK_TOLERANCE),
        agreement(output.probe_hidden_states, probes, SELF_CHECK_TOLERANCE),
    )
