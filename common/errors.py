"""One base class for all errors that the user can solve; each is one plain sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class SerError(Exception):
    """Something that cannot be done: the bad value, what is allowed, and the remedy, in one sentence.

    Commands print the message without a traceback and exit with `exit_code`.
    """

    exit_code = 1


class UsageError(SerError):
    """The command was called the wrong way; nothing was attempted."""

    exit_code = 2


@contextmanager
def system_errors() -> Iterator[None]:
    """Turn errors of the system, such as a folder that cannot be made, into a SerError of one sentence."""
    try:
        yield
    except OSError as error:
        # Without a text it is no report of the system but ours to find; EPIPE is for whoever reads our output.
        if error.strerror is None or isinstance(error, BrokenPipeError):
            raise
        place = f": {error.filename}" if error.filename else ""
        raise SerError(f"The system says: {error.strerror}{place}.") from error


def listing(values: Iterable[object], most: int = 12) -> str:
    """`a, b, c` for a message; a long list is cut and says how many were left out."""
    names = [str(value) for value in values]
    if not names:
        return "none"
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
