"""Means, spreads and paired differences over seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


# 97.5 % quantiles of Student's t distribution for 1, 2, ... degrees of freedom; beyond them the normal one will do
T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Spread:
    """How values are spread.

    Args:
        mean: mean of the values.
        deviation: sample standard deviation of the values; `None` for a single one.
    """

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """How far apart two samples are whose values belong together.

    Args:
        mean: mean of the paired differences.
        margin: half the width of the 95 % confidence interval of the mean; `None` for a single pair.
    """

    mean: float
    margin: float | None


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of values."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Difference of two samples whose values belong together one by one, e.g. by seed.

    The interval is that of Student's t distribution: it takes the differences as independent and normal.

    Args:
        values: first value of each pair.
        baseline: second value of each pair, in the same order; it is subtracted.
    """
    differences = [value - base for value, base in zip(values, baseline, strict=True)]
    count = len(differences)
    if count == 1:
        return Difference(differences[0], None)
    quantile = T_QUANTILES[count - 2] if count - 2 < len(T_QUANTILES) else statistics.NormalDist().inv_cdf(0.975)
    return Difference(statistics.fmean(differences), quantile * statistics.stdev(differences) / math.sqrt(count))
