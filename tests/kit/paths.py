"""Where the repository and the reference data lie."""

import os
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
# files that are published with every checkpoint
ROOM = ROOT / "src" / "dna_hf" / "models"
SHARED = Path(os.environ.get("DNA_HF_SHARED", ROOT.parent / "shared"))


def shared_path(*parts):
    """A file or folder of the reference data; skips the test, saying why, where there is none."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"reference data not present: {path}")
    return path


def with_tests():
    """The environment of a process whose scripts import from `tests`."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
