"""Links in docstrings and documents lead somewhere, and each line about an argument is understood alone."""

import ast
import importlib
import re
from pathlib import Path

import pytest
import transformers

import dna_hf
from tests.kit.paths import ROOT


SOURCES = sorted((ROOT / "src" / "dna_hf").rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[`~?([\w.]+)`\]")
# a line that goes on with what stood before it: "of the weights", "that it took", "the same"
GOES_ON = re.compile(r"(of|that|to|which|as|it|they|them|in|for|by|with|from|the same|what it|as of)\b[^:]*")
ARGUMENT = re.compile(r"^ {4}\w+: +(.*)")


def module_of(path: Path):
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def is_there(name: str) -> bool:
    """Whether a dotted name leads to something: a module, what it holds, or a field of a class in it."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        return has(found, parts[count:])
    return False


def has(found, names) -> bool:
    for name in names:
        if name in getattr(found, "__dataclass_fields__", {}):
            return True
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


def is_near(name: str, module) -> bool:
    """Whether a short name is one of the module, of a class in it, a public one, or one of transformers."""
    names = name.split(".")
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return has(module, names) or any(has(each, names) for each in (*classes, dna_hf, transformers))


def docstrings(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield getattr(node, "name", path.stem), ast.get_docstring(node) or ""


def test_links_lead_somewhere():
    lost = []
    for path in (*SOURCES, *DOCUMENTS):
        for link in set(LINK.findall(path.read_text(encoding="utf-8"))):
            near = path.suffix == ".py" and not link.startswith("dna_hf.") and is_near(link, module_of(path))
            if not (near or is_there(link)):
                lost.append(f"{path.relative_to(ROOT)}: {link}")
    assert not lost


def test_lines_about_arguments_stand_alone():
    going_on = []
    for path in SOURCES:
        for name, text in docstrings(path):
            arguments = re.split(r"\n\n(?=\S)", text.partition("Args:\n")[2])[0]
            going_on += [
                f"{path.relative_to(ROOT)}, {name}: {line.strip()}"
                for line in arguments.splitlines()
                if (match := ARGUMENT.match(line)) and GOES_ON.match(match[1])
            ]
    assert not going_on


@pytest.mark.parametrize(
    ("line", "goes_on"),
    [
        ("of the weights; by default as they were saved.", True),
        ("that it took", True),
        ("the same", True),
        ("dtype of the weights, e.g. `float32`", False),
        ("commit, tag or branch on the Hub.", False),
    ],
)
def test_a_line_that_goes_on_is_found(line, goes_on):
    assert bool(GOES_ON.match(line)) is goes_on


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("dna_hf.kinds.load", True),
        ("dna_hf.kinds.Loaded.label", True),
        ("dna_hf.kinds.load_everything", False),
        ("dna_hf.evaluation.records", False),
    ],
)
def test_a_lost_link_is_found(name, there):
    assert is_there(name) is there
