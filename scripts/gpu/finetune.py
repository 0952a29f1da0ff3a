"""Does Denoising Attention help a model that is trained already? DINOv2-small, converted and fine-tuned on CIFAR-10.

Every attention variant, every start of its negative branch, three seeds; the same epochs for all, as many as time
allows but no more than those of `configs/dinov2_small_cifar10.yaml`, written to `plan.json`. From that recipe it
departs in the size of a batch, with the learning rate that belongs to it, and in the crop, which is by padding. The
starts of a variant are trained at once; seed by seed, so that every variant has one early. What was cut starts again.
"""

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from images import Inputs, read_images
from kit import CUT, DONE, Part, write
from torch import nn
from training import Recipe, Training, measure
from transformers import Dinov2Config, Dinov2Model, PreTrainedModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from dna_hf import DnAViTConfig, DnAViTForImageClassification, DnAViTModel
from dna_hf.conversion import from_pretrained_softmax
from dna_hf.conversion.attention import NegativeInit, NegativeStart
from dna_hf.experiments.summary import BASELINE, RunFigures, summary
from dna_hf.models.attention_variants import ATTENTION_VARIANTS
from dna_hf.models.layers_dna import init_projection
from dna_hf.records.complexity import count_macs
from dna_hf.records.stamp import peak_memory
from dna_hf.training.yaml_file import read_sections


RECIPE = "dinov2_small_cifar10"
SEEDS = (0, 1, 2)
IMAGE_SIZE, IMAGES, BATCH = 84, 10_000, 100
# of the time that is left, what a plan uses
PLANNED = 0.9
TINY_SIZE, TINY_IMAGES, TINY_TEST, TINY_BATCH, TINY_EPOCHS = 28, 200, 200, 50, 1


@dataclass(frozen=True)
class Group:
    """Models that are trained at once: a variant with all of its starts, under one seed.

    Args:
        variant: attention variant.
        starts: how the negative branch begins, one for each model; `None` where there is nothing to begin.
        seed: seed of the new tensors, the order of the images and their augmentation.
    """

    variant: str
    starts: tuple[str | None, ...]
    seed: int

    @property
    def names(self) -> list[str]:
        """What the models are called in tables."""
        return [self.variant if start is None else f"{self.variant}, {start}" for start in self.starts]


def groups() -> list[Group]:
    """All that is to be trained, in the order of its value: seed by seed, the baseline first."""
    variants = [BASELINE, *(variant for variant in ATTENTION_VARIANTS if variant != BASELINE)]
    return [Group(variant, starts_of(variant), seed) for seed in SEEDS for variant in variants]


def starts_of(variant: str) -> tuple[str | None, ...]:
    """How the negative branch of a variant can begin."""
    return (None,) if NegativeStart().idle("negative_init", variant) else get_args(NegativeInit)


def source_of(part: Part) -> PreTrainedModel:
    """DINOv2-small from its folder, or, at the tiny scale without one, a small random model of its kind."""
    if part.weights is not None:
        return Dinov2Model.from_pretrained(part.weights, dtype=torch.float32)
    if not part.tiny:
        raise FileNotFoundError("the full scale needs DINOv2-small: give its folder (WEIGHTS=).")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2}
    return Dinov2Model(Dinov2Config(**sizes, image_size=TINY_SIZE, patch_size=7))


def with_head(body: DnAViTModel, seed: int, classes: int) -> DnAViTForImageClassification:
    """A classifier on a converted model; under one seed all have the same head."""
    config = copy.deepcopy(body.config)
    config.num_labels = classes
    with torch.device("meta"):
        model = DnAViTForImageClassification(config)
    model.dna_vit = body
    model.classifier = nn.Linear(model.classifier.in_features, classes)
    torch.manual_seed(seed)
    init_projection(model.classifier, config.initializer_range)
    return model


class FineTuning:
    """All models, and which of them are finished.

    Args:
        part: the part of the session.
    """

    def __init__(self, part: Part):
        self.part = part
        self.size = TINY_SIZE if part.tiny else IMAGE_SIZE
        self.images = read_images(part, "train", TINY_IMAGES if part.tiny else IMAGES).to(part.device)
        self.test_images = read_images(part, "test", TINY_TEST if part.tiny else None).to(part.device)
        self.source = source_of(part)
        sections = read_sections(RECIPE)["training"]
        batch = TINY_BATCH if part.tiny else BATCH
        self.recipe = Recipe(
            learning_rate=float(sections["learning_rate"]) * batch / sections["per_device_train_batch_size"],
            weight_decay=sections["weight_decay"],
            warmup=sections["warmup_steps"],
            batch_size=batch,
            inputs=Inputs(tuple(IMAGENET_DEFAULT_MEAN), tuple(IMAGENET_DEFAULT_STD), self.size),
        )
        self.most_epochs = TINY_EPOCHS if part.tiny else sections["num_train_epochs"]
        self.groups = groups()
        self._counted: dict[str, int] = {}
        self.rows = part.rows("runs.csv", key=("variant", "seed"))
        path = part.out / "plan.json"
        self.plan: dict[str, Any] = json.loads(path.read_text()) if path.exists() else self._make_plan()
        write(path, json.dumps(self.plan, indent=2) + "\n")

    @property
    def left(self) -> list[Group]:
        """Groups that have no results yet."""
        return [group for group in self.groups if not all(self.rows.has(name, group.seed) for name in group.names)]

    def models(self, group: Group) -> list[DnAViTForImageClassification]:
        """The converted models of a group."""
        models = []
        for start in group.starts:
            # what is random in a model depends on its seed alone
            torch.manual_seed(group.seed)
            options = {} if start is None else {"negative_init": start}
            body, _ = from_pretrained_softmax(
                self.source, attention_variant=group.variant, image_size=self.size, dtype=torch.float32, **options
            )
            models.append(with_head(body, group.seed, classes=10))
        return models

    def training(self, models: Sequence[DnAViTForImageClassification], seed: int, at_once: bool) -> Training:
        """The models of a group, ready to be trained."""
        return Training(models, [seed] * len(models), self.images, self.recipe, at_once=at_once)

    def _make_plan(self) -> dict[str, Any]:
        """Measure the largest group in both ways, and plan the epochs that all groups can have."""
        largest = max(self.groups, key=lambda group: len(group.starts))
        begin = time.perf_counter()
        models = self.models(largest)
        conversion = (time.perf_counter() - begin) / len(models)
        seconds = {}
        for at_once in (False, True):
            try:
                training = self.training(models, largest.seed, at_once)
                seconds[at_once] = measure(training, 3 if self.part.tiny else 10)[1]
            except Exception as error:  # a way that does not run here is no way; the log says why
                print(f"at_once={at_once} fails: {type(error).__name__}: {error}"[:500], flush=True)
        if not seconds:
            raise RuntimeError("no way of training runs: see the log.")
        at_once = min(seconds, key=lambda way: seconds[way])
        epoch = seconds[at_once] / len(largest.starts) * (len(self.images) // self.recipe.batch_size)
        # a forward pass is a third of a step
        evaluation = epoch / 3 * len(self.test_images) / len(self.images)
        count = sum(len(group.starts) for group in self.groups)
        left = PLANNED * self.part.seconds_left() - count * (conversion + evaluation)
        return {
            "step_seconds": {"one after the other": seconds.get(False), "at once": seconds.get(True)},
            "at_once": at_once,
            "model_seconds": {"conversion": conversion, "epoch": epoch, "evaluation": evaluation},
            "epochs": max(1, min(self.most_epochs, int(left / (count * epoch)))),
        }

    def expected_seconds(self, group: Group) -> float:
        """Seconds that a group needs."""
        one = self.plan["model_seconds"]
        return len(group.starts) * (one["conversion"] + one["epoch"] * self.plan["epochs"] + one["evaluation"])

    def run(self, group: Group) -> None:
        """Train and evaluate the models of a group, and write their rows."""
        if self.part.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        models = self.models(group)
        training = self.training(models, group.seed, self.plan["at_once"] and len(models) > 1)
        begin = time.perf_counter()
        for _ in range(self.plan["epochs"]):
            training.train_epoch(self.plan["epochs"])
        losses, top1 = training.test(self.test_images)
        seconds = (time.perf_counter() - begin) / len(group.starts)
        images = self.plan["epochs"] * (len(self.images) // self.recipe.batch_size) * self.recipe.batch_size
        for index, name in enumerate(group.names):
            figures = RunFigures(
                variant=name,
                seed=group.seed,
                top1=top1[index],
                loss=losses[index],
                parameters=models[0].num_parameters(),
                macs=self._macs(group.variant, models[0].config),
                seconds=seconds,
                samples_per_second=images / seconds,
                peak_memory=peak_memory(),
                resumed=False,
            )
            if not self.rows.has(name, group.seed):
                self.rows.add(asdict(figures))

    def _macs(self, variant: str, config: DnAViTConfig) -> int:
        """Counted once for each variant."""
        if variant not in self._counted:
            self._counted[variant] = count_macs(DnAViTForImageClassification, config)
        return self._counted[variant]

    def finish(self) -> None:
        """Write the table of what is there, and what is missing."""
        missing = [f"{name} seed {group.seed}" for group in self.left for name in group.names]
        note = f"{len(self.images):,} images, {self.plan['epochs']} epochs, {self.size} px"
        note += "; the starts of a variant are trained side by side and share the time and the memory"
        if missing:
            note += f"; cut off: {'; '.join(missing)}"
        figures = sorted(map(_figures, self.rows.all), key=lambda run: self._place(run.variant))
        self.part.finish(CUT if missing else DONE, summary(figures) if figures else "", note)

    def _place(self, name: str) -> int:
        names = [name for group in self.groups for name in group.names]
        return names.index(name)


def _figures(row: dict[str, str]) -> RunFigures:
    """Figures as they were written."""
    return RunFigures(
        variant=row["variant"],
        **{name: int(row[name]) for name in ("seed", "parameters", "macs", "peak_memory")},
        **{name: float(row[name]) for name in ("top1", "loss", "seconds", "samples_per_second")},
        resumed=False,
    )


def main() -> None:
    """Train until all is done, or time is up."""
    part = Part.from_command_line()
    tuning = FineTuning(part)
    for group in tuning.left:
        if tuning.expected_seconds(group) <= part.seconds_left():
            tuning.run(group)
            tuning.finish()
    tuning.finish()


if __name__ == "__main__":
    main()
