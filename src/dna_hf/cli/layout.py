"""How a help text is laid out: lines that break between words alone, and keys as argparse lays out options."""

import argparse
import dataclasses
import textwrap
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any


Field = dataclasses.Field[Any]


class Layout(argparse.HelpFormatter):
    """Lines as wide as the terminal that break between words alone: a name with a hyphen stays whole."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.indent("\n".join(self._split_lines(text, width - len(indent))), indent)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def key_help(title: str, fields: Iterable[Field]) -> str:
    """Keys laid out as options."""
    listing = argparse.ArgumentParser(usage=argparse.SUPPRESS, add_help=False, formatter_class=Layout)
    group = listing.add_argument_group(title)
    for field in fields:
        default = _default(field)
        text = field.metadata.get("help", "") + (f" (default: {default})" if default else "")
        group.add_argument(f"--{field.name}", metavar=_kind(field.type), help=text.replace("%", "%%"))
    return listing.format_help()


def _default(field: Field) -> str:
    """The default as one writes it on a command line; nothing where the help text says what happens."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING or value is None or value == "" or value == {}:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")


def _kind(expected: Any) -> str:
    """What a value looks like, in a word."""
    if typing.get_origin(expected) in (typing.Union, types.UnionType):
        return _kind(next(option for option in typing.get_args(expected) if option is not type(None)))
    if typing.get_origin(expected) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(expected))) + "}"
    if typing.get_origin(expected) is list:
        return f"[{_kind(typing.get_args(expected)[0])},...]"
    if typing.get_origin(expected) is dict:
        return "{NAME: " + _kind(typing.get_args(expected)[1]) + ",...}"
    return {int: "N", float: "NUMBER", bool: "{true,false}"}.get(expected, "TEXT")
