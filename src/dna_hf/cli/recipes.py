"""`dna-hf recipes`."""

import argparse
import shutil
import sys
import textwrap
from typing import Any

from .parser import add_verb
from .values import output_file


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "recipes",
        run,
        help="list the configurations that come with the package, print one, or copy it to edit",
        description="List the configurations that come with the package, with their purpose and cost; print one; "
        "or copy it to a file to edit. train, compare and benchmark data take the name of a recipe, or the path of a "
        "file.",
        example="recipes vit_tiny_fashion_mnist --copy mine.yaml",
    )
    parser.add_argument("recipe", metavar="NAME", nargs="?", help="recipe to print or copy (default: list all)")
    parser.add_argument(
        "--copy", metavar="FILE", type=output_file, help="copy the recipe to this file, which must not exist"
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf recipes [NAME [--copy FILE]]`."""
    from .. import recipes

    if arguments.copy is not None:
        if arguments.recipe is None:
            raise recipes.RecipeError("--copy needs the name of a recipe: dna-hf recipes lists all.")
        print(f"copied to {recipes.copy(arguments.recipe, arguments.copy)}")
    elif arguments.recipe is not None:
        sys.stdout.write(recipes.text(arguments.recipe))
    else:
        found = recipes.recipes()
        print("to train (dna-hf train NAME):\n")
        print("\n".join(map(_entry, (recipe for recipe in found if not recipe.is_launcher))))
        print(
            "to launch on several processes (dna-hf recipes NAME --copy FILE, accelerate launch --config_file FILE):\n"
        )
        print("\n".join(map(_entry, (recipe for recipe in found if recipe.is_launcher))))
        print(f"documents that explain them: {recipes.folder().parent / 'docs'}")
    return 0


def _entry(recipe: Any) -> str:
    """The name, and indented below it what the recipe is for and what it costs."""
    width = max(40, min(shutil.get_terminal_size().columns, 119))
    texts = [recipe.purpose, *([f"cost: {recipe.cost}"] if recipe.cost else [])]
    return (
        "\n".join([recipe.name, *(textwrap.indent(textwrap.fill(text, width - 4), "    ") for text in texts)]) + "\n"
    )
