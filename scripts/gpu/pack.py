"""Gather what has to travel to a machine with a GPU and without a network, beside the repository.

usage: gpu_session.sh --pack FOLDER PART ..., with DATA= and WEIGHTS= where the parts need them
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import summary
from session import NEEDS, PARTS

from dna_hf.errors import DnaError, must_be_empty, must_be_folder


ROOT = Path(__file__).resolve().parents[2]
# of one call, the repository included
LIMIT_MIB = 64
# for what the package does with data sets; all that they need besides is there
WHEELS = ("datasets", "evaluate", "dill", "multiprocess")
TARGET = ("--python-version", "3.12", "--implementation", "cp", "--only-binary", ":all:")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


class PackError(DnaError):
    """Something that was asked for cannot be packed."""


def pack(folder: Path, parts: list[str]) -> list[str]:
    """Gather what some parts need.

    Args:
        folder: a new folder, or an empty one.
        parts: names of the parts.

    Returns:
        What to do next, line by line.

    Raises:
        PackError: if a folder is missing, or all is too large for one call.
    """
    needs = set().union(*(NEEDS.get(part, set()) for part in parts))
    given = {need: _given(need, parts) for need in sorted(needs)}
    must_be_empty(folder, PackError)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        gathered = Path(scratch) / "pack"
        _gather(gathered, given, parts)
        sizes = {path.name: _mib(path.rglob("*")) for path in sorted(gathered.iterdir())}
        sizes["repository"] = _mib(_tracked_files())
        total, told = sum(sizes.values()), ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
        if total > LIMIT_MIB:
            raise PackError(f"{total:.1f} MiB would travel ({told}), {LIMIT_MIB} may: {_advice(parts)}.")
        shutil.copytree(gathered, folder, dirs_exist_ok=True)
    there = folder.absolute().relative_to(ROOT) if folder.absolute().is_relative_to(ROOT) else Path(folder.name)
    where = {"COMMIT": summary.commit()} | {need: str(there / need.lower()) for need in (*given, "WHEELS")}
    return [
        f"{folder}: {total:.1f} MiB travel ({told}).",
        f"Send {folder} together with the repository; there, in the repository, with {there} in it, run",
        f"    {' '.join(f'{name}={shlex.quote(value)}' for name, value in where.items())} "
        f"bash scripts/gpu_session.sh OUT {' '.join(parts)}",
        "and bring OUT/summary.md and OUT/results.tar.gz back.",
    ]


def _gather(folder: Path, given: dict[str, Path], parts: list[str]) -> None:
    (folder / "wheels").mkdir(parents=True)
    _pack_wheels(folder / "wheels")
    if "DATA" in given:
        _pack_images(given["DATA"], folder / "data", whole="cifar10" in parts)
    if "WEIGHTS" in given:
        _pack_weights(given["WEIGHTS"], folder / "weights")


def _given(need: str, parts: list[str]) -> Path:
    if not os.environ.get(need):
        who = [part for part in parts if need in NEEDS.get(part, ())]
        raise PackError(f"{' and '.join(who)} needs {need}: set it to a folder.")
    return must_be_folder(os.environ[need], PackError, need)


def _advice(parts: list[str]) -> str:
    heavy = [part for part in parts if "WEIGHTS" in NEEDS.get(part, ())]
    if not heavy or heavy == parts:
        return "smaller data or weights are needed"
    others = [part for part in parts if part not in heavy]
    return f"pack {' '.join(others)}, and {' '.join(heavy)} for another call"


def _pack_images(source: Path, folder: Path, whole: bool) -> None:
    """CIFAR-10; for fine-tuning alone as many images as that reads."""
    import pyarrow.parquet as parquet
    from finetune import IMAGES

    files = sorted(source.rglob("*.parquet"))
    if not files:
        raise PackError(f"DATA={source} holds no parquet file.")
    folder.mkdir()
    for file in files:
        if whole or "train" not in file.name:
            shutil.copyfile(file, folder / file.name)
        elif not list(folder.glob("*train*")):
            parquet.write_table(parquet.read_table(file)[:IMAGES], folder / file.name)


def _pack_weights(source: Path, folder: Path) -> None:
    """DINOv2 in half precision."""
    import torch
    from transformers import AutoModel

    AutoModel.from_pretrained(source, dtype=torch.float16).save_pretrained(folder)


def _pack_wheels(folder: Path) -> None:
    """Wheels for the machine, in versions that go together."""
    first, *others = WHEELS
    _download(folder, [first])
    (wheel,) = folder.glob("*.whl")
    wanted = _requirements(wheel)
    _download(folder, [wanted.get(name, name) for name in others])


def _requirements(wheel: Path) -> dict[str, str]:
    """What a wheel needs without its extras, by name."""
    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    needs = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]
    return {need.name: f"{need.name}{need.specifier}" for need in needs if not need.marker}


def _download(folder: Path, wanted: list[str]) -> None:
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, *TARGET, *platforms, *wanted]
    if subprocess.run(command).returncode:
        raise PackError(f"the wheels of {', '.join(wanted)} cannot be downloaded.")


def _tracked_files() -> Iterator[Path]:
    files = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    yield from (ROOT / name for name in files.split("\0") if name)


def _mib(paths: Iterable[Path]) -> float:
    return sum(path.stat().st_size for path in paths if path.is_file()) / 2**20


def main() -> int:
    """Pack, and say what to do next; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gpu_session.sh --pack")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a new folder")
    parser.add_argument("parts", metavar="PART", nargs="+", help=", ".join(PARTS))
    given = parser.parse_args()
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}: choose of {', '.join(PARTS)}.")
    try:
        print("\n".join(pack(given.folder, given.parts)))
    except DnaError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
