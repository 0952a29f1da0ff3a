"""The demo as a Space of the Hub: a folder that holds all it needs."""

import json
import re
import shutil
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from ..analysis.errors import AnalysisError
from ..errors import must_be_empty
from ..records.names import checkpoint_labels
from .explore import load_explorer


PACKAGE = Path(__file__).resolve().parents[1]
CARD = """---
title: Denoising Attention
sdk: gradio
app_file: app.py
---

What models with Denoising Attention look at, by branch, layer and head. Made by `dna-hf demo`.
"""
APP = """from dna_hf.demo.app import build_app
from dna_hf.demo.explore import load_explorer


build_app(load_explorer({checkpoints}, revision={revision})).launch()
"""


def export_space(
    checkpoints: Sequence[str], folder: str | Path, revision: str | None = None, device: str | None = None
) -> list[Path]:
    """Write a folder that runs as a Space of the Hub, or with `python app.py`.

    Checkpoint folders are copied into it; names on the Hub are kept, so that the Space downloads them. The package
    goes along, too.

    Args:
        checkpoints: folders, or names on the Hub, which are loaded once to see that a page can show them.
        folder: folder to write to; it must be empty or not exist.
        revision: commit, tag or branch on the Hub, of all checkpoints.
        device: device to load the models on, e.g. `"cuda:1"`; by default the first GPU, else the CPU.

    Raises:
        AnalysisError: if the folder holds something or cannot be written, or dna-hf is not installed: then its
            requirements are not known.
        DataError: for checkpoints that a page cannot show; see [`~dna_hf.demo.explore.load_explorer`].
    """
    folder = must_be_empty(folder, AnalysisError)
    needed = _requirements()
    load_explorer(checkpoints, device, revision)
    folder.mkdir(parents=True, exist_ok=True)
    places = []
    for checkpoint, label in zip(checkpoints, checkpoint_labels(checkpoints), strict=True):
        if not Path(checkpoint).is_dir():
            places.append(checkpoint)
            continue
        places.append("models/" + label.replace("/", "_"))
        shutil.copytree(checkpoint, folder / places[-1], ignore=shutil.ignore_patterns("checkpoint-*"))
    shutil.copytree(PACKAGE, folder / "dna_hf", ignore=shutil.ignore_patterns("__pycache__"))
    texts = {
        "app.py": APP.format(checkpoints=json.dumps(places), revision=repr(revision)),
        "requirements.txt": "\n".join(needed) + "\n",
        "README.md": CARD,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _requirements() -> list[str]:
    """What the package and the demo need."""
    try:
        stated = requires("dna-hf") or []
    except PackageNotFoundError as error:
        raise AnalysisError("dna-hf is not installed, only found: pip install it before a Space is made.") from error
    parts = [requirement.partition(";") for requirement in stated]
    # the Space has Gradio of its own
    return [name.strip() for name, _, marker in parts if not re.search(r"\bextra\b", marker)]
