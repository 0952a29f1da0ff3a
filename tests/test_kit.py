"""What the tests themselves rely on."""

import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dna_hf
from tests.kit.command_line import run_cli
from tests.kit.fresh_process import run_fresh
from tests.kit.skips import fail_if_not_allowed, read_allowed_skips


def state():
    return Path.cwd(), dict(os.environ), sys.argv[:], random.getstate(), np.random.get_state()[1].tolist()


def test_a_command_leaves_the_process_as_it_was(tmp_path):
    before, seed = state(), torch.get_rng_state()
    done = run_cli("--version", cwd=tmp_path, environment={"SOME_NAME": "x"})
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dna-hf {dna_hf.__version__}\n", "")
    wrong = run_cli("trian")
    assert wrong.returncode == 2 and wrong.stdout == "" and "trian" in wrong.stderr
    assert state() == before and torch.equal(torch.get_rng_state(), seed)


def test_a_bug_is_a_traceback_and_exit_code_1(monkeypatch):
    def broken(words):
        raise KeyError("a bug")

    monkeypatch.setattr("tests.kit.command_line.main", broken)
    done = run_cli("evaluate", "x")
    assert done.returncode == 1 and "KeyError: 'a bug'" in done.stderr


def test_a_fresh_process_has_no_package(tmp_path):
    assert run_fresh("print(sys.argv[1:], 'dna_hf' in sys.modules)", tmp_path, "a b") == "['a b'] False\n"
    with pytest.raises(AssertionError, match="the package is blocked"):
        run_fresh("import dna_hf", tmp_path)


@pytest.mark.parametrize(
    ("test", "reason", "outcome"),
    [
        ("test_vision_axial_rope", "X has no axial RoPE layer defined.", "skipped"),
        ("test_vision_axial_rope", "it is Monday", "failed"),
        ("test_save_load", "X has no axial RoPE layer defined.", "failed"),
    ],
)
def test_a_skip_needs_a_line(request, test, reason, outcome):
    report = SimpleNamespace(
        nodeid=f"tests/models/test_x_common.py::DnAViTModelTest::{test}",
        outcome="skipped",
        longrepr=("a.py", 1, f"Skipped: {reason}"),
    )
    fail_if_not_allowed(report, read_allowed_skips(request.config))
    assert report.outcome == outcome
