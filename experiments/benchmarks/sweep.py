"""A sweep of members as one program against the same members one after the other.

Shows: what is won by training seeds and settings together: the same arithmetic in larger pieces.
Command: python experiments/benchmarks/sweep.py
Time: a minute on 2 cores.
Measures: seconds for all members to make an epoch, medians of interleaved rounds, and their ratio; compilation is not
  in them. One after the other is the best case: one program that is compiled once for all members.
"""

import argparse
import json
import statistics
import time
from typing import Any

import jax

from vaejax import experiment, program, sweep


def main() -> None:
    """Measure both, turn about, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="digits_vae")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5, help="in each round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    module = experiment.load_experiment(options.experiment)
    settings = module.Settings()
    built = module.build(settings)
    values = sweep.member_values(settings, {}, options.members)
    together = sweep.make_sweep_program(settings, module.build, built, values)
    alone = program.make_program(built, settings)
    contestants: dict[str, tuple[program.Program, int]] = {"together": (together, 1), "alone": (alone, options.members)}
    progress: dict[str, Any] = {name: made.begin() for name, (made, _) in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(options.rounds + 1):
        for name, (made, times) in contestants.items():
            start = time.perf_counter()
            for _ in range(times):
                done = int(progress[name].state.step.max())
                stop = done + options.epochs * made.steps_per_epoch
                progress[name] = jax.block_until_ready(made.feed.advance(progress[name], stop))
            if turn:  # the first round compiles
                seconds[name].append((time.perf_counter() - start) / options.epochs)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = statistics.median(a / b for a, b in zip(seconds["together"], seconds["alone"], strict=True))
    for name, median in medians.items():
        print(f"{name:<10}{median * 1e3:8.1f} ms for an epoch of {options.members} members")
    print(f"ratio     {ratio:8.2f}  (together by alone, median of {options.rounds} rounds)")
    print(json.dumps({"seconds": seconds, "ratio": ratio, "jax": jax.__version__}))


if __name__ == "__main__":
    main()
