"""Fixtures of the tests of models."""

import pytest
import torch
from torch.utils._device import _device_constructors


# which functions `torch.device("meta")` leads there is found out at the first use, once: not by those of the fixture
_device_constructors()


@pytest.fixture(autouse=True)
def memory_is_poisoned(monkeypatch):
    """Fresh memory holds NaN, not the zeros that it happens to hold: who reads it before writing is found out."""
    for owner, name in [
        *((torch, name) for name in ("empty", "empty_like", "empty_strided")),
        *((torch.Tensor, name) for name in ("new_empty", "new_empty_strided")),
    ]:
        monkeypatch.setattr(owner, name, _poisoned(getattr(owner, name)))


def _poisoned(create):
    def poisoned(*args, **kwargs):
        tensor = create(*args, **kwargs)
        # tensors of the meta device have no memory, and a compiler wants to see the call itself
        if torch.compiler.is_compiling() or tensor.is_meta or not tensor.dtype.is_floating_point:
            return tensor
        with torch.no_grad():
            return tensor.fill_(torch.nan)

    return poisoned
