"""DnA models as checkpoints that the authors' code reads.

The layouts are those of [`dna_hf.conversion.authors`] and [`dna_hf.conversion.authors_viscop`].
"""

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ..errors import must_be_file, sentence
from ..models import DnATimesformerConfig, DnAVideoLlama3VisionModel
from .authors import ROWS, TIMESFORMER_NAMES, VARIANTS, Layout, branch_sign
from .authors_viscop import encoder_names
from .errors import ConversionError
from .files import PICKLE_SUFFIXES
from .timm import TIMM_NAMES
from .vit_layout import model_classes


ARCHITECTURES = {"vit": "dna_vit", "timesformer": "dna_timesformer", "viscop": "dna_video_llama3_vision"}


def export_authors_checkpoint(
    model: PreTrainedModel,
    path: str | Path,
    *,
    architecture: str = "vit",
    layout: Literal["packed", "split"] | None = None,
    negative_sign: int | None = None,
) -> None:
    """Write a DnA model as a checkpoint that the authors' code reads.

    [`~dna_hf.conversion.load_authors_checkpoint`] inverts it exactly.

    Args:
        model: a `DnAViTModel`, a `DnATimesformerModel`, or the classifier of one, of variant `dna`,
            `dna_shared_value` or `softmax`; or a `DnAVideoLlama3VisionModel` of variant `dna` or `softmax`.
        path: `.safetensors`, or `.pth`, `.pyth`, ... for a file of `torch.save` with the state dict under `model`. Of
            a TimeSformer in a `.pyth` file, as their program wants it: under `model_state`, every name behind
            `model.`. Of VisCoP: the state dict itself, by its names within the encoder.
        architecture: `"vit"`, `"timesformer"` or `"viscop"`, of which no file says the layers that the modules read.
        layout: `"packed"` (`qqkvv`, `qqkv`) or `"split"` (`qkv`, `q_neg`, `v_neg`); of no effect for softmax, and not
            for VisCoP. By default what the released program has: `"packed"` for `"vit"`, `"split"` for
            `"timesformer"`.
        negative_sign: +1 or -1, the sign before the negative branch in the program that will read the file; by default
            that of the released program for the architecture: -1 for VisCoP, +1 for the others.

    Raises:
        ConversionError: if the authors' model has no place for what this one has, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", *PICKLE_SUFFIXES):
        raise ConversionError(f"{str(path)!r} must end in .safetensors or {', '.join(PICKLE_SUFFIXES)}.")
    must_be_file(path, ConversionError)
    if architecture not in ARCHITECTURES:
        known = ", ".join(map(repr, ARCHITECTURES))
        raise ConversionError(f"export to architecture {architecture!r} is not supported: only {known} are.")
    if architecture == "viscop":
        if layout is not None:
            raise ConversionError("the authors' VisCoP has one layout: leave layout out.")
        tensors = _encoder_tensors(model, branch_sign(architecture, negative_sign))
        _write(path, tensors, tensors)
        return
    if layout is None:
        layout = "packed" if architecture == "vit" else "split"
    if layout not in ("packed", "split"):
        raise ConversionError(f"unknown layout {layout!r}: choose packed or split.")
    sign = branch_sign(architecture, negative_sign)
    _check_exportable(model, architecture)
    variant = model.config.attention_variant
    full_layout: Layout = "softmax"
    if variant != "softmax":
        full_layout = layout if variant == "dna" else f"{layout}_shared"  # type: ignore[assignment]
    tensors = _authors_tensors(model, full_layout, sign)
    wrapped: dict[str, Any] = {"model": tensors}
    if path.suffix == ".pyth" and architecture == "timesformer":
        wrapped = {"model_state": {f"model.{name}": tensor for name, tensor in tensors.items()}}
    _write(path, tensors, wrapped)


def _write(path: Path, tensors: dict[str, torch.Tensor], wrapped: dict[str, Any]) -> None:
    """Write tensors as safetensors, or what a training program wraps around them as `torch.save` does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file(tensors, path)
        else:
            torch.save(wrapped, path)
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"cannot write {str(path)!r}: {sentence(error)}.") from error


def _encoder_tensors(model: PreTrainedModel, sign: int) -> dict[str, torch.Tensor]:
    """The state dict of a vision encoder under the authors' names.

    Raises:
        ConversionError: if the authors' encoder has no place for what this one has.
    """
    if not isinstance(model, DnAVideoLlama3VisionModel):
        raise ConversionError(f"cannot export a {type(model).__name__} as VisCoP: only DnAVideoLlama3VisionModel.")
    config = model.config
    if config.attention_variant not in ("dna", "softmax"):
        raise ConversionError(f"the authors' VisCoP has no {config.attention_variant!r} attention.")
    expected = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "normalize_keys": False}
    wrong = [
        f"{key} is {getattr(config, key)!r}, not {value!r}"
        for key, value in expected.items()
        if getattr(config, key, value) != value
    ]
    if (config.rope_parameters or {}).get("rope_theta") != 10000.0:
        wrong.append(f"rope_parameters is {config.rope_parameters!r}, not those of base 10000")
    if wrong:
        raise ConversionError("the authors' VisCoP cannot hold this model", wrong)
    state = model.state_dict()
    tensors = {}
    for source, target in encoder_names(config).items():
        tensor = state[target].detach().cpu()
        tensors[source] = sign * tensor if target.endswith(".negative_scale") else tensor.contiguous().clone()
    return tensors


def _check_exportable(model: PreTrainedModel, architecture: str) -> None:
    """Refuse what the authors' model has no place for."""
    config: Any = getattr(model, "config", None)
    base, classifier = model_classes(config)
    if not isinstance(model, (base, classifier)) or config.model_type != ARCHITECTURES[architecture]:
        wanted = "DnAViTModel" if architecture == "vit" else "DnATimesformerModel"
        raise ConversionError(f"cannot export a {type(model).__name__}: only {wanted} and its classifier.")
    if config.attention_variant not in VARIANTS.values():
        raise ConversionError(f"the authors' code has no {config.attention_variant!r} attention.")
    expected = {"hidden_act": "gelu", "layer_norm_eps": 1e-6}
    if architecture == "vit":
        expected |= {
            "use_class_token_position": False,
            "use_distillation_token": False,
            "layer_scale_init_value": None,
            "classifier_pooling": "cls",
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
        kind = "ViT" if architecture == "vit" else "TimeSformer"
        raise ConversionError(f"the authors' {kind} cannot hold this model", wrong)


def _authors_tensors(model: PreTrainedModel, layout: Layout, sign: int) -> dict[str, torch.Tensor]:
    """The state dict under the authors' names, in their order of rows."""
    prefix = f"{model.base_model_prefix}."
    state = {name.removeprefix(prefix): tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    config, names = model.config, TIMM_NAMES
    tensors = {}
    if isinstance(config, DnATimesformerConfig):
        names = TIMESFORMER_NAMES.of(config.attention_type)
        if config.attention_type != "space_only":
            tensors[TIMESFORMER_NAMES.time_embeddings] = state["embeddings.time_embeddings"]
    modules = {names.patch_projection: "embeddings.patch_embeddings.projection", names.norm: "layernorm"}
    if "classifier.weight" in state:
        modules["head"] = "classifier"
    tensors[names.cls_token] = state["embeddings.cls_token"]
    tensors[names.position_embeddings] = state["embeddings.position_embeddings"]
    for index in range(config.num_hidden_layers):
        here, there = f"{names.layers}{index}.", f"layers.{index}."
        modules |= {here + name: there + place for name, place in names.layer.items()}
        for name, place in names.attentions.items():
            tensors |= _packed(state, f"{there}{place}.", f"{here}{name}.", layout, sign)
    for name, place in modules.items():
        tensors |= {f"{name}.{parameter}": state[f"{place}.{parameter}"] for parameter in ("weight", "bias")}
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def _packed(
    state: dict[str, torch.Tensor], source: str, target: str, layout: Layout, sign: int
) -> dict[str, torch.Tensor]:
    """The projections of one attention module (prefix `source`) under the authors' names (prefix `target`)."""
    tensors = {}
    for packed, projections in ROWS[layout].items():
        for parameter in ("weight", "bias"):
            if f"{source}k_proj.{parameter}" in state:
                rows = [state[f"{source}{projection}.{parameter}"] for projection in projections]
                tensors[f"{target}{packed}.{parameter}"] = torch.cat(rows)
    if layout != "softmax":
        tensors[f"{target}neg_scalers"] = sign * state[f"{source}negative_scale"]
    return tensors
