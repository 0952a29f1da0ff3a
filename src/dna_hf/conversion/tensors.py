"""Move tensors from a source to a DnA model, accounting for each and tolerating nothing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .errors import ConversionError
from .report import Action, TensorRecord


# what checkpoints hold; others have no arithmetic of their own
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# how far a conversion that preserves the function may be from the source, relative to the largest value: in float32,
# and in half precision, where resampled positions are rounded
EXACT_TOLERANCE = {True: 1e-4, False: 1e-2}


class TensorMap:
    """Collects the tensors of a target, and what became of every tensor of a source.

    Nothing fails at once: what is missing or wrong is collected, so that the user sees all of it in one error. With a
    `dtype`, everything is computed in it. With `copy`, nothing taken shares memory with the source.
    """

    def __init__(
        self, name: str, source: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None, copy: bool = False
    ) -> None:
        self.name = name
        self.source = dict(source)
        self.dtype = dtype
        self._copy = copy
        self.records: list[TensorRecord] = []
        self.problems: list[str] = []
        # None stands for what a fresh model has there
        self.tensors: dict[str, torch.Tensor | None] = {}
        self._left = dict(source)

    def has(self, source: str) -> bool:
        """Whether a source tensor exists and is not taken yet."""
        return source in self._left

    def take(self, source: str) -> torch.Tensor | None:
        """Take a source tensor; `None`, and a problem, if it is missing or unfit."""
        tensor = self._left.pop(source, None)
        if tensor is None:
            self.problems.append(f"{source!r} is missing")
            return None
        if tensor.dtype not in DTYPES:
            self.problems.append(f"{source!r} holds no floating-point numbers but {tensor.dtype}")
            return None
        if tensor.is_meta:
            self.problems.append(f"{source!r} has no values")
            return None
        if not _is_finite(tensor):
            self.problems.append(f"{source!r} holds a number that is not finite")
            return None
        return tensor.to("cpu", self.dtype or tensor.dtype, copy=self._copy)

    def copy(
        self,
        source: str,
        target: str,
        change: Callable[[torch.Tensor], torch.Tensor] | None = None,
        action: Action = "copied",
        reason: str = "",
    ) -> None:
        """Copy a tensor, optionally changing its values or shape."""
        tensor = self.take(source)
        self.records.append(TensorRecord(action, source, (target,), reason))
        if tensor is not None:
            self.tensors[target] = tensor if change is None else change(tensor)

    def copy_module(self, source: str, target: str) -> None:
        """Copy weight and bias of a module."""
        for name in ("weight", "bias"):
            self.copy(f"{source}.{name}", f"{target}.{name}")

    def split(self, source: str, targets: list[str], rows: int) -> None:
        """Split a tensor into blocks of `rows` along its first dimension, one for each target, in order."""
        tensor = self.take(source)
        self.records.append(TensorRecord("split", source, tuple(targets)))
        if tensor is None:
            return
        expected = rows * len(targets)
        if tensor.dim() == 0 or tensor.shape[0] != expected:
            self.problems.append(f"{source!r} has shape {tuple(tensor.shape)}, not {expected} rows")
            return
        self.tensors.update(zip(targets, tensor.split(rows), strict=True))

    def merge(
        self, sources: list[str], target: str, how: Callable[[list[torch.Tensor]], torch.Tensor], reason: str
    ) -> None:
        """Make one tensor of several."""
        taken = [self.take(source) for source in sources]
        self.records += [TensorRecord("merged", source, (target,), reason) for source in sources]
        tensors = [tensor for tensor in taken if tensor is not None]
        if len(tensors) < len(sources):
            return
        if len({tensor.shape for tensor in tensors}) > 1:
            self.problems += [f"{source!r} differs in shape from {sources[0]!r}" for source in sources[1:]]
            return
        self.tensors[target] = how(tensors)

    def drop(self, source: str, reason: str) -> None:
        """Leave a tensor behind."""
        del self._left[source]
        self.records.append(TensorRecord("dropped", source, (), reason))

    def new(self, target: str, tensor: torch.Tensor | None, reason: str) -> None:
        """Add a tensor that the source does not have; `None` for the one of a fresh model."""
        self.tensors[target] = tensor
        self.records.append(TensorRecord("new", None, (target,), reason))

    def check(self) -> None:
        """Raise what was found wrong so far, and what was left over.

        Raises:
            ConversionError: listing missing, unfit and unexpected tensors.
        """
        problems = self.problems + [f"{source!r} is unexpected" for source in self._left]
        if problems:
            raise ConversionError(f"{self.name!r} is not the model it should be", problems)

    def build(self, model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
        """Build the model and load every tensor into it.

        The model has the widest dtype among the tensors, so that nothing is rounded.

        Raises:
            ConversionError: listing whatever is missing, unexpected, misshaped or not finite.
        """
        values = self._values(model_class, config)
        model = model_class(config).to(_widest(values))  # type: ignore[arg-type]
        model.load_state_dict(model.state_dict() | values, strict=True)
        return model.eval()

    def build_large(self, model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
        """As [`build`], but the tensors of that dtype become the parameters of the model, which are never held twice.

        Raises:
            ConversionError: listing whatever is missing, unexpected, misshaped or not finite.
        """
        values = self._values(model_class, config)
        with _quiet():
            model = model_class.from_pretrained(None, config=config, state_dict=values, dtype=_widest(values))
        model.config._name_or_path = ""
        return model.eval()

    def _values(self, model_class: type[PreTrainedModel], config: PreTrainedConfig) -> dict[str, torch.Tensor]:
        """The tensors that the model gets; the others are those of a fresh model."""
        with torch.device("meta"):
            expected = model_class(config).state_dict()
        sources = {target: record.source for record in self.records for target in record.targets}
        for target, tensor in expected.items():
            if target not in self.tensors:
                if target not in sources:
                    self.problems.append(f"nothing gives {target!r}")
                continue
            given = self.tensors[target]
            if given is not None and given.shape != tensor.shape:
                self.problems.append(
                    f"{sources[target]!r} gives {target!r} the shape {tuple(given.shape)}, not {tuple(tensor.shape)}"
                )
        self.problems += [f"the model has no {target!r}" for target in self.tensors if target not in expected]
        self.check()
        return {target: tensor for target, tensor in self.tensors.items() if tensor is not None}


def shape_problems(tensors: Mapping[str, torch.Tensor], dimensions: Mapping[str, int]) -> list[str]:
    """What is wrong with tensors that tell the sizes of a model.

    Args:
        tensors: all tensors of a source, by name.
        dimensions: number of dimensions by the name of each tensor that must be there, and not be empty.
    """
    problems = []
    for name, count in dimensions.items():
        if name not in tensors:
            problems.append(f"{name!r} is missing")
        elif tensors[name].dim() != count or not tensors[name].numel():
            problems.append(f"{name!r} has shape {tuple(tensors[name].shape)}")
    return problems


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether every number is; without a copy, as `isfinite` makes, of a tensor that may be large."""
    return not tensor.numel() or all(bound.isfinite().item() for bound in torch.aminmax(tensor))


def _widest(tensors: Mapping[str, torch.Tensor]) -> torch.dtype:
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of tensors that are new, and its bar: the report of the conversion has them."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
