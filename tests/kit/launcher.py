"""Start a program as accelerate does, by one of the shipped configurations, in two processes on the CPU."""

import subprocess
import sys

import yaml

from tests.kit.paths import ROOT, with_tests


def launch(folder, configuration, script, *arguments, changes=()):
    """`accelerate launch` by a file of `configs/accelerate`, but for the number of processes, the CPU and float32.

    Args:
        folder: to run in.
        configuration: name of the file.
        script: to run, with its arguments.
        changes: of what the file says.

    Returns:
        The finished process.
    """
    content = yaml.safe_load((ROOT / "configs" / "accelerate" / f"{configuration}.yaml").read_text())
    content |= {"num_processes": 2, "use_cpu": True, "mixed_precision": "no"} | dict(changes)
    (folder / "accelerate.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / "accelerate.yaml")]
    command += ["--main_process_port", "0", str(script), *map(str, arguments)]
    environment = with_tests() | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=folder, env=environment)
