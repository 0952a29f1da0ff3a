"""Time several functions in turn, so that whatever else happens on the machine meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


WARM_UP = 2


@dataclass(frozen=True)
class Quartiles:
    """How values are spread.

    Args:
        median: half of the values lie below it.
        lower: a quarter of the values lies below it.
        upper: a quarter of the values lies above it.
    """

    median: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Timing:
    """How long a function took.

    Args:
        seconds: mean seconds of a call in each window, in the order of the windows.
        calls: number of calls in a window.
    """

    seconds: tuple[float, ...]
    calls: int

    def rate(self, samples: int = 1) -> Quartiles:
        """Samples per second, over the windows.

        Args:
            samples: number of samples that a call works on.
        """
        return quartiles([samples / seconds for seconds in self.seconds])

    def speed_relative_to(self, other: "Timing") -> Quartiles:
        """How many times as fast as another function of the same measurement, over the rounds.

        Args:
            other: the function with speed 1.
        """
        return quartiles([theirs / own for theirs, own in zip(other.seconds, self.seconds, strict=True)])


def quartiles(values: Sequence[float]) -> Quartiles:
    """Median and quartiles of values, at least one; interpolated between the values."""
    if len(values) == 1:
        return Quartiles(values[0], values[0], values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Quartiles(median, lower, upper)


def time_in_turn(
    functions: Mapping[str, Callable[[], Any]],
    *,
    seconds: float,
    windows: int = 5,
    synchronize: Callable[[], Any] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time functions in rounds: in each, every function has a window in which it is called again and again.

    Every other round goes backwards, so that a machine that slows down favours none of them. Calls that warm up come
    first and do not count.

    Args:
        functions: name of each function -> the function, called without arguments.
        seconds: seconds that a window takes, about; one call, where that takes longer.
        windows: number of rounds.
        synchronize: called before the clock is read, to wait until a device has done what was asked of it, e.g.
            `torch.cuda.synchronize`.
        clock: gives the time in seconds; `time.process_time` for the processor time of work on the CPU.

    Returns:
        Name of each function -> how long it took.
    """

    def window(function: Callable[[], Any], calls: int) -> float:
        if synchronize is not None:
            synchronize()
        start = clock()
        for _ in range(calls):
            function()
        if synchronize is not None:
            synchronize()
        return (clock() - start) / calls

    calls = {}
    for name, function in functions.items():
        for _ in range(WARM_UP):
            function()
        calls[name] = max(1, round(seconds / max(window(function, 1), 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions)
    for _ in range(windows):
        for name in order:
            times[name].append(window(functions[name], calls[name]))
        order.reverse()
    return {name: Timing(tuple(times[name]), calls[name]) for name in functions}
