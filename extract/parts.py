"""Parts of an extraction: planned, written beside the cache one by one, kept, and merged at the end.

A part names what each of its rows was computed from. So it stays of use when labels, splits or other recordings change.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.files import remove_abandoned, write_whole
from ser_memory.common.locks import shared_access, sole_access
from ser_memory.common.reporting import notice
from ser_memory.extract.encoding import Rows
from ser_memory.extract.rows import ACOUSTIC_HALF, TEXT_HALF, Indices, Store, still_refused

# Seconds of audio in a part: a kill costs at most the part in hand. A corpus has at least FEWEST_PARTS, unless these
# would be shorter than SHORTEST_PART: then there would only be more files.
LONGEST_PART, FEWEST_PARTS, SHORTEST_PART = 600.0, 20, 30.0
_SUFFIX = ".safetensors"
_TEXTS = 500  # in a part: some seconds of work


@dataclass(frozen=True)
class Part:
    """A share of the work: recordings of similar duration, or texts."""

    places: tuple[int, ...]  # positions in the work, the longest recording first
    done: tuple[int, ...] = ()  # others, which have a row already
    name: str = ""  # among parts that several workers share


def plan_parts(seconds: Sequence[float], part_seconds: float | None = None) -> list[Part]:
    """Cut recordings of these durations into parts of about `part_seconds`, the longest first.

    All durations are in seconds. None means a twentieth of the whole, 30 to 600 s. The plan depends on its arguments
    only. The longest come first, so that a recording that does not fit into memory fails at the beginning.
    """
    if part_seconds is None:
        part_seconds = min(LONGEST_PART, max(SHORTEST_PART, sum(seconds) / FEWEST_PARTS))
    parts: list[list[int]] = []
    room = 0.0
    for place in sorted(range(len(seconds)), key=lambda i: (-seconds[i], i)):
        if not parts or room < seconds[place]:
            parts.append([])
            room = part_seconds
        parts[-1].append(place)
        room -= seconds[place]
    return [Part(tuple(places)) for places in parts]


def plan_texts(number: int) -> list[Part]:
    """Cut so many texts into parts, in their order."""
    return [Part(tuple(range(start, min(number, start + _TEXTS)))) for start in range(0, number, _TEXTS)]


class Parts:
    """The folder of the finished parts of one pair of encoders and one condition, <cache>/<corpus>.parts/<key>.

    An extraction that computes everything again uses none but its own, in the folder `fresh` below it.
    """

    def __init__(
        self, cache: Path, encoders: Mapping[str, Any], bounds: tuple[float, float], fresh: bool = False
    ) -> None:
        """`cache` is the path of the cache file, `encoders` their attributes, `bounds` the durations in seconds."""
        determining = [name for name in (*ACOUSTIC_HALF, *TEXT_HALF) if name in encoders]
        key = json.dumps([encoders[name] for name in determining])
        self._of_encoders = cache.with_suffix(".parts") / hashlib.sha256(key.encode()).hexdigest()[:16]
        self.folder = self._of_encoders / "fresh" if fresh else self._of_encoders
        self._bounds = list(bounds)
        self._missing = 0  # rows to be written, for a message
        self._damaged: set[Path] = set()
        self._included: set[Path] = set()

    def expect(self, rows: int) -> None:
        """So many rows are going to be written: a full disk is reported with the space that they need."""
        self._missing = rows

    def include(self, file: str) -> None:
        """Have a file of this folder that another host may have written: a shared folder may list it late."""
        if file:
            self._included.add(self.folder / file)

    def write(self, recordings: Sequence[str], rows: Rows) -> str:
        """Keep finished recordings, whole or not at all; `rows.places` are places among them.

        Returns the name of the file. Raises SerError.
        """
        return self._write(
            {"durations": rows.durations, "acoustic": np.ascontiguousarray(rows.acoustic)},
            {
                "recordings": [recordings[place] for place in rows.places],
                "refused": {
                    recordings[place]: reason for place, reason in rows.refused.items() if reason != "missing"
                },
                "silent": [recordings[place] for place in rows.silent],
                "bounds": self._bounds,
            },
        )

    def write_texts(self, transcripts: Sequence[str], rows: npt.NDArray[np.float32]) -> str:
        """Keep (n, E) rows of texts, whole or not at all. Returns the name of the file. Raises SerError."""
        return self._write({"text": np.ascontiguousarray(rows)}, {"transcripts": list(transcripts)})

    def count(self) -> int:
        """The number of finished parts, without those that `stores` found damaged."""
        return len(set(self._paths()) - self._damaged)

    def kept(self) -> str:
        """A sentence for somebody who stops here."""
        return f"{self.count()} finished parts are kept in {self.folder}; run the same command again to continue."

    def stores(self) -> list[Store]:
        """All finished parts. A damaged one is reported, and its rows are missing. Raises SerError if one cannot be read."""
        paths = (path for path in self._paths() if path not in self._damaged)
        return [store for path in paths if (store := self._store(path)) is not None]

    def clear(self, recordings: Collection[str]) -> None:
        """Remove the parts without a recording besides these, and the folders that are empty then.

        The others may be hours of work, such as of the whole corpus when this was a trial.
        """
        there = set(recordings)
        for path in self._paths(self._of_encoders):
            try:
                told = _metadata(path)
            except (SafetensorError, OSError, KeyError, ValueError):
                told = {}  # damaged: nothing can be lost
            if {*told.get("recordings", ()), *told.get("refused", ())} <= there:
                path.unlink(missing_ok=True)
        corpus = self._of_encoders.parent
        for folder in (self._of_encoders / "fresh", self._of_encoders):
            if folder.is_dir() and not self._paths(folder):
                shutil.rmtree(folder, ignore_errors=True)
        if corpus.is_dir():
            try:
                corpus.rmdir()
            except OSError:
                notice(
                    f"{corpus} holds parts with other settings, or with recordings that this cache does not have; remove "
                    "it if you do not need them."
                )

    def _write(self, tensors: dict[str, npt.NDArray[Any]], told: dict[str, object]) -> str:
        content = save(tensors, metadata={"content": json.dumps(told)})
        # Named by what it is of: parts of another plan are beside it.
        name = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
        path = self.folder / f"part-{name}{_SUFFIX}"
        try:
            write_whole(path, content)
            self._damaged.discard(path)
            self._included.add(path)
        except OSError as error:
            rows = next(iter(tensors.values()))
            needed = sum(each.nbytes for each in tensors.values()) / max(1, len(rows)) * self._missing / 1e6
            raise SerError(
                f"A part could not be written to {self.folder} ({error.strerror}): all parts need about "
                f"{math.ceil(needed):,} MB and the cache as much again; finished parts stay, so make room and run "
                "the same command to continue."
            ) from error
        return path.name

    def _paths(self, folder: Path | None = None) -> list[Path]:
        folder = folder or self.folder
        included = (path for path in self._included if path.is_relative_to(folder) and path.exists())
        return sorted({*folder.rglob(f"part-*{_SUFFIX}"), *included})

    def _store(self, path: Path) -> Store | None:
        try:
            path.open("rb").close()  # what cannot be opened is not damaged
        except OSError as error:
            raise SerError(
                f"The finished part {path} cannot be read ({error.strerror}): solve that, then run the same command again."
            ) from error
        try:
            return self._opened(path)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            notice(f"{path} is damaged and will be made again.")
            self._damaged.add(path)
            return None

    def _opened(self, path: Path) -> Store:
        told = _metadata(path)
        recordings, transcripts = told.get("recordings", []), told.get("transcripts", [])
        with safe_open(path, framework="numpy") as file:
            names = sorted({"acoustic", "text"}.intersection(file.keys()))
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            durations = file.get_tensor("durations").tolist() if "acoustic" in shapes else []
        lengths = {"acoustic": len(recordings), "text": len(transcripts)}
        if not shapes or any(shape[0] != lengths[name] for name, shape in shapes.items()):
            raise ValueError(path)
        return Store(
            recordings,
            durations,
            transcripts,
            still_refused(told.get("refused", {}), told.get("bounds") == self._bounds),
            told.get("silent", []),
            {name: shape[1:] for name, shape in shapes.items() if shape[0]},
            lambda column, rows: _read(path, column, rows),
        )


def _metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        told = json.loads(file.metadata()["content"])
    if not isinstance(told, dict):
        raise TypeError(path)
    return told


def _read(path: Path, column: str, rows: Indices) -> npt.NDArray[np.float32]:
    with safe_open(path, framework="numpy") as file:
        values: npt.NDArray[np.float32] = file.get_tensor(column)[rows]
    return values


@contextmanager
def sole_writer(cache: Path, several: bool = False) -> Iterator[OSError | None]:
    """Refuse a second extraction of the same cache file; the system frees the lock of a killed process.

    With `several`, this is one of several workers, which refuse only an extraction that is none of them, and a folder
    that does not exist: it may be on a disk that this host does not have.

    Yields None, or, if a cache exists in a folder that cannot be written, the error: its content may be the one
    asked for. Raises SerError if another process writes the cache, OSError if there is neither cache nor access.
    """
    if several and not cache.parent.is_dir():
        raise UsageError(
            f"The folder {cache.parent} does not exist on this host, and a worker does not make it, because on a host "
            "without the shared disk it would begin alone: make it there first, or correct --cache."
        )
    denied: OSError | None = None
    with ExitStack() as held:
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            busy = SerError(f"Another ser-extract is writing {cache}: wait for it, or give another --cache.")
            lock = cache.with_name(f".{cache.stem}.lock")
            held.enter_context(shared_access(lock, busy) if several else sole_access(lock, busy, "--cache"))
            if not several:  # times of several hosts do not compare
                remove_abandoned(cache.parent)
        except OSError as error:
            if not cache.exists():
                raise
            denied = error
        yield denied
