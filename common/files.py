"""Files that are written whole or not at all, also if the process is killed meanwhile."""

from __future__ import annotations

import glob
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".partial"
_ABANDONED = 3600.0  # seconds without a change after which a partial file has no writer any more


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that it has all of the content or, if anything goes wrong, what it had before.

    Text is written in UTF-8 with its line ends as they are. The content is on disk when this returns, and would
    survive a power cut. The folder is made if it does not exist. Raises OSError.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; at the end of the block that file replaces `path`.

    If the block raises, the new file is removed and `path` stays as it was. Its name is different for every
    call, on every host and in every container that shares the folder. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{_PARTIAL}")
    try:
        yield partial
        flush_to_disk(partial)
        partial.replace(path)
        flush_to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove the partial files of writers that were killed.

    Only files without a change for an hour: others may be in use by another process or host.
    """
    for partial in folder.glob(f"*{_PARTIAL}"):
        try:
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                partial.unlink()
        except OSError:  # another process removed it, or it may not be removed
            continue


def remove_partial(path: Path) -> None:
    """Remove what killed writers of this file left beside it, of whatever age: no writer may be at work."""
    for partial in path.parent.glob(f"{glob.escape(path.name)}.*{_PARTIAL}"):
        partial.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or a folder's list of files, would survive a power cut. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
