"""A run with `push_to_hub`, started from Python: one publication of the finished model, as from the command line."""

import json

import pytest

from dna_hf.hub import PublishError
from dna_hf.training import classification as training
from dna_hf.training.errors import ConfigurationError
from tests.kit.fake_hub import FakeHub
from tests.kit.hub_client import client_of
from tests.kit.training import tiny_run


PUSHED = {"push_to_hub": True, "hub_model_id": "user/run", "num_train_epochs": 1, "save_steps": 2}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with FakeHub() as hub, client_of(hub, tmp_path / "client", monkeypatch):
        yield hub


def test_a_run_from_python_publishes_its_finished_model_once(hub, tmp_path):
    """The Trainer itself pushes nothing: neither at its start, nor with its checkpoints, nor when it saves."""
    run = tiny_run(tmp_path / "run", **PUSHED)
    result = training.train_classifier(run)
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 3
    # the commit that makes the repository, and the publication
    assert len(hub.commits("user/run")) == 2
    assert result.published.commit == hub.commits("user/run")[-1]
    assert list(hub.repos) == ["user/run"]
    files = hub.files("user/run")
    assert files["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    measured = json.loads(files["measurements.json"])[0]["metrics"]
    assert measured == {name: result.metrics[f"eval_{name}"] for name in measured}
    # the arguments of the run are as they were given
    assert run.training.push_to_hub


def test_a_run_that_is_not_to_be_published_does_not_talk_to_the_hub(hub, tmp_path):
    result = training.train_classifier(tiny_run(tmp_path / "run", max_steps=1))
    assert result.published is None and hub.requests == []


def test_a_token_that_is_not_known_is_said_before_training(hub, tmp_path):
    with pytest.raises(PublishError, match="token"):
        training.train_classifier(tiny_run(tmp_path / "run", **PUSHED, hub_token="hf_wrong"))
    assert not (tmp_path / "run").exists() and hub.repos == {}


def test_a_name_that_no_repository_can_have_is_said_before_training(hub, tmp_path):
    with pytest.raises(PublishError, match="'user/a/b' is no name of a repository"):
        training.train_classifier(tiny_run(tmp_path / "run", **PUSHED | {"hub_model_id": "user/a/b"}))
    assert not (tmp_path / "run").exists() and hub.requests == []


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_unfinished_models_are_not_published(tmp_path, strategy):
    with pytest.raises(ConfigurationError, match="hub_strategy must be end"):
        tiny_run(tmp_path / "run", **PUSHED, hub_strategy=strategy)
