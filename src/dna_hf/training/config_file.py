"""Read a run from a YAML file and command-line overrides, and refuse what it does not mean.

A file has the sections `model` (fields of the model's configuration, plus `model_type` or `checkpoint`), `data`
([`~dna_hf.data.arguments.ImageDataArguments`], for videos [`~dna_hf.data.arguments.VideoDataArguments`], for a video
LLM [`~dna_hf.data.conversation_arguments.ConversationDataArguments`]), `training` (any field of
`transformers.TrainingArguments`, and of [`~dna_hf.training.options.ClassifierOptions`], for a video LLM of
[`~dna_hf.training.options.VideoLLMOptions`]) and, for a classifier, `peft`
([`~dna_hf.training.options.LoraOptions`]).
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from transformers import AutoConfig

from ..data.arguments import CommonDataArguments
from ..data.conversation_arguments import ConversationDataArguments
from ..kinds import IMAGE, KINDS, VIDEO_LLM, Kind
from .arguments import ClassifierTrainingArguments, DnATrainingArguments, VideoLLMTrainingArguments
from .errors import ConfigurationError
from .limits import check_limits
from .options import LoraOptions
from .sections import apply, build, fields_of, refuse_idle
from .yaml_file import SECTIONS, nearest


MODEL_TYPES = {kind.model_type: kind for kind in KINDS}
Data = TypeVar("Data", covariant=True)
Training = TypeVar("Training", bound=DnATrainingArguments, covariant=True)


def training_arguments(kind: Kind) -> type[DnATrainingArguments]:
    """What section `training` of a run of a kind of models takes."""
    return VideoLLMTrainingArguments if kind is VIDEO_LLM else ClassifierTrainingArguments


@dataclasses.dataclass
class ModelArguments:
    """What the `model` section takes beside the fields of the model's configuration."""

    model_type: str = dataclasses.field(default=IMAGE.model_type, metadata={"help": "which model to build"})
    checkpoint: str | None = dataclasses.field(
        default=None, metadata={"help": "start from the weights of this DnA checkpoint (folder or Hub name)"}
    )
    checkpoint_revision: str | None = dataclasses.field(
        default=None, metadata={"help": "commit, tag or branch of a checkpoint on the Hub"}
    )


@dataclasses.dataclass(frozen=True)
class RunConfig(Generic[Data, Training]):
    """A checked run.

    Args:
        model_arguments: keys of section `model` that say which model it is.
        model: the fields of the model's configuration that were given.
        data: section `data`, of the class that belongs to the model type.
        training: section `training`, of the class that belongs to the model type.
        peft: section `peft`.
        sections: the sections as given, to be written beside the results.
    """

    model_arguments: ModelArguments
    model: dict[str, Any]
    data: Data
    training: Training
    peft: LoraOptions
    sections: dict[str, dict[str, Any]]

    @property
    def kind(self) -> Kind:
        """What its model is."""
        return MODEL_TYPES[self.model_arguments.model_type]

    @property
    def output_dir(self) -> Path:
        """Where the run writes."""
        return Path(self.training.output_dir or "trainer_output")


AnyRun = RunConfig[CommonDataArguments | ConversationDataArguments, DnATrainingArguments]
ClassifierRun = RunConfig[CommonDataArguments, ClassifierTrainingArguments]
VideoLLMRun = RunConfig[ConversationDataArguments, VideoLLMTrainingArguments]


def classifier_run(run: AnyRun) -> ClassifierRun:
    """A run, if it trains a classifier.

    Raises:
        ConfigurationError: if it trains a video LLM.
    """
    if not isinstance(run.training, ClassifierTrainingArguments):
        raise ConfigurationError(
            f"model_type {run.model_arguments.model_type!r} is for dna-hf train alone: it is no classifier."
        )
    return cast(ClassifierRun, run)


def video_llm_run(run: AnyRun) -> VideoLLMRun:
    """A run, if it trains a video LLM.

    Raises:
        ConfigurationError: if it trains a classifier.
    """
    if not isinstance(run.training, VideoLLMTrainingArguments):
        raise ConfigurationError(
            f"model_type {run.model_arguments.model_type!r} is no video LLM: set {VIDEO_LLM.model_type}."
        )
    return cast(VideoLLMRun, run)


def model_fields(model_type: str) -> dict[str, Any]:
    """Fields of a model's configuration, with their types.

    Raises:
        ConfigurationError: for a model type this package does not train.
    """
    if model_type not in MODEL_TYPES:
        raise ConfigurationError(f"unknown model_type {model_type!r}{nearest(model_type, MODEL_TYPES)}.")
    fields = fields_of(type(AutoConfig.for_model(model_type)))
    # short for that of vision_config, see _place_variant
    return fields | {"attention_variant": str} if MODEL_TYPES[model_type] is VIDEO_LLM else fields


def run_config(sections: dict[str, dict[str, Any]], overrides: dict[str, Any] | None = None) -> AnyRun:
    """Check a run.

    Args:
        sections: `model`, `data`, `training` and `peft`, as [`~dna_hf.training.yaml_file.read_sections`] returns
            them.
        overrides: keys of any section, or `section.key`, with new values.

    Returns:
        The run: for a model type that classifies a [`ClassifierRun`], for a video LLM a [`VideoLLMRun`].

    Raises:
        ConfigurationError: for an unknown key (the nearest known one is proposed), a value of the wrong type or
            outside its range.
    """
    sections = {name: dict(sections.get(name, {})) for name in SECTIONS}
    model_type = (overrides or {}).get("model_type", sections["model"].get("model_type", IMAGE.model_type))
    apply(sections, overrides or {}, _known(model_type), partial(_owners, model_type))
    check_limits(sections["training"])
    refuse_idle(sections["data"])
    kind = MODEL_TYPES[model_type]
    if kind is VIDEO_LLM:
        _place_variant(sections["model"])
    model = {key: value for key, value in sections["model"].items() if key not in fields_of(ModelArguments)}
    model_arguments = {key: value for key, value in sections["model"].items() if key in fields_of(ModelArguments)}
    return RunConfig(
        model_arguments=ModelArguments(**model_arguments),
        model=model,
        data=build("data", kind.training_data, sections["data"]),
        training=build("training", training_arguments(kind), sections["training"]),
        peft=_lora_options(sections["peft"]),
        sections={name: section for name, section in sections.items() if section or name != "peft"},
    )


def _lora_options(section: dict[str, Any]) -> LoraOptions:
    options, others = build("peft", LoraOptions, section), [key for key in section if key != "r"]
    if others and options.r is None:
        raise ConfigurationError(f"peft.{others[0]} has no effect without r, the rank of the updates: set r.")
    return options


def _known(model_type: str) -> dict[str, dict[str, Any]]:
    """The keys of every section of a model type, with their types."""
    fields = model_fields(model_type)
    kind = MODEL_TYPES[model_type]
    return {
        "model": fields_of(ModelArguments) | fields,
        "data": fields_of(kind.training_data),
        "training": fields_of(training_arguments(kind)),
        "peft": {} if kind is VIDEO_LLM else fields_of(LoraOptions),
    }


def _place_variant(model: dict[str, Any]) -> None:
    """Move the `attention_variant` of a video LLM to where its configuration has it, the vision encoder."""
    variant = model.pop("attention_variant", None)
    if variant is None:
        return
    vision = model.get("vision_config") or {}
    if vision.get("attention_variant", variant) != variant:
        raise ConfigurationError(
            f"attention_variant is {variant!r}, but vision_config has {vision['attention_variant']!r}: give one."
        )
    model["vision_config"] = vision | {"attention_variant": variant}


def _owners(model_type: str, key: Any, sections: list[str]) -> str:
    """The end of a sentence that says which other model types have a key; empty if none has it."""
    owners = [name for name in MODEL_TYPES if any(key in _known(name)[section] for section in sections)]
    return f": it is a key of {' and '.join(owners)}, not of {model_type}" if owners else ""
