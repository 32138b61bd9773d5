"""Train an experiment into a run folder, and measure and draw it.

The same command again goes on with a run that was stopped. EXPERIMENT is a file of the folder experiments, by its
name, or the path of a Python file; vaejax train EXPERIMENT --help says what can be set of it.
"""

import argparse

from vaejax.cli.command import Answer, Parser
from vaejax.cli.settings import read_settings, say_what_begins
from vaejax.evaluation import LABELS, unit_of
from vaejax.progress import TrainingProgress
from vaejax.results import RunResult
from vaejax.run import train
from vaejax.training import is_first_host

# The words that are not known here are settings of the experiment.
TAKES_SETTINGS = True


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    parser.add_argument("experiment", metavar="EXPERIMENT", help="such as digits_vae")


def run(options: argparse.Namespace, words: list[str]) -> Answer | None:
    """Train; None on all hosts but the first."""
    name = options.experiment
    module, settings = read_settings(f"train {name}", name, words)
    experiment = module.build(settings)
    say_what_begins(name, settings, experiment.dataset)
    dataset = experiment.dataset
    with TrainingProgress(settings.num_steps(dataset), settings.examples_per_step(dataset)) as progress:
        result = train(name, settings, experiment, [progress.update] if is_first_host() else [])
    return None if result is None else Answer(summary(result), result._asdict())


def summary(result: RunResult) -> str:
    """The test figures and where everything is."""
    lines = ["test, mean per example +- its standard error"]
    for name, label in LABELS.items():
        if name in result.test:
            mean, standard_error = (float(number) for number in result.test[name])
            lines.append(f"  {label:<15}{mean:9.2f} +- {standard_error:.2f}  {unit_of(name)}")
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
    if result.report is not None:
        lines.append(f"report: {result.report}")
    return "\n".join(lines)
