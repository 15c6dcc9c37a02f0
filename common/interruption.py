"""Ctrl-C and SIGTERM: what is finished is kept, and the exit code says which signal it was."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ser_memory.common.errors import SerError


class InterruptedRunError(SerError):
    """SIGINT or SIGTERM: what is finished is kept."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


@contextmanager
def on_signals(act: Callable[[], None]) -> Iterator[list[int]]:
    """SIGINT and SIGTERM are listed, and the first calls `act`; a second one of them ends the process at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def take(number: int, _: FrameType | None) -> None:
        if received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        received.append(number)
        act()

    previous = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
