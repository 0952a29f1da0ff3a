"""Checkpoints carry their code: the files that travel stay closed, and load where this package is not installed."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

import dna_hf
from dna_hf.models import (
    DnATimesformerForVideoClassification,
    DnATimesformerModel,
    DnAVideoLlama3VisionConfig,
    DnAVideoLlama3VisionModel,
    DnAViTBackbone,
    DnAViTForImageClassification,
    DnAViTForMaskedImageModeling,
    DnAViTModel,
)
from tests.kit.fresh_process import run_fresh
from tests.kit.models import action_model, animal_model, moved


ROOM = Path(dna_hf.__file__).parent / "models"
PUBLISHED = sorted(path for path in ROOM.rglob("*.py") if path != ROOM / "__init__.py")
# of every model
SHARED_CODE = {"attention_variants.py", "configuration_dna.py", "layers_dna.py"}
VIT_CODE = SHARED_CODE | {"configuration_dna_vit.py", "modeling_dna_vit.py"}
TIMESFORMER_CODE = SHARED_CODE | {"configuration_dna_timesformer.py", "modeling_dna_timesformer.py"}
VIDEO_LLAMA3_CODE = SHARED_CODE | {"configuration_dna_video_llama3.py", "modeling_dna_video_llama3.py"}
VIDEO_PROCESSOR_CODE = {"processing_options.py", "video_decoding.py", "video_metadata.py"}
VIDEO_PROCESSOR_CODE |= {"video_processing_dna_timesformer.py"}
VIDEO_LLAMA3_PROCESSOR_CODE = {
    "chat_dna_video_llama3.py",
    "image_depth.py",
    "image_processing_dna_video_llama3.py",
    "placeholders_dna_video_llama3.py",
    "processing_dna_video_llama3.py",
    "processing_options.py",
    "video_decoding.py",
    "video_inputs.py",
    "video_metadata.py",
    "video_processing_dna_video_llama3.py",
}
VIT_AUTO_MAP = {
    "AutoConfig": "configuration_dna_vit.DnAViTConfig",
    "AutoModel": "modeling_dna_vit.DnAViTModel",
    "AutoModelForImageClassification": "modeling_dna_vit.DnAViTForImageClassification",
    "AutoModelForMaskedImageModeling": "modeling_dna_vit.DnAViTForMaskedImageModeling",
    "AutoBackbone": "modeling_dna_vit.DnAViTBackbone",
}
TIMESFORMER_AUTO_MAP = {
    "AutoConfig": "configuration_dna_timesformer.DnATimesformerConfig",
    "AutoModel": "modeling_dna_timesformer.DnATimesformerModel",
    "AutoModelForVideoClassification": "modeling_dna_timesformer.DnATimesformerForVideoClassification",
}
ALLOWED = sys.stdlib_module_names | {"torch", "transformers", "huggingface_hub"}
# where it is missing, transformers loads a file all the same if the import stands in `try`
OPTIONAL = {"av", "numpy", "PIL"}


# --- the rules that the files obey


def forbidden_imports(source, siblings):
    """Imports that do not survive the copy into a checkpoint folder, in words."""
    found, relative_lines = [], set()
    tree = ast.parse(source)
    tried = {child for node in ast.walk(tree) if isinstance(node, ast.Try) for child in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            allowed = ALLOWED | OPTIONAL if node in tried else ALLOWED
            roots = [alias.name.partition(".")[0] for alias in node.names]
            found += [f"import {root}" for root in roots if root not in allowed]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module.partition(".")[0] not in ALLOWED:
                found.append(f"from {node.module} import ...")
        elif isinstance(node, ast.ImportFrom):
            relative_lines.add(node.lineno)
            if node.level > 1 or node.module is None or node.module not in siblings:
                found.append(f"from {'.' * node.level}{node.module or ''} import ...")
    # transformers looks for relative imports with a regular expression, which text can match, too
    for number, line in enumerate(source.splitlines(), start=1):
        if re.match(r"\s*from\s+\.\S*\s+import", line) and number not in relative_lines:
            found.append(f"line {number} reads as an import: {line.strip()}")
    return found


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_published_files_import_only_what_travels(path):
    assert not forbidden_imports(path.read_text(), {other.stem for other in PUBLISHED})


@pytest.mark.parametrize(
    "line",
    [
        "import numpy",
        "import dna_hf",
        "import torchvision.transforms",
        "from dna_hf.models import configuration_dna_vit",
        "from . import sibling",
        "from .. import data",
        "from ..data import images",
        "from .missing import Name",
        "from .sibling.inner import Name",
        "try:\n    import timm\nexcept ImportError:\n    pass",
        '"""Use it so:\n\n    from .sibling import Name\n"""',
    ],
)
def test_the_rules_notice(line):
    assert forbidden_imports(line, {"sibling"})
    assert not forbidden_imports(
        "import math\nfrom torch import nn\nfrom .sibling import (\n    Name,\n)", {"sibling"}
    )


def test_published_files_are_flat_and_have_unique_names():
    processors = VIDEO_PROCESSOR_CODE | VIDEO_LLAMA3_PROCESSOR_CODE
    assert {path.name for path in PUBLISHED} == VIT_CODE | TIMESFORMER_CODE | VIDEO_LLAMA3_CODE | processors
    assert all(path.parent == ROOM for path in PUBLISHED)
    assert len({path.name.lower() for path in PUBLISHED}) == len(PUBLISHED)


# --- checkpoints


def save_checkpoint(model_class, folder):
    """Save a small model with random weights, an image and what the model makes of it; returns the folder."""
    model = animal_model(model_class, out_indices=[1, 2])
    pixel_values = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output = model(pixel_values)
    model.save_pretrained(folder / "checkpoint")
    image_processor().save_pretrained(folder / "checkpoint")
    first = output.feature_maps[0] if model_class is DnAViTBackbone else output[0]
    save_file({"pixel_values": pixel_values, "output": first.contiguous()}, folder / "expected.safetensors")
    return folder / "checkpoint"


def image_processor():
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": 32, "width": 32})


def assert_complete(folder, code=VIT_CODE, auto_map=VIT_AUTO_MAP):
    """A checkpoint folder has the code and points to its own copy."""
    assert {path.name for path in folder.glob("*.py")} == code
    for name in code:
        assert (folder / name).read_text() == (ROOM / name).read_text()
    assert json.loads((folder / "config.json").read_text())["auto_map"] == auto_map


# arguments: the checkpoint, the expected output, the Auto class of the checkpoint, a folder to save to
LOAD = """
import sys
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoBackbone, AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification,
    AutoModelForMaskedImageModeling, pipeline,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

checkpoint, expected, saved_as, again = sys.argv[1:]
saved, expected = load_file(checkpoint + "/model.safetensors"), load_file(expected)

def without_prefix(weights):
    return {name.removeprefix("dna_vit."): tensor for name, tensor in weights.items()}

def load(auto_class, folder):
    if auto_class is AutoBackbone:  # its from_pretrained does not take local folders, whatever the model
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        model = AutoBackbone.from_config(config, trust_remote_code=True)
        weights = without_prefix(load_file(folder + "/model.safetensors"))
        weights = {"dna_vit." + name: tensor for name, tensor in weights.items()}
        model.load_state_dict(weights, strict=saved_as in ("AutoModel", "AutoBackbone"))
        return model.eval()
    return auto_class.from_pretrained(folder, trust_remote_code=True).eval()

def check(model, is_saved_class):
    weights = model.state_dict()
    if is_saved_class:
        assert weights.keys() == saved.keys()
    weights, reference = without_prefix(weights), without_prefix(saved)
    shared = weights.keys() & reference.keys()
    assert len(shared) > 30
    for name in shared:
        assert torch.equal(weights[name], reference[name]), name
    with torch.no_grad():
        output = model(expected["pixel_values"])
    output = output.feature_maps[0] if type(model).__name__ == "DnAViTBackbone" else output[0]
    if is_saved_class:
        assert (output - expected["output"]).abs().max() <= 1e-6

config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
assert type(config).__name__ == "DnAViTConfig" and config.model_type == "dna_vit"
autos = [AutoModel, AutoModelForImageClassification, AutoModelForMaskedImageModeling, AutoBackbone]
models = {auto.__name__: load(auto, checkpoint) for auto in autos}
for name, model in models.items():
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    check(model, name == saved_as)

# attention implementations and both maps, from the copied code
model = models["AutoModelForImageClassification"]
model.set_attn_implementation("eager")
output = model(expected["pixel_values"], output_attentions=True)
assert len(output.attentions) == len(output.negative_attentions) == 2

try:
    processor, options = AutoImageProcessor.from_pretrained(checkpoint), {}
except ImportError as error:  # before transformers 5.23 it needs torchvision, whatever the processor needs
    assert "Torchvision" in str(error), error
    processor = ViTImageProcessorPil.from_pretrained(checkpoint)
    options = {"image_processor": processor}
image = Image.new("RGB", (50, 40), (200, 30, 90))
pixel_values = processor(image, return_tensors="pt").pixel_values
assert pixel_values.shape == (1, 3, 32, 32)
if saved_as == "AutoModelForImageClassification":
    classify = pipeline("image-classification", model=checkpoint, trust_remote_code=True, device="cpu", **options)
    result = classify(image, top_k=3)
    probabilities = model(pixel_values).logits.softmax(-1)[0]
    assert {entry["label"] for entry in result} == {"cat", "dog", "bird"}
    for entry in result:
        assert abs(entry["score"] - probabilities[model.config.label2id[entry["label"]]].item()) < 1e-5

# saved again by the class from the checkpoint, and loaded again from there
auto = next(auto for auto in autos if auto.__name__ == saved_as)
models[saved_as].save_pretrained(again)
check(load(auto, again), True)
assert "dna_hf" not in sys.modules
print("all is well")
"""


@pytest.mark.parametrize(
    ("auto_class", "model_class"),
    {
        "AutoModel": DnAViTModel,
        "AutoModelForImageClassification": DnAViTForImageClassification,
        "AutoModelForMaskedImageModeling": DnAViTForMaskedImageModeling,
        "AutoBackbone": DnAViTBackbone,
    }.items(),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_checkpoint_loads_without_the_package(tmp_path, auto_class, model_class):
    checkpoint = save_checkpoint(model_class, tmp_path)
    assert_complete(checkpoint)
    again = tmp_path / "again"
    output = run_fresh(LOAD, tmp_path, checkpoint, tmp_path / "expected.safetensors", auto_class, again)
    assert "all is well" in output
    assert_complete(again)


# arguments: the checkpoint, the expected output, the Auto class of the checkpoint, a folder to save to
LOAD_VIDEO = """
import sys
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification

checkpoint, expected, saved_as, again = sys.argv[1:]
saved, expected = load_file(checkpoint + "/model.safetensors"), load_file(expected)
autos = {auto.__name__: auto for auto in (AutoModel, AutoModelForVideoClassification)}

def without_prefix(weights):
    return {name.removeprefix("dna_timesformer."): tensor for name, tensor in weights.items()}

def load(name, folder):
    model = autos[name].from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    weights, reference = without_prefix(model.state_dict()), without_prefix(saved)
    shared = weights.keys() & reference.keys()
    assert len(shared) > 60
    assert {name for name in weights if name not in shared} <= {"classifier.weight", "classifier.bias"}
    for key in shared:
        assert torch.equal(weights[key], reference[key]), key
    if name == saved_as:
        assert len(shared) == len(saved) == len(weights)
        with torch.no_grad():
            assert (model(expected["pixel_values"])[0] - expected["output"]).abs().max() <= 1e-6
    return model

config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
assert type(config).__name__ == "DnATimesformerConfig" and config.model_type == "dna_timesformer"
assert config.id2label == {0: "fall", 1: "walk", 2: "sit"}
models = {name: load(name, checkpoint) for name in autos}

# attention implementations and all maps, from the copied code
model = models["AutoModelForVideoClassification"]
maps = model.attention_maps(pixel_values=expected["pixel_values"])
assert len(maps.positive) == len(maps.negative) == 4
model.set_attn_implementation("eager")
output = model(expected["pixel_values"], output_attentions=True)
for kind in ("attentions", "negative_attentions", "temporal_attentions", "negative_temporal_attentions"):
    assert len(output[kind]) == 2, kind

# a fresh model of the copied code has no temporal branch either, and trains
fresh = AutoModelForVideoClassification.from_config(config, trust_remote_code=True).train()
dense = [module for name, module in fresh.named_modules() if name.endswith("temporal_dense")]
assert len(dense) == 2 and not any(module.weight.any() or module.bias.any() for module in dense)
fresh(expected["pixel_values"], labels=torch.tensor([0, 2])).loss.backward()
assert all(module.weight.grad.any() for module in dense)

# saved again by the class from the checkpoint, and loaded again from there
models[saved_as].save_pretrained(again)
load(saved_as, again)
assert "dna_hf" not in sys.modules
print("all is well")
"""


@pytest.mark.parametrize(
    ("auto_class", "model_class"),
    {
        "AutoModel": DnATimesformerModel,
        "AutoModelForVideoClassification": DnATimesformerForVideoClassification,
    }.items(),
    ids=lambda value: getattr(value, "__name__", value),
)
def test_video_checkpoint_loads_without_the_package(tmp_path, auto_class, model_class):
    model = action_model(model_class)
    pixel_values = torch.randn(2, 3, 3, 16, 16)
    with torch.no_grad():
        output = model(pixel_values)[0].contiguous()
    checkpoint, again = tmp_path / "checkpoint", tmp_path / "again"
    model.save_pretrained(checkpoint)
    save_file({"pixel_values": pixel_values, "output": output}, tmp_path / "expected.safetensors")
    assert_complete(checkpoint, TIMESFORMER_CODE, TIMESFORMER_AUTO_MAP)
    printed = run_fresh(LOAD_VIDEO, tmp_path, checkpoint, tmp_path / "expected.safetensors", auto_class, again)
    assert "all is well" in printed
    assert_complete(again, TIMESFORMER_CODE, TIMESFORMER_AUTO_MAP)


# arguments: the checkpoint, the expected output, a folder to save to
LOAD_VISION_ENCODER = """
import sys
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

checkpoint, expected, again = sys.argv[1:]
saved, expected = load_file(checkpoint + "/model.safetensors"), load_file(expected)
inputs = {name: expected[name] for name in ("pixel_values", "grid_thw", "merge_sizes")}

def load(folder):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert model.state_dict().keys() == saved.keys()
    for name, tensor in saved.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    with torch.no_grad():
        output = model(**inputs)
    assert (output.last_hidden_state - expected["features"]).abs().max() <= 1e-6
    assert (output.probe_hidden_states - expected["probes"]).abs().max() <= 1e-6
    return model

config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
assert type(config).__name__ == "DnAVideoLlama3VisionConfig" and config.interaction_layers == [1]
model = load(checkpoint)
maps = model.attention_maps(**inputs)
assert len(maps.positive) == len(maps.negative) == 1

# a fresh model of the copied code has its own initial values, and trains
fresh = AutoModel.from_config(config, trust_remote_code=True).train()
assert 0.01 < fresh.encoder.visual_probes.std() < 0.03
assert (fresh.encoder.interaction_modules[0].attention.negative_scale == 0.25).all()
fresh(**inputs).probe_hidden_states.sum().backward()
assert fresh.encoder.visual_probes.grad.any()

model.save_pretrained(again)
load(again)
assert "dna_hf" not in sys.modules
print("all is well")
"""


def test_vision_encoder_loads_without_the_package(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"patch_size": 4, "num_probes": 16}
    config = DnAVideoLlama3VisionConfig(**sizes, interaction_layers=[1], negative_scale_init=0.25)
    model = moved(DnAVideoLlama3VisionModel(config))
    inputs = {
        "pixel_values": torch.randn(20, 48),
        "grid_thw": torch.tensor([[2, 2, 4], [1, 2, 2]]),
        "merge_sizes": torch.tensor([2, 1]),
    }
    with torch.no_grad():
        output = model(**inputs)
    checkpoint, again = tmp_path / "checkpoint", tmp_path / "again"
    model.save_pretrained(checkpoint)
    outputs = {"features": output.last_hidden_state, "probes": output.probe_hidden_states}
    save_file(inputs | outputs, tmp_path / "expected.safetensors")
    code = (VIDEO_LLAMA3_CODE, DnAVideoLlama3VisionConfig.auto_classes)
    assert_complete(checkpoint, *code)
    printed = run_fresh(LOAD_VISION_ENCODER, tmp_path, checkpoint, tmp_path / "expected.safetensors", again)
    assert "all is well" in printed
    assert_complete(again, *code)


# arguments: the checkpoint, whose code leaves a mark when it is run
REFUSE = """
import sys
from pathlib import Path
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, pipeline

checkpoint, mark = sys.argv[1:]
attempts = [
    lambda: AutoConfig.from_pretrained(checkpoint),
    lambda: AutoModel.from_pretrained(checkpoint),
    lambda: AutoModelForImageClassification.from_pretrained(checkpoint, trust_remote_code=False),
    lambda: pipeline("image-classification", model=checkpoint),
]
for attempt in attempts:
    try:
        attempt()
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError("loaded without consent")
assert not Path(mark).exists()
AutoConfig.from_pretrained(checkpoint, trust_remote_code=True)
assert Path(mark).exists()
print("all is well")
"""


def test_code_is_not_run_without_consent(tmp_path):
    checkpoint = save_checkpoint(DnAViTForImageClassification, tmp_path)
    mark = tmp_path / "mark"
    for name in VIT_CODE:
        with (checkpoint / name).open("a") as file:
            file.write(f"\n\nopen({str(mark)!r}, 'w').close()\n")
    assert "all is well" in run_fresh(REFUSE, tmp_path, checkpoint, mark)


@pytest.mark.parametrize(
    "loader", [DnAViTForImageClassification, AutoModelForImageClassification], ids=["own", "auto"]
)
def test_saving_what_came_from_another_repository(tmp_path, loader):
    checkpoint = save_checkpoint(DnAViTForImageClassification, tmp_path)
    for name in VIT_CODE:
        (checkpoint / name).unlink()
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"] = {name: f"someone/repo--{target}" for name, target in VIT_AUTO_MAP.items()}
    (checkpoint / "config.json").write_text(json.dumps(config))

    model = loader.from_pretrained(checkpoint)
    assert type(model) is DnAViTForImageClassification
    model.save_pretrained(tmp_path / "again")
    assert_complete(tmp_path / "again")
    weights = load_file(checkpoint / "model.safetensors")
    for name, tensor in load_file(tmp_path / "again" / "model.safetensors").items():
        assert torch.equal(tensor, weights[name])


def test_saving_over_a_checkpoint_of_another_head_keeps_it_complete(tmp_path):
    checkpoint = save_checkpoint(DnAViTForMaskedImageModeling, tmp_path)
    DnAViTForImageClassification.from_pretrained(checkpoint).save_pretrained(checkpoint)
    assert_complete(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["architectures"] == ["DnAViTForImageClassification"]


def test_importing_the_package_is_light():
    # not accelerate, scipy, pandas and scikit-learn: transformers itself imports those it finds, for any model
    heavy = (
        "datasets",
        "evaluate",
        "transformers.trainer",
        "transformers.pipelines",
        "peft",
        "matplotlib",
        "timm",
        "PIL.ImageFilter",
        "PIL.ImageDraw",
        "dna_hf.data",
        "dna_hf.training",
        "dna_hf.evaluation",
    )
    script = f"import sys, dna_hf; print([name for name in {heavy} if name in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(ROOM.parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.strip() == "[]"
