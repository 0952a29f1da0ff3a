"""An exponential moving average of the weights, kept, evaluated and resumed beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .errors import ConfigurationError


EMA_FILE = "ema.safetensors"


class ExponentialMovingAverage(TrainerCallback):
    """Averages the weights after every optimizer step: `average = decay * average + (1 - decay) * weights`.

    The average begins as the weights after the first step. It is saved in every checkpoint and read again on resume.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: AveragedModel | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start a new average, or continue the one of the checkpoint that the run resumes from."""
        self.average = AveragedModel(kwargs["model"], multi_avg_fn=get_ema_multi_avg_fn(self.decay), use_buffers=True)
        if state.global_step == 0:
            return
        self.load(Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))

    def load(self, checkpoint: Path) -> None:
        """Take the average of a checkpoint.

        Raises:
            ConfigurationError: if it has none.
        """
        assert self.average is not None
        path = checkpoint / EMA_FILE
        if not path.is_file():
            raise ConfigurationError(f"cannot resume: {str(path)!r} with the averaged weights is missing.")
        self.average.load_state_dict(load_file(path))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after every optimizer step."""
        assert self.average is not None
        self.average.update_parameters(kwargs["model"])

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called after a checkpoint was written."""
        if not state.is_world_process_zero or self.average is None:
            return
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in self.average.state_dict().items()}
        save_file(tensors, folder / EMA_FILE)

    @property
    def model(self) -> torch.nn.Module:
        """The model with the averaged weights."""
        assert self.average is not None
        return self.average.module

    @contextmanager
    def applied_to(self, model: PreTrainedModel) -> Iterator[None]:
        """Give a model the averaged weights for a while."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.model.state_dict())
        try:
            yield
        finally:
            model.load_state_dict(own)
