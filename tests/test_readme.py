"""What the README says holds."""

import re
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import ROOT
from dna_hf import DnAViTConfig, DnAViTForImageClassification


README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \| ([\d.]+) G \|$", README, flags=re.MULTILINE)


def test_all_variants_are_in_the_table():
    assert [row[0] for row in ROWS] == ["softmax", "dna", "dna_shared_value", "differential", "cog"]


@pytest.mark.parametrize(("variant", "parameters", "macs"), ROWS, ids=[row[0] for row in ROWS])
def test_table_of_variants(variant, parameters, macs):
    with torch.device("meta"):
        model = DnAViTForImageClassification(DnAViTConfig(attention_variant=variant, num_labels=1000)).eval()
        model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, 224, 224))
    assert f"{model.num_parameters():,}" == parameters
    assert f"{counter.get_total_flops() / 2e9:.2f}" == macs


def test_python_snippet_runs(tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    result = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("torch.Size([1, 4, 17, 17])") == 2


@pytest.mark.parametrize("command", sorted(set(re.findall(r"scripts/\w+\.(?:sh|py)|configs/\w+\.yaml", README))))
def test_files_that_are_named_exist(command):
    assert (ROOT / command).is_file()
