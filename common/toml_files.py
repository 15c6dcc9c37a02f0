"""The one reader of TOML files: manifests, presets and experiments."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ser_memory.common.errors import SerError, UsageError


def read_toml(path: Path, name: str) -> dict[str, Any]:
    """The content of a TOML file in UTF-8, with or without a byte-order mark.

    `name` says what the file is, for messages, such as "manifest". Raises UsageError if there is no such file, and
    SerError if it cannot be opened or is not TOML.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"There is no {name} at {path}.") from None
    except OSError as error:
        raise SerError(f"The {name} {path} cannot be opened: {error.strerror}.") from None
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise SerError(
            f"The {name} {path} cannot be read as TOML, it is not UTF-8 text: save it as UTF-8."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise SerError(f"The {name} {path} cannot be read as TOML: {error}.") from None
