"""Mixed precision, distributed training and compiling: they run, and learn what float32 learns.

Every training takes the same steps on the same batch of random images, from the same weights. Its losses, update by
update, are compared with those of float32 without any of it.
"""

import json
import math
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from kit import CUT, DONE, Part, Rows, markdown
from mixed_training import (
    COMPILE,
    DDP,
    EAGER,
    FSDP2,
    ROOT,
    TRAINER,
    TRAINER_COMPILE,
    Trace,
    by_trainer,
    guarded,
    trace_file,
)

from dna_hf.models.attention_variants import ATTENTION_VARIANTS
from dna_hf.records.stamp import now, processor_name


# way, variant and precision
Training = tuple[str, str, str]
KEY = ("way", "variant", "precision")
SCRIPT = Path(__file__).with_name("mixed_training.py")
OK = "ok"
HALF = ("fp16", "bf16")
# largest relative difference of a loss. Rounding of bfloat16 is 2^-9, of float16 2^-12 and of float32 2^-24 of a
# number: twelve layers and some updates make several times that of it.
BOUNDS = {"bf16": 3e-2, "fp16": 5e-3, "float32": 1e-4}
# a comparison of fewer updates would show little
LEAST_UPDATES = 4
COLUMNS = (
    *(*KEY, "backend", "updates", "skipped", "scale", "first loss", "last loss", "difference", "bound", "state"),
)


@dataclass
class Worker:
    """A process that trains in a way.

    Args:
        process: the process.
        log: what it says.
        trainings: way, variant and precision of its trainings.
    """

    process: subprocess.Popen
    log: Path
    trainings: list[Training]


def start_workers(part: Part, folder: Path, done: set[Training]) -> list[Worker]:
    """Start what has to run in processes of its own and is not done yet."""
    python = [sys.executable]
    launch = [*python, "-m", "accelerate.commands.launch", "--config_file"]
    launch += [str(ROOT / "configs" / "accelerate" / "fsdp2.yaml"), "--num_processes", "1", "--main_process_port", "0"]
    by_trainer = (TRAINER_COMPILE, "dna", "bf16")
    work: list[tuple[list[str], dict[str, str], list[Training]]] = [
        (launch, {}, [(FSDP2, "dna", "bf16")]),
        (python, one_rank(), [(DDP, "dna", "float32")]),
    ]
    if part.tiny:
        work.append((python, {}, [*compiled("dna", "differential"), by_trainer]))
    else:
        work.append(([*launch, "--mixed_precision", "no"], {}, [(FSDP2, "dna", "float32")]))
        work.append((python, {}, compiled("dna", "dna_shared_value")))
        work.append((python, {}, compiled("softmax", "cog")))
        work.append((python, {}, [by_trainer, *compiled("differential")]))
    workers = []
    for number, (command, environment, trainings) in enumerate(work):
        left = [training for training in trainings if training not in done]
        if not left:
            continue
        log = folder / f"worker-{number}.txt"
        arguments = [SCRIPT, folder, part.scale, *map("/".join, left)]
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, *map(str, arguments)], stdout=output, stderr=subprocess.STDOUT, env=os.environ | environment
            )
        workers.append(Worker(process, log, left))
    return workers


def compiled(*variants: str) -> list[Training]:
    """Compiled trainings of variants."""
    return [(COMPILE, variant, "float32") for variant in variants]


def one_rank() -> dict[str, str]:
    """What torchrun tells the only one of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    return ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def row_of(key: Training, trace: Trace, reference: Trace) -> dict[str, Any]:
    """Compare a training with that in float32."""
    found, expected = trace.by_update(), reference.by_update()
    bound = BOUNDS[key[2]]
    error = trace.error or (reference.error and f"float32: {reference.error}")
    difference = float("nan")
    if not error:
        pairs = list(zip(found, expected, strict=False))
        # of a loss that is not finite too, which max would pass over
        difference = max((abs(own / its - 1) for own, its in pairs), key=lambda off: (math.isnan(off), off))
        if len(pairs) < LEAST_UPDATES:
            error = f"{sum(trace.skipped)} of {len(trace.skipped)} updates were skipped"
        elif not difference <= bound:
            error = f"losses are off by {difference:.1e}"
        elif not found[-1] < found[0]:
            error = f"the loss does not fall: from {found[0]:.4f} to {found[-1]:.4f}"
    cuda = torch.cuda.is_available()
    return {
        **dict(zip(KEY, key, strict=True)),
        "backend": trace.backend,
        "steps": len(trace.losses),
        "updates": len(trace.skipped) - sum(trace.skipped),
        "skipped": sum(trace.skipped),
        "scale": "" if trace.scale is None else f"{trace.scale:g}",
        "first loss": f"{found[0]:.6f}" if found else "",
        "last loss": f"{found[-1]:.6f}" if found else "",
        "last loss in float32": f"{expected[len(found) - 1]:.6f}" if found and expected else "",
        "difference": f"{difference:.1e}",
        "bound": f"{bound:.0e}",
        "state": "failed" if error else OK,
        "error": error,
        "seconds": f"{trace.seconds:.1f}",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else processor_name(),
        "date": now(),
    }


def done_of(rows: Rows) -> set[Training]:
    """The trainings that went well in this call or an earlier one; the others are tried again."""
    return {key_of(row) for row in rows.all if row["state"] == OK}


def key_of(row: dict[str, str]) -> Training:
    """Way, variant and precision of a row."""
    return row["way"], row["variant"], row["precision"]


def train_here(part: Part, rows: Rows, references: dict[str, Trace]) -> None:
    """The trainings by the Trainer that need no process of their own, in float32 first."""
    for variant in ATTENTION_VARIANTS:
        wanted = [(TRAINER, variant, name) for name in HALF]
        wanted = [key for key in wanted if key not in done_of(rows)]
        # dna is what the trainings in other processes are compared with
        if not wanted and variant != "dna":
            continue
        if part.seconds_left() < 5:
            return
        references[variant] = guarded(lambda v=variant: by_trainer(v, "float32", part.tiny))
        for key in wanted:
            trace = guarded(lambda v=variant, p=key[2]: by_trainer(v, p, part.tiny))
            rows.add(row_of(key, trace, references[variant]))


def collect(part: Part, folder: Path, workers: list[Worker], rows: Rows, references: dict[str, Trace]) -> None:
    """Wait for the processes, and compare what they leave behind, also what they leave when time is over."""
    for worker in workers:
        try:
            worker.process.wait(max(0.1, part.seconds_left() - 2))
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
        for training in worker.trainings:
            way, variant, precision = training
            path, eager = (trace_file(folder, way, variant, name) for name in (precision, EAGER))
            reference = references.get(variant) if way == FSDP2 else read_trace(eager, worker)
            # what was cut off is no failure
            if reference is not None and (path.exists() or ended):
                rows.add(row_of(training, read_trace(path, worker), reference))


def read_trace(path: Path, worker: Worker) -> Trace:
    """What a process wrote, or the last it said."""
    if path.exists():
        return Trace(**json.loads(path.read_text()))
    said = worker.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    return Trace(error=f"exit code {worker.process.returncode}: {said[-1]}")


def table_of(rows: Rows) -> str:
    """The last row of every training, and the errors."""
    last = {key_of(row): row for row in rows.all}.values()
    table = markdown(list(COLUMNS), [[row[name] for name in COLUMNS] for row in last])
    errors = [f"- {', '.join(row[name] for name in KEY)}: {row['error']}" for row in last if row["state"] != OK]
    return "\n\n".join([table, *(["\n".join(errors)] if errors else [])])


def main() -> None:
    """Run the trainings that are left."""
    part = Part.from_command_line()
    torch.set_num_threads(1 if part.tiny else torch.get_num_threads())
    rows = part.rows("mixed.csv", KEY)
    folder = part.checkpoints / "traces"
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    references: dict[str, Trace] = {}
    workers = start_workers(part, folder, done_of(rows))
    try:
        train_here(part, rows, references)
        part.finish(CUT, table_of(rows) if rows.all else "")
        collect(part, folder, workers, rows, references)
    finally:
        for worker in workers:
            worker.process.terminate()
    wanted = {key for worker in workers for key in worker.trainings}
    wanted |= {(TRAINER, variant, name) for variant in ATTENTION_VARIANTS for name in HALF}
    tried = {key_of(row) for row in rows.all}
    cut = [", ".join(key) for key in sorted(wanted - tried)]
    notes = [f"cut off by time: {'; '.join(cut)}"] if cut else []
    if part.device.type != "cuda":
        notes.append("on the CPU, gloo stands in for NCCL, and accelerate was given torch's scaler for the CPU")
    failed = wanted & tried - done_of(rows)
    part.finish(CUT if cut or failed else DONE, table_of(rows), "; ".join(notes))
    if failed:
        raise SystemExit(f"{len(failed)} trainings failed: see mixed.csv")


if __name__ == "__main__":
    main()
