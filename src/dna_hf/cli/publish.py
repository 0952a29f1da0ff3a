"""`dna-hf publish`."""

import argparse
from typing import Any

from .interrupt import cleaned_up
from .options import chosen
from .parser import add_verb
from .table import table
from .values import size


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "publish",
        run,
        help="publish a checkpoint folder on the Hub",
        description="Publish a checkpoint folder in one commit: weights, configuration, code, processor, "
        "model card and measured figures; then load it from there and compare. An incomplete folder is refused.",
        example="publish runs/vit_tiny_fashion_mnist USER/NAME --licence apache-2.0 --dry-run",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder that train or convert wrote")
    parser.add_argument("repo_id", metavar="USER/NAME", help="name of the repository")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to publish to (default: main)")
    parser.add_argument("--licence", "--license", metavar="NAME", help="licence of the weights, e.g. apache-2.0")
    parser.add_argument(
        "--max-shard-size",
        type=size,
        default="5GB",
        metavar="SIZE",
        help="largest size of a weights file (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="make and check everything, upload nothing")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf publish CHECKPOINT USER/NAME`."""
    from ..hub.publish import publish

    cleaned_up()
    published = publish(
        arguments.checkpoint,
        arguments.repo_id,
        **chosen(arguments, "private", "revision", "licence", "max_shard_size", "dry_run"),
    )
    if arguments.dry_run:
        print(published.card)
    print_published(published)
    return 0


def print_published(published: Any) -> None:
    """Print what was published."""
    print(table(("file", "bytes"), published.file_rows()))
    if not published.commit:
        print("\ndry run: nothing was uploaded")
        return
    print("\n" + table(("published", published.repo_id), published.facts()))
