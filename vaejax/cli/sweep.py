"""Train all combinations of some settings, each from several seeds, as one program.

Figures are means over the seeds with their standard errors. The words that follow are settings that all members share,
as vaejax train takes them.
"""

import argparse

import numpy as np

from vaejax.cli.command import Answer, Parser, columns, counted
from vaejax.cli.settings import read_settings, say_what_begins
from vaejax.cli.values import integer
from vaejax.progress import TrainingProgress
from vaejax.sweep import sweep
from vaejax.sweep_report import table
from vaejax.training import Report

TAKES_SETTINGS = True


def add_arguments(parser: Parser) -> None:
    """What the command takes besides settings."""
    parser.add_argument("experiment", metavar="EXPERIMENT", help="such as digits_vae")
    parser.add_argument("--seeds", type=integer(1), default=1, help="seeds of each combination, from --seed on")
    parser.add_argument("--over", action="append", default=[], metavar="SETTING=VALUE,...", help="values to try of one")


def run(options: argparse.Namespace, words: list[str]) -> Answer:
    """Train all members as one program."""
    name = options.experiment
    over = dict(tried := [_tried(each) for each in options.over])
    if len(over) < len(tried):
        raise ValueError("over must name each setting once, with all its values")
    module, settings = read_settings(f"sweep {name}", name, words)
    dataset = module.build(settings).dataset
    members = options.seeds * int(np.prod([len(values) for values in over.values()], dtype=int))
    say_what_begins(f"{name}, {counted(members, 'member')}", settings, dataset)
    with TrainingProgress(settings.num_steps(dataset), settings.examples_per_step(dataset) * members) as progress:
        show = lambda report, state: progress.update(_averaged(report))
        result = sweep(name, settings, module.build, over, num_seeds=options.seeds, callbacks=[show])
    lines = ["test, mean over the seeds +- its standard error", columns(table(result.members))]
    lines += [f"trained in {result.seconds:.1f} s", f"sweep folder: {result.folder}"]
    lines += [f"  {path}" for path in result.pictures]
    return Answer("\n".join(lines), result._asdict())


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
