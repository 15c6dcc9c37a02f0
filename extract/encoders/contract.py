"""What every encoder offers, and what all acoustic encoders share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.audio import Waveform
from ser_memory.extract.settings import LAST

EXACT = 1e-5  # relative: a batched row may differ from the utterance alone by rounding only
IMPRECISE = (
    0.1  # relative: half precision that differs more from float32 is a fault, not rounding (0.006 is usual)
)
_PROBE = (16_000, 12_320, 7_000)  # samples: odd and even numbers of frames (49, 38 and 21)

States = tuple[Tensor, Tensor]  # (B, T, D) of one layer, and the (B,) valid frames of each utterance


@dataclass(frozen=True)
class EncoderOptions:
    """Which states of an acoustic model are kept, and how it computes."""

    layers: str = LAST  # "last", "all", or numbers such as "7,9,11"; 0 is the input of the first layer
    pooling: str | None = None  # "mean" or "mean+std"; None is the encoder's own choice
    precision: str = "float32"  # or "bfloat16"


@dataclass(eq=False)
class AcousticIdentity:
    """What an acoustic encoder determines of a cache; known without its weights."""

    name: str
    revision: str
    layers: tuple[int, ...] | None  # None is the last hidden states, without a layer axis
    pooling: str  # "mean" or "mean+std"
    precision: str  # "float32" or "bfloat16"
    max_samples: int | None = None  # the longest input of the model; None is any length

    def attributes(self) -> dict[str, str]:
        """The attributes of a cache that this encoder determines."""
        return {
            "acoustic_encoder": self.name,
            "acoustic_revision": self.revision,
            "acoustic_pooling": self.pooling,
            "acoustic_layers": LAST if self.layers is None else ",".join(map(str, self.layers)),
            "precision": self.precision,
        }

    def refuse_beyond_window(self, max_duration: float) -> None:
        """Raise UsageError if utterances of `max_duration` seconds are longer than the model's input.

        Otherwise they would be dropped although they are within the durations that the user allows.
        """
        if self.max_samples is not None and max_duration > self.max_samples / SAMPLING_RATE:
            window = self.max_samples / SAMPLING_RATE
            raise UsageError(
                f"{self.name} takes {window:g} s at most, and --max-duration is {max_duration:g}: give "
                f"--max-duration {window:g}, or an --acoustic-encoder of the wav2vec2 family."
            )


@dataclass(eq=False)
class TextIdentity:
    """What a text encoder determines of a cache; known without its weights."""

    name: str
    revision: str
    pooling: str

    def attributes(self) -> dict[str, str]:
        """The attributes of a cache that this encoder determines."""
        return {
            "text_encoder": self.name,
            "text_revision": self.revision,
            "text_pooling": self.pooling,
        }


class AcousticEncoder(AcousticIdentity, ABC):
    """Waveforms in, one pooled row each out; a row depends on its batch mates by rounding at most."""

    min_samples: int  # shorter waveforms have no frame, and so no row

    def __init__(self, identity: AcousticIdentity) -> None:
        super().__init__(**vars(identity))

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the encoder computes."""

    @abstractmethod
    def _states(self, waveforms: list[Waveform]) -> list[States]:
        """The hidden states of each layer wanted."""

    def encode(self, waveforms: list[Waveform]) -> Tensor:
        """(samples,) float32 waveforms at 16 kHz -> (B, W) float32 on the device; (B, L, W) with layers.

        W is the width of the states, twice that with mean+std. On a GPU the work may still be going on at return.
        """
        return self._encode(waveforms, self.precision)

    def graph(self) -> nn.Module:
        """The same as a module of one waveform, see `graphs`. It shares the weights and computes in float32.

        Raises SerError for an encoder whose graph is not known to be right.
        """
        raise not_exported(self.name, type(self).__name__)

    def refuse_imprecise(self) -> None:
        """Raise SerError if the encoder's precision gives wrong rows on its device.

        A probe batch is compared with float32. This is needed because libraries have faults: on processors with
        AMX, oneDNN's bfloat16 convolutions are wrong for some groups of fewer than 16 channels.
        """
        if self.precision == "float32":
            return
        batch = [waveform.numpy() for waveform in probe()[1:]]  # without the longest, to save time
        rows, reference = (self._encode(batch, each).cpu() for each in (self.precision, "float32"))
        error = relative_error(rows, reference)
        if not error <= IMPRECISE:  # NaN is no better
            raise SerError(
                f"{self.name} is wrong in {self.precision} on {self.device}, its rows differ from float32 by "
                f"{error:.2g} of their largest value and {IMPRECISE:g} is allowed: use --precision float32."
            )

    @torch.inference_mode()
    def _encode(self, waveforms: list[Waveform], precision: str) -> Tensor:
        with self._computing_in(precision):
            layers = self._states(waveforms)
        pooled = torch.stack([pool(states.float(), frames, self.pooling) for states, frames in layers], dim=1)
        return pooled if self.layers is not None else pooled[:, 0]

    def _computing_in(self, precision: str) -> AbstractContextManager[object]:
        """Half precision is for products and convolutions only; norms and sums stay in float32."""
        if precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


class TextEncoder(TextIdentity, ABC):
    """Texts in, one row each out; a row depends on its batch mates by rounding at most."""

    def __init__(self, identity: TextIdentity) -> None:
        super().__init__(**vars(identity))

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the encoder computes."""

    @abstractmethod
    def encode(self, texts: list[str]) -> Tensor:
        """Texts -> (B, E) float32 on the device."""


def not_exported(name: str, kind: str) -> SerError:
    """The error for an encoder that no graph is tested for."""
    return SerError(
        f"{name} is a {kind}, which cannot be exported as a whole: export the head alone with --head-only, and compute "
        "its acoustic embeddings with ser-memory."
    )


def probe() -> list[Tensor]:
    """Three waveforms of noise with different lengths, 1 s at most, to measure an encoder with; always the same."""
    noise = torch.Generator().manual_seed(0)
    return [torch.randn(samples, generator=noise) for samples in _PROBE]


def parse_layers(wanted: str, available: int, name: str) -> tuple[int, ...] | None:
    """`EncoderOptions.layers` for a model of `available` layers -> numbers from 0 to available; None for the last.

    Raises UsageError that names what can be chosen.
    """
    if wanted == LAST:
        return None
    if wanted == "all":
        return tuple(range(available + 1))
    parts = [part.strip() for part in wanted.split(",")]
    numbers = [int(part) for part in parts if part.isdigit() and int(part) <= available]
    if len(numbers) != len(parts) or sorted(set(numbers)) != numbers:
        raise UsageError(
            f"--layers {wanted!r} is not possible with {name}: give last, all, or different numbers in rising order "
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
