"""The command line: `dna-hf VERB`, a file for each verb with its options (`add`) and its action (`run`).

What a user did wrong ends in one sentence on stderr and exit code 2; anything else is a bug and shows its traceback.
Heavy imports happen inside the actions.
"""

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from . import (
    analyze,
    answer,
    benchmark,
    chat,
    compare,
    convert,
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
from .keys import parse_overrides


__all__ = ["build_parser", "main", "parse_overrides"]

# in the order of the help
VERBS = (
    *(train, recipes, evaluate, predict, answer, chat, distractors, compare, benchmark),
    *(convert, merge, publish, visualize, analyze, demo),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from ..errors import DnaError

    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and not arguments.takes_keys:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return arguments.run(arguments, rest)
    except DnaError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("\ndna-hf: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs. Keys of a configuration are not options here: they are checked where they belong."""
    parser = argparse.ArgumentParser(
        prog="dna-hf",
        description="Denoising Attention: train, evaluate, convert, publish, and look inside.",
    )
    parser.add_argument("--version", action="version", version=f"dna-hf {__version__}")
    parser.set_defaults(takes_keys=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb in VERBS:
        verb.add(commands)
    return parser


def _fail(error: Exception) -> int:
    # an error from a data loader worker arrives with the worker's traceback in front of its own sentence
    sentence = str(error).strip().splitlines()[-1]
    sentence = sentence.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
    print(f"dna-hf: error: {sentence}", file=sys.stderr)
    return 2
