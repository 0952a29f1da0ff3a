"""One root of all errors a user can mend, and other libraries' errors as one sentence."""

import importlib
import json
import pickle
import pkgutil
import struct
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

import dna_hf
from dna_hf import DnAViTConfig
from dna_hf.errors import (
    DnaError,
    first_line,
    must_be_empty,
    must_be_file,
    must_be_folder,
    must_be_writable,
    sentence,
    told_as,
)


class RoomError(DnaError):
    pass


def test_every_error_of_the_package_has_the_root():
    names = [module.name for module in pkgutil.walk_packages(dna_hf.__path__, "dna_hf.")]
    for name in names:
        if name.endswith(".errors") or name.endswith("checkpoint_records"):
            for value in vars(importlib.import_module(name)).values():
                if isinstance(value, type) and issubclass(value, Exception) and value.__module__.startswith("dna_hf."):
                    assert issubclass(value, DnaError), value
    assert sum(name.endswith(".errors") for name in names) >= 5


def raise_while(function):
    with pytest.raises(RoomError) as caught, told_as(RoomError, "cannot read 'x'", "write it again"):
        function()
    return str(caught.value)


FOREIGN = {
    "a missing file": (lambda: Path("/no/such/file").read_text(), "No such file or directory"),
    "damaged JSON": (lambda: json.loads("{"), "Expecting property name enclosed in double quotes"),
    "deep JSON": (lambda: json.loads("[" * 100_000), "it is nested too deeply"),
    "a pickle that is cut off": (lambda: pickle.loads(pickle.dumps([1, 2, 3])[:-3]), "it is damaged or cut off"),
    "a number that is cut off": (lambda: struct.unpack("<i", b"\x01"), "it is damaged or cut off"),
    "damaged YAML": (lambda: yaml.safe_load("a: [1"), "while parsing a flow sequence"),
    "a missing key": (lambda: {}["model"], "'model' is missing"),
    "a wrong field": (
        lambda: DnAViTConfig(hidden_size="wide"),
        "Field 'hidden_size' expected int, got str (value: 'wide')",
    ),
    "bytes that are no text": (lambda: b"\xff".decode(), "codec can't decode byte"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_errors_become_one_sentence(case):
    function, reason = FOREIGN[case]
    text = raise_while(function)
    assert text.startswith("cannot read 'x': ")
    assert reason in text
    assert text.endswith("; write it again.")
    assert "\n" not in text


def test_a_file_that_is_no_safetensors(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"abc")
    assert "header too small" in raise_while(lambda: safe_open(tmp_path / "a.safetensors", framework="pt"))


def test_errors_of_the_package_pass_as_they_are():
    with pytest.raises(DnaError, match="^already said$"), told_as(RoomError, "cannot read 'x'"):
        raise DnaError("already said")


def test_the_first_line_of_an_error():
    assert first_line(ValueError("one.\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert sentence(OSError(28, "No space left on device")) == "No space left on device"


def test_a_folder_that_is_not_there_may_be_written_and_stays_away(tmp_path):
    for check in (must_be_empty, must_be_writable):
        assert check(tmp_path / "a" / "b", RoomError) == tmp_path / "a" / "b"
    must_be_file(tmp_path / "a" / "figures.json", RoomError)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    for check, path, reason in (
        (must_be_empty, tmp_path / "full", "is not empty: choose another one"),
        (must_be_empty, tmp_path / "file", "is a file"),
        (must_be_empty, tmp_path / "file" / "below", "is a file"),
        (must_be_writable, tmp_path / "file" / "below", "is a file"),
        (must_be_file, tmp_path / "full", "is a folder: name a file"),
        (must_be_file, tmp_path / "file" / "below.json", "is a file"),
        (must_be_writable, Path("/proc/no/such"), "cannot be written"),
    ):
        with pytest.raises(RoomError) as caught:
            check(path, RoomError)
        assert reason in str(caught.value)
    must_be_empty(tmp_path / "other", RoomError)


def test_a_folder_to_read(tmp_path):
    (tmp_path / "file").write_text("")
    assert must_be_folder(str(tmp_path), RoomError) == tmp_path
    for name, message in (
        ("none", "checkpoint '.*none' is not there: there is no such folder."),
        ("file", "is a file"),
    ):
        with pytest.raises(RoomError, match=message):
            must_be_folder(tmp_path / name, RoomError)


def test_a_working_folder_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(RoomError, match="'out' cannot be written: the working folder is gone"):
        must_be_writable("out", RoomError)
