"""Help texts: what they list, how they are laid out, and that nothing without effect is among it."""

import argparse
import dataclasses
import re
import shlex

import pytest

from dna_hf.cli import main
from dna_hf.cli.dispatch import build_parser, spelled
from dna_hf.cli.keys import ANALYZE, DISTRACTORS, EVALUATE
from dna_hf.cli.parser import Parser
from dna_hf.data.arguments import TRAINING_KEYS, ImageDataArguments, VideoDataArguments
from dna_hf.data.conversation_arguments import QuestionDataArguments
from dna_hf.training.errors import ConfigurationError
from tests.kit.paths import ROOT


def parsers(parser):
    """Words -> parser, of everything that has a help text of its own."""
    found = {(): parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found |= {(name, *words): each for words, each in parsers(inner).items()}
    return found


PARSERS = parsers(build_parser())
ALL = {
    field.name
    for section in (ImageDataArguments, VideoDataArguments, QuestionDataArguments)
    for field in dataclasses.fields(section)
}


def help_of(words, capsys, monkeypatch, columns=80):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", PARSERS, ids=" ".join)
@pytest.mark.parametrize("columns", [72, 120])
def test_help_is_as_wide_as_the_terminal_and_ends_with_an_example(words, columns, capsys, monkeypatch):
    text = help_of(words, capsys, monkeypatch, columns)
    assert text.startswith(f"usage: {' '.join(('dna-hf', *words))}")
    body, _, example = text.partition("\nexample:\n")
    assert example.startswith("  dna-hf ") and example.count("\n") == 1
    # what an option takes is never broken
    longest = max((line for line in body.splitlines() if line.lstrip()[:1] not in ("-", "[")), key=len)
    # a name or a path can be copied
    assert not re.search(r"\w-\n", body)
    assert columns // 2 < len(longest) <= columns, longest


@pytest.mark.parametrize("words", [words for words in PARSERS if words], ids=" ".join)
def test_every_example_is_understood(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = shlex.split(PARSERS[words].example)
    assert tuple(example[: len(words)]) == words
    if "--help" not in example:
        arguments, rest = build_parser().parse_known_args(example)
        assert arguments.parser.prog == PARSERS[words].prog and (not rest or arguments.parser.keys is not None)


@pytest.mark.parametrize("words", PARSERS, ids=" ".join)
def test_every_option_says_what_it_is_and_what_happens_without_it(words):
    for action in PARSERS[words]._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        assert action.help, action.dest
        if action.option_strings and action.nargs != 0 and not action.required and action.default not in (None, []):
            assert "default" in action.help, action.option_strings


@pytest.mark.parametrize("words", PARSERS, ids=" ".join)
def test_every_key_shows_its_type_and_default(words, capsys, monkeypatch):
    text = " ".join(help_of(words, capsys, monkeypatch, 200).split())
    for title, fields in (PARSERS[words].keys or {}).items():
        assert title in text
        for field in fields:
            assert f"--{field.name} " in text
            if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
                assert f"(default: {field.default})" in text


def test_a_key_is_laid_out_by_its_type(capsys, monkeypatch):
    text = help_of(["evaluate"], capsys, monkeypatch, 200)
    for part in ("--max_eval_samples N", "--streaming {true,false}", "--class_names [TEXT,...]", "--num_crops {1,3}"):
        assert part in text
    assert "--view_average {softmax,logit_sum}" in text and "--video_timeout NUMBER" in text


@pytest.mark.parametrize("keys", [EVALUATE, DISTRACTORS, ANALYZE], ids=lambda keys: keys.verb)
def test_keys_without_effect_are_neither_listed_nor_taken(keys, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = help_of([keys.verb], capsys, monkeypatch)
    output = [] if keys is EVALUATE else ["--output-dir", "out"]
    everywhere = set.intersection(*({*each.without} | ALL - {*each.fields} for each in keys.kinds))
    refused = everywhere & {name for each in keys.kinds for name in each.without}
    assert {"mixup_alpha", "validation_fraction", "auto_augment"} <= refused
    for name in refused:
        assert f"--{name} " not in text
        assert main([keys.verb, "x", *output, f"--{name}", "1"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"dna-hf: error: --{name} has no effect on dna-hf {keys.verb}: it is for training")
        with pytest.raises(ConfigurationError, match=f"--{name} has no effect on dna-hf {keys.verb} of "):
            keys.section({name: 1}, next(each.section for each in keys.kinds if name in each.without))


def test_every_key_for_training_exists():
    for section in (ImageDataArguments, VideoDataArguments):
        assert set(TRAINING_KEYS[section]) <= {field.name for field in dataclasses.fields(section)}
    assert not {field.name for field in dataclasses.fields(QuestionDataArguments)} & {"mixup_alpha", "train_split"}


def test_the_nearest_key_or_option_is_proposed(capsys):
    for words, says in (
        (["evaluate", "x", "--max_eval_sample", "3"], "did you mean --max_eval_samples?"),
        (["evaluate", "x", "--confusoin", "c.csv"], "did you mean --confusion?"),
        (["evaluate", "x", "--zzz", "3"], "see dna-hf evaluate --help."),
    ):
        assert main(words) == 2
        assert says in capsys.readouterr().err


def test_a_percent_sign_in_a_key_is_no_format(capsys):
    @dataclasses.dataclass
    class Section:
        share: float = dataclasses.field(default=0.5, metadata={"help": "100 % of it"})

    parser = Parser(prog="x", keys={"keys": dataclasses.fields(Section)})
    assert "100 % of it (default: 0.5)" in parser.format_help()


DOCUMENTS = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_is_understood(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / document).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [
        line.partition(" #")[0]
        for block in re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in re.findall(r"^dna-hf .*$", block, re.MULTILINE)
    ]
    for command in commands:
        arguments, rest = build_parser().parse_known_args(spelled(shlex.split(command)[1:]))
        assert not rest or arguments.parser.keys is not None, command
