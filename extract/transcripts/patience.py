"""How often and how long a service that is busy or down is asked again; one object for all requests of a run."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ser_memory.common.console import clock
from ser_memory.common.errors import SerError
from ser_memory.common.reporting import notice
from ser_memory.extract.transcripts.contract import RefusedError, TryAgainError

Reply = TypeVar("Reply")


class StoppedError(Exception):
    """The run ends: nothing more is sent."""


class ExhaustedError(RefusedError):
    """This request failed too often, whatever the reason."""


class Patience:
    """Asks again with growing pauses, or after the pause the service asks for.

    A service that has answered nobody for `budget` seconds is given up (SerError); so is a request that failed
    `attempts` times (ExhaustedError), since another recording may be the one that goes through.
    """

    first, longest = 1.0, 60.0  # seconds: the pause before asking again, which doubles
    attempts = 8

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._mutex = threading.Lock()
        self._stopped = threading.Event()
        self._failing_since: float | None = None  # since nobody was answered
        self._not_before = 0.0  # the service asked everybody to wait until then

    def stop(self) -> None:
        """Wake everyone who waits, and let nobody send any more."""
        self._stopped.set()

    def ask(self, request: Callable[[], Reply]) -> Reply:
        """The reply to a request that raises TryAgainError when it should be made again.

        Raises SerError, ExhaustedError (both above), StoppedError, and what else the request raises.
        """
        tries = failures = 0
        while True:
            self._pause(self._not_before - time.monotonic())
            try:
                reply = request()
            except TryAgainError as problem:
                tries += 1
                failures += not problem.busy
                delay = self._delay(problem, tries)
                if failures >= self.attempts:
                    raise ExhaustedError(f"{problem}, {failures} times") from None
                self._pause(delay)
            else:
                with self._mutex:
                    self._failing_since = None
                return reply

    def _delay(self, problem: TryAgainError, tries: int) -> float:
        now = time.monotonic()
        # Random, so that requests which failed together do not come back together.
        grown = min(self.longest, self.first * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0)
        delay = grown if problem.after is None else problem.after
        with self._mutex:
            if self._failing_since is None:
                self._failing_since = now
                notice(f"{problem}: asking again, for up to {clock(self._budget)}.")
            if now + delay - self._failing_since > self._budget:
                asked = f" and asks to wait {clock(delay)}" if problem.after else ""
                raise SerError(
                    f"{problem}{asked}; nothing was answered within {clock(self._budget)} (--retry-for)."
                )
            if problem.busy:
                self._not_before = max(self._not_before, now + delay)
        return delay

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)) if seconds > 0 else self._stopped.is_set():
            raise StoppedError
