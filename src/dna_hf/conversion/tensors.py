"""Move tensors from a source to a DnA model, accounting for each and tolerating nothing."""

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .errors import ConversionError
from .report import Action, TensorRecord


# what checkpoints hold; others have no arithmetic of their own
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class TensorMap:
    """Collects the tensors of a target, and what became of every tensor of a source.

    Nothing fails at once: what is missing or wrong is collected, so that the user sees all of it in one error. With a
    `dtype`, everything is computed in it.
    """

    def __init__(self, name: str, source: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None) -> None:
        self.name = name
        self.source = dict(source)
        self.dtype = dtype
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
        if not tensor.isfinite().all():
            self.problems.append(f"{source!r} holds a number that is not finite")
            return None
        return tensor if self.dtype is None else tensor.to(self.dtype)

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

    def copy_module(self, source: str, target: str, names: tuple[str, ...] = ("weight", "bias")) -> None:
        """Copy the parameters of a module."""
        for name in names:
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
        values = {target: tensor for target, tensor in self.tensors.items() if tensor is not None}
        model = model_class(config).to(reduce(torch.promote_types, (tensor.dtype for tensor in values.values())))  # type: ignore[arg-type]
        model.load_state_dict(model.state_dict() | values, strict=True)
        return model.eval()
