"""Sharded over processes, a model learns what it learns on one, and its checkpoints load there.

Two processes on the CPU, with gloo.
"""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from safetensors.torch import load_file
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import AutoModelForImageClassification

from dna_hf.cli import main
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.images import image_processor
from dna_hf.data.sources import load_train_and_eval
from dna_hf.models import (
    DnAViTBackbone,
    DnAViTConfig,
    DnAViTForImageClassification,
    DnAViTForMaskedImageModeling,
    DnAViTModel,
)
from dna_hf.records.digest import weights_digest
from dna_hf.training import classification as training
from dna_hf.training.adapter import read_tensors
from dna_hf.training.arguments import ClassifierTrainingArguments
from dna_hf.training.checkpoint import checkpoint_files
from dna_hf.training.config_file import run_config
from tests.kit.launcher import launch
from tests.kit.paths import ROOT
from tests.kit.training import plain_sections
from tests.kit.two_processes import EACH, assert_same_training, forget_the_end, train_in_one_process
from tests.training.fsdp_worker import CASES, MODEL, STEPS, build, images, optimizer_of, steps


HERE = Path(__file__).parent
FSDP_FILE = ROOT / "configs" / "accelerate" / "fsdp2.yaml"


def launch_sharded(folder, script, *arguments):
    result = launch(folder, "fsdp2", script, *arguments)
    assert result.returncode == 0, result.stderr[-6000:]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The folder in which two processes have written what came of every case."""
    folder = tmp_path_factory.mktemp("fsdp")
    launch_sharded(folder, HERE / "fsdp_worker.py", folder)
    return folder


def reference(case):
    """One process with the whole model and the whole batch: the model, losses, gradients of the first step."""
    model = build(case)
    return model, *steps(model, optimizer_of(model), *images(case))


def assert_close(actual, expected, tolerance, what, floor=0.0):
    """Equal up to `tolerance` of the largest entry, or of `floor` where that is larger."""
    assert actual.shape == expected.shape, what
    error = (actual - expected).abs().max() / max(expected.abs().max().item(), floor)
    assert error <= tolerance, f"{what}: {error:.2e}"


@pytest.mark.parametrize("case", CASES)
def test_shards_learn_what_the_whole_learns(sharded, case):
    results = torch.load(sharded / f"{case}.pt")
    model, losses, gradients = reference(case)
    assert len(losses) == STEPS and losses[-1] < losses[0]
    assert_close(results["losses"], losses, 1e-6, "loss")
    assert results["gradients"].keys() == gradients.keys()
    # the bias of the keys has a gradient of rounding alone
    floor = 1e-2 * max(gradient.abs().max().item() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert_close(results["gradients"][name], gradient, 1e-6, f"gradient of {name}", floor)
    for name, parameter in model.named_parameters():
        assert_close(results["weights"][name], parameter.detach(), 1e-6, name)


@pytest.mark.parametrize(("case", "expected"), [("dna", [(2,), (1,)]), ("one_head", [(1,), (0,)])])
def test_scales_of_fewer_heads_than_fit(sharded, case, expected):
    results = torch.load(sharded / f"{case}.pt")
    for layer in range(2):
        name = f"dna_vit.layers.{layer}.attention.negative_scale"
        assert [shards[name] for shards in results["shards"]] == expected
        assert results["gradients"][name].abs().min() > 0


def test_every_parameter_is_split(sharded):
    results = torch.load(sharded / "dna.pt")
    assert len(results["shards"]) == 2
    for name, weight in results["weights"].items():
        assert sum(shards[name][0] for shards in results["shards"]) == weight.shape[0], name
    # what is not in a layer nor the embeddings is split with the root
    layers = [f"dna_vit.layers.{layer}" for layer in range(2)]
    assert results["units"] == ["", "dna_vit.embeddings", *layers]


def test_the_gathered_state_dict_loads_on_one_process(sharded):
    results = torch.load(sharded / "float32.pt")
    model, info = DnAViTForImageClassification.from_pretrained(sharded / "whole", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, results["weights"][name]), name
    assert model.config.architectures == ["DnAViTForImageClassification"]
    with torch.no_grad():
        logits = model(images("float32")[0]).logits
    assert_close(logits, results["logits"], 1e-6, "logits")


@pytest.mark.parametrize("way", ["load", "convert"])
def test_a_distributed_checkpoint_loads_on_one_process(sharded, tmp_path, way):
    files = sorted(path.name for path in (sharded / "distributed").glob("*.distcp"))
    assert files == ["__0_0.distcp", "__1_0.distcp"], "each process wrote its part"
    assert not torch.distributed.is_initialized()
    model = DnAViTForImageClassification(DnAViTConfig(**MODEL))
    state = {name: torch.full_like(weight, float("nan")) for name, weight in model.state_dict().items()}
    if way == "load":
        dcp.load(state, checkpoint_id=str(sharded / "distributed"), no_dist=True)
    else:
        dcp_to_torch_save(sharded / "distributed", tmp_path / "model.pt")
        state = torch.load(tmp_path / "model.pt")
    model.load_state_dict(state)
    with torch.no_grad():
        logits = model.eval()(images("float32")[0]).logits
    assert_close(logits, torch.load(sharded / "float32.pt")["logits"], 1e-6, "logits")


def test_accelerate_shards_every_layer(sharded):
    units = torch.load(sharded / "accelerate.pt")["units"]
    assert {"", "dna_vit.layers.0", "dna_vit.layers.1"} <= set(units)
    assert "dna_vit.embeddings" not in units


@pytest.mark.parametrize(
    "model_class", [DnAViTModel, DnAViTForImageClassification, DnAViTForMaskedImageModeling, DnAViTBackbone]
)
def test_the_shipped_file_wraps_the_layers(model_class):
    options = yaml.safe_load(FSDP_FILE.read_text())["fsdp_config"]
    model = model_class(DnAViTConfig(**MODEL))
    names = options["fsdp_transformer_layer_cls_to_wrap"].split(",")
    # all but the embeddings, whose patch projection accelerate splits by itself: it cannot split it twice
    assert set(names) == set(model._no_split_modules) - {"DnAViTEmbeddings"}
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=options["fsdp_version"],
        auto_wrap_policy=options["fsdp_auto_wrap_policy"],
        transformer_cls_names_to_wrap=names,
    )
    plugin.set_auto_wrap_policy(model)
    wraps = fsdp2_prepare_auto_wrap_policy(plugin, model)
    base = getattr(model, "dna_vit", model)
    assert [module for module in model.modules() if wraps(module)] == list(base.layers)


def test_weights_in_several_files_load_on_one_process(tmp_path):
    data = ImageDataArguments()
    fields = MODEL | {"image_size": 28, "patch_size": 14, "hidden_size": 48, "intermediate_size": 96}
    torch.manual_seed(0)
    config = DnAViTConfig(**fields | {"num_labels": 10})
    config.id2label = dict(enumerate(load_train_and_eval(data, 0)[1].class_names))
    config.label2id = {name: index for index, name in config.id2label.items()}
    model = DnAViTForImageClassification(config).eval()
    metrics = {}
    for name, size in (("one", "5GB"), ("several", "50KB")):
        folder = tmp_path / name
        model.save_pretrained(folder, max_shard_size=size)
        image_processor(data, (28, 28)).save_pretrained(folder)
        command = ["evaluate", str(folder), "--dataset", "fashion-mnist-mini"]
        assert main([*command, "--device", "cpu", "--output", str(tmp_path / f"{name}.json")]) == 0
        metrics[name] = json.loads((tmp_path / f"{name}.json").read_text())
    files = sorted((tmp_path / "several").glob("*.safetensors"))
    assert len(files) >= 3 and not (tmp_path / "several" / "model.safetensors").exists()
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "several")
    for key, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], weight), key
    assert metrics["several"]["metrics"] == pytest.approx(metrics["one"]["metrics"])
    assert metrics["one"]["metrics"]["images"] == 500


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of `scripts/train.py` with the shipped configuration."""
    folder = tmp_path_factory.mktemp("fsdp_run")
    sections = plain_sections()
    # the device is that of accelerate
    del sections["training"]["use_cpu"]
    sections["training"]["per_device_train_batch_size"] = 4
    (folder / "tiny.yaml").write_text(yaml.safe_dump(sections))
    launch_sharded(folder, HERE / "fsdp_on_cpu.py", "tiny.yaml")
    assert (folder / "runs/tiny/checkpoint-2/pytorch_model_fsdp.bin").exists(), "accelerate trained copies"
    return folder


def test_a_sharded_run_is_that_of_one_process(trained, tmp_path):
    run = trained / "runs" / "tiny"
    training.train_classifier(run_config(plain_sections(), {"output_dir": str(tmp_path / "run")}))
    expected = load_file(tmp_path / "run" / "model.safetensors")
    weights = load_file(run / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert_close(weight, expected[name], 1e-5, name, floor=1e-2)
    losses = [
        [entry["loss"] for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"][:4]]
        for folder in (run, tmp_path / "run")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    scales = [
        list(map(float, re.findall(r"[\d.]+$", (folder / "negative_scale.csv").read_text(), flags=re.MULTILINE)))
        for folder in (run, tmp_path / "run")
    ]
    assert len(scales[0]) == 4 and scales[0] == pytest.approx(scales[1], rel=1e-5)
    record = json.loads((run / "training.json").read_text())
    assert record["processes"] == 2 and record["weights"] == weights_digest(weights)


@pytest.mark.parametrize("folder", ["runs/tiny", "runs/tiny/checkpoint-2"])
def test_a_sharded_run_saves_the_code_of_the_model(trained, folder):
    files = {path.name for path in (trained / folder).glob("*.py")}
    configurations = {"configuration_dna.py", "configuration_dna_vit.py"}
    assert files == {"attention_variants.py", "layers_dna.py", "modeling_dna_vit.py"} | configurations


SINGLE = {"model.safetensors", "optimizer.pt"}
FULL = {"pytorch_model_fsdp.bin", "optimizer.bin"}
SHARDED = {"pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata"}


@pytest.mark.parametrize(
    ("distributed_type", "launched", "options", "expected"),
    [
        (DistributedType.MULTI_GPU, {}, {}, SINGLE),
        (DistributedType.MULTI_GPU, {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}, {}, FULL),
        (DistributedType.MULTI_GPU, {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, {}, SHARDED),
        (DistributedType.MULTI_GPU, {}, {"fsdp": True}, FULL),
        (
            DistributedType.MULTI_GPU,
            {},
            {"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}},
            SHARDED,
        ),
        # accelerate does not shard on the CPU
        (DistributedType.MULTI_CPU, {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}, {}, SINGLE),
    ],
)
def test_what_a_resume_reads(tmp_path, monkeypatch, distributed_type, launched, options, expected):
    arguments = ClassifierTrainingArguments(str(tmp_path), use_cpu=True, **options)
    assert arguments.world_size == 1
    monkeypatch.setattr(PartialState(), "distributed_type", distributed_type)
    monkeypatch.setattr(PartialState(), "num_processes", 2)
    if launched:
        for name, value in ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"} | launched).items():
            monkeypatch.setenv(name, value)
    assert set(checkpoint_files(arguments)) == {"trainer_state.json", "rng_state_0.pth", "scheduler.pt"} | expected


def test_deepspeed_has_files_of_its_own(tmp_path):
    arguments = ClassifierTrainingArguments(str(tmp_path), use_cpu=True)
    # what the arguments make of ACCELERATE_USE_DEEPSPEED where deepspeed is installed
    arguments.deepspeed_plugin = object()
    assert checkpoint_files(arguments) == ["trainer_state.json", "rng_state.pth"]


def test_a_sharded_run_saves_what_a_resume_reads(trained):
    files = {path.name for path in (trained / "runs/tiny/checkpoint-2").iterdir()}
    assert FULL | {"trainer_state.json", "rng_state_0.pth", "rng_state_1.pth", "scheduler.pt"} <= files


@pytest.mark.slow
def test_a_sharded_run_resumes(trained):
    run = trained / "runs" / "tiny"
    weights = load_file(run / "model.safetensors")
    for path in [*run.glob("checkpoint-4/*"), *run.glob("*.safetensors")]:
        path.unlink()
    (run / "checkpoint-4").rmdir()
    launch_sharded(trained, HERE / "fsdp_on_cpu.py", "tiny.yaml", "--resume")
    for name, weight in load_file(run / "model.safetensors").items():
        assert torch.equal(weight, weights[name]), name


@pytest.mark.slow
def test_a_sharded_video_llm_is_that_of_one_process_and_resumes(tmp_path):
    one, folder = train_in_one_process(tmp_path), tmp_path / "two"
    options = yaml.safe_load((ROOT / "configs" / "accelerate" / "fsdp2_video_llm.yaml").read_text())["fsdp_config"]
    # the layers are those of the tiny language model
    classes = options["fsdp_transformer_layer_cls_to_wrap"].replace("Qwen2DecoderLayer", "LlamaDecoderLayer")
    changes = {"fsdp_config": options | {"fsdp_transformer_layer_cls_to_wrap": classes}}

    def train(*arguments):
        # the device is that of accelerate
        arguments = ["run.yaml", "--output_dir", folder, "--use_cpu", "false", *EACH, *arguments]
        result = launch(tmp_path, "fsdp2_video_llm", HERE / "fsdp_on_cpu.py", *arguments, changes=changes)
        assert result.returncode == 0, result.stderr[-6000:]

    train()
    assert (folder / "checkpoint-2/pytorch_model_fsdp.bin").exists(), "accelerate trained copies"
    assert_same_training(folder, one)
    expected = read_tensors(folder)
    forget_the_end(folder)
    train("--resume")
    tensors = read_tensors(folder)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
