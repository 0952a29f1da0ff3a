"""The command line: `dna-hf train`, `evaluate` and `predict`.

What a user did wrong ends in one sentence on stderr and exit code 2; anything else is a bug and shows its traceback.
Heavy imports happen inside the commands.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from .data.errors import DataError
    from .training.errors import ConfigurationError

    arguments, rest = build_parser().parse_known_args(argv)
    try:
        return arguments.command(arguments, rest)
    except (ConfigurationError, DataError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("\ndna-hf: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Keys of a configuration are not options here: they are checked where they belong."""
    parser = argparse.ArgumentParser(prog="dna-hf", description="Denoising Attention: train, evaluate, predict.")
    parser.add_argument("--version", action="version", version=f"dna-hf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = commands.add_parser(
        "train",
        help="train a model as a YAML file describes",
        description="Train a model as a YAML file describes. Any key of the file can be overridden: --key value.",
        epilog="keys of section model: attention_variant, hidden_size, image_size, ... (all fields of DnAViTConfig), "
        "checkpoint\nkeys of section training: all fields of transformers.TrainingArguments\n" + _data_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    train.add_argument("config", metavar="CONFIG.yaml", help="the run, e.g. configs/vit_tiny_fashion_mnist.yaml")
    train.add_argument("--resume", action="store_true", help="continue the run in output_dir from its last checkpoint")
    train.set_defaults(command=train_command)

    evaluate = commands.add_parser(
        "evaluate",
        help="top-1, top-5, loss and accuracy per class of a checkpoint",
        description="Evaluate an image classifier. Labels are matched to the model's classes by name.",
        epilog=_data_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name on the Hub")
    evaluate.add_argument("--split", default="test", help="split to evaluate on (default: %(default)s)")
    evaluate.add_argument("--batch-size", type=_positive, default=64, help="images at a time (default: %(default)s)")
    evaluate.add_argument("--device", help="e.g. cuda:1 (default: the first GPU, else the CPU)")
    evaluate.add_argument("--output", metavar="FILE.json", type=Path, help="also write the figures to this file")
    evaluate.set_defaults(command=evaluate_command)

    predict = commands.add_parser(
        "predict",
        help="classify image files",
        description="Classify image files, and all images in folders.",
        allow_abbrev=False,
    )
    predict.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name on the Hub")
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="image file or folder")
    predict.add_argument("--top-k", type=_positive, default=5, help="classes to show (default: %(default)s)")
    predict.add_argument("--batch-size", type=_positive, default=32, help="images at a time (default: %(default)s)")
    predict.add_argument("--device", help="e.g. cuda:1 (default: the first GPU, else the CPU)")
    predict.set_defaults(command=predict_command)
    return parser


def train_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf train CONFIG.yaml [--key value ...]`."""
    from .training.config_file import read_sections, run_config

    overrides = parse_overrides(rest)
    sections = read_sections(arguments.config)
    sections["training"].setdefault("output_dir", str(Path("runs") / Path(arguments.config).stem))
    run = run_config(sections, overrides)

    from .training.image_classification import train_image_classifier

    result = train_image_classifier(run, resume=arguments.resume)
    if run.training.process_index == 0:
        rows = [
            ("attention variant", result.attention_variant),
            ("parameters", f"{result.parameters:,}"),
            ("training time", f"{result.seconds:.0f} s"),
            ("top-1", f"{100 * result.metrics['eval_top1']:.2f} %"),
            ("top-5", f"{100 * result.metrics['eval_top5']:.2f} %"),
            ("loss", f"{result.metrics['eval_loss']:.4f}"),
            ("saved in", str(result.output_dir)),
        ]
        print("\n" + table(("evaluation", run.data.dataset), rows))
    return 0


def evaluate_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf evaluate CHECKPOINT --dataset ... [--split ...]`."""
    from .evaluation.image_classification import evaluate_checkpoint
    from .training.config_file import data_arguments

    data = data_arguments(parse_overrides(rest))
    result = evaluate_checkpoint(
        arguments.checkpoint, data, arguments.split, batch_size=arguments.batch_size, device=arguments.device
    )
    print(table(("class", "images", "accuracy"), _per_class_rows(result.per_class)))
    metrics = result.metrics
    rows = [
        ("images", f"{metrics['images']}"),
        ("top-1", f"{100 * metrics['top1']:.2f} %"),
        ("top-5", f"{100 * metrics['top5']:.2f} %"),
        ("mean class accuracy", f"{100 * metrics['mean_class_accuracy']:.2f} %"),
        ("loss", f"{metrics['loss']:.4f}"),
    ]
    print("\n" + table((f"{data.dataset}, {arguments.split}", ""), rows))
    if arguments.output is not None:
        report = {"checkpoint": arguments.checkpoint, "data": dataclasses.asdict(data), "split": arguments.split}
        report |= dataclasses.asdict(result)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def predict_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf predict CHECKPOINT IMAGE...`."""
    from .evaluation.image_classification import load_classifier
    from .evaluation.predict import classify, image_files

    if rest:
        build_parser().error(f"unrecognized arguments: {' '.join(rest)}")
    files = image_files(arguments.images)
    model, processor = load_classifier(arguments.checkpoint, arguments.device)
    rows, unreadable = [], []
    for prediction in classify(model, processor, files, top_k=arguments.top_k, batch_size=arguments.batch_size):
        if prediction.error is not None:
            unreadable.append(prediction.error)
        for rank, (name, probability) in enumerate(prediction.classes):
            rows.append(("" if rank else str(prediction.path), name, f"{100 * probability:.1f} %"))
    if rows:
        print(table(("image", "class", "probability"), rows))
    for error in unreadable:
        print(f"dna-hf: error: {error}", file=sys.stderr)
    return 2 if unreadable else 0


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read `--key value`, `--key=value` and `--flag` (true) into a dictionary.

    Raises:
        ConfigurationError: for a word that belongs to no key.
    """
    from .training.config_file import parse_value
    from .training.errors import ConfigurationError

    overrides: dict[str, Any] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word == "--":
            raise ConfigurationError(f"unexpected argument {word!r}: overrides are written --key value.")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = "true" if not words or words[0].startswith("--") else words.pop(0)
        overrides[key.replace("-", "_")] = parse_value(value)
    return overrides


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of text under a header; columns but the first are aligned to the right if they are numbers."""
    rows = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    numeric = [all(not row[i] or row[i][0].isdigit() for row in rows) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def _per_class_rows(per_class: dict[str, dict[str, float]]) -> list[tuple[str, str, str]]:
    return [
        (name, str(figures["images"]), f"{100 * figures['accuracy']:.1f} %" if figures["images"] else "-")
        for name, figures in per_class.items()
    ]


def _data_help() -> str:
    from .data.arguments import DataArguments

    lines = [f"  --{field.name}  {field.metadata['help']}" for field in dataclasses.fields(DataArguments)]
    return "keys of section data:\n" + "\n".join(lines)


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return number


def _fail(error: Exception) -> int:
    # an error from a data loader worker arrives with the worker's traceback in front of its own sentence
    sentence = str(error).strip().splitlines()[-1]
    sentence = sentence.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
    print(f"dna-hf: error: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
