"""Options that several verbs share, each declared once, and the types of their values."""

import argparse
from pathlib import Path


OUR_NAME = "folder, or name on the Hub"


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """`CHECKPOINT`."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=OUR_NAME)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """`--compare`, further checkpoints."""
    parser.add_argument(
        "--compare", metavar="CHECKPOINT", nargs="+", default=[], help="further models, side by side with the first"
    )


def add_files(parser: argparse.ArgumentParser) -> None:
    """`FILE ...`."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="image file, video file or folder")


def add_config(parser: argparse.ArgumentParser, help: str) -> None:
    """`CONFIG.yaml`."""
    parser.add_argument("config", metavar="CONFIG.yaml", help=help)


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`."""
    parser.add_argument("--device", help="e.g. cuda:1 (default: the first GPU, else the CPU)")


def add_revision(parser: argparse.ArgumentParser) -> None:
    """`--revision` of a checkpoint on the Hub."""
    parser.add_argument("--revision", help="commit, tag or branch on the Hub")


def add_dtype(parser: argparse.ArgumentParser, help: str) -> None:
    """`--dtype`."""
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help=help)


def add_split(parser: argparse.ArgumentParser, help: str) -> None:
    """`--split`."""
    parser.add_argument("--split", default="test", help=f"{help} (default: %(default)s)")


def add_output_file(parser: argparse.ArgumentParser) -> None:
    """`--output FILE.json`."""
    parser.add_argument("--output", metavar="FILE.json", type=Path, help="also write the figures to this file")


def add_output_dir(parser: argparse.ArgumentParser, *spellings: str, help: str = "folder to write to") -> None:
    """`--output-dir DIR`, and the spellings of earlier versions."""
    names = ("--output-dir", "--output_dir", *spellings)
    parser.add_argument(*names, metavar="DIR", type=Path, required=True, dest="output_dir", help=help)


def add_colours(parser: argparse.ArgumentParser) -> None:
    """`--colours`."""
    parser.add_argument(
        "--colours", "--colors", choices=("red-blue", "orange-purple"), default="red-blue", help="default: %(default)s"
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How a video LLM reads videos: `--fps`, `--max-frames` and `--max-visual-tokens`."""
    own = "(default: as the checkpoint says)"
    parser.add_argument("--fps", type=float, metavar="N", help=f"frames of each second to look at {own}")
    parser.add_argument(
        "--max-frames", "--max_frames", type=positive, metavar="N", help=f"frames of a video at most {own}"
    )
    parser.add_argument(
        "--max-visual-tokens",
        "--max_visual_tokens",
        type=positive,
        metavar="N",
        help=f"tokens that all frames share {own}",
    )


def add_max_new_tokens(parser: argparse.ArgumentParser, default: int) -> None:
    """`--max-new-tokens` of an answer."""
    parser.add_argument(
        "--max-new-tokens",
        "--max_new_tokens",
        type=positive,
        default=default,
        metavar="N",
        help="tokens of an answer at most (default: %(default)s)",
    )


def words(text: str) -> list[str]:
    """Words with commas between."""
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between."""
    try:
        return [int(word) for word in words(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between, got {text!r}") from error


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return number
