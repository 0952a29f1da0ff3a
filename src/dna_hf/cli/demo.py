"""`dna-hf demo`."""

import argparse
from pathlib import Path
from typing import Any

from .options import add_checkpoint, add_compare, add_device, add_revision, positive


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "demo",
        help="a page to drop images or videos on, and to ask where attention goes",
        description="Serve a page on this machine: drop an image (or a video), choose layer and head, click on a "
        "patch to ask what it attends to, turn the negative branch up, down or off. A video language model is asked a "
        "question as well, and shows what its probes look at. Nothing is sent anywhere.",
        allow_abbrev=False,
    )
    add_checkpoint(parser)
    add_compare(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)"
    )
    parser.add_argument("--port", type=positive, help="port to listen on (default: the first free one from 7860 on)")
    add_device(parser)
    add_revision(parser)
    parser.add_argument(
        "--export-space", metavar="DIR", type=Path, help="serve nothing: write the page as a Space of the Hub to DIR"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf demo CHECKPOINT [--compare ...]`."""
    from ..demo.app import serve
    from ..demo.explore import load_explorer
    from ..demo.space import export_space

    checkpoints = [arguments.checkpoint, *arguments.compare]
    explorer = load_explorer(checkpoints, arguments.device, arguments.revision)
    if arguments.export_space is not None:
        export_space(checkpoints, arguments.export_space, arguments.revision)
        print(f"written to {arguments.export_space}: try it with python app.py there, then push it as a Space")
        return 0
    serve(explorer, arguments.host, arguments.port)
    return 0
