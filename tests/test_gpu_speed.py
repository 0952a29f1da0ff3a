"""Speed and mixed precision of the GPU session: what is off is found, and what is measured is what it says."""

import math
import sys
import time
from dataclasses import replace

import pytest
import torch

from dna_hf.models.attention_variants import ATTENTION_VARIANTS
from tests.kit.paths import ROOT


sys.path.insert(0, str(ROOT / "scripts" / "gpu"))
import mixed  # noqa: E402
import speed  # noqa: E402
import speed_models  # noqa: E402
from kit import Part  # noqa: E402
from mixed_training import EAGER, FSDP2, Trace, by_trainer, train  # noqa: E402
from speed_models import NATIVE, TINY, Stage, build, call_of, inputs_of, macs_of, results  # noqa: E402


pytestmark = pytest.mark.once
CPU = torch.device("cpu")
STAGE = Stage("vit", "training", "eager", 32, 4, (NATIVE, "dna"))


@pytest.fixture
def part(tmp_path):
    return Part(tmp_path, "tiny", None, None, tmp_path, time.time() + 60)


@pytest.mark.parametrize("work", ["inference", "training"])
def test_a_stage_is_measured_once_and_gone_on_with(part, work):
    stage = replace(STAGE, work=work)
    rows, failures = part.rows("speed.csv", speed.KEY), part.rows("failures.csv", speed.KEY)
    assert speed.measure(part, replace(stage, models=(NATIVE,)), rows, failures)
    assert speed.measure(part, stage, rows, failures)
    native, dna = rows.all
    assert (native["model"], native["ratio_to_native"], native["ratio_by_macs"]) == (NATIVE, "1.0000", "1.0000")
    assert dna["model"] == "dna" and float(dna["samples_per_second"]) > 0 and float(dna["ratio_by_macs"]) < 1
    assert not failures.all and not speed.missing_of(stage, rows)
    assert "| dna |" in speed.table_of(rows, failures)


def test_what_computes_something_else_is_not_timed(part, monkeypatch):
    def break_one(model, backend):
        if "DnA" in type(model).__name__:
            with torch.no_grad():
                model.classifier.weight.neg_()

    monkeypatch.setattr(speed, "compile_layers", break_one)
    stage = replace(STAGE, mode="compiled", work="inference")
    rows, failures = part.rows("speed.csv", speed.KEY), part.rows("failures.csv", speed.KEY)
    speed.measure(part, stage, rows, failures)
    assert [row["model"] for row in rows.all] == [NATIVE]
    assert [row["model"] for row in failures.all] == ["dna"]
    assert failures.all[0]["error"].startswith("ValueError: results are off by 2.0e+00")
    assert failures.all[0]["error"] in speed.table_of(rows, failures)


def test_a_step_of_training_is_that_of_float32_and_learns():
    inputs = inputs_of(STAGE, CPU)
    exact, rounded = (
        results(STAGE, call_of(STAGE, build(STAGE, "dna", TINY, CPU), inputs, exact)) for exact in (True, False)
    )
    assert exact[-1] < exact[0]
    assert 0 < speed_models.difference(rounded, exact) < 1e-3


def test_multiply_accumulates_are_those_of_the_paper():
    stage = Stage("vit", "inference", "eager", 224, 256, ())
    assert macs_of(stage, NATIVE, {}, CPU) / macs_of(stage, "dna", {}, CPU) == pytest.approx(17.58 / 21.08, abs=1e-3)


def test_the_plan_begins_with_what_matters_most_and_fits_the_issue():
    stages = speed.plan(tiny=False)
    assert [(stage.tokens, stage.mode, stage.work) for stage in stages[:4]] == [
        (197, mode, work) for mode in ("eager", "compiled") for work in ("inference", "training")
    ]
    assert {stage.tokens for stage in stages if stage.family == "vit"} == {197, 577, 785}
    assert all(stage.models[0] == NATIVE for stage in stages)


FLOAT32 = Trace([2.0, 1.9, 1.8, 1.7, 1.6, 1.5], [False] * 6)


@pytest.mark.parametrize(
    ("trace", "error"),
    [
        (Trace([2.0, 2.0, 1.9, 1.8, 1.7, 1.6], [True] + [False] * 5), ""),
        (
            Trace([2.0, 1.9, 1.8, 1.8, 1.7, 1.62], [False, False, True, False, False, False]),
            "losses are off by 1.2e-02",
        ),
        (Trace([2.0] * 6, [True] * 6), "6 of 6 updates were skipped"),
        (Trace([2.0, 1.9, 1.8, 1.7, math.nan, 1.5], [False] * 6), "losses are off by nan"),
        (Trace(error="RuntimeError: no"), "RuntimeError: no"),
    ],
)
def test_losses_are_compared_by_update(trace, error):
    row = mixed.row_of(("Trainer", "dna", "fp16"), trace, FLOAT32)
    assert row["error"] == error and row["state"] == ("failed" if error else "ok")
    assert row["skipped"] == sum(trace.skipped)


def test_a_loss_that_stays_is_no_training():
    row = mixed.row_of(("Trainer", "dna", "bf16"), *[Trace([2.0] * 6, [False] * 6)] * 2)
    assert row["error"] == "the loss does not fall: from 2.0000 to 2.0000"


def test_a_scaler_that_begins_too_high_skips_its_first_updates(monkeypatch):
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: scaler(device, init_scale=2.0**19))
    trace = by_trainer("dna", "fp16", tiny=True)
    assert trace.skipped == [True] * 3 + [False] * 7 and trace.scale == 2.0**16
    row = mixed.row_of(("Trainer", "dna", "fp16"), trace, by_trainer("dna", "float32", tiny=True))
    assert (row["state"], row["updates"], row["skipped"]) == ("ok", 7, 3)


def test_a_process_that_dies_is_a_failure(part):
    log = part.out / "log.txt"
    log.write_text("something\nOSError: no port\n")
    process = mixed.subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    worker = mixed.Worker(process, log, [(FSDP2, "dna", "bf16"), ("torch.compile", "dna", "float32")])
    rows = part.rows("mixed.csv", mixed.KEY)
    mixed.collect(part, part.out, [worker], rows, {"dna": FLOAT32})
    assert [row["error"] for row in rows.all] == ["exit code 3: OSError: no port"] * 2
    assert not mixed.done_of(rows) and "OSError: no port" in mixed.table_of(rows)


@pytest.mark.slow
def test_what_is_compiled_is_traced_whole():
    for variant in ("dna", "cog"):
        eager, compiled = (train("torch.compile", variant, precision, tiny=True) for precision in (EAGER, "float32"))
        assert compiled.backend == "aot_eager"
        assert compiled.losses == pytest.approx(eager.losses, rel=1e-5)


def test_processes_are_started_for_what_is_not_done(part, monkeypatch):
    commands = []
    monkeypatch.setattr(mixed.subprocess, "Popen", lambda command, **options: commands.append(command))
    full = replace(part, scale="full")
    workers = mixed.start_workers(full, part.out, done=set())
    trainings = {training for worker in workers for training in worker.trainings}
    assert {*mixed.compiled(*ATTENTION_VARIANTS)} < trainings
    assert {(FSDP2, "dna", "bf16"), (FSDP2, "dna", "float32"), ("DDP", "dna", "float32")} < trainings
    assert len(commands) == len(workers)
    (left,) = mixed.start_workers(full, part.out, done=trainings - {("torch.compile", "cog", "float32")})
    assert left.trainings == [("torch.compile", "cog", "float32")]
    assert commands[-1][-1] == "torch.compile/cog/float32"
