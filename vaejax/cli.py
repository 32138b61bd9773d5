"""The command line: `vaejax train`, `vaejax sweep`, `vaejax data` and `vaejax replay`."""

import argparse
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from vaejax import __version__, data
from vaejax.data_report import contact_sheet
from vaejax.data_report import describe as describe_data
from vaejax.evaluation import LABELS
from vaejax.experiment import Settings, experiment_names, load_experiment
from vaejax.feed import describe_feed
from vaejax.progress import TrainingProgress
from vaejax.replay import describe, replay
from vaejax.results import RunResult
from vaejax.run import train
from vaejax.settings import Running
from vaejax.sweep import sweep
from vaejax.sweep_report import table
from vaejax.training import Interrupted, Report, is_first_host, join_cluster

USAGE = """usage: vaejax train EXPERIMENT [settings]
       vaejax sweep EXPERIMENT [--seeds N] [--over SETTING=VALUE,VALUE,...] ... [settings]
       vaejax replay RUN [--step N]
       vaejax data NAME [--folder FOLDER] [--size N] [--crop N] [--max-value N] [--output FILE]
       vaejax train EXPERIMENT --help     the settings of an experiment
       vaejax --version

train   trains an experiment; the same command again goes on with a run that was stopped
sweep   trains all combinations of some settings, each from N seeds, as one program
data    says what a data set is, and draws a sheet of it
replay  takes a step of a run apart that was not finite, or any other

NAME is a data set that vaejax knows ({sets}), any of tensorflow-datasets by its name,
an .npz or .npy file, or a folder of images or of four IDX files.
EXPERIMENT is a file of the folder experiments, by its name, or the path of a Python file.
With VAEJAX_TRACEBACK=1 in the environment an error shows where it came from.
Experiments here: {names}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code.

    0; 1 for what failed on the way; 2 for what was asked wrongly; 128 and the number of a signal that stopped it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    named = words[1:] if words and words[0] in COMMANDS else words
    if not [word for word in named if word not in ("--help", "-h")]:
        print(USAGE.format(names=", ".join(experiment_names()) or "none", sets=", ".join(data.names())))
        return 0 if words[-1:] in (["--help"], ["-h"]) else 2
    if words == ["--version"]:
        print(__version__)
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = _warn  # type: ignore[assignment]
        code = _run(words)
    if code and jax.distributed.is_initialized():
        # A normal end would wait for the other hosts, which wait for this one; so they notice, and end too.
        sys.stdout.flush()
        os._exit(code)
    return code


def _run(words: list[str]) -> int:
    try:
        if words[0] not in COMMANDS or words[1].startswith("-"):
            raise ValueError(f"unknown command: {' '.join(words)} (try vaejax --help)")
        return COMMANDS[words[0]](words[1], words[2:])
    except Interrupted as error:
        return _fail(f"{error}; the same command goes on from there", error.exit_code)
    except KeyboardInterrupt:
        saved = "; the same command goes on from what is saved" if words[0] in ("train", "sweep") else ""
        return _fail(f"interrupted{saved}", 130)
    except (FloatingPointError, ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        # For those who look for a mistake in an experiment file of their own.
        if os.environ.get("VAEJAX_TRACEBACK"):
            raise
        return _fail(error, 1 if isinstance(error, FloatingPointError) else 2)


def _train(name: str, words: list[str]) -> int:
    module, settings = _settings(f"train {name}", name, words)
    experiment = module.build(settings)
    _begin(name, settings, experiment.dataset)
    with TrainingProgress(settings.num_steps(experiment.dataset), settings.batch_size) as progress:
        result = train(name, settings, experiment, [progress.update] if is_first_host() else [])
    if result is not None:
        print(summary(result))
    return 0


def _sweep(name: str, words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"vaejax sweep {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=1, help="seeds of each combination, from --seed on")
    parser.add_argument("--over", action="append", default=[], metavar="SETTING=VALUE,...", help="values to try of one")
    options, rest = parser.parse_known_args(words)
    if "--help" in rest:
        print(f"{parser.format_help()}\nand the settings that all members share:\n")
    module, settings = _settings(f"sweep {name}", name, rest)
    over = dict(tried := [_tried(each) for each in options.over])
    if len(over) < len(tried):
        raise ValueError("over must name each setting once, with all its values")
    dataset = module.build(settings).dataset
    members = options.seeds * int(np.prod([len(values) for values in over.values()], dtype=int))
    _begin(f"{name}, {members} members", settings, dataset)
    with TrainingProgress(settings.num_steps(dataset), settings.batch_size * members) as progress:
        show = lambda report, state: progress.update(_averaged(report))
        result = sweep(name, settings, module.build, over, num_seeds=options.seeds, callbacks=[show])
    rows = table(result.members)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print("test, mean over the seeds +- its standard error")
    print("\n".join("  " + "  ".join(map(str.rjust, row, widths)) for row in rows))
    print(f"trained in {result.seconds:.1f} s\nsweep folder: {result.folder}")
    print("\n".join(f"  {path}" for path in result.pictures))
    return 0


def _tried(words: str) -> tuple[str, list[float]]:
    """`beta=0.5,1` as the name of a setting and its values."""
    name, _, values = words.partition("=")
    try:
        return name.replace("-", "_"), [float(each) for each in values.split(",")]
    except ValueError as error:
        raise ValueError(f"over must be SETTING=VALUE,VALUE,... with numbers; got {words}") from error


def _averaged(report: Report) -> Report:
    """The report of a sweep with the mean over the members that still train."""
    metrics = {name: np.nanmean(values, axis=0) for name, values in report.metrics.items()}
    return report._replace(metrics=metrics, skipped=np.sum(report.skipped))


def _replay(folder: str, words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"vaejax replay {folder}", allow_abbrev=False)
    parser.add_argument("--step", type=int, help="of a step that did not fail")
    check_platform()
    print(describe(replay(folder, parser.parse_args(words).step)))
    return 0


def _data(name: str, words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"vaejax data {name}", allow_abbrev=False)
    parser.add_argument("--folder", help="where the files are; by default the environment variable VAEJAX_DATA")
    parser.add_argument("--size", type=int, help="resize images to a square of so many pixels")
    parser.add_argument("--crop", type=int, help="before that, cut out a centred square of so many pixels")
    parser.add_argument("--max-value", type=float, help="of files of arrays: the intensity of white")
    parser.add_argument("--output", type=Path, help="of the contact sheet; runs/data/NAME.png by default")
    options = parser.parse_args(words)
    check_platform()
    size = None if options.size is None else (options.size, options.size)
    path = options.output
    if path is not None and path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"output must end in .png, .pdf or .svg; got {path}")
    dataset = data.load(name, options.folder, size=size, crop=options.crop, max_value=options.max_value)
    print(f"{describe_data(dataset)}\n  feed       {describe_feed(dataset, Running())}")
    sheet = contact_sheet(dataset)
    if sheet is None:
        print("no contact sheet: these are no images")
        return 0
    path = path or Path("runs") / "data" / f"{re.sub(r'[^A-Za-z0-9_-]+', '_', dataset.name)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.savefig(path)
    print(f"contact sheet: {path}")
    return 0


COMMANDS = {"train": _train, "sweep": _sweep, "replay": _replay, "data": _data}


def _settings(command: str, name: str, words: list[str]) -> tuple[Any, Any]:
    """The module of an experiment and its settings, after the cluster has been joined that they name."""
    module = load_experiment(name)
    settings = tyro.cli(
        module.Settings,
        args=words,
        prog=f"vaejax {command}",
        description=module.__doc__,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.EnumChoicesFromValues, tyro.conf.FlagCreatePairsOff),
    )
    settings.check()
    join_cluster(settings.running.coordinator, settings.running.num_hosts, settings.running.host_index)
    check_platform()
    return module, settings


def _begin(what: str, settings: Settings, dataset: data.Dataset) -> None:
    count, kind = settings.running.devices or len(jax.devices()), jax.devices()[0].device_kind
    device, feed = kind if count == 1 else f"{count} x {kind}", describe_feed(dataset, settings.running)
    if is_first_host():
        print(f"{what}: {dataset.name} on {device}; {feed}", file=sys.stderr)


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
    if result.measured_step != result.steps:
        best = f"step {result.measured_step} of {result.steps}"
        lines.append(f"measured at {best}, the best on the validation examples")
    if result.skipped:
        lines.append(f"skipped {result.skipped} steps that were not finite")
    memory = ", ".join(f"{size / 2**20:,.0f} MiB of {name} memory" for name, size in result.peak_memory.items())
    speed = f"{result.examples_per_second:,.0f} examples/s"
    lines.append(f"trained in {result.seconds:.1f} s, {speed}" + (f", at most {memory}" if memory else ""))
    lines.append(f"run folder: {result.folder}")
    lines.extend(f"  {path}" for path in result.pictures)
    return "\n".join(lines)


def _warn(message: Any, *_: Any) -> None:
    print(f"vaejax: warning: {message}", file=sys.stderr)


def _fail(message: Any, code: int) -> int:
    print(f"vaejax: error: {message}", file=sys.stderr)
    return code
