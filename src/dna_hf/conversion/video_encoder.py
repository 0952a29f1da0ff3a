"""The vision encoder of VideoLLaMA3 to DnA: it keeps every tensor, and gets probes that read its layers.

| what is new | how it begins |
|---|---|
| the probes | normal, standard deviation `initializer_range` |
| module `i`, which reads layer `interaction_layer_ids[i]` | `q+`, `k`, `v+`, `o` of that layer's own attention |
| its negative branch | as `negative_init` says; alpha `negative_scale_init` |

The authors' VisCoP begins with the same tensors and subtracts the branch: that is alpha -0.5 here, where it is added.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models import DnAVideoLlama3VisionConfig, DnAVideoLlama3VisionModel
from .attention import add_new_tensors, projection_names
from .errors import ConversionError
from .options import Options
from .report import Conversion, ConversionReport
from .tensors import EXACT_TOLERANCE, TensorMap, shape_problems
from .video_llm_names import MODULES, PROBES
from .vit_layout import count_layers


CONFIG_FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "patch_size"),
    *("hidden_act", "layer_norm_eps", "attention_dropout", "initializer_range", "rope_parameters"),
)
# the visual that two encoders are compared on: frames, rows and columns of patches, and its merge size
COMPARED_GRID, COMPARED_MERGE = (2, 4, 6), 2
LAYERS = "encoder.layers."
# what tells the sizes of an encoder: number of dimensions of the tensor
SIZED = {"embeddings.patch_embedding.weight": 4, f"{LAYERS}0.mlp.fc1.weight": 2}


def convert_video_encoder(source: PreTrainedModel, options: Options) -> Conversion:
    """Convert the vision encoder alone; see [`~dna_hf.conversion.from_pretrained_softmax`].

    Raises:
        ConversionError: for tensors that are not those of the encoder, or if the result computes something else.
    """
    name = source.name_or_path or type(source).__name__
    config = encoder_config(source.config, options)
    mapping = TensorMap(name, source.state_dict(), options.dtype, copy=True)
    for key in mapping.source:
        mapping.copy(key, key)
    start_interactions(mapping, config, options, options.dtype or source.dtype)
    model = mapping.build_large(DnAVideoLlama3VisionModel, config)
    report = ConversionReport(name, source.config.model_type, mapping.records)
    report.max_difference = encoder_difference(source, model)
    report.compared = "features of the source and of the model, in float32"
    return Conversion(model, report)


def encoder_config(native: Any, options: Options) -> DnAVideoLlama3VisionConfig:
    """The configuration of an encoder with the source's sizes, and with probes."""
    fields = {name: copy.deepcopy(getattr(native, name)) for name in CONFIG_FIELDS}
    return DnAVideoLlama3VisionConfig(**fields | options.probes | options.config_fields())


def encoder_sizes(
    name: str, tensors: dict[str, torch.Tensor], num_attention_heads: int | None, stated: dict[str, Any]
) -> dict[str, Any]:
    """Fields of the configuration of an encoder, from its tensors and from what a `config.json` states of it.

    Raises:
        ConversionError: if they are no vision encoder, contradict each other, or do not tell the heads.
    """
    if problems := shape_problems(tensors, SIZED):
        raise ConversionError(f"{name!r} has no vision encoder of VideoLLaMA3", problems)
    patch, mlp = (tensors[key] for key in SIZED)
    if patch.shape[2] != patch.shape[3]:
        raise ConversionError(f"'embeddings.patch_embedding.weight' of {name!r} has patches that are not square.")
    sizes = {
        "hidden_size": patch.shape[0],
        "intermediate_size": mlp.shape[0],
        "num_hidden_layers": count_layers(tensors, LAYERS),
        "num_channels": patch.shape[1],
        "patch_size": patch.shape[2],
    }
    for field, size in sizes.items():
        if stated.get(field, size) != size:
            raise ConversionError(f"{name!r} states {field} {stated[field]!r}, but its tensors have {size}.")
    heads = stated.get("num_attention_heads")
    if heads is not None and num_attention_heads not in (None, heads):
        raise ConversionError(f"{name!r} states {heads} heads, but num_attention_heads is {num_attention_heads}.")
    if heads is None and num_attention_heads is None:
        raise ConversionError(
            f"the tensors of {name!r} do not tell the number of heads of its vision encoder: give num_attention_heads."
        )
    more = {field: stated[field] for field in ("hidden_act", "layer_norm_eps", "attention_dropout") if field in stated}
    return sizes | more | {"num_attention_heads": num_attention_heads if heads is None else heads}


def start_interactions(
    mapping: TensorMap, config: DnAVideoLlama3VisionConfig, options: Options, dtype: torch.dtype, prefix: str = ""
) -> None:
    """Add the probes, and modules that begin as the attention of the layers that they read.

    Args:
        mapping: map of tensors that has the encoder already.
        config: configuration of the encoder.
        options: request that says how the negative branch begins.
        dtype: type of the probes.
        prefix: prefix of the encoder in the target.
    """
    # drawn here, and first: one seed gives the same probes to every variant
    probes = torch.normal(0.0, config.initializer_range, (1, config.num_probes, config.hidden_size)).to(dtype)
    mapping.new(f"{prefix}{PROBES}", probes, f"normal, mean 0, standard deviation {config.initializer_range:g}")
    places = (*projection_names(config.attention_variant), "o_proj")
    for index, layer in enumerate(config.interaction_layer_ids):
        here, there = f"{prefix}encoder.layers.{layer}.self_attn", f"{prefix}{MODULES}{index}.attention"
        for projection, place in zip(("q_proj", "k_proj", "v_proj", "out_proj"), places, strict=True):
            for parameter in ("weight", "bias"):
                _start_as(mapping, f"{there}.{place}.{parameter}", f"{here}.{projection}.{parameter}")
        add_new_tensors(mapping, config, there, options.start)
        for parameter in ("weight", "bias") if config.normalize_keys else ():
            norm = f"{prefix}encoder.layers.{layer}.layer_norm1.{parameter}"
            _start_as(mapping, f"{prefix}{MODULES}{index}.norm.{parameter}", norm)


def _start_as(mapping: TensorMap, target: str, source: str) -> None:
    """Add a tensor that begins as another one of the target."""
    tensor = mapping.tensors.get(source)
    mapping.new(target, None if tensor is None else tensor.clone(), f"copy of {source}")


@torch.no_grad()
def encoder_difference(source: nn.Module, model: PreTrainedModel) -> float:
    """Largest difference between the features of two encoders, on one random visual, in float32.

    Raises:
        ConversionError: if they differ by more than rounding.
    """
    inputs = random_visual(model.config)
    # copies: the caller's model keeps its mode, dtype and device
    expected, found = (
        copy.deepcopy(encoder).cpu().float().eval()(**inputs).last_hidden_state for encoder in (source, model)
    )
    difference = (found - expected).abs().max().item()
    if not difference <= EXACT_TOLERANCE[torch.finfo(model.dtype).bits >= 32] * max(1.0, expected.abs().max().item()):
        raise ConversionError(
            f"the features of the converted encoder differ by {difference:.1e} from the source's: it has something "
            "that this conversion does not know; please report it."
        )
    return difference


def random_visual(config: Any) -> dict[str, torch.Tensor]:
    """The same normally distributed visual for every encoder of a patch size, as arguments of `forward`."""
    frames, rows, columns = COMPARED_GRID
    shape = (frames * rows * columns, config.num_channels * config.patch_size**2)
    return {
        "pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(0)),
        "grid_thw": torch.tensor([COMPARED_GRID]),
        "merge_sizes": torch.tensor([COMPARED_MERGE]),
    }
