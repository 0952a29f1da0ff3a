"""The summary of a GPU session, and its results in one file."""

import os
import shutil
import subprocess
import sys
import tarfile
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from states import TABLE, write

from dna_hf.whole_files import whole_file


NO_CARD = "none"
LIBRARIES = ("torch", "transformers", "accelerate", "timm", "triton")
# what goes into results.tar.gz: no checkpoints
RESULTS = (".csv", ".json", ".md", ".txt")


def machine(scale: str) -> dict[str, str]:
    """What the session runs on, in words, by what is described."""
    cards = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    card, _, driver = cards.partition("\n")[0].partition(", ")
    libraries = [f"{name} {found}" for name in LIBRARIES if (found := _version(name))]
    return {
        "card": card or NO_CARD,
        "driver": driver or NO_CARD,
        "cores": str(len(os.sched_getaffinity(0))),
        "versions": ", ".join([f"Python {sys.version.split()[0]}", *libraries]),
        "commit": os.environ.get("COMMIT") or commit() or "unknown",
        "scale": scale,
        "begun": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    }


def write_results(out: Path, parts: dict[str, dict[str, Any]], seen: dict[str, str]) -> None:
    """Write `summary.md`, and `results.tar.gz` with it and everything that the parts wrote but their checkpoints.

    Args:
        out: folder of the results.
        parts: state, note and seconds of each part, by name.
        seen: the machine, see [`machine`].
    """
    write(out / "summary.md", _summary(out, parts, seen))
    with whole_file(out / "results.tar.gz") as unfinished, tarfile.open(unfinished, "w:gz") as archive:
        archive.add(out / "summary.md", "summary.md")
        for name in parts:
            for path in sorted((out / name).iterdir()):
                if path.suffix in RESULTS:
                    archive.add(path, f"{name}/{path.name}")


def _summary(out: Path, parts: dict[str, dict[str, Any]], seen: dict[str, str]) -> str:
    lines = ["# GPU session", "", "The last call:", "", *(f"- {what}: {value}" for what, value in seen.items()), ""]
    lines += ["| part | state | minutes | note | card and commit |", "|---|---|---:|---|---|"]
    for name, part in parts.items():
        minutes, where = f"{part['seconds'] / 60:.1f}", "; ".join(part["where"])
        lines.append(f"| {name} | {part['state']} | {minutes} | {part['note']} | {where} |")
    for name in parts:
        table = out / name / TABLE
        if table.exists() and table.stat().st_size:
            lines += ["", f"## {name}", "", table.read_text().strip()]
    return "\n".join(lines) + "\n"


def _output(*command: str) -> str:
    """What a command prints; nothing where there is no such command, or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """The commit of this repository, and whether files differ from it; nothing where git does not know."""
    here = str(Path(__file__).parent)
    number = _output("git", "-C", here, "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", here, "status", "--porcelain", "--untracked-files=no")
    return f"{number}, changed" if number and changed else number
