"""`--key value` on the command line, read as the values of a YAML file."""

from collections.abc import Sequence
from typing import Any


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read `--key value`, `--key=value` and `--flag` (true) into a dictionary.

    Raises:
        ConfigurationError: for a word that belongs to no key.
    """
    from ..training.errors import ConfigurationError
    from ..training.yaml_file import parse_value

    overrides: dict[str, Any] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise ConfigurationError(f"unexpected argument {word!r}: overrides are written --key value.")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = "true" if not words or words[0].startswith("--") else words.pop(0)
        overrides[key.replace("-", "_")] = parse_value(value)
    return overrides
