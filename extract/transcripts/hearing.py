"""Recordings -> a store: asks an engine for what the store lacks, and keeps each answer as it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError, listing
from ser_memory.common.interruption import InterruptedRunError, on_signals
from ser_memory.common.reporting import notice
from ser_memory.extract import audio
from ser_memory.extract.audio import Waveform
from ser_memory.extract.transcripts.contract import Heard, RefusedError, Transcriber
from ser_memory.extract.transcripts.patience import ExhaustedError, Patience, StoppedError
from ser_memory.extract.transcripts.store import Transcript, TranscriptStore
from ser_memory.extract.transcripts.suspicion import flags

# Refusals in a row, none heard between: then it is not the recordings that are at fault.
_MOST_REFUSALS = 5


@dataclass(frozen=True)
class Recording:
    """What is to be heard."""

    id: str
    audio: Path
    seconds: float


@dataclass
class Outcome:
    """What came of it."""

    heard: int = 0
    empty: int = 0
    suspicious: dict[str, int] = field(default_factory=dict)  # flag -> transcripts
    undecodable: dict[str, str] = field(default_factory=dict)  # id -> one of common.cache.REASONS
    refused: dict[str, str] = field(default_factory=dict)  # id -> why; a later run asks again


def hear(
    recordings: list[Recording],
    transcriber: Transcriber,
    store: TranscriptStore,
    patience: Patience,
    advance: Callable[[float], None] = lambda _: None,
) -> Outcome:
    """Have every recording heard that the store lacks; `advance` is told of the seconds done.

    Each answer is on disk before its thread sends the next request. Raises SerError when the engine or the
    disk gives up, InterruptedRunError on SIGINT and SIGTERM; what was heard by then is kept.
    """
    worker = _Worker(transcriber, store, patience)
    missing = [recording for recording in recordings if recording.id not in store.records]
    size = transcriber.batch_size
    batches = [missing[start : start + size] for start in range(0, len(missing), size)]
    try:
        with on_signals(_stop) as received, _running(worker, batches) as done:
            for seconds in done:
                advance(seconds)
    except _StopError:
        raise InterruptedRunError(f"Stopped as asked. {_kept(store)}", received[0]) from None
    except (SerError, StoppedError) as error:
        raise SerError(f"{worker.failure or error} {_kept(store)}") from error
    return worker.outcome


class _StopError(BaseException):
    """SIGINT or SIGTERM; no error that an engine's client may take for its own."""


def _stop() -> None:
    raise _StopError


def _kept(store: TranscriptStore) -> str:
    return (
        f"The {len(store.records)} transcripts of {store.path} are kept, "
        "and the same command goes on from there."
    )


@contextmanager
def _running(worker: _Worker, batches: list[list[Recording]]) -> Iterator[Iterator[float]]:
    """Seconds of audio of each batch as it is done.

    On the way out, by Ctrl-C too, requests under way are awaited and kept: they are paid for.
    """
    if worker.transcriber.concurrency == 1 and not worker.transcriber.paid:
        yield map(worker, batches)
        return
    with ThreadPoolExecutor(worker.transcriber.concurrency) as pool:
        futures = [pool.submit(worker, batch) for batch in batches]
        try:
            yield (future.result() for future in as_completed(futures))
        except BaseException:
            worker.patience.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Worker:
    """Load, ask, keep: one call per batch, from any thread."""

    def __init__(self, transcriber: Transcriber, store: TranscriptStore, patience: Patience) -> None:
        self.transcriber, self.store, self.patience = transcriber, store, patience
        self.outcome = Outcome()
        self.failure: SerError | None = None  # what ended the run
        self._refusals = 0  # in a row
        self._mutex = threading.Lock()

    def __call__(self, batch: list[Recording]) -> float:
        waveforms = self._load(batch)
        try:
            if waveforms:
                self._ask([recording for recording in batch if recording.id in waveforms], waveforms)
        except SerError as error:
            self.failure = self.failure or error
            self.patience.stop()  # here and now: another thread would send one more before the main one knows
            raise
        return sum(recording.seconds for recording in batch)

    def _load(self, batch: list[Recording]) -> dict[str, Waveform]:
        waveforms = {}
        for recording in batch:
            try:
                waveforms[recording.id] = audio.load(recording.audio)
            except audio.UnusableAudioError as problem:
                with self._mutex:
                    self.outcome.undecodable[recording.id] = problem.reason
        return waveforms

    def _ask(self, batch: list[Recording], waveforms: dict[str, Waveform]) -> None:
        given = [waveforms[recording.id] for recording in batch]
        try:
            heard = self.patience.ask(lambda: self.transcriber.transcribe(given))
        except RefusedError as refusal:
            self._count_refusal(batch, refusal)
            return
        for recording, waveform, each in zip(batch, given, heard, strict=True):
            record = self._record(recording, waveform, each)
            self.store.append(record)
            self._count(record)

    def _record(self, recording: Recording, waveform: Waveform, heard: Heard) -> Transcript:
        return Transcript(
            id=recording.id,
            text=heard.text,
            language=heard.language,
            confidence=None if heard.confidence is None else round(heard.confidence, 4),
            engine=self.transcriber.name,
            version=self.transcriber.version,
            duration=round(len(waveform) / SAMPLING_RATE, 3),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            status=heard.status,
            flags=flags(heard.text, waveform, heard.no_speech, heard.confidence),
        )

    def _count(self, record: Transcript) -> None:
        with self._mutex:
            self._refusals = 0
            self.outcome.heard += 1
            self.outcome.empty += not record.text
            for flag in record.flags:
                self.outcome.suspicious[flag] = self.outcome.suspicious.get(flag, 0) + 1

    def _count_refusal(self, batch: list[Recording], refusal: RefusedError) -> None:
        with self._mutex:
            self.outcome.refused.update({recording.id: str(refusal) for recording in batch})
            self._refusals += not isinstance(refusal, ExhaustedError)
            if self._refusals >= _MOST_REFUSALS:
                raise SerError(
                    f"{self.transcriber.name} refuses one recording after the other, {batch[0].id} with: {refusal}."
                ) from refusal


def tell(outcome: Outcome, engine: str) -> None:
    """What came of a run, in notices: counts, and what has no transcript by name."""
    suspicious = ", ".join(f"{count} {flag}" for flag, count in outcome.suspicious.items())
    notice(
        f"{engine}: {outcome.heard} heard, {outcome.empty} of them empty"
        + (f"; to be doubted: {suspicious}." if suspicious else ".")
    )
    for reasons, what in ((outcome.undecodable, "cannot be decoded"), (outcome.refused, "not transcribed")):
        if reasons:
            first = next(iter(reasons))
            notice(f"  {len(reasons)} {what}: {listing(reasons, most=5)} ({reasons[first]}).")
