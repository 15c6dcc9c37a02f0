"""How much a server takes at a time: a rate per client, a number of places, and the size and pace of a request."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Message, Receive

_FIELDS = 1 << 16  # bytes of a body besides the recording
_MINUTE = 60.0
_PACE = 8_000  # bytes per second that a body must reach on average, which is that of speech by telephone
_PATIENCE = 10.0  # seconds that a body may be late
_SPAN = 20  # ratings whose mean time says how long a full queue takes


class RefusedError(Exception):
    """A request that is not answered: an HTTP status, one sentence, and in how many seconds to come back."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = None if retry_after is None else max(1, math.ceil(retry_after))


class Rate:
    """At most so many requests of a client within any minute. Clients are forgotten after a minute."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._times: dict[str, deque[float]] = {}

    def take(self, client: str) -> None:
        """Count a request. Raises RefusedError if the client has sent too many."""
        now = self._clock()
        self._forget(now)
        times = self._times.setdefault(client, deque())
        if len(times) >= self._most:
            raise RefusedError(
                429,
                f"This server takes {self._most} uploads per minute from a client.",
                _MINUTE - (now - times[0]),
            )
        times.append(now)

    def _forget(self, now: float) -> None:
        for client, times in list(self._times.items()):
            while times and now - times[0] >= _MINUTE:
                times.popleft()
            if not times:
                del self._times[client]


class Places:
    """Room for so many uploads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0
        self._seconds: deque[float] = deque(maxlen=_SPAN)  # of the last ratings

    def refuse_if_full(self) -> None:
        """Raise RefusedError if all are taken."""
        if self.taken >= self._most:
            mean = sum(self._seconds) / len(self._seconds) if self._seconds else 1.0
            raise RefusedError(
                503, "The server is busy: send the recording again later.", mean * self.taken / 2
            )

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place for the block. Raises RefusedError if all are taken."""
        self.refuse_if_full()
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def took(self, seconds: float) -> None:
        """Report how long a rating took."""
        self._seconds.append(seconds)


def bounded(receive: Receive, stated: str | None, megabytes: float) -> Receive:
    """`receive` for the body of an upload; `stated` is the request's Content-Length.

    Raises RefusedError at once if the stated length is larger, else when more has come; and if the client sends so
    slowly that it would keep what others need.
    """
    most = megabytes * 1e6 + _FIELDS

    def too_large() -> RefusedError:
        return RefusedError(
            413, f"The upload is larger than {megabytes:g} MB: send a shorter or compressed recording."
        )

    if stated is not None and stated.isdigit() and int(stated) > most:
        raise too_large()
    received, waited = 0, 0.0  # bytes; seconds for the client alone, not those in which the server is busy

    async def limited() -> Message:
        nonlocal received, waited
        start = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE + received / _PACE - waited):
                message = await receive()
        except TimeoutError:
            raise RefusedError(
                408,
                f"The upload comes at less than {_PACE / 1000:g} kB per second: use a faster connection, or send a shorter "
                "or compressed recording.",
            ) from None
        waited += time.monotonic() - start
        received += len(message.get("body", b""))
        if received > most:
            raise too_large()
        return message

    return limited
