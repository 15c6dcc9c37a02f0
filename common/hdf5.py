"""Opens HDF5 files. Each reason why that fails gets its own sentence, because each has its own remedy."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from ser_memory.common.errors import SerError
from ser_memory.common.manifests import extraction_of

NO_LOCKS = "set HDF5_USE_FILE_LOCKING=FALSE and run the same command again"

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUFFIX = ".h5"
_LOCKED = (
    errno.EAGAIN,
    errno.EWOULDBLOCK,
    errno.EACCES,
)  # some disks report the last for a file that is locked
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_TOO_MANY = (errno.EMFILE, errno.ENFILE)
_DENIED = (errno.EACCES, errno.EPERM)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A feature cache, open for reading during the block.

    Raises SerError in one sentence if the file cannot be opened, or a part of it cannot be read.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # opening a pipe would wait for ever
            raise SerError(f"{path} is not a file but a pipe or a device: give the file of a cache.")
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # h5py raises the others for damage inside the file
        raise SerError(why_not_opened(path, error)) from error


def why_not_opened(path: Path, error: Exception) -> str:
    """One sentence: why a cache cannot be opened or read, and what to do."""
    number, reported = error_number(error), said(error)
    if "lock file" in str(error):
        return _locked(path, number, reported)
    if number in _ABSENT:
        return _absent(path)
    if number is None:
        return _misshapen(path, error)
    known = {
        **dict.fromkeys(
            _DENIED, "you have no permission. Ask its owner for it, or run the command as its owner"
        ),
        **dict.fromkeys(
            _TOO_MANY, "too many files are open. Raise the limit with `ulimit -n`, and run it again"
        ),
        errno.EISDIR: f"it is a folder. Give the file of a cache, such as {path / f'iemocap{_SUFFIX}'}",
    }
    remedy = (
        f"the disk reports {reported!r}. Check that it is connected and works, and run the same command again"
    )
    return f"{path} cannot be read: {known.get(number, remedy)}."


def _locked(path: Path, number: int | None, reported: str) -> str:
    if number in _LOCKED:
        return (
            f"Another program has {path} open for writing, such as a notebook: close the file there, then run the "
            "same command again."
        )
    return f"{path} cannot be opened, because its disk gives no locks ({reported}): {NO_LOCKS}."


def error_number(error: Exception) -> int | None:
    """The system's number of an error, which h5py may tell in its text only."""
    found = re.search(r"errno = (\d+)", str(error))
    number = getattr(error, "errno", None)
    return number if number is not None else int(found[1]) if found else None


def said(error: Exception) -> str:
    """What the system reports, without the text of HDF5 around it."""
    text = getattr(error, "strerror", None) or str(error)
    quoted = re.search(r"error message = '([^']*)'", text)
    return quoted[1] if quoted else text.splitlines()[0]


def _absent(path: Path) -> str:
    if path.is_symlink():
        return f"{path} is a link to {os.readlink(path)}, which does not exist: connect its disk, or correct the link."  # noqa: PTH115
    if path.suffix != _SUFFIX:
        return f"There is no file {path}: give the file of a cache, which ends in {_SUFFIX}."
    return f"There is no cache at {path}: make it with {extraction_of(path.stem)}."


def _misshapen(path: Path, error: Exception) -> str:
    """The file can be read, but HDF5 does not accept what is in it."""
    again = f"run {extraction_of(path.stem)} --overwrite" if path.suffix == _SUFFIX else "make it again"
    text = str(error)
    if "already open for" in text:
        return (
            f"{path} is marked as open for writing: close the program that has it open. If none has, a program was "
            f"stopped while it wrote to the file: {again}."
        )
    if cut := re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", text):
        return f"{path} was cut off, {int(cut[1]):,} of its {int(cut[2]):,} bytes are there: {again}."
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as problem:
        return why_not_opened(path, problem)
    if path.suffix == _SUFFIX and (start in _SIGNATURE or not start.strip(b"\0")):
        return f"{path} was cut off, it {'is empty' if not start else 'has no content'}: {again}."
    if "signature not found" in text:
        hint = f", or {again}" if path.suffix == _SUFFIX else ""
        return f"{path} is not a feature cache, its format is not HDF5: give a file that ser-extract wrote{hint}."
    return f"{path} is damaged or was cut off ({_inner(text)}): {again}."


def _inner(text: str) -> str:
    """HDF5's own reason, which it puts in parentheses."""
    found = re.search(r"\((.*)\)", text, re.DOTALL)
    return (found[1] if found else text).splitlines()[0]
