"""What a node of a cluster must have in common with the process that gives it work.

Sent to the nodes by value, because the modules of a node may be of another version. So this imports nothing of its own
package.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGE = "ser-memory"
_SAME = (_PACKAGE, "ray", "torch", "numpy", "transformers")
_BLOCK = 1 << 16  # bytes


def versions() -> dict[str, str]:
    """Versions that determine results, of packages and of Python; "" for a package that is not there."""
    found = {"Python": platform.python_version()}
    for name in _SAME:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def source() -> str:
    """SHA-256 of the source files of ser-memory."""
    made = hashlib.sha256()
    files = {
        str(path.relative_to(folder)): path
        for folder in map(Path, importlib.import_module("ser_memory").__path__)
        for path in folder.rglob("*.py")
    }
    for name, path in sorted(files.items()):
        made.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return made.hexdigest()


def look(path: str) -> str:
    """SHA-256 of a file's size, start and end; "" if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            made = hashlib.sha256(str(size).encode())
            for start in (0, max(0, size - _BLOCK)):
                file.seek(start)
                made.update(file.read(_BLOCK))
    except OSError:
        return ""
    return made.hexdigest()


@dataclass(frozen=True)
class Common:
    """What all nodes must have."""

    versions: Mapping[str, str]
    source: str
    files: Sequence[tuple[str, str, str]]  # path, what `look` says of it, and what is wrong where it differs


def fault(common: Common) -> str:
    """What this node has not in common with the others, as the rest of a sentence after its name; "" if nothing."""
    for name, there in versions().items():
        if not there and common.versions[name]:
            return f"has no {name}: install {common.versions[name]} there."
        if there != common.versions[name]:
            return f"has {name} {there}, and this one has {common.versions[name]}: install the same on all nodes."
    if source() != common.source:
        return f"has other source files of {_PACKAGE} {versions()[_PACKAGE]} than this one: install the same on all nodes."
    return next((wrong for path, seen, wrong in common.files if look(path) != seen), "")


def carry_out(common: Common, made: bytes, *arguments: object) -> tuple[str, Any]:
    """What is wrong with this node, or "" and what a pickled function returns, which is not even read before."""
    if found := fault(common):
        return f"The node {importlib.import_module('ray').util.get_node_ip_address()} {found}", None
    return "", pickle.loads(made)(*arguments)


class Guarded:
    """An object of a node, made by a pickled function if nothing is wrong with the node."""

    def __init__(self, common: Common, made: bytes) -> None:
        self._fault, self._object = carry_out(common, made)

    def call(self, method: str, *arguments: object) -> tuple[str, Any]:
        """What is wrong with this node, or "" and what the method of the object returns."""
        return self._fault, None if self._fault else getattr(self._object, method)(*arguments)
