"""Keys of a run on the command line: a wrong one is named before transformers, which has most of them, is imported."""

import difflib
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..data.arguments import VIEW_KEYS
from ..training.errors import ConfigurationError


PACKAGE = Path(__file__).parent.parent
# where the classes of the sections of a run, and their bases, are written
OURS = ("data/*.py", "models/configuration_*.py", "training/*.py")
THEIRS = ("*.py", "models/video_llama_3/configuration_*.py")
# a field of a dataclass, or what looks like one
FIELD = re.compile(r"^    ([a-z]\w*): ", re.MULTILINE)


def check_run_keys(overrides: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Name the keys that no run has, and those that have no effect on any.

    Whether a key belongs to the model of this run, and its value, is checked with the run.

    Args:
        overrides: key, or `section.key` -> value, as given beside the file.
        sections: the sections of the file.

    Raises:
        ConfigurationError: for such a key.
    """
    for key in (*(f"--{key}" for key in overrides), *(f"data.{key}" for key in sections["data"])):
        if key.removeprefix("--").removeprefix("data.") in VIEW_KEYS:
            raise ConfigurationError(f"{key} has no effect on training: it is for dna-hf evaluate.")
    known = _known() if overrides else set()
    missing = [key for key in overrides if key.rpartition(".")[2] not in known]
    if missing:
        found = difflib.get_close_matches(missing[0].rpartition(".")[2], _proposed(), n=1)
        hint = f"did you mean {found[0]!r}?" if found else "see dna-hf train --help."
        raise ConfigurationError(f"unknown key --{missing[0]}: {hint}")


def _known() -> set[str]:
    """All that could be a key: more than is one, never less."""
    return {name for text in _texts(PACKAGE, OURS) + _texts(_transformers(), THEIRS) for name in FIELD.findall(text)}


def _proposed() -> set[str]:
    """Where to look for what was meant."""
    texts = _texts(PACKAGE, OURS) + _texts(_transformers(), ("training_args.py",))
    return {name for text in texts for name in FIELD.findall(text)} - set(VIEW_KEYS)


def _texts(folder: Path, patterns: Iterable[str]) -> list[str]:
    return [path.read_text(encoding="utf-8") for pattern in patterns for path in sorted(folder.glob(pattern))]


def _transformers() -> Path:
    """Where transformers lies, without importing it."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
