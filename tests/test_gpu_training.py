"""The trainings of the GPU session: what they see, several models at once, plans, and going on after a kill."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
import transformers
from PIL import Image

from dna_hf import DnAViTConfig, DnAViTForImageClassification
from dna_hf.data.mixing import MixingCollator, smooth_one_hot
from dna_hf.experiments.statistics import paired_difference
from dna_hf.models.attention_variants import ATTENTION_VARIANTS
from dna_hf.training.losses import classification_loss
from dna_hf.training.optimizer import decay_parameter_names
from tests.kit.paths import ROOT


sys.path.append(str(ROOT / "scripts" / "gpu"))
import cifar10  # noqa: E402
import finetune  # noqa: E402
import images  # noqa: E402
import training  # noqa: E402
from kit import Part  # noqa: E402


CPU = torch.device("cpu")
SEEDS = (3, 4, 5)
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "num_labels": 10,
}


def pixels_of(count, channels=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)


def some_images(count):
    return images.Images(pixels_of(count), torch.arange(count) % 10)


def models_of(variant, seeds=SEEDS):
    made = []
    for seed in seeds:
        torch.manual_seed(seed)
        config = DnAViTConfig(attention_variant=variant, image_size=8, patch_size=4, **SIZES)
        made.append(DnAViTForImageClassification(config))
    return made


def recipe_of(mixing=None):
    inputs = images.Inputs((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    return training.Recipe(3e-3, 0.1, 0.2, 6, inputs, label_smoothing=0.1, mixing=mixing)


def test_crops_and_flips_are_those_of_each_image_alone():
    pixels, padding = pixels_of(40), 2
    shifts = torch.randint(2 * padding + 1, (40, 2), generator=torch.Generator().manual_seed(1))
    flips = torch.arange(40) % 3 == 0
    found = images.crop_and_flip(pixels, shifts, flips, padding)
    for image, (top, left), flip, own in zip(pixels.numpy(), shifts.tolist(), flips, found.numpy(), strict=True):
        window = np.pad(image, ((0, 0), (padding,) * 2, (padding,) * 2))[:, top : top + 8, left : left + 8]
        np.testing.assert_array_equal(own, window[:, :, ::-1] if flip else window)


def test_an_epoch_shows_images_once_in_an_order_of_seed_and_epoch():
    # each image has one colour of its own, so that a crop tells which it is
    pixels = torch.arange(1, 41, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    data = images.Images(pixels, torch.arange(1, 41))

    def orders(seeds, number):
        batches = list(images.Epoch(data, seeds, number, 6))
        assert len(batches) == 6
        for seen, labels in batches:
            assert torch.equal(seen.flatten(2).amax(-1).long(), labels)
        return torch.cat([labels for _, labels in batches], dim=1).tolist()

    first, second = orders((7, 8), 0)
    assert len(set(first)) == len(set(second)) == 36
    assert first != second and first != orders((7,), 1)[0]
    assert orders((8, 7), 0) == [second, first]


def test_inputs_are_resized_and_normalised():
    pixels, mean, deviation = pixels_of(6), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    expected = (pixels.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(deviation, (3, 1, 1))
    found = images.Inputs(mean, deviation)(pixels.unflatten(0, (2, 3)))
    np.testing.assert_allclose(found.flatten(0, 1).numpy(), expected, atol=1e-6)
    larger = images.Inputs((0.0,) * 3, (1.0,) * 3, size=20)(pixels)
    for image, own in zip(pixels, larger, strict=True):
        for channel, resized in zip(image, own, strict=True):
            pil = Image.fromarray(channel.numpy().astype(np.float32)).resize((20, 20), Image.Resampling.BICUBIC)
            # PIL has another coefficient of the bicubic kernel (-0.5, not -0.75)
            assert np.abs(np.clip(np.asarray(pil) / 255, 0, 1) - resized.numpy()).mean() < 0.03


def test_parquet_files_are_read_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 3)
    pixels = pixels_of(11)
    contents = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "png")
        contents.append({"bytes": file.getvalue(), "path": None})
    for name, part in (("train-0.parquet", slice(0, 7)), ("train-1.parquet", slice(7, 11))):
        table = pyarrow.table({"image": contents[part], "label": list(range(11))[part]})
        parquet.write_table(table, tmp_path / name)
    read = images.read_parquet(tmp_path, "train")
    assert torch.equal(read.pixels, pixels) and read.labels.tolist() == list(range(11))
    assert torch.equal(images.read_parquet(tmp_path, "train", 8).pixels, pixels[:8])
    with pytest.raises(FileNotFoundError, match="'test'"):
        images.read_parquet(tmp_path, "test")


@pytest.mark.parametrize(("steps", "warmup"), [(20, 5), (7, 0), (3, 3), (100, 1)])
def test_the_schedule_is_transformers_cosine(steps, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    for step in range(steps + 1):
        assert training.warmup_cosine(step, steps, warmup) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


def trained_alone(variant, seed, data, epochs, mixing=None):
    """Losses of all steps and the weights at the end, of one model in a loop as anybody writes it."""
    (model,), recipe = models_of(variant, [seed]), recipe_of(mixing)
    decaying = decay_parameter_names(model)
    named = list(model.named_parameters())
    groups = [
        {"params": [tensor for name, tensor in named if name in decaying], "weight_decay": recipe.weight_decay},
        {"params": [tensor for name, tensor in named if name not in decaying], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    steps = epochs * (len(data) // recipe.batch_size)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, -int(-recipe.warmup * steps // 1), steps)
    losses = []
    for epoch in range(epochs):
        for pixels, labels in images.Epoch(data, [seed], epoch, recipe.batch_size):
            values, targets = recipe.inputs(pixels[0]), smooth_one_hot(labels[0], 10, recipe.label_smoothing)
            if mixing is not None:
                values, kept = mixing.mix(values, np.random.default_rng((seed, len(losses))))
                targets = kept * targets + (1 - kept) * targets.flip(0)
            loss = classification_loss(model(values), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return torch.tensor(losses), dict(named)


def trained_together(variant, data, epochs, **options):
    """The same of several models: losses (steps, models), and the training."""
    mixing = options.pop("mixing", None)
    together = training.Training(models_of(variant), SEEDS, data, recipe_of(mixing), **options)
    losses, step = [], together.step
    together.step = lambda *words: losses.append(step(*words)) or losses[-1]
    means = [together.train_epoch(epochs) for _ in range(epochs)]
    losses = torch.stack(losses)
    torch.testing.assert_close(torch.stack(means), losses.unflatten(0, (epochs, -1)).mean(1))
    return losses, together


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_several_models_learn_what_each_learns_alone(variant, at_once):
    data = some_images(26)
    losses, together = trained_together(variant, data, epochs=3, at_once=at_once)
    assert losses.shape == (12, 3)
    for index, seed in enumerate(SEEDS):
        alone, weights = trained_alone(variant, seed, data, epochs=3)
        torch.testing.assert_close(losses[:, index], alone, atol=1e-5, rtol=0)
        found = [own[index] for own in together.stack.tensors]
        assert sum(tensor.numel() for tensor in found) == sum(tensor.numel() for tensor in weights.values())
        last = together.stack.weights[-1]["classifier.weight"][index]
        torch.testing.assert_close(last, weights["classifier.weight"], atol=2e-5, rtol=0)
    assert (losses[:, 0] - losses[:, 1]).abs().min() > 1e-4


def test_mixing_is_that_of_each_model_alone():
    data, mixing = some_images(26), MixingCollator(10, mixup_alpha=0.8, cutmix_alpha=1.0)
    losses, _ = trained_together("dna", data, epochs=3, at_once=True, mixing=mixing)
    for index, seed in enumerate(SEEDS):
        alone, _ = trained_alone("dna", seed, data, 3, mixing)
        torch.testing.assert_close(losses[:, index], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("variant", ["differential", "cog"])
def test_a_compiled_layer_serves_all_layers(variant, at_once):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    data, compiler = some_images(26), partial(torch.compile, backend=backend, dynamic=False, fullgraph=True)
    expected, _ = trained_together(variant, data, 1, at_once=at_once)
    found, together = trained_together(variant, data, 1, at_once=at_once, compiler=compiler)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    before = len(graphs)
    # softmax layers among those of cog attention are another graph
    assert before == (2 if variant == "cog" else 1)
    together.test(data)
    assert len(graphs) == before


def test_half_precision_reaches_the_stacked_weights():
    values = images.Inputs((0.5,) * 3, (0.2,) * 3)(pixels_of(12)).unflatten(0, (3, 4))
    found = {}
    for at_once in (True, False):
        for precision in (torch.float32, torch.bfloat16):
            stack = training.Stack(models_of("dna"), CPU, at_once=at_once)
            stack.precision = precision
            found[at_once, precision] = stack.logits(values)
            found[at_once, precision].sum().backward()
            assert all(tensor.grad.dtype == torch.float32 for tensor in stack.tensors)
    torch.testing.assert_close(found[True, torch.float32], found[False, torch.float32], atol=1e-5, rtol=0)
    for at_once in (True, False):
        rounded = (found[at_once, torch.bfloat16] - found[True, torch.float32]).abs().max()
        assert 1e-6 < rounded < 0.02


def test_models_that_draw_in_training_are_refused():
    config = DnAViTConfig(image_size=8, patch_size=4, drop_path_rate=0.1, **SIZES)
    with pytest.raises(ValueError, match="drop_path_rate"):
        training.Stack([DnAViTForImageClassification(config)], CPU, at_once=True)


def test_evaluation_counts_every_image(monkeypatch):
    monkeypatch.setattr(training, "TEST_BATCH", 7)
    data = some_images(26)
    models = models_of("softmax")
    losses, top1 = training.Training(models, SEEDS, data, recipe_of(), at_once=True).test(data)
    for model, loss, accuracy in zip(models, losses, top1, strict=True):
        with torch.no_grad():
            output = model.eval()(recipe_of().inputs(data.pixels), labels=data.labels)
        assert loss == pytest.approx(output.loss.item(), abs=1e-6)
        assert accuracy == (output.logits.argmax(1) == data.labels).double().mean().item()


def test_measuring_changes_nothing():
    data = some_images(60)
    fresh, measured = (training.Training(models_of("dna"), SEEDS, data, recipe_of(), at_once=False) for _ in "ab")
    assert min(training.measure(measured, 2)) > 0
    torch.testing.assert_close(measured.train_epoch(1), fresh.train_epoch(1), atol=0, rtol=0)


# --- the parts
def run_part(part, out, monkeypatch, seconds=600):
    monkeypatch.setattr(sys, "argv", ["part", "--out", str(out), "--seconds", str(seconds), "--scale", "tiny"])
    # the time of a part runs from the start of its process, which here is that of the tests
    monkeypatch.setattr(Part, "seconds_left", lambda self: seconds)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        part.main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    return json.loads((out / "status.json").read_text())


def rows_of(path, *without):
    with path.open() as file:
        return [{key: value for key, value in row.items() if key not in without} for row in csv.DictReader(file)]


SMALL = {"VARIANTS": ("softmax", "dna"), "TINY_IMAGES": 150, "TINY_TEST": 50}
WAY = {"at_once": True, "compiled": False, "step_seconds": 0.01}
PLAN = {"ways": {"softmax": WAY, "dna": WAY}, "evaluation_seconds": 0.01, "epochs": 3}


def test_cifar10_goes_on_exactly_after_a_kill(tmp_path, monkeypatch):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for out in (killed, whole):
        out.mkdir()
        (out / "plan.json").write_text(json.dumps(PLAN))
    settings = f"vars(cifar10).update({SMALL!r})"
    command = [sys.executable, "-c", f"import cifar10; {settings}; cifar10.main()"]
    command += ["--out", str(killed), "--seconds", "600", "--scale", "tiny"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "scripts" / "gpu")])}
    process = subprocess.Popen(command, env=environment)
    file = killed / "epochs.csv"
    while not (file.exists() and file.read_text().count("\n") > 4):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 4 <= len(rows_of(file)) < 18 and not (killed / "runs.csv").exists()

    for name, value in SMALL.items():
        monkeypatch.setattr(cifar10, name, value)
    for out in (killed, whole):
        assert run_part(cifar10, out, monkeypatch)["state"] == "done"
    measured = ("seconds", "peak_memory", "samples_per_second")
    for name, count in (("epochs.csv", 18), ("runs.csv", 6)):
        rows = rows_of(whole / name, *measured)
        assert len(rows) == count
        assert rows_of(killed / name, *measured) == rows

    table = (whole / "table.md").read_text()
    top1 = {(row["variant"], row["seed"]): 100 * float(row["top1"]) for row in rows_of(whole / "runs.csv")}
    pairs = [(top1["dna", seed], top1["softmax", seed]) for seed in "012"]
    difference = paired_difference(*zip(*pairs, strict=True))
    assert f"| {difference.mean:+.2f} ± {difference.margin:.2f} |" in table


def test_cifar10_plans_measures_and_says_what_was_cut(tmp_path, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(cifar10, name, value)
    # for less than an epoch: a plan is made all the same, and the next call goes on with it
    status = run_part(cifar10, tmp_path, monkeypatch, seconds=0.0)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert status["state"] == "cut" and status["note"].startswith("0 of 1 epochs")
    assert [(way["at_once"], way["step_seconds"] > 0) for way in plan["measured"]] == [(False, True), (True, True)]
    assert plan["ways"].keys() == set(SMALL["VARIANTS"]) and not plan["mixing"]
    assert run_part(cifar10, tmp_path, monkeypatch)["state"] == "done"
    assert json.loads((tmp_path / "plan.json").read_text()) == plan
    assert {row["epoch"] for row in rows_of(tmp_path / "epochs.csv")} == {"1"}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"epoch": 30}, "plan.json has no use for 'epoch': it holds epochs, mixing, "),
        ({"epochs": "30"}, "plan.json must be a whole number of at least 1, got '30'"),
        ({"epochs": 0}, "plan.json must be a whole number of at least 1, got 0"),
    ],
)
def test_a_plan_that_says_something_else_is_refused(plan, message, tmp_path, monkeypatch):
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=message):
        run_part(cifar10, tmp_path, monkeypatch)


def test_a_variant_that_does_not_run_at_once_runs_one_after_the_other(tmp_path, monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setattr(cifar10, name, value)
    monkeypatch.setattr(cifar10.Comparison, "choose_way", lambda self: cifar10.Way(at_once=True))
    call_all = training.call_all

    def fails_for_softmax(piece, weights, states):
        if any("q_proj" in name for name in weights):
            raise RuntimeError("no batching rule")
        return call_all(piece, weights, states)

    monkeypatch.setattr(training, "call_all", fails_for_softmax)
    assert run_part(cifar10, tmp_path, monkeypatch, seconds=0.0)["state"] == "cut"
    ways = json.loads((tmp_path / "plan.json").read_text())["ways"]
    assert (ways["softmax"]["at_once"], ways["dna"]["at_once"]) == (False, True)
    assert "no batching rule" in ways["softmax"]["instead_of"]["error"] and "instead_of" not in ways["dna"]


def test_the_matched_model_has_the_parameters_of_dna(tmp_path):
    words = ["--out", str(tmp_path), "--seconds", "1", "--scale", "tiny"]
    handler = signal.getsignal(signal.SIGTERM)
    costs = cifar10.Comparison(Part.from_command_line(words)).costs
    signal.signal(signal.SIGTERM, handler)
    assert costs["softmax_matched"]["parameters"] == pytest.approx(costs["dna"]["parameters"], rel=0.01)
    assert costs["softmax"]["parameters"] < 0.9 * costs["dna"]["parameters"]


def test_fine_tuning_goes_on_with_the_models_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "SEEDS", (0, 1))
    monkeypatch.setattr(finetune, "ATTENTION_VARIANTS", ("dna", "softmax"))
    run = finetune.FineTuning.run

    def run_once(tuning, group):
        if len(tuning.rows.all) == 1 + len(finetune.starts_of("dna")):
            raise KeyboardInterrupt
        run(tuning, group)

    monkeypatch.setattr(finetune.FineTuning, "run", run_once)
    with pytest.raises(KeyboardInterrupt):
        run_part(finetune, tmp_path, monkeypatch)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == "cut" and "softmax seed 1" in status["note"] and "seed 0" not in status["note"]
    first = rows_of(tmp_path / "runs.csv")
    monkeypatch.setattr(finetune.FineTuning, "run", run)
    assert run_part(finetune, tmp_path, monkeypatch)["state"] == "done"
    rows = rows_of(tmp_path / "runs.csv")
    names = ["softmax", *(f"dna, {start}" for start in finetune.starts_of("dna"))]
    assert {"warm", "zero", "random"} <= set(finetune.starts_of("dna"))
    assert rows[: len(first)] == first and [row["variant"] for row in rows] == names * 2
    assert f"| {names[1]} | 2 |" in (tmp_path / "table.md").read_text()


def test_all_starts_begin_with_one_head_and_zero_as_softmax(tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    part = Part.from_command_line(["--out", str(tmp_path), "--seconds", "600", "--scale", "tiny"])
    signal.signal(signal.SIGTERM, handler)
    tuning = finetune.FineTuning(part)
    values = tuning.recipe.inputs(tuning.images.pixels[:4])
    with torch.no_grad():
        found = {
            (group.variant, start): model.eval()(values).logits
            for group in tuning.groups
            if group.seed == 1
            for start, model in zip(group.starts, tuning.models(group), strict=True)
        }
    softmax = found["softmax", None]
    torch.testing.assert_close(found["dna", "zero"], softmax, atol=1e-5, rtol=0)
    torch.testing.assert_close(found["dna", "warm"], softmax, atol=1e-2, rtol=0)
    assert (found["dna", "random"] - softmax).abs().max() > 1e-3
