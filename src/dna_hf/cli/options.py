"""Options that several verbs share, each declared once."""

from argparse import Namespace
from typing import Any

from ..data.arguments import HELD_OUT
from .parser import Parser
from .values import name as given_name
from .values import output_file, output_folder, positive, positive_number, seed


DTYPES = ("float32", "float16", "bfloat16")


def chosen(arguments: Namespace, *names: str) -> dict[str, Any]:
    """What was given for some options, by their name in Python."""
    return {name: getattr(arguments, name) for name in names}


def add_checkpoint(parser: Parser, *, several: bool = False) -> None:
    """`CHECKPOINT`, or `CHECKPOINT ...` in `checkpoints`."""
    name, count = ("checkpoints", "+") if several else ("checkpoint", None)
    parser.add_argument(name, metavar="CHECKPOINT", type=given_name, nargs=count, help="folder, or name on the Hub")


def add_compare(parser: Parser) -> None:
    """`--compare`, further checkpoints."""
    parser.add_argument(
        "--compare",
        metavar="CHECKPOINT",
        type=given_name,
        nargs="+",
        default=[],
        help="further models, side by side with the first",
    )


def add_files(parser: Parser) -> None:
    """`FILE ...`."""
    parser.add_argument("files", metavar="FILE", type=given_name, nargs="+", help="image file, video file or folder")


def add_config(parser: Parser, help: str) -> None:
    """`CONFIG`."""
    parser.add_argument("config", metavar="CONFIG", help=f"{help}: name of a recipe (see dna-hf recipes) or YAML file")


def add_device(parser: Parser) -> None:
    """`--device` to run on."""
    parser.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (default: the first GPU, else the CPU)"
    )


def add_place(parser: Parser) -> None:
    """`--device` to run on and `--revision` of a checkpoint on the Hub."""
    add_device(parser)
    parser.add_argument("--revision", metavar="NAME", help="commit, tag or branch on the Hub (default: main)")


def add_dtype(parser: Parser, help: str) -> None:
    """`--dtype`."""
    parser.add_argument("--dtype", choices=DTYPES, help=help)


def add_batch_size(parser: Parser, default: int | None, help: str) -> None:
    """`--batch-size`; without a default the help says what happens."""
    text = help if default is None else f"{help} (default: %(default)s)"
    parser.add_argument("--batch-size", type=positive, default=default, metavar="N", help=text)


def add_seed(parser: Parser, help: str) -> None:
    """`--seed`."""
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help=f"{help} (default: %(default)s)")


def add_held_out_seed(parser: Parser, option: str = "--seed") -> None:
    """`--seed` of the training that held a part out."""
    parser.add_argument(
        option,
        type=seed,
        metavar="N",
        help="with --split held-out: seed of the training (default: as the checkpoint's record says)",
    )


def add_split(parser: Parser, help: str) -> None:
    """`--split`."""
    text = f"{help}; {HELD_OUT}: the part of the training split that training held out (default: %(default)s)"
    parser.add_argument("--split", default="test", metavar="NAME", help=text)


def add_output(parser: Parser, help: str = "also write the figures to this file") -> None:
    """`--output FILE.json`."""
    parser.add_argument("--output", metavar="FILE.json", type=output_file, help=help)


def add_output_dir(parser: Parser, *spellings: str, required: bool = True, help: str = "folder to write to") -> None:
    """`--output-dir DIR`, and the spellings of earlier versions."""
    parser.add_argument(
        *("--output-dir", *spellings),
        dest="output_dir",
        metavar="DIR",
        type=output_folder,
        required=required,
        help=help,
    )


def add_colours(parser: Parser) -> None:
    """`--colours` of figures."""
    parser.add_argument(
        *("--colours", "--colors"),
        choices=("red-blue", "orange-purple"),
        default="red-blue",
        help="colours of the positive and the negative branch (default: %(default)s)",
    )


def add_reading(parser: Parser, max_new_tokens: int) -> None:
    """How a video LLM reads videos and how long it answers, and the dtype of its weights."""
    own = "(default: as the checkpoint says)"
    parser.add_argument(
        "--fps", type=positive_number, metavar="NUMBER", help=f"frames of each second to look at {own}"
    )
    parser.add_argument("--max-frames", type=positive, metavar="N", help=f"frames of a video at most {own}")
    parser.add_argument("--max-visual-tokens", type=positive, metavar="N", help=f"tokens that all frames share {own}")
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        default=max_new_tokens,
        metavar="N",
        help="tokens of an answer at most (default: %(default)s)",
    )
    add_dtype(parser, "dtype of the weights (default: as saved)")
