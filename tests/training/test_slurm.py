"""The example for SLURM, with a directory and a process in place of every node."""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sysconfig
import time

import pytest
import yaml

from tests.kit.paths import ROOT
from tests.kit.training import SECTIONS


SCRIPT = ROOT / "scripts" / "slurm_multi_node.sbatch"

# runs the command once per node, at the same time, each in a folder of its own, and fails if one of them does
SRUN = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
steps=()
for node in 0 1; do
    (cd "$FAKE_NODES/$node" && SLURM_NODEID=$node exec "$@") &
    steps+=($!)
done
status=0
for step in "${steps[@]}"; do wait "$step" || status=1; done
exit $status
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >> "$FAKE_NODES/scontrol.log"
if [[ $1 == show ]]; then printf '127.0.0.1\\nsecond\\n'; fi
"""


@pytest.fixture
def cluster(tmp_path):
    """A function that starts the job: a process that was given a cluster of two nodes."""
    programs, nodes = tmp_path / "bin", tmp_path / "nodes"
    for folder in (programs, nodes / "0", nodes / "1"):
        folder.mkdir(parents=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for node in ("0", "1"):
        (nodes / node / "scripts").symlink_to(ROOT / "scripts")
        (nodes / node / "tiny.yaml").write_text(yaml.safe_dump(SECTIONS))
    # what SLURM sets for the job
    environment = {
        "PATH": os.pathsep.join([str(programs), sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "FAKE_NODES": str(nodes),
        "SLURM_SUBMIT_DIR": str(nodes / "0"),
        "SLURM_JOB_ID": "421234",
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_GPUS_ON_NODE": "8",
    }

    jobs = []

    def start(*arguments, accelerate=None, **variables):
        if accelerate is not None:
            (programs / "accelerate").write_text(f"#!/usr/bin/env bash\n{accelerate}\n")
            (programs / "accelerate").chmod(0o755)
        job = subprocess.Popen(
            ["bash", str(SCRIPT), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment | variables,
            cwd=tmp_path,
            start_new_session=True,
        )
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        # what a failed test left running
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


def commands(cluster, nodes, *arguments, **variables):
    """The command lines that the nodes would run, as words."""
    log = 'printf "%q " "$@" > "$FAKE_NODES/command-$SLURM_NODEID"'
    job = cluster(*arguments, accelerate=log, **variables)
    assert job.wait(60) == 0, job.stderr.read()
    return [shlex.split((nodes / f"command-{node}").read_text()) for node in (0, 1)]


@pytest.fixture
def nodes(tmp_path):
    return tmp_path / "nodes"


def test_two_nodes_train_one_model(cluster, nodes, tmp_path):
    config = yaml.safe_load((ROOT / "configs" / "accelerate" / "multi_node.yaml").read_text())
    (tmp_path / "cpu.yaml").write_text(yaml.safe_dump(config | {"use_cpu": True, "mixed_precision": "no"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = cluster(
        *("tiny.yaml", "runs/two", "--max_steps", "2", "--save_steps", "2"),
        ACCELERATE_CONFIG=str(tmp_path / "cpu.yaml"),
        PROCESSES_PER_NODE="1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
    )
    output, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors[-6000:]
    first, second = (nodes / node / "runs" / "two" for node in ("0", "1"))
    training = json.loads((first / "training.json").read_text())
    assert training["processes"] == 2
    # 40 images in batches of 8 on each of two processes
    state = json.loads((first / "trainer_state.json").read_text())
    assert state["global_step"] == 2 and state["epoch"] == pytest.approx(2 / 3)
    assert (first / "model.safetensors").exists() and (first / "checkpoint-2" / "model.safetensors").exists()
    # each process keeps its own random state, all else is of the first
    assert [path.name for path in second.rglob("*") if path.is_file()] == ["rng_state_1.pth"]
    assert output.count("attention variant") == 1


def test_the_command_of_every_node(cluster, nodes):
    expected = "launch --machine_rank {rank} --config_file configs/accelerate/multi_node.yaml --num_machines 2 "
    expected += "--num_processes 16 --main_process_ip 127.0.0.1 --main_process_port 21234 scripts/train.py tiny.yaml "
    expected += "--output_dir runs/two"
    words = commands(cluster, nodes, "tiny.yaml", "runs/two/", "--learning_rate", "1e-3", "--dataset", "a folder")
    for rank, node in enumerate(words):
        assert node == [*expected.format(rank=rank).split(), "--learning_rate", "1e-3", "--dataset", "a folder"]


def test_a_job_that_was_stopped_resumes(cluster, nodes):
    run = nodes / "0" / "runs" / "two"
    for step, file in ((7, "trainer_state.json"), (14, "model.safetensors")):
        (run / f"checkpoint-{step}").mkdir(parents=True)
        (run / f"checkpoint-{step}" / file).write_text("")
    for words in commands(cluster, nodes, "tiny.yaml", "runs/two", SLURM_RESTART_COUNT="1"):
        assert words[-1] == "--resume"
    # transformers would take the last one, which was not written to its end
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint-7", "unfinished-checkpoint-14-1"]


def test_a_job_that_was_stopped_before_its_first_checkpoint_starts_again(cluster, nodes):
    run = nodes / "0" / "runs" / "two"
    run.mkdir(parents=True)
    (run / "negative_scale.csv").write_text("epoch")
    for words in commands(cluster, nodes, "tiny.yaml", "runs/two", SLURM_RESTART_COUNT="2"):
        assert "--resume" not in words
    assert not run.exists() and (run.parent / "two.stopped-2" / "negative_scale.csv").exists()


def test_a_first_start_leaves_the_folder_of_another_run_alone(cluster, nodes):
    run = nodes / "0" / "runs" / "two"
    run.mkdir(parents=True)
    (run / "model.safetensors").write_text("")
    for words in commands(cluster, nodes, "tiny.yaml", "runs/two"):
        assert "--resume" not in words
    assert (run / "model.safetensors").exists()


@pytest.mark.parametrize("code", [0, 3])
def test_out_of_time_queues_the_job_again(cluster, nodes, code):
    """And waits for the step: SLURM ends it. Its success or failure is that of the job."""
    wait = 'touch "$FAKE_NODES/started-$SLURM_NODEID"; while [[ ! -e $FAKE_NODES/end ]]; do sleep 0.05; done; '
    job = cluster("tiny.yaml", "runs/two", accelerate=wait + f"exit {code}")
    wait_for(lambda: len(list(nodes.glob("started-*"))) == 2)
    job.send_signal(signal.SIGUSR1)
    wait_for(lambda: "requeue 421234" in (nodes / "scontrol.log").read_text().splitlines())
    time.sleep(0.2)
    assert job.poll() is None
    (nodes / "end").touch()
    _, errors = job.communicate(timeout=60)
    assert job.returncode == (1 if code else 0)
    assert "queueing job 421234 again" in errors


@pytest.mark.parametrize("arguments", [[], ["tiny.yaml"], ["tiny.yaml", "--max_steps"]])
def test_without_an_output_folder(cluster, arguments):
    job = cluster(*arguments)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 2 and "CONFIG.yaml OUTPUT_DIR" in errors


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
