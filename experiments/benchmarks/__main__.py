"""Measure the parts that are asked for, one after the other, print their tables, and write everything to a folder."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import conv, iwae, likelihood, mlp, report, scale, start, sweep
from .timing import Budget

PARTS: dict[str, Callable[[Budget], report.Part]] = {
    "mlp": mlp.run,
    "iwae": iwae.run,
    "conv": conv.run,
    "likelihood": likelihood.run,
    "start": start.run,
    "sweep": sweep.run,
    "scale": scale.run,
}
RUNS = Path("runs/benchmarks")
QUICK = Budget(rounds=2, longest=0.1, quick=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description="How fast vaejax is.")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=PARTS, help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=Budget().rounds, help="that count (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="as little as shows that it runs")
    parser.add_argument("--output", type=Path, help="the folder (default: the next number in runs/benchmarks)")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {options.rounds}")
    budget = QUICK if options.quick else Budget(rounds=options.rounds)
    parts, about = {}, report.environment()
    for name in options.only or PARTS:
        parts[name] = PARTS[name](budget)
        print(report.as_text(parts[name]), flush=True)
    words = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python -m experiments.benchmarks", *words])
    for path in report.write(options.output or next_folder(RUNS), parts, about, command):
        print(path)


def next_folder(runs: Path) -> Path:
    """The folder of the next number."""
    numbers = [int(path.name) for path in runs.glob("[0-9]*") if path.name.isdigit()]
    return runs / f"{max(numbers, default=0) + 1:03}"


if __name__ == "__main__":
    main()
