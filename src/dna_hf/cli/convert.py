"""`dna-hf convert`."""

import argparse
from typing import Any

from .options import add_dtype, add_seed, chosen
from .parser import Parser, add_verb
from .table import table
from .values import finite, image_size, numbers, output_folder, positive


FAMILIES = (
    *("vit", "deit", "dinov2", "timesformer", "video_llama_3", "video_llama_3_vision", "videollama3"),
    *("timm", "dna_vit", "dna_timesformer"),
    *("authors-vit", "authors-timesformer", "authors-viscop"),
)
ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "convert",
        run,
        help="make a DnA model of a checkpoint you have",
        description="Make a DnA model of a vision transformer, video transformer or video language model "
        "(transformers' ViT, DeiT, DINOv2, TimeSformer or VideoLLaMA3, timm, a file of the authors' code) and write "
        "it to a folder that loads, trains and publishes; or bring a DnA model to another image size or number of "
        "frames. The folder gets the image processor of the source. A video "
        "model gets a video processor: of transformers' TimeSformer with the size and normalisation of its "
        "preprocessor_config.json; of a file of the authors' or of the original code with those of the file's cfg "
        "(else mean 0.45, standard deviation 0.225), and frames chosen as that code does; of an image model with "
        "those of its image processor. What it holds is printed.",
        example="convert facebook/dinov2-small runs/dinov2_dna --negative-init warm",
        go_on="empty the output folder and repeat the command",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder, file, name on the Hub, or name in timm")
    parser.add_argument("output", metavar="OUT", type=output_folder, help="empty folder to write")
    parser.add_argument(
        "--from",
        dest="family",
        choices=FAMILIES,
        metavar="NAME",
        help="kind of source: %(choices)s (default: found out)",
    )
    parser.add_argument("--attention-variant", metavar="NAME", help="attention of the result (default: dna)")
    parser.add_argument(
        "--negative-init",
        choices=("warm", "zero", "random"),
        help="how the negative branch begins: warm: a small multiple of the positive one; zero: the result computes "
        "exactly what the source computes; random (default: warm)",
    )
    parser.add_argument("--warm-scale", type=finite, metavar="NUMBER", help="the multiple of warm (default: 1e-4)")
    for name, help in (
        ("--num-attention-heads", "for a file that does not tell the number of heads"),
        ("--num-probes", "visual probes of VideoLLaMA3 (default: 16)"),
        ("--num-frames", "make a video model of an image model, or resample the times of a DnA TimeSformer"),
    ):
        parser.add_argument(name, type=positive, metavar="N", help=help)
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N",
        help="resample positions for NxN pixels, or for HxW if given so, e.g. 224x320 (default: as the source)",
    )
    parser.add_argument(
        "--negative-sign",
        choices=("+1", "-1"),
        help="sign before the negative branch in the authors' program that wrote the file (default: +1; VisCoP: -1)",
    )
    _add_video_options(parser)
    parser.add_argument(
        "--image-processor",
        metavar="NAME",
        help="take the image processor of this folder or name on the Hub; a video model: its size and normalisation",
    )
    add_dtype(parser, "dtype of the result (default: that of the source)")
    parser.add_argument("--revision", metavar="NAME", help="commit, tag or branch on the Hub (default: main)")
    add_seed(parser, "seed of new random weights")
    parser.add_argument("--dry-run", action="store_true", help="convert and report, write nothing")


def _add_video_options(parser: Parser) -> None:
    parser.add_argument(
        "--interaction-layers",
        type=numbers,
        metavar="N,...",
        help="layers that the visual probes of a video language model read (default: all)",
    )
    parser.add_argument(
        "--base-model",
        metavar="NAME",
        help="VideoLLaMA3 (folder or name on the Hub) below a LoRA of the authors' VisCoP",
    )
    parser.add_argument("--no-visual-tokens", action="store_true", help="show the language model the probes alone")
    parser.add_argument("--no-visual-probes", action="store_true", help="show the language model no probes")
    parser.add_argument(
        "--attention-type",
        choices=ATTENTION_TYPES,
        help="attention of a video model: with --num-frames (default: divided_space_time), or of a file of the "
        "authors' TimeSformer (default: found out)",
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf convert SOURCE OUT`."""
    import torch

    from ..conversion import Options
    from ..conversion.command import convert_source

    model, report = convert_source(
        arguments.source,
        Options(
            **chosen(arguments, "family", "attention_variant", "negative_init", "warm_scale", "image_size"),
            **chosen(arguments, "image_processor", "num_attention_heads", "num_probes", "interaction_layers"),
            **chosen(arguments, "num_frames", "attention_type", "base_model", "revision"),
            include_visual_tokens=False if arguments.no_visual_tokens else None,
            include_visual_probes=False if arguments.no_visual_probes else None,
            negative_sign=None if arguments.negative_sign is None else int(arguments.negative_sign),
            dtype=None if arguments.dtype is None else getattr(torch, arguments.dtype),
        ),
        output=None if arguments.dry_run else arguments.output,
        seed=arguments.seed,
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
    facts.append(("saved in", "nowhere (dry run)" if arguments.dry_run else str(arguments.output)))
    print("\n" + table((f"from {report.family}", report.source), facts))
    return 0
