"""transformers' ViT, DeiT, DINOv2 and TimeSformer to DnA."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from transformers import PreTrainedModel

from ..models import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnATimesformerModel,
    DnATimesformerPreTrainedModel,
    DnAViTBackbone,
    DnAViTConfig,
    DnAViTForImageClassification,
    DnAViTForMaskedImageModeling,
    DnAViTModel,
    DnAViTPreTrainedModel,
)
from .errors import ConversionError
from .options import Options
from .tensors import TensorMap
from .vit_layout import TransformerMap, VideoNames, ViTNames, map_softmax_attention, merge_classifiers


_LAYER = {"attention.o_proj": "attention.o_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_ATTENTIONS = {"attention": "attention"}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_EMBEDDINGS: Any = {
    "cls_token": "embeddings.cls_token",
    "distillation_token": "embeddings.distillation_token",
    "position_embeddings": "embeddings.position_embeddings",
    "patch_projection": "embeddings.patch_embeddings.projection",
}
VIT_NAMES = ViTNames(
    **_EMBEDDINGS,
    layers="layers.",
    layer=_LAYER | {"layernorm_before": "layernorm_before", "layernorm_after": "layernorm_after"},
    attentions=_ATTENTIONS,
)
DINOV2_NAMES = ViTNames(
    **_EMBEDDINGS,
    layers="encoder.layer.",
    layer=_LAYER | {"norm1": "layernorm_before", "norm2": "layernorm_after"},
    attentions=_ATTENTIONS,
    scales={"layer_scale1.lambda1": "layer_scale_attention.scale", "layer_scale2.lambda1": "layer_scale_mlp.scale"},
)

TIMESFORMER_NAMES = VideoNames(
    ViTNames(
        **_EMBEDDINGS,
        layers="encoder.layer.",
        layer={
            "layernorm_before": "layernorm_before",
            "attention.output.dense": "attention.o_proj",
            "layernorm_after": "layernorm_after",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
        },
        attentions=_ATTENTIONS,
    ),
    time_embeddings="embeddings.time_embeddings",
    norm="temporal_layernorm",
    attention="temporal_attention",
    output="temporal_attention.output.dense",
    dense="temporal_dense",
)

# DINOv2 in transformers before its attention was renamed
_OLD_PROJECTIONS = ("attention.query", "attention.key", "attention.value")
_OLD_OUTPUT = "attention.output.dense"
OLD_DINOV2_NAMES = replace(
    DINOV2_NAMES,
    layer={_OLD_OUTPUT: "attention.o_proj"}
    | {name: place for name, place in DINOV2_NAMES.layer.items() if place != "attention.o_proj"},
)


_COMMON_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "image_size",
    "patch_size",
    "num_channels",
    "qkv_bias",
    "id2label",
    "label2id",
    "problem_type",
)


@dataclass(frozen=True)
class _Task:
    """A native class: prefix of its base model, the DnA class of the same task, what its classifier reads."""

    prefix: str
    model_class: type[DnAViTPreTrainedModel] | type[DnATimesformerPreTrainedModel]
    pooling: Literal["cls", "cls_mean", "cls_dist"] = "cls"


TASKS = {
    "ViTModel": _Task("", DnAViTModel),
    "ViTForImageClassification": _Task("vit.", DnAViTForImageClassification),
    "ViTForMaskedImageModeling": _Task("vit.", DnAViTForMaskedImageModeling),
    "DeiTModel": _Task("", DnAViTModel),
    "DeiTForImageClassification": _Task("deit.", DnAViTForImageClassification),
    "DeiTForImageClassificationWithTeacher": _Task("deit.", DnAViTForImageClassification, "cls_dist"),
    "DeiTForMaskedImageModeling": _Task("deit.", DnAViTForMaskedImageModeling),
    "Dinov2Model": _Task("", DnAViTModel),
    "Dinov2ForImageClassification": _Task("dinov2.", DnAViTForImageClassification, "cls_mean"),
    "Dinov2Backbone": _Task("", DnAViTBackbone),
    "TimesformerModel": _Task("", DnATimesformerModel),
    "TimesformerForVideoClassification": _Task("timesformer.", DnATimesformerForVideoClassification),
}


def native_task(class_name: str | None) -> _Task:
    """What to make of a native class.

    Raises:
        ConversionError: for a class that is not converted, listing those that are.
    """
    if class_name not in TASKS:
        raise ConversionError(f"cannot convert a model of class {class_name!r}: known are {', '.join(TASKS)}.")
    return TASKS[class_name]


def dna_config(source: PreTrainedModel, options: Options) -> DnAViTConfig | DnATimesformerConfig:
    """The configuration of the DnA model that has the source's sizes, labels and behaviour.

    Raises:
        ConversionError: if the source has something that the DnA ViT lacks.
    """
    native = source.config
    family = native.model_type
    fields = options.config_fields() | {name: getattr(native, name) for name in _COMMON_FIELDS}
    if options.image_size is not None:
        fields["image_size"] = options.image_size
    if family == "timesformer":
        return DnATimesformerConfig(
            intermediate_size=native.intermediate_size,
            num_frames=native.num_frames,
            attention_type=native.attention_type,
            drop_path_rate=native.drop_path_rate,
            **fields,
        )
    if getattr(native, "use_swiglu_ffn", False):
        raise ConversionError("cannot convert a DINOv2 with SwiGLU layers (use_swiglu_ffn): the DnA ViT has an MLP.")
    if family == "dinov2":
        fields |= {
            "intermediate_size": int(native.hidden_size * native.mlp_ratio),
            "layer_scale_init_value": float(native.layerscale_value),
            "drop_path_rate": native.drop_path_rate,
            "interpolate_pos_encoding": True,
        }
        if type(source).__name__ == "Dinov2Backbone":
            fields |= {"apply_layernorm": native.apply_layernorm, "out_features": list(native.out_features)}
            fields |= {"reshape_hidden_states": native.reshape_hidden_states}
    else:
        fields |= {"intermediate_size": native.intermediate_size, "encoder_stride": native.encoder_stride}
    return DnAViTConfig(
        use_class_token_position=True,
        use_distillation_token=family == "deit",
        classifier_pooling=native_task(type(source).__name__).pooling,
        **fields,
    )


def map_native(
    source: PreTrainedModel,
    config: DnAViTConfig | DnATimesformerConfig,
    options: Options,
) -> TensorMap:
    """Map every tensor of a native model."""
    task = native_task(type(source).__name__)
    mapping = TensorMap(source.name_or_path or type(source).__name__, source.state_dict(), options.dtype)
    if isinstance(config, DnATimesformerConfig):
        _map_timesformer(mapping, source, config, options)
        return mapping
    target = "" if task.model_class is DnAViTModel else "dna_vit."
    names, projections = VIT_NAMES, _PROJECTIONS
    if source.config.model_type == "dinov2":
        names = DINOV2_NAMES
        if mapping.has(f"{task.prefix}encoder.layer.0.{_OLD_OUTPUT}.weight"):
            names, projections = OLD_DINOV2_NAMES, _OLD_PROJECTIONS
    map_attention = map_softmax_attention(mapping, config, projections, options.start)
    transformer = TransformerMap(mapping, config, map_attention, task.prefix, target)
    transformer.image_model(names, _grid(source, task))
    _map_mask_token(mapping, f"{task.prefix}embeddings.mask_token", task)
    if task.model_class is DnAViTForMaskedImageModeling:
        mapping.copy_module("decoder.0", "decoder.0")
    if task.model_class is DnAViTForImageClassification and source.config.num_labels:
        _map_classifier(mapping, task)
    for parameter in ("weight", "bias"):
        if mapping.has(f"{task.prefix}pooler.dense.{parameter}"):
            reason = "the pooled output of the DnA ViT is the normalised class token"
            mapping.drop(f"{task.prefix}pooler.dense.{parameter}", reason)
    return mapping


def _map_timesformer(
    mapping: TensorMap, source: PreTrainedModel, config: DnATimesformerConfig, options: Options
) -> None:
    task = native_task(type(source).__name__)
    target = "" if task.model_class is DnATimesformerModel else "dna_timesformer."
    map_attention = map_softmax_attention(mapping, config, ("attention.qkv",), options.start)
    transformer = TransformerMap(mapping, config, map_attention, task.prefix, target)
    transformer.video_model(TIMESFORMER_NAMES, _grid(source, task))
    if target and source.config.num_labels:
        mapping.copy_module("classifier", "classifier")


def _map_mask_token(mapping: TensorMap, name: str, task: _Task) -> None:
    if task.model_class is DnAViTForMaskedImageModeling:
        mapping.copy(name, "dna_vit.embeddings.mask_token")
    elif mapping.has(name):
        mapping.drop(name, "used in masked image modeling alone")


def _map_classifier(mapping: TensorMap, task: _Task) -> None:
    if task.pooling != "cls_dist":
        mapping.copy_module("classifier", "classifier")
        return
    merge_classifiers(mapping, ("cls_classifier", "distillation_classifier"))


def _grid(source: PreTrainedModel, task: _Task) -> tuple[int, int]:
    """Rows and columns of patches in the position table of a native model."""
    embeddings: Any = source.get_submodule(f"{task.prefix}embeddings.patch_embeddings")
    images, patches = embeddings.image_size, embeddings.patch_size
    pairs = [(size, size) if isinstance(size, int) else tuple(size) for size in (images, patches)]
    return pairs[0][0] // pairs[1][0], pairs[0][1] // pairs[1][1]
