"""How often and how long requests to a busy or unavailable service are repeated; one object for a whole run."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from ser_memory.common.console import clock
from ser_memory.common.errors import SerError
from ser_memory.common.reporting import notice
from ser_memory.extract.transcripts.engines.contract import RefusedError, TryAgainError

Reply = TypeVar("Reply")


class StoppedError(Exception):
    """The run ends: no more requests are sent."""


class ExhaustedError(RefusedError):
    """This request failed too often."""


class Retries:
    """Repeats failed requests after growing pauses, or after the pause that the service asks for.

    The run gives up (SerError) if no request was answered for `budget` seconds. A request that failed `attempts`
    times is given up alone (ExhaustedError), because the service may accept another recording.
    """

    first, longest = 1.0, 60.0  # seconds: the first pause, which doubles each time, and its limit
    attempts = 8

    def __init__(self, budget: float) -> None:
        self._budget = budget
        self._mutex = threading.Lock()
        self._stopped = threading.Event()
        self._failing_since: float | None = None  # time of the first failure after the last answer
        self._not_before = 0.0  # no thread sends a request before this time, because the service asked for it

    def stop(self) -> None:
        """Wake all waiting threads, and let no thread send another request."""
        self._stopped.set()

    def call(self, request: Callable[[], Reply]) -> Reply:
        """Call `request` until it does not raise TryAgainError, and return its reply.

        Raises SerError and ExhaustedError as described above, StoppedError after `stop`, and any other error of
        the request.
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
        # Random, so that requests that failed at the same time are not repeated at the same time.
        grown = min(self.longest, self.first * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.0)
        delay = grown if problem.after is None else problem.after
        with self._mutex:
            if self._failing_since is None:
                self._failing_since = now
                notice(f"{problem}: trying again, for up to {clock(self._budget)}.")
            if now + delay - self._failing_since > self._budget:
                wish = f" and asks to wait {clock(delay)}" if problem.after else ""
                raise SerError(
                    f"{problem}{wish}; there was no answer within {clock(self._budget)} (--retry-for)."
                )
            if problem.busy:
                self._not_before = max(self._not_before, now + delay)
        return delay

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)) if seconds > 0 else self._stopped.is_set():
            raise StoppedError
