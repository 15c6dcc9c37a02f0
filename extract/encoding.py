"""Recordings and texts -> rows, batch by batch, on one device.

No files and no threads but those that decode: an extraction runs this over the parts of a corpus, and any other
program over a list of recordings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
from ser_memory.extract.encoders import AcousticEncoder, TextEncoder

# Seconds of audio in a batch, padding included. One utterance keeps a CPU core busy, and more only compete for its
# caches. A GPU needs this many; where they do not fit into its memory they are halved.
CPU_BATCH_SECONDS = 10.0
GPU_BATCH_SECONDS = 320.0
_DECODERS = 4  # threads per GPU; on a CPU one

_Decoded = dict[int, Waveform | str]  # by place: the recording, or the reason why it cannot be used


@dataclass(frozen=True)
class Item:
    """One utterance to encode."""

    id: str  # for messages
    audio: Path | None
    transcript: str
    seconds: float  # by the recording's header, to plan batches


@dataclass
class EncoderPair:
    """An acoustic and a text encoder, and the batch size that the memory of their device allows.

    Pairs may share encoders; each pair is used by one thread at a time.
    """

    acoustic: AcousticEncoder
    text: TextEncoder
    batch_seconds: float = field(init=False)
    decoders: int = field(init=False)

    def __post_init__(self) -> None:
        on_gpu = self.acoustic.device.type != "cpu"
        self.batch_seconds = GPU_BATCH_SECONDS if on_gpu else CPU_BATCH_SECONDS
        self.decoders = _DECODERS if on_gpu else 1

    def attributes(self) -> dict[str, str]:
        """The attributes of a cache that the encoders determine."""
        return self.acoustic.attributes() | self.text.attributes()


@dataclass(frozen=True)
class Batch:
    """Some of the items: rows on the encoders' device, where the work may still be going on, or reasons for no row."""

    places: list[int]  # positions among the items
    durations: list[float]  # seconds, as decoded
    acoustic: Tensor  # (n, W) or (n, L, W) float32
    text: Tensor  # (n, E) float32
    refused: dict[int, str] = field(default_factory=dict)  # place -> one of `common.cache.REASONS`
    silent: list[int] = field(default_factory=list)  # those of the places whose recording has no sound

    def __len__(self) -> int:
        """The number of items, with a row or without."""
        return len(self.places) + len(self.refused)


@dataclass(frozen=True)
class Rows:
    """Encoded items in memory; row i of each array is the item at places[i]."""

    places: npt.NDArray[np.int64]  # (n,)
    durations: npt.NDArray[np.float32]  # (n,) seconds, as decoded
    acoustic: npt.NDArray[np.float32]  # (n, W) or (n, L, W); (0, 0) if there are none
    text: npt.NDArray[np.float32]  # (n, E); (0, 0) if there are none
    refused: dict[int, str]  # place -> reason, of items without a row
    silent: tuple[int, ...] = ()  # places whose recording has no sound


def encode(
    items: Sequence[Item],
    encoders: EncoderPair,
    min_duration: float = 0.0,
    max_duration: float = math.inf,
) -> Iterator[Batch]:
    """Encode items in batches of similar duration, the longest first; the next batch is decoded meanwhile.

    Items whose recording cannot be decoded, is too short for the encoder, or is outside the two durations (in
    seconds, both ends included) are refused. Raises SerError if one item alone does not fit into memory.
    """
    for decoded in _decode_ahead(items, encoders, min_duration, max_duration):
        waveforms = {place: each for place, each in decoded.items() if not isinstance(each, str)}
        refused = {place: each for place, each in decoded.items() if isinstance(each, str)}
        if waveforms:
            yield from _encode_batch(items, waveforms, encoders)
        if refused:
            yield Batch([], [], torch.empty(0), torch.empty(0), refused)


def gather(items: Sequence[Item], batches: Sequence[Batch], encoders: EncoderPair) -> Rows:
    """Batches of `encode` -> arrays in memory. Raises SerError, naming the item, for a value that is not finite."""
    filled = [batch for batch in batches if batch.places]
    places = [place for batch in filled for place in batch.places]
    rows = Rows(
        np.array(places, np.int64),
        np.array([seconds for batch in filled for seconds in batch.durations], np.float32),
        _on_cpu([batch.acoustic for batch in filled]),
        _on_cpu([batch.text for batch in filled]),
        {place: reason for batch in batches for place, reason in batch.refused.items()},
        tuple(place for batch in filled for place in batch.silent),
    )
    if places:
        _refuse_not_finite(items, rows, encoders)
    return rows


def _on_cpu(batches: list[Tensor]) -> npt.NDArray[np.float32]:
    """(n, ...) rows of all batches; only here a GPU must have finished."""
    return torch.cat(batches).cpu().numpy() if batches else np.zeros((0, 0), np.float32)


def _encode_batch(
    items: Sequence[Item], waveforms: dict[int, Waveform], encoders: EncoderPair
) -> Iterator[Batch]:
    """One batch, or its halves if it does not fit into memory; the pair remembers the smaller size."""
    places, waves = list(waveforms), list(waveforms.values())
    try:
        acoustic = encoders.acoustic.encode(waves)
        text = encoders.text.encode([items[place].transcript for place in places])
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
    else:
        seconds = [len(wave) / SAMPLING_RATE for wave in waves]
        silent = [place for place, wave in zip(places, waves, strict=True) if audio.is_silent(wave)]
        yield Batch(places, seconds, acoustic, text, silent=silent)
        return
    if encoders.acoustic.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(places) == 1:
        item = items[places[0]]
        raise SerError(
            f"{item.id} alone ({item.seconds:.0f} s) does not fit into the memory of {encoders.acoustic.device}: "
            "lower --max-duration, use a smaller --acoustic-encoder, or --device cpu."
        )
    encoders.batch_seconds /= 2
    half = len(places) // 2
    for part in (places[:half], places[half:]):
        yield from _encode_batch(items, {place: waveforms[place] for place in part}, encoders)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _decode_ahead(
    items: Sequence[Item], encoders: EncoderPair, min_duration: float, max_duration: float
) -> Iterator[_Decoded]:
    """The batches with their recordings decoded; the next one is decoded while the caller works."""
    left = sorted(range(len(items)), key=lambda place: -items[place].seconds)

    def decode(place: int) -> Waveform | str:
        return _decode(items[place], encoders.acoustic.min_samples, min_duration, max_duration)

    def submit() -> dict[int, Future[Waveform | str]]:
        longest = max(items[left[0]].seconds, 1e-3) if left else 1.0
        size = max(1, int(encoders.batch_seconds / longest))  # what fits into the budget when padded
        batch, left[:] = left[:size], left[size:]
        return {place: decoders.submit(decode, place) for place in batch}

    with ThreadPoolExecutor(encoders.decoders) as decoders:
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


def _refuse_not_finite(items: Sequence[Item], rows: Rows, encoders: EncoderPair) -> None:
    for kind, array in (("acoustic", rows.acoustic), ("text", rows.text)):
        finite = np.isfinite(array).reshape(len(rows.places), -1).all(axis=1)
        if finite.all():
            continue
        item = items[rows.places[int(np.argmin(finite))]]
        if kind == "acoustic" and encoders.acoustic.precision != "float32":
            remedy = "use --precision float32"
        else:
            suspect = item.audio if kind == "acoustic" else "its transcript"
            remedy = f"look at {suspect}, or use another --{kind}-encoder"
        raise SerError(f"The {kind} encoder gave {item.id} values that are not finite: {remedy}.")
