"""From the words of a command line to the action of a verb, and from its errors to an exit code."""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from .. import __version__
from ..errors import DnaError
from . import (
    analyze,
    answer,
    benchmark,
    chat,
    compare,
    convert,
    data,
    demo,
    distractors,
    evaluate,
    merge,
    predict,
    publish,
    recipes,
    train,
    visualize,
)
from .interrupt import CODE, answered
from .parser import Parser


# what a disk or a device without room says
FULL = (errno.ENOSPC, errno.EDQUOT)
# in the order of the help
VERBS = (
    *(train, recipes, data, evaluate, predict, answer, chat, distractors, compare, benchmark),
    *(convert, merge, publish, visualize, analyze, demo),
)


def build_parser() -> Parser:
    """The parser of all verbs. Keys of a configuration are not options here: they are checked where they belong."""
    parser = Parser(
        prog="dna-hf",
        description="Denoising Attention: train, evaluate, convert, publish, and look inside.",
        example="VERB --help",
    )
    parser.add_argument("--version", action="version", version=f"dna-hf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb in VERBS:
        verb.add(commands)
    return parser


def spelled(words: Sequence[str]) -> list[str]:
    """The words with `-` for `_` in the names of options: both spellings are the same."""
    words = list(words)
    end = words.index("--") if "--" in words else len(words)
    return [_spelled(word) if word.startswith("--") else word for word in words[:end]] + words[end:]


def _spelled(option: str) -> str:
    name, equals, value = option.partition("=")
    return name.replace("_", "-") + equals + value


def dispatch(words: Sequence[str]) -> int:
    """Run the verb that the words name; returns the exit code, see [`~dna_hf.cli.main`]."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # a terminal that cannot show a class name or a file name shows ? in it
            stream.reconfigure(errors="replace")
    try:
        try:
            return _run(words)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _silence(sys.stdout)
        return 141
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = "the output" if error.filename is None else repr(str(error.filename))
        with suppress(OSError):
            print(f"dna-hf: error: {where} cannot be written: {error.strerror}; make room for it.", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            _silence(stream)
        return 2


def _silence(stream: TextIO | None) -> None:
    """Let whatever else is printed, at the end of the process too, go nowhere, if it cannot go where it should."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(words: Sequence[str]) -> int:
    go_on = "nothing was written"
    try:
        arguments, rest = build_parser().parse_known_args(spelled(words))
        if rest and arguments.parser.keys is None:
            arguments.parser.refuse(rest)
        go_on = arguments.go_on
        with answered(go_on):
            return arguments.run(arguments, rest)
    except DnaError as error:
        print(f"dna-hf: error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ndna-hf: interrupted; {go_on}.", file=sys.stderr)
        return CODE


def _sentence(error: DnaError) -> str:
    """What to tell; an error from a data loader worker has the worker's traceback in front of its own sentence."""
    sentence = str(error).strip().splitlines()[-1]
    return sentence.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
