"""Who encodes which part: this process all of them, or each worker of several the next that nobody has.

What workers agree on does not depend on when they start: the plan follows from the release, the settings and older
caches, and each part is named by what it is of. What finished parts have is only left out within a part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ser_memory.common.claims import Claims, FolderGoneError, claimed, shared
from ser_memory.common.errors import SerError
from ser_memory.common.interruption import InterruptedRunError, on_signals
from ser_memory.extract.parts import Part, Parts
from ser_memory.extract.rows import Known, Store


class Share(Protocol):
    """What this process has of the work."""

    def agreed(self, found: Sequence[Store], heard: bool) -> Sequence[Store]:
        """Those finished parts that a plan may depend on; `heard` once all recordings are done."""

    def plan(
        self, parts: Sequence[Part], keys: Sequence[str], exists: Callable[[str], bool]
    ) -> Sequence[Part]:
        """The parts to be shared; `keys` are what they have places in, and `exists` says which have a row already."""

    def pieces(self, plan: Sequence[Part], stopped: Callable[[], bool]) -> Iterable[Part]:
        """The parts of this process, one after the other, and empty ones in place of those that others did."""

    def finish(self, part: Part, file: str = "") -> None:
        """A part is done, and its rows are in this file."""


class Alone:
    """All of it."""

    def agreed(self, found: Sequence[Store], heard: bool) -> Sequence[Store]:
        del heard
        return found

    def plan(
        self, parts: Sequence[Part], keys: Sequence[str], exists: Callable[[str], bool]
    ) -> Sequence[Part]:
        del keys, exists
        return parts

    def pieces(self, plan: Sequence[Part], stopped: Callable[[], bool]) -> Iterable[Part]:
        del stopped
        return plan

    def finish(self, part: Part, file: str = "") -> None:
        pass


ALONE = Alone()


class Together:
    """What no other worker has claimed. Methods raise FolderGoneError and OSError as `Claims` does."""

    def __init__(self, claims: Claims, parts: Parts) -> None:
        self._claims, self._parts = claims, parts

    def agreed(self, found: Sequence[Store], heard: bool) -> Sequence[Store]:
        # Which texts are needed depends on the recordings that were refused, and not on the texts that are done.
        return [replace(store, transcripts=()) for store in found] if heard else ()

    def plan(
        self, parts: Sequence[Part], keys: Sequence[str], exists: Callable[[str], bool]
    ) -> Sequence[Part]:
        def named(part: Part) -> Part:
            content = json.dumps([keys[place] for place in part.places])
            return Part(
                tuple(place for place in part.places if not exists(keys[place])),
                tuple(place for place in part.places if exists(keys[place])),
                hashlib.sha256(content.encode()).hexdigest()[:16],
            )

        return [named(part) for part in parts]

    def pieces(self, plan: Sequence[Part], stopped: Callable[[], bool]) -> Iterator[Part]:
        for part, own in shared(self._claims, plan, lambda part: part.name, stopped=stopped):
            if own:
                yield part
            else:
                self._parts.include(self._claims.word(part.name))
                yield replace(part, places=(), done=(*part.places, *part.done))

    def finish(self, part: Part, file: str = "") -> None:
        self._claims.finish(part.name, file)


def complete_together(
    claims: Claims,
    work: str,
    parts: Parts,
    is_complete: Callable[[], bool],
    compute: Callable[[Share], Known],
    complete: Callable[[Known], object],
) -> bool:
    """Work with others until all is complete; true if nobody else works any more.

    Args:
        claims: of this worker.
        work: what the workers work on. Raises SerError if the others work on something else.
        parts: that are made.
        is_complete: whether somebody has completed the work.
        compute: makes the parts, and returns all rows once all are there.
        complete: makes the result of the rows. One worker does.
    """
    other = SerError(
        f"Workers make another cache in {claims.folder}: of another release, with other options, or by another version "
        "of ser-memory. Start all with the same command, or wait until they have ended."
    )
    claims = claims.on(hashlib.sha256(work.encode()).hexdigest(), other)

    def interrupt() -> None:
        raise InterruptedRunError(f"Stopped as asked: {parts.kept()}", received[0])

    try:
        with claims, on_signals(interrupt) as received:
            # The others may have completed it, and removed their claims, before this worker came.
            if not is_complete():
                known = compute(Together(claims, parts))
                for piece in claimed(claims, ["cache"], str):
                    complete(known)
                    claims.finish(piece)
        return claims.is_last()
    except FolderGoneError:  # they took this one for dead, and cleaned up
        if not claims.wait_for(is_complete):
            raise
        return not claims.folder.exists()  # with others in it, what is there may be theirs


def claims_folder(cache: Path) -> Path:
    """Where the workers that make a cache have their claims: <cache>/.<name of the cache>.claims"""
    return cache.with_name(f".{cache.stem}.claims")
