"""Transcribe the windows of any recordings, without a corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.reporting import notice, progress
from ser_memory.extract import audio
from ser_memory.extract.audio import Waveform
from ser_memory.extract.recordings import Bounds, Recording
from ser_memory.extract.transcripts import transcribe
from ser_memory.extract.transcripts.engines import TRANSCRIBERS, Transcriber
from ser_memory.extract.transcripts.retries import Retries
from ser_memory.extract.transcripts.sources import Sources
from ser_memory.extract.transcripts.store import TranscriptStore, refuse_other_version, store_path

_TOGETHER = 16  # windows that are in memory, at least: 30 MB


class WindowTranscriber:
    """The engine of some sources. It is loaded for the first window, and kept for further calls."""

    def __init__(self, sources: Sources) -> None:
        """`sources` must have an engine."""
        assert sources.engine is not None
        self._name, self._sources = sources.engine, sources

    @cached_property
    def _transcriber(self) -> Transcriber:
        return TRANSCRIBERS[self._name](self._sources.options)

    def transcribe(
        self, recordings: Mapping[int, Recording], seconds: float, bounds: Bounds
    ) -> dict[int, list[str | None]]:
        """The text of each window of these recordings of so many seconds in total, by place.

        It is None where the engine refuses a window. Of a recording that cannot be decoded, the texts are those of the
        windows before. Raises SerError as `transcribe.transcribe` and `Spending.agree` do.
        """
        if self._transcriber.paid:
            self._sources.spending.agree(self._name, len(recordings), seconds)
        texts: dict[int, list[str | None]] = {place: [] for place in recordings}
        refused: list[str] = []
        cuts = _cut(recordings, bounds)
        with self._store() as store, progress(self._name, seconds, "s of audio") as advance:
            while some := list(islice(cuts, max(_TOGETHER, 2 * self._transcriber.concurrency))):
                windows = list({window.id: window for _, window in some}.values())
                retries = Retries(self._sources.options.retry_for)
                outcome = transcribe.transcribe(windows, self._transcriber, store, retries)
                for place, window in some:
                    record = store.records.get(window.id)
                    texts[place].append(None if record is None else record.text)
                    advance(window.seconds)
                refused += outcome.refused.values()
        if refused:
            notice(f"{self._name} refused {len(refused)} windows ({refused[0]}): rated without their text.")
        return texts

    @contextmanager
    def _store(self) -> Iterator[TranscriptStore]:
        """Where texts go: those that are paid for are kept in the folder of the caches, and never paid again."""
        with TemporaryDirectory() as passing:
            folder = self._sources.cache if self._transcriber.paid else Path(passing)
            with TranscriptStore.open(store_path(folder, self._sources.corpus, self._name)) as store:
                refuse_other_version(store.path, store.records, self._transcriber.version)
                yield store


def _cut(recordings: Mapping[int, Recording], bounds: Bounds) -> Iterator[tuple[int, transcribe.Recording]]:
    for place, recording in recordings.items():
        try:
            for waveform in bounds.cut(recording.sound):
                seconds = len(waveform) / SAMPLING_RATE
                yield place, transcribe.Recording(_content(waveform), waveform, seconds)
        except audio.UnusableAudioError:
            continue  # reported where it is encoded


def _content(waveform: Waveform) -> str:
    """The id of a window: wherever the same sound is, it has the same text."""
    return f"sha256:{hashlib.sha256(waveform.tobytes()).hexdigest()}"
