"""The shipped configurations of accelerate are what accelerate reads, and start what they say."""

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env

from dna_hf.models import modeling_dna_vit
from dna_hf.recipes import read_header
from tests.kit.paths import ROOT


FILES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_it(path):
    content = yaml.safe_load(path.read_text())
    config = load_config_from_file(str(path))
    assert config.num_processes == content["num_processes"]
    assert config.mixed_precision == content["mixed_precision"]
    assert config.distributed_type.value == content["distributed_type"]
    header = read_header(path)
    command = shlex.split("\n".join(header["Command"]).replace("\\\n", " "))
    assert list(header) == ["Purpose", "Command"]
    assert command[:2] == ["accelerate", "launch"]
    parsed = launch_command_parser().parse_args(["0" if word == "RANK" else word for word in command[2:]])
    assert (parsed.config_file, parsed.module, parsed.training_script) == (path.name, True, "dna_hf")
    assert parsed.training_script_args == ["train", "CONFIG"]


def test_sharding_wraps_a_class_that_exists():
    content = yaml.safe_load((ROOT / "configs" / "accelerate" / "fsdp2.yaml").read_text())
    assert hasattr(modeling_dna_vit, content["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"])


def deepspeed_environment(path):
    """The arguments of the launcher for a file, and the environment that it hands to every process."""
    words = ["--config_file", str(path), str(ROOT / "scripts" / "train.py"), "CONFIG.yaml"]
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return arguments, prepare_deepspeed_cmd_env(arguments)[1]


def test_deepspeed_is_told_stage_2():
    arguments, environment = deepspeed_environment(ROOT / "configs" / "accelerate" / "deepspeed_zero2.yaml")
    assert arguments.use_deepspeed and arguments.num_processes == 8
    assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "2"
    assert environment["ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"] == "none"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_without_deepspeed_the_launcher_says_so():
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(ROOT / "configs" / "accelerate" / "deepspeed_zero2.yaml"), str(ROOT / "scripts" / "train.py")]
    result = subprocess.run([*command, "CONFIG.yaml"], capture_output=True, text=True, timeout=300)
    assert result.returncode != 0
    assert "DeepSpeed is not installed => run `pip3 install deepspeed`" in result.stderr.splitlines()[-1]


def test_launch_on_the_cpu(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(ROOT / "configs" / "accelerate" / "cpu.yaml"), "-m", "dna_hf", "train"]
    command += ["vit_tiny_fashion_mnist", "--max_steps", "1", "--max_eval_samples", "20"]
    command += ["--max_train_samples", "40", "--output_dir", str(tmp_path / "run"), "--save_strategy", "no"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "run" / "training.json").exists()
