"""How a run shows that it is under way: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        self.is_terminal = takes_bars(console)
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


def takes_bars(console: Console) -> bool:
    """Whether a bar can be drawn and drawn again; a terminal that cannot move back gets lines."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def step_progress(label: str, total: int, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """A context that shows how much of some work is done: a bar on a terminal, plain lines elsewhere.

    It gives a function that is told how much more is done. What takes less than a second shows no lines.

    Args:
      label: what is done.
      total: how much there is to do.
      console: where to show it, the standard error where None.
    """
    console = console or Console(file=sys.stderr)
    is_terminal = takes_bars(console)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=40), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not is_terminal)
    task, began, done = bar.add_task(label, total=total), time.monotonic(), 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        bar.update(task, completed=done)
        crossed = done * LINES // total > before * LINES // total
        if not is_terminal and crossed and time.monotonic() - began > 1.0:
            print(f"{label} {done:,}/{total:,}", file=sys.stderr, flush=True)

    with bar:
        yield advance
