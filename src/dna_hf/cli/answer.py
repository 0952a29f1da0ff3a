"""`dna-hf answer`."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from .options import (
    add_checkpoint,
    add_device,
    add_dtype,
    add_max_new_tokens,
    add_reading,
    add_revision,
    positive,
    words,
)
from .table import table, write_json


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "answer",
        help="accuracy of a video LLM on multiple-choice questions",
        description="Ask a video LLM the questions of a file and state how many of its answers are right, by category "
        "and view.\nAn answer that names no option counts as wrong, and is counted on its own.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_checkpoint(parser)
    parser.add_argument("questions", metavar="QUESTIONS", help="JSON or JSON Lines file of questions")
    parser.add_argument("--videos", metavar="DIR", help="folder of the videos and images (default: that of the file)")
    parser.add_argument(
        "--format", metavar="NAME", help="perception_mcq, egoschema or generic (default: as the file looks)"
    )
    parser.add_argument("--views", type=words, metavar="NAME,...", help="views to ask about, e.g. ego,exo or depth")
    parser.add_argument("--answers", metavar="FILE.json", help="the right answers, where the file does not hold them")
    parser.add_argument("--prompt", help="what to tell the model, with {question} and {choices}")
    add_reading(parser)
    add_max_new_tokens(parser, 128)
    add_dtype(parser, "of the weights (default: as saved)")
    add_device(parser)
    add_revision(parser)
    parser.add_argument("--batch-size", "--batch_size", type=positive, default=1, help="questions at a time")
    parser.add_argument(
        "--second-chance",
        "--second_chance",
        choices=("likelihood",),
        help="where an answer names no option, take the one whose letter the model finds most likely",
    )
    parser.add_argument("--predictions", metavar="FILE.jsonl", help="write every answer to this file")
    parser.add_argument("--resume", action="store_true", help="go on with this file where it ends")
    parser.add_argument(
        "--on-error",
        "--on_error",
        choices=("raise", "skip"),
        default="raise",
        help="what to do with a question that is wrong or whose video is missing or damaged (default: %(default)s)",
    )
    parser.add_argument(
        "--left-out",
        "--left_out",
        type=Path,
        metavar="FILE.jsonl",
        help="write what was skipped, and why, to this file",
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the table to this file, .csv or .json")
    parser.add_argument(
        "--export", type=Path, metavar="FILE.json", help="write what the server of EgoSchema takes to this file"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all figures to this file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf answer CHECKPOINT QUESTIONS --videos DIR`."""
    from ..data.multiple_choice import load_questions
    from ..evaluation.multiple_choice import PROMPT, AnswerSettings, evaluate_questions, export_choices, write_table
    from ..kinds import VIDEO_LLM, load
    from ..records.stamp import stamp

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
    where = {name: getattr(arguments, name) for name in ("device", "revision", "dtype")}
    loaded = load(arguments.checkpoint, wanted=(VIDEO_LLM,), **where)
    result = evaluate_questions(
        loaded.model,
        loaded.processor,
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
        write_json(arguments.output, report)
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
