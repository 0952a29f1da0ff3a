"""A few steps of training on one batch of random images, in one of the ways of the part *mixed*, and its losses.

As a program (the distributed ways, and compiling, want a process of their own):

    mixed_training.py FOLDER SCALE WAY/VARIANT/PRECISION ...

writes FOLDER/WAY-VARIANT-PRECISION.json for every training, and WAY-VARIANT-eager.json of what it is compared with.
"""

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from states import write
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset
from transformers import TrainerCallback

from dna_hf.models import DnAViTConfig, DnAViTForImageClassification
from dna_hf.training.arguments import ClassifierTrainingArguments
from dna_hf.training.trainer import ClassificationTrainer


ROOT = Path(__file__).resolve().parents[2]
# TF32 is no float32
torch.backends.cudnn.allow_tf32 = False
SEED = 0
STEPS = 10
LEARNING_RATE = 1e-4
TRAINER, TRAINER_COMPILE, FSDP2 = "Trainer", "Trainer, torch_compile", "FSDP2"
COMPILE, DDP = "torch.compile", "DDP"
# in the place of a precision: float32 without any of it
EAGER = "eager"
FULL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
# what is compiled is traced layer by layer: two show what twelve do
COMPILED_LAYERS = {"num_hidden_layers": 2}


@dataclass
class Trace:
    """What came of a training.

    Args:
        losses: loss of every step.
        skipped: whether the scaler skipped the update of every step.
        scale: factor of the scaler after the last step; `None` without one.
        backend: backend of the processes, or of the compiler.
        seconds: seconds that it took.
        error: why it failed, in one line; empty if it did not.
    """

    losses: list[float] = field(default_factory=list)
    skipped: list[bool] = field(default_factory=list)
    scale: float | None = None
    backend: str = ""
    seconds: float = 0.0
    error: str = ""

    def by_update(self) -> list[float]:
        """Loss after 0, 1, 2, ... updates of the weights: the batch is always the same."""
        return [loss for index, loss in enumerate(self.losses) if not index or not self.skipped[index - 1]]


def guarded(train: Callable[[], Trace]) -> Trace:
    """A training, or why it failed."""
    start = time.monotonic()
    try:
        trace = train()
    except Exception as error:
        traceback.print_exc()
        trace = Trace(error=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
    trace.seconds = time.monotonic() - start
    return trace


class OneBatch(Dataset):
    """As many random images as a batch has."""

    def __init__(self, tiny: bool) -> None:
        size, count, labels = (32, 8, 10) if tiny else (224, 32, 1000)
        generator = torch.Generator().manual_seed(SEED)
        self.pixels = torch.randn(count, 3, size, size, generator=generator)
        self.labels = torch.randint(0, labels, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def build(variant: str, tiny: bool, **changes: Any) -> DnAViTForImageClassification:
    """The model, on the CPU: the same for every way."""
    torch.manual_seed(SEED)
    sizes = TINY | {"image_size": 32, "num_labels": 10} if tiny else FULL | {"num_labels": 1000}
    # one layer of cog attention at least
    config = DnAViTConfig(attention_variant=variant, cog_softmax_layers=[0], **sizes | changes)
    return DnAViTForImageClassification(config)


class Traced(ClassificationTrainer):
    """The Trainer of this package, which remembers its losses."""

    trace: Trace

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A step, and its loss."""
        loss = super().training_step(*args, **kwargs)
        self.trace.losses.append(loss.item())
        return loss


class Skips(TrainerCallback):
    """Remembers which updates were skipped: those after which the scale is smaller.

    accelerate does not say so of a fused optimizer, which skips by itself.

    Args:
        trainer: whose updates.
    """

    def __init__(self, trainer: Traced) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after every step."""
        trace, scaler = self.trainer.trace, self.trainer.accelerator.scaler
        before, trace.scale = trace.scale, None if scaler is None else scaler.get_scale()
        trace.skipped.append(before is not None and trace.scale is not None and trace.scale < before)


def by_trainer(variant: str, precision: str, tiny: bool, way: str = TRAINER, **changes: Any) -> Trace:
    """Train by the Trainer, as a run does.

    Args:
        variant: attention variant.
        precision: `"float32"`, `"bf16"` or `"fp16"`.
        tiny: whether the model is one for two cores.
        way: `TRAINER`; `TRAINER_COMPILE`: with `torch_compile: true`; `FSDP2`: sharded, as accelerate's launcher says.
        changes: fields of the configuration.

    Raises:
        RuntimeError: if it should shard the model and does not.
    """
    data = OneBatch(tiny)
    with tempfile.TemporaryDirectory() as folder:
        arguments = ClassifierTrainingArguments(
            output_dir=folder,
            max_steps=STEPS,
            per_device_train_batch_size=len(data),
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            # where accelerate launches, its file says the precision and the device
            bf16=precision == "bf16" and way != FSDP2,
            fp16=precision == "fp16",
            torch_compile=way == TRAINER_COMPILE,
            torch_compile_backend=compiler(tiny) if way == TRAINER_COMPILE else None,
            use_cpu=way != FSDP2 and not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=SEED,
        )
        trainer = Traced(model=build(variant, tiny, **changes), args=arguments, train_dataset=data)
        if precision == "fp16" and not torch.cuda.is_available():
            # torch has a scaler for the CPU, of which accelerate does not know
            trainer.accelerator.scaler, trainer.accelerator.native_amp = torch.amp.GradScaler("cpu"), True
        scaler = trainer.accelerator.scaler
        trainer.trace = trace = Trace(scale=None if scaler is None else scaler.get_scale())
        trainer.add_callback(Skips(trainer))
        trainer.train()
    if way == FSDP2:
        trace.backend = dist.get_backend()
        if not isinstance(trainer.model_wrapped, FSDPModule):
            raise RuntimeError(f"accelerate trained a {type(trainer.model_wrapped).__name__}, which is not sharded")
        if trainer.accelerator.mixed_precision != {"float32": "no"}.get(precision, precision):
            raise RuntimeError(f"accelerate trained in {trainer.accelerator.mixed_precision}, not in {precision}")
    if way == TRAINER_COMPILE:
        trace.backend = compiler(tiny)
    return trace


def compiler(tiny: bool) -> str:
    """What compiles the graphs: inductor, which takes too long on two cores."""
    return "aot_eager" if tiny else "inductor"


def by_hand(variant: str, tiny: bool, way: str = "", **changes: Any) -> Trace:
    """Train in float32 without the Trainer.

    Args:
        variant: attention variant.
        tiny: whether the model is one for two cores.
        way: `COMPILE`: whole, without graph breaks; `DDP`: in the only process, where accelerate would not wrap it.
        changes: fields of the configuration.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = OneBatch(tiny)
    pixels, labels = data.pixels.to(device), data.labels.to(device)
    model: Any = build(variant, tiny, **changes).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    trace = Trace()
    if way == COMPILE:
        torch._dynamo.reset()
        model = torch.compile(model, fullgraph=True, dynamic=False, backend=compiler(tiny))
        trace.backend = compiler(tiny)
    if way == DDP:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        model = DistributedDataParallel(model)
        trace.backend = dist.get_backend()
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = model(pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        trace.losses.append(loss.item())
        trace.skipped.append(False)
    return trace


def trace_file(folder: Path, way: str, variant: str, precision: str) -> Path:
    """The file of a trace."""
    return folder / f"{way}-{variant}-{precision}.json".replace(" ", "")


def train(way: str, variant: str, precision: str, tiny: bool) -> Trace:
    """A training in a process of its own, or with the precision `EAGER` what it is compared with."""
    changes = COMPILED_LAYERS if way in (COMPILE, TRAINER_COMPILE) else {}
    by_own_hand = way in (COMPILE, DDP)
    if precision == EAGER:
        return by_hand(variant, tiny, **changes) if by_own_hand else by_trainer(variant, "float32", tiny, **changes)
    if by_own_hand:
        return by_hand(variant, tiny, way, **changes)
    return by_trainer(variant, precision, tiny, way, **changes)


def main(folder: Path, tiny: bool, trainings: list[list[str]]) -> None:
    """Train, and leave the traces."""
    torch.set_num_threads(1 if tiny else torch.get_num_threads())
    for way, variant, precision in trainings:
        if way == FSDP2 and not torch.cuda.is_available():
            # accelerate shards on GPUs alone
            sys.path.insert(0, str(ROOT))
            from tests.training.fsdp_on_cpu import pretend_to_have_gpus

            pretend_to_have_gpus()
        # the sharded training is compared with that of the process that asks for it
        for own in (precision,) if way == FSDP2 else (EAGER, precision):
            trace = guarded(lambda w=way, v=variant, p=own: train(w, v, p, tiny))
            write(trace_file(folder, way, variant, own), json.dumps(asdict(trace)))
    if dist.is_initialized():
        dist.destroy_process_group()
        # all is written; threads that torch leaves behind can abort a process that ends while they run
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "tiny", [training.split("/") for training in sys.argv[3:]])
