"""Model cards: what a checkpoint is, how it was made, and what was measured on it.

A figure appears as measured only through a [`~dna_hf.records.checkpoint_records.Measurement`] that holds for
the very weights of the card. Figures from elsewhere are of another type, and the template sets them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig, PreTrainedModel

from ..data.problem_types import MULTI_LABEL, REGRESSION
from ..kinds import CLASSIFIERS, IMAGE, VIDEO, VIDEO_LLM, Kind, kind_of_config, problem_type_of, threshold_of
from ..models import DnATimesformerConfig, DnAVideoLlama3Config
from ..models.configuration_dna import pair
from ..records.checkpoint_records import Measurement, RecordError, TrainingRun
from ..records.complexity import count_macs
from ..records.digest import weights_digest
from ..records.metrics import METRICS
from .errors import PublishError


TEMPLATE = Path(__file__).with_name("model_card_template.md")
# task as the Hub names it and Auto class, by the part of the class name after the model's
TASKS = {
    "ForImageClassification": ("image-classification", "AutoModelForImageClassification"),
    "ForVideoClassification": ("video-classification", "AutoModelForVideoClassification"),
    "ForConditionalGeneration": ("video-text-to-text", "AutoModelForImageTextToText"),
    "ForMaskedImageModeling": (None, "AutoModelForMaskedImageModeling"),
    "Backbone": ("image-feature-extraction", "AutoBackbone"),
    # the Hub has no task for features of videos
    "TimesformerModel": (None, "AutoModel"),
    "Model": ("image-feature-extraction", "AutoModel"),
}
METRIC_NAMES = {
    "top1": ("accuracy", "Top-1 accuracy"),
    "top5": ("accuracy", "Top-5 accuracy"),
    "mean_class_accuracy": ("accuracy", "Mean class accuracy"),
    "map": ("mean_average_precision", "Mean average precision"),
    "f1_macro": ("f1", "F1 above the threshold, mean over classes"),
    "f1_micro": ("f1", "F1 above the threshold, all labels together"),
    "r2": ("r_squared", "R²"),
    "mae": ("mae", "Mean absolute error"),
    "rmse": ("rmse", "Root mean square error"),
    "loss": ("loss", "Cross entropy"),
}
# what the loss is where another figure stands beside it
LOSSES = {"map": "Binary cross entropy", "r2": "Mean square error"}
FORMULAS = {
    "dna": "softmax(q⁺kᵀ/√d) v⁺ + α · softmin(q⁻kᵀ/√d) v⁻",
    "dna_shared_value": "(softmax(q⁺kᵀ/√d) + α · softmin(q⁻kᵀ/√d)) v",
    "softmax": "softmax(qkᵀ/√d) v",
    "differential": "(softmax(q₁k₁ᵀ/√d) − λ · softmax(q₂k₂ᵀ/√d)) v",
    "cog": "sign(s) · softmax(|s|) v with s = qkᵀ/√d",
}
ATTENTION_TYPES = {
    "divided_space_time": "over time, then over space",
    "joint_space_time": "over space and time together",
    "space_only": "over space, of every frame on its own",
}
VARIANT_NAMES = {
    "dna": "Denoising Attention",
    "dna_shared_value": "Denoising Attention with shared values",
    "softmax": "softmax attention",
    "differential": "differential attention",
    "cog": "Cog attention",
}


@dataclass(frozen=True)
class ReportedFigure:
    """A figure that somebody reported, about other weights than those of the card.

    Args:
        name: what was measured, e.g. `"ImageNet-1k validation, top-1"`.
        value: the figure as printed, with its unit.
        source: publication or page that states the figure.
    """

    name: str
    value: str
    source: str


def model_card(
    model: PreTrainedModel,
    repo_id: str,
    *,
    measurements: Sequence[Measurement] = (),
    training: TrainingRun | None = None,
    reported: Sequence[ReportedFigure] = (),
    processor: Any = None,
    converted_from: str | None = None,
    licence: str | None = None,
    revision: str | None = None,
) -> ModelCard:
    """Write the model card of a checkpoint.

    Args:
        model: model of the checkpoint; on the meta device for a card without weights (then nothing can be measured).
        repo_id: name of the repository.
        measurements: figures that were measured on these weights.
        training: record of the run that made these weights.
        reported: figures that others reported, which are stated as such and never enter the metadata.
        processor: processor of a video model or a video language model; the card says what it does with videos.
        converted_from: name of the checkpoint that the weights were converted from.
        licence: licence of the weights, in the Hub's spelling.
        revision: tag or commit that the card tells its readers to pin.

    Raises:
        PublishError: for a model that is none of this package, or a part of one.
        RecordError: if a record was edited or belongs to other weights.
    """
    has_weights = model.device.type != "meta"
    _check_records(model, [*measurements, *([training] if training else [])], has_weights)
    kind = _kind(model)
    # what has the attention
    config = model.config.vision_config if kind is VIDEO_LLM else model.config
    name = repo_id.rpartition("/")[2]
    return ModelCard.from_template(
        _metadata(model, name, kind, measurements, training, converted_from, licence),
        template_path=str(TEMPLATE),
        name=name,
        repo_id=repo_id,
        revision=revision,
        auto_class=task_of(type(model))[1],
        unit=kind.unit,
        takes_videos=kind is VIDEO,
        preprocessing=_preprocessing(kind, processor),
        model_class=type(model).__name__,
        config=model.config,
        parameters=model.num_parameters(),
        macs=None if kind is VIDEO_LLM else _count(count_macs(type(model), model.config)),
        scales=scale_statistics(model),
        has_weights=has_weights,
        training=training,
        settings=yaml.safe_dump(training.settings, sort_keys=False, allow_unicode=True).strip() if training else "",
        converted_from=converted_from,
        measurements=[(each, _metric_rows(each)) for each in measurements],
        reported=reported,
        licence=licence,
        shapes=_sizes(model.config),
        **_problem(kind, model.config),
        **_attention(config.attention_variant),
    )


def _kind(model: PreTrainedModel) -> Kind:
    kind = kind_of_config(model.config)
    if kind is None:
        raise PublishError(f"there is no card for a {type(model).__name__}: it is no whole DnA model.")
    return kind


def _problem(kind: Kind, config: PreTrainedConfig) -> dict[str, Any]:
    """What the template says of the answers of a classifier."""
    problem_type = problem_type_of(config) if kind in CLASSIFIERS else None
    names: dict = config.id2label or {}
    return {
        "several_labels": problem_type == MULTI_LABEL,
        "is_regression": problem_type == REGRESSION,
        "outputs": ", ".join(f"`{names[number]}`" for number in sorted(names)),
        "threshold": threshold_of(config),
        # of the views of a video, what is averaged
        "scores": {MULTI_LABEL: ".sigmoid()", REGRESSION: ""}.get(problem_type or "", ".softmax(-1)"),
    }


def _attention(variant: str) -> dict[str, Any]:
    """What the template says of the attention."""
    return {
        "variant": variant,
        "variant_name": VARIANT_NAMES[variant],
        "formula": FORMULAS[variant],
        "has_scales": variant in ("dna", "dna_shared_value"),
    }


def _check_records(model: PreTrainedModel, records: Sequence[Measurement | TrainingRun], has_weights: bool) -> None:
    """See that records are of these very weights.

    Raises:
        RecordError: if one was edited or belongs to other weights.
    """
    digest = weights_digest(model.state_dict()) if has_weights else ""
    for record in records:
        if not has_weights:
            raise RecordError(f"{record.what()} cannot be of a model without weights.")
        record.verify(digest)


def _metadata(
    model: PreTrainedModel,
    name: str,
    kind: Kind,
    measurements: Sequence[Measurement],
    training: TrainingRun | None,
    converted_from: str | None,
    licence: str | None,
) -> ModelCardData:
    """What the Hub reads of a card."""
    task = task_of(type(model))[0]
    origin = training.started_from if training and training.started_from else converted_from
    return ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag=task,
        tags=[
            "denoising-attention",
            "vision" if kind is IMAGE else "video",
            "custom_code",
            *([task] if task else []),
        ],
        datasets=[training.dataset.name] if training and training.dataset.name.count("/") == 1 else None,
        base_model=origin if origin and _is_repository(origin) else None,
        model_name=name if measurements else None,
        eval_results=[result for measurement in measurements for result in eval_results(measurement)] or None,
    )


def task_of(model_class: type[PreTrainedModel]) -> tuple[str | None, str]:
    """Task, as the Hub names it, and Auto class of a model class."""
    return next(facts for suffix, facts in TASKS.items() if model_class.__name__.endswith(suffix))


def scale_statistics(model: PreTrainedModel) -> dict[str, float] | None:
    """Mean, standard deviation, minimum and maximum of alpha over all layers and heads; `None` without alpha."""
    scales = [value.detach() for name, value in model.state_dict().items() if name.endswith(".negative_scale")]
    if not scales or scales[0].device.type == "meta":
        return None
    alpha = torch.cat(scales).double()
    return {
        "mean": alpha.mean().item(),
        "std": alpha.std(correction=0).item(),
        "min": alpha.min().item(),
        "max": alpha.max().item(),
        "count": len(alpha),
    }


def eval_results(measurement: Measurement) -> list[EvalResult]:
    """The entries of a card's metadata for figures that were measured."""
    data = measurement.dataset
    return [
        EvalResult(
            task_type=measurement.task,
            dataset_type=data.name,
            dataset_name=data.name,
            dataset_config=data.config,
            dataset_revision=data.revision,
            dataset_split=measurement.split,
            metric_type=_metric(name, measurement)[0],
            metric_name=_metric(name, measurement)[1],
            metric_value=value,
        )
        for name, value in measurement.metrics.items()
    ]


def _metric(name: str, measurement: Measurement) -> tuple[str, str]:
    """Type and title of a metric."""
    if name == "loss":
        beside = next((title for other, title in LOSSES.items() if other in measurement.metrics), None)
        return "loss", beside or METRIC_NAMES["loss"][1]
    return METRIC_NAMES.get(name, (name, name))


def _metric_rows(measurement: Measurement) -> list[tuple[str, str]]:
    return [
        (_metric(name, measurement)[1], METRICS[name].text(value) if name in METRICS else f"{value:.4f}")
        for name, value in measurement.metrics.items()
    ]


def _preprocessing(kind: Kind, processor: Any) -> dict[str, str]:
    """What is made of a video, in words."""
    if processor is None or kind is IMAGE:
        return {}
    if kind is VIDEO:
        return processor.describe()
    videos = processor.video_processor
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (videos.image_mean, videos.image_std))
    return {
        "frames": f"{videos.fps:g} per second; if these are more than {videos.max_frames}, so many of them",
        "size": f"as {videos.max_visual_tokens} tokens of {videos.factor}x{videos.factor} pixels for all frames allow",
        "normalisation": f"mean {mean}; standard deviation {std}",
    }


def _sizes(config: PreTrainedConfig) -> list[tuple[str, Any]]:
    if isinstance(config, DnAVideoLlama3Config):
        return _language_model_sizes(config)
    time: list[tuple[str, Any]] = []
    if isinstance(config, DnATimesformerConfig):
        time = [("frames", config.num_frames), ("attention", ATTENTION_TYPES[config.attention_type])]
    return [
        *time,
        ("frame size" if time else "image size", "{}x{} pixels".format(*pair(config.image_size, "image_size"))),
        ("patch size", "{}x{} pixels".format(*pair(config.patch_size, "patch_size"))),
        ("layers", config.num_hidden_layers),
        ("heads", config.num_attention_heads),
        ("width", config.hidden_size),
        ("MLP width", config.intermediate_size),
    ]


def _language_model_sizes(config: DnAVideoLlama3Config) -> list[tuple[str, Any]]:
    vision: Any = config.vision_config
    text: Any = config.text_config
    read = ["visual tokens"] * config.include_visual_tokens + ["probes"] * config.include_visual_probes
    layers = "all" if vision.interaction_layers is None else ", ".join(map(str, vision.interaction_layers))
    return [
        ("vision encoder", f"{vision.num_hidden_layers} layers of width {vision.hidden_size}"),
        ("patch size", f"{vision.patch_size}x{vision.patch_size} pixels"),
        ("probes of an image or video", vision.num_probes),
        ("layers that the probes read", layers),
        ("heads of the probes' attention", vision.num_attention_heads),
        ("language model", f"{text.model_type}, {text.num_hidden_layers} layers of width {text.hidden_size}"),
        ("which reads", " and ".join(read)),
    ]


def _count(number: int) -> str:
    """A number with its SI prefix, as parameters and multiply-accumulates are stated."""
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _is_repository(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()
