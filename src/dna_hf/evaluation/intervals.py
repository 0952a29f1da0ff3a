"""Confidence intervals of what is measured on a sample."""

import math
from statistics import NormalDist


# 97.5 % quantile of the normal distribution: 2.5 % lie beyond a 95 % interval on either side
NORMAL_QUANTILE = NormalDist().inv_cdf(0.975)


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
