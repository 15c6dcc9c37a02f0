"""Parts as work for Ray, on this machine or on a cluster whose nodes see the same release, models and cache folder.

Actors hold their encoders, one for each core or GPU of the cluster. The part of an actor that is lost goes to another one.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from ser_memory.common import nodes
from ser_memory.common.cluster import alike, connected, living
from ser_memory.common.errors import SerError, UsageError, system_errors
from ser_memory.common.interruption import InterruptedRunError, on_signals
from ser_memory.common.machine import cores, one_core_each
from ser_memory.common.reporting import Advance, notice
from ser_memory.extract.encoding import Rows, Text
from ser_memory.extract.parts import Part, Parts
from ser_memory.extract.settings import Extraction, ExtractionSettings
from ser_memory.extract.workers import Encoders, Vectors, Work, hear, read, texts_of

_TRIES = 4  # of a part whose actors are lost: its recordings may not fit into memory
_FILES = 20  # of the release, looked at on each node


@contextmanager
def on_ray(
    extraction: Extraction, encoders: Encoders, todo: tuple[bool, bool], paths: Sequence[Path]
) -> Iterator[OnRay]:
    """Actors that can encode, once the nodes are found to be alike.

    `todo` says whether there are recordings and texts to encode, and `paths` are the recordings of the release.
    Raises SerError in one sentence.
    """
    settings = extraction.settings
    with connected(settings.address, settings.workers or cores()) as ray:
        folders = {} if settings.collect else {"--cache": extraction.cache}
        some = paths[:: max(1, len(paths) // _FILES)]
        with alike(ray, settings.address, folders, {"release": some}) as common:
            yield OnRay(ray, settings, encoders.attributes(), todo, common)


class OnRay:
    """A crew of actors; those that are not loaded yet, or for whom there is no room after a loss, get no part."""

    def __init__(
        self,
        ray: Any,
        settings: ExtractionSettings,
        attributes: dict[str, str],
        todo: tuple[bool, bool],
        common: nodes.Common,
    ) -> None:
        """`attributes` of the encoders, and what is in `common`, must be the same on all nodes."""
        cards = sum(int(node["Resources"].get("GPU", 0)) for node in living(ray))
        device = settings.device if settings.device != "auto" else ("cuda" if cards else "cpu")
        if device == "cuda" and not cards:
            raise UsageError("No node of the cluster has a GPU: give --device cpu.")
        size = cards if device == "cuda" else sum(int(node["Resources"]["CPU"]) for node in living(ray))
        if settings.workers is not None and device == "cpu":
            size = min(size, settings.workers)
        self._ray, self._collect, self._size = ray, settings.collect, size
        self._class = ray.remote(num_cpus=1, num_gpus=int(device == "cuda"), max_restarts=0)(nodes.Guarded)
        made = partial(_Actor, replace(settings, device=device, workers=1), attributes, todo, Path.cwd())
        self._arguments = common, import_module("ray.cloudpickle").dumps(made)
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Any, Part | None]] = {}  # what an actor returns -> it, and its part
        for _ in range(size):
            self._begin()

    def encode_recordings(self, work: Work, plan: Sequence[Part], parts: Parts, advance: Advance) -> None:
        """As `workers.Threads` does."""

        def keep(part: Part, rows: Rows) -> None:
            parts.write(work.recordings(part), rows)

        self._each(work, plan, parts, keep, lambda place: advance(work.items[place].seconds))

    def encode_transcripts(
        self, texts: Sequence[Text], plan: Sequence[Part], parts: Parts, advance: Advance
    ) -> None:
        """As `workers.Threads` does."""

        def keep(part: Part, rows: Vectors) -> None:
            parts.write_texts(texts_of(texts, part), rows)

        self._each(texts, plan, parts, keep, lambda _: advance(1))

    def _begin(self) -> None:
        actor = self._class.remote(*self._arguments)
        self._call(actor, None, "load")

    def _each(
        self,
        work: Work | Sequence[Text],
        plan: Sequence[Part],
        parts: Parts,
        keep: Callable[[Part, Any], None],
        done: Callable[[int], object],
    ) -> None:
        """Give each part to an actor that is free; raises SerError, or InterruptedRunError on SIGINT and SIGTERM."""
        reference, written = self._ray.put(work), None if self._collect else parts
        waiting, left, lost = deque(plan), len(plan), Counter[Part | None]()
        with on_signals(lambda: None) as received:
            while left and not received:
                while waiting and self._idle:
                    actor, part = self._idle.pop(), waiting.popleft()
                    self._call(actor, part, "encode", [reference], part, written)
                ended, _ = self._ray.wait(list(self._running), timeout=0.5)
                for each in ended:
                    actor, given = self._running.pop(each)
                    try:
                        result = self._result(each)
                    except _LostError as reason:
                        lost[given] += 1
                        self._refuse_hopeless(given, lost[given], f"{reason}", parts)
                        waiting.extendleft([given] if given else [])
                        self._replace()
                        continue
                    self._idle.append(actor)
                    if given:
                        left -= 1
                        parts.include(result) if isinstance(result, str) else keep(given, result)
                        for place in given.places:
                            done(place)
        if received:
            raise InterruptedRunError(f"Stopped as asked: {parts.kept()}", received[0])

    def _call(self, actor: Any, part: Part | None, method: str, *arguments: object) -> None:
        """Begin what an actor does, for a part or before it gets one; Ray shows it by the name of the method."""
        self._running[actor.call.options(name=method).remote(method, *arguments)] = actor, part

    def _refuse_hopeless(self, part: Part | None, times: int, reason: str, parts: Parts) -> None:
        """Raise SerError if a part, or what actors do before they get one, was lost too often."""
        if times >= _TRIES * (1 if part else self._size):
            raise SerError(
                f"Ray lost the same work {times} times ({reason}): if its nodes have too little memory, lower "
                f"--max-duration, or give Ray fewer cores; its logs say more. {parts.kept()}"
            )
        if part:
            notice("A process of Ray was lost; its part is done again.")

    def _replace(self) -> None:
        """Begin an actor in place of a lost one; those without a part may have been on the same node."""
        for actor in self._idle:
            self._call(actor, None, "answer")
        self._idle.clear()
        self._begin()

    def _result(self, reference: Any) -> Any:
        try:
            fault, result = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            raise _LostError(str(error).strip().splitlines()[0].rstrip(".")) from None
        if fault:
            raise SerError(fault)
        if isinstance(result, SerError):
            raise result
        return result


class _LostError(Exception):
    """An actor, or what it returned, is lost with its process or node."""


class _Actor:
    """A process of Ray with its encoders. What the user can solve is returned as a SerError."""

    def __init__(
        self,
        settings: ExtractionSettings,
        attributes: dict[str, str],
        todo: tuple[bool, bool],
        working_folder: Path,
    ) -> None:
        """Relative paths are relative to the working folder of the command, where this node has it."""
        with suppress(OSError):
            os.chdir(working_folder)
        self._settings, self._attributes, self._todo = settings, attributes, todo
        self._work: tuple[Any, Work | Sequence[Text]] | None = None

    def load(self) -> SerError | None:
        """Load the encoders."""
        try:
            with system_errors(), one_core_each():
                encoders = Encoders(self._settings)
                if encoders.attributes() != self._attributes:
                    return SerError(
                        "A node of the cluster has other files of the encoders than this machine: give the same to all."
                    )
                self._acoustic = encoders.acoustic() if self._todo[0] else []
                self._text = encoders.text() if self._todo[1] else []
        except SerError as error:
            return error
        return None

    def answer(self) -> None:
        """Show that it lives."""

    def encode(self, references: list[Any], part: Part, parts: Parts | None) -> Any:
        """The name of the file of a part, or without `parts` its rows; `references` has the work of all parts."""
        if self._work is None or self._work[0] != references[0]:
            import ray

            self._work = references[0], ray.get(references[0])
        work, never = self._work[1], threading.Event()
        try:
            with system_errors(), one_core_each():
                if isinstance(work, Work):
                    heard = cast("Rows", hear(work, part, self._acoustic[0], never, lambda _: None))
                    return heard if parts is None else parts.write(work.recordings(part), heard)
                rows = cast("Vectors", read(work, part, self._text[0], never, lambda _: None))
                return rows if parts is None else parts.write_texts(texts_of(work, part), rows)
        except SerError as error:
            return error
