"""What happens beside the steps of a run: what it measures, writes down and decides."""

import csv
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..data.sampling import EpochClock
from ..records.stamp import without_secrets
from ..whole_files import whole_file
from .checkpoint import RUN_FILE
from .diagnostics import negative_scale_statistics
from .errors import ConfigurationError


SCALES_FILE = "negative_scale.csv"
# part of the training time spent waiting for data from which on a run says so
LOADER_BOUND = 0.2
logger = logging.get_logger(__name__)


class LoaderWait(TrainerCallback):
    """Measures how long training waits for its data, and says so at the end where that is long.

    The loss is read back after every micro-batch: the work of a GPU is done by then, and counts as work.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self.worked = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around whatever waits for data."""
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around forward and backward passes."""
        start = time.monotonic()
        yield
        self.worked += time.monotonic() - start

    def part(self) -> float:
        """Time spent waiting, as a part of the time spent waiting or working."""
        return self.waited / max(self.waited + self.worked, 1e-9)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called once before the first batch is read."""
        self.waited = self.worked = 0.0

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called once after the last step."""
        if self.part() > LOADER_BOUND:
            logger.warning(
                f"training spent {self.part():.0%} of its time waiting for data: raise dataloader_num_workers "
                f"(now {args.dataloader_num_workers}), or make the images smaller."
            )


class AugmentationEpoch(TrainerCallback):
    """Tells the training data which epoch it is in; the augmentation is seeded by it."""

    def __init__(self, dataset: EpochClock) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the first batch of an epoch is read, and again when a run resumes within one."""
        self.dataset.set_epoch(int(state.epoch or 0))


class NegativeScaleLog(TrainerCallback):
    """Writes alpha of every layer and head to a file at the end of every epoch (columns epoch, layer, head, value)."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after the last step of an epoch."""
        scales = negative_scale_statistics(kwargs["model"])
        if not state.is_world_process_zero or not scales:
            return
        path, epoch = Path(args.output_dir, SCALES_FILE), f"{state.epoch:g}"
        # a resumed run repeats the epoch in which it was stopped
        kept = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                kept = [row for row in csv.reader(file) if row[0] != "epoch" and float(row[0]) < float(epoch)]
        with whole_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("epoch", "layer", "head", "value"))
            writer.writerows(kept)
            for name, value in scales.items():
                if "/layer_" in name:
                    _, layer, head = name.split("/")
                    writer.writerow((epoch, layer.removeprefix("layer_"), head.removeprefix("head_"), value))


class RunRecord(TrainerCallback):
    """Writes the sections of the run beside its first checkpoint, so that a resumed run can be compared with it."""

    def __init__(self, sections: dict[str, dict[str, Any]]) -> None:
        self.sections = sections

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after a checkpoint was written."""
        path = Path(args.output_dir, RUN_FILE)
        if state.is_world_process_zero and not path.exists():
            with whole_file(path) as unfinished:
                unfinished.write_text(
                    yaml.safe_dump(without_secrets(self.sections), sort_keys=False), encoding="utf-8"
                )


class DataRecord(TrainerCallback):
    """Writes what the data of a run holds beside its first checkpoint, and at the end of a run without any.

    Args:
        write: function that writes the file.
    """

    def __init__(self, write: Callable[[], None]) -> None:
        self.write = write

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after a checkpoint was written."""
        self.write()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called once after the last step."""
        self.write()


class EarlyStopping(TrainerCallback):
    """Stops when a number of evaluations in a row were no better than the best one.

    They are counted in the log of the run, which a resumed run has, too: it stops where it would have stopped, or does
    not go on at all.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the first step."""
        self._decide(args, state, control)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called when something was logged, evaluations of the averaged weights included."""
        self._decide(args, state, control)

    def _decide(self, args: Any, state: Any, control: Any) -> None:
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        values = [entry[name] for entry in state.log_history if name in entry]
        if not values:
            return
        best = max(values) if args.greater_is_better else min(values)
        if len(values) - 1 - values.index(best) >= self.patience:
            control.should_training_stop = True


class BestCheckpoint(TrainerCallback):
    """Finds the best checkpoint of a resumed run, whose folder may have moved."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called before the first step."""
        if state.best_global_step is None:
            return
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
        if folder.is_dir():
            state.best_model_checkpoint = str(folder)
        elif args.load_best_model_at_end:
            raise ConfigurationError(f"cannot resume: the best checkpoint {str(folder)!r} is missing.")
