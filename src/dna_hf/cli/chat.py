"""`dna-hf chat`."""

import argparse
from typing import Any

from .options import add_checkpoint, add_device, add_dtype, add_max_new_tokens, add_reading, add_revision


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "chat",
        help="talk with a video LLM about videos and images",
        description="Talk with a video LLM about videos and images: a question a line; /help lists the commands.",
        allow_abbrev=False,
    )
    add_checkpoint(parser)
    parser.add_argument("--video", action="append", default=[], metavar="FILE", help="show this video first")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="show this image first")
    parser.add_argument("--question", metavar="TEXT", help="answer this question and end")
    add_reading(parser)
    add_max_new_tokens(parser, 512)
    add_dtype(parser, "of the weights (default: as saved)")
    add_device(parser)
    add_revision(parser)
    parser.add_argument("--temperature", type=float, help="draw answers at random (default: the most likely one)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf chat CHECKPOINT [--video FILE] [--image FILE] [--question TEXT]`."""
    from transformers import set_seed

    from ..chat import Chat, converse, typed_lines
    from ..kinds import VIDEO_LLM, load

    options: dict[str, Any] = {"max_new_tokens": arguments.max_new_tokens}
    if arguments.temperature:
        set_seed(arguments.seed)
        options |= {"do_sample": True, "temperature": arguments.temperature}
    where = {name: getattr(arguments, name) for name in ("device", "revision", "dtype")}
    loaded = load(arguments.checkpoint, wanted=(VIDEO_LLM,), **where)
    chat = Chat(
        loaded.model,
        loaded.processor,
        stream=True,
        videos={name: getattr(arguments, name) for name in ("fps", "max_frames", "max_visual_tokens")},
        **options,
    )
    for kind in ("video", "image"):
        for path in getattr(arguments, kind):
            chat.show(kind, path)
    if arguments.question is not None:
        chat.ask(arguments.question)
    else:
        converse(chat, typed_lines())
    return 0
