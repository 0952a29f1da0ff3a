"""What the tests of publishing share: a client of the Hub on loopback, and what is looked at afterwards."""

import re
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import SimpleNamespace

import pytest
import transformers
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import _http, close_session
from safetensors.torch import load_file

from dna_hf.hub import PublishError, publish
from tests.kit import command_line
from tests.kit.fake_hub import FakeHub


uploading = import_module("dna_hf.hub.upload")
COMMON = {"command": "dna-hf evaluate x", "seed": None, "date": "2026-01-02T03:04:05+00:00"}
COMMON |= {"environment": {"machine": "a machine", "torch": "2", "transformers": "5"}}
REPO = "user/model"


@contextmanager
def client_of(hub, folder, monkeypatch=None, token=FakeHub.token):
    """Lead the client of this process to a Hub; publishing and the client do not wait between attempts.

    A fixture gives its `monkeypatch`, with which tests change more: two of them would be undone in the wrong order.
    """
    slept = []
    with nullcontext(monkeypatch) if monkeypatch else pytest.MonkeyPatch.context() as patch:
        for name, value in hub.environment(folder, token).items():
            patch.setenv(name, value)
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(folder / "token"),
            "HF_HUB_CACHE": str(folder / "hub"),
        }.items():
            patch.setattr(constants, name, value)
        patch.setitem(_http.http_backoff.__kwdefaults__, "max_retries", 0)
        patch.setattr(uploading, "time", SimpleNamespace(sleep=slept.append))
        # transformers keeps one client for the whole process
        patch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
        close_session()
        yield slept
        close_session()


def run_cli(hub, folder, *words):
    """Run `dna-hf` with that Hub and without a token of its own."""
    with client_of(hub, folder / "home", token=None):
        return command_line.run_cli(*words, cwd=folder)


def refused(*arguments, **options):
    """Publish in vain; returns the message, which is one line of whole sentences."""
    with pytest.raises(PublishError) as caught:
        publish(*arguments, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.endswith("."), message
    assert "Traceback" not in message and FakeHub.token not in message
    return message


def spoilt_is_refused(hub, folder, spoil, message):
    """A checkpoint that was spoilt is refused with a message, before anything is uploaded."""
    spoil(folder)
    assert re.search(message, refused(folder, REPO))
    assert hub.requests == [] and hub.repos == {}


def figures(files):
    """Figures in the metadata of a published card: name -> value."""
    return {
        result.metric_name: result.metric_value for result in ModelCard(files["README.md"].decode()).data.eval_results
    }


def local_weights(folder):
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}
