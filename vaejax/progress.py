"""How a run shows that it is under way: a bar on a terminal, plain lines elsewhere."""

import sys
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn
from rich.text import Text

from vaejax.evaluation import LABELS
from vaejax.training import Chunk

# Without a terminal, this many lines in all.
LINES = 10


class TrainingProgress:
    """A context whose `update` takes each chunk of a run of `num_chunks` chunks."""

    def __init__(self, num_chunks: int, batch_size: int, console: Console | None = None):
        self.num_chunks, self.batch_size, self.done = num_chunks, batch_size, 0
        console = console or Console(file=sys.stderr)
        self.is_terminal = console.is_terminal
        # The figures have a line of their own: beside them a terminal of 80 columns has no room for a bar.
        self.text = Text("compiling", no_wrap=True)
        self.bar = Progress(BarColumn(bar_width=40), TaskProgressColumn(), TimeRemainingColumn(), console=console)
        self.task = self.bar.add_task("", total=num_chunks)
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

    def update(self, chunk: Chunk) -> None:
        """Show where the run is after a chunk."""
        self.done += 1
        text = describe(chunk, chunk.num_steps * self.num_chunks, self.batch_size)
        if self.is_terminal:
            self.text.plain = text
            self.bar.update(self.task, completed=self.done)
        elif self.done * LINES // self.num_chunks > (self.done - 1) * LINES // self.num_chunks:
            print(text, file=sys.stderr, flush=True)


def describe(chunk: Chunk, total_steps: int, batch_size: int) -> str:
    """One line: step, the parts of the objective in nats, and the speed."""
    parts = [f"{label} {chunk.metrics[name]:.2f}" for name, label in LABELS.items() if name in chunk.metrics]
    speed = chunk.num_steps * batch_size / chunk.seconds
    return f"step {chunk.step}/{total_steps}  {'  '.join(parts)}  {speed:,.0f} examples/s"
