"""What every encoder offers, and what all acoustic encoders share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.errors import UsageError
from ser_memory.extract.audio import Waveform

EXACT = 1e-5  # relative: a batched row may differ from the utterance alone by rounding only
States = tuple[Tensor, Tensor]  # (B, T, D) of one layer, and the (B,) valid frames of each utterance

LAST = "last"
POOLINGS = ("mean", "mean+std")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Options:
    """What of a model's states is kept, and how it computes."""

    layers: str = LAST  # "last", "all", or numbers such as "7,9,11"; 0 is what the first layer is given
    pooling: str | None = None  # one of POOLINGS; None is the encoder's own choice
    precision: str = "float32"  # one of PRECISIONS


class AcousticEncoder(ABC):
    """Waveforms in, one pooled row each out; a row never depends on its batch mates."""

    name: str
    revision: str
    layers: tuple[int, ...] | None  # None is the last hidden states, without a layer axis
    pooling: str
    precision: str  # one of PRECISIONS
    min_samples: int  # shorter waveforms have no frame, and so no row
    max_samples: int | None  # what the model can take at once; None is any length

    def __init__(self, options: Options, default_pooling: str = "mean") -> None:
        self.pooling = options.pooling or default_pooling
        self.precision = options.precision

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the encoder computes."""

    @abstractmethod
    def _states(self, waveforms: list[Waveform]) -> list[States]:
        """The hidden states of each layer wanted."""

    @torch.inference_mode()
    def encode(self, waveforms: list[Waveform]) -> Tensor:
        """(samples,) float32 waveforms at 16 kHz -> (B, W) float32 on the device; (B, L, W) with layers.

        W is the width of the states, twice that with mean+std. On a GPU the work may not be done on return.
        """
        with self._computing():
            layers = self._states(waveforms)
        pooled = torch.stack([pool(states.float(), frames, self.pooling) for states, frames in layers], dim=1)
        return pooled if self.layers is not None else pooled[:, 0]

    def _computing(self) -> AbstractContextManager[object]:
        """Half precision for products and convolutions only; norms and sums stay in float32."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


class TextEncoder(Protocol):
    """Texts in, one row each out."""

    name: str
    revision: str
    pooling: str

    def encode(self, texts: list[str]) -> Tensor:
        """Texts -> (B, E) float32 on the device."""


def parse_layers(wanted: str, available: int, name: str) -> tuple[int, ...] | None:
    """`Options.layers` for a model of `available` layers -> their numbers, 0 to available; None for the last.

    Raises UsageError naming what there is.
    """
    if wanted == LAST:
        return None
    if wanted == "all":
        return tuple(range(available + 1))
    parts = [part.strip() for part in wanted.split(",")]
    numbers = [int(part) for part in parts if part.isdigit() and int(part) <= available]
    if len(numbers) != len(parts) or sorted(set(numbers)) != numbers:
        raise UsageError(
            f"--layers {wanted!r} cannot be had from {name}: give last, all, or different numbers in rising order "
            f"from 0 to {available}, such as 0,{available}."
        )
    return tuple(numbers)


def pool(states: Tensor, frames: Tensor, pooling: str) -> Tensor:
    """(B, T, D) states, (B,) valid frames -> (B, D) mean over time, or (B, 2D) mean and standard deviation.

    The deviation is the population's, so that a single frame has 0.
    """
    counts = frames.to(states.device, states.dtype)[:, None]
    inside = valid(frames, states.shape[1]).to(states.device)[:, :, None]
    mean = torch.where(inside, states, 0).sum(dim=1) / counts
    if pooling == "mean":
        return mean
    deviations = torch.where(inside, states - mean[:, None], 0)
    return torch.cat([mean, (deviations.square().sum(dim=1) / counts).sqrt()], dim=1)


def valid(lengths: Tensor, longest: int) -> Tensor:
    """(B,) lengths -> (B, longest) bool, true before each row's end."""
    return torch.arange(longest)[None, :] < lengths[:, None]


def relative_error(rows: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """The largest difference of a row from its reference, relative to the reference's largest value."""
    a, b = np.asarray(rows, np.float64), np.asarray(reference, np.float64)
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return float((np.abs(a - b).max(axis=1) / np.abs(b).max(axis=1)).max())
