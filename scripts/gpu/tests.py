"""The tests marked `gpu`: how each ended, how long it took, and by how much it failed."""

import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kit import Part, Rows, markdown


ROOT = Path(__file__).resolve().parents[2]
# of a failure, in letters: its first lines say which figure is off by how much
LENGTH = 400
# of passed, failed and skipped phases of a test the last one counts
WORST = ("passed", "skipped", "failed")


class Recorder:
    """Write a row when a test has ended.

    Args:
        rows: where to write.
    """

    def __init__(self, rows: Rows):
        self.rows = rows
        self.running: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test has ended: its set-up, the test, or what tidies up."""
        row = self.running.setdefault(
            report.nodeid, {"test": report.nodeid, "outcome": "passed", "seconds": 0.0, "why": ""}
        )
        row["seconds"] += report.duration
        if WORST.index(report.outcome) > WORST.index(row["outcome"]):
            row["outcome"] = report.outcome
            row["why"] = why(report)
        if report.when == "teardown":
            row["seconds"] = round(row["seconds"], 2)
            self.rows.add(self.running.pop(report.nodeid))


def why(report: pytest.TestReport) -> str:
    """What a test that failed or was skipped says, in one line."""
    if isinstance(report.longrepr, tuple):
        text = report.longrepr[2]
    else:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else report.longreprtext
    return " ".join(text.split())[:LENGTH]


def finish(part: Part, rows: Rows, state: str) -> None:
    """Say how many tests ended how, and what the failures were."""
    outcomes = Counter(row["outcome"] for row in rows.all)
    seconds = {name: sum(float(row["seconds"]) for row in rows.all if row["outcome"] == name) for name in outcomes}
    table = markdown(
        ["outcome", "tests", "seconds, all workers"], [[name, outcomes[name], seconds[name]] for name in outcomes]
    )
    failed = [[row["test"], row["why"]] for row in rows.all if row["outcome"] == "failed"]
    if failed:
        table += "\n\n" + markdown(["failed", "why"], failed)
    part.finish(state, table, f"{len(failed)} of {len(rows.all)} failed on {part.device.type}")


def cut(part: Part, rows: Rows) -> None:
    """The time is over: what is on disk is all there is."""
    finish(part, rows, "cut")
    os._exit(0)


def arguments(part: Part, rows: Rows) -> list[str]:
    """The command line of pytest."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    words = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "--tb=short", *map(str, files)]
    for row in rows.all:
        words += ["--deselect", row["test"]]
    if part.tiny:
        words += ["-k", "not 64 and not 197"]
    workers = min(16, len(os.sched_getaffinity(0)))
    return [*words, "-n", str(workers), "--dist", "load", "--maxschedchunk", "1"]


def main() -> None:
    """Run the tests that no earlier call ran."""
    part = Part.from_command_line()
    rows = part.rows("tests.csv", key=("test",))
    # a process for each core: threads within would only fight over them
    os.environ |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if part.device.type == "cpu":
        os.environ["DNA_HF_GPU_TESTS"] = "cpu"
    os.chdir(ROOT)
    # this file's name is that of the package of the tests
    sys.path.remove(str(Path(__file__).resolve().parent))
    timer = threading.Timer(part.seconds_left() - 2, cut, (part, rows))
    timer.daemon = True
    timer.start()
    code = pytest.main(arguments(part, rows), plugins=[Recorder(rows)])
    timer.cancel()
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        sys.exit(f"pytest ended with {code!r}")
    if not rows.all:
        sys.exit("no test is marked gpu")
    finish(part, rows, "done")


if __name__ == "__main__":
    main()
