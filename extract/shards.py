"""Crash-safe parts of an extraction: written beside the cache one by one, kept, and merged at the end."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ser_memory.common.errors import SerError
from ser_memory.common.files import flush_to_disk
from ser_memory.common.reporting import notice

# Seconds of audio in a part: a kill costs at most what is under way. Long corpora have parts as long as pays for their
# files, shorter ones at least so many, down to a length below which there would be only more files.
LONGEST_PART, FEWEST_PARTS, SHORTEST_PART = 600.0, 20, 30.0

Places = npt.NDArray[np.int64]  # (n,) of utterances, in the reader's order


@dataclass(frozen=True)
class Part:
    """A fixed share of the work: utterances of similar length."""

    number: int
    places: tuple[int, ...]  # longest first


@dataclass(frozen=True)
class PartRows:
    """What encoding a part gave; row i of each array is the utterance at places[i]."""

    places: Places
    durations: npt.NDArray[np.float32]  # (n,) seconds, as decoded
    acoustic: npt.NDArray[np.float32]  # (n, W) or (n, L, W)
    text: npt.NDArray[np.float32]  # (n, E)
    refused: dict[int, str]  # place -> reason, of utterances that turned out unusable


def plan_parts(seconds: Sequence[float], part_seconds: float | None = None) -> list[Part]:
    """Cut utterances of these durations into parts of about `part_seconds`, the longest first.

    None is a twentieth of the whole, 30 to 600 s. The plan follows from its arguments alone. The longest come
    first so that what does not fit into memory fails at once and not at dawn.
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


class Shards:
    """The folder of one extraction's finished parts, <cache>/<corpus>.parts/<key>.

    The key covers the cache's fingerprint and the plan, so parts of other settings are never taken.
    """

    def __init__(self, cache: Path, fingerprint: str, parts: Sequence[Part]) -> None:
        plan = json.dumps([fingerprint, [part.places for part in parts]])
        self.folder = cache.with_suffix(".parts") / hashlib.sha256(plan.encode()).hexdigest()[:16]
        self.parts = parts

    def pending(self) -> list[Part]:
        """The parts that are not there, or cannot be read."""
        return [part for part in self.parts if not self._is_whole(part)]

    def write(self, part: Part, rows: PartRows) -> None:
        """Keep a finished part: written aside, flushed to disk, then renamed."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "places": rows.places,
            "durations": rows.durations,
            "acoustic": np.ascontiguousarray(rows.acoustic),
            "text": np.ascontiguousarray(rows.text),
        }
        refused = json.dumps({str(place): reason for place, reason in sorted(rows.refused.items())})
        path = self._path(part)
        aside = path.with_suffix(f".{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(save(tensors, metadata={"refused": refused}))
            flush_to_disk(aside)
            aside.replace(path)
            flush_to_disk(path.parent)
        except OSError as error:
            aside.unlink(missing_ok=True)
            row = (rows.acoustic.nbytes + rows.text.nbytes) / max(1, len(rows.places))
            needed = row * sum(len(part.places) for part in self.parts) / 1e6
            raise SerError(
                f"A part could not be written to {self.folder} ({error.strerror}): all parts need about "
                f"{math.ceil(needed):,} MB and the cache as much again; finished parts stay, so make room and run "
                "the same command to go on."
            ) from error

    def read(self, part: Part) -> PartRows:
        with safe_open(self._path(part), framework="numpy") as file:
            refused = json.loads(file.metadata()["refused"])
            arrays = {name: file.get_tensor(name) for name in ("places", "durations", "acoustic", "text")}
        return PartRows(**arrays, refused={int(place): reason for place, reason in refused.items()})

    def read_all(self) -> Iterator[PartRows]:
        for part in self.parts:
            yield self.read(part)

    def clear(self) -> None:
        """Remove the parts, and the folder of all extractions of this corpus once it is empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        others = self.folder.parent
        if others.is_dir():
            try:
                others.rmdir()
            except OSError:
                notice(
                    f"{others} holds parts that were made with other settings; remove it if they are not needed."
                )

    def _is_whole(self, part: Part) -> bool:
        path = self._path(part)
        if not path.exists():
            return False
        try:
            self.read(part)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError):
            notice(f"{path} is damaged and is made again.")
            return False
        return True

    def _path(self, part: Part) -> Path:
        return self.folder / f"part-{part.number:05d}.safetensors"
