"""Checkpoints of the authors' code, in every layout of its attention, and back.

| layout | per layer, under `blocks.{i}.attn.` | order along the first dimension |
|---|---|---|
| `packed` | `qqkvv`, `neg_scalers` | q+, q-, k, v+, v- |
| `split` | `qkv`, `q_neg`, `v_neg`, `neg_scalers` | of `qkv`: q+, k, v+ |
| `packed_shared` | `qqkv`, `neg_scalers` | q+, q-, k, v |
| `split_shared` | `qkv`, `q_neg`, `neg_scalers` | of `qkv`: q+, k, v |
| `softmax` | `qkv` | q, k, v |

The sign before the negative branch differs between the authors' programs, and no file records it. A DnA model always
adds the branch, as the paper does; for a program that subtracts it, alpha is negated.
"""

import math
import re
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from ..comparison import random_image
from ..models import DnAViTConfig, DnAViTForImageClassification, DnAViTModel
from .authors_check import evaluate_authors_vit
from .errors import ConversionError
from .files import PICKLE_SUFFIXES, read_tensors
from .report import Conversion, ConversionReport
from .tensors import TensorMap
from .timm import TIMM_NAMES
from .vit_layout import count_layers, map_base_model


Layout = Literal["packed", "split", "packed_shared", "split_shared", "softmax"]

# the sign that the authors' program for each architecture puts before the negative branch
NEGATIVE_SIGNS = {"vit": 1, "timesformer": 1, "viscop": -1}
VARIANTS: dict[Layout, str] = {
    "packed": "dna",
    "split": "dna",
    "packed_shared": "dna_shared_value",
    "split_shared": "dna_shared_value",
    "softmax": "softmax",
}
# per layout, the packed tensors and the projections that their rows hold, in order
ROWS: dict[Layout, dict[str, tuple[str, ...]]] = {
    "packed": {"qqkvv": ("q_pos_proj", "q_neg_proj", "k_proj", "v_pos_proj", "v_neg_proj")},
    "split": {
        "qkv": ("q_pos_proj", "k_proj", "v_pos_proj"),
        "q_neg": ("q_neg_proj",),
        "v_neg": ("v_neg_proj",),
    },
    "packed_shared": {"qqkv": ("q_pos_proj", "q_neg_proj", "k_proj", "v_proj")},
    "split_shared": {"qkv": ("q_pos_proj", "k_proj", "v_proj"), "q_neg": ("q_neg_proj",)},
    "softmax": {"qkv": ("q_proj", "k_proj", "v_proj")},
}
SELF_CHECK_TOLERANCE = 1e-8


def load_authors_checkpoint(
    path: str | Path,
    *,
    architecture: str,
    negative_sign: int | None = None,
    num_attention_heads: int | None = None,
) -> PreTrainedModel:
    """Load a checkpoint of the authors' code as a DnA model; see [`convert_authors_checkpoint`]."""
    return convert_authors_checkpoint(
        path, architecture=architecture, negative_sign=negative_sign, num_attention_heads=num_attention_heads
    ).model


def convert_authors_checkpoint(
    path: str | Path,
    *,
    architecture: str,
    negative_sign: int | None = None,
    num_attention_heads: int | None = None,
) -> Conversion:
    """Convert a checkpoint of the authors' code, and check the result.

    The model computes what the tensors mean: one random image goes through it and, in float64, through a plain
    evaluation of the source tensors, and the two must agree.

    Args:
        path: `.pth`, `.pyth`, `.pt`, `.bin` or `.safetensors` file: a state dict, or a training checkpoint that has
            one under `model`, `state_dict` or `model_state`. Nothing in it is run. The layouts are those of the table
            in [`dna_hf.conversion.authors`].
        architecture: `"vit"`.
        negative_sign: +1 or -1, the sign before the negative branch in the program that wrote the file. By default
            that of the released program for the architecture: +1 for `"vit"`. The released stand-alone modules (packed
            and shared-value), which no released script uses, subtract.
        num_attention_heads: needed where the tensors do not tell it, i.e. for a softmax baseline.

    Returns:
        The model (`DnAViTForImageClassification`, or `DnAViTModel` for a file without a head) in the dtype of the
        file, and a report.

    Raises:
        ConversionError: for an architecture that is not supported yet, a damaged or unsafe file, or tensors that are
            missing, unexpected, misshaped or not finite; all of them are listed in `problems`.
    """
    if architecture not in NEGATIVE_SIGNS:
        raise ConversionError(f"unknown architecture {architecture!r}: known are {', '.join(NEGATIVE_SIGNS)}.")
    if architecture != "vit":
        raise ConversionError(f"checkpoints of architecture {architecture!r} are not supported yet: only 'vit' is.")
    sign = NEGATIVE_SIGNS[architecture] if negative_sign is None else negative_sign
    if sign not in (1, -1):
        raise ConversionError(f"negative_sign must be +1 or -1, got {negative_sign!r}.")
    tensors, notes = read_tensors(path)
    layout = attention_layout(str(path), tensors)
    config = _config(str(path), tensors, layout, num_attention_heads)
    mapping, model_class = _map(str(path), tensors, config, layout, sign)
    model = mapping.build(model_class, config)
    if layout != "softmax":
        notes.append(f"the negative branch of the source is {'added' if sign == 1 else 'subtracted'}")
    report = ConversionReport(
        str(path), "authors-vit", mapping.records, notes, image_processor=_image_processor(config)
    )
    report.max_difference = _self_check(model, tensors, sign)
    report.compared = "the model and a plain evaluation of the source tensors, in float64"
    return Conversion(model, report)


def export_authors_checkpoint(
    model: PreTrainedModel,
    path: str | Path,
    *,
    architecture: str = "vit",
    layout: Literal["packed", "split"] = "packed",
    negative_sign: int | None = None,
) -> None:
    """Write a DnA model as a checkpoint that the authors' code reads; [`load_authors_checkpoint`] inverts it exactly.

    Args:
        model: a `DnAViTModel` or `DnAViTForImageClassification` of variant `dna`, `dna_shared_value` or `softmax`.
        path: `.safetensors`, or `.pth`, `.pyth`, ... for a file of `torch.save` with the state dict under `model`.
        architecture: `"vit"`.
        layout: `"packed"` (`qqkvv`, `qqkv`) or `"split"` (`qkv`, `q_neg`, `v_neg`); of no effect for softmax.
        negative_sign: as for [`convert_authors_checkpoint`].

    Raises:
        ConversionError: if the authors' ViT has no place for what the model has.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", *PICKLE_SUFFIXES):
        raise ConversionError(f"{str(path)!r} must end in .safetensors or {', '.join(PICKLE_SUFFIXES)}.")
    if architecture != "vit":
        raise ConversionError(f"export to architecture {architecture!r} is not supported: only 'vit' is.")
    if layout not in ("packed", "split"):
        raise ConversionError(f"unknown layout {layout!r}: choose packed or split.")
    sign = NEGATIVE_SIGNS[architecture] if negative_sign is None else negative_sign
    if sign not in (1, -1):
        raise ConversionError(f"negative_sign must be +1 or -1, got {negative_sign!r}.")
    _check_exportable(model)
    config = model.config
    full_layout: Layout = "softmax"
    if config.attention_variant != "softmax":
        full_layout = layout if config.attention_variant == "dna" else f"{layout}_shared"  # type: ignore[assignment]
    tensors = _authors_tensors(model, full_layout, sign)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"model": tensors}, path)


def is_authors_state_dict(tensors: dict[str, torch.Tensor]) -> bool:
    """Whether tensors have names that only the authors' code gives."""
    return any(re.match(r"blocks\.\d+\.attn\.(qqkvv|qqkv|q_neg|v_neg|neg_scalers)", name) for name in tensors)


def attention_layout(name: str, tensors: dict[str, torch.Tensor]) -> Layout:
    """Which layout the attention of a state dict has; strangers are found later, by name.

    Raises:
        ConversionError: if there is no attention, or one that no model of the authors' has.
    """
    found = {
        match[1] for key in tensors if (match := re.fullmatch(r"blocks\.\d+\.attn\.(\w+)(\.weight|\.bias)?", key))
    }
    if "qv" in found:
        raise ConversionError(
            f"{name!r} has half-width projections (attn.qv): the authors' loader knows them, but none of their models "
            "does, so what they compute is not defined."
        )
    if "qqkvv" in found:
        return "packed"
    if "qqkv" in found:
        return "packed_shared"
    if "v_neg" in found or ("neg_scalers" in found and "q_neg" not in found):
        return "split"
    if "q_neg" in found:
        return "split_shared"
    if "qkv" in found:
        return "softmax"
    raise ConversionError(f"{name!r} is no ViT of the authors' code: it has no blocks.0.attn.qqkvv, qqkv or qkv.")


def _config(
    name: str, tensors: dict[str, torch.Tensor], layout: Layout, num_attention_heads: int | None
) -> DnAViTConfig:
    """Sizes, read from the tensors."""
    patch, positions = tensors.get("patch_embed.proj.weight"), tensors.get("pos_embed")
    mlp, scales = tensors.get("blocks.0.mlp.fc1.weight"), tensors.get("blocks.0.attn.neg_scalers")
    problems = []
    for key, tensor, dim in (
        ("patch_embed.proj.weight", patch, 4),
        ("pos_embed", positions, 3),
        ("blocks.0.mlp.fc1.weight", mlp, 2),
        *([("blocks.0.attn.neg_scalers", scales, 1)] if layout != "softmax" else []),
        *([("head.weight", tensors["head.weight"], 2)] if "head.weight" in tensors else []),
    ):
        if tensor is None:
            problems.append(f"{key!r} is missing")
        elif tensor.dim() != dim or not tensor.numel():
            problems.append(f"{key!r} has shape {tuple(tensor.shape)}")
    if problems or patch is None or positions is None or mlp is None:
        raise ConversionError(f"{name!r} is no ViT of the authors' code", problems)
    if scales is not None:
        if num_attention_heads not in (None, len(scales)):
            raise ConversionError(
                f"{name!r} has {len(scales)} scales of the negative branch per layer, but num_attention_heads is "
                f"{num_attention_heads}."
            )
        num_attention_heads = len(scales)
    if num_attention_heads is None:
        raise ConversionError(f"the tensors of {name!r} do not tell the number of heads: give num_attention_heads.")
    width, rows = patch.shape[0], positions.shape[1]
    side = math.isqrt(rows)
    if side * side != rows or side == 0:
        raise ConversionError(
            f"'pos_embed' of {name!r} has {rows} rows, which is no square grid of patches; the authors' ViT has no "
            "row for its class token."
        )
    if num_attention_heads < 1 or width % num_attention_heads:
        source = "of 'blocks.0.attn.neg_scalers' " if scales is not None else ""
        raise ConversionError(
            f"the {num_attention_heads} heads {source}in {name!r} do not divide the width {width} of "
            "'patch_embed.proj.weight'."
        )
    if patch.shape[2] != patch.shape[3]:
        raise ConversionError(f"'patch_embed.proj.weight' of {name!r} has patches that are not square.")
    head = tensors.get("head.weight")
    return DnAViTConfig(
        attention_variant=VARIANTS[layout],  # type: ignore[arg-type]
        hidden_size=width,
        num_hidden_layers=count_layers(tensors, TIMM_NAMES.layers),
        num_attention_heads=num_attention_heads,
        intermediate_size=mlp.shape[0],
        image_size=side * patch.shape[2],
        patch_size=patch.shape[2],
        num_channels=patch.shape[1],
        qkv_bias=any(re.fullmatch(r"blocks\.\d+\.attn\.(qqkvv|qqkv|qkv)\.bias", key) for key in tensors),
        num_labels=head.shape[0] if head is not None and head.dim() == 2 else 2,  # type: ignore[call-arg]
    )


def _map(
    name: str, tensors: dict[str, torch.Tensor], config: DnAViTConfig, layout: Layout, sign: int
) -> tuple[TensorMap, type[DnAViTModel] | type[DnAViTForImageClassification]]:
    mapping = TensorMap(name, tensors)
    has_head = "head.weight" in tensors or "head.bias" in tensors
    parameters = ("weight", "bias") if config.qkv_bias else ("weight",)

    def map_attention(here: str, there: str) -> None:
        for packed, projections in ROWS[layout].items():
            for parameter in parameters:
                targets = [f"{there}.{projection}.{parameter}" for projection in projections]
                source = f"{here}attn.{packed}.{parameter}"
                if len(targets) == 1:
                    mapping.copy(source, targets[0])
                else:
                    mapping.split(source, targets, config.hidden_size)
        if layout != "softmax":
            change, reason = (None, "") if sign == 1 else (torch.neg, "negated: the source subtracts the branch")
            mapping.copy(f"{here}attn.neg_scalers", f"{there}.negative_scale", change, reason=reason)

    target = "dna_vit." if has_head else ""
    map_base_model(mapping, TIMM_NAMES, config, config.grid_size, map_attention, target=target)
    if not has_head:
        return mapping, DnAViTModel
    mapping.copy_module("head", "classifier")
    return mapping, DnAViTForImageClassification


@torch.no_grad()
def _self_check(model: PreTrainedModel, tensors: dict[str, torch.Tensor], sign: int) -> float:
    """Largest difference between the model and the tensors it was made from, on one random image, in float64."""
    config = model.config
    dtype = model.dtype
    pixel_values = random_image(config, torch.float64)
    expected = evaluate_authors_vit(tensors, pixel_values, config.num_attention_heads, sign)
    try:
        output = model.double()(pixel_values)
    finally:
        model.to(dtype)  # type: ignore[arg-type]
    found = output.logits if "head.weight" in tensors else output.pooler_output
    difference = (found - expected).abs().max().item()
    if not difference <= SELF_CHECK_TOLERANCE * max(1.0, expected.abs().max().item()):
        raise ConversionError(
            f"the converted model differs by {difference:.1e} from the tensors it was made from: this is a defect of "
            "dna-hf, please report it with the names and shapes of your tensors."
        )
    return difference


def _check_exportable(model: PreTrainedModel) -> None:
    """Refuse what the authors' ViT has no place for."""
    if not isinstance(model, (DnAViTModel, DnAViTForImageClassification)):
        raise ConversionError(f"cannot export a {type(model).__name__}: only DnAViTModel and its classifier.")
    config = model.config
    if config.attention_variant not in VARIANTS.values():
        raise ConversionError(f"the authors' code has no {config.attention_variant!r} attention.")
    expected = {
        "use_class_token_position": False,
        "use_distillation_token": False,
        "layer_scale_init_value": None,
        "classifier_pooling": "cls",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }
    wrong = [
        f"{key} is {getattr(config, key)!r}, not {value!r}"
        for key, value in expected.items()
        if getattr(config, key) != value
    ]
    if "embeddings.mask_token" in model.state_dict():
        wrong.append("it has a mask token")
    if config.grid_size[0] != config.grid_size[1]:
        wrong.append("its images are not square")
    if not isinstance(config.patch_size, int) and config.patch_size[0] != config.patch_size[1]:
        wrong.append("its patches are not square")
    if wrong:
        raise ConversionError("the authors' ViT cannot hold this model", wrong)


def _authors_tensors(model: PreTrainedModel, layout: Layout, sign: int) -> dict[str, torch.Tensor]:
    """The state dict under the authors' names, in their order of rows."""
    state = {name.removeprefix("dna_vit."): tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    modules = {TIMM_NAMES.patch_projection: "embeddings.patch_embeddings.projection", TIMM_NAMES.norm: "layernorm"}
    if "classifier.weight" in state:
        modules["head"] = "classifier"
    tensors = {
        TIMM_NAMES.cls_token: state["embeddings.cls_token"],
        TIMM_NAMES.position_embeddings: state["embeddings.position_embeddings"],
    }
    for index in range(model.config.num_hidden_layers):
        here, there = f"{TIMM_NAMES.layers}{index}.", f"layers.{index}."
        modules |= {here + name: there + place for name, place in TIMM_NAMES.layer.items()}
        attention = f"{there}attention."
        for packed, projections in ROWS[layout].items():
            for parameter in ("weight", "bias") if model.config.qkv_bias else ("weight",):
                rows = [state[f"{attention}{projection}.{parameter}"] for projection in projections]
                tensors[f"{here}attn.{packed}.{parameter}"] = torch.cat(rows)
        if layout != "softmax":
            scale = state[f"{attention}negative_scale"]
            tensors[f"{here}attn.neg_scalers"] = scale if sign == 1 else -scale
    for name, place in modules.items():
        tensors |= {f"{name}.{parameter}": state[f"{place}.{parameter}"] for parameter in ("weight", "bias")}
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def _image_processor(config: DnAViTConfig) -> BitImageProcessorPil:
    """The authors' evaluation: resize the short side to size / 0.875, centre crop, ImageNet statistics."""
    size: Any = config.image_size
    return BitImageProcessorPil(
        size={"shortest_edge": int(size / 0.875)},
        crop_size={"height": size, "width": size},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    )
