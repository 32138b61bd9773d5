"""Measure a run: ln p(x) with its error, how tight the bound is, what the latents hold.

ln p(x) is estimated by importance sampling from the posteriors of test examples. Of examples that the model draws
itself it is bounded from below and above by annealed importance sampling. What was found goes to evaluation.json,
evaluation.npz (example by example) and report.html in the run folder.
"""

import argparse

from vaejax import findings
from vaejax.assess import Wanted, assess
from vaejax.cli.command import Answer, Parser, check_platform
from vaejax.progress import step_progress
from vaejax.results import write_assessed
from vaejax.run import open_run, rewrite_report


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    usual = Wanted()
    parser.add_argument("run", metavar="RUN", help="a run folder")
    add = lambda name, default, text: parser.add_argument(name, type=int, default=default, help=f"{text} ({default})")
    add("--samples", usual.num_samples, "importance samples of each example")
    add("--examples", usual.num_examples, "of the test set, the first ones")
    add("--gaps", usual.num_gaps, "of them, whose best Normal posterior is looked for; 0: none")
    add("--simulated", usual.num_simulated, "examples drawn from the model, to bound their ln p(x) from both sides")
    add("--temperatures", usual.num_temperatures, "of annealed importance sampling")
    add("--chunk-size", usual.chunk_size, "samples of an example that are in memory together")


def run(options: argparse.Namespace) -> Answer:
    """Measure, write what was found and the report."""
    wanted = Wanted(
        options.samples,
        options.examples,
        options.gaps,
        options.simulated,
        options.temperatures,
        options.chunk_size,
    )
    wanted.check()
    check_platform()
    opened = open_run(options.run)
    found = assess(opened.experiment, opened.params, wanted, step_progress)
    findings.write_findings(opened.folder, found.findings)
    write_assessed(opened.folder, found.per_example)
    report = rewrite_report(opened)
    return Answer(f"{findings.text(found.findings)}\n\nreport: {report}", found._asdict() | {"report": report})
