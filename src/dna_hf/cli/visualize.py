"""`dna-hf visualize`."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from .options import add_checkpoint, add_colours, add_compare, add_files, add_output_dir, add_place, chosen
from .parser import Parser, add_verb
from .values import fraction


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "visualize",
        run,
        help="figures of where a model looks in images or videos, by branch",
        description="Draw where classifiers, or the probes of video language models, look: in red what the positive "
        "branch attends to, in blue what the negative branch attends to, over the picture as the model sees it. "
        "Colours show attention in multiples of what every token would get if all got the same. The maps are formed "
        "on whatever attention implementation the model has. Figures and two files that say how they were made are "
        "written.",
        example="visualize runs/dna picture.png --output-dir figures",
    )
    add_checkpoint(parser)
    add_files(parser)
    add_output_dir(parser, "--output", "-o")
    add_compare(parser)
    parser.add_argument(
        "--kind",
        choices=("attention", "rollout", "relevance"),
        default="attention",
        help="attention: maps of a layer; rollout: through all layers; relevance: weighted by the gradients of a "
        "class (default: %(default)s)",
    )
    parser.add_argument(
        "--layer",
        type=_number_or("all"),
        default=-1,
        metavar="{N,all}",
        help="layer whose attention is drawn: number from 0, from -1 backwards, or all (default: %(default)s)",
    )
    parser.add_argument(
        "--head",
        type=_number_or("mean", "all"),
        default="mean",
        metavar="{N,mean,all}",
        help="head whose attention is drawn: number from 0, mean or all (default: %(default)s)",
    )
    parser.add_argument(
        "--query",
        type=_token,
        default="class",
        metavar="TOKEN",
        help="the token that attends: class, its number, or ROW,COLUMN of a patch; of a video language model the "
        "number of a probe (default: class, or all probes)",
    )
    parser.add_argument(
        "--axis", choices=("space", "time"), help="attention over space or over time in videos (default: space)"
    )
    parser.add_argument(
        "--target",
        metavar="CLASS",
        help="class, or token of an answer, whose relevance is drawn (default: the predicted)",
    )
    parser.add_argument(
        "--question", metavar="TEXT", help="what a video language model is asked (default: What happens here?)"
    )
    _add_drawing(parser)
    add_place(parser)


def _add_drawing(parser: Parser) -> None:
    parser.add_argument(
        "--show",
        choices=("branches", "difference", "positive", "negative", "combined"),
        help="branches: each, and positive minus negative; combined: positive + alpha * negative (default: branches "
        "of one model, difference of several)",
    )
    add_colours(parser)
    parser.add_argument(
        "--opacity",
        type=fraction,
        default=0.85,
        metavar="NUMBER",
        help="opacity of the colours, up to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=("png", "svg"), default="png", help="format of figures (default: %(default)s)"
    )
    parser.add_argument(
        "--animation",
        choices=("gif", "mp4", "none"),
        default="gif",
        help="animation of each video (default: %(default)s)",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf visualize CHECKPOINT FILE... --output-dir DIR`."""
    from ..presence import must_be_there

    for checkpoint in (arguments.checkpoint, *arguments.compare):
        must_be_there(checkpoint, arguments.revision)
    from ..analysis.sight import VisualizeSettings
    from ..analysis.visualize import visualize

    settings = VisualizeSettings(
        **chosen(arguments, "kind", "head", "query", "axis", "show", "target", "question"),
        **chosen(arguments, "colours", "opacity", "animation"),
        layer=None if arguments.layer == "all" else arguments.layer,
        file_format=arguments.format,
    )
    done = visualize(
        [arguments.checkpoint, *arguments.compare],
        arguments.files,
        arguments.output_dir,
        settings,
        **chosen(arguments, "device", "revision"),
    )
    for reason in done.skipped:
        print(f"dna-hf: left out: {reason}", file=sys.stderr)
    print("written:\n" + "\n".join(f"  {path}" for path in done.files))
    return 0


def _number_or(*allowed: str) -> Callable[[str], int | str]:
    """The type of a whole number, or one of some words."""

    def read(text: str) -> int | str:
        if text in allowed:
            return text
        try:
            return int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be a whole number or {' or '.join(allowed)}, got {text!r}"
            ) from None

    return read


def _token(text: str) -> str | int | tuple[int, ...]:
    """A token as the analyses name it: `class`, a number, or the place of a patch."""
    if text == "class":
        return text
    try:
        numbers = tuple(map(int, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be class, a number or ROW,COLUMN, got {text!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers
