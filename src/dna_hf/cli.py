"""The command line: `dna-hf train`, `compare`, `evaluate`, `predict`, `answer`, `chat`, `benchmark`, `convert`, ...

What a user did wrong ends in one sentence on stderr and exit code 2; anything else is a bug and shows its traceback.
Heavy imports happen inside the commands.
"""

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import __version__


NO_FIGURE = "no figure was drawn: matplotlib is not installed (pip install 'dna-hf[figures]')"
FAMILIES = (
    *("vit", "deit", "dinov2", "timesformer", "video_llama_3", "video_llama_3_vision", "videollama3"),
    *("timm", "dna_vit"),
    *("authors-vit", "authors-timesformer", "authors-viscop"),
)
VIDEO_MODEL, VIDEO_LLM = "dna_timesformer", "dna_video_llama3"
ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from .errors import DnaError

    arguments, rest = build_parser().parse_known_args(argv)
    try:
        return arguments.command(arguments, rest)
    except DnaError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("\ndna-hf: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Keys of a configuration are not options here: they are checked where they belong."""
    parser = argparse.ArgumentParser(
        prog="dna-hf",
        description="Denoising Attention: train, evaluate, convert, publish, and look inside.",
    )
    parser.add_argument("--version", action="version", version=f"dna-hf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = commands.add_parser(
        "train",
        help="train a model as a YAML file describes",
        description="Train a model as a YAML file describes. Any key of the file can be overridden: --key value.",
        epilog="keys of section model: model_type, attention_variant, hidden_size, image_size, ... (all fields of "
        "DnAViTConfig, of DnATimesformerConfig, or of DnAVideoLlama3Config), checkpoint, checkpoint_revision\n"
        "keys of section training: all fields of transformers.TrainingArguments, decay_all, layer_decay, "
        "ema_decay, base_learning_rate, epoch_cosine, epoch_steps, early_stopping_patience\n"
        + _data_help()
        + _video_llm_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    train.add_argument("config", metavar="CONFIG.yaml", help="the run, e.g. configs/vit_tiny_fashion_mnist.yaml")
    train.add_argument("--resume", action="store_true", help="continue the run in output_dir from its last checkpoint")
    train.set_defaults(command=train_command)

    evaluate = commands.add_parser(
        "evaluate",
        help="top-1, top-5, loss and accuracy per class of a checkpoint",
        description="Evaluate a classifier of images or videos. Labels are matched to the model's classes by name.",
        epilog=_data_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name on the Hub")
    evaluate.add_argument("--revision", help="commit, tag or branch on the Hub")
    evaluate.add_argument("--split", default="test", help="split to evaluate on (default: %(default)s)")
    evaluate.add_argument("--batch-size", type=_positive, help="images (default: 64) or videos (default: 8) at a time")
    evaluate.add_argument("--device", help="e.g. cuda:1 (default: the first GPU, else the CPU)")
    evaluate.add_argument("--output", metavar="FILE.json", type=Path, help="also write the figures to this file")
    evaluate.add_argument(
        "--confusion", metavar="FILE.csv", type=Path, help="also write which classes were taken for which to this file"
    )
    evaluate.add_argument(
        "--record", action="store_true", help="also keep the figures in the checkpoint folder, for its model card"
    )
    evaluate.add_argument(
        "--slices",
        metavar="COLUMN",
        help="also state the accuracy by the values of this column (numbers by quartile, lists by length)",
    )
    evaluate.set_defaults(command=evaluate_command)

    predict = commands.add_parser(
        "predict",
        help="classify image or video files",
        description="Classify image files, or video files with a video model, and all of them in folders.",
        allow_abbrev=False,
    )
    predict.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name on the Hub")
    predict.add_argument("files", metavar="FILE", nargs="+", help="image file, video file or folder")
    predict.add_argument("--revision", help="commit, tag or branch on the Hub")
    predict.add_argument("--top-k", type=_positive, default=5, help="classes to show (default: %(default)s)")
    predict.add_argument("--batch-size", type=_positive, default=32, help="images at a time (default: %(default)s)")
    predict.add_argument("--device", help="e.g. cuda:1 (default: the first GPU, else the CPU)")
    predict.set_defaults(command=predict_command)
    _add_answer(commands)
    _add_chat(commands)
    _add_distractors(commands)
    _add_compare(commands)
    _add_benchmark(commands)
    _add_convert(commands)
    _add_merge(commands)
    _add_publish(commands)
    _add_visualize(commands)
    _add_analyze(commands)
    _add_demo(commands)
    return parser


def _add_answer(commands: Any) -> None:
    answer = commands.add_parser(
        "answer",
        help="accuracy of a video LLM on multiple-choice questions",
        description="Ask a video LLM the questions of a file and state how many of its answers are right, by category "
        "and view.\nAn answer that names no option counts as wrong, and is counted on its own.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    answer.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name on the Hub")
    answer.add_argument("questions", metavar="QUESTIONS", help="JSON or JSON Lines file of questions")
    answer.add_argument("--videos", metavar="DIR", help="folder of the videos and images (default: that of the file)")
    answer.add_argument(
        "--format", metavar="NAME", help="perception_mcq, egoschema or generic (default: as the file looks)"
    )
    answer.add_argument("--views", type=_words, metavar="NAME,...", help="views to ask about, e.g. ego,exo or depth")
    answer.add_argument("--answers", metavar="FILE.json", help="the right answers, where the file does not hold them")
    answer.add_argument("--prompt", help="what to tell the model, with {question} and {choices}")
    _add_video_llm_options(answer, max_new_tokens=128)
    answer.add_argument("--batch-size", "--batch_size", type=_positive, default=1, help="questions at a time")
    answer.add_argument(
        "--second-chance",
        "--second_chance",
        choices=("likelihood",),
        help="where an answer names no option, take the one whose letter the model finds most likely",
    )
    answer.add_argument("--predictions", metavar="FILE.jsonl", help="write every answer to this file")
    answer.add_argument("--resume", action="store_true", help="go on with this file where it ends")
    answer.add_argument(
        "--on-error",
        "--on_error",
        choices=("raise", "skip"),
        default="raise",
        help="what to do with a question that is wrong or whose video is missing or damaged (default: %(default)s)",
    )
    answer.add_argument(
        "--left-out",
        "--left_out",
        type=Path,
        metavar="FILE.jsonl",
        help="write what was skipped, and why, to this file",
    )
    answer.add_argument("--table", type=Path, metavar="FILE", help="write the table to this file, .csv or .json")
    answer.add_argument(
        "--export", type=Path, metavar="FILE.json", help="write what the server of EgoSchema takes to this file"
    )
    answer.add_argument("--output", type=Path, metavar="FILE.json", help="write all figures to this file")
    answer.set_defaults(command=answer_command)


def _add_chat(commands: Any) -> None:
    chat = commands.add_parser(
        "chat",
        help="talk with a video LLM about videos and images",
        description="Talk with a video LLM about videos and images: a question a line; /help lists the commands.",
        allow_abbrev=False,
    )
    chat.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name on the Hub")
    chat.add_argument("--video", action="append", default=[], metavar="FILE", help="show this video first")
    chat.add_argument("--image", action="append", default=[], metavar="FILE", help="show this image first")
    chat.add_argument("--question", metavar="TEXT", help="answer this question and end")
    _add_video_llm_options(chat, max_new_tokens=512)
    chat.add_argument("--temperature", type=float, help="draw answers at random (default: the most likely one)")
    chat.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    chat.set_defaults(command=chat_command)


def _add_video_llm_options(command: argparse.ArgumentParser, max_new_tokens: int) -> None:
    own = "(default: as the checkpoint says)"
    command.add_argument("--fps", type=float, metavar="N", help=f"frames of each second to look at {own}")
    command.add_argument(
        "--max-frames", "--max_frames", type=_positive, metavar="N", help=f"frames of a video at most {own}"
    )
    command.add_argument(
        "--max-visual-tokens",
        "--max_visual_tokens",
        type=_positive,
        metavar="N",
        help=f"tokens that all frames share {own}",
    )
    command.add_argument(
        "--max-new-tokens",
        "--max_new_tokens",
        type=_positive,
        default=max_new_tokens,
        metavar="N",
        help="tokens of an answer at most (default: %(default)s)",
    )
    command.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights (default: as saved)"
    )
    command.add_argument("--device", help="e.g. cuda:1 (default: the first GPU, else the CPU)")
    command.add_argument("--revision", help="commit, tag or branch on the Hub")


def _add_distractors(commands: Any) -> None:
    distractors = commands.add_parser(
        "distractors",
        help="accuracy of checkpoints when images of other classes stand around the one that counts",
        description="Put every image of a split into a cell of a grid and images of other classes into 0, 1, ... of\n"
        "the other cells, and measure how the accuracy falls. All checkpoints see the same pictures.\n"
        "A table, a figure and an example are written.",
        epilog=_data_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    distractors.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", help="folder, or name on the Hub")
    distractors.add_argument("--split", default="test", help="split to take images from (default: %(default)s)")
    distractors.add_argument("--grid", type=int, default=2, metavar="N", help="NxN cells (default: %(default)s)")
    distractors.add_argument(
        "--max-tiles", type=int, metavar="N", help="largest number of distractors (default: all cells but one)"
    )
    distractors.add_argument(
        "--target-position",
        choices=("random", "center"),
        default="random",
        help="where the image stands that counts; center needs an odd grid (default: %(default)s)",
    )
    distractors.add_argument("--seed", type=int, default=0, help="of positions and distractors (default: %(default)s)")
    distractors.add_argument(
        "--batch-size", type=_positive, default=64, help="pictures at a time (default: %(default)s)"
    )
    distractors.add_argument("--device", help="e.g. cuda:1 (default: the first GPU, else the CPU)")
    distractors.add_argument(
        "--output_dir", "--output-dir", type=Path, required=True, metavar="DIR", help="folder to write to"
    )
    distractors.set_defaults(command=distractors_command)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="train several attention variants under one recipe and several seeds",
        description="Train several attention variants with the same recipe, data order and augmentation under several "
        "seeds, and print a table of accuracies, paired differences to softmax, and costs. Any key of the file can be "
        "overridden: --key value. A comparison that was stopped goes on when the command is repeated.",
        allow_abbrev=False,
    )
    compare.add_argument("config", metavar="CONFIG.yaml", help="the recipe, as for train")
    compare.add_argument(
        "--variants", type=_words, default=["softmax", "dna"], metavar="A,B,...", help="default: softmax,dna"
    )
    compare.add_argument("--seeds", type=_numbers, default=[0, 1, 2], metavar="0,1,...", help="default: 0,1,2")
    compare.add_argument(
        "--param-matched", action="store_true", help="also train softmax attention widened to DnA's parameters"
    )
    compare.add_argument(
        "--output_dir", "--output-dir", type=Path, help="default: runs/compare_ and the recipe's name"
    )
    compare.set_defaults(command=compare_command)


def _add_benchmark(commands: Any) -> None:
    benchmark = commands.add_parser("benchmark", help="measure speed", description="Measure speed.")
    kinds = benchmark.add_subparsers(title="what to measure", metavar="WHAT", required=True)
    data = kinds.add_parser(
        "data",
        help="how fast a run reads its data, and whether that is fast enough for its model",
        description="Measure how many images or videos per second the loader of a run reads, how many its model "
        "trains on, and how many workers reading needs to keep up. Any key of the file can be overridden: --key "
        "value. Nothing is trained or saved. On a CPU, reading and training share the cores.",
        allow_abbrev=False,
    )
    data.add_argument("config", metavar="CONFIG.yaml", help="the run, as for train")
    data.add_argument(
        "--seconds", type=_positive, default=10, help="to measure each part for, at least (default: %(default)s)"
    )
    data.add_argument("--output", metavar="FILE.json", type=Path, help="also write the figures to this file")
    data.set_defaults(command=benchmark_data_command)


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser(
        "convert",
        help="make a DnA model of a checkpoint you have",
        description="Make a DnA model of a vision transformer, video transformer or video language model "
        "(transformers' ViT, DeiT, DINOv2, TimeSformer or VideoLLaMA3, timm, a file of the authors' code) and write "
        "it to a folder that loads, trains and publishes. The folder gets the image processor of the source. A video "
        "model gets a video processor: of transformers' TimeSformer with the size and normalisation of its "
        "preprocessor_config.json; of a file of the authors' or of the original code with those of the file's cfg "
        "(else mean 0.45, standard deviation 0.225), and frames chosen as that code does; of an image model with "
        "those of its image processor. What it holds is printed.",
        allow_abbrev=False,
    )
    convert.add_argument("source", metavar="SOURCE", help="folder, file, name on the Hub, or name in timm")
    convert.add_argument("output", metavar="OUT", type=Path, help="folder to write")
    convert.add_argument("--from", dest="family", choices=FAMILIES, help="kind of source (default: found out)")
    convert.add_argument("--attention-variant", metavar="NAME", help="attention of the result (default: dna)")
    convert.add_argument(
        "--negative-init",
        choices=("warm", "zero", "random"),
        help="how the negative branch begins: warm: a small multiple of the positive one; zero: the result computes "
        "exactly what the source computes; random (default: warm)",
    )
    convert.add_argument("--warm-scale", type=float, metavar="S", help="this multiple (default: 1e-4)")
    convert.add_argument("--image-size", type=_positive, metavar="N", help="resample positions for NxN pixels")
    convert.add_argument(
        "--num-attention-heads", type=_positive, metavar="N", help="for a file that does not tell the number of heads"
    )
    convert.add_argument(
        "--negative-sign",
        choices=("+1", "-1"),
        help="sign before the negative branch in the authors' program that wrote the file (default: +1; VisCoP: -1)",
    )
    convert.add_argument(
        "--interaction-layers",
        type=_numbers,
        metavar="0,1,...",
        help="layers that the visual probes of a video language model read (default: all)",
    )
    convert.add_argument(
        "--base-model",
        metavar="NAME",
        help="VideoLLaMA3 (folder or name on the Hub) below a LoRA of the authors' VisCoP",
    )
    convert.add_argument("--no-visual-tokens", action="store_true", help="show the language model the probes alone")
    convert.add_argument("--no-visual-probes", action="store_true", help="show the language model no probes")
    convert.add_argument(
        "--num-probes", type=_positive, metavar="N", help="visual probes of VideoLLaMA3 (default: 16)"
    )
    convert.add_argument("--num-frames", type=_positive, metavar="N", help="make a video model of an image model")
    convert.add_argument(
        "--attention-type",
        choices=ATTENTION_TYPES,
        help="attention of a video model: with --num-frames (default: divided_space_time), or of a file of the "
        "authors' TimeSformer (default: found out)",
    )
    convert.add_argument(
        "--image-processor",
        metavar="NAME",
        help="take the image processor of this folder or name on the Hub; a video model: its size and normalisation",
    )
    convert.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the result")
    convert.add_argument("--revision", help="commit, tag or branch on the Hub")
    convert.add_argument("--seed", type=int, default=0, help="of new random weights (default: %(default)s)")
    convert.add_argument("--dry-run", action="store_true", help="convert and report, write nothing")
    convert.set_defaults(command=convert_command)


def _add_merge(commands: Any) -> None:
    merge = commands.add_parser(
        "merge",
        help="make a whole checkpoint of the adapter of a video LLM",
        description="Put what training a video LLM has changed into the checkpoint that it started from, and write "
        "the result to a folder that loads, chats and publishes like any other.",
        allow_abbrev=False,
    )
    merge.add_argument("adapter", metavar="ADAPTER", type=Path, help="folder that train wrote")
    merge.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder to write")
    merge.add_argument("--base", metavar="NAME", help="where the base lies now (default: where it lay in training)")
    merge.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="of the result (default: that of the base)"
    )
    merge.set_defaults(command=merge_command)


def _add_publish(commands: Any) -> None:
    publish = commands.add_parser(
        "publish",
        help="publish a checkpoint folder on the Hub",
        description="Publish a checkpoint folder in one commit: weights, configuration, code, processor, "
        "model card and measured figures; then load it from there and compare. An incomplete folder is refused.",
        allow_abbrev=False,
    )
    publish.add_argument("checkpoint", metavar="CHECKPOINT", help="folder that train or convert wrote")
    publish.add_argument("repo_id", metavar="USER/NAME", help="name of the repository")
    publish.add_argument("--private", action="store_true", help="create a private repository")
    publish.add_argument("--revision", metavar="BRANCH", help="branch to publish to (default: main)")
    publish.add_argument("--licence", "--license", metavar="NAME", help="licence of the weights, e.g. apache-2.0")
    publish.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="of a weights file (default: %(default)s)"
    )
    publish.add_argument("--dry-run", action="store_true", help="make and check everything, upload nothing")
    publish.set_defaults(command=publish_command)


def _add_analyze(commands: Any) -> None:
    analyze = commands.add_parser(
        "analyze",
        help="the paper's statistics of the branches of attention, as a page with figures",
        description="Measure what the branches of every attention head share over a split: intruder dimensions,\n"
        "trace similarity, cosines, principal angles, entropies, alpha. One HTML page that needs no network is\n"
        "written, with pictures of what the models look at; figures and tables lie beside it.\n"
        "Of a video LLM the attention of its probes is measured, on the videos and images of a file of questions.",
        epilog=f"{_data_help()}\n{_question_help()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    analyze.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name on the Hub")
    analyze.add_argument(
        "--compare", metavar="CHECKPOINT", nargs="+", default=[], help="further models, side by side with the first"
    )
    analyze.add_argument("--split", help="split to analyse (default: test); questions have none")
    analyze.add_argument(
        "--output_dir", "--output-dir", "-o", metavar="DIR", type=Path, required=True, help="folder to write to"
    )
    analyze.add_argument(
        "--k", type=_positive, help="leading directions of a branch (default: 10, or as many as every attention has)"
    )
    analyze.add_argument(
        "--epsilon",
        type=float,
        default=0.5,
        help="a direction is an intruder if its cosines with the other branch stay below this (default: 0.5)",
    )
    analyze.add_argument(
        "--against",
        choices=("top_k", "all"),
        default="top_k",
        help="the directions of the other branch that count: its k leading ones, or all (default: %(default)s)",
    )
    analyze.add_argument("--pictures", type=int, default=12, metavar="N", help="samples to draw (default: 12)")
    analyze.add_argument(
        "--no-untrained",
        action="store_true",
        help="leave out the untrained models of the same configurations, for comparison",
    )
    analyze.add_argument(
        "--batch-size", type=_positive, default=16, help="samples of a classifier at a time (default: %(default)s)"
    )
    analyze.add_argument("--device", help="e.g. cuda:1 (default: the first GPU, else the CPU)")
    analyze.add_argument("--revision", help="commit, tag or branch on the Hub")
    analyze.add_argument(
        "--colours", "--colors", choices=("red-blue", "orange-purple"), default="red-blue", help="default: %(default)s"
    )
    analyze.set_defaults(command=analyze_command)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="a page to drop images or videos on, and to ask where attention goes",
        description="Serve a page on this machine: drop an image (or a video), choose layer and head, click on a "
        "patch to ask what it attends to, turn the negative branch up, down or off. A video language model is asked a "
        "question as well, and shows what its probes look at. Nothing is sent anywhere.",
        allow_abbrev=False,
    )
    demo.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name on the Hub")
    demo.add_argument(
        "--compare", metavar="CHECKPOINT", nargs="+", default=[], help="further models, side by side with the first"
    )
    demo.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    demo.add_argument("--port", type=_positive, help="port to listen on (default: the first free one from 7860 on)")
    demo.add_argument("--device", help="e.g. cuda:1 (default: the first GPU, else the CPU)")
    demo.add_argument("--revision", help="commit, tag or branch on the Hub")
    demo.add_argument(
        "--export-space", metavar="DIR", type=Path, help="serve nothing: write the page as a Space of the Hub to DIR"
    )
    demo.set_defaults(command=demo_command)


def _add_visualize(commands: Any) -> None:
    visualize = commands.add_parser(
        "visualize",
        help="figures of where a model looks in images or videos, by branch",
        description="Draw where classifiers, or the probes of video language models, look: in red what the positive "
        "branch attends to, in blue what the negative branch attends to, over the picture as the model sees it. "
        "Colours show attention in multiples of what every token would get if all got the same. The maps are formed "
        "on whatever attention implementation the model has. Figures and two files that say how they were made are "
        "written.",
        allow_abbrev=False,
    )
    visualize.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, or name on the Hub")
    visualize.add_argument("files", metavar="FILE", nargs="+", help="image file, video file or folder")
    visualize.add_argument("--output", "-o", metavar="DIR", type=Path, required=True, help="folder to write to")
    visualize.add_argument(
        "--compare", metavar="CHECKPOINT", nargs="+", default=[], help="further models, side by side with the first"
    )
    visualize.add_argument(
        "--kind",
        choices=("attention", "rollout", "relevance"),
        default="attention",
        help="attention: maps of a layer; rollout: through all layers; relevance: weighted by the gradients of a "
        "class (default: %(default)s)",
    )
    visualize.add_argument(
        "--layer", default="-1", metavar="N", help="of attention: number from 0, or all (default: -1)"
    )
    visualize.add_argument("--head", default="mean", metavar="N", help="of attention: number from 0, mean or all")
    visualize.add_argument(
        "--query",
        default="class",
        metavar="TOKEN",
        help="the token that attends: class, its number, or ROW,COLUMN of a patch; of a video language model the "
        "number of a probe (default: class, or all probes)",
    )
    visualize.add_argument("--axis", choices=("space", "time"), help="of attention in videos (default: space)")
    visualize.add_argument(
        "--show",
        choices=("branches", "difference", "positive", "negative", "combined"),
        help="branches: each, and positive minus negative; combined: positive + alpha * negative (default: branches "
        "of one model, difference of several)",
    )
    visualize.add_argument(
        "--target", metavar="CLASS", help="of relevance: class, or token, to explain (default: the predicted)"
    )
    visualize.add_argument(
        "--question", metavar="TEXT", help="that a video language model is asked (default: What happens here?)"
    )
    visualize.add_argument(
        "--colours", "--colors", choices=("red-blue", "orange-purple"), default="red-blue", help="default: %(default)s"
    )
    visualize.add_argument(
        "--opacity", type=float, default=0.85, help="of the colours, up to 1 (default: %(default)s)"
    )
    visualize.add_argument("--format", choices=("png", "svg"), default="png", help="of figures (default: %(default)s)")
    visualize.add_argument(
        "--animation", choices=("gif", "mp4", "none"), default="gif", help="of videos (default: %(default)s)"
    )
    visualize.add_argument("--device", help="e.g. cuda:1 (default: the first GPU, else the CPU)")
    visualize.add_argument("--revision", help="commit, tag or branch on the Hub")
    visualize.set_defaults(command=visualize_command)


def train_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf train CONFIG.yaml [--key value ...]`."""
    from .training.config_file import read_sections, run_config
    from .training.errors import ConfigurationError

    overrides = parse_overrides(rest)
    sections = read_sections(arguments.config)
    sections["training"].setdefault("output_dir", str(Path("runs") / Path(arguments.config).stem))
    run = run_config(sections, overrides)
    if run.model_arguments.model_type == VIDEO_LLM:
        return _train_video_llm(run, arguments.resume)

    from .training.classification import train_classifier

    # publishing is one commit of a finished and measured model; the Trainer's own would push many of unfinished ones
    push = run.training.push_to_hub
    run.training.push_to_hub = False
    if push:
        from .hub.upload import sign_in

        if run.sections["training"].get("hub_strategy", "end") != "end":
            raise ConfigurationError("dna-hf publishes a finished model alone: training.hub_strategy must be end.")
        sign_in(run.training.hub_token)
    result = train_classifier(run, resume=arguments.resume)
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
        if push:
            from .hub.publish import publish

            published = publish(
                result.output_dir,
                run.training.hub_model_id or result.output_dir.resolve().name,
                private=bool(run.training.hub_private_repo),
                revision=run.training.hub_revision,
                token=run.training.hub_token,
            )
            print("\n" + _published_table(published))
    return 0


def _train_video_llm(run: Any, resume: bool) -> int:
    """`dna-hf train` of a video LLM: what will be trained is printed first, and only that is saved."""
    from .training.errors import ConfigurationError
    from .training.video_llm import train_video_llm

    if run.training.push_to_hub:
        raise ConfigurationError("an adapter is not published: dna-hf merge it, then dna-hf publish the result.")
    is_first = run.training.process_index == 0
    result = train_video_llm(run, resume=resume, announce=_print_plan if is_first else None)
    if is_first:
        rows = [("training time", f"{result.seconds:.0f} s"), ("training loss", f"{result.loss:.4f}")]
        if result.metrics:
            rows += [
                ("evaluation loss", f"{result.metrics['eval_loss']:.4f}"),
                ("tokens predicted right", f"{100 * result.metrics['eval_token_accuracy']:.2f} %"),
            ]
        rows.append(("adapter saved in", str(result.output_dir)))
        print("\n" + table(("video LLM", run.data.dataset), rows))
        if result.bad is not None:
            print(f"dna-hf: samples that could not be used are listed in {result.bad}", file=sys.stderr)
    return 0


def _print_plan(plan: Any) -> None:
    """What a run of a video LLM will train, and the memory that it is estimated to take."""
    from .training.memory import gibibytes

    rows = [
        (
            group.name,
            f"{group.tensors:,}",
            f"{group.parameters:,}",
            "frozen" if group.learning_rate is None else f"{group.learning_rate:g}",
        )
        for group in plan.groups
    ]
    rows.append(("trained", "", f"{plan.trained:,}", ""))
    print(table(("group", "tensors", "parameters", "learning rate"), rows))
    sizes = [(name, f"{size:,.2f}") for name, size in gibibytes(plan.memory).items()]
    print("\n" + table(("memory of a process, estimated", "GiB"), sizes))
    print(f"\nactivations roughly, for {plan.memory.tokens:,} tokens a batch; ZeRO and FSDP divide the others")
    print(f"{plan.samples:,} conversations" + (f", {plan.bad:,} left out" if plan.bad else ""), flush=True)


def merge_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf merge ADAPTER --output DIR`."""
    import torch

    from .training.adapter import merge_adapter

    _no_more(rest)
    dtype = None if arguments.dtype is None else getattr(torch, arguments.dtype)
    model = merge_adapter(arguments.adapter, arguments.output, arguments.base, dtype=dtype)
    facts = [("parameters", f"{model.num_parameters():,}"), ("dtype", str(model.dtype).removeprefix("torch."))]
    print(table(("merged", str(arguments.adapter)), [*facts, ("saved in", str(arguments.output))]))
    return 0


def compare_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf compare CONFIG.yaml --variants ... --seeds ... [--key value ...]`."""
    from .experiments.compare import FIGURE_FILE, RUNS_FILE, SUMMARY_FILE, compare, draw, summary

    output: Path = arguments.output_dir or Path("runs") / f"compare_{Path(arguments.config).stem}"
    figures = compare(
        arguments.config,
        arguments.variants,
        arguments.seeds,
        output,
        overrides=parse_overrides(rest),
        param_matched=arguments.param_matched,
    )
    print("\n" + summary(figures) + "\n")
    written = [output / RUNS_FILE, output / SUMMARY_FILE]
    try:
        draw(figures, output / FIGURE_FILE)
        written.append(output / FIGURE_FILE)
    except ImportError:
        print(NO_FIGURE, file=sys.stderr)
    print("written: " + ", ".join(map(str, written)))
    return 0


def benchmark_data_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf benchmark data CONFIG.yaml [--key value ...]`."""
    from .training.config_file import read_sections, run_config

    run = run_config(read_sections(arguments.config), parse_overrides(rest))

    from .benchmark.data import benchmark_data

    result = benchmark_data(run, arguments.seconds)
    name = result.samples
    speeds = [
        (f"reading, {result.workers or 'no'} worker{'s' if result.workers != 1 else ''}", result.reading),
        ("reading, one core", result.one_core),
        (f"training, {result.device}", result.training),
    ]
    rows = [
        (what, f"{speed.per_second:.4g}", f"{speed.lowest:.4g} to {speed.highest:.4g}", str(speed.samples))
        for what, speed in speeds
    ]
    print(table((f"{name} of {result.batch_size} a batch", f"{name}/s", "spread", "measured on"), rows))
    facts = [("reading / training", f"{result.ratio:.2f}"), ("does the loader feed the model", result.verdict())]
    if result.decoding is not None:
        facts.append(("part of decoding in reading", f"{100 * result.decoding:.0f} %"))
    facts.append(("processor", f"{result.processor}, {result.cores} cores, {result.threads} threads of torch"))
    print("\n" + table((result.dataset.name, ""), facts))
    for video in result.unreadable:
        print(f"dna-hf: left out, cannot be read: {video}", file=sys.stderr)
    if arguments.output is not None:
        _write_json(arguments.output, dataclasses.asdict(result))
    return 0


def evaluate_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf evaluate CHECKPOINT --dataset ... [--split ...]`."""
    from .data.arguments import DataArguments, VideoDataArguments
    from .evaluation.image_classification import record_evaluation
    from .training.config_file import data_arguments
    from .training.errors import ConfigurationError

    is_video = _is_video_model(arguments.checkpoint, arguments.revision)
    data = data_arguments(parse_overrides(rest), VideoDataArguments if is_video else DataArguments)
    if arguments.record and not Path(arguments.checkpoint).is_dir():
        raise ConfigurationError(f"--record writes into the checkpoint folder, but {arguments.checkpoint!r} is none.")
    samples = "videos" if is_video else "images"
    result = _evaluate(arguments, data, is_video)
    print(table(("class", samples, "accuracy"), _per_class_rows(result.per_class, samples)))
    metrics = result.metrics
    rows = [
        (samples, f"{metrics[samples]}"),
        ("top-1", f"{100 * metrics['top1']:.2f} %"),
        ("top-5", f"{100 * metrics['top5']:.2f} %"),
        ("mean class accuracy", f"{100 * metrics['mean_class_accuracy']:.2f} %"),
        ("loss", f"{metrics['loss']:.4f}"),
    ]
    print("\n" + table((f"{data.dataset}, {arguments.split}", ""), rows))
    if result.slices is not None:
        print("\n" + table(("slice", "images", "top-1", "95 % interval"), _slice_rows(result.slices)))
    for video in result.unreadable:
        print(f"dna-hf: left out, cannot be read: {video}", file=sys.stderr)
    if arguments.confusion is not None:
        _write_confusion(arguments.confusion, list(result.per_class), result.confusion)
    if arguments.output is not None:
        report = {"checkpoint": arguments.checkpoint, "data": dataclasses.asdict(data), "split": arguments.split}
        report |= dataclasses.asdict(result)
        _write_json(arguments.output, report)
    if arguments.record:
        record_evaluation(arguments.checkpoint, result)
    return 0


def _evaluate(arguments: argparse.Namespace, data: Any, is_video: bool) -> Any:
    from .evaluation.image_classification import evaluate_checkpoint
    from .evaluation.video_classification import evaluate_video_checkpoint
    from .training.errors import ConfigurationError

    common: dict[str, Any] = {"device": arguments.device, "revision": arguments.revision}
    if not is_video:
        return evaluate_checkpoint(
            arguments.checkpoint,
            data,
            arguments.split,
            batch_size=arguments.batch_size or 64,
            slices=arguments.slices,
            **common,
        )
    if arguments.slices is not None:
        raise ConfigurationError("--slices is for images: leave it out.")
    return evaluate_video_checkpoint(
        arguments.checkpoint, data, arguments.split, batch_size=arguments.batch_size or 8, **common
    )


def _is_video_model(checkpoint: str, revision: str | None) -> bool:
    """Whether a checkpoint holds a video classifier; one that cannot be read is told so where it is loaded."""
    from transformers import AutoConfig

    from . import models  # noqa: F401
    from .training.errors import ConfigurationError

    try:
        model_type = AutoConfig.from_pretrained(checkpoint, revision=revision).model_type
    except (OSError, ValueError, KeyError):
        return False
    if model_type == VIDEO_LLM:
        raise ConfigurationError(f"{checkpoint!r} holds a video LLM: ask it with dna-hf answer or dna-hf chat.")
    return model_type == VIDEO_MODEL


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_confusion(path: Path, names: list[str], confusion: list[list[int]]) -> None:
    """A row for every true class, a column for every class it was taken for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["true class", *names])
        writer.writerows([name, *counts] for name, counts in zip(names, confusion, strict=True))


def distractors_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf distractors CHECKPOINT [CHECKPOINT ...] --dataset ... --output-dir DIR`."""
    from .evaluation.distractors import (
        EXAMPLE_FILE,
        FIGURE_FILE,
        FIGURES_FILE,
        SUMMARY_FILE,
        distractor_test,
        draw,
        summary_rows,
    )
    from .training.config_file import data_arguments

    output: Path = arguments.output_dir
    figures = distractor_test(
        arguments.checkpoints,
        data_arguments(parse_overrides(rest)),
        arguments.split,
        output,
        grid=arguments.grid,
        max_tiles=arguments.max_tiles,
        target_position=arguments.target_position,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    print(table(*summary_rows(figures)) + "\n")
    written = [output / FIGURES_FILE, output / SUMMARY_FILE, output / EXAMPLE_FILE]
    try:
        draw(figures, output / FIGURE_FILE)
        written.append(output / FIGURE_FILE)
    except ImportError:
        print(NO_FIGURE, file=sys.stderr)
    print("written: " + ", ".join(map(str, written)))
    return 0


def convert_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf convert SOURCE OUT`."""
    from .conversion.command import convert_source
    from .conversion.errors import ConversionError

    _no_more(rest)
    output: Path = arguments.output
    if not arguments.dry_run and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConversionError(f"output folder {str(output)!r} is not empty: choose another one.")
    model, report = conversion = convert_source(
        arguments.source,
        family=arguments.family,
        negative_sign=None if arguments.negative_sign is None else int(arguments.negative_sign),
        attention_type=arguments.attention_type,
        num_frames=arguments.num_frames,
        image_processor=arguments.image_processor,
        dtype=arguments.dtype,
        seed=arguments.seed,
        num_attention_heads=arguments.num_attention_heads,
        attention_variant=arguments.attention_variant,
        negative_init=arguments.negative_init,
        warm_scale=arguments.warm_scale,
        interaction_layers=arguments.interaction_layers,
        base_model=arguments.base_model,
        num_probes=arguments.num_probes,
        include_visual_tokens=False if arguments.no_visual_tokens else None,
        include_visual_probes=False if arguments.no_visual_probes else None,
        image_size=arguments.image_size,
        revision=arguments.revision,
    )
    print(table(("tensors", "source", "", "target", "how"), report.rows()))
    # of a video language model, its vision encoder has it
    variant = getattr(model.config, "vision_config", model.config).attention_variant
    facts = [("model", type(model).__name__), ("attention variant", variant)]
    facts += [("parameters", f"{model.num_parameters():,}")]
    if report.max_difference is not None:
        facts.append(("largest difference", f"{report.max_difference:.1e} ({report.compared}, one random input)"))
    facts += [("note", note) for note in report.notes]
    if report.video_processor is not None:
        facts += [(f"video processor, {key}", text) for key, text in report.video_processor.describe().items()]
    if not arguments.dry_run:
        conversion.save_pretrained(output)
    facts.append(("saved in", "nowhere (dry run)" if arguments.dry_run else str(output)))
    print("\n" + table((f"from {report.family}", report.source), facts))
    return 0


def publish_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf publish CHECKPOINT USER/NAME`."""
    from .hub.publish import publish

    _no_more(rest)
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
    print(_published_table(published))
    return 0


def _published_table(published: Any) -> str:
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


def predict_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf predict CHECKPOINT FILE...`."""
    _no_more(rest)
    is_video = _is_video_model(arguments.checkpoint, arguments.revision)
    rows, unreadable = [], []
    for prediction in _predictions(arguments, is_video):
        if prediction.error is not None:
            unreadable.append(prediction.error)
        for rank, (name, probability) in enumerate(prediction.classes):
            rows.append(("" if rank else str(prediction.path), name, f"{100 * probability:.1f} %"))
    if rows:
        print(table(("video" if is_video else "image", "class", "probability"), rows))
    for error in unreadable:
        print(f"dna-hf: error: {error}", file=sys.stderr)
    return 2 if unreadable else 0


def _predictions(arguments: argparse.Namespace, is_video: bool) -> Iterable[Any]:
    where = (arguments.checkpoint, arguments.device, arguments.revision)
    if is_video:
        from .evaluation.video_classification import classify_videos, load_video_classifier, video_files

        files = video_files(arguments.files)
        return classify_videos(*load_video_classifier(*where), files, top_k=arguments.top_k)
    from .evaluation.image_classification import load_classifier
    from .evaluation.predict import classify, image_files

    files = image_files(arguments.files)
    model, processor = load_classifier(*where)
    return classify(model, processor, files, top_k=arguments.top_k, batch_size=arguments.batch_size)


def answer_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf answer CHECKPOINT QUESTIONS --videos DIR`."""
    from .data.multiple_choice import load_questions
    from .evaluation.multiple_choice import PROMPT, AnswerSettings, evaluate_questions, export_choices, write_table
    from .evaluation.video_llm import load_video_llm
    from .records.stamp import stamp

    _no_more(rest)
    settings = AnswerSettings(
        prompt=arguments.prompt or PROMPT,
        **{name: getattr(arguments, name) for name in ("fps", "max_frames", "max_visual_tokens", "max_new_tokens")},
        second_chance=arguments.second_chance,
        batch_size=arguments.batch_size,
    )
    file = load_questions(
        arguments.questions,
        arguments.videos,
        format=arguments.format,
        views=arguments.views,
        answers=arguments.answers,
        on_error=arguments.on_error,
    )
    model, processor = load_video_llm(arguments.checkpoint, arguments.device, arguments.revision, arguments.dtype)
    result = evaluate_questions(
        model,
        processor,
        file.questions,
        settings,
        predictions=arguments.predictions,
        resume=arguments.resume,
        on_error=arguments.on_error,
    )
    print(
        table(("view", "category", "questions", "accuracy", "95 % interval", "unparsed"), _answer_rows(result.table))
    )
    print("\n" + table((file.name, ""), _answer_facts(result.metrics)))
    left_out = [*file.skipped, *result.unreadable]
    for entry in left_out:
        print(f"dna-hf: left out: {entry['error']}", file=sys.stderr)
    if arguments.left_out is not None:
        arguments.left_out.parent.mkdir(parents=True, exist_ok=True)
        arguments.left_out.write_text("".join(json.dumps(entry) + "\n" for entry in left_out), encoding="utf-8")
    if arguments.table is not None:
        write_table(result.table, arguments.table)
    if arguments.export is not None:
        export_choices(result.predictions, result.unreadable, arguments.export)
    if arguments.output is not None:
        report = {"checkpoint": arguments.checkpoint, "questions": file.name, "format": file.format}
        report |= {"settings": dataclasses.asdict(settings), **stamp()}
        report |= {
            "metrics": result.metrics,
            "table": result.table,
            "left_out": left_out,
        }
        _write_json(arguments.output, report)
    return 0


def _answer_rows(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            row["view"],
            row["category"],
            str(row["questions"]),
            "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %",
            "-" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %",
            str(row["unparsed"]),
        )
        for row in rows
    ]


def _answer_facts(metrics: dict[str, float]) -> list[tuple[str, str]]:
    names = {"average": "average of the categories", "overall": "of all questions"}
    facts = [(names[name], f"{100 * metrics[name]:.2f} %") for name in names if name in metrics]
    facts += [("right answers", "not known")] if "overall" not in metrics else []
    facts += [("answers that name no option", f"{metrics['unparsed']} of {metrics['questions']}")]
    return facts + ([("second chances", str(metrics["second_chance"]))] if "second_chance" in metrics else [])


def chat_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf chat CHECKPOINT [--video FILE] [--image FILE] [--question TEXT]`."""
    from transformers import set_seed

    from .chat import Chat, converse, typed_lines
    from .evaluation.video_llm import load_video_llm

    _no_more(rest)
    options: dict[str, Any] = {"max_new_tokens": arguments.max_new_tokens}
    if arguments.temperature:
        set_seed(arguments.seed)
        options |= {"do_sample": True, "temperature": arguments.temperature}
    chat = Chat(
        *load_video_llm(arguments.checkpoint, arguments.device, arguments.revision, arguments.dtype),
        stream=True,
        videos={name: getattr(arguments, name) for name in ("fps", "max_frames", "max_visual_tokens")},
        **options,
    )
    for kind in ("video", "image"):
        for path in getattr(arguments, kind):
            chat.show(kind, path)
    if arguments.question is not None:
        chat.ask(arguments.question)
    else:
        converse(chat, typed_lines())
    return 0


def visualize_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf visualize CHECKPOINT FILE... --output DIR`."""
    from .analysis.sight import VisualizeSettings
    from .analysis.visualize import visualize

    _no_more(rest)
    settings = VisualizeSettings(
        kind=arguments.kind,
        layer=None if arguments.layer == "all" else _whole("--layer", arguments.layer, "all"),
        head=arguments.head if arguments.head in ("mean", "all") else _whole("--head", arguments.head, "mean or all"),
        query=_query(arguments.query),
        axis=arguments.axis,
        show=arguments.show,
        target=arguments.target,
        question=arguments.question,
        colours=arguments.colours,
        opacity=arguments.opacity,
        file_format=arguments.format,
        animation=arguments.animation,
    )
    done = visualize(
        [arguments.checkpoint, *arguments.compare],
        arguments.files,
        arguments.output,
        settings,
        device=arguments.device,
        revision=arguments.revision,
    )
    for reason in done.skipped:
        print(f"dna-hf: left out: {reason}", file=sys.stderr)
    print("written:\n" + "\n".join(f"  {path}" for path in done.files))
    return 0


def analyze_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf analyze CHECKPOINT --dataset ... --output_dir DIR`."""
    from .analysis.analyze import AnalyzeSettings, analyze
    from .analysis.loading import common_model_type
    from .analysis.samples import DATA_ARGUMENTS
    from .training.config_file import data_arguments

    checkpoints = [arguments.checkpoint, *arguments.compare]
    kind = DATA_ARGUMENTS[common_model_type(checkpoints, arguments.revision)]
    data = data_arguments(parse_overrides(rest), kind)
    done = analyze(
        checkpoints,
        data,
        arguments.split,
        arguments.output_dir,
        AnalyzeSettings(
            k=arguments.k,
            epsilon=arguments.epsilon,
            against=arguments.against,
            batch_size=arguments.batch_size,
            pictures=arguments.pictures,
            untrained=not arguments.no_untrained,
            colours=arguments.colours,
        ),
        device=arguments.device,
        revision=arguments.revision,
    )
    for reason in done.left_out:
        print(f"dna-hf: left out: {reason}", file=sys.stderr)
    print(f"the report: {done.page}\nbeside it: {len(done.files) - 1} figures and tables")
    return 0


def demo_command(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf demo CHECKPOINT [--compare ...]`."""
    from .demo.app import serve
    from .demo.explore import load_explorer
    from .demo.space import export_space

    _no_more(rest)
    checkpoints = [arguments.checkpoint, *arguments.compare]
    explorer = load_explorer(checkpoints, arguments.device, arguments.revision)
    if arguments.export_space is not None:
        export_space(checkpoints, arguments.export_space, arguments.revision)
        print(f"written to {arguments.export_space}: try it with python app.py there, then push it as a Space")
        return 0
    serve(explorer, arguments.host, arguments.port)
    return 0


def _whole(option: str, text: str, words: str) -> int:
    from .analysis.errors import AnalysisError

    try:
        return int(text)
    except ValueError as error:
        raise AnalysisError(f"{option} must be a whole number or {words}, got {text!r}.") from error


def _query(text: str) -> Any:
    """A token as the analyses name it: `class`, a number, or the place of a patch."""
    if text == "class":
        return text
    numbers = tuple(_whole("--query", part, "class or ROW,COLUMN") for part in text.split(","))
    return numbers[0] if len(numbers) == 1 else numbers


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


def _per_class_rows(per_class: dict[str, dict[str, float]], samples: str) -> list[tuple[str, str, str]]:
    return [
        (name, str(figures[samples]), f"{100 * figures['accuracy']:.1f} %" if figures[samples] else "-")
        for name, figures in per_class.items()
    ]


def _slice_rows(slices: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            str(figures["images"]),
            f"{100 * figures['accuracy']:.1f} %",
            f"{100 * figures['low']:.1f} to {100 * figures['high']:.1f} %",
        )
        for name, figures in slices.items()
    ]


def _data_help() -> str:
    from .data.arguments import DataArguments, VideoDataArguments

    return (
        f"keys of section data, for images:\n{_key_lines(DataArguments)}\n"
        f"keys of section data, for videos:\n{_key_lines(VideoDataArguments)}"
    )


def _video_llm_help() -> str:
    from .data.conversation_arguments import ConversationDataArguments

    return (
        f"\nkeys of section data, for video LLMs:\n{_key_lines(ConversationDataArguments)}\n"
        "keys of section training, for video LLMs: learning_rates, lora_rank, lora_alpha, lora_dropout, lora_targets"
    )


def _question_help() -> str:
    from .data.conversation_arguments import QuestionDataArguments

    return f"keys of section data, for video LLMs:\n{_key_lines(QuestionDataArguments)}"


def _key_lines(section: type) -> str:
    return "\n".join(f"  --{field.name}  {field.metadata['help']}" for field in dataclasses.fields(section))


def _no_more(rest: list[str]) -> None:
    if rest:
        build_parser().error(f"unrecognized arguments: {' '.join(rest)}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between, got {text!r}") from error


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
