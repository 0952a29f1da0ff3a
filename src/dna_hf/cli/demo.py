"""`dna-hf demo`."""

import argparse
from typing import Any

from .interrupt import cleaned_up
from .options import add_checkpoint, add_compare, add_place
from .parser import add_verb
from .values import empty_folder, port


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "demo",
        run,
        help="a page to drop images or videos on, and to ask where attention goes",
        description="Serve a page on this machine: drop an image (or a video), choose layer and head, click on a "
        "patch to ask what it attends to, turn the negative branch up, down or off. A video language model is asked a "
        "question as well, and shows what its probes look at. Nothing is sent anywhere.",
        example="demo runs/vit_tiny_fashion_mnist --compare runs/softmax",
        go_on="repeat the command to serve the page again",
    )
    add_checkpoint(parser)
    add_compare(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on (default: %(default)s, this machine)",
    )
    parser.add_argument(
        "--port", type=port, metavar="N", help="port to listen on (default: the first free one from 7860 on)"
    )
    add_place(parser)
    parser.add_argument(
        "--export-space",
        metavar="DIR",
        type=empty_folder,
        help="serve nothing: write the page as a Space of the Hub to this empty folder",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf demo CHECKPOINT [--compare ...]`."""
    from ..demo.address import check_address
    from ..demo.app import import_gradio, serve
    from ..demo.explore import load_explorer
    from ..demo.space import export_space

    checkpoints = [arguments.checkpoint, *arguments.compare]
    if arguments.export_space is not None:
        export_space(checkpoints, arguments.export_space, arguments.revision, arguments.device)
        print(f"written to {arguments.export_space}: try it with python app.py there, then push it as a Space")
        return 0
    # before models are loaded
    check_address(arguments.host, arguments.port)
    import_gradio()
    explorer = load_explorer(checkpoints, arguments.device, arguments.revision)
    cleaned_up()
    serve(explorer, arguments.host, arguments.port)
    return 0
