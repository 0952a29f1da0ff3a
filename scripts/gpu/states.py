"""How far the parts of a GPU session are: what a part says itself, and what the session saw of it."""

import json
from pathlib import Path
from typing import Any

from dna_hf.whole_files import whole_file


DONE, CUT, FAILED, RUNNING = "done", "cut", "failed", "running"
# what a part says of itself; that of a part which is done is the reason to leave it alone
STATUS = "status.json"
TABLE = "table.md"
# what the session saw
SEEN = "session.json"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text)


def said_by(out: Path) -> dict[str, str] | None:
    """State and note that a part left in its folder, if it said anything in this call."""
    return json.loads((out / STATUS).read_text()) if (out / STATUS).exists() else None


def is_done(out: Path) -> bool:
    """Whether a part has nothing left to do."""
    said = said_by(out)
    return said is not None and said["state"] == DONE


def read(out: Path) -> dict[str, Any]:
    """State, note and seconds over all calls of a part, and where it ran."""
    if not (out / SEEN).exists():
        return {"state": "not begun", "note": "", "seconds": 0.0, "where": []}
    return json.loads((out / SEEN).read_text())


def settle(out: Path) -> None:
    """Write down the end of a part that a killed session left running; it runs no more."""
    if read(out)["state"] == RUNNING:
        note(out, DONE if is_done(out) else CUT, "the session was killed")


def begin(out: Path, where: str) -> None:
    """A part begins, on this card and commit: what it said in an earlier call does not count."""
    (out / STATUS).unlink(missing_ok=True)
    before = read(out)["where"]
    note(out, RUNNING, "", where=before if where in before else [*before, where])


def note(out: Path, state: str, why: str, **more: Any) -> None:
    """Write down a state, and more of what [`read`] returns; the rest stays as it was."""
    write(out / SEEN, json.dumps(read(out) | {"state": state, "note": why} | more) + "\n")
