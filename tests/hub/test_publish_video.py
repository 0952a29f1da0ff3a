"""Publishing models of videos: as of images, with their processor and its code. Against a Hub on loopback."""

import json
import re
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from dna_hf import DnATimesformerForVideoClassification, DnATimesformerModel
from dna_hf.cli import main
from dna_hf.data.provenance import DatasetRecord
from dna_hf.hub import publish
from dna_hf.models import DnATimesformerVideoProcessor
from dna_hf.records.checkpoint_records import Measurement, record_measurement
from dna_hf.records.digest import weights_digest
from tests.kit.fake_hub import FakeHub
from tests.kit.fresh_process import run_fresh
from tests.kit.hub_client import COMMON, REPO, client_of, figures, local_weights, refused, run_cli, spoilt_is_refused
from tests.kit.models import action_model
from tests.kit.paths import ROOM
from tests.kit.videos import numbered, write_video


# the package has a function of this name, too
publishing = import_module("dna_hf.hub.publish")
CODE = {
    *("attention_variants.py", "configuration_dna.py", "layers_dna.py"),
    *("configuration_dna_timesformer.py", "modeling_dna_timesformer.py"),
    *("processing_options.py", "video_decoding.py", "video_metadata.py", "video_processing_dna_timesformer.py"),
}
SIZES = {"image_size": 16, "patch_size": 8, "num_frames": 3, "hidden_size": 32, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "intermediate_size": 48}


def processor():
    return DnATimesformerVideoProcessor(
        num_frames=3, sampling="centered", size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16}
    )


def save_checkpoint(folder, model_class=DnATimesformerForVideoClassification, dtype=torch.float32):
    action_model(model_class).to(dtype).save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with FakeHub() as hub, client_of(hub, tmp_path / "client", monkeypatch):
        yield hub


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A Hub with a classifier that was trained with `--push_to_hub`, and a base model in half precision."""
    folder = tmp_path_factory.mktemp("published")
    for split, count in (("train", 2), ("test", 1)):
        for number in range(count):
            for name, frame in (("dark", 0), ("light", 255)):
                (folder / "clips" / split / name).mkdir(parents=True, exist_ok=True)
                write_video(folder / "clips" / split / name / f"{number}.mp4", [numbered(frame)] * 6)
    shutil.copy(folder / "clips" / "test" / "dark" / "0.mp4", folder / "video.mp4")
    sections = {
        "model": {"model_type": "dna_timesformer", **SIZES},
        "data": {"dataset": str(folder / "clips"), "eval_split": "test"},
        "training": {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": "none"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(sections))
    facts = SimpleNamespace(folder=folder, local={"user/run": folder / "runs" / "tiny"}, results={})
    with FakeHub() as hub:
        facts.hub = hub
        words = ("train", "tiny.yaml", "--push_to_hub", "--hub_model_id", "user/run", "--hub_token", hub.token)
        facts.run = run_cli(hub, folder, *words)
        with client_of(hub, folder / "client"):
            facts.local["user/base"] = save_checkpoint(folder / "base", DnATimesformerModel, torch.bfloat16)
            facts.results["user/base"] = publish(folder / "base", "user/base", max_shard_size="20KB")
        yield facts


def test_published_repositories_are_complete(published):
    assert published.run.returncode == 0, published.run.stderr
    assert "differs by" in published.run.stdout
    for repo_id, local in published.local.items():
        files = published.hub.files(repo_id)
        assert {name for name in files if name.endswith(".py")} == CODE
        for name in CODE:
            assert files[name] == (ROOM / name).read_bytes()
        assert "preprocessor_config.json" not in files
        assert files["video_preprocessor_config.json"] == (local / "video_preprocessor_config.json").read_bytes()
        auto_map = json.loads(files["config.json"])["auto_map"]
        assert auto_map.keys() == {"AutoConfig", "AutoModel", "AutoModelForVideoClassification"}
        [tag] = published.hub.repos[repo_id].tags
        assert f'"{tag}"' in files["README.md"].decode()
    assert len([name for name in published.hub.files("user/base") if name.endswith(".safetensors")]) > 2
    assert published.results["user/base"].max_difference <= 1e-6


def test_the_card_states_what_was_measured_and_how_videos_are_read(published):
    files, local = published.hub.files("user/run"), published.local["user/run"]
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "video-classification")
    measured = json.loads((local / "eval_results.json").read_text())
    names = {
        **{"Top-1 accuracy": "eval_top1", "Top-5 accuracy": "eval_top5"},
        **{"Mean class accuracy": "eval_mean_class_accuracy", "Cross entropy": "eval_loss"},
    }
    assert figures(files) == {name: measured[key] for name, key in names.items()}
    for key, text in DnATimesformerVideoProcessor.from_pretrained(local).describe().items():
        assert f"| {key} | {text} |" in card.text
    assert "views of each: 1 over time x 1 over space" in card.text and "2 samples of `clips`" in card.text
    base = ModelCard(published.hub.files("user/base")["README.md"].decode())
    assert base.data.pipeline_tag is None and "AutoVideoProcessor.from_pretrained" in base.text


# arguments: a file with snippets of cards; one with [repository, commit, Auto class, expected tensors]
PULL = """
import json
import torch, transformers
from safetensors.torch import load_file
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

for snippet in json.load(open(sys.argv[1])):
    exec(snippet, {})
for repo, revision, auto_class, expected in json.load(open(sys.argv[2])):
    expected, options = load_file(expected), {"revision": revision, "trust_remote_code": True}
    pixel_values, output = expected.pop("pixel_values"), expected.pop("output")
    model = getattr(transformers, auto_class).from_pretrained(repo, **options).eval()
    processor = AutoVideoProcessor.from_pretrained(repo, **options)
    for each in (model, processor):
        assert type(each).__module__.startswith("transformers_modules."), type(each)
    weights = model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert torch.equal(processor("video.mp4").pixel_values, pixel_values)
    with torch.no_grad():
        found = model.float()(pixel_values)[0]
    assert (found - output).abs().max() <= 1e-6
    if auto_class == "AutoModelForVideoClassification":
        classify = transformers.pipeline("video-classification", model=repo, device="cpu", **options)
        scores = {entry["label"]: entry["score"] for entry in classify("video.mp4")}
        for index, score in enumerate(found.softmax(-1)[0].tolist()):
            assert abs(scores[model.config.id2label[index]] - score) < 1e-5
assert "dna_hf" not in sys.modules and "torchvision" not in sys.modules
print("all is well")
"""


def test_others_load_it_by_name_and_from_their_cache(published, tmp_path):
    """By the snippets of the cards, and number by number; then without the Hub."""
    clip, models, snippets = shutil.copy(published.folder / "video.mp4", tmp_path), [], []
    classes = {"user/run": DnATimesformerForVideoClassification, "user/base": DnATimesformerModel}
    for repo_id, model_class in classes.items():
        local = published.local[repo_id]
        pixel_values = DnATimesformerVideoProcessor.from_pretrained(local)(clip).pixel_values
        with torch.no_grad():
            output = model_class.from_pretrained(local).eval().float()(pixel_values)[0]
        expected = tmp_path / f"{model_class.__name__}.safetensors"
        tensors = {"pixel_values": pixel_values.contiguous(), "output": output.contiguous()}
        save_file(local_weights(local) | tensors, expected)
        auto_class = "AutoModel" if model_class is DnATimesformerModel else "AutoModelForVideoClassification"
        models.append([repo_id, published.hub.commits(repo_id)[-1], auto_class, str(expected)])
        card = published.hub.files(repo_id)["README.md"].decode()
        snippets += re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 3
    (tmp_path / "snippets.json").write_text(json.dumps(snippets))
    (tmp_path / "models.json").write_text(json.dumps(models))
    environment = published.hub.environment(tmp_path / "home", published.hub.read_only_token)
    for offline in ("0", "1"):
        published.hub.requests.clear()
        printed = run_fresh(
            PULL,
            tmp_path,
            *(tmp_path / name for name in ("snippets.json", "models.json")),
            cwd=tmp_path,
            environment=environment | {"HF_HUB_OFFLINE": offline},
        )
        assert "all is well" in printed
        assert bool(published.hub.requests) == (offline == "0")


def measure(folder, views):
    facts = {"task": "video-classification", "dataset": DatasetRecord("clips"), "split": "test", "samples": 4}
    facts |= {"metrics": {"top1": 0.5}, "weights": weights_digest(load_file(folder / "model.safetensors"))}
    record_measurement(folder, Measurement(**COMMON | facts, views=views))


def test_dry_run(hub, checkpoint):
    measure(checkpoint, "1 over time x 3 over space, logits added")
    result = publish(checkpoint, REPO, dry_run=True)
    assert hub.requests == [] and hub.repos == {}
    assert CODE | {"video_preprocessor_config.json", "README.md", "model.safetensors"} <= result.files.keys()
    assert "views of each: 1 over time x 3 over space, logits added" in result.card


def edited_views(folder):
    measure(folder, "1 over time x 1 over space")
    path = folder / "measurements.json"
    path.write_text(path.read_text().replace("x 1 over", "x 3 over"))


def infinite(folder):
    weights = load_file(folder / "model.safetensors")
    weights["dna_timesformer.embeddings.time_embeddings"][0, 0, 0] = torch.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


SPOILT = {
    "no processor": (
        lambda folder: (folder / "video_preprocessor_config.json").unlink(),
        "no video_preprocessor_config.json: save the processor of the video classifier",
    ),
    "an image processor instead": (
        lambda folder: (folder / "video_preprocessor_config.json").rename(folder / "preprocessor_config.json"),
        "no video_preprocessor_config.json",
    ),
    "damaged processor": (
        lambda folder: (folder / "video_preprocessor_config.json").write_text("{"),
        "video_preprocessor_config.json of .* cannot be used",
    ),
    "infinity": (infinite, "time_embeddings.* not finite"),
    "other weights": (lambda folder: [measure(folder, None), infinite(folder)], "not finite"),
    "edited views": (edited_views, "changed by hand"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_refused_before_anything_is_uploaded(hub, checkpoint, name):
    spoilt_is_refused(hub, checkpoint, *SPOILT[name])


def test_what_loads_but_computes_something_else_is_noticed(monkeypatch, hub, checkpoint):
    """The published code is changed on its way: the random video comes out differently."""
    verify = publishing._verify

    def spoil(*arguments):
        files = hub.repos[REPO].branches["main"].files
        stored = files["modeling_dna_timesformer.py"]
        text = stored.data.decode()
        assert "self.classifier(" in text
        files["modeling_dna_timesformer.py"] = type(stored)(
            text.replace("self.classifier(", "2 * self.classifier(").encode()
        )
        return verify(*arguments)

    monkeypatch.setattr(publishing, "_verify", spoil)
    assert "was published, but computes something else" in refused(checkpoint, REPO)


def test_publish_command(hub, checkpoint, capsys, monkeypatch):
    # what is published by a run is loaded again, see above
    monkeypatch.setattr(publishing, "_verify", lambda *arguments: 0.0)
    assert main(["publish", str(checkpoint), REPO, "--licence", "mit"]) == 0
    printed = capsys.readouterr().out
    assert "differs by" in printed and "video_preprocessor_config.json" in printed
    assert Path(checkpoint, "video_preprocessor_config.json").is_file()
    assert ModelCard(hub.files(REPO)["README.md"].decode()).data.license == "mit"
