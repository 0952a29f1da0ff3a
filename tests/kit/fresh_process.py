"""Scripts in a process that cannot import the package, installed or not, on the path or not."""

import os
import subprocess
import sys


WITHOUT_PACKAGE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dna_hf":
            raise ImportError("the package is blocked")

sys.meta_path.insert(0, Block())
try:
    import dna_hf
except ImportError:
    pass
else:
    raise AssertionError("the package can be imported")
"""


def run_fresh(script, folder, *arguments, environment=None):
    """Run a script in a process that cannot import the package, has empty caches and no terminal."""
    home, directory = folder / "home", folder / "empty"
    home.mkdir(exist_ok=True)
    directory.mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    inherited |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE + script, *map(str, arguments)],
        cwd=directory,
        env=inherited | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout
