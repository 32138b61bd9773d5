"""How a run shows that it is under way: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from vaejax.evaluation import LABELS
from vaejax.training import Report

# Without a terminal, this many lines in all.
LINES = 10


class TrainingProgress:
    """A context whose `update` takes each report of a run of `num_steps` steps."""

    def __init__(self, num_steps: int, batch_size: int, console: Console | None = None):
        self.num_steps, self.batch_size = num_steps, batch_size
        console = console or Console(file=sys.stderr)
        self.is_terminal = console.is_terminal
        # The figures have a line of their own: beside them a terminal of 80 columns has no room for a bar.
        self.text = Text("compiling", no_wrap=True)
        self.bar = Progress(BarColumn(bar_width=40), TaskProgressColumn(), TimeRemainingColumn(), console=console)
        self.task = self.bar.add_task("", total=num_steps)
        self.live = Live(Group(self.text, self.bar), console=console, refresh_per_second=10)

    def __enter__(self) -> "TrainingProgress":
        if self.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_terminal:
            self.live.stop()

    def update(self, report: Report, state: object = None) -> None:
        """Show where the run is after a report."""
        text = describe(report, self.num_steps, self.batch_size)
        tenth = lambda step: step * LINES // self.num_steps
        if self.is_terminal:
            self.text.plain = text
            self.bar.update(self.task, completed=report.step)
        elif tenth(report.step) > tenth(report.step - report.num_steps):
            print(text, file=sys.stderr, flush=True)


def describe(report: Report, total_steps: int, batch_size: int) -> str:
    """One line: step, the parts of the objective in nats, and the speed."""
    parts = [f"{label} {report.metrics[name]:.2f}" for name, label in LABELS.items() if name in report.metrics]
    watched = next((value for name, value in report.metrics.items() if name.startswith("validation_")), None)
    parts += [] if watched is None else [f"validation {watched:.2f}"]
    parts += [f"skipped {report.skipped}"] if report.skipped else []
    speed = batch_size / max(report.seconds_per_step, 1e-9)
    return f"step {report.step}/{total_steps}  {'  '.join(parts)}  {speed:,.0f} examples/s"


class StepProgress:
    """A context that shows how much of some work is done: a bar on a terminal, plain lines elsewhere.

    What takes less than a second shows nothing elsewhere.
    """

    def __init__(self, label: str, total: int, console: Console | None = None):
        self.label, self.total, self.done = label, total, 0
        console = console or Console(file=sys.stderr)
        self.is_terminal, self.began = console.is_terminal, time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, console=console, transient=True)
        self.task = self.bar.add_task(label, total=total)

    def __enter__(self) -> "StepProgress":
        if self.is_terminal:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_terminal:
            self.bar.stop()

    def advance(self, count: int = 1) -> None:
        """Note that so much more is done."""
        tenth = self.done * LINES // self.total
        self.done += count
        if self.is_terminal:
            self.bar.update(self.task, completed=self.done)
        elif self.done * LINES // self.total > tenth and time.monotonic() - self.began > 1.0:
            print(f"{self.label} {self.done:,}/{self.total:,}", file=sys.stderr, flush=True)
