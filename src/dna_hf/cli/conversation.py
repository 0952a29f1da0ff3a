"""The conversation of `dna-hf chat`: lines that are typed, questions and commands."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..chat import Chat
from ..data.errors import DataError


HELP = """\
/video PATH   show a video with the next question
/image PATH   show an image with the next question
/reset        forget everything that was said and shown
/help         these lines
/quit         end, as the end of the input does"""


def converse(chat: Chat, lines: Iterable[str]) -> None:
    """Answer questions and follow commands, a line each, until `/quit` or the end.

    What goes wrong is told on stderr in one sentence; then the next line is read. Ctrl-C ends an answer.
    """
    for line in lines:
        command, _, argument = line.strip().partition(" ")
        if command in ("/quit", "/exit"):
            return
        try:
            _follow(chat, command, argument.strip().strip("\"'"), line.strip())
        except DataError as error:
            print(f"dna-hf: error: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print("\n(interrupted)", file=sys.stderr)


def _follow(chat: Chat, command: str, argument: str, line: str) -> None:
    if not line:
        return
    if command in ("/video", "/image"):
        if not argument:
            raise DataError(f"{command} needs a path.")
        chat.show(command[1:], str(Path(argument).expanduser()))
    elif command == "/reset":
        chat.reset()
    elif command == "/help":
        print(HELP)
    elif command.startswith("/"):
        raise DataError(f"there is no command {command}: /help lists them.")
    else:
        chat.ask(line)


def typed_lines() -> Iterator[str]:
    """Lines of stdin, with a prompt where someone types them."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            yield input(prompt)
        except EOFError:
            return
