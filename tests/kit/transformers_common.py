"""Import the common tests of the installed transformers.

The wheel of transformers has no tests. Its source distribution has the common ones, `tests/test_*_common.py` and the
mixins beside them: they are downloaded once per version and kept in `$DNA_HF_TEST_CACHE`, or in `tests/.cache`.
"""

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import unittest
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import ModuleType
from unittest import mock

import pytest
import transformers
from packaging import version


PACKAGE = "transformers_tests"
CACHE = Path(os.environ.get("DNA_HF_TEST_CACHE", Path(__file__).parents[1] / ".cache"))


# of variants that differ in nothing that these tests look at, one is enough for the oldest transformers
newest_only = pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.23"), reason="run on the newest transformers"
)


class RegisteredMarks:
    """`pytest.mark` for the common tests: it ignores their own marks, which `--strict-markers` refuses."""

    def __init__(self, marks):
        self.marks = marks

    def __getattr__(self, name):
        try:
            return getattr(self.marks, name)
        except pytest.fail.Exception:
            return lambda test: test


class ExportTesterMixin:
    """Stands in for the tests of the exporters, which the source distribution lacks."""


class GenerationTesterMixin:
    """Stands in for the tests of `generate`, which the source distribution lacks."""


# a value that is not the default for every argument common to all configurations
CONFIG_COMMON_KWARGS = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["BertModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}

# what the common tests import from modules that the source distribution lacks
STUBS = {
    f"{PACKAGE}.exporters.test_export": {"ExportTesterMixin": ExportTesterMixin},
    f"{PACKAGE}.generation.test_utils": {"GenerationTesterMixin": GenerationTesterMixin},
    f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": CONFIG_COMMON_KWARGS},
    "fetch_hub_objects_for_ci": {"url_to_local_path": lambda url: url},
}


def common_test_module(name: str) -> ModuleType:
    """Import one of the common test modules, e.g. `test_modeling_common`.

    To be called at the top of a test file. Where the source distribution cannot be had, e.g. offline, it skips the
    file; with `DNA_HF_REQUIRE_COMMON_TESTS=1` in the environment it raises instead.
    """
    try:
        folder = unpack_common_tests(transformers.__version__)
    except (OSError, RuntimeError, subprocess.TimeoutExpired, tarfile.TarError) as error:
        if os.environ.get("DNA_HF_REQUIRE_COMMON_TESTS") == "1":
            raise
        pytest.skip(f"no common tests of transformers {transformers.__version__}: {error}", allow_module_level=True)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    for stub, attributes in STUBS.items():
        if stub not in sys.modules:
            sys.modules[stub] = ModuleType(stub)
            vars(sys.modules[stub]).update(attributes)
    with mock.patch.object(pytest, "mark", RegisteredMarks(pytest.mark)):
        return importlib.import_module(f"{PACKAGE}.{name}")


def unpack_common_tests(version: str) -> Path:
    """The folder that holds the common tests of transformers `version` as the package `transformers_tests`."""
    folder = CACHE / f"transformers-{version}"
    package = folder / PACKAGE
    if package.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        arguments = ["--no-deps", "--no-binary", "transformers", "--no-build-isolation", "--retries", "1"]
        download = subprocess.run(
            [sys.executable, "-m", "pip", "download", *arguments, "-d", scratch, f"transformers=={version}"],
            capture_output=True,
            text=True,
            timeout=600,
        )
        if download.returncode != 0:
            raise RuntimeError(f"pip download failed: {download.stderr.strip()}")
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            members = [
                member
                for member in tar.getmembers()
                if any(PurePosixPath(member.name).match(f"tests/test_*_{kind}.py") for kind in ("common", "mixin"))
            ]
            tar.extractall(scratch, members, filter="data")
        unpacked = Path(scratch) / f"transformers-{version}" / "tests"
        (unpacked / "__init__.py").touch()
        try:
            unpacked.rename(package)
        except OSError:
            # another process was faster
            if not package.exists():
                raise
    return folder


@contextmanager
def quiet_sub_test(test, *message, **values):
    """In the place of `subTest`: the common tests have thousands, and to report each takes longer than to run it.

    The first failure ends a test. It is skipped if all of its parts are.
    """
    if not hasattr(test, "sub_tests"):
        test.sub_tests = []
        test.addCleanup(_skip_if_all_parts_are, test.sub_tests)
    try:
        yield
    except unittest.SkipTest as skip:
        test.sub_tests.append(skip)
    else:
        test.sub_tests.append(None)


def _skip_if_all_parts_are(sub_tests):
    if all(sub_tests):
        raise sub_tests[0]


def treat_as(native_name: str, model_class: type) -> None:
    """Let the common model tests treat `model_class` as they treat the native class of that name.

    They look a class up by its name in the tables of native models to find which labels it takes and whether it has a
    loss.
    """
    common = common_test_module("test_modeling_common")
    native_values = common.get_values

    def get_values(mapping):
        names = native_values(mapping)
        return [*names, model_class.__name__] if native_name in names else names

    common.get_values = get_values
