"""Words of a command line that cannot be understood: one sentence and exit code 2, before anything is imported."""

import argparse
import json
import subprocess
import sys
from typing import get_args

import pytest

from dna_hf.analysis import sight
from dna_hf.analysis.drawing import COLOURS
from dna_hf.analysis.subspaces import Against
from dna_hf.cli import main
from dna_hf.cli.dispatch import VERBS, build_parser, spelled
from dna_hf.cli.run_keys import check_run_keys
from dna_hf.conversion.attention import NegativeInit
from dna_hf.conversion.options import APPLIES, AttentionType
from dna_hf.data.arguments import VIEW_KEYS
from dna_hf.data.multiple_choice import FORMATS
from dna_hf.evaluation.distractors import POSITIONS
from dna_hf.evaluation.multiple_choice import SECOND_CHANCES
from dna_hf.training.config_file import MODEL_TYPES
from dna_hf.training.config_file import _known as known_keys


# complete but for what a row of the table adds
START = {
    "train": ["train", "tiny.yaml"],
    "data": ["data", "pictures"],
    "recipes": ["recipes"],
    "evaluate": ["evaluate", "x"],
    "predict": ["predict", "x", "a.png"],
    "answer": ["answer", "x", "q.json"],
    "chat": ["chat", "x"],
    "distractors": ["distractors", "x", "--output-dir", "out"],
    "compare": ["compare", "tiny.yaml"],
    "benchmark": ["benchmark", "data", "tiny.yaml"],
    "convert": ["convert", "x", "out"],
    "merge": ["merge", "x", "--output-dir", "out"],
    "publish": ["publish", "x", "user/name"],
    "visualize": ["visualize", "x", "a.png", "--output-dir", "out"],
    "analyze": ["analyze", "x", "--output-dir", "out"],
    "demo": ["demo", "x"],
}
# other words than options are keys there, which the file of the run decides on
RUNS = ("train", "compare", "benchmark")
COUNT = "must be a whole number of at least 1"
SEED = "must be a whole number from 0 to 4294967295"
FILE = "is a folder: name a file"
BELOW_A_FILE = "is a file; choose another folder"
FULL = "is not empty: choose another one"
# (verb, option, values, what the sentence says)
WRONG = [
    *(
        (verb, "--batch-size", ("0", "-1", "1.5", "nan", "many", "", "1e3", "²"), COUNT)
        for verb in ("evaluate", "predict", "answer", "distractors", "analyze")
    ),
    *((verb, "--seed", ("-1", "1.5", "nan", "4294967296"), SEED) for verb in ("chat", "distractors", "convert")),
    *((verb, "--seed", ("-1", "1.5", "nan", "4294967296"), SEED) for verb in ("evaluate", "analyze")),
    ("distractors", "--held-out-seed", ("-1", "1.5"), SEED),
    *(
        (verb, option, ("0", "-3", "x"), COUNT)
        for verb, option in (
            ("predict", "--top-k"),
            ("evaluate", "--knn"),
            *(
                (verb, f"--max-{name}")
                for verb in ("answer", "chat")
                for name in ("frames", "visual-tokens", "new-tokens")
            ),
            ("distractors", "--grid"),
            ("distractors", "--max-tiles"),
            ("benchmark", "--seconds"),
            ("analyze", "--k"),
            *(("convert", f"--{name}") for name in ("image-size", "num-attention-heads", "num-probes", "num-frames")),
        )
    ),
    *(
        (verb, option, ("0", "-1", "nan", "inf", "x"), "must be a number above 0")
        for verb, option in (
            ("answer", "--fps"),
            ("chat", "--fps"),
            ("analyze", "--epsilon"),
        )
    ),
    ("convert", "--warm-scale", ("nan", "inf", "x", ""), "must be a finite number"),
    ("chat", "--temperature", ("-1", "nan", "inf", "warm"), "must be a number of at least 0"),
    ("visualize", "--opacity", ("-1", "1.1", "nan", "x"), "must be a number from 0 to 1"),
    ("analyze", "--pictures", ("-1", "x"), "must be a whole number of at least 0"),
    ("compare", "--seeds", ("-1", "a,b", "", "1.5"), "must be whole numbers with commas between"),
    ("convert", "--interaction-layers", ("-1", "a"), "must be whole numbers with commas between"),
    ("visualize", "--layer", ("first", "nan"), "must be a whole number or all"),
    ("visualize", "--head", ("first", "1.5"), "must be a whole number or mean or all"),
    ("visualize", "--query", ("x", "1,y"), "must be class, a number or ROW,COLUMN"),
    ("demo", "--port", ("0", "-1", "99999", "http"), "must be a whole number from 1 to 65535"),
    ("publish", "--max-shard-size", ("x", "0GB", "5", "5 GB"), "must be a size such as 500MB or 5GB"),
    *(
        (verb, option, ("x",), "invalid choice: 'x'")
        for verb, option in (
            ("answer", "--format"),
            ("answer", "--dtype"),
            ("answer", "--on-error"),
            ("chat", "--dtype"),
            ("answer", "--second-chance"),
            *(
                ("convert", f"--{name}")
                for name in ("from", "negative-init", "negative-sign", "attention-type", "dtype")
            ),
            ("merge", "--dtype"),
            *(("data", f"--{name}") for name in ("kind", "problem-type")),
            ("distractors", "--target-position"),
            *(("visualize", f"--{name}") for name in ("kind", "axis", "show", "format", "animation", "colours")),
            *(("analyze", f"--{name}") for name in ("against", "colours")),
        )
    ),
    *(
        (verb, option, ("folder",), FILE)
        for verb, options in (
            ("evaluate", ("--output", "--confusion")),
            ("answer", ("--output", "--predictions", "--left-out", "--table", "--export")),
            ("benchmark", ("--output",)),
            ("data", ("--output",)),
            ("recipes", ("--copy",)),
        )
        for option in options
    ),
    *(
        (verb, option, ("file/deep/x", "file/x"), BELOW_A_FILE)
        for verb, option in (
            ("evaluate", "--output"),
            ("evaluate", "--confusion"),
            ("answer", "--predictions"),
            ("benchmark", "--output"),
            ("recipes", "--copy"),
            ("demo", "--export-space"),
        )
    ),
    *(
        (verb, "--output-dir", ("file", "file/x"), BELOW_A_FILE)
        for verb in ("data", "distractors", "compare", "merge", "visualize", "analyze")
    ),
    ("compare", "--variants", ("", ",", "a,,b"), "must be names with commas between"),
    ("answer", "--views", ("", "ego,"), "must be names with commas between"),
    # as of a variable of the shell that is not set
    *((verb, "--output-dir", ("",), "must be a path or a name, got ''") for verb in ("visualize", "merge", "compare")),
    *((verb, "--compare", ("",), "must be a path or a name, got ''") for verb in ("visualize", "analyze", "demo")),
    ("evaluate", "--confusion", ("", " "), "must be a path or a name"),
    ("answer", "--reparse", ("", " "), "must be a path or a name"),
    ("data", "--checkpoint", ("",), "must be a path or a name"),
    ("evaluate", "--output", ("/proc/none/figures.json",), "cannot be written: "),
    ("analyze", "--output-dir", ("/proc/none",), "cannot be written: "),
    *(("answer", option, ("file/x",), BELOW_A_FILE) for option in ("--left-out", "--table", "--export", "--output")),
    ("demo", "--export-space", ("folder",), FULL),
    ("merge", "--output-dir", ("folder",), FULL),
]
CASES = [(*START[verb], option, value, says) for verb, option, values, says in WRONG for value in values]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to run in, with a file and a folder that holds something."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "something").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sentence(words, capsys):
    """What the command line says to words that it refuses."""
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("dna-hf: error: ") and printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join((case[0], *case[-3:-1])))
def test_values_that_an_option_does_not_take(place, capsys, case):
    *words, says = case
    before = sorted(place.rglob("*"))
    said = sentence(words, capsys)
    assert says in said and f"see dna-hf {words[0]}" in said and words[-2].strip("-") in said
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("verb", ["evaluate", "predict", "visualize", "analyze", "distractors", "chat"])
def test_a_checkpoint_that_is_not_there_is_told_before_torch_is_imported(verb, place):
    script = (
        "import sys\nfrom dna_hf.cli import main\ncode = main(sys.argv[1:])\n"
        "assert code == 2 and not {'torch', 'transformers'} & set(sys.modules)"
    )
    words = ["./typo" if word == "x" else word for word in START[verb]]
    run = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stderr == "dna-hf: error: checkpoint './typo' is not there: there is no such folder.\n"


@pytest.mark.parametrize("words", [["evaluate", ""], ["predict", "x", ""], ["distractors", "", "--output-dir", "out"]])
def test_a_checkpoint_or_a_file_without_a_name(words, capsys):
    assert "must be a path or a name, got ''" in sentence(words, capsys)


def test_an_output_folder_without_a_name(capsys, place):
    (place / "tiny.yaml").write_text("model: {}")
    assert "output_dir must be a folder" in sentence(["train", "tiny.yaml", "--output_dir", ""], capsys)


@pytest.mark.parametrize("verb", [verb for verb in START if verb not in RUNS])
def test_an_option_that_does_not_exist_is_named_and_the_nearest_proposed(verb, capsys, place):
    words = [*START[verb], "--devise", "cpu"]
    said = sentence(words, capsys)
    assert "--devise" in said
    if verb not in ("data", "merge", "publish", "convert", "recipes"):
        assert "did you mean --device?" in said


MISSING = [[], ["benchmark"], *([verb] for verb in START if verb != "recipes")]
MISSING += [["predict", "x"], ["answer", "x"], ["distractors", "x"], ["distractors", "--output-dir", "out"]]
MISSING += [["convert", "x"], ["merge", "x"], ["publish", "x"], ["visualize", "x", "-o", "out"], ["analyze", "x"]]


@pytest.mark.parametrize("words", MISSING, ids=" ".join)
def test_words_that_are_missing(words, capsys):
    assert "required" in sentence(words, capsys)


def test_a_verb_that_does_not_exist(capsys):
    said = sentence(["trian"], capsys)
    assert "invalid choice: 'trian'" in said and "train" in said


@pytest.mark.parametrize(
    "words", [["train", "tiny.yaml", "--max_steps", "2", "loose"], ["compare", "tiny.yaml", "loose"]]
)
def test_a_word_that_belongs_to_nothing(words, capsys, place):
    assert "'loose'" in sentence(words, capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["chat", "x", "--seed", "3"], "--seed is for answers that are drawn: give --temperature, too"),
        (["chat", "x", "--seed", "3", "--temperature", "0"], "give --temperature, too"),
        (["answer", "x", "q.json", "--resume"], "--resume goes on with the file of --predictions: name it"),
    ],
)
def test_an_option_that_has_no_effect_without_another(words, says, capsys):
    assert says in sentence(words, capsys)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("--learning_rat", "unknown key --learning_rat: did you mean 'learning_rate'?"),
        ("--learning-rat", "unknown key --learning_rat: did you mean 'learning_rate'?"),
        ("--model.hiden_size", "unknown key --model.hiden_size: did you mean 'hidden_size'?"),
        ("--zzzzzz", "unknown key --zzzzzz: see dna-hf train --help."),
        ("--num_clips", "--num_clips has no effect on training: it is for dna-hf evaluate."),
        ("--data.view_average", "--data.view_average has no effect on training: it is for dna-hf evaluate."),
    ],
)
def test_keys_that_no_run_has(key, says, capsys, place):
    (place / "tiny.yaml").write_text("model: {}")
    for verb in RUNS:
        assert sentence([*START[verb], key, "1"], capsys) == f"dna-hf: error: {says}\n"


def test_keys_of_a_file_that_have_no_effect(capsys, place):
    (place / "tiny.yaml").write_text("data: {num_crops: 3}")
    assert "data.num_crops has no effect on training" in sentence(["train", "tiny.yaml"], capsys)


def test_no_key_of_a_run_is_taken_for_a_wrong_one():
    for model_type in MODEL_TYPES:
        keys = {key for section in known_keys(model_type).values() for key in section} - set(VIEW_KEYS)
        assert {"output_dir", "attention_variant", "dataset", "checkpoint"} <= keys
        check_run_keys(dict.fromkeys(keys), {"data": {}})


def test_every_verb_is_in_the_tables():
    assert [verb.__name__.rpartition(".")[2] for verb in VERBS] == list(build_parser_verbs())
    assert set(START) == set(build_parser_verbs())


def build_parser_verbs():
    """Name -> parser of all verbs, those of benchmark's parts included under its name."""
    (commands,) = (each for each in build_parser()._actions if isinstance(each, argparse._SubParsersAction))
    return commands.choices


def test_every_option_that_reads_a_value_has_wrong_ones_in_the_table():
    tested = {(verb, option) for verb, option, *_ in WRONG}
    for verb, words in START.items():
        parser = build_parser().parse_known_args(words)[0].parser
        for action in parser._actions:
            if action.option_strings and (action.type is not None or action.choices):
                assert any((verb, option) in tested for option in action.option_strings), (verb, action.option_strings)


# the command line says them again, for it imports nothing heavy
CHOICES = {
    ("analyze", "--against"): get_args(Against),
    ("analyze", "--colours"): COLOURS,
    ("answer", "--format"): FORMATS,
    ("answer", "--second-chance"): SECOND_CHANCES,
    ("convert", "--from"): APPLIES,
    ("convert", "--negative-init"): get_args(NegativeInit),
    ("convert", "--attention-type"): get_args(AttentionType),
    ("distractors", "--target-position"): POSITIONS,
    ("visualize", "--kind"): sight.KINDS,
    ("visualize", "--show"): sight.SHOWN,
    ("visualize", "--format"): sight.FORMATS,
    ("visualize", "--animation"): sight.ANIMATIONS,
    ("visualize", "--colours"): COLOURS,
}


@pytest.mark.parametrize(("verb", "option"), CHOICES)
def test_choices_are_those_of_the_rooms(verb, option):
    (action,) = (each for each in build_parser_verbs()[verb]._actions if option in each.option_strings)
    assert set(action.choices) == set(CHOICES[verb, option])


def test_both_spellings_are_the_same():
    words = ["--batch_size", "a_b", "--output_dir=x_y", "-o", "c_d", "--", "--e_f"]
    assert spelled(words) == ["--batch-size", "a_b", "--output-dir=x_y", "-o", "c_d", "--", "--e_f"]


LIGHT = """
import contextlib, io, json, sys
from dna_hf.cli import main
for words in json.loads(sys.stdin.read()):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    heavy = sorted({"torch", "transformers", "numpy", "datasets"} & set(sys.modules))
    assert code in (0, 2) and not heavy, (words, code, heavy, printed.getvalue())
"""


def test_nothing_heavy_is_imported_for_help_or_a_mistake(place):
    told = [["--help"], ["--version"], ["recipes"], *([verb, "--help"] for verb in START)]
    mistakes = [[], ["trian"], ["benchmark"], ["train", "nowhere.yaml"], ["compare", "nowhere.yaml"]]
    mistakes += [["benchmark", "data", "nowhere.yaml"], ["train", "file"], ["train", "tiny.yaml", "loose"]]
    (place / "tiny.yaml").write_text("model: {}")
    mistakes += [[*START[verb], "--unknown-option", "1"] for verb in START]
    mistakes += [["evaluate", "x", "--max_eval_samples", "many"], ["analyze", "x", "-o", "out", "--mixup_alpha", "1"]]
    every = [*told, *mistakes, *(list(case[:-1]) for case in CASES)]
    run = subprocess.run(
        [sys.executable, "-c", LIGHT], input=json.dumps(every), capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
