"""Names of data sets and checkpoints that others may read: where things lay on a machine is nobody else's business."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..data.errors import DataError
from ..data.provenance import public_name
from ..errors import DnaError, told_as


# what a conversion writes beside the weights
CONVERSION_FILE = "conversion.json"


def conversion_source(folder: str | Path, error_class: type[DnaError] = DataError) -> str | None:
    """What the checkpoint in a folder was converted from, `None` if it was not.

    Raises:
        DnaError: of class `error_class`, if the file that says so is damaged.
    """
    path = Path(folder, CONVERSION_FILE)
    if not path.is_file():
        return None
    with told_as(error_class, f"{CONVERSION_FILE} in {str(folder)!r} is damaged", "remove it"):
        return json.loads(path.read_text(encoding="utf-8"))["source"]


def checkpoint_origin(checkpoint: str, error_class: type[DnaError] = DataError) -> str:
    """The name under which others know a checkpoint: what it was converted from, else its public name.

    Raises:
        DnaError: of class `error_class`, if the file that says what it was converted from is damaged.
    """
    return conversion_source(checkpoint, error_class) or public_name(checkpoint)


def checkpoint_labels(checkpoints: Sequence[str]) -> list[str]:
    """Names of folders; where several have one name, with as many parts of the path as tell them apart.

    Raises:
        DataError: if a checkpoint is given twice.
    """
    paths = [Path(checkpoint).absolute().parts for checkpoint in checkpoints]
    labels = []
    for checkpoint, parts in zip(checkpoints, paths, strict=True):
        if paths.count(parts) > 1:
            raise DataError(f"checkpoint {checkpoint!r} is given twice: give every checkpoint once.")
        depth = 1
        while [other[-depth:] for other in paths].count(parts[-depth:]) > 1:
            depth += 1
        labels.append("/".join(parts[-depth:]))
    return labels
