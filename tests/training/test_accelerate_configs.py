"""The shipped configurations of accelerate are what accelerate reads, and start what they say."""

import os
import subprocess
import sys

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from conftest import ROOT
from dna_hf.models import modeling_dna_vit


FILES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_it(path):
    content = yaml.safe_load(path.read_text())
    config = load_config_from_file(str(path))
    assert config.num_processes == content["num_processes"]
    assert config.mixed_precision == content["mixed_precision"]
    assert config.distributed_type.value == content["distributed_type"]
    assert str(path.relative_to(ROOT)) in path.read_text(), "the header has the command"


def test_sharding_wraps_a_class_that_exists():
    content = yaml.safe_load((ROOT / "configs" / "accelerate" / "fsdp2.yaml").read_text())
    assert hasattr(modeling_dna_vit, content["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"])


def test_launch_on_the_cpu(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command += [str(ROOT / "configs" / "accelerate" / "cpu.yaml"), str(ROOT / "scripts" / "train.py")]
    command += [str(ROOT / "configs" / "vit_tiny_fashion_mnist.yaml"), "--max_steps", "1", "--max_eval_samples", "20"]
    command += ["--max_train_samples", "40", "--output_dir", str(tmp_path / "run"), "--save_strategy", "no"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "run" / "training.json").exists()
