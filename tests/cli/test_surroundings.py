"""The process around a verb: its streams, Ctrl-C, and how it is started."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dna_hf import __version__
from dna_hf.cli import interrupt, main
from dna_hf.cli.dispatch import VERBS
from dna_hf.data.errors import DataError


@pytest.mark.parametrize("module", ["dna_hf", "dna_hf.cli"])
def test_it_starts_as_a_module(module):
    run = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"dna-hf {__version__}\n", "")


@pytest.mark.parametrize(("words", "codes"), [(["recipes"], (141,)), (["train", "--help"], (0, 141))])
def test_a_reader_who_leaves_gets_no_traceback(words, codes):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        run = subprocess.run(
            [sys.executable, "-m", "dna_hf", *words], stdout=nobody, stderr=subprocess.PIPE, timeout=60
        )
    assert run.returncode in codes and run.stderr == b""


FULL_DEVICE = Path("/dev/full")


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="has no /dev/full")
@pytest.mark.parametrize("words", [["recipes"], ["train", "--help"], ["--version"]])
def test_an_output_without_room_is_told(words):
    with FULL_DEVICE.open("w") as full:
        run = subprocess.run([sys.executable, "-m", "dna_hf", *words], stdout=full, stderr=subprocess.PIPE, timeout=60)
    said = "dna-hf: error: the output cannot be written: No space left on device; make room for it.\n"
    assert (run.returncode, run.stderr.decode()) == (2, said)


@pytest.fixture
def verb(monkeypatch):
    """Puts another action into `dna-hf merge`, which needs nothing but words."""

    def put(run):
        (merge,) = (each for each in VERBS if each.__name__.endswith(".merge"))
        monkeypatch.setattr(merge, "run", run)

    return put


WORDS = ["merge", "adapter", "--output-dir", "out"]


def test_a_name_that_a_terminal_cannot_show(verb, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "printed").open("w", encoding="ascii") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        verb(lambda arguments, rest: print("Bär \udcff") or 0)
        assert main(WORDS) == 0
    assert (tmp_path / "printed").read_text() == "B?r ?\n"


def test_an_error_of_a_worker_is_told_without_its_traceback(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(arguments, rest):
        raise DataError("Caught DataError in worker 0.\nTraceback ...\ndna_hf.data.errors.DataError: it is damaged.")

    verb(run)
    assert main(WORDS) == 2
    assert capsys.readouterr().err == "dna-hf: error: it is damaged.\n"


def test_a_mistake_of_the_program_shows_its_traceback(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb(lambda arguments, rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(WORDS)


def test_a_full_disk_is_told_and_other_errors_of_the_system_are_not(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = errno.ENOSPC

    def run(arguments, rest):
        raise OSError(code, os.strerror(code), "figures.json")

    verb(run)
    assert main(WORDS) == 2
    assert "'figures.json' cannot be written: No space left on device" in capsys.readouterr().err
    code = errno.EIO
    with pytest.raises(OSError, match="figures.json"):
        main(WORDS)


@pytest.fixture
def ctrl_c():
    """Ctrl-C as a terminal's programs have it: what is started in the background is told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(capsys, verb, clean_up):
    def run(arguments, rest):
        if clean_up:
            interrupt.cleaned_up()
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it goes on")

    verb(run)
    code = main(WORDS)
    return code, capsys.readouterr().err


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_of_a_verb_that_cleans_up(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    code, said = interrupted(capsys, verb, clean_up=True)
    assert (code, said) == (130, "\ndna-hf: interrupted; empty the output folder and repeat the command.\n")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_of_any_other_leaves_at_once(verb, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    left, written = [], []

    class Left(BaseException):
        pass

    def leave(code):
        left.append(code)
        raise Left

    monkeypatch.setattr(interrupt.os, "_exit", leave)
    monkeypatch.setattr(interrupt.os, "write", lambda file, text: written.append((file, text)))
    verb(lambda arguments, rest: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Left):
        main(WORDS)
    line = b"\ndna-hf: interrupted; empty the output folder and repeat the command.\n"
    assert (left, written) == ([130], [(2, line)])


def test_ctrl_c_that_is_ignored_stays_so(verb, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        verb(lambda arguments, rest: interrupt.cleaned_up() or signal.raise_signal(signal.SIGINT) or 0)
        assert main(WORDS) == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# a process that gets Ctrl-C in the moment in which a module begins to be imported
INTERRUPTED_IN = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
from dna_hf.cli import main
sys.exit(main(["predict", ".", "picture.png"]))
"""
MOMENTS = ["dna_hf.cli.dispatch", "argparse", "dna_hf.cli.values", "dna_hf.kinds", "torch", "numpy", "transformers"]
MOMENTS += ["transformers.modeling_utils", "dna_hf.models.modeling_dna_vit"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_while_something_is_imported_is_one_line(moment, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IN, moment], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, run.stdout) == (130, "")
    assert run.stderr == "\ndna-hf: interrupted; nothing was written.\n"
