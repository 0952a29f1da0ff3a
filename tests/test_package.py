"""The package as one installs it: what sdist and wheel hold, and that a wheel needs no clone to do its work."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from tests.kit.fake_hub import FakeHub
from tests.kit.paths import ROOT


BUILD = "from setuptools import build_meta; build_meta.build_{}({!r})"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# of a clone, not of the sources
NOT_SHIPPED = {".git", ".ci", ".github", ".gitignore"}


def sources(folder):
    """Paths of the files of a folder of the clone that are not made by running something."""
    files = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.as_posix() for path in files if not re.search(r"__pycache__|\.egg-info|\.cache|\.pyc$", str(path))}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of a copy of the clone, and the wheel that is made of it, as `python -m build` does."""
    copy, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in ("src", "configs", "docs", "scripts", "tests", "model_cards"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", ".cache"))
    for path in ROOT.iterdir():
        if path.is_file() and path.name not in NOT_SHIPPED:
            shutil.copy(path, copy)
    log = build("sdist", copy, out)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out, filter="data")
    log += build("wheel", out / sdist.name.removesuffix(".tar.gz"), out)
    (wheel,) = out.glob("*.whl")
    return sdist, wheel, log


def build(what, folder, out):
    command = [sys.executable, "-c", BUILD.format(what, str(out))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=fresh(), timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout + result.stderr


def test_the_build_warns_of_nothing(built):
    assert not re.findall(r".*\bwarning\b.*|.*deprecat.*", built[2], flags=re.IGNORECASE)


def test_the_wheel_has_all_that_the_package_reads(built):
    with zipfile.ZipFile(built[1]) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {name.removeprefix("src/") for name in sources("src")}
    expected |= {f"dna_hf/{name}" for name in sources("configs")}
    expected |= {f"dna_hf/{name}" for name in sources("docs") if name.endswith(".md")}
    assert files == expected


def test_the_sdist_has_what_a_clone_has(built):
    with tarfile.open(built[0]) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    expected = {path.name for path in ROOT.iterdir() if path.is_file() and path.name not in NOT_SHIPPED}
    for folder in ("configs", "docs", "model_cards", "scripts", "src", "tests"):
        expected |= sources(folder)
    assert expected <= files
    made = {name for name in files if ".egg-info" in name or name in ("PKG-INFO", "setup.cfg")}
    assert files - expected == made


def test_metadata(built):
    with zipfile.ZipFile(built[1]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["Version"])
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "Apache-2.0 AND MIT"
    assert metadata.get_payload().startswith("# dna-hf")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_one_tested_version(built, python):
    """Of all that a user and a developer install, for every Python that is promised."""
    with zipfile.ZipFile(built[1]) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        required = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.0"}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate(environment)]
    versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    assert len(versions) == len(pins)
    # these build the package
    unpinned = {"setuptools", "wheel"}
    for requirement in map(Requirement, required):
        applies = requirement.marker is None or any(
            requirement.marker.evaluate(environment | {"extra": extra})
            for extra in ("", "dev", "demo", "figures", "llm")
        )
        name = canonicalize_name(requirement.name)
        if applies and name not in unpinned:
            assert requirement.specifier.contains(versions[name]), requirement


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A fresh environment with the wheel: its Python. Other packages are those of the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-compile", str(built[1])], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


# what a user would type, in one process: importing torch for each would take longer than all of it
SCRIPT = """
import json, sys
from pathlib import Path

import dna_hf
from dna_hf.cli import main

print(Path(dna_hf.__file__).parent)
for words in json.loads(sys.argv[1]):
    assert main(words) == 0, words
"""


def test_a_wheel_without_a_clone_trains_measures_and_publishes(installed, tmp_path):
    home = tmp_path / "elsewhere"
    home.mkdir()
    Image.new("L", (28, 28), 90).save(home / "picture.png")
    small = {"max_steps": 3, "max_train_samples": 24, "max_eval_samples": 20, "hidden_size": 16, "use_cpu": "true"}
    small |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "disable_tqdm": "true"}
    run = "runs/vit_tiny_fashion_mnist_softmax"
    commands = [
        ["recipes", "vit_tiny_fashion_mnist", "--copy", "mine.yaml"],
        ["train", "vit_tiny_fashion_mnist", "--attention_variant", "softmax"],
        ["evaluate", run, "--dataset", "fashion-mnist-mini", "--max_eval_samples", "20", "--record"],
        ["predict", run, "picture.png", "--top-k", "2"],
        ["visualize", run, "picture.png", "--output-dir", "pictures"],
        ["publish", run, "user/from-a-wheel", "--licence", "apache-2.0"],
    ]
    commands[1] += [word for key, value in small.items() for word in (f"--{key}", str(value))]
    with FakeHub() as hub:
        output = used(installed, home, ["-c", SCRIPT, json.dumps(commands)], hub.environment(tmp_path, hub.token))
        card = hub.files("user/from-a-wheel")["README.md"].decode()
        assert "model.safetensors" in hub.files("user/from-a-wheel")
    assert output.startswith(str(installed.parents[1]))
    assert (home / "mine.yaml").read_bytes() == (ROOT / "configs" / "vit_tiny_fashion_mnist.yaml").read_bytes()
    assert list((home / "pictures").glob("*.png"))
    assert "license: apache-2.0" in card and "fashion-mnist-mini" in card
    # the card has the figure that was recorded on these weights
    assert json.loads((home / run / "measurements.json").read_text())


def test_the_command_of_a_wheel(installed, tmp_path):
    """The program that pip makes; without torch, since only a text is read."""
    command = [str(installed.with_name("dna-hf")), "recipes"]
    listed = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=fresh(), timeout=120, check=True
    )
    names = [line for line in listed.stdout.splitlines() if re.fullmatch(r"[\w/]+", line)]
    documents = Path(listed.stdout.splitlines()[-1].partition(": ")[2])
    assert documents.is_relative_to(installed.parents[1]) and (documents / "video_recipe.md").is_file()
    assert names == [path.stem for path in sorted((ROOT / "configs").glob("*.yaml"))] + [
        f"accelerate/{path.stem}" for path in sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
    ]


def fresh():
    """The environment of somebody who has no clone."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DNA_HF", "HF_"))}


def used(python, folder, words, environment):
    result = subprocess.run(
        [str(python), *words], capture_output=True, text=True, cwd=folder, env=fresh() | environment, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
