"""How a run shows that it is under way: a bar on a terminal, plain lines elsewhere."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vaejax.evaluation import LABELS
from vaejax.training import Chunk

# Without a terminal, this many lines in all.
LINES = 10


class TrainingProgress:
    """A context whose `update` takes each chunk of a run of `num_chunks` chunks."""

    def __init__(self, num_chunks: int, batch_size: int):
        self.num_chunks, self.batch_size, self.done = num_chunks, batch_size, 0
        console = Console(file=sys.stderr)
        self.is_terminal = console.is_terminal
        columns = (BarColumn(bar_width=20), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
        self.bar = Progress(*columns, console=console)
        self.task = self.bar.add_task("compiling", total=num_chunks)

    def __enter__(self) -> "TrainingProgress":
        if self.is_terminal:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_terminal:
            self.bar.stop()

    def update(self, chunk: Chunk) -> None:
        """Show where the run is after a chunk."""
        self.done += 1
        text = describe(chunk, chunk.num_steps * self.num_chunks, self.batch_size)
        if self.is_terminal:
            self.bar.update(self.task, completed=self.done, description=text)
        elif self.done * LINES // self.num_chunks > (self.done - 1) * LINES // self.num_chunks:
            print(text, file=sys.stderr, flush=True)


def describe(chunk: Chunk, total_steps: int, batch_size: int) -> str:
    """One line: step, the parts of the objective in nats, and the speed."""
    parts = [f"{label} {chunk.metrics[name]:.2f}" for name, label in LABELS.items() if name in chunk.metrics]
    speed = chunk.num_steps * batch_size / chunk.seconds
    return f"step {chunk.step}/{total_steps}  {'  '.join(parts)}  {speed:,.0f} examples/s"
