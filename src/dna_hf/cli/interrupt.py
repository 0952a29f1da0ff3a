"""Ctrl-C: one line that says how to go on, and exit code 130."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


CODE = 130


@contextmanager
def answered(go_on: str) -> Iterator[None]:
    """Answer Ctrl-C at once: say how to go on, and leave.

    An exception would be raised in the middle of whatever runs, and where that is a library written in C++ that is
    being imported, the process would crash. A verb that has something to clean up calls [`cleaned_up`].

    Args:
        go_on: what a user who pressed Ctrl-C can do, for the message.
    """
    main_process = os.getpid()

    def leave(*_: Any) -> None:
        if os.getpid() != main_process:
            # a worker of a data loader: the process that waits for it answers
            raise KeyboardInterrupt
        try:
            sys.stdout.flush()
            # not by print: it may be what was interrupted
            os.write(2, f"\ndna-hf: interrupted; {go_on}.\n".encode())
        finally:
            os._exit(CODE)

    before = _exchange(signal.default_int_handler, leave)
    try:
        yield
    finally:
        _exchange(leave, before)


def cleaned_up() -> None:
    """Raise KeyboardInterrupt at Ctrl-C from now on, for what is cleaned up then."""
    if _is_main_thread() and getattr(signal.getsignal(signal.SIGINT), "__module__", None) == __name__:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exchange(old: Any, new: Any) -> Any:
    """Set another handler in place of an expected one: where Ctrl-C is ignored or another's, it stays so."""
    if _is_main_thread() and signal.getsignal(signal.SIGINT) is old:
        signal.signal(signal.SIGINT, new)
    return old


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
