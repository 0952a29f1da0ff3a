"""The parser of a verb: errors in one sentence, and a help text that ends with the keys it takes and an example."""

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import DnaError
from .layout import Field, Layout, key_help, listed


KeyGroups = Mapping[str, Iterable[Field]]


class UsageError(DnaError):
    """The words of a command line cannot be understood; the message names them and the fix."""


class Parser(argparse.ArgumentParser):
    """What argparse does, with errors in one sentence, and keys and an example in the help.

    Args:
        keys: title -> keys that the verb takes as `--key value` beside its options; by default it takes none.
        example: a command that works, without `dna-hf`.
        options: arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, *, keys: KeyGroups | None = None, example: str = "", **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=Layout, **options)
        self.keys = keys
        self.example = example

    @property
    def options(self) -> list[str]:
        """All spellings of its options."""
        return [name for action in self._actions for name in action.option_strings]

    def format_help(self) -> str:
        """The help text, as wide as the terminal."""
        parts = [super().format_help(), *(key_help(*group) for group in (self.keys or {}).items())]
        if self.example:
            parts.append(f"example:\n  dna-hf {self.example}\n")
        return "\n".join(parts)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse says nothing of an output that cannot be written
        stream = file or sys.stderr
        if message and stream is not None:
            stream.write(message)

    def error(self, message: str) -> NoReturn:
        """Say in one sentence what is wrong.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message.removeprefix('argument ').rstrip('.')}; see {self.prog} --help.")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Name words that this verb does not know.

        Raises:
            UsageError: always.
        """
        found = difflib.get_close_matches(words[0].partition("=")[0], self.options, n=1)
        self.error(f"unrecognized arguments: {' '.join(words)}{f': did you mean {found[0]}?' if found else ''}")


def add_verb(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace, list[str]], int],
    *,
    help: str,
    description: str,
    example: str,
    keys: KeyGroups | None = None,
    go_on: str = "repeat the command",
) -> Parser:
    """Declare a verb.

    Args:
        commands: subparsers of the parser that gets the verb.
        name: name of the verb.
        run: its action: `run(arguments, rest)`, where `rest` holds the words of keys; returns the exit code.
        help: what the verb does, in a line of `dna-hf --help`.
        description: what the verb does, in sentences.
        example: a command that works, without `dna-hf`.
        keys: title -> keys that the verb takes beside its options; by default it takes none.
        go_on: what a user who pressed Ctrl-C can do, for the message.
    """
    parser: Parser = commands.add_parser(name, help=help, description=description, example=example, keys=keys)
    parser.set_defaults(run=run, parser=parser, go_on=go_on)
    return parser


def grouped(title: str, by_unit: KeyGroups) -> dict[str, list[Field]]:
    """Keys that several units share under one title, which names the units.

    Args:
        title: what the keys are keys of, for the help text.
        by_unit: what the keys are for, e.g. `"images"` -> the keys.
    """
    units: dict[str, list[str]] = {}
    fields: dict[str, Field] = {}
    for unit, each in by_unit.items():
        for field in each:
            same = f"{field.name} {field.default} {field.metadata}"
            units.setdefault(same, []).append(unit)
            fields[same] = field
    groups: dict[str, list[Field]] = {}
    for same, field in sorted(fields.items(), key=lambda item: -len(units[item[0]])):
        groups.setdefault(f"{title}, for {listed(units[same])}", []).append(field)
    return groups
