"""Measure a run: ln p(x) with its error, how tight the bound is, what the latents hold.

ln p(x) is estimated by importance sampling from the posteriors of test examples. Of examples that the model draws
itself it is bounded from below and above by annealed importance sampling. What was found goes to evaluation.json,
evaluation.npz (example by example) and report.html in the run folder.
"""

import argparse
from pathlib import Path

from vaejax import findings
from vaejax.assess import Wanted, assess
from vaejax.cli.command import Answer, Parser, show
from vaejax.cli.output import open_run
from vaejax.cli.values import integer
from vaejax.drafts import check_writable
from vaejax.progress import step_progress
from vaejax.results import write_assessed


def add_arguments(parser: Parser) -> None:
    """What the command takes."""
    usual = Wanted()
    parser.add_argument("run", metavar="RUN", help="a run folder")
    # A variance needs two samples.
    for name, low, default, text in (
        ("samples", 2, usual.num_samples, "importance samples of each example"),
        ("examples", 1, usual.num_examples, "of the test set, chosen at random, the same for every run"),
        ("gaps", 0, usual.num_gaps, "of them, whose best Normal posterior is looked for; 0: none"),
        ("simulated", 0, usual.num_simulated, "examples drawn from the model, to bound their ln p(x) from both sides"),
        ("temperatures", 1, usual.num_temperatures, "of annealed importance sampling"),
        ("chunk-size", 1, usual.chunk_size, "samples of an example that are in memory together"),
    ):
        parser.add_argument(f"--{name}", type=integer(low), default=default, help=f"{text} (%(default)s)")


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
    if Path(options.run).is_dir():
        check_writable(Path(options.run))
    opened = open_run(options.run)
    found = assess(opened.experiment, opened.params, wanted, step_progress)
    try:
        findings.write_findings(opened.folder, found.findings)
        write_assessed(opened.folder, found.per_example)
        # Matplotlib comes with it, which no help should wait for.
        from vaejax.run import rewrite_report  # noqa: PLC0415

        report = rewrite_report(opened)
    except OSError:
        # It took minutes, and is shown although it cannot be kept.
        show(Answer(findings.text(found.findings), found._asdict()), as_json=options.json)
        raise
    return Answer(f"{findings.text(found.findings)}\n\nreport: {report}", found._asdict() | {"report": report})
