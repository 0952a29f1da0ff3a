"""Does Denoising Attention help from scratch? Every variant and three seeds on all of CIFAR-10, as far as time allows.

The recipe is `configs/vit_tiny_cifar10.yaml`, but images are cropped by padding, there is no stochastic depth, and
Mixup and CutMix come in from `MIXING_EPOCHS` epochs on: they hold a short training back. The three seeds of a variant
are trained at once; in which way is measured first, and written to `plan.json` with the number of epochs that the time
allows, the same for all models. The variant that is behind has the next epoch, so that all are level when time is up;
the next call goes on with the plan. A `plan.json` written by hand, `{"epochs": 30}`, plans for several calls.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from images import Images, Inputs, read_images
from kit import DONE, Part, write
from training import Recipe, Training, measure, now, save

from dna_hf import DnAViTConfig, DnAViTForImageClassification
from dna_hf.data.mixing import MixingCollator
from dna_hf.experiments.summary import BASELINE, MATCHED, RunFigures, matched_intermediate_size, summary
from dna_hf.records.complexity import count_macs, count_parameters
from dna_hf.records.stamp import peak_memory
from dna_hf.training.yaml_file import read_sections


RECIPE = "vit_tiny_cifar10"
VARIANTS = (BASELINE, "dna", "differential", "cog", "dna_shared_value", MATCHED)
SEEDS = (0, 1, 2)
# the variant by which ways of training are compared
MEASURED = "dna"
MIXING_EPOCHS = 50
# what a plan holds; of these a user may write epochs and mixing
PLAN = ("epochs", "mixing", "measured", "ways", "evaluation_seconds")
# of the time that is left, what a plan uses
PLANNED = 0.9
TINY_MODEL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
TINY_IMAGES, TINY_TEST, TINY_BATCH, TINY_EPOCHS = 1000, 500, 50, 2


@dataclass(frozen=True)
class Way:
    """How several models are trained on one device.

    Args:
        at_once: whether all models of a stack run in one go (`vmap`), or one after the other.
        compiled: whether their layers are compiled.
    """

    at_once: bool
    compiled: bool = False

    @property
    def compiler(self) -> Callable | None:
        """What compiles the layers."""
        if not self.compiled:
            return None
        # every variant is one more graph of the same function, and none is a reason for graphs of any size
        torch._dynamo.config.recompile_limit = 64
        return partial(torch.compile, dynamic=False)


class Comparison:
    """All models of the comparison and where they stand.

    Args:
        part: the part of the session.
    """

    def __init__(self, part: Part):
        self.part = part
        sections = read_sections(RECIPE)
        self.images = read_images(part, "train", TINY_IMAGES if part.tiny else None).to(part.device)
        self.test_images = read_images(part, "test", TINY_TEST if part.tiny else None).to(part.device)
        self.recipe = _recipe(sections, part.tiny)
        self.mixing = MixingCollator(
            num_classes=10, **{name: sections["data"][name] for name in ("mixup_alpha", "cutmix_alpha")}
        )
        self.configs = _configs(sections["model"], self.images, part.tiny)
        self.most_epochs = TINY_EPOCHS if part.tiny else sections["training"]["num_train_epochs"]
        model_class = DnAViTForImageClassification
        self.costs = {
            name: {"parameters": count_parameters(model_class, config), "macs": count_macs(model_class, config)}
            for name, config in self.configs.items()
        }
        self.rows = part.rows("epochs.csv", key=("variant", "seed", "epoch"))
        self.plan = self._read_plan()
        self.trainings: dict[str, Training] = {}

    def _read_plan(self) -> dict[str, Any]:
        path = self.part.out / "plan.json"
        plan = json.loads(path.read_text()) if path.exists() else {}
        for name in plan:
            if name not in PLAN:
                raise ValueError(f"{path} has no use for {name!r}: it holds {', '.join(PLAN)}.")
        epochs = plan.get("epochs", 1)
        if not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f"epochs in {path} must be a whole number of at least 1, got {epochs!r}.")
        return plan

    def start(self, variant: str, way: Way) -> Training:
        """The models of a variant, one for each seed, with their initial weights."""
        models = []
        for seed in SEEDS:
            torch.manual_seed(seed)
            models.append(DnAViTForImageClassification(self.configs[variant]))
        return Training(models, SEEDS, self.images, self.recipe, at_once=way.at_once, compiler=way.compiler)

    def choose_way(self) -> Way:
        """Measure the ways, and take the one that leaves time for most epochs; put all of them into the plan."""
        measured = [self._measure(MEASURED, Way(at_once))[1] for at_once in (False, True)]
        for faster in sorted(measured, key=_step_seconds) if self.part.device.type == "cuda" else ():
            measured.append(self._measure(MEASURED, Way(faster["at_once"], compiled=True))[1])
            if "error" not in measured[-1]:
                break
        self.plan["measured"] = measured
        return _way(max(measured, key=self._epochs_left))

    def _measure(self, variant: str, way: Way) -> tuple[Training | None, dict[str, Any]]:
        """The models of a variant, and the way with its times; or no models, and the way with its error."""
        found = asdict(way)
        try:
            training = self.start(variant, way)
            found["first_seconds"], found["step_seconds"] = measure(training, self._measured_steps)
        except Exception as error:  # a way that does not run here is no way; the plan says why
            training, found["error"] = None, f"{type(error).__name__}: {error}"[:500]
        print(variant, found, flush=True)
        return training, found

    def _measure_all(self) -> None:
        """Bring all variants into the way that was chosen, or, one that does not run so, into the plain one."""
        way, self.plan["ways"] = self.choose_way(), {}
        for variant in VARIANTS:
            training, found = self._measure(variant, way)
            if training is None:
                training, plain = self._measure(variant, Way(at_once=False))
                found = plain | {"instead_of": found}
            if training is None:
                raise RuntimeError(f"no way of training {variant} runs: {found}")
            self.trainings[variant], self.plan["ways"][variant] = training, found
        self.plan["evaluation_seconds"] = self._time_evaluation()

    @property
    def _measured_steps(self) -> int:
        return 3 if self.part.tiny else 20

    def _epochs_left(self, found: dict[str, Any]) -> float:
        """How many epochs of all models a way leaves time for, if every other variant must be compiled as well."""
        compiling = (len(VARIANTS) - 1) * found.get("first_seconds", 0.0) if found["compiled"] else 0.0
        return (self.part.seconds_left() - compiling) / (_step_seconds(found) * len(VARIANTS) * self.steps)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.images) // self.recipe.batch_size

    def prepare(self) -> None:
        """Make the plan, or what it lacks, and bring all models to where they stand."""
        if "ways" in self.plan:
            self.trainings = {name: self.start(name, _way(self.plan["ways"][name])) for name in VARIANTS}
        else:
            self._measure_all()
        if "epochs" not in self.plan:
            one = sum(map(self.expected_seconds, VARIANTS))
            self.plan["epochs"] = max(1, min(self.most_epochs, int(PLANNED * self.part.seconds_left() / one)))
        self.plan.setdefault("mixing", self.plan["epochs"] >= MIXING_EPOCHS)
        write(self.part.out / "plan.json", json.dumps(self.plan, indent=2) + "\n")
        print(f"{self.plan['epochs']} epochs", flush=True)
        for variant, training in self.trainings.items():
            if self.plan["mixing"]:
                training.recipe = replace(self.recipe, mixing=self.mixing)
            if self._path(variant).exists():
                state = torch.load(self._path(variant), map_location=self.part.device, weights_only=True)
                training.load(state)
                self._add_rows(state["rows"])

    def _time_evaluation(self) -> float:
        """Seconds in which the models of a variant are evaluated and saved."""
        training, path = self.trainings[MEASURED], self.part.checkpoints / "measured.pt"
        training.test(self.test_images)
        start = now(training)
        training.test(self.test_images)
        save(training.state(), path)
        seconds = now(training) - start
        path.unlink()
        return seconds

    def expected_seconds(self, variant: str) -> float:
        """Seconds of an epoch of all seeds of a variant, evaluation included."""
        return self.plan["ways"][variant]["step_seconds"] * self.steps + self.plan["evaluation_seconds"]

    def _path(self, variant: str) -> Path:
        return self.part.checkpoints / f"{variant}.pt"

    def next(self) -> str | None:
        """The variant that has the next epoch: the one that is behind; none when all are finished."""
        variant = min(VARIANTS, key=lambda name: self.trainings[name].epoch)
        return None if self.trainings[variant].epoch == self.plan["epochs"] else variant

    def run_epoch(self, variant: str) -> None:
        """Train, evaluate and save all seeds of a variant for one epoch more."""
        training, start = self.trainings[variant], time.perf_counter()
        if self.part.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        losses = training.train_epoch(self.plan["epochs"])
        test_losses, top1 = training.test(self.test_images)
        training.seconds += time.perf_counter() - start
        rows = [
            {
                "variant": variant,
                "seed": seed,
                "epoch": training.epoch,
                "train_loss": losses[index].item(),
                "test_loss": test_losses[index],
                "top1": top1[index],
                "seconds": training.seconds / len(SEEDS),
                "peak_memory": peak_memory(),
            }
            for index, seed in enumerate(SEEDS)
        ]
        # rows are saved with the weights that they tell of: who is killed in between adds them when it goes on
        save(training.state() | {"rows": rows}, self._path(variant))
        self._add_rows(rows)

    def _add_rows(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if not self.rows.has(row["variant"], row["seed"], row["epoch"]):
                self.rows.add(row)

    def figures(self) -> list[RunFigures]:
        """Figures of all models after the last epoch that all of those have which have begun."""
        begun = [training.epoch for training in self.trainings.values() if training.epoch]
        level = min(begun, default=0)
        rows = {(row["variant"], int(row["seed"])): row for row in self.rows.all if int(row["epoch"]) == level}
        images = level * self.steps * self.recipe.batch_size
        return [
            RunFigures(
                variant=variant,
                seed=seed,
                top1=float(row["top1"]),
                loss=float(row["test_loss"]),
                seconds=float(row["seconds"]),
                samples_per_second=images / float(row["seconds"]),
                peak_memory=int(row["peak_memory"]),
                resumed=False,
                **self.costs[variant],
            )
            for variant in VARIANTS
            for seed in SEEDS
            if (row := rows.get((variant, seed)))
        ]

    def finish(self, state: str) -> None:
        """Say how far the comparison is, with the table of all models at the same epoch."""
        levels = [training.epoch for training in self.trainings.values()]
        mixing = "with" if self.plan["mixing"] else "without"
        note = f"{min(levels)} of {self.plan['epochs']} epochs, {mixing} Mixup and CutMix"
        note += f"; the {len(SEEDS)} seeds of a variant are trained side by side and share the time and the memory"
        if state != DONE:
            note += "; cut off: the learning rate has not come down yet, so the accuracies are not final"
        figures = self.figures()
        self.part.finish(state, summary(figures) if figures else "", note)


def _recipe(sections: dict[str, dict[str, Any]], tiny: bool) -> Recipe:
    training, data = sections["training"], sections["data"]
    return Recipe(
        learning_rate=float(training["learning_rate"]),
        weight_decay=training["weight_decay"],
        warmup=training["warmup_steps"],
        batch_size=TINY_BATCH if tiny else training["per_device_train_batch_size"],
        inputs=Inputs(tuple(data["image_mean"]), tuple(data["image_std"])),
        label_smoothing=training["label_smoothing_factor"],
    )


def _configs(model: dict[str, Any], images: Images, tiny: bool) -> dict[str, DnAViTConfig]:
    """The configuration of each variant."""
    fields = {name: value for name, value in model.items() if name not in ("model_type", "attention_variant")}
    size = images.pixels.shape[-1]
    fields |= {"image_size": size, "drop_path_rate": 0.0, "num_labels": 10}
    if tiny:
        fields |= TINY_MODEL | {"patch_size": size // 4}
    wider = matched_intermediate_size(DnAViTConfig(attention_variant="dna", **fields))
    return {
        name: DnAViTConfig(attention_variant=BASELINE, **fields | {"intermediate_size": wider})
        if name == MATCHED
        else DnAViTConfig(attention_variant=name, **fields)
        for name in VARIANTS
    }


def _way(found: dict[str, Any]) -> Way:
    """A way that was measured."""
    return Way(found["at_once"], found["compiled"])


def _step_seconds(found: dict[str, Any]) -> float:
    return found.get("step_seconds", float("inf"))


def main() -> None:
    """Train until all is done, or time is up."""
    part = Part.from_command_line()
    comparison = Comparison(part)
    comparison.prepare()
    while (variant := comparison.next()) is not None:
        if comparison.expected_seconds(variant) > part.seconds_left():
            comparison.finish("cut")
            return
        comparison.run_epoch(variant)
        comparison.finish("cut")
    runs = part.rows("runs.csv", key=("variant", "seed"))
    for figures in comparison.figures():
        if not runs.has(figures.variant, figures.seed):
            runs.add(asdict(figures))
    comparison.finish(DONE)


if __name__ == "__main__":
    main()
