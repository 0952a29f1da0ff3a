"""Reading checkpoint files: what is read, and that nothing hostile or damaged is run or slips through."""

import argparse
import builtins
import collections
import functools
import io
import json
import os
import pickle
import random
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from dna_hf.conversion import ConversionError
from dna_hf.conversion.files import PICKLE_SUFFIXES, read_tensors


# what is in other people's files does not depend on the version of transformers
pytestmark = pytest.mark.once


class Call:
    """Unpickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(4, 3, generator=generator), "b": torch.randn(5, generator=generator)}


def write(path, content, **options):
    torch.save(content, path, **options)
    return path


def refusal(path):
    """The message with which a file is refused: one line that names the file."""
    with pytest.raises(ConversionError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert len(message.splitlines()) == 1
    return message


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


# --- what is read


@pytest.mark.parametrize("suffix", [".safetensors", *PICKLE_SUFFIXES])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_state_dict(tmp_path, suffix, dtype):
    expected = {name: (10 * tensor).to(dtype) for name, tensor in tensors().items()}
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(expected, path)
    for given in (path, str(path)):
        found, notes = read_tensors(given)
        assert_same(found, expected)
        assert notes == []


def test_legacy_format(tmp_path):
    path = write(tmp_path / "weights.pth", {"model": tensors(), "epoch": 3}, _use_new_zipfile_serialization=False)
    assert_same(read_tensors(path)[0], tensors())


def test_state_dict_of_a_module(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    found, _ = read_tensors(write(tmp_path / "weights.pth", module.state_dict()))
    assert_same(found, module.state_dict())
    found, _ = read_tensors(write(tmp_path / "parameters.pth", dict(module.named_parameters())))
    assert_same(found, module.state_dict())


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state"])
def test_training_checkpoint(tmp_path, key):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    content = {
        key: collections.OrderedDict(tensors()),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 3,
        "model_ema": None,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 0},
        "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.999), data="/data", nested=argparse.Namespace(seed=0)),
    }
    found, notes = read_tensors(write(tmp_path / "checkpoint.pth", content))
    assert_same(found, tensors())
    (note,) = notes
    for name in set(content) - {key}:
        assert name in note
    assert key not in note.removeprefix("not read: ").removesuffix(" of the training checkpoint").split(", ")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module.model.", "module._orig_mod.", "_orig_mod.module.model."]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_prefixes_of_wrappers(tmp_path, prefix, suffix):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)({prefix + k: v for k, v in tensors().items()}, path)
    assert_same(read_tensors(path)[0], tensors())


def test_prefix_of_some_names_stays(tmp_path):
    mixed = {"module.a": torch.ones(2), "b": torch.ones(2)}
    assert_same(read_tensors(write(tmp_path / "weights.pth", mixed))[0], mixed)


# --- what is refused


CONTENTS = {
    "empty dict": ({}, "no tensors by name"),
    "empty state dict": ({"model": {}, "epoch": 3}, "no tensors by name"),
    "list": ([torch.ones(2)], "no tensors by name"),
    "tensor": (torch.ones(2), "no tensors by name"),
    "number": (3, "no tensors by name"),
    "None": (None, "no tensors by name"),
    "namespace": (argparse.Namespace(model=torch.ones(2)), "no tensors by name"),
    "nested dict": ({"a": torch.ones(2), "b": {"c": torch.ones(2)}}, "'b' is a dict"),
    "nested state dict": ({"model": {"a": {"b": torch.ones(2)}}}, "'a' is a dict"),
    "numbers": ({"model": {"a": torch.ones(2), "b": 1.5}}, "'b' is a float"),
    "list of tensors": ({"a": [torch.ones(2)]}, "'a' is a list"),
    "no model": ({"model": None, "epoch": 3}, "'model' is a NoneType"),
    "numbers as names": ({0: torch.ones(2)}, "0 is a Tensor"),
    "several": ({"a": 1, "b": None, "c": "text"}, "'c' is a str"),
}


@pytest.mark.parametrize(("content", "expected"), CONTENTS.values(), ids=CONTENTS)
def test_content_without_dense_tensors(tmp_path, content, expected):
    assert expected in refusal(write(tmp_path / "weights.pth", content))


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("convert", ["to_sparse", "to_sparse_csr"])
def test_sparse_tensor(tmp_path, convert):
    content = {"a": torch.ones(2), "b": getattr(torch.eye(3), convert)()}
    assert "'b'" in refusal(write(tmp_path / "weights.pth", content))


def test_strangers_are_all_listed(tmp_path):
    content = {"fine": torch.ones(2)} | {f"wrong{index}": index for index in range(9)}
    with pytest.raises(ConversionError, match="and 4 more") as caught:
        read_tensors(write(tmp_path / "weights.pth", content))
    assert caught.value.problems == [f"'wrong{index}' is a int" for index in range(9)]


def test_no_file(tmp_path):
    assert "does not exist" in refusal(tmp_path / "weights.pth")
    assert "does not exist" in refusal(tmp_path / "nowhere" / "weights.safetensors")


@pytest.mark.parametrize("name", ["folder", "folder.pth", "folder.safetensors"])
def test_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["weights", "weights.npz", "weights.pth.tar", "weights.h5"])
def test_suffix(tmp_path, name):
    message = refusal(write(tmp_path / name, tensors()))
    assert ".safetensors" in message and ".pth" in message


# --- hostile files: refused, and nothing in them is run


def hostile_contents(sentinel):
    touch = Call(os.system, f"touch {sentinel}")
    write_file = f"open({str(sentinel)!r}, 'w').close()"
    module = torch.nn.Linear(2, 2)
    module.extra = touch
    subclass = collections.OrderedDict(tensors())
    subclass.extra = touch
    return {
        "system": touch,
        "eval": Call(builtins.eval, write_file),
        "exec": Call(builtins.exec, write_file),
        "open": Call(builtins.open, str(sentinel), "w"),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "mkdir": Call(os.mkdir, str(sentinel)),
        "torch.load": Call(torch.load, str(sentinel)),
        "as a tensor": {"a": torch.ones(2), "b": touch},
        "as a name": {Call(os.system, f"touch {sentinel}"): torch.ones(2)},
        "in the model": {"model": tensors() | {"b": touch}},
        "in the optimizer": {"model": tensors(), "optimizer": {"state": {0: {"step": touch}}, "param_groups": []}},
        "in the arguments": {"model": tensors(), "args": argparse.Namespace(lr=1e-3, data=touch)},
        "in a nested namespace": {"model": tensors(), "args": argparse.Namespace(a=argparse.Namespace(b=[touch]))},
        "in an attribute of the dict": {"model": subclass},
        "module": {"model": module},
        "partial": {"model": tensors(), "sampler": functools.partial(os.system, f"touch {sentinel}")},
        "object array": {"a": torch.ones(2), "b": np.array([touch, None], dtype=object)},
    }


HOSTILE = list(hostile_contents("sentinel"))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content(tmp_path, name, legacy):
    sentinel = tmp_path / "sentinel"
    content = hostile_contents(sentinel)[name]
    path = write(tmp_path / "weights.pth", content, _use_new_zipfile_serialization=not legacy)
    refusal(path)
    assert not sentinel.exists()


def test_hostile_content_would_run(tmp_path):
    path = write(tmp_path / "weights.pth", hostile_contents(tmp_path / "sentinel")["in the optimizer"])
    torch.load(path, weights_only=False)
    assert (tmp_path / "sentinel").exists()


def test_what_a_file_asks_to_run_is_named(tmp_path):
    contents = hostile_contents(tmp_path / "sentinel")
    assert f"'{os.system.__module__}.system'" in refusal(write(tmp_path / "a.pth", contents["system"]))
    assert "'functools.partial'" in refusal(write(tmp_path / "b.pth", contents["partial"]))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("hostile", [True, False], ids=["hostile", "harmless"])
def test_plain_pickle(tmp_path, protocol, suffix, hostile):
    sentinel, path = tmp_path / "sentinel", tmp_path / f"weights{suffix}"
    content = {"model": Call(os.system, f"touch {sentinel}") if hostile else [1.0, 2.0]}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    refusal(path)
    assert not sentinel.exists()


def archive(kind, members):
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            for name, data in members.items():
                file.writestr(name, data)
    else:
        with tarfile.open(fileobj=buffer, mode="w") as file:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("zip", ["archive/data.pkl", "archive/version"]),
        ("zip", ["archive/data.pkl", "archive/constants.pkl", "archive/version", "archive/code/a.py"]),
        ("zip", ["data.pkl"]),
        ("tar", ["storages", "tensors", "pickle"]),
        ("tar", ["pickle"]),
    ],
    ids=["torch", "torchscript", "plain zip", "legacy tar", "tar"],
)
def test_archive_of_hostile_pickles(tmp_path, kind, names):
    sentinel, path = tmp_path / "sentinel", tmp_path / "weights.pth"
    hostile = pickle.dumps(Call(os.system, f"touch {sentinel}"), protocol=2)
    inner = archive(kind, dict.fromkeys(names, hostile))
    for data in (inner, archive(kind, dict.fromkeys(names, inner))):
        path.write_bytes(data)
        refusal(path)
        assert not sentinel.exists()


@pytest.mark.parametrize("hostile", [True, False], ids=["hostile", "harmless"])
def test_one_kind_of_file_under_the_suffix_of_the_other(tmp_path, hostile):
    sentinel = tmp_path / "sentinel"
    content = hostile_contents(sentinel)["system"] if hostile else tensors()
    with (tmp_path / "weights.safetensors").open("wb") as file:
        torch.save(content, file)
    refusal(tmp_path / "weights.safetensors")
    save_file(tensors(), tmp_path / "weights.pth")
    refusal(tmp_path / "weights.pth")
    assert not sentinel.exists()


# --- damaged files


def serialised(kind):
    if kind == "safetensors":
        return save(tensors()), ".safetensors"
    buffer = io.BytesIO()
    torch.save({"model": tensors(), "epoch": 3}, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue(), ".pth"


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_at_any_length(tmp_path, kind):
    data, suffix = serialised(kind)
    path = tmp_path / f"weights{suffix}"
    for length in [*range(0, len(data), 9), len(data) - 1]:
        path.write_bytes(data[:length])
        refusal(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_bits(tmp_path, kind):
    """A flipped bit gives a ConversionError or other numbers or names, never another exception."""
    data, suffix = serialised(kind)
    path = tmp_path / f"weights{suffix}"
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        try:
            assert isinstance(read_tensors(path)[0], dict)
        except ConversionError as error:
            assert repr(str(path)) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_start(tmp_path, kind):
    data, suffix = serialised(kind)
    path = tmp_path / f"weights{suffix}"
    for index in (0, 3):
        path.write_bytes(data[:index] + bytes([data[index] ^ 255]) + data[index + 1 :])
        refusal(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
        {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
        {"dtype": "F32"},
        "text",
    ],
    ids=["short", "beyond the end", "backwards", "negative", "overflow", "dtype", "shape", "incomplete", "text"],
)
def test_wrong_header_of_safetensors(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refusal(tmp_path / "weights.safetensors")


def test_empty_safetensors(tmp_path):
    save_file({}, tmp_path / "weights.safetensors", metadata={"format": "pt"})
    assert "no tensors by name" in refusal(tmp_path / "weights.safetensors")
