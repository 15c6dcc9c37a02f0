"""The parts of an extraction: planned, written beside the cache one by one, kept, and merged at the end."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ser_memory.common.errors import SerError
from ser_memory.common.files import remove_abandoned, write_whole
from ser_memory.common.locks import sole_access
from ser_memory.common.reporting import notice
from ser_memory.extract.encoding import Rows

# Seconds of audio in a part: a kill costs at most the part in hand. A corpus has at least FEWEST_PARTS, unless these
# would be shorter than SHORTEST_PART: then there would only be more files.
LONGEST_PART, FEWEST_PARTS, SHORTEST_PART = 600.0, 20, 30.0


@dataclass(frozen=True)
class Part:
    """A fixed share of the work: utterances of similar duration."""

    number: int
    places: tuple[int, ...]  # positions in the reader's order, the longest utterance first


def plan_parts(seconds: Sequence[float], part_seconds: float | None = None) -> list[Part]:
    """Cut utterances of these durations into parts of about `part_seconds`, the longest first.

    All durations are in seconds. None means a twentieth of the whole, 30 to 600 s. The plan depends on its arguments
    only. The longest come first, so that an utterance that does not fit into memory fails at the beginning.
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
    return [Part(number, tuple(places)) for number, places in enumerate(parts)]


class Parts:
    """The folder of one extraction's finished parts, <cache>/<corpus>.parts/<key>.

    The key covers the cache's fingerprint and the plan, so parts of other settings are never used.
    """

    def __init__(self, cache: Path, fingerprint: str, plan: Sequence[Part]) -> None:
        """`cache` is the path of the cache file."""
        key = json.dumps([fingerprint, [part.places for part in plan]])
        self.folder = cache.with_suffix(".parts") / hashlib.sha256(key.encode()).hexdigest()[:16]
        self.plan = plan

    def pending(self) -> list[Part]:
        """The parts that do not exist yet or cannot be read."""
        return [part for part in self.plan if not self._is_whole(part)]

    def write(self, part: Part, rows: Rows) -> None:
        """Keep a finished part, whole or not at all; its places are those in the reader's order. Raises SerError."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "places": rows.places,
            "durations": rows.durations,
            "acoustic": np.ascontiguousarray(rows.acoustic),
            "text": np.ascontiguousarray(rows.text),
        }
        refused = json.dumps({str(place): reason for place, reason in sorted(rows.refused.items())})
        metadata = {"refused": refused, "silent": json.dumps(sorted(rows.silent))}
        try:
            write_whole(self._path(part), save(tensors, metadata=metadata))
        except OSError as error:
            row = (rows.acoustic.nbytes + rows.text.nbytes) / max(1, len(rows.places))
            needed = row * sum(len(each.places) for each in self.plan) / 1e6
            raise SerError(
                f"A part could not be written to {self.folder} ({error.strerror}): all parts need about "
                f"{math.ceil(needed):,} MB and the cache as much again; finished parts stay, so make room and run "
                "the same command to continue."
            ) from error

    def read(self, part: Part) -> Rows:
        """A finished part; its places are those in the reader's order."""
        with safe_open(self._path(part), framework="numpy") as file:
            metadata = file.metadata()
            refused, silent = json.loads(metadata["refused"]), json.loads(metadata.get("silent", "[]"))
            arrays = {name: file.get_tensor(name) for name in ("places", "durations", "acoustic", "text")}
        return Rows(
            **arrays, refused={int(place): reason for place, reason in refused.items()}, silent=tuple(silent)
        )

    def read_all(self) -> Iterator[Rows]:
        """All parts in the order of the plan, one at a time in memory."""
        for part in self.plan:
            yield self.read(part)

    def clear(self) -> None:
        """Remove the parts, and the folder of all extractions of this corpus if it is empty then."""
        shutil.rmtree(self.folder, ignore_errors=True)
        others = self.folder.parent
        if others.is_dir():
            try:
                others.rmdir()
            except OSError:
                notice(f"{others} holds parts made with other settings; remove it if you do not need them.")

    def _is_whole(self, part: Part) -> bool:
        path = self._path(part)
        try:
            path.open("rb").close()  # what cannot be opened is not damaged
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SerError(
                f"The finished part {path} cannot be read ({error.strerror}): solve that, then run the same command again."
            ) from error
        try:
            self.read(part)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            notice(f"{path} is damaged and will be made again.")
            return False
        return True

    def _path(self, part: Part) -> Path:
        return self.folder / f"part-{part.number:05d}.safetensors"


@contextmanager
def sole_writer(cache: Path) -> Iterator[OSError | None]:
    """Refuse a second extraction of the same cache file; the system frees the lock of a killed process.

    Yields None, or, if a cache exists in a folder that cannot be written, the error: its content may be the one
    asked for. Raises SerError if another process writes the cache, OSError if there is neither cache nor access.
    """
    denied: OSError | None = None
    with ExitStack() as held:
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            busy = SerError(f"Another ser-extract is writing {cache}: wait for it, or give another --cache.")
            held.enter_context(sole_access(cache.with_name(f".{cache.stem}.lock"), busy, "--cache"))
            remove_abandoned(cache.parent)
        except OSError as error:
            if not cache.exists():
                raise
            denied = error
        yield denied
