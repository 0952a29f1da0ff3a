"""What a user can do wrong: one root of the errors, and the one place where other libraries' errors become a sentence.

A message is one sentence: the thing, its value, and the fix. The command line prints it and leaves with exit code 2.
"""

import importlib
import pickle
import re
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


# what other libraries raise about files and settings that they cannot use
FOREIGN = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error),
)


class DnaError(Exception):
    """Something a user can mend; the message names the thing and the fix."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without a full stop; of an error without a message its name."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"\s+", " ", lines[0]).rstrip(".")


def one_line(error: BaseException) -> str:
    """All of an error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def sentence(error: BaseException) -> str:
    """What another library's error says to a user, in one line, without a full stop.

    The errors of strict configurations name the field in their first line and say what is wrong with it in the last.
    """
    from huggingface_hub.errors import StrictDataclassError

    if isinstance(error, StrictDataclassError):
        last = re.sub(r"\s+", " ", str(error).strip().splitlines()[-1]).strip().rstrip(".")
        return re.sub(r"^(Type|Value)Error: ", "", last)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, (EOFError, pickle.UnpicklingError, struct.error)):
        return "it is damaged or cut off"
    if isinstance(error, KeyError) and error.args:
        return f"{error.args[0]!r} is missing"
    return first_line(error)


@contextmanager
def told_as(error_class: type[DnaError], what: str, fix: str = "") -> Iterator[None]:
    """Turn what other libraries raise about a user's file or setting into one sentence: `what: reason`, and the fix.

    Errors of this package pass as they are: they are sentences already.

    Args:
        error_class: class of the error that is raised instead.
        what: beginning of the sentence, with the path, e.g. `"cannot load 'runs/a'"`.
        fix: what the user can do about it.

    Raises:
        DnaError: of class `error_class`.
    """
    try:
        yield
    except DnaError:
        raise
    except FOREIGN as error:
        raise error_class(_told(what, error, fix)) from error
    except Exception as error:
        # of libraries that are imported only where they are needed
        if not isinstance(error, _file_errors()):
            raise
        raise error_class(_told(what, error, fix)) from error


def _told(what: str, error: BaseException, fix: str) -> str:
    return f"{what}: {sentence(error)}{f'; {fix}' if fix else ''}."


def _file_errors() -> tuple[type[Exception], ...]:
    """Errors of libraries that are not imported before they are needed."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from yaml import YAMLError

    return (SafetensorError, StrictDataclassError, YAMLError)


def needed(library: str, error_class: type[DnaError], what: str) -> Any:
    """Import a library that only some of the package's work needs.

    Args:
        library: name of the library, which pip knows it by too.
        error_class: class of the error.
        what: what needs it, e.g. `"reading a data set"`.

    Raises:
        DnaError: of class `error_class`, if it cannot be imported.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise error_class(f"{what} needs {library} ({first_line(error)}): pip install {library}.") from error


def must_be_folder(folder: str | Path, error_class: type[DnaError], what: str = "checkpoint") -> Path:
    """See that there is a folder to read.

    Args:
        folder: path of the folder.
        error_class: class of the error.
        what: what is expected there, for the message.

    Raises:
        DnaError: of class `error_class`.
    """
    folder = Path(folder)
    if not folder.exists():
        raise error_class(f"{what} {str(folder)!r} is not there: there is no such folder.")
    if not folder.is_dir():
        raise error_class(f"{what} {str(folder)!r} is a file: name the folder it lies in.")
    return folder


def must_be_empty(folder: str | Path, error_class: type[DnaError], fix: str = "choose another one") -> Path:
    """See that a folder can be written to and holds nothing yet; it need not exist.

    Args:
        folder: path of the folder.
        error_class: class of the error.
        fix: what the user can do about a folder that holds something.

    Raises:
        DnaError: of class `error_class`.
    """
    folder = must_be_writable(folder, error_class)
    if folder.exists() and any(folder.iterdir()):
        raise error_class(f"folder {str(folder)!r} is not empty: {fix}.")
    return folder


def must_be_writable(folder: str | Path, error_class: type[DnaError]) -> Path:
    """See that a folder can be made where there is none, and written to; nothing is left behind.

    Raises:
        DnaError: of class `error_class`.
    """
    folder = Path(folder)
    try:
        absolute = folder.absolute()
    except OSError as error:
        raise error_class(f"{str(folder)!r} cannot be written: the working folder is gone; go to another.") from error
    nearest = next(path for path in (absolute, *absolute.parents) if path.exists())
    if not nearest.is_dir():
        raise error_class(f"{str(folder)!r} cannot be written: {str(nearest)!r} is a file; choose another folder.")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise error_class(f"{str(folder)!r} cannot be written: {error.strerror}; choose another folder.") from error
    return folder


def must_be_file(path: str | Path, error_class: type[DnaError]) -> Path:
    """See that a file can be written; its folder need not exist, and nothing is left behind.

    Raises:
        DnaError: of class `error_class`.
    """
    path = Path(path)
    if path.is_dir():
        raise error_class(f"{str(path)!r} is a folder: name a file.")
    must_be_writable(path.parent, error_class)
    return path
