"""Signals that stop a command which has nothing to save."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal has stopped a command; like `KeyboardInterrupt`, this is no error that anything goes on after."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """A context in which SIGTERM and SIGHUP raise `Stopped`, so that drafts are removed; a second one ends at once.

    What is ignored stays so, as SIGHUP is under nohup. Outside the main thread, where signals do not arrive, it does
    nothing.
    """
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: object) -> None:
        del frame
        restore()
        raise Stopped(number)

    if threading.current_thread() is threading.main_thread():
        before |= {each: signal.getsignal(each) for each in SIGNALS if signal.getsignal(each) is signal.SIG_DFL}
        for number in before:
            signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
