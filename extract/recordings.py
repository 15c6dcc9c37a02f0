"""Any recordings -> acoustic rows, without a corpus and a cache: a row each, or one per window of a long recording.

Recordings that an extraction would take go through the same batches, so that their rows are the same, on a CPU to the
bit. Longer ones are decoded block by block and cut where they are quiet (`windows.py`): memory does not grow with
their length.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.machine import give_back_free_memory
from ser_memory.common.reporting import Advance
from ser_memory.extract import audio
from ser_memory.extract.audio import UnusableAudioError, Waveform
from ser_memory.extract.encoders import TextEncoder
from ser_memory.extract.encoding import (
    AcousticWorker,
    Batch,
    Item,
    Text,
    encode,
    encode_batch,
    encode_texts,
    gather,
    gather_texts,
)
from ser_memory.extract.levels import is_clipped, is_near_silent
from ser_memory.extract.parts import Part, plan_parts, plan_texts
from ser_memory.extract.windows import windows
from ser_memory.extract.workers import each_part

_Part = TypeVar("_Part")
_NOTHING = "nothing was written."
_GIVE_BACK_EVERY = 4  # batches of windows, which are of many lengths: 5 % of a small encoder's time
_SHORTEST = 1.0  # s: the shortest last window, where the bounds allow shorter ones


@dataclass(frozen=True)
class Recording:
    """A recording to encode."""

    name: str  # for messages
    sound: Path | Waveform  # a file, or (samples,) float32 at 16 kHz


@dataclass(frozen=True)
class Bounds:
    """Durations in seconds that rows are computed from."""

    shortest: float  # of the last window; a recording may be shorter
    longest: float  # of a window

    def cut(self, sound: Path | Waveform) -> Iterator[Waveform]:
        """The windows of a recording, in order. Raises UnusableAudioError, perhaps after some."""
        blocks = audio.blocks(sound) if isinstance(sound, Path) else [sound]
        shortest = max(self.shortest, _SHORTEST)
        return windows(blocks, round(self.longest * SAMPLING_RATE), round(shortest * SAMPLING_RATE))


@dataclass(frozen=True)
class Window:
    """A part of a recording that has a row."""

    start: float  # seconds
    end: float  # seconds
    near_silent: bool
    clipped: bool

    @classmethod
    def of(cls, waveform: Waveform, start: int = 0) -> Window:
        """Of a waveform that begins `start` samples after the beginning of its recording."""
        end = start + len(waveform)
        return cls(start / SAMPLING_RATE, end / SAMPLING_RATE, is_near_silent(waveform), is_clipped(waveform))


@dataclass
class Encoded:
    """The rows of a recording, in the order of time."""

    windows: list[Window] = field(default_factory=list)
    acoustic: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0), np.float32)
    )  # (n, ...)

    @property
    def seconds(self) -> float:
        """The duration of the whole recording."""
        return self.windows[-1].end


def stated_seconds(recording: Recording) -> float | str:
    """Seconds as the container states them, or the reason against a recording, of `common.cache.REASONS`."""
    if not isinstance(recording.sound, Path):
        return len(recording.sound) / SAMPLING_RATE
    try:
        return audio.stated_seconds(recording.sound)
    except UnusableAudioError as problem:
        return problem.reason


def encode_windows(
    recordings: Sequence[Recording],
    seconds: Sequence[float | str],
    bounds: Bounds,
    workers: Sequence[AcousticWorker],
    advance: Advance,
) -> list[Encoded | str]:
    """The rows of each recording, or the reason why it has none; `advance` gets the seconds of audio done.

    `seconds` are those of `stated_seconds`. Raises SerError if the encoder fails, and InterruptedRunError on SIGINT and
    SIGTERM.
    """
    work = _Work(recordings, bounds, advance)
    short, long = [], []
    for place, each in enumerate(seconds):
        if isinstance(each, str):
            work.refused[place] = each
        elif each <= bounds.longest and isinstance(recordings[place].sound, Path):
            short.append((place, each))
        else:
            long.append(place)
    if short:
        long += work.encode_whole(short, workers)
    if long:
        work.encode_cut(long, workers)
    return [work.result(place) for place in range(len(recordings))]


def encode_each(
    texts: Iterable[str], workers: Sequence[TextEncoder], advance: Advance
) -> dict[str, npt.NDArray[np.float32]]:
    """The row of each different text; `advance` gets their number. Raises as `encode_windows` does."""
    different = [Text(repr(text), text) for text in dict.fromkeys(texts)]
    rows: dict[str, npt.NDArray[np.float32]] = {}

    def encode_part(part: Part, encoder: TextEncoder, stop: threading.Event, report: Advance) -> None:
        some = [different[place] for place in part.places]
        batches = []
        for batch in encode_texts(some, encoder):
            batches.append(batch)
            report(len(batch[0]))
            if stop.is_set():
                return
        rows.update(zip((text.text for text in some), gather_texts(some, batches), strict=True))

    on_cpu = all(encoder.device.type == "cpu" for encoder in workers)
    each_part(plan_texts(len(different)), workers, encode_part, on_cpu, advance, lambda: _NOTHING)
    return rows


class _Work:
    """What is known so far of each recording, by place. Threads add to it."""

    def __init__(self, recordings: Sequence[Recording], bounds: Bounds, advance: Advance) -> None:
        self._recordings, self._bounds, self._advance = recordings, bounds, advance
        self.refused: dict[int, str] = {}
        self._rows: dict[int, list[tuple[Window, npt.NDArray[np.float32]]]] = defaultdict(list)

    def result(self, place: int) -> Encoded | str:
        """What came of a recording."""
        if place in self.refused:
            return self.refused[place]
        rows = sorted(self._rows[place], key=lambda row: row[0].start)
        return Encoded([window for window, _ in rows], np.stack([row for _, row in rows]))

    def encode_whole(
        self, short: Sequence[tuple[int, float]], workers: Sequence[AcousticWorker]
    ) -> list[int]:
        """Encode files by (place, seconds), as an extraction does; returns places that are longer than they state."""
        heard: dict[int, Window] = {}
        longer: list[int] = []

        def encode_part(part: Part, worker: AcousticWorker, stop: threading.Event, report: Advance) -> None:
            places = [short[number][0] for number in part.places]
            items = [self._item(*short[number]) for number in part.places]
            batches: list[Batch] = []

            def listen(number: int, waveform: Waveform) -> None:
                heard[places[number]] = Window.of(waveform)

            for batch in encode(items, worker, max_duration=self._bounds.longest, listen=listen):
                batches.append(batch)
                report(sum(items[number].seconds for number in (*batch.places, *batch.refused)))
                if stop.is_set():
                    return
            rows = gather(items, batches, worker)
            for number, row in zip(rows.places, rows.acoustic, strict=True):
                self._rows[places[number]].append((heard[places[number]], row))
            for number, reason in rows.refused.items():
                if reason == "too long":
                    longer.append(places[number])
                else:
                    self.refused[places[number]] = reason

        self._run(plan_parts([seconds for _, seconds in short]), workers, encode_part)
        return longer

    def encode_cut(self, places: Sequence[int], workers: Sequence[AcousticWorker]) -> None:
        """Encode the windows of recordings, each window by a worker that is free."""
        sounds = {place: self._recordings[place].sound for place in places}
        stream = _Stream(sounds, self._bounds, workers[0].encoder.min_samples)

        def drain(_: int, worker: AcousticWorker, stop: threading.Event, report: Advance) -> None:
            cuts = stream.take(worker)
            while cuts and not stop.is_set():
                items = [self._item(cut.place, cut.seconds) for cut in cuts]
                batches = list(encode_batch(items, {i: cut.waveform for i, cut in enumerate(cuts)}, worker))
                following = stream.take(worker)  # while a GPU computes
                rows = gather(items, batches, worker)
                for number, row in zip(rows.places, rows.acoustic, strict=True):
                    cut = cuts[number]
                    self._rows[cut.place].append((Window.of(cut.waveform, cut.start), row))
                report(sum(cut.seconds for cut in cuts))
                cuts = following

        self._run(range(len(workers)), workers, drain)
        self.refused |= stream.refused

    def _item(self, place: int, seconds: float) -> Item:
        recording = self._recordings[place]
        return Item(recording.name, recording.sound if isinstance(recording.sound, Path) else None, seconds)

    def _run(
        self,
        plan: Iterable[_Part],
        workers: Sequence[AcousticWorker],
        encode_part: Callable[[_Part, AcousticWorker, threading.Event, Advance], None],
    ) -> None:
        on_cpu = all(worker.encoder.device.type == "cpu" for worker in workers)
        each_part(plan, workers, encode_part, on_cpu, self._advance, lambda: _NOTHING)


@dataclass(frozen=True)
class _Cut:
    """A window with its sound."""

    place: int  # of its recording
    start: int  # samples before it
    waveform: Waveform

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLING_RATE


class _Stream:
    """The windows of recordings, one after the other; threads take them, and one of them decodes at a time."""

    def __init__(self, sounds: Mapping[int, Path | Waveform], bounds: Bounds, fewest: int) -> None:
        self.refused: dict[int, str] = {}  # place -> reason, complete after the last window
        self._fewest = fewest  # samples of a window
        self._taken = 0  # batches
        self._bounds, self._cuts, self._mutex = bounds, self._read(sounds), threading.Lock()

    def take(self, worker: AcousticWorker) -> list[_Cut]:
        """The next windows, as many as the worker encodes together; none at the end."""
        with self._mutex:
            self._taken += 1
            if self._taken % _GIVE_BACK_EVERY == 0:
                give_back_free_memory()
            return list(islice(self._cuts, max(1, int(worker.batch_seconds / self._bounds.longest))))

    def _read(self, sounds: Mapping[int, Path | Waveform]) -> Iterator[_Cut]:
        for place, sound in sounds.items():
            start = 0
            try:
                for waveform in self._bounds.cut(sound):
                    if len(waveform) < self._fewest:
                        raise UnusableAudioError("too short")
                    yield _Cut(place, start, waveform)
                    start += len(waveform)
            except UnusableAudioError as problem:
                self.refused[place] = problem.reason
