"""Read a configuration file: its sections, and single values, as YAML 1.2 reads them."""

import difflib
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from ..errors import sentence
from ..recipes import RecipeError, find
from .errors import ConfigurationError


SECTIONS = ("model", "data", "training", "peft")


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
        The sections `model`, `data`, `training` and `peft`, key -> value; a section that is left out is empty.

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
            raise ConfigurationError(f"unknown section {name!r} in {str(path)!r}{nearest(name, SECTIONS)}.")
        if section is not None and not isinstance(section, dict):
            raise ConfigurationError(f"section {name!r} in {str(path)!r} must hold `key: value` lines.")
    return {name: dict(content.get(name) or {}) for name in SECTIONS}


def nearest(name: Any, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the known one that is most like it, or some of the known."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f": did you mean {matches[0]!r}?" if matches else f": known are {', '.join(sorted(known)[:8])}, ..."


def _problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or sentence(error)
    return f"{problem} in line {mark.line + 1}" if mark is not None else problem
