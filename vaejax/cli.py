"""The command line: `vaejax train EXPERIMENT [settings]`."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import tyro

from vaejax import __version__
from vaejax.evaluation import LABELS
from vaejax.experiment import experiment_names, load_experiment
from vaejax.progress import TrainingProgress
from vaejax.run import RunResult, train

USAGE = """usage: vaejax train EXPERIMENT [settings]
       vaejax train EXPERIMENT --help     the settings of an experiment
       vaejax --version

EXPERIMENT is a file of the folder experiments, by its name, or the path of a Python file.
With VAEJAX_TRACEBACK=1 in the environment an error shows where it came from.
Experiments here: {names}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for what failed on the way, 2 for what was asked wrongly."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--help"], ["-h"], [], ["train"], ["train", "--help"]):
        print(USAGE.format(names=", ".join(experiment_names()) or "none"))
        return 0 if words[-1:] in (["--help"], ["-h"]) else 2
    if words == ["--version"]:
        print(__version__)
        return 0
    try:
        return _train(words)
    except KeyboardInterrupt:
        return _fail("interrupted; what the run folder holds so far stays", 130)
    except FloatingPointError as error:
        return _fail(error, 1)
    except (ValueError, TypeError, OSError) as error:
        # For those who look for a mistake in an experiment file of their own.
        if os.environ.get("VAEJAX_TRACEBACK"):
            raise
        return _fail(error, 2)


def _train(words: list[str]) -> int:
    if words[0] != "train" or len(words) < 2 or words[1].startswith("-"):
        raise ValueError(f"unknown command: {' '.join(words)} (try vaejax --help)")
    name = words[1]
    module = load_experiment(name)
    settings = tyro.cli(module.Settings, args=words[2:], prog=f"vaejax train {name}", description=module.__doc__)
    check_platform()
    experiment = module.build(settings)
    print(f"{name}: {experiment.dataset.name} on {jax.devices()[0].device_kind}", file=sys.stderr)
    with TrainingProgress(settings.epochs, settings.batch_size) as progress:
        result = train(name, settings, experiment, progress.update)
    print(summary(result))
    return 0


def check_platform() -> None:
    """Raise where JAX has no device of the platform that was asked for; it never falls back to another.

    JAX_PLATFORMS is how a person asks for one, as `make train ACCEL=gpu` does.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        # JAX fails an assertion where not even the wheels for the platform are installed.
        asked = os.environ.get("JAX_PLATFORMS", "any platform")
        reason = next(iter(str(error).splitlines()), "its wheels are not installed")
        raise OSError(f"JAX finds no device for {asked}: {reason}") from error


def summary(result: RunResult) -> str:
    """The test figures and where everything is."""
    lines = ["test, mean per example +- its standard error"]
    for name, label in LABELS.items():
        if name in result.test:
            mean, standard_error = (float(number) for number in result.test[name])
            unit = "white = 1, summed over the pixels" if name == "squared_error" else "nats"
            lines.append(f"  {label:<15}{mean:9.2f} +- {standard_error:.2f}  {unit}")
    lines.append(f"active units: {result.active_units}")
    lines.append(f"trained in {result.seconds:.1f} s, {result.examples_per_second:,.0f} examples/s")
    lines.append(f"run folder: {result.folder}")
    lines.extend(f"  {path}" for path in result.pictures)
    return "\n".join(lines)


def _fail(message: Any, code: int) -> int:
    print(f"vaejax: error: {message}", file=sys.stderr)
    return code
