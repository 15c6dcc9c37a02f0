"""Transcribe the recordings that a store lacks, and write each result to the store as it arrives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError, listing
from ser_memory.common.interruption import InterruptedRunError, on_signals
from ser_memory.common.reporting import Advance, notice
from ser_memory.extract import audio
from ser_memory.extract.audio import Waveform
from ser_memory.extract.transcripts.engines.contract import RefusedError, Transcriber, Transcription
from ser_memory.extract.transcripts.quality.flags import flags
from ser_memory.extract.transcripts.retries import ExhaustedError, Retries, StoppedError
from ser_memory.extract.transcripts.store import Transcript, TranscriptStore

# After so many refusals in a row, the cause is not the recordings.
_MOST_REFUSALS = 5


@dataclass(frozen=True)
class Recording:
    """A recording to transcribe."""

    id: str
    audio: Path | Waveform  # a file, or its sound
    seconds: float


@dataclass
class Outcome:
    """What a run did."""

    transcribed: int = 0
    empty: int = 0
    suspicious: dict[str, int] = field(default_factory=dict)  # flag -> number of transcripts
    undecodable: dict[str, str] = field(default_factory=dict)  # id -> one of common.cache.REASONS
    refused: dict[str, str] = field(
        default_factory=dict
    )  # id -> the engine's reason; a later run tries again


def transcribe(
    recordings: list[Recording],
    transcriber: Transcriber,
    store: TranscriptStore,
    retries: Retries,
    advance: Advance = lambda _: None,
) -> Outcome:
    """Transcribe the recordings that are not in the store; `advance` gets the seconds of audio done.

    A thread writes each result to the disk before it sends its next request. Raises SerError if the engine or the
    disk fails for good, and InterruptedRunError on SIGINT and SIGTERM; the results until then are kept.
    """
    worker = _Worker(transcriber, store, retries)
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


def report(outcome: Outcome, engine: str) -> None:
    """Notices about a run: its counts, and the ids of recordings without a transcript."""
    suspicious = ", ".join(f"{count} {flag}" for flag, count in outcome.suspicious.items())
    notice(
        f"{engine}: {outcome.transcribed} transcribed, {outcome.empty} of them empty"
        + (f"; suspicious: {suspicious}." if suspicious else ".")
    )
    for reasons, what in ((outcome.undecodable, "cannot be decoded"), (outcome.refused, "not transcribed")):
        if reasons:
            first = next(iter(reasons.values()))
            notice(f"  {len(reasons)} {what}: {listing(reasons, most=5)} ({first}).")


class _StopError(BaseException):
    """SIGINT or SIGTERM; no Exception, so that the client of an engine cannot handle it as its own error."""


def _stop() -> None:
    raise _StopError


def _kept(store: TranscriptStore) -> str:
    return (
        f"The {len(store.records)} transcripts of {store.path} are kept, "
        "and the same command continues from there."
    )


@contextmanager
def _running(worker: _Worker, batches: list[list[Recording]]) -> Iterator[Iterator[float]]:
    """Yield an iterator over the seconds of audio of each finished batch.

    When the block ends, by Ctrl-C too, the results of requests already sent are awaited and kept: they are paid.
    """
    if worker.transcriber.concurrency == 1 and not worker.transcriber.paid:
        yield map(worker, batches)
        return
    with ThreadPoolExecutor(worker.transcriber.concurrency) as pool:
        futures = [pool.submit(worker, batch) for batch in batches]
        try:
            yield (future.result() for future in as_completed(futures))
        except BaseException:
            worker.retries.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Worker:
    """Loads, transcribes and stores one batch per call. Threads may call it at the same time."""

    def __init__(self, transcriber: Transcriber, store: TranscriptStore, retries: Retries) -> None:
        self.transcriber, self.store, self.retries = transcriber, store, retries
        self.outcome = Outcome()
        self.failure: SerError | None = None  # the error that ended the run
        self._refusals = 0  # in a row
        self._mutex = threading.Lock()

    def __call__(self, batch: list[Recording]) -> float:
        waveforms = self._load(batch)
        try:
            if waveforms:
                self._transcribe([recording for recording in batch if recording.id in waveforms], waveforms)
        except SerError as error:
            self.failure = self.failure or error
            self.retries.stop()  # now: before the main thread knows, another thread would send a request
            raise
        return sum(recording.seconds for recording in batch)

    def _load(self, batch: list[Recording]) -> dict[str, Waveform]:
        waveforms = {}
        for recording in batch:
            sound = recording.audio
            try:
                waveforms[recording.id] = audio.load(sound) if isinstance(sound, Path) else sound
            except audio.UnusableAudioError as problem:
                with self._mutex:
                    self.outcome.undecodable[recording.id] = problem.reason
        return waveforms

    def _transcribe(self, batch: list[Recording], waveforms: dict[str, Waveform]) -> None:
        loaded = [waveforms[recording.id] for recording in batch]
        try:
            transcriptions = self.retries.call(lambda: self.transcriber.transcribe(loaded))
        except RefusedError as refusal:
            self._count_refusal(batch, refusal)
            return
        for recording, waveform, transcription in zip(batch, loaded, transcriptions, strict=True):
            record = self._record(recording, waveform, transcription)
            self.store.append(record)
            self._count(record)

    def _record(self, recording: Recording, waveform: Waveform, result: Transcription) -> Transcript:
        return Transcript(
            id=recording.id,
            text=result.text,
            language=result.language,
            confidence=None if result.confidence is None else round(result.confidence, 4),
            engine=self.transcriber.name,
            version=self.transcriber.version,
            duration=round(len(waveform) / SAMPLING_RATE, 3),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            status=result.status,
            flags=flags(result.text, waveform, result.no_speech, result.confidence),
        )

    def _count(self, record: Transcript) -> None:
        with self._mutex:
            self._refusals = 0
            self.outcome.transcribed += 1
            self.outcome.empty += not record.text
            for flag in record.flags:
                self.outcome.suspicious[flag] = self.outcome.suspicious.get(flag, 0) + 1

    def _count_refusal(self, batch: list[Recording], refusal: RefusedError) -> None:
        with self._mutex:
            self.outcome.refused.update({recording.id: str(refusal) for recording in batch})
            self._refusals += not isinstance(refusal, ExhaustedError)
            if self._refusals >= _MOST_REFUSALS:
                raise SerError(
                    f"{self.transcriber.name} refused {self._refusals} recordings in a row, {batch[0].id} "
                    f"with: {refusal}."
                ) from refusal
