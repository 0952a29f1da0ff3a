"""Read a run from a YAML file and command-line overrides, and refuse what it does not mean.

A file has three sections: `model` (fields of the model's configuration, plus `model_type` or `checkpoint`), `data`
([`~dna_hf.data.arguments.ImageDataArguments`], for videos [`~dna_hf.data.arguments.VideoDataArguments`], for a video
LLM [`~dna_hf.data.conversation_arguments.ConversationDataArguments`]) and `training` (any field of
`transformers.TrainingArguments`, and of [`~dna_hf.training.options.ClassifierOptions`], for a video LLM of
[`~dna_hf.training.options.VideoLLMOptions`]).
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import yaml
from huggingface_hub.dataclasses import type_validator
from transformers import AutoConfig

from ..data.arguments import CommonDataArguments, ImageDataArguments
from ..data.conversation_arguments import ConversationDataArguments
from ..errors import one_line, sentence
from ..kinds import IMAGE, KINDS, VIDEO_LLM, Kind
from ..recipes import RecipeError, find
from .arguments import ClassifierTrainingArguments, DnATrainingArguments, VideoLLMTrainingArguments
from .errors import ConfigurationError
from .limits import check_limits, is_finite


SECTIONS = ("model", "data", "training")
MODEL_TYPES = {kind.model_type: kind for kind in KINDS}
Section = TypeVar("Section")
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
        sections: the sections as given, to be written beside the results.
    """

    model_arguments: ModelArguments
    model: dict[str, Any]
    data: Data
    training: Training
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


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number and `no` as the word it is, and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigurationError(f"key {key!r} is given twice (line {node.start_mark.line + 1} and after).")
        return super().construct_mapping(node, deep)


# YAML 1.2 booleans: with those of 1.1, `eval_strategy: no` would be false
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def parse_value(text: str) -> Any:
    """Read the value of a command-line override as YAML does: numbers, true, null, [lists]; else text.

    Raises:
        ConfigurationError: if it is no YAML value.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigurationError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"cannot read the value {text[:80]!r}: {_problem(error)}.") from error


def read_sections(config: str | Path) -> dict[str, dict[str, Any]]:
    """Read the sections of a configuration file.

    Args:
        config: path of a file, or name of a recipe of this package (see [`~dna_hf.recipes.find`]).

    Returns:
        The sections `model`, `data` and `training`, key -> value; a section that is left out is empty.

    Raises:
        ConfigurationError: if there is no such file and no such recipe, or it is no YAML, or it holds anything but the
            known sections.
    """
    try:
        path = find(config)
    except RecipeError as error:
        raise ConfigurationError(str(error)) from error
    return _read(path, _Loader)


def read_record(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read the sections of a run that were written with `yaml.safe_dump`, as YAML 1.1.

    Args:
        path: the file `run.yaml` in the folder of a run.

    Returns:
        The sections, as [`read_sections`] does.

    Raises:
        ConfigurationError: if the file is missing, damaged, or no record of a run.
    """
    return _read(path, yaml.SafeLoader)


def _read(path: str | Path, loader: type[yaml.SafeLoader]) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"cannot read configuration {str(path)!r}: {reason}.") from error
    except ConfigurationError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{str(path)!r} is no valid YAML: {_problem(error)}.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{str(path)!r} must hold the sections {', '.join(SECTIONS)}.")
    for name, section in content.items():
        if name not in SECTIONS:
            raise ConfigurationError(f"unknown section {name!r} in {str(path)!r}{_nearest(name, SECTIONS)}.")
        if section is not None and not isinstance(section, dict):
            raise ConfigurationError(f"section {name!r} in {str(path)!r} must hold `key: value` lines.")
    return {name: dict(content.get(name) or {}) for name in SECTIONS}


def model_fields(model_type: str) -> dict[str, Any]:
    """Fields of a model's configuration, with their types.

    Raises:
        ConfigurationError: for a model type this package does not train.
    """
    if model_type not in MODEL_TYPES:
        raise ConfigurationError(f"unknown model_type {model_type!r}{_nearest(model_type, MODEL_TYPES)}.")
    fields = _fields(type(AutoConfig.for_model(model_type)))
    # short for that of vision_config, see _place_variant
    return fields | {"attention_variant": str} if MODEL_TYPES[model_type] is VIDEO_LLM else fields


def run_config(sections: dict[str, dict[str, Any]], overrides: dict[str, Any] | None = None) -> AnyRun:
    """Check a run.

    Args:
        sections: `model`, `data` and `training`, as [`read_sections`] returns them.
        overrides: keys of any section, or `section.key`, with new values.

    Returns:
        The run: for a model type that classifies a [`ClassifierRun`], for a video LLM a [`VideoLLMRun`].

    Raises:
        ConfigurationError: for an unknown key (the nearest known one is proposed), a value of the wrong type or
            outside its range.
    """
    sections = {name: dict(sections.get(name, {})) for name in SECTIONS}
    model_type = (overrides or {}).get("model_type", sections["model"].get("model_type", IMAGE.model_type))
    _apply(sections, overrides or {}, _known(model_type), model_type)
    check_limits(sections["training"])
    kind = MODEL_TYPES[model_type]
    if kind is VIDEO_LLM:
        _place_variant(sections["model"])
    model = {key: value for key, value in sections["model"].items() if key not in _fields(ModelArguments)}
    model_arguments = {key: value for key, value in sections["model"].items() if key in _fields(ModelArguments)}
    return RunConfig(
        model_arguments=ModelArguments(**model_arguments),
        model=model,
        data=_build("data", kind.training_data, sections["data"]),
        training=_build("training", training_arguments(kind), sections["training"]),
        sections=sections,
    )


def _known(model_type: str) -> dict[str, dict[str, Any]]:
    """The keys of every section of a model type, with their types."""
    fields = model_fields(model_type)
    kind = MODEL_TYPES[model_type]
    return {
        "model": _fields(ModelArguments) | fields,
        "data": _fields(kind.training_data),
        "training": _fields(training_arguments(kind)),
    }


def data_arguments(overrides: dict[str, Any], kind: type = ImageDataArguments) -> Any:
    """Check the keys of a `data` section alone.

    Args:
        overrides: key -> value, the key with or without `data.` before it.
        kind: dataclass of what the section may hold; the result is one.

    Raises:
        ConfigurationError: see [`run_config`].
    """
    sections: dict[str, dict[str, Any]] = {"data": {}}
    _apply(sections, overrides, {"data": _fields(kind)})
    return _build("data", kind, sections["data"])


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


def _apply(
    sections: dict[str, dict[str, Any]],
    overrides: dict[str, Any],
    known: dict[str, dict[str, Any]],
    model_type: str | None = None,
) -> None:
    """Put overrides into their sections, and check the keys and types of all of them."""
    for key, value in overrides.items():
        section, name = _locate(key, known, model_type)
        sections[section][name] = value
    for section, values in sections.items():
        for key, value in values.items():
            if key not in known[section]:
                hint = _owners(key, [section], model_type) or _nearest(key, known[section])
                raise ConfigurationError(f"unknown key {key!r} in section {section!r}{hint}.")
            values[key] = _checked(section, key, value, known[section][key])


def _fields(cls: type) -> dict[str, Any]:
    """Fields of a dataclass with their types; one that is written as text is left to the dataclass to check."""
    return {
        field.name: Any if isinstance(field.type, str) else field.type
        for field in dataclasses.fields(cls)
        if field.init and not field.name.startswith("_")
    }


def _locate(key: str, known: dict[str, dict[str, Any]], model_type: str | None) -> tuple[str, str]:
    section, _, name = key.rpartition(".")
    if section:
        if section not in known:
            raise ConfigurationError(f"unknown section {section!r} in --{key}{_nearest(section, known)}.")
        return section, name
    owners = [section for section, fields in known.items() if key in fields]
    if len(owners) > 1:
        raise ConfigurationError(f"--{key} could mean {' or '.join(f'--{owner}.{key}' for owner in owners)}.")
    if not owners:
        hint = _owners(key, list(known), model_type) or _nearest(key, [k for f in known.values() for k in f])
        raise ConfigurationError(f"unknown key --{key}{hint}.")
    return owners[0], key


def _owners(key: Any, sections: list[str], model_type: str | None) -> str:
    """Says which other model types have a key; nothing if none has it."""
    if model_type is None:
        return ""
    owners = [name for name in MODEL_TYPES if any(key in _known(name)[section] for section in sections)]
    return f": it is a key of {' and '.join(owners)}, not of {model_type}" if owners else ""


def _checked(section: str, key: str, value: Any, expected: Any) -> Any:
    options = (
        typing.get_args(expected) if typing.get_origin(expected) in (typing.Union, types.UnionType) else (expected,)
    )
    if float in options and int not in options:
        value = _as_float(value)
    if list[float] in options and isinstance(value, list):
        value = [_as_float(item) for item in value]
    if dict[str, float] in options and isinstance(value, dict):
        value = {name: _as_float(item) for name, item in value.items()}
    if not is_finite(value):
        raise ConfigurationError(f"{section}.{key} must be finite, got {value!r}.")
    try:
        type_validator(f"{section}.{key}", value, expected)
    except TypeError as error:
        wanted = " or ".join(map(_describe, options))
        raise ConfigurationError(f"{section}.{key} must be {wanted}, got {value!r}.") from error
    return value


def _as_float(value: Any) -> Any:
    """A whole number as a float, anything else as it is: YAML reads 1 as int."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _describe(option: Any) -> str:
    if typing.get_origin(option) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(option)))
    if typing.get_origin(option) is list:
        return "list of " + _describe(typing.get_args(option)[0])
    if typing.get_origin(option) is dict:
        return "`name: value` lines with a " + _describe(typing.get_args(option)[1]) + " each"
    return "null" if option is type(None) else getattr(option, "__name__", str(option))


def _build(section: str, cls: type[Section], values: dict[str, Any]) -> Section:
    try:
        return cls(**values)
    except (ArithmeticError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigurationError(f"section {section!r}: {one_line(error)}") from error


def _nearest(name: Any, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f": did you mean {matches[0]!r}?" if matches else f": known are {', '.join(sorted(known)[:8])}, ..."


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or sentence(error)
    return f"{problem} in line {mark.line + 1}" if mark is not None else problem
