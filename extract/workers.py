"""Encoding: parts of a corpus through the encoders, as fast as the cores or cards at hand allow.

Each worker is a thread with a stream of parts. On a CPU there is one per core, each computing on that core
alone: torch's own threads wait for each other at every operation, whole utterances side by side do not. On
GPUs there is one per card. Decoding runs ahead in threads of its own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError
from ser_memory.common.interruption import InterruptedRunError, on_signals
from ser_memory.common.machine import cores, one_core_each
from ser_memory.extract import audio
from ser_memory.extract.audio import Waveform
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.encoders import AcousticEncoder, TextEncoder
from ser_memory.extract.screening import out_of_bounds
from ser_memory.extract.shards import Part, PartRows, Shards

# Seconds of audio in a batch, padding included. A CPU is busy with one utterance, and more only crowd its
# caches; a GPU is kept busy by these, and where they do not fit they are halved.
CPU_BATCH_SECONDS = 10.0
GPU_BATCH_SECONDS = 320.0
_DECODERS = 4  # threads per GPU; a CPU worker has one

Advance = Callable[[float], None]


@dataclass
class Worker:
    """An encoder pair and what it has learned about the memory of its device."""

    acoustic: AcousticEncoder
    text: TextEncoder
    batch_seconds: float = field(init=False)
    decoders: int = field(init=False)

    def __post_init__(self) -> None:
        on_gpu = self.acoustic.device.type != "cpu"
        self.batch_seconds = GPU_BATCH_SECONDS if on_gpu else CPU_BATCH_SECONDS
        self.decoders = _DECODERS if on_gpu else 1


def per_core(worker: Worker, wanted: int | None = None) -> list[Worker]:
    """Workers on a CPU that share one pair of encoders: as many as wanted, or one per core at hand."""
    return [Worker(worker.acoustic, worker.text) for _ in range(wanted or cores())]


@dataclass(frozen=True)
class Job:
    """What is to be encoded."""

    chosen: Sequence[tuple[Utterance, float]]  # by place; seconds as the header tells
    min_duration: float  # seconds
    max_duration: float  # seconds


def encode_parts(
    job: Job, pending: Sequence[Part], shards: Shards, workers: Sequence[Worker], advance: Advance
) -> None:
    """Encode and keep every pending part; `advance` is told of the seconds of audio done.

    Raises the first worker's SerError, or InterruptedRunError on SIGINT and SIGTERM, after the others have
    stopped; finished parts are kept.
    """
    todo: queue.SimpleQueue[Part] = queue.SimpleQueue()
    for part in pending:
        todo.put(part)
    events: queue.SimpleQueue[float | BaseException | None] = queue.SimpleQueue()
    stop = threading.Event()

    def work(worker: Worker) -> None:
        try:
            while not stop.is_set():
                part = todo.get_nowait()
                rows = _encode_part(job, part, worker, stop, events.put)
                if rows is not None:
                    shards.write(part, rows)
        except queue.Empty:
            pass
        except BaseException as error:
            events.put(error)
        events.put(None)

    with _single_threaded(workers), on_signals(stop.set) as received:
        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        failure = _watch(events, len(threads), stop, advance)
    if failure is not None:
        raise failure
    if received:
        left = len(shards.pending())
        raise InterruptedRunError(
            f"Stopped as asked: {len(shards.parts) - left} of {len(shards.parts)} parts are kept in {shards.folder}; "
            "run the same command again to go on.",
            received[0],
        )


def _watch(
    events: queue.SimpleQueue[float | BaseException | None],
    running: int,
    stop: threading.Event,
    advance: Advance,
) -> BaseException | None:
    """Report progress until all workers have ended; the first failure stops the others."""
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
    job: Job, part: Part, worker: Worker, stop: threading.Event, advance: Advance
) -> PartRows | None:
    """All rows of a part; None when stopped meanwhile. `advance` is told of each batch."""
    refused: dict[int, str] = {}
    durations: list[tuple[int, float]] = []
    rows: list[tuple[list[int], Tensor, Tensor]] = []  # places and device tensors, batch by batch
    for loaded in _decoded(job, part, worker):
        if stop.is_set():
            return None
        waveforms = {}
        for place, outcome in loaded.items():
            if isinstance(outcome, str):
                refused[place] = outcome
            else:
                waveforms[place] = outcome
                durations.append((place, len(outcome) / SAMPLING_RATE))
        if waveforms:
            rows += _encode_batch(job, waveforms, worker)
        advance(sum(job.chosen[place][1] for place in loaded))
    places = [place for places, _, _ in rows for place in places]
    acoustic, text = _on_cpu([row for _, row, _ in rows]), _on_cpu([row for _, _, row in rows])
    _refuse_not_finite(job, places, worker, acoustic, text)
    return PartRows(
        np.array(places, np.int64),
        np.array([seconds for _, seconds in durations], np.float32),
        acoustic,
        text,
        refused,
    )


def _on_cpu(batches: list[Tensor]) -> np.ndarray:
    """(n, ...) float32 rows of all batches; only here does a GPU have to have finished."""
    return torch.cat(batches).cpu().numpy() if batches else np.zeros((0, 0), np.float32)


def _encode_batch(
    job: Job, waveforms: dict[int, Waveform], worker: Worker
) -> list[tuple[list[int], Tensor, Tensor]]:
    """One batch, or, where memory does not take it, its halves; what did not fit is remembered."""
    places = list(waveforms)
    try:
        acoustic = worker.acoustic.encode([waveforms[place] for place in places])
        text = worker.text.encode([job.chosen[place][0].transcript or "" for place in places])
        return [(places, acoustic, text)]
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
    if worker.acoustic.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(places) == 1:
        utterance, seconds = job.chosen[places[0]]
        raise SerError(
            f"{utterance.id} alone ({seconds:.0f} s) does not fit into the memory of {worker.acoustic.device}: "
            "lower --max-duration, take a smaller --acoustic-encoder, or --device cpu."
        )
    worker.batch_seconds /= 2
    half = len(places) // 2
    return [
        row
        for part in (places[:half], places[half:])
        for row in _encode_batch(job, {place: waveforms[place] for place in part}, worker)
    ]


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _decoded(job: Job, part: Part, worker: Worker) -> Iterator[dict[int, Waveform | str]]:
    """The part's batches in order, each recording decoded or with the reason why not; decodes one batch ahead."""

    def submit(batch: list[int]) -> dict[int, Future[Waveform | str]]:
        return {place: decoders.submit(_decode, job, place, worker.acoustic) for place in batch}

    with ThreadPoolExecutor(worker.decoders) as decoders:
        remaining = list(part.places)
        ahead = submit(_next_batch(job, remaining, worker.batch_seconds))
        while ahead:
            now, ahead = ahead, submit(_next_batch(job, remaining, worker.batch_seconds))
            yield {place: future.result() for place, future in now.items()}


def _next_batch(job: Job, remaining: list[int], batch_seconds: float) -> list[int]:
    """Take the next batch from `remaining`, longest first: what fits into the budget when padded, at least one."""
    if not remaining:
        return []
    longest = job.chosen[remaining[0]][1]
    size = max(1, int(batch_seconds / max(longest, 1e-3)))
    batch, remaining[:] = remaining[:size], remaining[size:]
    return batch


def _decode(job: Job, place: int, acoustic: AcousticEncoder) -> Waveform | str:
    """Judged by what was decoded: a header may claim another length."""
    path = job.chosen[place][0].audio
    if path is None:
        return "missing"
    try:
        waveform = audio.load(path)
    except audio.UnusableAudioError as problem:
        return problem.reason
    if len(waveform) < acoustic.min_samples:
        return "too short"
    return out_of_bounds(len(waveform) / SAMPLING_RATE, job.min_duration, job.max_duration) or waveform


def _refuse_not_finite(
    job: Job, places: list[int], worker: Worker, acoustic: np.ndarray, text: np.ndarray
) -> None:
    for kind, array in (("acoustic", acoustic), ("text", text)):
        finite = np.isfinite(array).reshape(len(places), -1).all(axis=1)
        if finite.all():
            continue
        utterance = job.chosen[places[int(np.argmin(finite))]][0]
        if kind == "acoustic" and worker.acoustic.precision != "float32":
            remedy = "use --precision float32"
        else:
            suspect = utterance.audio if kind == "acoustic" else "its transcript"
            remedy = f"look at {suspect}, or take another --{kind}-encoder"
        raise SerError(f"The {kind} encoder gave {utterance.id} values that are not finite: {remedy}.")


@contextmanager
def _single_threaded(workers: Sequence[Worker]) -> Iterator[None]:
    """On a CPU, one core a worker, and freed memory kept for the next batch rather than given back."""
    if any(worker.acoustic.device.type != "cpu" for worker in workers):
        yield
        return
    with one_core_each():
        yield
