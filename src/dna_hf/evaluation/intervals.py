"""Confidence intervals of what is measured on a sample."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np


# 97.5 % quantile of the normal distribution: 2.5 % lie beyond a 95 % interval on either side
NORMAL_QUANTILE = NormalDist().inv_cdf(0.975)
# samples that the bootstrap draws
DRAWS = 400


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion, by Wilson's score.

    All proportions `p` that a normal test at this level does not reject, `|p̂ - p| <= z sqrt(p (1 - p) / n)`, which is

        (p̂ + z² / 2n  ±  z sqrt(p̂ (1 - p̂) / n + z² / 4n²)) / (1 + z² / n)

    (E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927). Unlike
    `p̂ ± z sqrt(p̂ (1 - p̂) / n)`, it lies in [0, 1], has a width for `p̂` of 0 and 1, and holds for small samples.

    Args:
        hits: how many of the sample have the property, `p̂ = hits / count`.
        count: size `n` of the sample.

    Returns:
        Both ends, in [0, 1].

    Raises:
        ValueError: unless 0 <= hits <= count and count >= 1.
    """
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"{hits} of {count} is no proportion.")
    proportion, square = hits / count, NORMAL_QUANTILE**2
    centre = proportion + square / (2 * count)
    margin = NORMAL_QUANTILE * math.sqrt(proportion * (1 - proportion) / count + square / (4 * count**2))
    scale = 1 + square / count
    # rounding may leave [0, 1] by an ulp
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def bootstrap_interval(figure: Callable[[np.ndarray], float], count: int) -> tuple[float, float]:
    """The 95 % interval of any figure of a sample, by the percentiles of the bootstrap.

    As many samples are drawn again, with replacement, and measured: the interval is where 95 % of the figures lie
    (B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). It is always the same for the
    same sample.

    Args:
        figure: `figure(weights)`: the figure of a sample in which each of the `count` occurs `weights` times; nan
            where it has none.
        count: size of the sample.

    Returns:
        Both ends; nan if no sample has a figure.
    """
    random = np.random.default_rng(0)
    drawn = [figure(np.bincount(random.integers(count, size=count), minlength=count)) for _ in range(DRAWS)]
    there = [value for value in drawn if not math.isnan(value)]
    low, high = np.quantile(there, (0.025, 0.975)) if there else (math.nan, math.nan)
    return float(low), float(high)
