"""Files that are whole or not there at all, whenever the process ends."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Around the writing of a file: gives the path to write to, which gets its name when all is written.

    The folder of the file is made where there is none. Where writing fails, what was at the path before stays there.
    What is no plain file, such as `/dev/stdout`, is written to as it is.

    Args:
        path: file that is to be written.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # in a folder of its own, so that it gets the permissions of any new file; beside it, for both must be on one disk
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:40]}.") as folder:
        unfinished = Path(folder, path.name)
        yield unfinished
        unfinished.replace(path)
