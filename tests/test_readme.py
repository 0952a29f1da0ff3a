"""What the README says holds."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from dna_hf import DnAViTConfig, DnAViTForImageClassification, recipes
from dna_hf.recipes import find
from tests.kit.command_line import run_cli
from tests.kit.fake_hub import FakeHub
from tests.kit.fresh_process import run_fresh
from tests.kit.hub_client import client_of
from tests.kit.paths import ROOT
from tests.kit.video_llm import tiny_model, tiny_processor
from tests.kit.videos import numbered, write_video


README = (ROOT / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \| ([\d.]+) G \|$", README, flags=re.MULTILINE)


def test_all_variants_are_in_the_table():
    assert [row[0] for row in ROWS] == ["softmax", "dna", "dna_shared_value", "differential", "cog"]


@pytest.mark.parametrize(("variant", "parameters", "macs"), ROWS, ids=[row[0] for row in ROWS])
def test_table_of_variants(variant, parameters, macs):
    with torch.device("meta"):
        model = DnAViTForImageClassification(DnAViTConfig(attention_variant=variant, num_labels=1000)).eval()
        model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, 224, 224))
    assert f"{model.num_parameters():,}" == parameters
    assert f"{counter.get_total_flops() / 2e9:.2f}" == macs


def run(command, folder, **environment):
    """Run a command in a folder; returns what it printed."""
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, timeout=600, env=os.environ | environment
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def snippet(start):
    """The Python snippet that begins so."""
    (found,) = [text for text in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if text.startswith(start)]
    return found


def test_snippets_of_a_conversion_and_of_a_fresh_model(tmp_path):
    texts = [snippet("from transformers import ViTConfig"), snippet("import torch\nfrom dna_hf")]
    # each with names of its own
    script = "\n".join(f"exec({text!r}, {{}})" for text in texts)
    difference, copied, new, *shapes = run([sys.executable, "-c", script], tmp_path).split(maxsplit=3)
    assert float(difference) <= 1e-5
    assert int(copied) > 100
    assert int(new) == 12 * 5
    assert shapes[0].count("torch.Size([1, 4, 17, 17])") == 2


def test_snippet_of_a_video_language_model(tmp_path):
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    write_video(tmp_path / "clip.mp4", [numbered(frame) for frame in (10, 120)] * 30)
    script = f"import os\nos.chdir({str(tmp_path)!r})\nfolder = 'model'\n" + snippet(
        "from transformers import AutoModelForImageTextToText"
    )
    assert run_fresh(script + "\nprint('all is well')", tmp_path).endswith("all is well\n")


@pytest.fixture
def hub(tmp_path):
    """A Hub that has a small model of random weights under the name of DINOv2-small."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, image_size=70, patch_size=14
    )
    folder = tmp_path / "dinov2-small"
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}).save_pretrained(folder)
    with FakeHub() as hub:
        hub.add("facebook/dinov2-small", folder)
        yield hub


def test_convert_train_publish_load(tmp_path, hub):
    """The commands of the README, one after the other, with smaller data and another user."""
    (block,) = re.findall(r"```bash\n(dna-hf convert facebook.*?)```", README, flags=re.DOTALL)
    commands = [shlex.split(line.replace("your-name/", "user/")) for line in block.strip().splitlines()]
    assert [command[1] for command in commands] == ["convert", "train", "publish"]
    small = {"dataset": "fashion-mnist-mini", "max_train_samples": 40, "max_eval_samples": 20, "num_train_epochs": 1}
    commands[1] += [word for key, value in small.items() for word in (f"--{key}", str(value))]
    folder = tmp_path / "work"
    folder.mkdir()
    with client_of(hub, tmp_path / "mine"):
        for command in commands:
            done = run_cli(*command[1:], cwd=folder)
            assert done.returncode == 0, done.stderr[-3000:]

    Image.new("RGB", (40, 30), (200, 30, 90)).save(folder / "picture.png")
    # the reader of the published model has neither dna-hf nor a token
    script = "import sys; sys.modules['dna_hf'] = None\n" + snippet("from transformers import pipeline")
    output = run(
        [sys.executable, "-c", script.replace("your-name/", "user/")], folder, **hub.environment(tmp_path / "theirs")
    )
    assert output.count("'label'") == 5
    card = hub.files("user/dinov2-small-dna-cifar10")["README.md"].decode()
    assert "license: apache-2.0" in card
    assert "base_model: facebook/dinov2-small" in card


@pytest.mark.parametrize("command", sorted(set(re.findall(r"scripts/\w+\.(?:sh|py)|configs/\w+\.yaml", README))))
def test_files_that_are_named_exist(command):
    assert (ROOT / command).is_file()


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = sorted(
    {
        (path.name, name)
        for path in DOCUMENTS
        for name in re.findall(r"(?:dna-hf|dna_hf) (?:train|compare|recipes) ([a-z][\w/.]*)", path.read_text())
    }
)


@pytest.mark.parametrize(("document", "name"), NAMED)
def test_recipes_that_are_named_exist(document, name):
    assert find(name).is_relative_to(recipes.folder()), document


def test_recipes_are_named():
    assert len(NAMED) > 10
