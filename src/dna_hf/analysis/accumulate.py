"""Distributions of statistics over any number of samples, in a fixed amount of memory."""

from typing import Any

import torch

from .errors import AnalysisError


class RunningDistribution:
    """Count, mean and histogram of one statistic per attention head.

    Memory does not depend on how many values were added, and the same values in the same order give the same result.
    The mean is exact up to float64. The median is read from the histogram: it lies within half a bin of the true one,
    and is exact for whole numbers in bins of their own.

    Args:
        heads: number of heads.
        low: lower end of the first bin; what lies below counts in that bin.
        high: upper end of the last bin; what lies above counts in that bin.
        bins: number of bins, all of the same width.
    """

    def __init__(self, heads: int, low: float, high: float, bins: int) -> None:
        self.low, self.high, self.bins = low, high, bins
        self.histogram = torch.zeros(heads, bins, dtype=torch.int64)
        self.total = torch.zeros(heads, dtype=torch.float64)
        self.undefined = torch.zeros(heads, dtype=torch.int64)

    @property
    def count(self) -> torch.Tensor:
        """Number of values (heads) that were defined."""
        return self.histogram.sum(dim=1)

    @property
    def edges(self) -> list[float]:
        """Ends of the bins, one more than there are bins."""
        width = (self.high - self.low) / self.bins
        return [self.low + index * width for index in range(self.bins)] + [self.high]

    def add(self, values: torch.Tensor) -> None:
        """Add values (samples, heads); NaN counts as undefined and enters nothing else.

        Raises:
            AnalysisError: for values that are infinite.
        """
        values = values.detach().cpu().double()
        if values.isinf().any():
            raise AnalysisError("a statistic is infinite: look for where the model or its input breaks.")
        defined = ~values.isnan()
        self.undefined += (~defined).sum(dim=0)
        self.total += torch.where(defined, values, 0.0).sum(dim=0)
        position = (torch.nan_to_num(values) - self.low) / (self.high - self.low) * self.bins
        bins = position.floor().clamp(0, self.bins - 1).long()
        for head in range(len(self.total)):
            self.histogram[head] += torch.bincount(bins[defined[:, head], head], minlength=self.bins)

    def mean(self) -> list[float | None]:
        """Mean per head; `None` for a head without values."""
        pairs = zip(self.total.tolist(), self.count.tolist(), strict=True)
        return [total / count if count else None for total, count in pairs]

    def median(self) -> list[float | None]:
        """Median per head, as the middle of the bin it lies in; `None` for a head without values."""
        return [self._head_median(row) for row in self.histogram]

    def _head_median(self, row: torch.Tensor) -> float | None:
        count = int(row.sum())
        if not count:
            return None
        # of an even number of values, the mean of the two in the middle
        ranks = torch.tensor([(count - 1) // 2, count // 2])
        bins = torch.searchsorted(row.cumsum(0), ranks, right=True)
        return self.low + (bins.double().mean().item() + 0.5) * (self.high - self.low) / self.bins

    def pooled(self) -> "RunningDistribution":
        """All heads as one."""
        pooled = RunningDistribution(1, self.low, self.high, self.bins)
        pooled.histogram = self.histogram.sum(dim=0, keepdim=True)
        pooled.total = self.total.sum(dim=0, keepdim=True)
        pooled.undefined = self.undefined.sum(dim=0, keepdim=True)
        return pooled

    def merge(self, other: "RunningDistribution") -> None:
        """Add the values of another distribution with the same heads and bins."""
        if (self.low, self.high, self.histogram.shape) != (other.low, other.high, other.histogram.shape):
            raise ValueError("only distributions with the same heads and bins can be merged.")
        self.histogram = self.histogram + other.histogram
        self.total = self.total + other.total
        self.undefined = self.undefined + other.undefined

    def to_dict(self) -> dict[str, Any]:
        """Count, number of undefined values, mean and median per head, and the histogram of all heads together."""
        return {
            "count": self.count.tolist(),
            "undefined": self.undefined.tolist(),
            "mean": self.mean(),
            "median": self.median(),
            "histogram": {
                "low": self.low,
                "high": self.high,
                "counts": self.histogram.sum(dim=0).tolist(),
            },
        }
