"""Workers: threads that take the parts of a corpus, as many as the cores or cards allow.

On a CPU there is one per core, each computing on that core alone: torch's own threads wait for each other at every
operation, whole utterances side by side do not. On GPUs there is one per card.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ser_memory.common.errors import SerError
from ser_memory.common.interruption import InterruptedRunError, on_signals
from ser_memory.common.machine import cores, one_core_each, resolve_devices
from ser_memory.common.reporting import Advance
from ser_memory.extract.conditions import Condition
from ser_memory.extract.encoders import (
    AcousticEncoder,
    AcousticIdentity,
    EncoderOptions,
    TextEncoder,
    TextIdentity,
    identify_acoustic,
    identify_text,
    load_acoustic,
    load_text,
)
from ser_memory.extract.encoding import (
    AcousticWorker,
    Batch,
    Item,
    Rows,
    Text,
    encode,
    encode_texts,
    gather,
    gather_texts,
)
from ser_memory.extract.parts import Part, Parts
from ser_memory.extract.settings import EncoderSettings
from ser_memory.extract.sharing import ALONE, Share

Vectors = npt.NDArray[np.float32]  # (n, E)
_Part = TypeVar("_Part")
_Worker = TypeVar("_Worker")
_Events = queue.SimpleQueue[float | BaseException | None]  # work done, a failure, the end of a worker


class Encoders:
    """The two encoders that the settings name: identified without their weights, loaded when a row is missing."""

    def __init__(self, settings: EncoderSettings, text: TextIdentity | None = None) -> None:
        """`text` is what the text encoder is, where it need not be there because no text is encoded.

        Raises UsageError for a device that is not there.
        """
        self._settings, self._text = settings, text
        self._devices = resolve_devices(settings.device)
        self._options = EncoderOptions(settings.layers, settings.pooling, settings.precision)

    @property
    def on_cpu(self) -> bool:
        """Whether a worker is a core."""
        return self._devices[0].type == "cpu"

    @cached_property
    def acoustic_identity(self) -> AcousticIdentity:
        """What the acoustic encoder is. Raises UsageError and SerError, as far as its configuration tells."""
        return identify_acoustic(self._settings.acoustic_encoder, self._options)

    @cached_property
    def text_identity(self) -> TextIdentity:
        """What the text encoder is. Raises SerError as far as its configuration tells."""
        return self._text or identify_text(self._settings.text_encoder)

    def attributes(self) -> dict[str, str]:
        """The attributes of a cache that the encoders determine."""
        return self.acoustic_identity.attributes() | self.text_identity.attributes()

    def acoustic(self) -> list[AcousticWorker]:
        """Workers with the acoustic encoder. Raises SerError if it cannot be loaded."""
        name = self._settings.acoustic_encoder
        loaded = [load_acoustic(name, device, self._options) for device in self._devices]
        self._refuse_another(loaded[0], self.acoustic_identity)
        return [AcousticWorker(encoder) for encoder in self._for_each_core(loaded)]

    def text(self) -> list[TextEncoder]:
        """The text encoder, once for each worker. Raises SerError if it cannot be loaded."""
        loaded = [load_text(self._settings.text_encoder, device) for device in self._devices]
        self._refuse_another(loaded[0], self.text_identity)
        return self._for_each_core(loaded)

    def _for_each_core(self, loaded: list[_Worker]) -> list[_Worker]:
        return loaded[:1] * (self._settings.workers or cores()) if self.on_cpu else loaded

    def _refuse_another(
        self, loaded: AcousticEncoder | TextEncoder, identity: AcousticIdentity | TextIdentity
    ) -> None:
        if loaded.attributes() != identity.attributes():
            raise SerError(f"The files of {loaded.name} were changed meanwhile: run the same command again.")


@dataclass(frozen=True)
class Work:
    """The recordings to be encoded."""

    items: Sequence[Item]
    min_duration: float  # seconds
    max_duration: float  # seconds
    condition: Condition | None = None  # in which they are heard
    refuse_changed: Callable[[Iterable[Path]], None] = lambda _: None  # raises SerError for these recordings

    def recordings(self, part: Part) -> list[str]:
        """The digests of the recordings of a part."""
        return [self.items[place].recording for place in part.places]


def hear(
    work: Work, part: Part, worker: AcousticWorker, stop: threading.Event, report: Advance
) -> Rows | None:
    """The rows of a part, None if stopped; `report` gets the seconds of audio done. Raises SerError."""
    items = [work.items[place] for place in part.places]
    batches: list[Batch] = []
    for batch in encode(items, worker, work.min_duration, work.max_duration, work.condition):
        batches.append(batch)
        report(sum(items[place].seconds for place in (*batch.places, *batch.refused)))
        if stop.is_set() and sum(map(len, batches)) < len(items):
            return None
    rows = gather(items, batches, worker)
    work.refuse_changed(item.audio for item in items if item.audio is not None)
    return rows


def read(
    texts: Sequence[Text], part: Part, encoder: TextEncoder, stop: threading.Event, report: Advance
) -> Vectors | None:
    """The (n, E) rows of a part, None if stopped; `report` gets the number of texts done. Raises SerError."""
    some = [texts[place] for place in part.places]
    batches = []
    for batch in encode_texts(some, encoder):
        batches.append(batch)
        report(len(batch[0]))
        if stop.is_set() and sum(len(places) for places, _ in batches) < len(some):
            return None
    return gather_texts(some, batches)


def texts_of(texts: Sequence[Text], part: Part) -> list[str]:
    """The texts of a part."""
    return [texts[place].text for place in part.places]


def encode_recordings(
    work: Work,
    plan: Sequence[Part],
    parts: Parts,
    workers: Sequence[AcousticWorker],
    advance: Advance,
    share: Share = ALONE,
) -> None:
    """Encode and keep parts of the items; `advance` gets the seconds of audio done. Raises as `each_part` does."""

    def encode_part(part: Part, worker: AcousticWorker, stop: threading.Event, report: Advance) -> None:
        report(sum(work.items[place].seconds for place in part.done))
        if not part.places:
            share.finish(part)
        elif (rows := hear(work, part, worker, stop, report)) is not None:
            share.finish(part, parts.write(work.recordings(part), rows))

    on_cpu, stop = all(worker.encoder.device.type == "cpu" for worker in workers), threading.Event()
    pieces = share.pieces(plan, stop.is_set)
    each_part(pieces, workers, encode_part, on_cpu, advance, parts.kept, stop)


def encode_transcripts(
    texts: Sequence[Text],
    plan: Sequence[Part],
    parts: Parts,
    workers: Sequence[TextEncoder],
    advance: Advance,
    share: Share = ALONE,
) -> None:
    """Encode and keep parts of the texts; `advance` gets their number. Raises as `each_part` does."""

    def encode_part(part: Part, encoder: TextEncoder, stop: threading.Event, report: Advance) -> None:
        report(len(part.done))
        if not part.places:
            share.finish(part)
        elif (rows := read(texts, part, encoder, stop, report)) is not None:
            share.finish(part, parts.write_texts(texts_of(texts, part), rows))

    on_cpu, stop = all(encoder.device.type == "cpu" for encoder in workers), threading.Event()
    pieces = share.pieces(plan, stop.is_set)
    each_part(pieces, workers, encode_part, on_cpu, advance, parts.kept, stop)


class Crew(Protocol):
    """Who encodes the parts of a plan, and keeps them. Methods raise as `each_part` does."""

    def encode_recordings(self, work: Work, plan: Sequence[Part], parts: Parts, advance: Advance) -> None:
        """`advance` gets the seconds of audio done."""

    def encode_transcripts(
        self, texts: Sequence[Text], plan: Sequence[Part], parts: Parts, advance: Advance
    ) -> None:
        """`advance` gets the number of texts done."""


@dataclass(frozen=True)
class Threads:
    """Workers of this process."""

    acoustic: Sequence[AcousticWorker]
    text: Sequence[TextEncoder]
    share: Share

    def encode_recordings(self, work: Work, plan: Sequence[Part], parts: Parts, advance: Advance) -> None:
        encode_recordings(work, plan, parts, self.acoustic, advance, self.share)

    def encode_transcripts(
        self, texts: Sequence[Text], plan: Sequence[Part], parts: Parts, advance: Advance
    ) -> None:
        encode_transcripts(texts, plan, parts, self.text, advance, self.share)


def each_part(
    plan: Iterable[_Part],
    workers: Sequence[_Worker],
    encode_part: Callable[[_Part, _Worker, threading.Event, Advance], None],
    on_cpu: bool,
    advance: Advance,
    kept: Callable[[], str],
    stop: threading.Event | None = None,
) -> None:
    """Give each part to a worker that is free, and take it from the plan then; `encode_part` ends early once its event,
    which is `stop` if given, is set.

    Raises the first worker's SerError, or InterruptedRunError with the sentence of `kept` on SIGINT and SIGTERM, after
    the others have stopped.
    """
    todo, turn = iter(plan), threading.Lock()
    events: _Events = queue.SimpleQueue()
    stop = stop or threading.Event()

    def run(worker: _Worker) -> None:
        try:
            while not stop.is_set():
                with turn:
                    part = next(todo, None)
                if part is None:
                    break
                encode_part(part, worker, stop, events.put)
        except BaseException as error:
            events.put(error)
        events.put(None)

    with one_core_each() if on_cpu else nullcontext(), on_signals(stop.set) as received:
        threads = [threading.Thread(target=run, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        failure = _watch(events, len(threads), stop, advance)
    if failure is not None:
        raise failure
    if received:
        raise InterruptedRunError(f"Stopped as asked: {kept()}", received[0])


def _watch(events: _Events, running: int, stop: threading.Event, advance: Advance) -> BaseException | None:
    """Report progress until all workers have ended; the first failure stops the others and is returned."""
    failure: BaseException | None = None
    while running:
        event = events.get()
        if event is None:
            running -= 1
        elif isinstance(event, BaseException):
            failure = failure or event
            stop.set()
        else:
            advance(event)
    return failure
