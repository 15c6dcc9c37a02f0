"""Workers: threads that take the parts of a corpus, as many as the cores or cards allow.

On a CPU there is one per core, each computing on that core alone: torch's own threads wait for each other at every
operation, whole utterances side by side do not. On GPUs there is one per card.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ser_memory.common.interruption import InterruptedRunError, on_signals
from ser_memory.common.machine import cores, one_core_each
from ser_memory.common.reporting import Advance
from ser_memory.extract.encoding import Batch, EncoderPair, Item, Rows, encode, gather
from ser_memory.extract.parts import Part, Parts

_Events = queue.SimpleQueue[float | BaseException | None]  # seconds done, a failure, the end of a worker


def per_core(pair: EncoderPair, wanted: int | None = None) -> list[EncoderPair]:
    """Pairs for a CPU that share the encoders of one: as many as wanted, or one per core."""
    return [EncoderPair(pair.acoustic, pair.text) for _ in range(wanted or cores())]


@dataclass(frozen=True)
class Work:
    """What is to be encoded."""

    items: Sequence[Item]  # in the reader's order
    min_duration: float  # seconds
    max_duration: float  # seconds
    refuse_changed: Callable[[Iterable[Path]], None] = lambda _: None  # raises SerError for these recordings


def encode_parts(
    work: Work, pending: Sequence[Part], parts: Parts, pairs: Sequence[EncoderPair], advance: Advance
) -> None:
    """Encode and keep the pending parts; `advance` gets the seconds of audio done.

    Raises the first worker's SerError, or InterruptedRunError on SIGINT and SIGTERM, after the others have
    stopped; finished parts are kept.
    """
    todo: queue.SimpleQueue[Part] = queue.SimpleQueue()
    for part in pending:
        todo.put(part)
    events: _Events = queue.SimpleQueue()
    stop = threading.Event()

    def run(pair: EncoderPair) -> None:
        try:
            while not stop.is_set():
                part = todo.get_nowait()
                rows = _encode_part(work, part, pair, stop, events.put)
                if rows is not None:
                    audio = (work.items[place].audio for place in part.places)
                    work.refuse_changed(path for path in audio if path is not None)
                    parts.write(part, rows)
        except queue.Empty:
            pass
        except BaseException as error:
            events.put(error)
        events.put(None)

    on_cpu = all(pair.acoustic.device.type == "cpu" for pair in pairs)
    with one_core_each() if on_cpu else nullcontext(), on_signals(stop.set) as received:
        threads = [threading.Thread(target=run, args=(pair,), daemon=True) for pair in pairs]
        for thread in threads:
            thread.start()
        failure = _watch(events, len(threads), stop, advance)
    if failure is not None:
        raise failure
    if received:
        kept = len(parts.plan) - len(parts.pending())
        raise InterruptedRunError(
            f"Stopped as asked: {kept} of {len(parts.plan)} parts are kept in {parts.folder}; "
            "run the same command again to continue.",
            received[0],
        )


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


def _encode_part(
    work: Work, part: Part, pair: EncoderPair, stop: threading.Event, report: Callable[[float], None]
) -> Rows | None:
    """All rows of a part, at their places in the reader's order; None if stopped before the end."""
    items = [work.items[place] for place in part.places]
    batches: list[Batch] = []
    for batch in encode(items, pair, work.min_duration, work.max_duration):
        batches.append(batch)
        report(sum(items[place].seconds for place in (*batch.places, *batch.refused)))
        if stop.is_set() and sum(map(len, batches)) < len(items):
            return None
    rows = gather(items, batches, pair)
    places = np.array(part.places, np.int64)
    refused = {part.places[place]: reason for place, reason in rows.refused.items()}
    silent = tuple(part.places[place] for place in rows.silent)
    return replace(rows, places=places[rows.places], refused=refused, silent=silent)
