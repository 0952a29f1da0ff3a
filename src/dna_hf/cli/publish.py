"""`dna-hf publish`."""

import argparse
from typing import Any

from .table import table


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "publish",
        help="publish a checkpoint folder on the Hub",
        description="Publish a checkpoint folder in one commit: weights, configuration, code, processor, "
        "model card and measured figures; then load it from there and compare. An incomplete folder is refused.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder that train or convert wrote")
    parser.add_argument("repo_id", metavar="USER/NAME", help="name of the repository")
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to publish to (default: main)")
    parser.add_argument("--licence", "--license", metavar="NAME", help="licence of the weights, e.g. apache-2.0")
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="of a weights file (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="make and check everything, upload nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf publish CHECKPOINT USER/NAME`."""
    from ..hub.publish import publish

    published = publish(
        arguments.checkpoint,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        licence=arguments.licence,
        max_shard_size=arguments.max_shard_size,
        dry_run=arguments.dry_run,
    )
    if arguments.dry_run:
        print(published.card)
    print(published_table(published))
    return 0


def published_table(published: Any) -> str:
    """What was published, as tables."""
    rows = [(name, f"{size:,}") for name, size in published.files.items()]
    files = table(("file", "bytes"), rows)
    if not published.commit:
        return f"{files}\n\ndry run: nothing was uploaded"
    facts = [
        ("commit", published.commit),
        ("tag", published.tag),
        ("loaded without dna-hf", f"differs by {published.max_difference:.1e} from the local model"),
    ]
    return f"{files}\n\n{table(('published', published.repo_id), facts)}"
