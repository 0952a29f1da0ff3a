"""Means, spreads and paired differences against numbers from a book."""

import math

import pytest

from dna_hf.experiments.statistics import T_QUANTILES, paired_difference, spread


def test_spread():
    result = spread([1.0, 2.0, 4.0])
    assert result.mean == pytest.approx(7 / 3)
    assert result.deviation == pytest.approx(math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2))
    assert spread([3.0]).deviation is None


def test_paired_difference():
    result = paired_difference([81.0, 83.0, 82.5], [80.0, 81.0, 82.0])
    # differences 1, 2, 0.5: mean 7/6, standard deviation 0.7638, times 4.303 over the root of 3
    assert result.mean == pytest.approx(7 / 6)
    assert result.margin == pytest.approx(4.303 * 0.763763 / math.sqrt(3), rel=1e-4)
    assert paired_difference([1.0], [3.0]).mean == -2.0
    assert paired_difference([1.0], [3.0]).margin is None
    with pytest.raises(ValueError):
        paired_difference([1.0, 2.0], [1.0])


def test_quantiles_are_those_of_the_t_distribution():
    """Against the density, integrated numerically."""
    for freedom, quantile in enumerate(T_QUANTILES, start=1):
        scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
        steps = 20000
        width = quantile / steps
        area = (
            sum((1 + ((i + 0.5) * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(steps)) * width * scale
        )
        assert area == pytest.approx(0.475, abs=5e-5)


def test_many_pairs_use_the_normal_quantile():
    values = [float(i % 2) for i in range(40)]
    result = paired_difference(values, [0.0] * 40)
    assert result.margin == pytest.approx(1.959964 * spread(values).deviation / math.sqrt(40))
