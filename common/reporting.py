"""Progress and notices: the commands show them on the terminal, a program may take them or drop them.

    with reporting_to(Silent()):
        train(...)

The choice holds for the current thread (more exactly, for its context, see `contextvars`), so that two threads
may report to different places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

from ser_memory.common.errors import UsageError

# Adds to the amount of work done. It may have a method `spare`, which takes work that need not be done after all.
Advance = Callable[[float], None]


class Reporter(Protocol):
    """Where reports about the work go."""

    def notice(self, line: str) -> None:
        """Take one line about the work, such as a warning that a result means little."""

    def progress(
        self, label: str, total: float, unit: str, done: float = 0.0
    ) -> AbstractContextManager[Advance]:
        """Begin a long task of `total` units, `done` of them by an earlier run; the function adds to them."""


class Silent:
    """Drops all reports."""

    def notice(self, line: str) -> None:
        del line

    def progress(
        self, label: str, total: float, unit: str, done: float = 0.0
    ) -> AbstractContextManager[Advance]:
        del label, total, unit, done
        return nullcontext(lambda _: None)


_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting_to(reporter: Reporter | None) -> Iterator[None]:
    """Send the reports of the block to `reporter`; None leaves the choice as it is.

    Raises UsageError if `reporter` is no object with the methods of a Reporter.
    """
    if reporter is None:
        yield
        return
    methods = (getattr(reporter, name, None) for name in ("notice", "progress"))
    if isinstance(reporter, type) or not all(map(callable, methods)):
        raise UsageError(
            f"The reporter {reporter!r} must be an object with the methods notice and progress, such as Silent()."
        )
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def notice(line: str) -> None:
    """Report one line about the work; on the terminal it goes to standard error."""
    _current().notice(line)


def progress(label: str, total: float, unit: str, done: float = 0.0) -> AbstractContextManager[Advance]:
    """Report how far a long task is, as `Reporter.progress` describes."""
    return _current().progress(label, total, unit, done)


def spare(advance: Advance, amount: float) -> None:
    """Report work that need not be done after all.

    A reporter whose function has no method `spare` gets it as done, so that the total is reached all the same.
    """
    getattr(advance, "spare", advance)(amount)


def _current() -> Reporter:
    from ser_memory.common.console import TERMINAL

    return _reporter.get() or TERMINAL
