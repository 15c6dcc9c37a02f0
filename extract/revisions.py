"""What tells the weights in a local folder from others of the same name."""

from __future__ import annotations

import hashlib
from pathlib import Path

_FILES = {".json", ".txt", ".safetensors", ".bin", ".model"}  # configuration, vocabulary and weights


def digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's files, 16 digits of it."""
    made = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in _FILES:
            made.update(path.name.encode())
            with path.open("rb") as file:
                made.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{made.hexdigest()[:16]}"
