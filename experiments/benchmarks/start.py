"""What a person waits for: imports, the first epoch, and the end of `vaejax train digits_vae`, in fresh processes.

Cold is with an empty folder for compiled programs, warm with one that an earlier run of the same command has filled.
The first step is done when the first epoch, of 11 steps, is in metrics.jsonl.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .report import REPOSITORY, Line, Part
from .timing import Budget, Contest, Timing, attempt_each

EXPERIMENT = "digits_vae"
# What is imported lazily costs when it is first used.
IMPORTS = ("import jax", "import vaejax", "import vaejax; vaejax.elbo")
CACHE = "JAX_COMPILATION_CACHE_DIR"
SECONDS, RATIO = "s", "times import jax"


class Times(NamedTuple):
    """Seconds from the command on."""

    first_epoch: float
    end: float


def run(budget: Budget) -> Part:
    """Every round imports, and trains with an empty cache and then with what that left there."""
    seconds: dict[str, list[float]] = {}
    left_out: dict[str, str] = {}
    for _ in range(budget.rounds):
        turn = attempt_each({name: lambda name=name: import_seconds(name) for name in IMPORTS}, left_out)
        runs = attempt_each({EXPERIMENT: lambda: cold_and_warm(budget.quick)}, left_out)
        for name, taken in (turn | runs.get(EXPERIMENT, {})).items():
            seconds.setdefault(name, []).append(taken)
    contest = Contest({name: Timing(1, each) for name, each in seconds.items()}, left_out)
    lines = [Line("start", name, figures_of(contest, name)) for name in contest.timings]
    return Part(f"Start, fresh processes; {EXPERIMENT}", lines, {"start": contest}, shown=SECONDS)


def figures_of(contest: Contest, name: str) -> dict[str, float]:
    """Seconds, and of an import how it stands to that of JAX."""
    seconds, base = contest.timings[name].seconds, contest.timings.get(IMPORTS[0])
    if base is None or name not in IMPORTS:
        return {SECONDS: statistics.median(seconds)}
    ratio = statistics.median(a / b for a, b in zip(seconds, base.seconds, strict=True))
    return {SECONDS: statistics.median(seconds), RATIO: ratio}


def import_seconds(statement: str) -> float:
    """How long a process lives that does nothing but this."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=REPOSITORY)
    return time.perf_counter() - start


def cold_and_warm(quick: bool) -> dict[str, float]:
    """The seconds of two runs of the same command, the second with the programs that the first has compiled."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, CACHE: str(Path(folder) / "cache")}
        epochs = ["--epochs", "2"] if quick else []
        times = {case: train(Path(folder) / case, epochs, environment) for case in ("cold", "warm")}
    first = {f"to the first epoch, {case}": each.first_epoch for case, each in times.items()}
    return first | {f"to the end, {case}": each.end for case, each in times.items()}


def train(output: Path, words: list[str], environment: Mapping[str, str]) -> Times:
    """Run the command and watch its record.

    Raises:
      RuntimeError: it failed; with its last line.
    """
    start, first = time.perf_counter(), None
    command = [sys.executable, "-m", "vaejax", "train", EXPERIMENT, "--output", str(output), *words]
    record, log = output / "metrics.jsonl", output.with_suffix(".log")
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=REPOSITORY, env=environment)
        while process.poll() is None:
            if first is None and record.exists() and record.stat().st_size:
                first = time.perf_counter() - start
            time.sleep(0.005)
    end = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(log.read_text().strip().rpartition("\n")[2])
    return Times(end if first is None else first, end)
