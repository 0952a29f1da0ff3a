"""Folders of labelled images: which files are the data, in which split and of which class."""

from pathlib import Path
from typing import Any

from .arguments import ImageDataArguments


def load_folder(folder: Path, arguments: ImageDataArguments) -> Any:
    """All splits of a folder, by name."""
    import datasets

    return datasets.load_dataset(str(folder), streaming=arguments.streaming)
