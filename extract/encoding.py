"""Recordings -> acoustic rows, and texts -> text rows, batch by batch, on one device.

No files and no threads but those that decode: an extraction runs this over the parts of a corpus, and any other
program over a list of recordings.

On a CPU a batch is one recording or one text, so that what else is encoded changes no bit of a row. On a
GPU a row depends on its batch mates by rounding (1e-6 relative).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError
from ser_memory.extract import audio
from ser_memory.extract.audio import Waveform
from ser_memory.extract.conditions import Condition, heard_in
from ser_memory.extract.encoders import AcousticEncoder, TextEncoder

# Seconds of audio in a batch, padding included: a GPU needs this many. Where they do not fit into its memory they are
# halved. A CPU core is kept busy by one recording, and more only compete for its caches.
GPU_BATCH_SECONDS = 320.0
GPU_BATCH_TEXTS = 64
_DECODERS = 4  # threads per GPU; on a CPU one

Listen = Callable[[int, Waveform], None]
_Decoded = dict[int, Waveform | str]  # by place: the recording, or the reason why it cannot be used


@dataclass(frozen=True)
class Item:
    """One recording to encode."""

    id: str  # for messages
    audio: Path | None
    seconds: float  # by the recording's header, to plan batches
    recording: str = ""  # the digest of its content, which determines the random numbers of a condition


@dataclass(frozen=True)
class Text:
    """One text to encode."""

    id: str  # of an utterance with this text, for messages
    text: str


@dataclass
class AcousticWorker:
    """An acoustic encoder, and the batch size that the memory of its device allows.

    Workers may share an encoder; each worker is used by one thread at a time.
    """

    encoder: AcousticEncoder
    batch_seconds: float = field(init=False)
    decoders: int = field(init=False)

    def __post_init__(self) -> None:
        on_gpu = self.encoder.device.type != "cpu"
        self.batch_seconds = GPU_BATCH_SECONDS if on_gpu else 0.0
        self.decoders = _DECODERS if on_gpu else 1


@dataclass(frozen=True)
class Batch:
    """Some of the items: rows on the encoder's device, where the work may still be going on, or reasons for no row."""

    places: list[int]  # positions among the items
    durations: list[float]  # seconds, as decoded
    acoustic: Tensor  # (n, W) or (n, L, W) float32
    refused: dict[int, str] = field(default_factory=dict)  # place -> one of `common.cache.REASONS`
    silent: list[int] = field(default_factory=list)  # those of the places whose recording has no sound

    def __len__(self) -> int:
        """The number of items, with a row or without."""
        return len(self.places) + len(self.refused)


@dataclass(frozen=True)
class Rows:
    """Encoded recordings in memory; row i of each array is the item at places[i]."""

    places: npt.NDArray[np.int64]  # (n,)
    durations: npt.NDArray[np.float32]  # (n,) seconds, as decoded
    acoustic: npt.NDArray[np.float32]  # (n, W) or (n, L, W); (0, 0) if there are none
    refused: dict[int, str]  # place -> reason, of items without a row
    silent: tuple[int, ...] = ()  # places whose recording has no sound


def encode(
    items: Sequence[Item],
    worker: AcousticWorker,
    min_duration: float = 0.0,
    max_duration: float = math.inf,
    condition: Condition | None = None,
    listen: Listen = lambda _, __: None,
) -> Iterator[Batch]:
    """Encode recordings in batches of similar duration, the longest first; the next batch is decoded meanwhile.

    With a condition, each is encoded as it is heard in it. `listen` gets the place and waveform of each before, in a
    thread that decodes.

    Items whose recording cannot be decoded, is too short for the encoder, or is outside the two durations (in
    seconds, both ends included) are refused. Raises SerError if one item alone does not fit into memory.
    """
    for decoded in _decode_ahead(items, worker, min_duration, max_duration, condition, listen):
        waveforms = {place: each for place, each in decoded.items() if not isinstance(each, str)}
        refused = {place: each for place, each in decoded.items() if isinstance(each, str)}
        if waveforms:
            yield from encode_batch(items, waveforms, worker)
        if refused:
            yield Batch([], [], torch.empty(0), refused)


def encode_texts(texts: Sequence[Text], encoder: TextEncoder) -> Iterator[tuple[list[int], Tensor]]:
    """Encode texts in batches of similar length: positions among the texts, and (n, E) rows on the device."""
    size = 1 if encoder.device.type == "cpu" else GPU_BATCH_TEXTS
    order = sorted(range(len(texts)), key=lambda place: -len(texts[place].text))
    for start in range(0, len(order), size):
        places = order[start : start + size]
        yield places, encoder.encode([texts[place].text for place in places])


def gather(items: Sequence[Item], batches: Sequence[Batch], worker: AcousticWorker) -> Rows:
    """Batches of `encode` -> arrays in memory. Raises SerError, naming the item, for a value that is not finite."""
    filled = [batch for batch in batches if batch.places]
    places = [place for batch in filled for place in batch.places]
    rows = Rows(
        np.array(places, np.int64),
        np.array([seconds for batch in filled for seconds in batch.durations], np.float32),
        _on_cpu([batch.acoustic for batch in filled]),
        {place: reason for batch in batches for place, reason in batch.refused.items()},
        tuple(place for batch in filled for place in batch.silent),
    )
    wrong = _first_not_finite(rows.acoustic)
    if wrong is not None:
        item = items[rows.places[wrong]]
        half = worker.encoder.precision != "float32"
        remedy = (
            "use --precision float32" if half else f"look at {item.audio}, or use another --acoustic-encoder"
        )
        raise SerError(f"The acoustic encoder gave {item.id} values that are not finite: {remedy}.")
    return rows


def gather_texts(
    texts: Sequence[Text], batches: Sequence[tuple[list[int], Tensor]]
) -> npt.NDArray[np.float32]:
    """Batches of `encode_texts` -> (n, E) in the order of the texts. Raises SerError as `gather` does."""
    places = [place for some, _ in batches for place in some]
    rows = _on_cpu([batch for _, batch in batches])[np.argsort(np.array(places, np.int64))]
    wrong = _first_not_finite(rows)
    if wrong is not None:
        raise SerError(
            f"The text encoder gave {texts[wrong].id} values that are not finite: look at its transcript, or use "
            "another --text-encoder."
        )
    return rows


def _on_cpu(batches: list[Tensor]) -> npt.NDArray[np.float32]:
    """(n, ...) rows of all batches; only here a GPU must have finished."""
    return torch.cat(batches).cpu().numpy() if batches else np.zeros((0, 0), np.float32)


def encode_batch(
    items: Sequence[Item], waveforms: dict[int, Waveform], worker: AcousticWorker
) -> Iterator[Batch]:
    """Encode recordings that are decoded, by place, as one batch, or in halves if it does not fit into memory.

    The worker remembers the smaller size. Raises SerError if one item alone does not fit.
    """
    places, waves = list(waveforms), list(waveforms.values())
    try:
        acoustic = worker.encoder.encode(waves)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
    else:
        seconds = [len(wave) / SAMPLING_RATE for wave in waves]
        silent = [place for place, wave in zip(places, waves, strict=True) if audio.is_silent(wave)]
        yield Batch(places, seconds, acoustic, silent=silent)
        return
    if worker.encoder.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(places) == 1:
        item = items[places[0]]
        raise SerError(
            f"{item.id} alone ({item.seconds:.0f} s) does not fit into the memory of {worker.encoder.device}: "
            "lower --max-duration, use a smaller --acoustic-encoder, or --device cpu."
        )
    worker.batch_seconds /= 2
    half = len(places) // 2
    for part in (places[:half], places[half:]):
        yield from encode_batch(items, {place: waveforms[place] for place in part}, worker)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _decode_ahead(
    items: Sequence[Item],
    worker: AcousticWorker,
    min_duration: float,
    max_duration: float,
    condition: Condition | None,
    listen: Listen,
) -> Iterator[_Decoded]:
    """The batches with their recordings decoded; the next one is decoded while the caller works."""
    left = sorted(range(len(items)), key=lambda place: -items[place].seconds)

    def decode(place: int) -> Waveform | str:
        waveform = _decode(items[place], worker.encoder.min_samples, min_duration, max_duration)
        if isinstance(waveform, str):
            return waveform
        if condition is not None:
            waveform = heard_in(waveform, condition, items[place].recording)
        listen(place, waveform)
        return waveform

    def submit() -> dict[int, Future[Waveform | str]]:
        longest = max(items[left[0]].seconds, 1e-3) if left else 1.0
        size = max(1, int(worker.batch_seconds / longest))  # what fits into the budget when padded
        batch, left[:] = left[:size], left[size:]
        return {place: decoders.submit(decode, place) for place in batch}

    with ThreadPoolExecutor(worker.decoders) as decoders:
        ahead = submit()
        while ahead:
            now, ahead = ahead, submit()
            yield {place: future.result() for place, future in now.items()}


def _decode(item: Item, min_samples: int, min_duration: float, max_duration: float) -> Waveform | str:
    """The recording or the reason against it, judged by what was decoded: a header may claim another length."""
    if item.audio is None:
        return "missing"
    try:
        waveform = audio.load(item.audio)
    except audio.UnusableAudioError as problem:
        return problem.reason
    if len(waveform) < min_samples:
        return "too short"
    return audio.out_of_bounds(len(waveform) / SAMPLING_RATE, min_duration, max_duration) or waveform


def _first_not_finite(rows: npt.NDArray[np.float32]) -> int | None:
    finite = np.isfinite(rows).reshape(len(rows), -1).all(axis=1) if rows.size else np.ones(0, bool)
    return None if finite.all() else int(np.argmin(finite))
