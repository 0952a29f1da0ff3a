"""Which tests may be skipped, and why: `tests/allowed_skips.txt`. Any other skip fails its test."""

import os
import re
import shutil
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
import transformers
from packaging import version

from tests.kit.paths import ROOT


FILE = ROOT / "tests" / "allowed_skips.txt"


@dataclass(frozen=True)
class AllowedSkip:
    """A line of the file, `when | test | reason`: two regular expressions, of the whole name and reason."""

    when: str
    test: re.Pattern
    reason: re.Pattern
    line: str = field(compare=False)

    def covers(self, test, reason):
        return bool(self.test.fullmatch(test) and self.reason.fullmatch(reason))


def read_allowed_skips(config):
    """The lines that hold in this run."""
    lines = [line.strip() for line in FILE.read_text().splitlines()]
    allowed = []
    for line in lines:
        if line and not line.startswith("#"):
            when, test, reason = (part.strip() for part in line.split(" | "))
            allowed.append(AllowedSkip(when, re.compile(test), re.compile(reason), line))
    return [skip for skip in allowed if holds(skip.when, config)]


def holds(when, config):
    """Whether a condition of the file holds here.

    `always`: on every machine. `sometimes`: depends on the machine, and the test says on what. `without X`: where
    there is no package, program or device X. `transformers < X`: with an older one.
    """
    if when in ("always", "sometimes"):
        return True
    if when.startswith("transformers < "):
        return version.parse(transformers.__version__) < version.parse(when.removeprefix("transformers < "))
    missing = when.removeprefix("without ")
    if missing == "--run-slow":
        return not config.getoption("--run-slow")
    if missing == "GPU":
        return not torch.cuda.is_available()
    if missing == "common tests":
        return os.environ.get("DNA_HF_REQUIRE_COMMON_TESTS") != "1"
    return find_spec(missing) is None and shutil.which(missing) is None


def reason_of(report):
    """Why a report says that its test was skipped, in one line; `None` if it was not."""
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return None
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(reason.removeprefix("Skipped: ").split())


def fail_if_not_allowed(report, allowed):
    """Turn the report of a skipped test into a failure, unless one of these lines covers it."""
    reason = reason_of(report)
    if reason is not None and not any(skip.covers(report.nodeid, reason) for skip in allowed):
        report.outcome = "failed"
        report.longrepr = f"skipped, which no line of tests/allowed_skips.txt allows here: {reason}"
