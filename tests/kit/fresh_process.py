"""Scripts in a process that cannot import the package, installed or not, on the path or not."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


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

# takes lines of JSON, runs the script of each in a copy of itself, and answers with the exit code: what is slow is
# imported once
SERVER = """
import json, os, signal, traceback
import torch, transformers
import transformers.models.auto.modeling_auto, transformers.models.auto.processing_auto, transformers.pipelines

for line in sys.stdin:
    task = json.loads(line)
    process = os.fork()
    if process == 0:
        code = 1
        try:
            signal.alarm(300)
            os.chdir(task["cwd"])
            for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
                flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                os.dup2(os.open(task[name], flags), number)
            sys.argv = ["-c", *task["arguments"]]
            exec(compile(task["script"], "<script>", "exec"), {"__name__": "__main__", "sys": sys})
            code = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def _environment(home):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    return inherited | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@functools.cache
def _server():
    """The process that runs the scripts which ask for no environment of their own."""
    home = tempfile.TemporaryDirectory()
    server = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_PACKAGE + SERVER],
        env=_environment(home.name),
        cwd=home.name,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end():
        server.stdin.close()
        server.wait()
        home.cleanup()

    atexit.register(end)
    return server


def run_fresh(script, folder, *arguments, environment=None, cwd=None):
    """Run a script in a process that cannot import the package, and has no terminal.

    It runs in a new folder below `folder`, or in `cwd`. With an `environment` of its own, e.g. that of a Hub, it also
    has caches of its own, empty at first.

    Returns:
        What the script printed.
    """
    directory = folder / "empty"
    directory.mkdir(exist_ok=True)
    arguments = list(map(str, arguments))
    if environment is None:
        files = {"stdin": os.devnull, "stdout": str(folder / "stdout"), "stderr": str(folder / "stderr")}
        task = {"script": script, "arguments": arguments, "cwd": str(cwd or directory)} | files
        server = _server()
        server.stdin.write(json.dumps(task) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        output, errors = (Path(files[name]).read_text() for name in ("stdout", "stderr"))
    else:
        home = folder / "home"
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_PACKAGE + script, *arguments],
            cwd=cwd or directory,
            env=_environment(home) | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        code, output, errors = done.returncode, done.stdout, done.stderr
    assert code == 0, errors[-4000:]
    return output
