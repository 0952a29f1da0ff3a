"""Importing the package costs nothing, and yet the Auto classes know its models, in whatever order one imports."""

import subprocess
import sys

import pytest


KNOWN = "from transformers import AutoConfig\nassert AutoConfig.for_model('dna_vit').model_type == 'dna_vit'\n"
# two threads that import transformers in the same moment can miss its names, with or without this package: the others
# come when its names are there, but our models are not registered yet
THREADS = """
import sys, threading, time, dna_hf
failures = []

def work(number):
    while number and type(sys.modules.get("transformers")).__name__ != "_LazyModule":
        time.sleep(0.001)
    try:
        if number == 1:
            from dna_hf import DnAViTModel
        from transformers import AutoConfig
        AutoConfig.for_model("dna_vit")
    except BaseException as error:
        failures.append(repr(error))

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failures, failures
"""
ORDERS = {
    "ours, theirs": "import dna_hf\n" + KNOWN,
    "theirs, ours": "import transformers, dna_hf\n" + KNOWN,
    "a name of ours": "from dna_hf import DnAViTConfig\n" + KNOWN + "assert DnAViTConfig in map(type, "
    "[AutoConfig.for_model('dna_vit')])",
    # others look for transformers before they import it, and import it while they are imported
    "found before": "import dna_hf, importlib.util, peft\nassert importlib.util.find_spec('transformers')\n" + KNOWN,
    "threads": THREADS,
}


def run(script):
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("order", ORDERS)
def test_the_auto_classes_know_our_models(order):
    left = "\nimport sys\nassert not [finder for finder in sys.meta_path if type(finder).__module__ == 'dna_hf']"
    run(ORDERS[order] + left)


def test_importing_the_package_imports_nothing_heavy():
    heavy = run("import sys, dna_hf\nprint({'torch', 'transformers', 'numpy', 'datasets'} & set(sys.modules))")
    assert heavy.strip() == "set()"


def test_names_are_listed_and_unknown_ones_refused():
    run(
        "import dna_hf\n"
        "assert set(dna_hf.__all__) <= set(dir(dna_hf)) and 'models' in dir(dna_hf)\n"
        "from dna_hf import *\n"
        "assert DnAViTModel is dna_hf.models.DnAViTModel and dna_hf.__version__ == __version__\n"
        "assert not hasattr(dna_hf, 'DnAViTMoodel')\n"
    )


# a machine without the libraries that only data sets, videos, measures and figures need
WITHOUT_LIBRARIES = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = name.partition(".")[0] in {"datasets", "evaluate", "dill", "multiprocess", "av", "matplotlib"}
        return None if missing else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
# all but the metrics, which are modules for `evaluate`, and a plug-in
EVERY_MODULE = """
import importlib, pkgutil, dna_hf
for _, name, _ in pkgutil.walk_packages(dna_hf.__path__, "dna_hf."):
    if not name.startswith(("dna_hf.evaluation.metrics", "dna_hf.evaluation.lmms")) and "__main__" not in name:
        importlib.import_module(name)
"""
TRAIN_AND_CONVERT = """
import torch, dna_hf
from torch.utils.data import StackDataset
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments
from transformers import ViTConfig, ViTForImageClassification
from dna_hf.analysis import visual_maps
from dna_hf.conversion import from_pretrained_softmax

sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 8,
         "patch_size": 4}
images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 2
model = dna_hf.DnAViTForImageClassification(dna_hf.DnAViTConfig(**sizes))
samples = StackDataset(pixel_values=images, labels=labels)
trainer = Trainer(model, TrainingArguments("out", max_steps=2, report_to="none", use_cpu=True), train_dataset=samples)
assert trainer.train().global_step == 2
trainer.save_model("trained")
trained = AutoModelForImageClassification.from_pretrained("trained")
(maps,) = visual_maps(trained, {"pixel_values": images[:1]})
assert maps.heat().values["positive"].sum() > 0

source = ViTForImageClassification(ViTConfig(**sizes)).eval()
source.save_pretrained("vit")
converted = from_pretrained_softmax("vit", negative_init="zero").model.eval()
torch.testing.assert_close(converted(images).logits, source(images).logits, rtol=0, atol=1e-5)
"""
NEEDS = """
from pathlib import Path
import numpy as np
from dna_hf.analysis.errors import AnalysisError
from dna_hf.analysis.figures import NO_MATPLOTLIB
from dna_hf.analysis.video_figures import write_mp4
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.image_reading import read_image_file
from dna_hf.data.sources import load_split
from dna_hf.evaluation.figures import compute_figures

for library, error_class, work in [
    ("datasets", DataError, lambda: load_split(ImageDataArguments(), "train")),
    ("datasets", DataError, lambda: read_image_file("cat.png")),
    ("evaluate", DataError, lambda: compute_figures(np.eye(2), np.arange(2))),
    ("av", AnalysisError, lambda: write_mp4(np.zeros((1, 2, 2, 3), np.uint8), "clip.mp4")),
]:
    try:
        work()
    except error_class as error:
        assert str(error).endswith(f"needs {library} (No module named '{library}'): pip install {library}."), error
    else:
        raise AssertionError(library)
assert not list(Path().iterdir())
"""


@pytest.mark.parametrize("script", [EVERY_MODULE, TRAIN_AND_CONVERT, NEEDS], ids=["modules", "training", "sentences"])
def test_libraries_that_are_not_needed_are_not_demanded(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(WITHOUT_LIBRARIES + script)
