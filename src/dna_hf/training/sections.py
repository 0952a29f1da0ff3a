"""Check the keys of the sections of a configuration: that they exist, and that their values are of the right type.

Nothing heavy is imported here, so that a wrong key costs no time.
"""

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from huggingface_hub.dataclasses import type_validator

from ..data.arguments import ImageDataArguments
from ..errors import one_line
from .errors import ConfigurationError
from .limits import is_finite
from .yaml_file import nearest


Section = TypeVar("Section")


def data_arguments(overrides: dict[str, Any], kind: type = ImageDataArguments) -> Any:
    """Check the keys of a `data` section alone.

    Args:
        overrides: key -> value, the key with or without `data.` before it.
        kind: dataclass of what the section may hold; the result is one.

    Raises:
        ConfigurationError: for an unknown key, a value of a wrong type or out of range, or a key without effect.
    """
    sections: dict[str, dict[str, Any]] = {"data": {}}
    apply(sections, overrides, {"data": fields_of(kind)})
    refuse_idle(sections["data"])
    return build("data", kind, sections["data"])


def refuse_idle(data: dict[str, Any]) -> None:
    """Refuse keys of section `data` that another key leaves without effect.

    Args:
        data: key -> value, as given.

    Raises:
        ConfigurationError: naming both keys, and what to do.
    """
    if "max_bad_fraction" in data and data.get("on_error", "raise") == "raise":
        raise ConfigurationError(
            f"data.max_bad_fraction is {data['max_bad_fraction']}, but the first sample that cannot be read ends the "
            "run: set on_error to skip, or leave it out."
        )
    if "validation_fraction" in data and data.get("eval_split") is not None:
        raise ConfigurationError(
            f"data.validation_fraction is {data['validation_fraction']}, but nothing is held out where eval_split "
            f"({data['eval_split']!r}) is given: leave one of them out."
        )


def apply(
    sections: dict[str, dict[str, Any]],
    overrides: dict[str, Any],
    known: dict[str, dict[str, Any]],
    elsewhere: Callable[[str, list[str]], str] = lambda key, sections: "",
) -> None:
    """Put overrides into their sections, and check the keys and types of all of them.

    Args:
        sections: section -> key -> value; changed in place.
        overrides: key, or `section.key` -> value.
        known: section -> key -> type.
        elsewhere: `elsewhere(key, sections)`: the end of a sentence about what else has a key, if anything has.

    Raises:
        ConfigurationError: for an unknown key, or a value of the wrong type.
    """
    for key, value in overrides.items():
        section, name = _locate(key, known, elsewhere)
        sections[section][name] = value
    for section, values in sections.items():
        for key, value in values.items():
            if key not in known[section]:
                hint = elsewhere(key, [section]) or nearest(key, known[section])
                raise ConfigurationError(f"unknown key {key!r} in section {section!r}{hint}.")
            values[key] = _checked(section, key, value, known[section][key])


def fields_of(cls: type) -> dict[str, Any]:
    """Fields of a dataclass with their types; one that is written as text is left to the dataclass to check."""
    return {
        field.name: Any if isinstance(field.type, str) else field.type
        for field in dataclasses.fields(cls)
        if field.init and not field.name.startswith("_")
    }


def _locate(key: str, known: dict[str, dict[str, Any]], elsewhere: Callable[[str, list[str]], str]) -> tuple[str, str]:
    section, _, name = key.rpartition(".")
    if section:
        if section not in known:
            raise ConfigurationError(f"unknown section {section!r} in --{key}{nearest(section, known)}.")
        return section, name
    owners = [section for section, fields in known.items() if key in fields]
    if len(owners) > 1:
        raise ConfigurationError(f"--{key} could mean {' or '.join(f'--{owner}.{key}' for owner in owners)}.")
    if not owners:
        hint = elsewhere(key, list(known)) or nearest(key, [k for f in known.values() for k in f])
        raise ConfigurationError(f"unknown key --{key}{hint}.")
    return owners[0], key


def _checked(section: str, key: str, value: Any, expected: Any) -> Any:
    options = (
        typing.get_args(expected) if typing.get_origin(expected) in (typing.Union, types.UnionType) else (expected,)
    )
    if float in options and int not in options:
        value = _as_float(value)
    if list[float] in options and isinstance(value, list):
        value = [_as_float(item) for item in value]
    if isinstance(value, dict) and any(typing.get_args(option)[1:] == (float,) for option in options):
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


def build(section: str, cls: type[Section], values: dict[str, Any]) -> Section:
    """The dataclass of a section with these values.

    Args:
        section: name of the section, for messages.
        cls: dataclass of the section.
        values: values of its fields, by name.

    Raises:
        ConfigurationError: if the dataclass refuses a value.
    """
    try:
        return cls(**values)
    except (ArithmeticError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigurationError(f"section {section!r}: {one_line(error)}") from error
