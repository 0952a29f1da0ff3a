"""Run the parts of a GPU session in their order, each within its time, and write down how it went.

usage: session.py OUT [PART ...], with the environment that scripts/gpu_session.sh names
"""

import argparse
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import summary
from states import CUT, DONE, FAILED, STATUS, begin, is_done, note, read, said_by, settle

from dna_hf.errors import DnaError, must_be_writable


HERE = Path(__file__).resolve().parent
# parts in a line run beside each other: two that measure no time
ORDER = (("tests", "mixed"), ("speed",), ("cifar10",), ("finetune",))
PARTS = ("tests", "speed", "cifar10", "finetune", "mixed")
# folders that parts read at the full scale
NEEDS = {"cifar10": ("DATA",), "finetune": ("DATA", "WEIGHTS")}
SECONDS = {
    "full": {"tests": 90, "speed": 120, "cifar10": 240, "finetune": 90, "mixed": 60},
    "tiny": dict.fromkeys(PARTS, 600),
}
# of the whole session; a later part gets what is left, if that is enough to begin
SECONDS_IN_ALL = {"full": 530, "tiny": 3000}
ENOUGH = 15
# how long after its time a part is asked to end, and how long after that it is killed
GRACE = 4
# how long to wait for the parts of a session that was killed
PATIENCE = 20
PR_SET_PDEATHSIG = 1  # of Linux's prctl


@dataclass
class Run:
    """A part that has begun.

    Args:
        out: folder of its results.
        process: its process, which leads a process group.
        seconds: how long it may take.
    """

    out: Path
    process: subprocess.Popen
    seconds: float
    began: float = field(default_factory=time.monotonic)
    asked_to_end: float | None = None

    @property
    def took(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def ask_to_end(self) -> None:
        """Send SIGTERM, once."""
        if self.asked_to_end is None:
            self.asked_to_end = time.monotonic()
            self.process.terminate()

    def has_ended(self) -> bool:
        """Whether it has; one whose time is over is asked to end, and one that does not is killed."""
        if self.took > self.seconds + GRACE:
            self.ask_to_end()
        if self.asked_to_end is not None and time.monotonic() > self.asked_to_end + GRACE:
            self.process.kill()
        return self.process.poll() is not None

    def write_down(self) -> None:
        """How it ended; what it left behind ends, too."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        said, code = said_by(self.out), self.process.returncode
        if said and said["state"] == DONE and (code == 0 or self.asked_to_end):
            state, why = DONE, said["note"]
        elif self.asked_to_end:
            state, why = CUT, "; ".join(filter(None, [f"stopped after {self.took:.0f} s", said and said["note"]]))
        elif said and code == 0:
            state, why = CUT, said["note"]
        else:
            state, why = FAILED, f"exit code {code}: {_last_line(self.out / 'log.txt')}"
            (self.out / STATUS).unlink(missing_ok=True)
        note(self.out, state, why, seconds=read(self.out)["seconds"] + self.took)
        print(f"{self.out.name}: {state} after {self.took:.0f} s{f' ({why})' if why else ''}", flush=True)


@dataclass
class Session:
    """A call of the script.

    Args:
        out: folder of the results.
        parts: parts that were asked for.
        scale: `"full"` or `"tiny"`.
        options: options of every part.
        environment: environment of the parts.
        lock: file that every process of the session holds locked.
        machine: what it runs on, in words.
        signals: numbers of the signals that asked it to stop.
    """

    out: Path
    parts: list[str]
    scale: str
    options: list[str]
    environment: dict[str, str]
    lock: IO[str]
    machine: dict[str, str]
    signals: list[int]
    began: float = field(default_factory=time.monotonic)

    def run(self) -> int:
        """All parts, in their order; returns the exit code."""
        for name in PARTS:
            settle(self.out / name)
        for names in ORDER:
            self._run_beside([name for name in names if name in self.parts and not is_done(self.out / name)])
        self._write()
        print(f"see {self.out}/summary.md", flush=True)
        if self.signals:
            return 128 + self.signals[0]
        return int(any(read(self.out / name)["state"] == FAILED for name in self.parts))

    def _run_beside(self, names: list[str]) -> None:
        running = [run for name in names if not self.signals and (run := self._start(name))]
        self._write()
        while running:
            time.sleep(0.1)
            for run in running if self.signals else []:
                run.ask_to_end()
            running = self._without_ended(running)

    def _without_ended(self, running: list[Run]) -> list[Run]:
        ended = [run for run in running if run.has_ended()]
        for run in ended:
            run.write_down()
        if ended:
            self._write()
        return [run for run in running if run not in ended]

    def _start(self, name: str) -> Run | None:
        out = self.out / name
        out.mkdir(exist_ok=True)
        left = SECONDS_IN_ALL[self.scale] - (time.monotonic() - self.began)
        seconds = min(SECONDS[self.scale][name], left)
        if seconds < ENOUGH:
            note(out, CUT, "no time was left to begin")
            return None
        command = [sys.executable, "-u", HERE / f"{name}.py", "--out", out, "--seconds", f"{seconds:.0f}"]
        if os.environ.get("CHECKPOINTS"):
            command += ["--checkpoints", Path(os.environ["CHECKPOINTS"]).absolute() / name]
        begin(out, f"{self.machine['card']}, {self.machine['commit']}")
        print(f"{name}: begins, {seconds:.0f} s at most", flush=True)
        with (out / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [*command, *self.options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
                preexec_fn=_end_with_session,
                pass_fds=[self.lock.fileno()],
            )
        return Run(out, process, seconds)

    def _write(self) -> None:
        parts = {name: read(self.out / name) for name in PARTS if (self.out / name).exists()}
        summary.write_results(self.out, parts, self.machine)


def main() -> int:
    """Run the session; returns the exit code."""
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: signals.append(number))
    parser = argparse.ArgumentParser(prog="gpu_session.sh")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the results")
    parser.add_argument("parts", metavar="PART", nargs="*", help=f"{', '.join(PARTS)}; all by default")
    given = parser.parse_args()
    for name in given.parts:
        if name not in PARTS:
            parser.error(f"there is no part {name!r}: choose of {', '.join(PARTS)}.")
    scale = os.environ.get("SCALE", "full")
    if scale not in SECONDS:
        parser.error(f"SCALE is full or tiny, not {scale!r}.")
    options = ["--scale", scale]
    for name in ("DATA", "WEIGHTS"):
        if folder := _given_folder(name, parser):
            options += [f"--{name.lower()}", str(folder)]
    machine = summary.machine(scale)
    if scale == "full" and machine["card"] == summary.NO_CARD:
        parser.error("nvidia-smi names no card: set SCALE=tiny.")
    out, parts = given.out.absolute(), given.parts or list(PARTS)
    try:
        must_be_writable(out, DnaError)
    except DnaError as error:
        parser.error(str(error))
    for name in parts if scale == "full" else ():
        for need in NEEDS.get(name, ()):
            if not os.environ.get(need) and not is_done(out / name):
                parser.error(f"{name} needs {need}: set it to a folder, or name the parts to run.")
    with _locked(out, parser) as lock, _environment(parser) as environment:
        _must_be_of(scale, out, parser)
        return Session(out, parts, scale, options, environment, lock, machine, signals).run()


def _given_folder(name: str, parser: argparse.ArgumentParser) -> Path | None:
    if not os.environ.get(name):
        return None
    folder = Path(os.environ[name]).absolute()
    if not folder.is_dir():
        parser.error(f"{name}={os.environ[name]} is no folder.")
    return folder


@contextmanager
def _locked(out: Path, parser: argparse.ArgumentParser) -> Iterator[IO[str]]:
    """Keep others from writing to the results, among them parts that have outlived their session."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        for _ in range(PATIENCE):
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(1)
        else:
            parser.error(f"another session writes to {out}: wait for its end, or choose another folder.")
        yield lock


def _must_be_of(scale: str, out: Path, parser: argparse.ArgumentParser) -> None:
    """See that no results of another scale are there: they would be taken for done."""
    path = out / "scale.txt"
    if path.exists() and path.read_text() != scale:
        parser.error(f"{out} holds results of SCALE={path.read_text()}: choose another folder.")
    path.write_text(scale)


@contextmanager
def _environment(parser: argparse.ArgumentParser) -> Iterator[dict[str, str]]:
    """The environment of the parts, in which the wheels that were given are installed."""
    with tempfile.TemporaryDirectory() as site:
        if folder := _given_folder("WHEELS", parser):
            wheels = sorted(map(str, folder.glob("*.whl")))
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site]
            if not wheels:
                parser.error(f"WHEELS={folder} holds no wheel.")
            if subprocess.run([*command, *wheels]).returncode:
                parser.error(f"the wheels in {folder} cannot be installed: they are for another Python?")
        paths = filter(None, [os.environ.get("PYTHONPATH"), site])
        yield os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def _end_with_session() -> None:
    """Have the system send SIGTERM to this process should the session be killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
