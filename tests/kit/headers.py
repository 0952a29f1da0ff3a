"""The commands and figures that a configuration states in its header."""

import shlex

from dna_hf.cli.overrides import parse_overrides
from dna_hf.recipes import read_header


def commands(path):
    """The commands, as words; lines that explain them are left out."""
    text = "\n".join(read_header(path)["Command"]).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith(("dna-hf ", "accelerate "))]


def runs(path):
    """What the commands give to `train`: name of the recipe, and the overrides."""
    words = [words[words.index("train") + 1 :] for words in commands(path) if "train" in words]
    return [(name, parse_overrides(rest)) for name, *rest in words]


def figures(path):
    """The table of expected figures: rows by title."""
    lines = [line for line in read_header(path)["Expect"] if line.startswith("|")]
    title, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(title, row, strict=True)) for row in rows]
