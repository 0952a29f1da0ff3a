"""Functions timed in turn: what the clock of a machine shows that the test makes up, and the real one."""

import time

import pytest

from dna_hf.benchmark.timing import WARM_UP, Quartiles, Timing, quartiles, time_in_turn


pytestmark = pytest.mark.once


class Machine:
    """Functions that take a known time on a clock of its own, and a device that works behind the back of the CPU."""

    def __init__(self, costs, slowdown=0.0):
        self.costs, self.slowdown = costs, slowdown
        self.now, self.pending, self.called = 0.0, 0.0, []

    def function(self, name):
        def call():
            self.called.append(name)
            self.pending += self.costs[name] * (1 + self.slowdown * self.now)

        return call

    def synchronize(self):
        self.now, self.pending = self.now + self.pending, 0.0

    def time(self, **options):
        functions = {name: self.function(name) for name in self.costs}
        return time_in_turn(functions, synchronize=self.synchronize, clock=lambda: self.now, **options)


def test_each_call_takes_what_it_takes():
    machine = Machine({"slow": 0.5, "fast": 0.125})
    timings = machine.time(seconds=1.0, windows=3)
    assert timings == {"slow": Timing((0.5,) * 3, 2), "fast": Timing((0.125,) * 3, 8)}
    assert timings["fast"].rate(samples=4) == Quartiles(32.0, 32.0, 32.0)
    assert timings["fast"].speed_relative_to(timings["slow"]) == Quartiles(4.0, 4.0, 4.0)


def test_windows_come_in_turn_and_every_other_round_backwards():
    machine = Machine({"a": 1.0, "b": 1.0})
    machine.time(seconds=2.0, windows=3)
    warm_up = ["a"] * (WARM_UP + 1) + ["b"] * (WARM_UP + 1)
    assert machine.called == warm_up + [*"aabb", *"bbaa", *"aabb"]


def test_a_function_that_takes_longer_than_a_window_is_called_once():
    machine = Machine({"a": 7.0})
    assert machine.time(seconds=1.0, windows=2) == {"a": Timing((7.0, 7.0), 1)}


def test_a_machine_that_slows_down_favours_none():
    machine = Machine({"a": 1.0, "b": 1.0, "c": 1.0}, slowdown=1e-3)
    timings = machine.time(seconds=1.0, windows=20)
    assert timings["a"].seconds[-1] > 1.05 * timings["a"].seconds[0]
    for name in "bc":
        assert timings[name].speed_relative_to(timings["a"]).median == pytest.approx(1.0, abs=1e-3)


def test_quartiles():
    assert quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == Quartiles(3.0, 2.0, 4.0)
    assert quartiles([1.0, 2.0]) == Quartiles(1.5, 1.25, 1.75)
    assert quartiles([7.0]) == Quartiles(7.0, 7.0, 7.0)


def test_by_the_clock_on_the_wall():
    timings = time_in_turn({"sleep": lambda: time.sleep(0.02)}, seconds=0.05, windows=2)
    assert timings["sleep"].calls in (1, 2)
    assert 0.02 <= min(timings["sleep"].seconds) < 0.2
