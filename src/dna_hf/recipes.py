"""The recipes that come with the package: configuration files that say what they are for, and what they cost.

They are the files of `configs/`: in an installed package they lie inside it, in a clone at its top. A file begins with
comments that hold fields, `# Purpose: text`; a text goes on in further comments, indented. Recipes of runs state
`Purpose`, `Data`, `Expect`, `Time` and `Command`. Files of `accelerate launch`, named `accelerate/NAME`, state
`Purpose` and `Command`.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DnaError, must_be_file, told_as


LAUNCHERS = "accelerate"
# keys that turn one recipe into several runs, in the order of their place in a name
VARIED = ("protocol", "attention_type", "attention_variant")
FIELD = re.compile(r"# (\w+): +(.*)")


class RecipeError(DnaError):
    """A recipe that does not exist, or that cannot be copied."""


@dataclass(frozen=True)
class Recipe:
    """A configuration file of the package.

    Args:
        name: name of the recipe, as `dna-hf train` and [`find`] take it, e.g. `"vit_tiny_fashion_mnist"`.
        path: path of the file.
        header: fields of the comments that the file begins with, e.g. `header["Expect"]`, line by line.
    """

    name: str
    path: Path
    header: dict[str, list[str]]

    @property
    def purpose(self) -> str:
        """What the recipe is for, in one sentence."""
        return _first_sentence(self.header["Purpose"])

    @property
    def cost(self) -> str:
        """How long a run takes, and on what, in one sentence; empty for a file of `accelerate launch`."""
        return _first_sentence(self.header.get("Time", []))

    @property
    def is_launcher(self) -> bool:
        """Whether this is a file for `accelerate launch --config_file`, not a run."""
        return self.name.startswith(f"{LAUNCHERS}/")


def folder() -> Path:
    """Where the recipes lie."""
    package = Path(__file__).parent
    installed, clone = package / "configs", package.parents[1] / "configs"
    return installed if installed.is_dir() else clone


def recipes() -> list[Recipe]:
    """All recipes of runs by name, then those of `accelerate launch`."""
    return [Recipe(_name(path), path, read_header(path)) for path in _files()]


def read_header(path: str | Path) -> dict[str, list[str]]:
    """The fields of the comments that a file begins with.

    Args:
        path: a recipe, or a copy of one.

    Returns:
        Field -> its lines, without the comment signs.
    """
    fields: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        start = FIELD.fullmatch(line)
        if start:
            lines = fields[start[1]] = [start[2]]
        else:
            lines.append(line[1:].removeprefix(" " * 10).rstrip())
    return fields


def find(name_or_path: str | Path) -> Path:
    """The configuration file of this path or, where there is none, of the recipe of this name.

    Args:
        name_or_path: `"vit_tiny_fashion_mnist"`, `"accelerate/ddp"`, or the path of any file.

    Raises:
        RecipeError: if there is neither; the nearest names are proposed.
    """
    path = Path(name_or_path)
    with told_as(RecipeError, f"cannot read {str(path)!r}"):
        is_folder = path.is_dir()
        if path.exists() and not is_folder:
            return path
    known = {_name(file): file for file in _files()}
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    words = {Path(name).name: name for name in known}
    nearest = [repr(words[word]) for word in difflib.get_close_matches(path.stem, words, n=2, cutoff=0.5)]
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "dna-hf recipes lists all."
    what = "a folder" if is_folder else "no file"
    raise RecipeError(f"{str(name_or_path)!r} is {what} and not the name of a recipe: {hint}")


def text(name_or_path: str | Path) -> str:
    """The text of a configuration file.

    Args:
        name_or_path: name of a recipe, or path of any file, as [`find`] takes it.

    Raises:
        RecipeError: if there is no such file, or it is no text.
    """
    path = find(name_or_path)
    with told_as(RecipeError, f"cannot read {str(path)!r}"):
        return path.read_text(encoding="utf-8")


def copy(name_or_path: str | Path, file: str | Path) -> Path:
    """Copy a recipe to a file that does not exist yet, to be edited.

    Args:
        name_or_path: name of a recipe, or path of any file, as [`find`] takes it.
        file: path of the copy; its folder is made where there is none.

    Returns:
        The path of the copy.

    Raises:
        RecipeError: if there is no such recipe, or the file exists already or cannot be written.
    """
    content = text(name_or_path)
    target = must_be_file(file, RecipeError)
    if target.exists():
        raise RecipeError(f"{str(target)!r} exists: choose another file, or remove it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content, encoding="utf-8")
    return target


def default_output_dir(config: str | Path, overrides: Mapping[str, Any]) -> Path:
    """Where a run writes that names no `output_dir`: `runs/NAME`, and `_` with each of [`VARIED`] that was overridden.

    So the variants of a recipe do not meet in one folder.

    Args:
        config: configuration file of the run.
        overrides: keys given beside the file, with or without their section.
    """
    given = {key.rpartition(".")[2]: value for key, value in overrides.items()}
    words = [Path(config).stem, *(str(given[key]) for key in VARIED if key in given)]
    return Path("runs") / "_".join(words)


def _first_sentence(lines: list[str]) -> str:
    return re.split(r"(?<=\.)\s", " ".join(lines), maxsplit=1)[0]


def _files() -> list[Path]:
    return [*sorted(folder().glob("*.yaml")), *sorted(folder().glob(f"{LAUNCHERS}/*.yaml"))]


def _name(path: Path) -> str:
    return path.relative_to(folder()).with_suffix("").as_posix()
