"""The command that converts, called in the process of the tests."""

from dna_hf.cli import main


def convert_command(capsys, *words):
    """Run `dna-hf convert`: exit code, what it printed, and its errors."""
    code = main(["convert", *map(str, words)])
    return code, *capsys.readouterr()
