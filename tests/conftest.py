"""Shared fixtures: where the reference data lies, and what to skip without it."""

import os
from importlib.util import find_spec


# before the libraries that read them are imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402
import transformers  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from packaging import version  # noqa: E402

from tests.kit.paths import shared_path  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    skips = {}
    if not config.getoption("--run-slow"):
        skips["slow"] = "slow: run with --run-slow"
    if version.parse(transformers.__version__) < version.parse("5.23") and not find_spec("torchvision"):
        skips["auto_image_processor"] = "before transformers 5.23, AutoImageProcessor needs torchvision"
    for item in items:
        for name in skips.keys() & set(item.keywords):
            item.add_marker(pytest.mark.skip(reason=skips[name]))


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
