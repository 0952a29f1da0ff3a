"""Speed and memory of the models beside transformers' and timm's, measured in turn on one device.

Every model is checked before it is timed: bfloat16 against float32 on a few samples, and what is compiled or captured
against the eager model of the same weights on the whole batch. The ratio is that to transformers' own model in the
same round of windows; its limit is what the arithmetic allows, from multiply-accumulates alone.
"""

import gc
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from kit import CUT, DONE, Part, Rows, markdown
from speed_models import (
    GRAPH_WARM_UP,
    NATIVE,
    STEPS,
    TINY,
    TINY_ENCODER,
    Stage,
    build,
    call_of,
    captured,
    compile_layers,
    configuration,
    difference,
    first_of,
    inputs_of,
    macs_of,
    results,
)

from dna_hf.benchmark.timing import Timing, time_in_turn
from dna_hf.conversion import from_pretrained_softmax
from dna_hf.records.stamp import now, processor_name


KEY = ("family", "model", "tokens", "work", "mode")
WINDOWS = 7
# samples that are computed in float32 too
CHECKED = 8
# largest difference, relative to the norm of the expected: twelve layers whose products are rounded to bfloat16
BOUND = {"inference": 5e-2, "training": 3e-2}
# the layers of all models share the code of transformers that calls them
RECOMPILE_LIMIT = 64
# seconds without which a stage is not begun, at full scale
NEEDED = {"eager": 10, "compiled": 25, "graph": 12}


def plan(tiny: bool) -> list[Stage]:
    """The stages, what matters most first."""
    sizes = (32,) if tiny else (224, 384, 448)
    # what fits into 80 GB beside the weights, gradients and moments of all models
    batches = {32: 4, 224: 256, 384: 128, 448: 128}
    timm = ("timm",) if importlib.util.find_spec("timm") else ()
    images = (NATIVE, "dna", "dna_shared_value", *timm, "softmax", "differential")

    def pair(mode: str, size: int) -> list[Stage]:
        models = images if not tiny or (mode, size) == ("eager", sizes[0]) else (NATIVE, "dna")
        inference = Stage("vit", "inference", mode, size, 4 if tiny else 256, models)
        return [inference, replace(inference, work="training", batch=batches[size])]

    first, *others = sizes
    batch, frames = (2, 2) if tiny else (32, 8)
    video = Stage("timesformer", "inference", "eager", first, batch, (NATIVE, "dna", "softmax"), frames)
    probes = (NATIVE, "dna", "dna_shared_value", "softmax")
    stages = pair("eager", first) + pair("compiled", first)
    for size in others:
        stages += pair("eager", size)
    stages += [video, replace(video, work="training", batch=batch // 2)]
    stages += [Stage("probes", "inference", "eager", 28 if tiny else 336, 2 if tiny else 4, probes, frames)]
    if torch.cuda.is_available():
        stages += pair("graph", first)
    for size in others:
        stages += pair("compiled", size)
    return stages


def sizes_of(part: Part, stage: Stage) -> dict[str, int]:
    """What differs from the paper's sizes."""
    if not part.tiny:
        return {}
    return TINY_ENCODER if stage.family == "probes" else TINY


def backend_of(part: Part) -> str:
    """What compiles the graphs: inductor, which takes too long on two cores."""
    return "aot_eager" if part.tiny else "inductor"


@dataclass
class Candidate:
    """A model that is ready to be timed.

    Args:
        call: what is timed.
        check: how far its results are from those expected, relative to their norm.
        peak_mb: most memory that it had on the GPU, weights and state of the optimizer included; `None` on the CPU.
    """

    call: Callable[[], torch.Tensor]
    check: float
    peak_mb: float | None


def prepare(part: Part, stage: Stage, name: str, inputs: dict[str, Any], pool: Any) -> Candidate:
    """Build a model, check what it computes, and measure its memory.

    Raises:
        ValueError: if its results are not those expected.
    """
    device, sizes = part.device, sizes_of(part, stage)

    def fresh(inputs: dict[str, Any], exact: bool = False, compiled: bool = False) -> Callable[[], torch.Tensor]:
        model = build(stage, name, sizes, device)
        if compiled:
            compile_layers(model, backend_of(part))
        return call_of(stage, model, inputs, exact)

    if stage.mode == "eager":
        few = first_of(inputs, stage, CHECKED)
        expected, found = results(stage, fresh(few, exact=True)), results(stage, fresh(few))
    else:
        expected = results(stage, fresh(inputs))
    gc.collect()
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    call = fresh(inputs, compiled=stage.mode == "compiled")
    if stage.mode == "compiled":
        found = results(stage, call)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if stage.mode == "graph":
        call = captured(call, pool)
    else:
        call()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20 if device.type == "cuda" else None
    if stage.mode == "graph":
        found = results(stage, call, STEPS - GRAPH_WARM_UP)
        # the steps before the capture were eager ones
        expected = expected if stage.work == "inference" else expected[GRAPH_WARM_UP:]
    check = difference(found, expected)
    if not check <= BOUND[stage.work]:
        raise ValueError(f"results are off by {check:.1e} of their norm, more than {BOUND[stage.work]:.0e}")
    return Candidate(call, check, peak)


def measure(part: Part, stage: Stage, rows: Rows, failures: Rows) -> bool:
    """Measure the models of a stage that have no row yet, beside the native one; says whether none was cut off."""
    missing = missing_of(stage, rows)
    names = [NATIVE, *(name for name in missing if name != NATIVE)]
    torch._dynamo.reset()
    inputs = inputs_of(stage, part.device)
    window = 0.02 if part.tiny else 0.1
    pool = torch.cuda.graph_pool_handle() if stage.mode == "graph" else None
    candidates: dict[str, Candidate] = {}
    cut = False
    for name in names:
        # the windows of those that are ready come first, and another that has to be compiled may take long
        reserve = 2 * (len(candidates) + 1) * (WINDOWS + 2) * window + (10 if stage.mode == "compiled" else 2)
        if candidates and not part.tiny and part.seconds_left() < reserve:
            cut = True
            break
        try:
            candidates[name] = prepare(part, stage, name, inputs, pool)
        except Exception as error:
            report_failure(failures, stage, name, error)
            if name == NATIVE:
                return True
    synchronize = torch.cuda.synchronize if part.device.type == "cuda" else None
    calls = {name: candidate.call for name, candidate in candidates.items()}
    timings = time_in_turn(calls, seconds=window, windows=WINDOWS, synchronize=synchronize)
    macs = {name: macs_of(stage, name, sizes_of(part, stage), part.device) for name in candidates}
    for name in candidates:
        if name in missing:
            limit = macs[NATIVE] / macs[name]
            rows.add(row_of(part, stage, name, candidates[name], timings[name], timings[NATIVE], limit))
    return not cut


def missing_of(stage: Stage, rows: Rows) -> list[str]:
    """The models of a stage that have no row yet."""
    return [name for name in stage.models if not rows.has(*key_of(stage, name))]


def key_of(stage: Stage, name: str) -> tuple[Any, ...]:
    """What tells the row of a model apart."""
    return stage.family, name, stage.tokens, stage.work, stage.mode


def row_of(
    part: Part, stage: Stage, name: str, candidate: Candidate, timing: Timing, native: Timing, limit: float
) -> dict[str, Any]:
    """The row of a model."""
    rate, ratio = timing.rate(stage.batch), timing.speed_relative_to(native)
    cuda = part.device.type == "cuda"
    return {
        **dict(zip(KEY, key_of(stage, name), strict=True)),
        "batch": stage.batch,
        "precision": "bf16" if stage.work == "inference" else "bf16 autocast, float32 weights",
        "samples_per_second": f"{rate.median:.5g}",
        "lower_quartile": f"{rate.lower:.5g}",
        "upper_quartile": f"{rate.upper:.5g}",
        "ratio_to_native": f"{ratio.median:.4f}",
        "ratio_lower_quartile": f"{ratio.lower:.4f}",
        "ratio_upper_quartile": f"{ratio.upper:.4f}",
        "ratio_by_macs": f"{limit:.4f}",
        "peak_mb": "" if candidate.peak_mb is None else f"{candidate.peak_mb:.0f}",
        "check": f"{candidate.check:.1e}",
        "windows": len(timing.seconds),
        "calls_per_window": timing.calls,
        "backend": backend_of(part) if stage.mode == "compiled" else "",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else processor_name(),
        "date": now(),
    }


def report_failure(failures: Rows, stage: Stage, name: str, error: Exception) -> None:
    """Write down why a model was not timed."""
    message = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    print(f"{key_of(stage, name)} failed: {error}", flush=True)
    if not failures.has(*key_of(stage, name)):
        failures.add({**dict(zip(KEY, key_of(stage, name), strict=True)), "error": message, "date": now()})
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def fill_cache(part: Part, stages: list[Stage], rows: Rows) -> None:
    """Compile the layers of all models at once, in processes that leave them in the cache of inductor.

    In this process one is compiled after the other; it then finds them in the cache. What it does not find there it
    compiles itself: that takes time, and changes no result.
    """
    tasks = [(stage, [NATIVE, *missing_of(stage, rows)]) for stage in stages if missing_of(stage, rows)]
    names = list(dict.fromkeys(name for _, names in tasks for name in names))
    count = min(len(names), max(1, (os.cpu_count() or 1) // 2))
    context = multiprocessing.get_context("spawn")
    processes = []
    for number in range(count):
        own = set(names[number::count])
        work = [(stage, name) for stage, models in tasks for name in dict.fromkeys(models) if name in own]
        processes.append(context.Process(target=compile_models, args=(part, work), daemon=True))
        processes[-1].start()
    ends = time.monotonic() + min(45.0, part.seconds_left() - 15)
    for process in processes:
        process.join(max(0.0, ends - time.monotonic()))
        if process.is_alive():
            process.terminate()


def compile_models(part: Part, work: list[tuple[Stage, str]]) -> None:
    """Compile the layers of models in a process of its own; two layers, because the second may differ."""
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._inductor.config.compile_threads = 1
    for stage, name in work:
        model = build(stage, name, sizes_of(part, stage) or {"num_hidden_layers": 2}, part.device)
        compile_layers(model, backend_of(part))
        call_of(stage, model, inputs_of(stage, part.device))()


def check_native(part: Part, rows: Rows) -> None:
    """See that transformers' models and those that are converted from them compute the same, in bfloat16.

    Raises:
        ValueError: if they do not.
    """
    stages = {stage.family: stage for stage in reversed(plan(part.tiny)) if stage.family != "probes"}
    for stage in stages.values():
        stage = replace(stage, work="inference", mode="eager", batch=2)
        if rows.has(stage.family):
            continue
        # two layers show it
        sizes = sizes_of(part, stage) or {"num_hidden_layers": 2}
        native_class, config = configuration(stage, NATIVE, sizes)
        torch.manual_seed(0)
        native = native_class(config)
        softmax = from_pretrained_softmax(native, attention_variant="softmax").model
        inputs = inputs_of(stage, part.device)
        expected, found = (
            results(stage, call_of(stage, model.to(part.device), inputs)) for model in (native, softmax)
        )
        off = difference(found, expected)
        rows.add({"family": stage.family, "tokens": stage.tokens, "difference": f"{off:.1e}", "date": now()})
        if not off <= BOUND["inference"]:
            raise ValueError(f"{stage.family}: softmax with the weights of the native model is off by {off:.1e}")


def table_of(rows: Rows, failures: Rows) -> str:
    """Everything measured so far."""
    names = ("family", "tokens", "work", "mode", "batch", "model", "samples_per_second", "ratio_to_native")
    columns = [*(name.replace("_", " ") for name in names), "quartiles of the ratio", "ratio by MACs", "peak MB"]
    lines = [
        [
            *(row[name] for name in names),
            f"{row['ratio_lower_quartile']} to {row['ratio_upper_quartile']}",
            row["ratio_by_macs"],
            row["peak_mb"],
        ]
        for row in rows.all
    ]
    table = markdown(columns, lines)
    failed = [row for row in failures.all if not rows.has(*(row[name] for name in KEY))]
    if failed:
        table += "\n\n" + markdown([*KEY, "error"], [[row[name] for name in (*KEY, "error")] for row in failed])
    return table


def note_of(part: Part, cut: list[Stage]) -> str:
    """What a reader must know."""
    stages = ", ".join(f"{stage.family} {stage.tokens} tokens {stage.mode} {stage.work}" for stage in cut)
    notes = [f"cut off by time: {stages}"] if cut else []
    if part.device.type != "cuda":
        notes.append("without CUDA there are no CUDA graphs and no peak of memory")
    if importlib.util.find_spec("timm") is None:
        notes.append("timm is not installed")
    return "; ".join([*notes, "transformers' TimeSformer has eager attention alone"])


def main() -> None:
    """Run the stages that are left."""
    part = Part.from_command_line()
    if part.tiny:
        # several threads wait for each other where other work shares the cores
        torch.set_num_threads(1)
    # so that what is compiled once is found by the processes that compile, and by the next call
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(part.checkpoints.resolve() / "inductor"))
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    rows, failures = part.rows("speed.csv", KEY), part.rows("speed_failures.csv", KEY)
    check_native(part, part.rows("speed_native.csv", ("family",)))
    stages = [stage for stage in plan(part.tiny) if missing_of(stage, rows)]
    compiled: set[int] = set()
    cut: list[Stage] = []
    for index, stage in enumerate(stages):
        if part.seconds_left() < (1 if part.tiny else NEEDED[stage.mode]):
            cut += stages[index:]
            break
        if stage.mode == "compiled" and stage.tokens not in compiled:
            compiled.add(stage.tokens)
            fill_cache(part, [one for one in stages if (one.mode, one.tokens) == ("compiled", stage.tokens)], rows)
        if not measure(part, stage, rows, failures):
            cut.append(stage)
        gc.collect()
        if part.device.type == "cuda":
            torch.cuda.empty_cache()
        part.finish(CUT, table_of(rows, failures), note_of(part, cut))
    failed = [row for row in failures.all if not rows.has(*(row[name] for name in KEY))]
    part.finish(CUT if cut or failed else DONE, table_of(rows, failures), note_of(part, cut))
    if failed:
        raise SystemExit(f"{len(failed)} models were not measured: see speed_failures.csv")


if __name__ == "__main__":
    main()
