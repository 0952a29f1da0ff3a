"""The models are tested with memory that holds NaN until something is written."""

import torch


def test_fresh_memory_is_poisoned():
    there = torch.zeros(2, 3)
    for fresh in (torch.empty(3), torch.empty_like(there), there.new_empty(4), torch.empty_strided((2,), (1,))):
        assert fresh.isnan().all()
    assert not torch.empty(3, dtype=torch.long).is_floating_point()
    with torch.device("meta"):
        assert torch.empty(3).is_meta and torch.empty_like(there, device="meta").is_meta
    # a layer writes all of its own
    assert torch.nn.Linear(3, 4).weight.isfinite().all()
