"""Streaming distributions against all values at once."""

import math
import statistics

import pytest
import torch

from dna_hf.analysis.accumulate import RunningDistribution
from dna_hf.analysis.errors import AnalysisError


def draw(samples=101, heads=3, seed=0):
    return torch.rand(samples, heads, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def filled(values, chunk, bins=1000):
    distribution = RunningDistribution(values.shape[1], -1.0, 1.0, bins)
    for part in values.split(chunk):
        distribution.add(part)
    return distribution


@pytest.mark.parametrize("samples", [100, 101])
def test_count_mean_and_median_are_those_of_all_values(samples):
    values = draw(samples)
    distribution = filled(values, 7)
    assert distribution.count.tolist() == [samples] * 3
    for head, own in enumerate(values.double().T.tolist()):
        assert distribution.mean()[head] == pytest.approx(statistics.fmean(own), abs=1e-12)
        # half a bin of 0.002
        assert distribution.median()[head] == pytest.approx(statistics.median(own), abs=0.001 + 1e-9)


def test_chunks_do_not_matter():
    values = draw()
    whole, parts = filled(values, len(values)), filled(values, 4)
    assert torch.equal(whole.histogram, parts.histogram)
    assert whole.median() == parts.median()
    assert whole.mean() == pytest.approx(parts.mean(), abs=1e-12)
    assert filled(values, 4).to_dict() == parts.to_dict()


def test_the_histogram_is_that_of_a_loop_and_takes_in_what_lies_outside():
    values = torch.tensor([[-1.5], [-1.0], [-0.6], [0.0], [0.99], [1.0], [7.0]])
    distribution = filled(values, 2, bins=4)
    assert distribution.edges == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert distribution.histogram.tolist() == [[3, 0, 1, 3]]


@pytest.mark.parametrize("counts", [[0, 3, 3, 1], [2, 2, 3], [5], [0, 0, 1, 4]])
def test_the_median_of_whole_numbers_is_exact(counts):
    distribution = RunningDistribution(1, -0.5, 5.5, 6)
    distribution.add(torch.tensor(counts)[:, None])
    assert distribution.median() == [statistics.median(counts)]


def test_undefined_values_are_counted_and_enter_nothing_else():
    distribution = filled(torch.tensor([[0.2, math.nan], [math.nan, math.nan], [0.4, math.nan]]), 2)
    assert distribution.count.tolist() == [2, 0]
    assert distribution.undefined.tolist() == [1, 3]
    assert distribution.mean() == [pytest.approx(0.3), None]
    assert distribution.median() == [pytest.approx(0.3, abs=0.001), None]


def test_pooling_and_merging_are_those_of_all_values():
    first, second = draw(seed=1), draw(seed=2)
    merged = filled(first, 10).pooled()
    merged.merge(filled(second, 10).pooled())
    everything = filled(torch.cat((first, second)).flatten()[:, None], 1000)
    assert torch.equal(merged.histogram, everything.histogram)
    assert merged.mean() == pytest.approx(everything.mean(), abs=1e-12)
    with pytest.raises(ValueError, match="same heads and bins"):
        merged.merge(filled(first, 10))


def test_memory_does_not_depend_on_the_number_of_values():
    def size(distribution):
        return sum(value.numel() for value in vars(distribution).values() if isinstance(value, torch.Tensor))

    assert size(filled(draw(5), 1)) == size(filled(draw(5000), 100))


def test_infinite_values_are_refused():
    with pytest.raises(AnalysisError, match="infinite"):
        filled(torch.tensor([[math.inf]]), 1)
