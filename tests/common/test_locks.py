"""A lock that one process holds, and disks without locks."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from ser_memory.common.errors import SerError
from ser_memory.common.locks import is_held, shared_access, sole_access

BUSY = SerError("Somebody else is at it.")


def test_one_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with sole_access(lock, BUSY, "--output"):
        assert is_held(lock)
        with pytest.raises(SerError, match="Somebody else is at it"), sole_access(lock, BUSY, "--output"):
            pass
    assert not is_held(lock)


def test_some_together_and_none_beside_them(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    refused = pytest.raises(SerError, match="Somebody else is at it")
    with shared_access(lock, BUSY), shared_access(lock, BUSY), refused, sole_access(lock, BUSY, "--output"):
        pass
    with sole_access(lock, BUSY, "--output"), refused, shared_access(lock, BUSY):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    says = f"The disk of {tmp_path} gives no locks .* give a folder on another disk as --output"
    with pytest.raises(SerError, match=says), sole_access(tmp_path / ".lock", BUSY, "--output"):
        pass
    with shared_access(tmp_path / ".lock", BUSY):
        pass
