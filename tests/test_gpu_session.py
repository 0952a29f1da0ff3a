"""The session for a GPU: how its parts end, what is left where it was killed, and all of it on a CPU."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

from tests.kit.paths import ROOT


pytestmark = pytest.mark.once
PARTS = ("tests", "speed", "cifar10", "finetune", "mixed")
BEGIN = "from kit import Part, markdown\npart = Part.from_command_line()\n"
# how a part can end, each in a state of its own; that of a wheel is one that another part needs
ENDINGS = {
    "tests": BEGIN + "import carried\npart.finish('done', markdown(['carried'], [[carried.NUMBER]]), 'all is there')",
    "mixed": BEGIN + "part.finish('done')\nraise ValueError('boom')",
    "speed": BEGIN + "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(100)",
    "cifar10": BEGIN + "part.finish('cut', note='2 of 3 epochs')",
    "finetune": BEGIN,
}
STEPS = """
import time
rows = part.rows("steps.csv", key=("step",))
for step in range(40):
    if not rows.has(step):
        time.sleep(0.1)
        rows.add({"step": step, "left": part.seconds_left()})
part.finish("done")
"""


def kit_with(folder, parts):
    """A copy of the session that runs these parts."""
    shutil.copytree(ROOT / "scripts" / "gpu", folder)
    for name in PARTS:
        (folder / f"{name}.py").write_text(parts[name])
    return folder


def command(scripts, out, *parts):
    # of two seconds, so that a part that does not end need not be waited for
    limits = "session.SECONDS['tiny'] |= {'speed': 2}; session.ENOUGH = session.GRACE = 1; "
    script = f"import sys; sys.path.insert(0, {str(scripts)!r}); import session; {limits}sys.exit(session.main())"
    return [sys.executable, "-c", script, str(out), *parts]


def environment(**more):
    return os.environ | {"SCALE": "tiny", "PYTHONPATH": str(ROOT / "src"), "COMMIT": "abc"} | more


def states(out):
    return {name: json.loads((out / name / "session.json").read_text()) for name in PARTS if (out / name).exists()}


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def wheel(folder):
    """A folder with a wheel of the module `carried`."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "carried-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("carried.py", "NUMBER = 42\n")
        for name, text in [
            ("METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n"),
            ("WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            ("RECORD", ""),
        ]:
            archive.writestr(f"carried-1.0.dist-info/{name}", text)
    return folder


def test_how_parts_end(tmp_path):
    scripts, out = kit_with(tmp_path / "gpu", ENDINGS), tmp_path / "out"
    given = environment(WHEELS=str(wheel(tmp_path / "wheels")))
    done = subprocess.run(command(scripts, out), env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr

    seen = states(out)
    assert {name: seen[name]["state"] for name in PARTS} == {
        "tests": "done",
        "mixed": "failed",
        "speed": "cut",
        "cifar10": "cut",
        "finetune": "failed",
    }
    assert seen["mixed"]["note"] == "exit code 1: ValueError: boom"
    assert seen["speed"]["note"].startswith("stopped after ")
    assert (seen["tests"]["note"], seen["cifar10"]["note"]) == ("all is there", "2 of 3 epochs")
    assert seen["finetune"]["note"] == "exit code 0: it said nothing"
    summary = (out / "summary.md").read_text()
    assert re.search(r"\| tests \| done \| \d+\.\d \| all is there \| none, abc \|", summary)
    assert "## tests\n\n| carried |\n| --- |\n| 42 |" in summary
    with tarfile.open(out / "results.tar.gz") as archive:
        assert archive.extractfile("summary.md").read().decode() == summary
        assert "tests/table.md" in archive.getnames() and "mixed/log.txt" in archive.getnames()

    # what is done is left alone, all else is tried again
    (scripts / "mixed.py").write_text(BEGIN + "part.finish()")
    (scripts / "finetune.py").write_text(BEGIN + "part.finish()")
    again = subprocess.run(
        command(scripts, out, "tests", "mixed", "finetune"),
        env=environment(COMMIT="def"),
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert "tests: begins" not in again.stdout and "mixed: begins" in again.stdout
    assert [states(out)[name]["state"] for name in ("tests", "mixed", "finetune")] == ["done"] * 3
    assert [states(out)[name]["where"] for name in ("tests", "mixed")] == [["none, abc"], ["none, abc", "none, def"]]
    # neither is taken for what was done at the full scale
    (out / "scale.txt").write_text("full")
    other = subprocess.run(command(scripts, out), env=environment(), capture_output=True, text=True)
    assert other.returncode == 2 and "holds results of SCALE=full: choose another folder." in other.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_session_that_was_killed_goes_on(number, tmp_path):
    scripts, out = kit_with(tmp_path / "gpu", dict.fromkeys(PARTS, BEGIN + STEPS)), tmp_path / "out"
    steps = out / "cifar10" / "steps.csv"
    with subprocess.Popen(command(scripts, out, "cifar10"), env=environment(), stdout=subprocess.DEVNULL) as session:
        while not steps.exists() or len(rows_of(steps)) < 5:
            time.sleep(0.05)
        session.send_signal(number)
    assert session.returncode == (-number if number == signal.SIGKILL else 128 + number)
    with steps.open("a") as file:
        file.write("7,1")  # a line that was being written
    so_far = len(rows_of(steps))
    assert (out / "summary.md").exists() and 5 <= so_far < 40

    done = subprocess.run(command(scripts, out, "cifar10"), env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [int(row["step"]) for row in rows_of(steps)] == list(range(40))
    assert states(out)["cifar10"]["state"] == "done"


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        (["out", "sped"], {}, "there is no part 'sped': choose of tests, speed, cifar10, finetune, mixed."),
        (["out"], {"SCALE": "small"}, "SCALE is full or tiny, not 'small'."),
        (["out"], {"SCALE": "full", "PATH": "/usr/bin:/bin"}, "nvidia-smi names no card: set SCALE=tiny."),
        (["out"], {"DATA": "nowhere"}, "DATA=nowhere is no folder."),
        (["out"], {"WHEELS": "."}, "holds no wheel."),
        (["file"], {}, "'file' is a file; choose another folder."),
        (["file/out"], {}, "'file' is a file; choose another folder."),
        (["out", "cifar10"], {"SCALE": "full", "PATH": "bin:/usr/bin:/bin"}, "cifar10 needs DATA: set it to a folder"),
        (
            ["out"],
            {"SCALE": "full", "PATH": "bin:/usr/bin:/bin", "DATA": "."},
            "finetune needs WEIGHTS: set it to a folder, or name the parts to run.",
        ),
        (["--pack", "pack", "speeed"], {}, "there is no part 'speeed'"),
        (["--pack", "pack", "finetune", "tests"], {"DATA": "."}, "finetune needs WEIGHTS: set it to a folder."),
        (["--pack", "pack", "cifar10"], {"DATA": "nowhere"}, "DATA 'nowhere' is not there"),
    ],
)
def test_wrong_calls_are_told(words, given, message, tmp_path):
    (tmp_path / "file").touch()
    # a machine with a card
    card = tmp_path / "bin" / "nvidia-smi"
    card.parent.mkdir()
    card.write_text("#!/bin/sh\necho NVIDIA, 1.0\n")
    card.chmod(0o755)
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "gpu_session.sh", *words],
        env=environment(PYTHON=sys.executable) | given,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2 and message in done.stderr.replace(f"{tmp_path}/", ""), done.stderr
    assert not (tmp_path / "pack").exists() and not list(tmp_path.glob("out/*/"))


def test_a_part_of_the_reduced_experiments_that_is_none():
    script, given = ROOT / "scripts" / "cifar10_experiments.sh", os.environ | {"PARTS": "scratch finetune"}
    done = subprocess.run(["bash", script, "data", "weights", "out"], env=given, capture_output=True, text=True)
    message = "PARTS=scratch finetune: there is no part 'finetune', only scratch and finetuned.\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message)


# what is on the machine that the session is for
PACKAGES = (
    *("torch==2.11.0", "torchvision==0.26.0", "transformers==5.17.0", "huggingface_hub==1.33.0", "accelerate", "timm"),
    *(
        "torchmetrics",
        "peft",
        "pandas",
        "pyarrow",
        "pillow",
        "matplotlib",
        "scipy",
        "pytest",
        "pytest-xdist",
        "pyyaml",
    ),
    *("jinja2", "tqdm", "safetensors", "xxhash", "requests", "aiohttp", "packaging"),
)


@pytest.fixture
def gpu_python(tmp_path):
    """An interpreter of Python 3.12 with torch 2.11 and transformers 5.17, without what the wheels bring."""
    if "DNA_HF_GPU_PYTHON" in os.environ:
        return os.environ["DNA_HF_GPU_PYTHON"]
    version = subprocess.run(["python3.12", "--version"], capture_output=True) if shutil.which("python3.12") else None
    if version is None or version.returncode:
        pytest.skip("needs Python 3.12, or an interpreter in DNA_HF_GPU_PYTHON")
    subprocess.run(["python3.12", "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    installed = subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"torch 2.11 cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
    return str(python)


@pytest.mark.slow
def test_whole_session_at_the_tiny_scale(gpu_python, tmp_path):
    there = "import importlib.util as u; print([name for name in ('datasets', 'evaluate', 'av') if u.find_spec(name)])"
    found = subprocess.run([gpu_python, "-c", there], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
    script, given = ROOT / "scripts" / "gpu_session.sh", environment(PYTHON=gpu_python, PYTHONPATH="")
    subprocess.run(["bash", script, "--pack", tmp_path / "pack", "tests"], env=given, check=True, timeout=300)
    given["WHEELS"] = str(tmp_path / "pack" / "wheels")
    done = subprocess.run(["bash", script, tmp_path / "out"], env=given, capture_output=True, text=True, timeout=3000)
    logs = "\n".join(path.read_text()[-2000:] for path in (tmp_path / "out").glob("*/log.txt"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert {name: seen["state"] for name, seen in states(tmp_path / "out").items()} == dict.fromkeys(PARTS, "done")
    outcomes = {row["outcome"] for row in rows_of(tmp_path / "out" / "tests" / "tests.csv")}
    assert outcomes == {"passed", "skipped"}
