"""timm's `VisionTransformer`, and files in its layout (DeiT's and DINO's own releases among them), to DnA.

timm itself is needed only to make a model from its name; a state dict converts without it.
"""

import math
import re
from typing import Any

import torch
from torch import nn

from ..errors import told_as
from ..models import DnAViTConfig, DnAViTForImageClassification, DnAViTModel
from .errors import ConversionError
from .options import Options
from .tensors import TensorMap, shape_problems
from .vit_layout import TransformerMap, ViTNames, count_layers, map_softmax_attention, merge_classifiers


TIMM_NAMES = ViTNames(
    cls_token="cls_token",
    distillation_token="dist_token",
    position_embeddings="pos_embed",
    patch_projection="patch_embed.proj",
    layers="blocks.",
    layer={
        "norm1": "layernorm_before",
        "attn.proj": "attention.o_proj",
        "norm2": "layernorm_after",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    },
    attentions={"attn": "attention"},
    norm="norm",
    scales={"ls1.gamma": "layer_scale_attention.scale", "ls2.gamma": "layer_scale_mlp.scale"},
)

# what tells the sizes of a model: number of dimensions of the tensor
SIZES = {"patch_embed.proj.weight": 4, "pos_embed": 3, "blocks.0.mlp.fc1.weight": 2}
# parts of timm's vision transformers that would change what the model computes, by the tensor that gives them away
UNSUPPORTED = {
    r"fc_norm\.": "pools the mean of its tokens (fc_norm)",
    r"norm_pre\.": "normalises its embeddings (norm_pre)",
    r"reg_token": "has register tokens (reg_token)",
    r"attn_pool\.": "pools with attention (attn_pool)",
    r"blocks\.\d+\.attn\.[qk]_norm\.": "normalises queries and keys (q_norm, k_norm)",
    r"blocks\.\d+\.attn\.norm\.": "normalises the output of its attention (attn.norm)",
    r"blocks\.\d+\.mlp\.(w12|w3|norm|gate|fc1_g)": "has gated or normalised MLPs",
    r"blocks\.\d+\.(attn|mlp)\.\d+\.": "has parallel branches",
}


def is_timm_model(model: Any) -> bool:
    """Whether a model is timm's, without importing timm."""
    return isinstance(model, nn.Module) and type(model).__module__.startswith("timm.")


def create_timm_model(name: str) -> nn.Module | None:
    """A pretrained timm model; `None` if timm is not installed or does not know the name.

    Raises:
        ConversionError: if the weights cannot be had.
    """
    try:
        import timm
    except (ImportError, RuntimeError):  # RuntimeError: a torchvision that does not fit its torch
        return None
    short = name.removeprefix("timm/").removeprefix("hf-hub:timm/")
    if not timm.is_model(short):
        return None
    with told_as(ConversionError, f"timm has no weights for {name!r}"):
        return timm.create_model(short, pretrained=True)


def check_timm_pooling(global_pool: str | None, has_head: bool = True) -> None:
    """Refuse a model that pools otherwise than by its class token.

    Raises:
        ConversionError: for another `global_pool`.
    """
    if global_pool not in (None, "token") and not (global_pool == "" and not has_head):
        raise ConversionError(f"cannot convert a timm model with global_pool={global_pool!r}: only 'token' is known.")


def timm_model_facts(model: nn.Module) -> dict[str, Any]:
    """What the tensors of a timm model do not tell.

    Raises:
        ConversionError: for another model than a plain `VisionTransformer`.
    """
    name = type(model).__name__
    if name not in ("VisionTransformer", "VisionTransformerDistilled"):
        raise ConversionError(f"cannot convert timm's {name}: it is no VisionTransformer.")
    block: Any = model.blocks[0]  # type: ignore[index]
    if type(block).__name__ != "Block":
        raise ConversionError(f"cannot convert a timm model with layers of type {type(block).__name__}.")
    if type(block.attn).__name__ != "Attention":
        raise ConversionError(f"cannot convert a timm model with attention of type {type(block.attn).__name__}.")
    act = block.mlp.act
    check_timm_pooling(getattr(model, "global_pool", "token"), has_head=bool(getattr(model, "num_classes", 0)))
    if not isinstance(act, nn.GELU) or act.approximate != "none":
        raise ConversionError(f"cannot convert a timm model with the activation {act}: only exact GELU is known.")
    if block.attn.scale != block.attn.head_dim**-0.5 or getattr(model, "norm_pre", None).__class__ is nn.LayerNorm:
        raise ConversionError(
            "cannot convert this timm model: it scales attention or normalises embeddings otherwise."
        )
    patch_embed: Any = model.patch_embed
    return {
        "num_attention_heads": block.attn.num_heads,
        "layer_norm_eps": block.norm1.eps,
        "grid": tuple(patch_embed.grid_size),
        "pretrained_cfg": dict(getattr(model, "pretrained_cfg", None) or {}),
    }


def timm_config(
    name: str,
    tensors: dict[str, torch.Tensor],
    options: Options,
    *,
    grid: tuple[int, int] | None = None,
    layer_norm_eps: float = 1e-6,
) -> tuple[DnAViTConfig, tuple[int, int]]:
    """The configuration for a state dict in timm's layout, and the grid of its position table.

    Raises:
        ConversionError: if the tensors are not those of a plain vision transformer, or do not tell its sizes.
    """
    for pattern, what in UNSUPPORTED.items():
        if any(re.match(pattern, key) for key in tensors):
            raise ConversionError(f"cannot convert {name!r}: it {what}, which the DnA ViT does not.")
    dimensions = {"cls_token": 3} | SIZES | ({"head.weight": 2} if "head.weight" in tensors else {})
    if problems := shape_problems(tensors, dimensions):
        raise ConversionError(f"{name!r} is no vision transformer in timm's layout", problems)
    patch, positions, mlp = (tensors[key] for key in SIZES)
    if options.num_attention_heads is None:
        raise ConversionError(f"the tensors of {name!r} do not tell the number of heads: give num_attention_heads.")
    distilled = "dist_token" in tensors
    prefix_tokens = 1 + distilled
    grid, with_prefix = _grid(name, positions.shape[1], prefix_tokens, grid)
    patch_size = (patch.shape[-2], patch.shape[-1])
    config = DnAViTConfig(
        hidden_size=patch.shape[0],
        num_hidden_layers=count_layers(tensors, TIMM_NAMES.layers),
        num_attention_heads=options.num_attention_heads,
        intermediate_size=mlp.shape[0],
        layer_norm_eps=layer_norm_eps,
        num_channels=patch.shape[1],
        patch_size=_one_number(patch_size),
        image_size=options.image_size or _one_number((grid[0] * patch_size[0], grid[1] * patch_size[1])),
        qkv_bias=any(key.endswith("attn.qkv.bias") for key in tensors),
        layer_scale_init_value=1e-5 if "blocks.0.ls1.gamma" in tensors else None,
        use_class_token_position=with_prefix,
        use_distillation_token=distilled,
        classifier_pooling="cls_dist" if distilled and "head_dist.weight" in tensors else "cls",
        num_labels=tensors["head.weight"].shape[0] if "head.weight" in tensors else 2,  # type: ignore[call-arg]
        **options.config_fields(),
    )
    return config, grid


def map_timm(
    name: str,
    tensors: dict[str, torch.Tensor],
    config: DnAViTConfig,
    grid: tuple[int, int],
    options: Options,
) -> tuple[TensorMap, type[DnAViTModel] | type[DnAViTForImageClassification]]:
    """Map every tensor of a state dict in timm's layout; without a head the target is the base model."""
    mapping = TensorMap(name, tensors, options.dtype)
    has_head = any(
        mapping.has(f"{head}.{parameter}") for head in ("head", "head_dist") for parameter in ("weight", "bias")
    )
    target = "dna_vit." if has_head else ""
    map_attention = map_softmax_attention(mapping, config, ("qkv",), options.start)
    TransformerMap(mapping, config, map_attention, target=target).image_model(TIMM_NAMES, grid)
    if mapping.has("mask_token"):
        mapping.drop("mask_token", "used in masked image modeling alone")
    if not has_head:
        return mapping, DnAViTModel
    if config.classifier_pooling == "cls_dist":
        merge_classifiers(mapping, ("head", "head_dist"))
    else:
        mapping.copy_module("head", "classifier")
    return mapping, DnAViTForImageClassification


def _grid(name: str, rows: int, prefix_tokens: int, known: tuple[int, int] | None) -> tuple[tuple[int, int], bool]:
    """The grid of patches of a position table with `rows` rows, and whether the prefix tokens have rows."""
    for prefix_rows in (prefix_tokens, 0):
        side = math.isqrt(max(rows - prefix_rows, 0))
        grid = known or (side, side)
        if grid[0] * grid[1] == rows - prefix_rows and rows > prefix_rows:
            return grid, prefix_rows > 0
    raise ConversionError(
        f"the position table of {name!r} has {rows} rows, no square grid of patches: convert the model itself."
    )


def _one_number(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size
