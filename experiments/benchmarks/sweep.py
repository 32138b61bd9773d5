"""A sweep of members as one program, against one member and against all of them one after the other.

A step is an epoch of all members of `digits_vae`. One after the other is the best case: one program that is compiled
once for all members.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from vaejax import experiment, program, sweep

from .report import Line, Part
from .timing import Begin, Budget, Timing, race, times_faster

EXPERIMENT, EPOCHS = "digits_vae", 40
MEMBERS = (1, 8, 32)
COST = "cost of one member"


def run(budget: Budget) -> Part:
    """Each number of members, in one race."""
    members = MEMBERS[:2] if budget.quick else MEMBERS
    contest = race(contestants(members), 2 if budget.quick else EPOCHS, budget)
    one = contest.timings.get(label(1, "together"))
    lines = [
        Line(members_of(count), way, figures_of(contest.timings[label(count, way)], one, count))
        for count in members
        for way in ("together", "one after the other")
        if label(count, way) in contest.timings
    ]
    return Part(f"Sweep of {EXPERIMENT}", lines, {"epochs": contest}, shown=COST)


def label(count: int, way: str) -> str:
    """The name of a contestant."""
    return f"{members_of(count)} {way}"


def members_of(count: int) -> str:
    """So many members, in words."""
    return "1 member" if count == 1 else f"{count} members"


def figures_of(timing: Timing, one: Timing | None, count: int) -> dict[str, float]:
    """Seconds of an epoch of all members, and how many members that train alone cost as much."""
    figures = {"ms per epoch": 1e3 * timing.per_step, "ms per epoch and member": 1e3 * timing.per_step / count}
    return figures | ({COST: 1 / times_faster(timing, one)} if one else {})


def contestants(members: tuple[int, ...]) -> dict[str, Begin]:
    """Together, and all but one also one after the other."""
    together: dict[str, Begin] = {label(count, "together"): partial(begin, count, 1) for count in members}
    return together | {label(count, "one after the other"): partial(begin, 1, count) for count in members if count > 1}


def begin(members: int, times: int) -> Callable[[int], object]:
    """So many members together, which train so many times in each turn."""
    module = experiment.load_experiment(EXPERIMENT)
    settings = module.Settings()
    built = module.build(settings)
    if members == 1:
        made = program.make_program(built, settings)
    else:
        made = sweep.make_sweep_program(settings, module.build, built, sweep.member_values(settings, {}, members))
    progress: list[Any] = [made.begin()]

    def advance(epochs: int) -> None:
        for _ in range(times):
            stop = int(progress[0].state.step.max()) + epochs * made.steps_per_epoch
            progress[0] = jax.block_until_ready(made.feed.advance(progress[0], stop))

    return advance
