"""Keys of a configuration on the command line: read into a dictionary, and listed in the help."""

import dataclasses
from collections.abc import Sequence
from typing import Any


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read `--key value`, `--key=value` and `--flag` (true) into a dictionary.

    Raises:
        ConfigurationError: for a word that belongs to no key.
    """
    from ..training.config_file import parse_value
    from ..training.errors import ConfigurationError

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


def data_help() -> str:
    """Keys of the data of images and videos."""
    from ..data.arguments import ImageDataArguments, VideoDataArguments

    return (
        f"keys of section data, for images:\n{_key_lines(ImageDataArguments)}\n"
        f"keys of section data, for videos:\n{_key_lines(VideoDataArguments)}"
    )


def video_llm_help() -> str:
    """Keys of a run of a video LLM."""
    from ..data.conversation_arguments import ConversationDataArguments

    return (
        f"\nkeys of section data, for video LLMs:\n{_key_lines(ConversationDataArguments)}\n"
        "keys of section training, for video LLMs: learning_rates, lora_rank, lora_alpha, lora_dropout, lora_targets"
    )


def question_help() -> str:
    """Keys of questions to a video LLM."""
    from ..data.conversation_arguments import QuestionDataArguments

    return f"keys of section data, for video LLMs:\n{_key_lines(QuestionDataArguments)}"


def _key_lines(section: type) -> str:
    return "\n".join(f"  --{field.name}  {field.metadata['help']}" for field in dataclasses.fields(section))
