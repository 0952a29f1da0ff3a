"""The command line, called in this process: what it prints and returns, as of a process of its own."""

import contextlib
import io
import logging
import os
import random
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from dna_hf.cli import main


def run_cli(*words, cwd=None, environment=()):
    """Run `dna-hf` with these words, without the seconds that a new process needs for its imports.

    What a command changes in this process is put back: the folder, the environment, `sys.argv`, the seeds, the number
    of threads, and how loud transformers is. What a library reads once, when it is imported, is not changed by
    `environment`: see `client_of` for the Hub.

    Args:
        words: of the command, without `dna-hf`.
        cwd: folder to run in.
        environment: variables to set.

    Returns:
        What `subprocess.run` would: `returncode`, `stdout`, `stderr`.
    """
    words = list(map(str, words))
    out, error = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.ExitStack() as stack:
        stack.enter_context(_same_process_afterwards())
        stack.enter_context(mock.patch.object(sys, "argv", ["dna-hf", *words]))
        stack.enter_context(mock.patch.dict(os.environ, dict(environment)))
        stack.enter_context(_in_folder(cwd or Path.cwd()))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(error))
        stack.enter_context(_logs_go_to(error))
        code = _exit_code(words)
    printed = [stream.buffer.getvalue().decode() for stream in (out, error)]
    return subprocess.CompletedProcess(["dna-hf", *words], code, *printed)


@contextlib.contextmanager
def _in_folder(folder):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _exit_code(words):
    try:
        return main(words)
    except SystemExit as end:
        # as the interpreter does
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except Exception:
        traceback.print_exc()
        return 1


@contextlib.contextmanager
def _same_process_afterwards():
    """Put back what a command may leave changed."""
    seeds = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads, dtype, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(seeds[0])
        np.random.set_state(seeds[1])
        torch.set_rng_state(seeds[2])
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        transformers_logging.set_verbosity(verbosity)
        (transformers_logging.enable_progress_bar if bar else transformers_logging.disable_progress_bar)()


@contextlib.contextmanager
def _logs_go_to(stream):
    """Loggers hold the stream of the time they were made, and pytest listens to the root: as in a fresh process."""
    handlers = [
        handler
        for handler in logging.getLogger("transformers").handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]
    root = logging.getLogger()
    with contextlib.ExitStack() as stack:
        for handler in handlers:
            stack.enter_context(mock.patch.object(handler, "stream", stream))
        stack.enter_context(mock.patch.object(root, "handlers", []))
        yield


@contextlib.contextmanager
def instead_of_processes(module):
    """Let a module that starts `python -m dna_hf` by `subprocess.run` call the command line in this process."""

    def run(command, stdout, stderr):
        assert command[:3] == [sys.executable, "-m", "dna_hf"] and stdout is stderr
        done = run_cli(*command[3:])
        stdout.write(done.stdout + done.stderr)
        return done

    with mock.patch.object(module, "subprocess", SimpleNamespace(run=run)):
        yield
