"""By which command, when and on which machine something was measured."""

import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__


PACKAGES = ("torch", "transformers", "accelerate", "datasets", "safetensors")


def stamp() -> dict[str, Any]:
    """The running `command`, the `date` and the `environment`, as every record and report states them."""
    return {"command": command_line(), "date": now(), "environment": environment()}


def environment() -> dict[str, str]:
    """The machine and the versions of the packages, as a card states them."""
    facts = {"machine": _machine(), "python": platform.python_version(), "dna-hf": __version__}
    return facts | {package: version(package) for package in PACKAGES}


def command_line() -> str:
    """The command that is running, without secrets."""
    program = Path(sys.argv[0]).name
    words = ["dna-hf" if program == "__main__.py" else program, *sys.argv[1:]]
    for index, word in enumerate(words):
        if _is_secret(word.partition("=")[0]):
            if "=" in word:
                words[index] = word.partition("=")[0] + "=..."
            elif index + 1 < len(words):
                words[index + 1] = "..."
    return shlex.join(words)


def without_secrets(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sections of a configuration without tokens, to be written down."""
    return {
        name: {key: value for key, value in section.items() if not _is_secret(key)}
        for name, section in settings.items()
    }


def peak_memory() -> int:
    """Largest memory that this process had so far, in bytes: of the GPU where there is one, else of the CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource  # not on every platform that has a GPU

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def now() -> str:
    """Date and time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def processor_name() -> str:
    """Name of the CPU, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if models:
            return models[0].partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _is_secret(name: str) -> bool:
    return name.endswith("token")


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{processor_name()}, {torch.get_num_threads()} threads"
