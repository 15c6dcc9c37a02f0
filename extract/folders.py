"""Where releases are."""

from __future__ import annotations

import os
from pathlib import Path

from ser_memory.common.errors import UsageError


def release_root(root: Path | None, corpus: str) -> Path:
    """The folder of a release: the one given, or where SER_DATA says. Raises UsageError if it does not exist."""
    folder = root or Path(os.environ.get("SER_DATA") or "data").expanduser() / corpus
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {folder}: give the release with --root FOLDER, "
            f"or set SER_DATA to the folder that holds {corpus}/."
        )
    return folder
