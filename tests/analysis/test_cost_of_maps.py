"""What looking at an image costs, measured in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = pytest.mark.slow


def measure(what, folder):
    script = Path(__file__).with_name("measure_maps.py")
    command = [sys.executable, str(script), what, str(folder)]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_a_figure_takes_little_more_than_a_forward_pass(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    forward = measure("forward", tmp_path)
    maps = measure("maps", tmp_path)
    figure = measure("visualize", tmp_path)
    # maps of all layers are gone as soon as the class token's rows are taken
    assert maps["peak_mib"] < 1.05 * forward["peak_mib"]
    assert figure["peak_mib"] < 1.3 * forward["peak_mib"]
    # seconds on the clock of an idle machine are fewer, with two cores
    assert figure["processor_seconds"] < 5
