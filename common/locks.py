"""A lock on a folder or file that one process at a time may write. The system frees it if the process is killed."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ser_memory.common.errors import SerError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def sole_access(lock: Path, busy: SerError, elsewhere: str) -> Iterator[None]:
    """Hold the lock file `lock` during the block.

    Args:
        lock: its folder must exist.
        busy: raised if another process holds it.
        elsewhere: the option that moves the work to another disk, such as `--output`.

    Raises `busy`, SerError if the disk has no locks, and OSError if the lock file cannot be written.
    """
    held = _lock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise busy from None
    except (OSError, NotImplementedError) as error:  # the second is what older versions of filelock raise
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        raise SerError(
            f"The disk of {lock.parent} gives no locks ({getattr(error, 'strerror', None) or error}), so that two "
            f"runs at once could damage each other's files there: give a folder on another disk as {elsewhere}."
        ) from error
    try:
        yield
    finally:
        held.release()


@contextmanager
def shared_access(lock: Path, busy: SerError) -> Iterator[None]:
    """Hold the lock file `lock` together with others that hold it like this; raises `busy` if a `sole_access` has it.

    Where there are no locks, nothing is held. Raises OSError if the lock file cannot be written.
    """
    with lock.open("a+") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except BlockingIOError:
            raise busy from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def is_held(lock: Path) -> bool:
    """Whether another process holds the lock file at this moment. Raises OSError."""
    held = _lock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        return True
    held.release()
    return False


def _lock(path: Path) -> FileLock:
    try:
        # The other kind of lock would stay after a kill.
        return FileLock(path, fallback_to_soft=False)
    except TypeError:  # older versions of filelock have no other kind
        return FileLock(path)
