"""Keys of a configuration as `--key value` on the command line: which a verb takes, and what was given."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from ..data.arguments import HELD_OUT, TRAINING_KEYS, VIEW_KEYS, ImageDataArguments, VideoDataArguments, is_held_out
from ..data.conversation_arguments import ConversationDataArguments, QuestionDataArguments
from .overrides import parse_overrides
from .parser import Field, grouped


@dataclasses.dataclass(frozen=True)
class Keys:
    """Keys that a verb takes about data of one kind.

    Args:
        unit: what the data consists of, in the plural.
        section: dataclass whose fields are the keys.
        without: fields that have no effect in this verb, each with where it has one.
    """

    unit: str
    section: type
    without: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Field]:
        """The fields that have an effect, by name."""
        return {field.name: field for field in dataclasses.fields(self.section) if field.name not in self.without}


@dataclasses.dataclass(frozen=True)
class DataKeys:
    """Keys of section `data` that a verb takes, which depend on what the checkpoint is.

    Args:
        verb: name of the verb.
        kinds: the keys for each kind of data.
    """

    verb: str
    kinds: tuple[Keys, ...]

    def for_split(self, split: str) -> "DataKeys":
        """The keys for a split: of what training held out, those that say what is held out have an effect, too."""
        if not is_held_out(split):
            return self
        kinds = [
            dataclasses.replace(
                keys, without={key: where for key, where in keys.without.items() if key not in HELD_OUT_KEYS}
            )
            for keys in self.kinds
        ]
        return dataclasses.replace(self, kinds=tuple(kinds))

    def help(self) -> dict[str, list[Field]]:
        """Title -> keys, for the help text."""
        return grouped("keys of section data", {keys.unit: keys.fields.values() for keys in self.kinds})

    def read(self, words: Sequence[str], options: Sequence[str] = ()) -> dict[str, Any]:
        """Read what the parser of the verb did not know, and refuse what is wrong whatever the checkpoint is.

        Args:
            words: `--key value`, `--key=value` or `--flag`.
            options: names of the verb's options, which may have been meant.

        Returns:
            Key -> value.

        Raises:
            ConfigurationError: for a key that has no effect in this verb, or values that no kind of data takes.
        """
        from ..training.errors import ConfigurationError
        from ..training.sections import data_arguments

        given = {key.removeprefix("data."): value for key, value in parse_overrides(words).items()}
        known = {name for keys in self.kinds for name in keys.fields}
        for key in given.keys() - known:
            self._refuse(key, self.kinds, [*options, *(f"--{name}" for name in known)])
        fitting = [keys for keys in self.kinds if given.keys() <= keys.fields.keys()]
        errors = []
        for keys in fitting:
            try:
                data_arguments(given, keys.section)
            except ConfigurationError as error:
                errors.append(error)
        if errors and len(errors) == len(fitting):
            raise errors[0]
        return given

    def section(self, given: dict[str, Any], section: type | None = None, **values: Any) -> Any:
        """What was given, for a checkpoint of a known kind.

        Args:
            given: key -> value, as [`read`] returns it.
            section: dataclass of the data that the checkpoint takes; by default the only one there is.
            values: fields that are given in another way than by a key.

        Returns:
            That dataclass.

        Raises:
            ConfigurationError: for a key that has no effect on such data, or a value it does not take.
        """
        from ..training.sections import data_arguments

        keys = next(keys for keys in self.kinds if section in (keys.section, None))
        for key in given.keys() - keys.fields.keys():
            self._refuse(key, (keys,))
        return data_arguments(given | values, keys.section)

    def _refuse(self, key: str, kinds: Sequence[Keys], names: Sequence[str] = ()) -> None:
        from ..training.errors import ConfigurationError

        for keys in kinds:
            if key in keys.without:
                where = self.verb if kinds is self.kinds else f"{self.verb} of {keys.unit}"
                raise ConfigurationError(f"--{key} has no effect on dna-hf {where}: it is for {keys.without[key]}.")
        for keys in self.kinds:
            if key in keys.fields:
                raise ConfigurationError(f"--{key} is for {keys.unit}, but the checkpoint takes {kinds[0].unit}.")
        found = difflib.get_close_matches(f"--{key}", names, n=1)
        hint = f"did you mean {found[0]}?" if found else f"see dna-hf {self.verb} --help."
        raise ConfigurationError(f"unknown key --{key}: {hint}")


# of the training split, a part of which is held out
HELD_OUT_KEYS = ("train_split", "validation_fraction")
# of the training split, in which an evaluation may look for neighbours
KNN_KEYS = ("train_split", "max_train_samples")


def _shown(unit: str, section: type, *further: str, neighbours: bool = False) -> Keys:
    """Keys about data that a trained model is shown, and if it looks for neighbours, those about the training data."""
    without = dict.fromkeys(further, "training and dna-hf evaluate") | dict.fromkeys(
        TRAINING_KEYS[section], "training"
    )
    if neighbours:
        without = {key: where for key, where in without.items() if key not in KNN_KEYS}
        # of several views, features are averaged
        return Keys(unit, section, without | {"view_average": "figures of a classifier"})
    knn = dict.fromkeys(without.keys() & set(KNN_KEYS), "training and dna-hf evaluate --knn")
    without |= knn
    held_out = {key: f"{without[key]} and --split {HELD_OUT}" for key in HELD_OUT_KEYS if key in without}
    return Keys(unit, section, without | held_out)


KNN = DataKeys(
    "evaluate --knn",
    (_shown("images", ImageDataArguments, neighbours=True), _shown("videos", VideoDataArguments, neighbours=True)),
)
EVALUATE = DataKeys("evaluate", (_shown("images", ImageDataArguments), _shown("videos", VideoDataArguments)))
# rows are looked up by their number there, and a processor is taken as it is
DISTRACTORS = DataKeys(
    "distractors", (_shown("images", ImageDataArguments, "streaming", "on_error", "max_bad_fraction"),)
)
ANALYZE = DataKeys(
    "analyze",
    (
        _shown("images", ImageDataArguments, "streaming"),
        _shown("videos", VideoDataArguments, *VIEW_KEYS, "sampling", "sampling_rate", "image_mean", "image_std"),
        Keys("questions", QuestionDataArguments),
    ),
)


def _looked_at(unit: str, section: type, *names: str) -> Keys:
    """Keys about data that no model is shown: those that say what the data is."""
    others = {field.name for field in dataclasses.fields(section)} - set(names)
    return Keys(unit, section, dict.fromkeys(others, "verbs that run a model") | {"dataset": WHERE})


WHERE = "other verbs; here the data set is the first word"
_LABELS = ("train_split", "eval_split", "label_column", "class_names", "label_base")
DATA = DataKeys(
    "data",
    (
        _looked_at("images", ImageDataArguments, *_LABELS, "dataset_config", "dataset_revision", "image_column"),
        _looked_at(
            "videos",
            VideoDataArguments,
            *(*_LABELS, "protocol", "clip_list", "video_column", "video_root"),
            *("start_column", "end_column", "start_frame_column", "end_frame_column"),
        ),
        _looked_at("conversations", ConversationDataArguments, "data_folder"),
        _looked_at("questions", QuestionDataArguments, "data_folder", "format", "views"),
    ),
)

TRAIN = DataKeys(
    "train",
    (
        Keys("images", ImageDataArguments),
        Keys("videos", VideoDataArguments, dict.fromkeys(VIEW_KEYS, "dna-hf evaluate")),
        Keys("video LLMs", ConversationDataArguments),
    ),
)
