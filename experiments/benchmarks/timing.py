"""Contestants that take turns, and what is made of their seconds."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")

# Makes so many steps, and returns when they are done.
Advance = Callable[[int], object]
# A contestant: what it takes to begin, which may want a package that is not there.
Begin = Callable[[], Advance]


class Budget(NamedTuple):
    """How long everything is measured."""

    rounds: int = 7  # that count; one more comes before them
    longest: float = 1.5  # seconds of a contestant's round, about; slow ones make fewer steps in it
    quick: bool = False  # as little as shows that it runs


class Timing(NamedTuple):
    """The rounds of a contestant."""

    steps: int  # of each round
    seconds: list[float]  # of each round

    @property
    def per_step(self) -> float:
        """Seconds of a step, the median of the rounds."""
        return statistics.median(self.seconds) / self.steps


class Contest(NamedTuple):
    """What came of a race."""

    timings: dict[str, Timing]
    left_out: dict[str, str]  # who did not take part or did not arrive, and why


def race(contestants: Mapping[str, Begin], steps: int, budget: Budget) -> Contest:
    """Let the contestants make `steps` steps each, turn about, so that what else the machine does meets all alike."""
    left_out: dict[str, str] = {}
    begun = attempt_each(
        {name: lambda begin=begin: _warm_up(begin, steps, budget) for name, begin in contestants.items()}, left_out
    )
    seconds: dict[str, list[float]] = {name: [] for name in begun}
    for _ in range(budget.rounds):
        turns = {name: lambda one=begun[name]: seconds_of(*one) for name in begun if name not in left_out}
        for name, taken in attempt_each(turns, left_out).items():
            seconds[name].append(taken)
    arrived = [name for name in begun if name not in left_out]
    return Contest({name: Timing(begun[name][1], seconds[name]) for name in arrived}, left_out)


def attempt_each(tried: Mapping[str, Callable[[], T]], left_out: dict[str, str]) -> dict[str, T]:
    """What each of them gives; of those that fail the reason goes to `left_out`."""
    given: dict[str, T] = {}
    for name, function in tried.items():
        try:
            given[name] = function()
        except ModuleNotFoundError as error:
            left_out[name] = f"the package {error.name} is not installed"
        # Whatever another package raises, the others go on.
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0]
            left_out[name] = f"{type(error).__name__}: {first_line}"
    return given


def _warm_up(begin: Begin, steps: int, budget: Budget) -> tuple[Advance, int]:
    """The first round, in which programs are compiled, and how many steps each of the others has."""
    advance = begin()
    advance(1)
    few = max(1, steps // 32)
    count = affordable(seconds_of(advance, few) / few, steps, budget.longest)
    # With this a whole round is done, so that the rounds that count begin where an epoch begins.
    if count > few + 1:
        advance(count - few - 1)
    return advance, count


def affordable(seconds_of_step: float, steps: int, longest: float) -> int:
    """How many steps fit into a round, at most `steps` and at least one.

    >>> affordable(0.1, 100, 2.0), affordable(0.001, 100, 2.0), affordable(5.0, 100, 2.0)
    (20, 100, 1)
    """
    return max(1, min(steps, int(longest / max(seconds_of_step, 1e-9) + 1e-6)))


def seconds_of(advance: Advance, steps: int) -> float:
    """How long it takes to make so many steps."""
    start = time.perf_counter()
    advance(steps)
    return time.perf_counter() - start


def times_faster(one: Timing, other: Timing) -> float:
    """How many steps `one` makes in a step of `other`: the median of the ratios round by round.

    >>> times_faster(Timing(10, [1.0, 2.0, 1.0]), Timing(10, [2.0, 4.0, 3.0]))
    2.0
    """
    pairs = zip(one.seconds, other.seconds, strict=True)
    return statistics.median((b / other.steps) / (a / one.steps) for a, b in pairs)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost on log size by least squares: 1 where twice as much costs twice as much.

    Raises:
      ValueError: fewer than two sizes, or not as many costs.

    >>> round(exponent([1, 2, 4, 8], [3, 12, 48, 192]), 6)
    2.0
    """
    if len(sizes) < 2 or len(sizes) != len(costs):
        raise ValueError(f"sizes and costs must be as many, at least two; got {len(sizes)} and {len(costs)}")
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
