"""Confidence intervals against values from elsewhere and against their definition."""

import math

import pytest

from dna_hf.evaluation.intervals import wilson_interval


# to four digits: the examples of R. G. Newcombe, Two-sided confidence intervals for the single proportion, Statistics
# in Medicine 17, 1998 (table I, score method); and by hand 5 of 10, and 1 of 1, which begins at 1 / (1 + z²)
KNOWN = {
    (81, 263): (0.2553, 0.3662),
    (15, 148): (0.0624, 0.1605),
    (0, 20): (0.0, 0.1611),
    (1, 29): (0.0061, 0.1718),
    (5, 10): (0.2366, 0.7634),
    (1, 1): (0.2065, 1.0),
}


@pytest.mark.parametrize(("hits", "count"), KNOWN)
def test_known_intervals(hits, count):
    assert wilson_interval(hits, count) == pytest.approx(KNOWN[hits, count], abs=5.1e-5)


@pytest.mark.parametrize(("hits", "count"), [(0, 3), (1, 3), (3, 3), (17, 500), (250, 500), (49_999, 50_000)])
def test_the_ends_are_where_a_test_begins_to_reject(hits, count):
    """The definition: both ends lie z standard deviations (of the end itself) from the observed proportion."""
    low, high = wilson_interval(hits, count)
    observed = hits / count
    assert 0 <= low <= observed <= high <= 1 and low < high
    for end in (low, high):
        if 1e-12 < end < 1 - 1e-12:
            distance = abs(observed - end) / math.sqrt(end * (1 - end) / count)
            # 2.5 % of a normal distribution lie beyond
            assert math.erfc(distance / math.sqrt(2)) / 2 == pytest.approx(0.025, abs=1e-9)


def test_symmetry_and_width():
    for hits in range(11):
        low, high = wilson_interval(hits, 10)
        assert wilson_interval(10 - hits, 10) == pytest.approx((1 - high, 1 - low))
    widths = [high - low for low, high in (wilson_interval(count // 2, count) for count in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (-1, 3), (4, 3)])
def test_what_is_no_proportion_is_refused(hits, count):
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(hits, count)
