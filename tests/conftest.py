"""Shared fixtures, and which tests may be skipped."""

import gc
import os
from importlib.util import find_spec


# before the libraries that read them are imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from packaging import version  # noqa: E402

from tests.kit.paths import shared_path  # noqa: E402
from tests.kit.skips import fail_if_not_allowed, read_allowed_skips, reason_of  # noqa: E402


ALLOWED = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config):
    config.stash[ALLOWED] = read_allowed_skips(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    fail_if_not_allowed(report, item.config.stash[ALLOWED])
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    fail_if_not_allowed(report, collector.config.stash[ALLOWED])
    return report


def pytest_terminal_summary(terminalreporter, config):
    """After a run of all tests, name the lines that are no longer needed."""
    option = config.option
    if config.args_source is not pytest.Config.ArgsSource.TESTPATHS or option.keyword or option.markexpr:
        return
    if option.collectonly or "error" in terminalreporter.stats:
        return
    skipped = [(report.nodeid, reason_of(report)) for report in terminalreporter.stats.get("skipped", [])]
    for skip in config.stash[ALLOWED]:
        if skip.when == "always" and not any(skip.covers(*each) for each in skipped):
            terminalreporter.write_line(f"tests/allowed_skips.txt: nothing is skipped by: {skip.line}")


def pytest_collection_finish():
    """Leave what lives as long as the process out of garbage collections, of which every training asks for some."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config, items):
    skips = {}
    if not config.getoption("--run-slow"):
        skips["slow"] = "slow: run with --run-slow"
    if version.parse(transformers.__version__) < version.parse("5.23") and not find_spec("torchvision"):
        skips["auto_image_processor"] = "before transformers 5.23, AutoImageProcessor needs torchvision"
    if gpu_tests_run_on() is None:
        skips["gpu"] = "needs a CUDA device"
    for item in items:
        for name in skips.keys() & set(item.keywords):
            item.add_marker(pytest.mark.skip(reason=skips[name]))


def gpu_tests_run_on():
    """Where the tests marked `gpu` run: on a GPU, or as far as they can on the CPU if DNA_HF_GPU_TESTS=cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "cpu" if os.environ.get("DNA_HF_GPU_TESTS") == "cpu" else None


@pytest.fixture
def gpu_device():
    """The device of the tests marked `gpu`."""
    return gpu_tests_run_on()


@pytest.fixture(autouse=True)
def hub_settings_stay():
    """A test that leaves the client of the Hub changed would be noticed by another one only."""
    before = constants.HF_HUB_OFFLINE, constants.ENDPOINT
    yield
    assert before == (constants.HF_HUB_OFFLINE, constants.ENDPOINT)


@pytest.fixture(scope="session")
def golden():
    """The folder of reference vectors."""
    return shared_path("golden")


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data sets and weights."""
    return shared_path("data")
