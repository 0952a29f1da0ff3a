"""Publishing: all or nothing, and what others then load is what is here. Against a Hub on loopback."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf import DnAViTBackbone, DnAViTForImageClassification, DnAViTModel
from dna_hf.cli import main
from dna_hf.data.provenance import DatasetRecord
from dna_hf.hub import PublishError, publish
from dna_hf.records.checkpoint_records import Measurement, TrainingRun, record_measurement, record_training
from dna_hf.records.digest import weights_digest
from tests.kit.fake_hub import FakeHub
from tests.kit.fresh_process import run_fresh
from tests.kit.hub_client import COMMON, REPO, client_of, figures, local_weights, refused, run_cli, spoilt_is_refused
from tests.kit.models import animal_model
from tests.kit.paths import ROOM
from tests.kit.training import SECTIONS


# the package has a function of this name, too
publishing = import_module("dna_hf.hub.publish")
uploading = import_module("dna_hf.hub.upload")


pytestmark = pytest.mark.auto_image_processor

CODE = {
    *("attention_variants.py", "configuration_dna.py", "layers_dna.py"),
    *("configuration_dna_vit.py", "modeling_dna_vit.py"),
}
AUTO_CLASSES = {
    "AutoConfig",
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModelForMaskedImageModeling",
    "AutoBackbone",
}
METRICS = {"top1": 0.25, "top5": 0.75, "loss": 1.5}


# --- checkpoints


def save_checkpoint(folder, model_class=DnAViTForImageClassification, dtype=torch.float32, **options):
    """A checkpoint of a tiny model with random weights; returns its folder."""
    animal_model(model_class).to(dtype).save_pretrained(folder, **options)
    processor().save_pretrained(folder)
    return folder


def processor():
    return ViTImageProcessorPil(size={"height": 32, "width": 32})


def measure(folder, **changes):
    """Record figures of the weights of a folder."""
    facts = {"task": "image-classification", "dataset": DatasetRecord("someone/flowers", licence="mit")}
    facts |= {"split": "test", "metrics": METRICS, "samples": 20, "weights": weights_digest(local_weights(folder))}
    record_measurement(folder, Measurement(**COMMON | facts | changes))


def train(folder, **changes):
    """Record a training run of the weights of a folder."""
    facts = {"dataset": DatasetRecord("someone/flowers"), "settings": {"training": {"seed": 1}}, "seconds": 3.0}
    facts |= {"weights": weights_digest(local_weights(folder))}
    record_training(folder, TrainingRun(**COMMON | facts | changes))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = save_checkpoint(tmp_path_factory.mktemp("saved") / "checkpoint")
    measure(folder)
    train(folder)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    """A folder that lacks nothing, to be spoilt."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))


# --- the Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with FakeHub() as hub, client_of(hub, tmp_path / "home", monkeypatch) as slept:
        hub.slept = slept
        yield hub


@pytest.fixture
def unverified(monkeypatch):
    """Publishing without loading what was published, and without counting operations, which takes longest."""
    monkeypatch.setattr(publishing, "_verify", lambda *arguments: 0.0)
    monkeypatch.setattr(import_module("dna_hf.hub.model_card"), "count_macs", lambda *model: 10**6)


def snapshot(hub):
    """Everything a Hub holds: name -> branches with their commits, and the files of each."""
    return {
        name: {branch: (hub.commits(name, branch), hub.files(name, branch)) for branch in repo.branches}
        for name, repo in hub.repos.items()
    }


def assert_complete(hub, repo_id, folder, revision="main"):
    """A repository has all of a checkpoint: weights, configuration, code, image processor, card and records."""
    files = hub.files(repo_id, revision)
    config = json.loads(files["config.json"])
    assert config["auto_map"].keys() == AUTO_CLASSES
    assert {target.partition(".")[0] + ".py" for target in config["auto_map"].values()} <= CODE
    assert not any("--" in target for target in config["auto_map"].values())
    assert {name for name in files if name.endswith(".py")} == CODE
    for name in CODE:
        assert files[name] == (ROOM / name).read_bytes()
    for name in ("measurements.json", "training.json"):
        assert files.get(name) == ((folder / name).read_bytes() if (folder / name).exists() else None)
    assert "preprocessor_config.json" in files
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "transformers" and f'"{repo_id}"' in card.text
    return files


# --- publish, then load it as others do


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A Hub with a trained classifier, a backbone, a sharded base model in half precision, and a pushed model."""
    folder = tmp_path_factory.mktemp("published")
    facts = SimpleNamespace(folder=folder, local={}, output={}, results={})
    with FakeHub() as hub:
        facts.hub = hub
        (folder / "tiny.yaml").write_text(yaml.safe_dump(SECTIONS))
        words = ("train", "tiny.yaml", "--push_to_hub", "--hub_model_id", "user/run", "--hub_token", hub.token)
        facts.output["user/run"] = run_cli(hub, folder, *words, "--num_train_epochs", 1)
        facts.local["user/run"] = folder / "runs" / "tiny"

        facts.local["user/backbone"] = save_checkpoint(folder / "backbone", DnAViTBackbone)
        with client_of(hub, folder / "client"):
            with redirect_stdout(StringIO()) as facts.printed:
                assert main(["publish", str(folder / "backbone"), "user/backbone"]) == 0
            facts.local["user/base"] = save_checkpoint(folder / "base", DnAViTModel, torch.bfloat16)
            facts.results["user/base"] = publish(folder / "base", "base", max_shard_size="20KB", private=True)
            facts.local["user/pushed"] = save_checkpoint(folder / "pushed")
            DnAViTForImageClassification.from_pretrained(folder / "pushed").push_to_hub("user/pushed")
            processor().push_to_hub("user/pushed")
        yield facts


@pytest.mark.parametrize("repo_id", ["user/run", "user/backbone", "user/base"])
def test_published_repositories_are_complete(published, repo_id):
    hub, local = published.hub, published.local[repo_id]
    if repo_id in published.output:
        assert published.output[repo_id].returncode == 0, published.output[repo_id].stderr
    assert len(hub.commits(repo_id)) == 2
    files = assert_complete(hub, repo_id, local)
    assert [hub.commits(repo_id)[-1]] == [commit.sha for commit in hub.repos[repo_id].tags.values()]
    [tag] = hub.repos[repo_id].tags
    assert f'"{tag}"' in files["README.md"].decode()
    if repo_id == "user/base":
        shards = [name for name in files if name.endswith(".safetensors")]
        index = json.loads(files["model.safetensors.index.json"])
        assert len(shards) > 2 and set(index["weight_map"].values()) == set(shards)
        assert hub.repos[repo_id].private
    else:
        assert files["model.safetensors"] == (local / "model.safetensors").read_bytes()
        assert not hub.repos[repo_id].private


def test_what_publish_returns(published):
    result, hub = published.results["user/base"], published.hub
    assert result.repo_id == "user/base" and result.commit == hub.commits("user/base")[-1]
    assert result.tag in hub.repos["user/base"].tags and 0 <= result.max_difference <= 1e-6
    files = hub.files("user/base")
    assert result.card == files["README.md"].decode()
    assert result.files == {name: len(data) for name, data in files.items() if name != ".gitattributes"}


def test_publish_command_prints_what_was_published(published):
    output = published.printed.getvalue()
    difference = float(re.search(r"differs by (\S+) from the local model", output)[1])
    assert difference <= 1e-6
    assert published.hub.commits("user/backbone")[-1] in output and "model.safetensors" in output


def test_training_with_push_to_hub_publishes_what_it_measured(published):
    assert published.output["user/run"].returncode == 0, published.output["user/run"].stderr
    files, local = published.hub.files("user/run"), published.local["user/run"]
    measured = json.loads((local / "eval_results.json").read_text())
    names = {"Top-1 accuracy": "eval_top1", "Top-5 accuracy": "eval_top5", "Cross entropy": "eval_loss"}
    assert figures(files) == {name: measured[key] for name, key in names.items()}
    assert {"measurements.json", "training.json"} <= files.keys()
    assert published.hub.commits("user/run")[-1] in published.output["user/run"].stdout


def test_no_published_file_holds_the_token(published):
    for repo_id in published.hub.repos:
        for name, data in published.hub.files(repo_id).items():
            assert FakeHub.token.encode() not in data, (repo_id, name)
    for path in published.local["user/run"].glob("*.json"):
        assert FakeHub.token not in path.read_text(), path


def test_push_to_hub_of_transformers_has_the_code(published):
    files = published.hub.files("user/pushed")
    assert files.keys() >= CODE and "preprocessor_config.json" in files
    assert json.loads(files["config.json"])["auto_map"].keys() == AUTO_CLASSES


# arguments: a file with [repository, revisions, Auto class, local folder] of each model, its weights and an output
PULL = """
import json
import torch, transformers
from PIL import Image
from safetensors.torch import load_file

facts = {}
for repo, revisions, auto_class, expected in json.load(open(sys.argv[1])):
    expected = load_file(expected)
    pixel_values, output = expected.pop("pixel_values"), expected.pop("output")
    for revision in revisions:
        auto = getattr(transformers, auto_class)
        model = auto.from_pretrained(repo, revision=revision, trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules."), type(model)
        weights = model.state_dict()
        assert weights.keys() == expected.keys(), repo
        for name, tensor in weights.items():
            assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), (repo, name)
        with torch.no_grad():
            found = model.float()(pixel_values)
        found = found.feature_maps[-1] if auto_class == "AutoBackbone" else found[0]
        facts[f"{repo} {revision}"] = (found - output).abs().max().item()
        transformers.AutoImageProcessor.from_pretrained(repo, revision=revision)
        if auto_class == "AutoModelForImageClassification":
            options = {"model": repo, "revision": revision, "trust_remote_code": True, "device": "cpu"}
            entries = transformers.pipeline("image-classification", **options)(Image.new("L", (40, 30)).convert("RGB"))
            assert {entry["label"] for entry in entries} <= set(model.config.label2id)
assert "dna_hf" not in sys.modules
print(json.dumps(facts))
"""


def expected_output(model_class, folder, file):
    """Write the local weights, an image and what the local model makes of it."""
    model = model_class.from_pretrained(folder).eval()
    size = model.config.image_size
    pixel_values = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = model.float()(pixel_values)
    output = output.feature_maps[-1] if model_class is DnAViTBackbone else output[0]
    save_file(local_weights(folder) | {"pixel_values": pixel_values, "output": output.contiguous()}, file)


def pull(hub, folder, **switches):
    """Run the script in a process without the package, with a cache of its own and no other token."""
    environment = hub.environment(folder / "home", hub.read_only_token) | switches
    printed = run_fresh(PULL, folder, folder / "models.json", environment=environment)
    return json.loads(printed.splitlines()[-1])


def test_others_load_it_by_name_and_from_their_cache(published, tmp_path):
    classes = {
        "user/run": (DnAViTForImageClassification, "AutoModelForImageClassification"),
        "user/backbone": (DnAViTBackbone, "AutoBackbone"),
        "user/base": (DnAViTModel, "AutoModel"),
        "user/pushed": (DnAViTForImageClassification, "AutoModelForImageClassification"),
    }
    models = []
    for repo_id, (model_class, auto_class) in classes.items():
        revisions = [published.hub.commits(repo_id)[-1], *published.hub.repos[repo_id].tags]
        expected = tmp_path / f"{repo_id.replace('/', '-')}.safetensors"
        expected_output(model_class, published.local[repo_id], expected)
        models.append([repo_id, revisions, auto_class, str(expected)])
    (tmp_path / "models.json").write_text(json.dumps(models))
    online = pull(published.hub, tmp_path)
    assert len(online) == 7 and max(online.values()) <= 1e-6, online
    published.hub.requests.clear()
    # AutoBackbone asks the Hub whether the repository exists, whatever the model
    (tmp_path / "models.json").write_text(json.dumps([model for model in models if model[2] != "AutoBackbone"]))
    offline = pull(published.hub, tmp_path, HF_HUB_OFFLINE="1")
    assert offline == {name: value for name, value in online.items() if "backbone" not in name}
    assert published.hub.requests == []


# --- repositories that exist, branches, privacy


def test_publishing_again_removes_what_the_last_one_left(hub, unverified, checkpoint):
    publish(checkpoint, REPO, max_shard_size="20KB")
    HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"old", path_in_repo="pytorch_model.bin")
    HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"old", path_in_repo="old_modeling.py")
    HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"mine", path_in_repo="notes.txt")
    assert len([name for name in hub.files(REPO) if name.endswith(".safetensors")]) > 2
    before = hub.commits(REPO)
    result = publish(checkpoint, REPO)
    assert hub.commits(REPO) == [*before, result.commit]
    files = assert_complete(hub, REPO, checkpoint)
    assert [name for name in files if ".safetensors" in name] == ["model.safetensors"]
    assert files["notes.txt"] == b"mine" and not any(name.endswith(".bin") for name in files)


def test_publishing_the_same_again_makes_no_commit(hub, unverified, checkpoint):
    first = publish(checkpoint, REPO)
    again = publish(checkpoint, REPO)
    assert (again.commit, again.tag) == (first.commit, first.tag) and len(hub.commits(REPO)) == 2


def test_the_tag_names_the_commit_also_if_only_the_card_changes(hub, unverified, checkpoint):
    first = publish(checkpoint, REPO)
    second = publish(checkpoint, REPO, licence="mit")
    assert first.commit != second.commit
    for result in (first, second):
        assert hub.repos[REPO].commit(result.tag).sha == result.commit


def test_branch(hub, unverified, checkpoint):
    result = publish(checkpoint, REPO, revision="dev")
    assert hub.commits(REPO, "dev")[-1] == result.commit and len(hub.commits(REPO, "dev")) == 2
    assert list(hub.files(REPO, "main")) == [".gitattributes"]
    assert_complete(hub, REPO, checkpoint, "dev")
    assert hub.files(REPO, result.tag) == hub.files(REPO, "dev")
    measure(checkpoint, split="validation")
    assert publish(checkpoint, REPO, revision="dev").commit == hub.commits(REPO, "dev")[-1]


def test_private(hub, unverified, checkpoint):
    publish(checkpoint, REPO, private=True)
    assert hub.repos[REPO].private
    measure(checkpoint, split="validation")
    publish(checkpoint, REPO, private=True)
    assert len(hub.commits(REPO)) == 3


def test_a_public_repository_is_not_taken_for_a_private_one(hub, unverified, checkpoint):
    HfApi().create_repo(REPO)
    before = snapshot(hub)
    message = refused(checkpoint, REPO, private=True)
    assert "is public" in message and "Nothing was published" in message
    assert snapshot(hub) == before


def test_a_name_without_its_user(hub, unverified, checkpoint):
    for _ in range(2):
        result = publish(checkpoint, "model")
        assert result.repo_id == REPO
        assert_complete(hub, REPO, checkpoint)
        assert f'"{REPO}"' in result.card
        measure(checkpoint, split="validation")


def test_licence_and_measurements_are_in_the_metadata(hub, unverified, checkpoint):
    publish(checkpoint, REPO, licence="apache-2.0")
    info = HfApi().model_info(REPO)
    assert info.card_data.license == "apache-2.0" and info.pipeline_tag == "image-classification"
    expected = {"Top-1 accuracy": 0.25, "Top-5 accuracy": 0.75, "Cross entropy": 1.5}
    assert figures(hub.files(REPO)) == expected


@pytest.mark.parametrize("repo_id", [REPO, "model"])
def test_dry_run(hub, checkpoint, repo_id):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    result = publish(checkpoint, repo_id, dry_run=True)
    assert hub.requests == [] and hub.repos == {}
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before
    assert (result.repo_id, result.commit, result.max_difference) == (repo_id, "", None)
    assert {"model.safetensors", "config.json", "README.md", "measurements.json", *CODE} <= result.files.keys()
    assert result.files["model.safetensors"] == (checkpoint / "model.safetensors").stat().st_size
    assert "## Measured" in result.card and result.tag in result.card


# --- what is not published


def edit_weights(change):
    def spoil(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        for name in ("measurements.json", "training.json"):
            (folder / name).unlink()

    return spoil


def edit_json(name, change):
    def spoil(folder):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return spoil


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def cut(name):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def fill(value):
    return edit_weights(lambda weights: weights["classifier.bias"].fill_(value))


def without_a_shard(folder):
    shutil.rmtree(folder)
    save_checkpoint(folder, max_shard_size="20KB")
    sorted(folder.glob("*.safetensors"))[1].unlink()


def native_vit(folder):
    shutil.rmtree(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(folder)
    processor().save_pretrained(folder)


def claim(value, split="test", name="Top-1 accuracy", kind="accuracy", dataset="someone/flowers"):
    metric = {"type": kind, "value": value, "name": name}
    result = {"task": {"type": "image-classification"}, "metrics": [metric]}
    result["dataset"] = {"type": dataset, "name": dataset, "split": split}
    data = {"library_name": "transformers", "model-index": [{"name": "mine", "results": [result]}]}
    return f"---\n{yaml.safe_dump(data)}---\n# Mine\n"


def classes(content):
    content["architectures"] = ["DnAViTConfig"]


SPOILT = {
    "no folder": (shutil.rmtree, "there is no such folder"),
    "no config": (remove("config.json"), "no config.json"),
    "damaged config": (write("config.json", "{"), "config.json"),
    "config with a wrong value": (edit_json("config.json", lambda c: c.update(hidden_size="wide")), "hidden_size"),
    "config with sizes that do not fit": (edit_json("config.json", lambda c: c.update(patch_size=7)), "patch_size"),
    "unknown model type": (edit_json("config.json", lambda c: c.update(model_type="dnaa")), "holds a dnaa model"),
    "architecture that is no model": (edit_json("config.json", classes), "DnAViTConfig"),
    "no architecture": (edit_json("config.json", lambda c: c.pop("architectures")), "no DnA model"),
    "no weights": (remove("model.safetensors"), "no weights"),
    "pickled weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "holds its weights as pytorch_model.bin",
    ),
    "missing shard": (without_a_shard, "model-0000"),
    "damaged index": (
        lambda folder: [remove("model.safetensors")(folder), write("model.safetensors.index.json", "{}")(folder)],
        "model.safetensors.index.json of .* is damaged",
    ),
    "cut weights": (cut("model.safetensors"), "'model.safetensors' is damaged or cut off"),
    "empty weights": (write("model.safetensors", ""), "'model.safetensors' is damaged or cut off"),
    "no preprocessor": (remove("preprocessor_config.json"), "preprocessor_config.json"),
    "damaged preprocessor": (write("preprocessor_config.json", "{"), "preprocessor_config.json of .* cannot be used"),
    "NaN": (fill(float("nan")), "'classifier.bias'"),
    "infinity": (fill(float("inf")), "not finite"),
    "missing tensor": (edit_weights(lambda weights: weights.pop("classifier.bias")), "'classifier.bias'"),
    "another tensor": (edit_weights(lambda weights: weights.update(more=torch.zeros(2))), "'more'"),
    "tensor of another shape": (
        edit_weights(lambda weights: weights.update({"classifier.bias": torch.zeros(4)})),
        "classifier.bias",
    ),
    "another model type": (native_vit, "ViTForImageClassification, no DnA model"),
    "measurement of other weights": (
        lambda folder: measure(folder, weights="0" * 64),
        r"measurement on someone/flowers \(test\) belongs to other weights",
    ),
    "training of other weights": (lambda folder: train(folder, weights="0" * 64), "belongs to other weights"),
    "edited measurement": (
        edit_json("measurements.json", lambda content: content[0]["metrics"].update(top1=0.99)),
        "changed by hand",
    ),
    "edited training": (edit_json("training.json", lambda content: content.update(seconds=1)), "changed by hand"),
    "damaged measurements": (write("measurements.json", "[{"), "measurements.json.* is damaged"),
    "damaged training": (write("training.json", "[]"), "training.json.* is damaged"),
    "damaged conversion report": (write("conversion.json", "{"), "conversion.json"),
    "conversion report without a source": (write("conversion.json", "{}"), "conversion.json"),
    "claimed figure": (write("README.md", claim(0.9931)), "claims Top-1 accuracy 0.9931 on someone/flowers"),
    "figure of another split": (write("README.md", claim(0.25, split="validation")), "claims"),
    "figure of another data set": (write("README.md", claim(0.25, dataset="someone/trees")), "claims"),
    "figure of another metric": (write("README.md", claim(0.75)), "claims Top-1 accuracy 0.75"),
    "figure of another kind": (write("README.md", claim(0.25, name="F1", kind="f1")), "claims F1 0.25"),
    "figure in words": (write("README.md", claim("25 %")), "claims"),
    "figures in a table": (write("README.md", claim({"top1": 0.25})), "claims"),
    "wrong model-index": (write("README.md", "---\nmodel-index: [{name: mine}]\n---\n# Mine\n"), "README.md"),
    "broken YAML": (write("README.md", "---\na: [\n---\n# Mine\n"), "README.md"),
    "YAML that is no mapping": (write("README.md", "---\n- a\n---\n# Mine\n"), "README.md"),
    "card that is no text": (lambda folder: (folder / "README.md").write_bytes(b"\xff\xfe"), "README.md"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_refused_before_anything_is_uploaded(hub, checkpoint, name):
    spoilt_is_refused(hub, checkpoint, *SPOILT[name])


def test_a_file_is_no_checkpoint_folder(hub, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is a file: name the folder it lies in" in refused(tmp_path / "file", REPO)
    assert hub.requests == []


@pytest.mark.parametrize("size", ["x", "", "5", "5 apples", "-1GB", "0GB", "1e3MB", "nanKB"])
def test_sizes_that_are_none(hub, size):
    with pytest.raises(PublishError, match=rf"max_shard_size \(--max-shard-size\) is {size!r}: give a size in KB"):
        publish("nowhere", REPO, max_shard_size=size)
    assert hub.requests == []


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "user/", "user/na me", "user/model.git", "-x/y", "user/" + "x" * 97])
def test_names_that_are_none(hub, checkpoint, repo_id):
    assert "is no name of a repository" in refused(checkpoint, repo_id)
    assert hub.requests == []


def test_a_card_of_ones_own_is_kept_if_its_figures_were_measured(hub, unverified, checkpoint):
    (checkpoint / "README.md").write_text(claim(0.25))
    result = publish(checkpoint, REPO)
    assert hub.files(REPO)["README.md"].decode() == result.card == claim(0.25)


def test_a_card_of_ones_own_without_metadata_is_kept(hub, unverified, checkpoint):
    (checkpoint / "README.md").write_text("# Mine\n")
    publish(checkpoint, REPO)
    assert hub.files(REPO)["README.md"] == b"# Mine\n"


# --- tokens


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        (None, REPO, "There is no token"),
        ("hf_wrong", REPO, "refused the token"),
        (FakeHub.read_only_token, REPO, "may not write"),
        (FakeHub.token, "someone/model", "may not write to 'someone/model'"),
    ],
    ids=["none", "wrong", "read only", "foreign name"],
)
@pytest.mark.parametrize("exists", [False, True])
def test_tokens_that_may_not(monkeypatch, hub, checkpoint, token, repo_id, message, exists):
    if exists:
        HfApi().create_repo(REPO)
    before = snapshot(hub)
    monkeypatch.setenv("HF_TOKEN", token or "")
    found = refused(checkpoint, repo_id)
    assert message in found and "Nothing was published." in found and "hf_" not in found
    assert snapshot(hub) == before and hub.slept == []


def test_the_token_of_an_argument_is_the_one_that_counts(monkeypatch, hub, unverified, checkpoint):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    publish(checkpoint, REPO, token=hub.token)
    assert len(hub.commits(REPO)) == 2


def test_offline(monkeypatch, hub, checkpoint):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "offline: unset HF_HUB_OFFLINE" in refused(checkpoint, REPO)
    assert hub.requests == [] and hub.slept == []


def test_no_hub_at_all(monkeypatch, hub, checkpoint):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached" in refused(checkpoint, REPO)
    assert len(hub.slept) == len(uploading.WAITS)


# --- faults


POINTS = {
    "whoami": "GET /api/whoami-v2",
    "create": "POST /api/repos/create",
    "branch": "POST /api/models/.*/branch/",
    "tree": "GET /api/models/.*/tree/",
    "card": "POST /api/validate-yaml",
    "preupload": "POST /api/models/.*/preupload/",
    "lfs": "POST /.*/info/lfs/objects/batch",
    "put": "PUT /lfs/",
    "commit": "POST /api/models/.*/commit/",
    "tag": "POST /api/models/.*/tag/",
}
STATUSES = (409, 412, 429, 500, 503, 0)
# here a conflict says that it is there already
EXISTS = ("create", "branch", "tag")
FAULTS = [(point, status) for point in POINTS for status in STATUSES if not (status == 409 and point in EXISTS)]
# one of each kind everywhere, all kinds where most is at stake
PERMANENT = [fault for fault in FAULTS if fault[0] in ("commit", "put") or fault[1] in (412, 503)]


def existing(hub):
    """A repository with something in it."""
    HfApi().create_repo(REPO)
    HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"old", path_in_repo="old.bin")


@pytest.mark.parametrize(("point", "status"), FAULTS)
def test_a_fault_that_passes(hub, unverified, checkpoint, point, status):
    hub.fail(POINTS[point], status, headers={"Retry-After": "7"} if status == 429 else None)
    result = publish(checkpoint, REPO, revision="dev")
    assert hub.commits(REPO, "dev")[1:] == [result.commit]
    assert hub.repos[REPO].tags.keys() == {result.tag}
    assert_complete(hub, REPO, checkpoint, "dev")
    assert hub.slept == [7.0 if status == 429 else uploading.WAITS[0]]


@pytest.mark.parametrize(
    ("point", "status", "exists"),
    # what exists is not created
    [(*fault, exists) for fault in PERMANENT for exists in (False, True) if not (exists and fault[0] == "create")],
)
def test_a_fault_that_stays(hub, unverified, checkpoint, point, status, exists):
    if exists:
        existing(hub)
    before = snapshot(hub)
    hub.fail(POINTS[point], status, times=99)
    message = refused(checkpoint, REPO, revision=None if point != "branch" else "dev")
    after = snapshot(hub)
    assert ("Nothing was published." in message) == (after == before), message
    assert ("cannot be reached" if status == 0 else f"status {status}") in message
    assert hub.exists(REPO) == exists
    if point != "tag":
        assert after == before
    assert len(hub.slept) == len(uploading.WAITS)


@pytest.mark.parametrize("point", ["commit", "put", "preupload"])
def test_a_refusal_is_not_repeated(hub, unverified, checkpoint, point):
    hub.fail(POINTS[point], 400, times=99)
    assert "status 400" in refused(checkpoint, REPO)
    assert not hub.exists(REPO) and hub.slept == []


@pytest.mark.parametrize("status", [0, 500, 503])
@pytest.mark.parametrize("exists", [False, True])
def test_a_commit_whose_answer_is_lost_is_not_repeated(hub, unverified, checkpoint, status, exists):
    if exists:
        existing(hub)
    before = hub.commits(REPO) if exists else []
    hub.fail(POINTS["commit"], status, when="after")
    result = publish(checkpoint, REPO)
    assert hub.commits(REPO)[len(before) or 1 :] == [result.commit]
    assert_complete(hub, REPO, checkpoint)


@pytest.mark.parametrize("point", ["create", "branch", "tag", "put"])
def test_other_answers_that_are_lost(hub, unverified, checkpoint, point):
    hub.fail(POINTS[point], 0, when="after")
    result = publish(checkpoint, REPO, revision="dev")
    assert hub.commits(REPO, "dev")[1:] == [result.commit]
    assert hub.repos[REPO].tags.keys() == {result.tag}


def test_a_new_repository_goes_also_if_the_answer_to_its_creation_is_lost(hub, unverified, checkpoint):
    hub.fail(POINTS["create"], 0, when="after")
    hub.fail(POINTS["commit"], 500, times=99)
    message = refused(checkpoint, REPO)
    assert not hub.exists(REPO) or "delete it" in message


def test_a_new_repository_that_cannot_be_removed_is_named(hub, unverified, checkpoint):
    hub.fail(POINTS["commit"], 500, times=99)
    hub.fail("DELETE /api/repos/delete", 500, times=99)
    message = refused(checkpoint, "model")
    assert f"{REPO!r} could not be removed" in message and message.endswith("delete it.")


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("method", ["upload", "create_tag"])
def test_interrupted(monkeypatch, hub, unverified, checkpoint, method, exists):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    if exists:
        existing(hub)
    before = snapshot(hub)
    for name in ("upload_folder", "create_commit") if method == "upload" else (method,):
        monkeypatch.setattr(HfApi, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        publish(checkpoint, REPO)
    assert hub.exists(REPO) == exists
    if method == "upload":
        assert snapshot(hub) == before


# --- what was published is looked at


def corrupt(hub):
    """Change one byte of the weights of the last commit."""
    files = hub.repos[REPO].branches["main"].files
    data = bytearray(files["model.safetensors"].data)
    data[-1] ^= 1
    files["model.safetensors"] = type(files["model.safetensors"])(bytes(data), lfs=True)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda hub: hub.truncate("GET .*/resolve/.*/model.safetensors", 99), "does not load"),
        (corrupt, "its weights are not the local ones"),
    ],
    ids=["cut", "corrupted"],
)
def test_what_cannot_be_loaded_again_is_noticed(monkeypatch, hub, checkpoint, fault, message):
    verify = publishing._verify

    def spoil(*arguments):
        fault(hub)
        return verify(*arguments)

    monkeypatch.setattr(publishing, "_verify", spoil)
    found = refused(checkpoint, REPO)
    assert message in found and "was published" in found and hub.commits(REPO)[-1] in found


@pytest.mark.parametrize("stderr", ["", "Traceback ...\n  File\nOSError: it is not there\n"], ids=["silent", "error"])
def test_the_last_words_of_a_process_that_fails_are_passed_on(monkeypatch, hub, checkpoint, stderr):
    hub_is_down = SimpleNamespace(returncode=1, stdout="", stderr=stderr)
    monkeypatch.setattr(publishing, "subprocess", SimpleNamespace(run=lambda *arguments, **options: hub_is_down))
    found = refused(checkpoint, REPO)
    assert "was published, but does not load" in found and hub.commits(REPO)[-1] in found
    assert ("OSError: it is not there" if stderr else "no message") in found


# --- the command line


@pytest.mark.parametrize("token", [None, "hf_wrong"])
def test_commands_without_a_good_token_end_in_one_sentence(monkeypatch, capsys, hub, checkpoint, tmp_path, token):
    monkeypatch.setenv("HF_TOKEN", token or "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SECTIONS))
    before = sorted(tmp_path.iterdir())
    for words in (["publish", str(checkpoint), REPO], ["train", "tiny.yaml", "--push_to_hub"]):
        assert main(words) == 2
        error = capsys.readouterr().err
        sentences = [line for line in error.splitlines() if line.startswith("dna-hf: error: ")]
        assert len(sentences) == 1 and error.splitlines()[-1] == sentences[0]
        assert "token" in sentences[0] and "Traceback" not in error and "hf_wrong" not in error
    # refused before it was trained
    assert sorted(tmp_path.iterdir()) == before and hub.repos == {}


def test_publish_command_dry_run(capsys, hub, checkpoint):
    assert main(["publish", str(checkpoint), REPO, "--dry-run", "--licence", "mit"]) == 0
    printed = capsys.readouterr().out
    assert "license: mit" in printed and "## Measured" in printed and "nothing was uploaded" in printed
    assert hub.requests == []


# arguments: the folder of a checkpoint, an output folder
PLAIN_TRAINER = """
import sys
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments
import dna_hf

checkpoint, output = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(checkpoint)
data = [{"pixel_values": torch.randn(3, 32, 32), "labels": i % 3} for i in range(4)]
arguments = TrainingArguments(
    output, max_steps=1, push_to_hub=True, hub_model_id="user/plain", use_cpu=True, save_strategy="no"
)
processor = AutoImageProcessor.from_pretrained(checkpoint)
trainer = Trainer(model, arguments, train_dataset=data, processing_class=processor)
trainer.train()
trainer.push_to_hub()
"""


def test_the_trainer_of_transformers_pushes_code_and_processor(checkpoint, tmp_path):
    with FakeHub() as hub:
        environment = os.environ | hub.environment(tmp_path / "home", hub.token)
        command = [sys.executable, "-c", PLAIN_TRAINER, str(checkpoint), str(tmp_path / "out")]
        result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-4000:]
        files = hub.files("user/plain")
    assert files.keys() >= CODE | {"model.safetensors", "preprocessor_config.json", "README.md"}
    assert json.loads(files["config.json"])["auto_map"].keys() == AUTO_CLASSES
    for name in CODE:
        assert files[name].decode() == (ROOM / name).read_text()


def test_a_repository_that_somebody_else_made_meanwhile_is_kept(monkeypatch, hub, unverified, checkpoint):
    existing(hub)
    before = snapshot(hub)
    monkeypatch.setattr(HfApi, "repo_exists", lambda *arguments, **options: False)
    hub.fail(POINTS["commit"], 500, times=99)
    assert "Nothing was published." in refused(checkpoint, REPO)
    assert snapshot(hub) == before
