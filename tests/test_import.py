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
