"""`dna-hf train`."""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from ..training.options import ClassifierOptions, LoraOptions, VideoLLMOptions
from .interrupt import cleaned_up
from .keys import TRAIN
from .options import add_config
from .overrides import parse_overrides
from .parser import add_verb, grouped
from .publish import print_published
from .run_keys import check_run_keys
from .summary import print_summary
from .table import table


if TYPE_CHECKING:
    from ..training.config_file import AnyRun
    from ..training.video_llm import TrainingPlan


OPTIONS = {
    "classifiers": dataclasses.fields(ClassifierOptions),
    "video LLMs": dataclasses.fields(VideoLLMOptions),
}
LORA = {"keys of section peft, of classifiers": list(dataclasses.fields(LoraOptions))}
KEYS = grouped("keys of section training", OPTIONS) | LORA | TRAIN.help()


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "train",
        run,
        help="train a model as a YAML file describes",
        description="Train a model as a YAML file describes. Any key of the file can be overridden: --key value. "
        "Section model takes model_type, checkpoint, checkpoint_revision, and all fields of DnAViTConfig, of "
        "DnATimesformerConfig or of DnAVideoLlama3Config, e.g. attention_variant; section training takes all fields "
        "of transformers.TrainingArguments and those below.",
        keys=KEYS,
        example="train vit_tiny_fashion_mnist --attention_variant softmax --num_train_epochs 5",
        go_on="go on from the last checkpoint with --resume, or repeat the command where none was saved yet",
    )
    add_config(parser, "what to train")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in output_dir from its last checkpoint"
    )


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf train CONFIG [--key value ...]`."""
    from ..recipes import default_output_dir
    from ..training.limits import check_limits
    from ..training.yaml_file import read_sections

    overrides = parse_overrides(rest)
    sections = read_sections(arguments.config)
    check_run_keys(overrides, sections)
    sections["training"].setdefault("output_dir", str(default_output_dir(arguments.config, overrides)))
    check_limits(sections["training"] | {key.removeprefix("training."): value for key, value in overrides.items()})

    from ..kinds import VIDEO_LLM
    from ..training.config_file import run_config

    run = run_config(sections, overrides)
    if run.kind is VIDEO_LLM:
        return _train_video_llm(run, arguments.resume)

    from ..training.classification import train_classifier

    cleaned_up()
    result = train_classifier(run, resume=arguments.resume, announce=print_summary)
    if run.training.process_index == 0:
        if result.evaluation is not None:
            print("\n" + table(*result.evaluation.class_table()))
        print("\n" + table(("evaluation", run.data.dataset), result.facts()))
        if result.published is not None:
            print()
            print_published(result.published)
    return 0


def _train_video_llm(run: "AnyRun", resume: bool) -> int:
    """`dna-hf train` of a video LLM: what will be trained is printed first, and only that is saved."""
    from ..training.video_llm import train_video_llm

    cleaned_up()
    is_first = run.training.process_index == 0
    result = train_video_llm(run, resume=resume, announce=_print_plan if is_first else None)
    if is_first:
        print("\n" + table(("video LLM", run.data.dataset), result.facts()))
        if result.bad is not None:
            print(f"dna-hf: samples that could not be used are listed in {result.bad}", file=sys.stderr)
    return 0


def _print_plan(plan: "TrainingPlan") -> None:
    """What a run of a video LLM will train, and the memory that it is estimated to take."""
    for summary in plan.data:
        print_summary(summary)
    print(table(*plan.group_rows()))
    print("\n" + table(("memory of a process, estimated", "GiB"), plan.memory_rows()))
    print(
        f"\nactivations roughly, for {plan.memory.tokens:,} tokens a batch; ZeRO and FSDP divide the others",
        flush=True,
    )
