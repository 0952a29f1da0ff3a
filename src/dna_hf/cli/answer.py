"""`dna-hf answer`."""

import argparse
import dataclasses
import json
import sys
from typing import Any

from .options import add_batch_size, add_checkpoint, add_output, add_place, add_reading, chosen
from .parser import add_verb
from .table import table, write_json, write_text
from .values import output_file, words


def add(commands: Any) -> None:
    """Declare the verb and its options."""
    parser = add_verb(
        commands,
        "answer",
        run,
        help="accuracy of a video LLM on multiple-choice questions",
        description="Ask a video LLM the questions of a file and state how many of its answers are right, by category "
        "and view. An answer that names no option counts as wrong, and is counted on its own.",
        example="answer runs/merged questions.json --videos clips/ --predictions answers.jsonl --output figures.json",
        go_on="where --predictions names a file, go on with --resume, else repeat the command",
    )
    add_checkpoint(parser)
    parser.add_argument("questions", metavar="QUESTIONS", help="JSON or JSON Lines file of questions")
    parser.add_argument("--videos", metavar="DIR", help="folder of the videos and images (default: that of the file)")
    parser.add_argument(
        "--format",
        choices=("perception_mcq", "egoschema", "generic"),
        help="how the questions are written (default: as the file looks)",
    )
    parser.add_argument(
        "--views",
        type=words,
        metavar="NAME,...",
        help="views to ask about, e.g. ego,exo or depth (default: ego,exo of perception_mcq, else all)",
    )
    parser.add_argument("--answers", metavar="FILE.json", help="the right answers, where the file does not hold them")
    parser.add_argument("--prompt", metavar="TEXT", help="what to tell the model, with {question} and {choices}")
    add_reading(parser, max_new_tokens=128)
    add_batch_size(parser, 1, "questions at a time")
    add_place(parser)
    parser.add_argument(
        "--second-chance",
        choices=("likelihood",),
        help="where an answer names no option, take the one whose letter the model finds most likely",
    )
    parser.add_argument(
        "--predictions", metavar="FILE.jsonl", type=output_file, help="write every answer to this file"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the file of --predictions where it ends")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="what to do with a question that is wrong or whose video is missing or damaged (default: %(default)s)",
    )
    for name, file, help in (
        ("--left-out", "FILE.jsonl", "write what was skipped, and why, to this file"),
        ("--table", "FILE", "write the table to this file, .csv or .json"),
        ("--export", "FILE.json", "write what the server of EgoSchema takes to this file"),
    ):
        parser.add_argument(name, metavar=file, type=output_file, help=help)
    add_output(parser, "write all figures to this file")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`dna-hf answer CHECKPOINT QUESTIONS --videos DIR`."""
    if arguments.resume and arguments.predictions is None:
        arguments.parser.error("--resume goes on with the file of --predictions: name it")

    from ..data.multiple_choice import load_questions
    from ..evaluation.answer_tables import answer_facts, answer_rows
    from ..evaluation.multiple_choice import PROMPT, AnswerSettings, evaluate_questions, export_choices, write_table
    from ..kinds import VIDEO_LLM, load
    from ..records.stamp import stamp

    settings = AnswerSettings(
        prompt=arguments.prompt or PROMPT,
        **chosen(arguments, "fps", "max_frames", "max_visual_tokens", "max_new_tokens", "second_chance", "batch_size"),
    )
    file = load_questions(
        arguments.questions,
        arguments.videos,
        **chosen(arguments, "format", "views", "answers", "on_error"),
    )
    loaded = load(arguments.checkpoint, wanted=(VIDEO_LLM,), **chosen(arguments, "device", "revision", "dtype"))
    result = evaluate_questions(
        loaded.model,
        loaded.processor,
        file.questions,
        settings,
        **chosen(arguments, "predictions", "resume", "on_error"),
    )
    left_out = [*file.skipped, *result.unreadable]
    if arguments.left_out is not None:
        write_text(arguments.left_out, "".join(json.dumps(entry) + "\n" for entry in left_out))
    if arguments.table is not None:
        write_table(result.table, arguments.table)
    if arguments.export is not None:
        export_choices(result.predictions, result.unreadable, arguments.export)
    if arguments.output is not None:
        report = {"checkpoint": arguments.checkpoint, "questions": file.name, "format": file.format}
        report |= {"settings": dataclasses.asdict(settings), **stamp()}
        rows = [dataclasses.asdict(row) for row in result.table]
        write_json(arguments.output, report | {"metrics": result.metrics, "table": rows, "left_out": left_out})
    print(table(*answer_rows(result.table)))
    print("\n" + table((file.name, ""), answer_facts(result.metrics)))
    for entry in left_out:
        print(f"dna-hf: left out: {entry['error']}", file=sys.stderr)
    return 0
