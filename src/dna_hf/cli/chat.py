"""`dna-hf chat`."""

import argparse
from typing import Any

from .interrupt import cleaned_up
from .options import add_checkpoint, add_place, add_reading, chosen
from .parser import add_verb
from .values import number, seed


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "chat",
        run,
        help="talk with a video LLM about videos and images",
        description="Talk with a video LLM about videos and images: a question a line; /help lists the commands.",
        example="chat runs/merged --video clip.mp4 --question 'What happens here?'",
        go_on="nothing was written",
    )
    add_checkpoint(parser)
    parser.add_argument("--video", action="append", default=[], metavar="FILE", help="show this video first")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="show this image first")
    parser.add_argument("--question", metavar="TEXT", help="answer this question and end")
    add_reading(parser, max_new_tokens=512)
    add_place(parser)
    parser.add_argument(
        "--temperature", type=number, metavar="NUMBER", help="draw answers at random (default: the most likely one)"
    )
    parser.add_argument(
        "--seed", type=seed, metavar="N", help="seed of the draws, which --temperature asks for (default: 0)"
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf chat CHECKPOINT [--video FILE] [--image FILE] [--question TEXT]`."""
    if arguments.seed is not None and not arguments.temperature:
        arguments.parser.error("--seed is for answers that are drawn: give --temperature, too")

    from ..presence import must_be_there

    must_be_there(arguments.checkpoint, arguments.revision)
    from transformers import set_seed

    from ..chat import Chat
    from ..kinds import VIDEO_LLM, load
    from .conversation import converse, typed_lines

    options: dict[str, Any] = {"max_new_tokens": arguments.max_new_tokens}
    if arguments.temperature:
        set_seed(arguments.seed or 0)
        options |= {"do_sample": True, "temperature": arguments.temperature}
    loaded = load(arguments.checkpoint, wanted=(VIDEO_LLM,), **chosen(arguments, "device", "revision", "dtype"))
    chat = Chat(
        loaded.model,
        loaded.processor,
        stream=True,
        videos=chosen(arguments, "fps", "max_frames", "max_visual_tokens"),
        **options,
    )
    cleaned_up()
    for kind in ("video", "image"):
        for path in getattr(arguments, kind):
            chat.show(kind, path)
    if arguments.question is not None:
        chat.ask(arguments.question)
    else:
        converse(chat, typed_lines())
    return 0
