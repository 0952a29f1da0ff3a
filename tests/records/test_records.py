"""Records of training and measurement: tied to the weights, void once edited, free of secrets."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dna_hf.data.provenance import DatasetRecord
from dna_hf.records.checkpoint_records import (
    MEASUREMENTS_FILE,
    TRAINING_FILE,
    Measurement,
    RecordError,
    TrainingRun,
    read_measurements,
    read_training,
    record_measurement,
    record_training,
)
from dna_hf.records.digest import weights_digest
from dna_hf.records.stamp import PACKAGES, command_line, environment, now, without_secrets


WEIGHTS = "f" * 64
COMMON = {"command": "dna-hf evaluate x", "seed": None, "date": "2026-01-02T03:04:05+00:00", "weights": WEIGHTS}
COMMON |= {"environment": {"machine": "a machine", "torch": "2"}}
DATASET = DatasetRecord("someone/flowers", config="small", licence="mit", splits={"test": 20, "train": None})


def measurement(**changes):
    facts = {"task": "image-classification", "dataset": DATASET, "split": "test", "samples": 20}
    facts |= {"metrics": {"top1": 0.25, "loss": 1.5}}
    return Measurement(**COMMON | facts | changes)


def training_run(**changes):
    facts = {"dataset": DATASET, "settings": {"model": {"hidden_size": 16}, "training": {"seed": 1}}, "seconds": 1.5}
    return TrainingRun(**COMMON | facts | changes)


# --- the digest of weights


def state():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 3, generator=generator) for name in ("layer.weight", "layer.other", "norm")}


def changed(name, tensor):
    return lambda tensors: tensors | {name: tensor(tensors[name])}


CHANGES = {
    "value": changed("norm", lambda tensor: tensor.nextafter(torch.tensor(9.0))),
    "sign of zero": lambda tensors: tensors | {"zero": torch.tensor(-0.0)},
    "dtype of the same bytes": changed("norm", lambda tensor: tensor.view(torch.int32)),
    "dtype of the same values": changed("norm", torch.Tensor.double),
    "shape": changed("norm", lambda tensor: tensor.reshape(3, 2)),
    "leading dimension": changed("norm", lambda tensor: tensor[None]),
    "transposed": changed("norm", lambda tensor: tensor.T.reshape(2, 3)),
    "name": lambda tensors: {name.replace("norm", "layernorm"): tensor for name, tensor in tensors.items()},
    "names swapped": lambda tensors: (
        tensors | {"layer.weight": tensors["layer.other"], "layer.other": tensors["layer.weight"]}
    ),
    "missing": lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "norm"},
    "additional": lambda tensors: tensors | {"more": torch.zeros(0)},
    "none": lambda tensors: {},
}


@pytest.mark.parametrize("change", CHANGES)
def test_digest_notices(change):
    tensors = state() | {"zero": torch.tensor(0.0)}
    assert weights_digest(CHANGES[change](tensors)) != weights_digest(tensors)


def test_digest_does_not_depend_on_order_layout_or_files(tmp_path):
    tensors = state()
    digest = weights_digest(tensors)
    assert len(digest) == 64 and digest == weights_digest(state())
    assert weights_digest(dict(reversed(tensors.items()))) == digest
    assert weights_digest({name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}) == digest
    assert weights_digest({name: tensor.T.contiguous().T for name, tensor in tensors.items()}) == digest
    save_file({"norm": tensors["norm"]}, tmp_path / "1.safetensors")
    save_file({name: tensors[name] for name in tensors if name != "norm"}, tmp_path / "2.safetensors")
    assert weights_digest(load_file(tmp_path / "1.safetensors") | load_file(tmp_path / "2.safetensors")) == digest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool], ids=str)
def test_digest_of_other_dtypes(dtype):
    tensors = {"matrix": torch.tensor([[0, 1], [1, 1]]).to(dtype), "scalar": torch.tensor(1).to(dtype)}
    other = tensors | {"matrix": torch.tensor([[0, 1], [1, 0]]).to(dtype)}
    assert weights_digest(tensors) == weights_digest({name: tensor.clone() for name, tensor in tensors.items()})
    assert weights_digest(tensors) != weights_digest(other)


# --- records


def test_round_trip(tmp_path):
    assert read_measurements(tmp_path) == [] and read_training(tmp_path) is None
    record_measurement(tmp_path, measurement())
    record_training(tmp_path, training_run())
    assert read_measurements(tmp_path) == [measurement().signed()]
    assert read_training(tmp_path) == training_run().signed()
    for record in (*read_measurements(tmp_path), read_training(tmp_path)):
        record.verify(WEIGHTS)
        with pytest.raises(RecordError, match="other weights"):
            record.verify("0" * 64)


@pytest.mark.parametrize(
    "settings",
    [
        {"model": {"id2label": {number: str(number) for number in range(12)}}},
        {"model": {"cog_softmax_layers": (0, -1), "image_size": [28, 28]}},
        {"data": {"dataset": "Blüten"}, "training": {"learning_rate": 1e-3, "bf16": False, "seed": None}},
    ],
    ids=["whole numbers as keys", "sequences", "scalars"],
)
def test_settings_survive_the_round_trip(tmp_path, settings):
    record_training(tmp_path, training_run(settings=settings))
    read_training(tmp_path).verify(WEIGHTS)


def test_unsigned_records_and_records_with_a_foreign_signature_are_void():
    for record in (measurement(), training_run(), measurement(digest=measurement(samples=21).signed().digest)):
        with pytest.raises(RecordError, match="changed by hand"):
            record.verify(WEIGHTS)


def test_editing_the_metrics_of_a_signed_measurement_in_place_is_noticed():
    record = measurement(metrics={"top1": 0.25}).signed()
    record.metrics["top1"] = 0.99
    with pytest.raises(RecordError, match="changed by hand"):
        record.verify(WEIGHTS)


def test_a_new_measurement_of_the_same_split_replaces_the_old_one(tmp_path):
    other_split = measurement(split="validation")
    other_config = measurement(dataset=dataclasses.replace(DATASET, config="large"))
    other_name = measurement(dataset=dataclasses.replace(DATASET, name="someone/trees"))
    for record in (measurement(), other_split, other_config, other_name):
        record_measurement(tmp_path, record)
    assert len(read_measurements(tmp_path)) == 4
    again = measurement(metrics={"top1": 0.75})
    record_measurement(tmp_path, again)
    records = [record.signed() for record in (other_split, other_config, other_name, again)]
    assert read_measurements(tmp_path) == records


def test_a_record_that_is_interrupted_leaves_the_one_before(tmp_path, monkeypatch):
    record_measurement(tmp_path, measurement())
    record_training(tmp_path, training_run())

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record_measurement(tmp_path, measurement(split="validation"))
    with pytest.raises(KeyboardInterrupt):
        record_training(tmp_path, training_run(seconds=9.0))
    assert read_measurements(tmp_path) == [measurement().signed()]
    assert read_training(tmp_path) == training_run().signed()


def test_measurements_of_other_weights_are_dropped(tmp_path):
    record_measurement(tmp_path, measurement())
    record_measurement(tmp_path, measurement(split="validation", weights="0" * 64))
    assert [record.weights for record in read_measurements(tmp_path)] == ["0" * 64]


def test_an_edited_measurement_stays_void_when_another_is_added(tmp_path):
    record_measurement(tmp_path, measurement())
    entries = json.loads((tmp_path / MEASUREMENTS_FILE).read_text())
    entries[0]["metrics"]["top1"] = 0.99
    (tmp_path / MEASUREMENTS_FILE).write_text(json.dumps(entries))
    record_measurement(tmp_path, measurement(split="validation"))
    edited, added = read_measurements(tmp_path)
    added.verify(WEIGHTS)
    with pytest.raises(RecordError, match=r"someone/flowers \(test\) was changed by hand"):
        edited.verify(WEIGHTS)


@pytest.mark.parametrize("name", [MEASUREMENTS_FILE, TRAINING_FILE])
@pytest.mark.parametrize("damage", ["cut", "empty", "kind", "no text", "entry", "no dataset", "dataset", "key"])
def test_damaged_files(tmp_path, name, damage):
    record_measurement(tmp_path, measurement())
    record_training(tmp_path, training_run())
    path = tmp_path / name
    content = json.loads(path.read_text())
    entry = content[0] if isinstance(content, list) else content
    without_dataset = {key: value for key, value in entry.items() if key != "dataset"}
    broken = {
        "entry": "measured" if isinstance(content, list) else {},
        "no dataset": without_dataset,
        "dataset": entry | {"dataset": ["flowers"]},
        "key": entry | {"certified": True},
    }
    if damage in broken:
        path.write_text(json.dumps([broken[damage]] if isinstance(content, list) else broken[damage]))
    elif damage == "no text":
        path.write_bytes(b"\xff\xfe\x00")
    else:
        path.write_text({"cut": path.read_text()[:-20], "empty": "", "kind": '"text"'}[damage])
    with pytest.raises(RecordError, match="damaged: remove it") as caught:
        (read_measurements if name == MEASUREMENTS_FILE else read_training)(tmp_path)
    assert len(str(caught.value).splitlines()) == 1 and str(tmp_path) in str(caught.value)


def test_environment_and_date():
    facts = environment()
    assert {"machine", "python", "dna-hf", *PACKAGES} == facts.keys() and all(facts.values())
    assert facts["torch"] == torch.__version__ or facts["torch"].startswith(torch.__version__.partition("+")[0])
    assert now().endswith("+00:00") and len(now()) == len("2026-01-02T03:04:05+00:00")


# --- secrets


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["/usr/bin/dna-hf", "train", "run.yaml"], "dna-hf train run.yaml"),
        (["/somewhere/dna_hf/__main__.py", "train", "a b.yaml"], "dna-hf train 'a b.yaml'"),
        (["dna-hf", "--hub_token", "hf_x", "--seed", "1"], "dna-hf --hub_token ... --seed 1"),
        (["dna-hf", "--hub_token=hf_x", "--seed=1"], "dna-hf --hub_token=... --seed=1"),
        (["dna-hf", "--hub-token=hf_x=y"], "dna-hf --hub-token=..."),
        (["dna-hf", "--hub-token", "hf_x=y"], "dna-hf --hub-token ..."),
        (["dna-hf", "--token", "hf_x", "--push_to_hub_token", "hf_y"], "dna-hf --token ... --push_to_hub_token ..."),
        (["dna-hf", "train", "--hub_token"], "dna-hf train --hub_token"),
    ],
)
def test_command_line_hides_tokens(monkeypatch, words, expected):
    monkeypatch.setattr(sys, "argv", words)
    assert command_line() == expected


def test_settings_are_written_down_without_secrets():
    training = {"seed": 1, "hub_token": "hf_x", "push_to_hub_token": "hf_y", "hub_model_id": "user/run"}
    sections = {"training": training, "data": {"token": "hf_z", "dataset": "tokens"}, "model": {}}
    expected = {"training": {"seed": 1, "hub_model_id": "user/run"}, "data": {"dataset": "tokens"}, "model": {}}
    assert without_secrets(sections) == expected
    assert sections["training"]["hub_token"] == "hf_x"
