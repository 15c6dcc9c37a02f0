"""What makes a memory reveal less: noise on its rows, fewer bits, no speaker codes. What is trained on is what is kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.train.samples import UNKNOWN_SPEAKER, Samples
from ser_memory.train.settings import MemorySettings

Floats = npt.NDArray[np.float32]

_LEVELS = 255  # steps between the smallest and the largest of 8 bits
_DIGITS = 23  # of the binary point of float32: what is smaller than this part of a number is lost
_SMALLEST = -126  # exponent of the smallest normal float32
_ROWS = 4096  # of a corpus that are in memory together


class Deviations:
    """The standard deviation of every column of a training split's embeddings, read once, when they are needed."""

    def __init__(self, train: Samples) -> None:
        self._train = train
        self._found: list[Floats] | None = None

    def __call__(self) -> list[Floats]:
        """(D,) or (L, D) of the acoustic embedding, and (E,) of the text."""
        if self._found is None:
            self._found = [
                _deviations(self._train, "acoustic"),
                _deviations(self._train, "text"),
            ]
        return self._found


def protected(
    memory: Samples, settings: MemorySettings, deviations: Deviations, generator: np.random.Generator
) -> Samples:
    """The memory of one run and corpus as it is kept; itself if the settings ask for nothing.

    Args:
        memory: rows of the training split.
        settings: what is done to them.
        deviations: of the columns in the training split.
        generator: of the noise, for this memory alone.
    """
    acoustic, text = memory.acoustic, memory.text
    if settings.memory_noise:
        scales = [np.float32(settings.memory_noise) * each for each in deviations()]
        acoustic, text = (
            values + _noise(values, scale, generator)
            for values, scale in zip((acoustic, text), scales, strict=True)
        )
    if settings.memory_bits == "8":
        acoustic, text = (_rounded(values) for values in (acoustic, text))
    speakers = memory.speakers
    if settings.no_speaker_codes:
        speakers = torch.full_like(speakers, UNKNOWN_SPEAKER)
    return replace(memory, acoustic=acoustic, text=text, speakers=speakers)


def to_bytes(values: Floats) -> tuple[npt.NDArray[np.uint8], Floats, Floats]:
    """(N, ...) values in 8 bits each: (N, ...) codes, and of each column the (...) first value and step.

    value = first + step * code. A step is a power of two and a first value one of its multiples, so that this is exact
    in float32: values that were decoded once, or some of them, are encoded without any loss, and are decoded to the same
    bits. It costs at most one bit: a column uses at least 128 of 256 codes. Where a column is nearly constant, a step
    is the smallest one that float32 can tell apart at its values.
    """
    if not len(values):
        return np.zeros(values.shape, np.uint8), *np.zeros((2, *values.shape[1:]), np.float32)
    wide = values.astype(np.float64)
    with np.errstate(divide="ignore"):
        exponent = np.ceil(np.log2((wide.max(axis=0) - wide.min(axis=0)) / _LEVELS))
        finest = np.floor(np.log2(np.abs(wide).max(axis=0))) - _DIGITS
    exponent = np.maximum(np.maximum(exponent, finest), _SMALLEST)
    for _ in range(2):  # rounding may need one step more than there is
        whole = np.rint(wide / 2.0**exponent)
        exponent += whole.max(axis=0) - whole.min(axis=0) > _LEVELS
    whole = np.rint(wide / 2.0**exponent)
    step, lowest = 2.0**exponent, whole.min(axis=0)
    return (whole - lowest).astype(np.uint8), (lowest * step).astype(np.float32), step.astype(np.float32)


def from_bytes(codes: npt.NDArray[np.uint8], first: Floats, step: Floats) -> Floats:
    """(N, ...) float32 values of (N, ...) codes, from the first value and the step of each column."""
    return np.asarray(first + step * codes.astype(np.float32), np.float32)


def saved_bytes(memory: Samples, settings: MemorySettings) -> int:
    """Bytes by which a memory is smaller than without the settings."""
    saved = memory.speakers.nbytes if settings.no_speaker_codes else 0
    if settings.memory_bits == "8":
        for values in (memory.acoustic, memory.text):
            columns = values[0].numel()
            saved += 3 * len(memory) * columns - 2 * 4 * columns
    return saved


def _noise(values: Tensor, scale: Floats, generator: np.random.Generator) -> Tensor:
    drawn = generator.standard_normal(tuple(values.shape), dtype=np.float32) * scale
    return torch.from_numpy(drawn).to(values.device)


def _rounded(values: Tensor) -> Tensor:
    """Values as their 8 bits give them back."""
    return torch.from_numpy(from_bytes(*to_bytes(values.cpu().numpy()))).to(values.device)


def _deviations(train: Samples, name: str) -> Floats:
    """Of each column of an embedding over the rows of a split."""
    source: Tensor = getattr(train, name)
    total = square = torch.zeros(source.shape[1:], dtype=torch.float64)
    first = source[train.rows[0]].double().cpu()  # a column that never changes has a deviation of 0
    for rows in train.rows.split(_ROWS):
        moved = source.index_select(0, rows).double().cpu() - first
        total = total + moved.sum(dim=0)
        square = square + moved.square().sum(dim=0)
    mean = total / len(train)
    deviation: Floats = (square / len(train) - mean.square()).clamp(min=0).sqrt().float().numpy()
    return deviation
