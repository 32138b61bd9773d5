"""Signals that end a run between two steps, with everything saved; a second one ends it at once."""

import os
import signal
import sys
import threading
from types import TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A run that was asked to stop, and has; `exit_code` is 128 and the number of the signal."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Interrupts:
    """A context in which SIGINT and SIGTERM are noted, for a run to look at between two steps.

    Python runs its handlers only between two of its own instructions, and a compiled program may keep it from them for
    a long time. So a thread listens, which can also end the process at once: on a second signal, or on the first where
    there is nothing to save yet. Outside the main thread, where signals do not arrive, the context does nothing.
    """

    def __init__(self) -> None:
        self.received = 0  # the number of the first signal
        self.has_work = False  # whether there is anything to save
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self.reading, self.writing = os.pipe()
            os.set_blocking(self.writing, False)
            self.wakeup_before = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
            # Only handled signals are written to the pipe.
            self.before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
            threading.Thread(target=self._listen, daemon=True, name="vaejax-signals").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.before:
            for number, handler in self.before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self.wakeup_before)
            # The listener sees the end of its file.
            os.close(self.writing)

    def _listen(self) -> None:
        while number := os.read(self.reading, 1):
            if number[0] not in SIGNALS:
                continue
            if self.received or not self.has_work:
                _say("stopped at once")
                # The main thread may be inside a program; nothing that runs at a normal end is needed.
                os._exit(128 + number[0])
            self.received = number[0]
            _say("finishing the step and saving; once more to stop at once")
        os.close(self.reading)


def _say(text: str) -> None:
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\nvaejax: {text}\n".encode())
