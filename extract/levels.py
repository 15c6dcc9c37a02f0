"""How loud a recording is: the levels of its frames, and whether it is nearly silent or clipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import SAMPLING_RATE

if TYPE_CHECKING:
    from ser_memory.extract.audio import Waveform

FRAME = SAMPLING_RATE // 10  # samples: 0.1 s
NEAR_SILENCE = 1e-3  # of full scale, root mean square of the loudest frame: -60 dB
_FULL_SCALE, _CLIPPED_SHARE = 0.99, 1e-3  # of the largest value; share of samples that reach it


def levels(waveform: Waveform) -> npt.NDArray[np.float64]:
    """Root mean square of each 0.1 s, (frames,), with at least one frame."""
    padded = np.pad(waveform, (0, max(0, FRAME - len(waveform))))
    frames = padded[: len(padded) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    return np.asarray(np.sqrt((frames**2).mean(axis=1)))


def is_near_silent(waveform: Waveform) -> bool:
    """Whether no 0.1 s is louder than -60 dB of full scale."""
    return bool(levels(waveform).max() < NEAR_SILENCE)


def is_clipped(waveform: Waveform) -> bool:
    """Whether more than 0.1 % of the samples are within 1 % of full scale, or above it."""
    return bool((np.abs(waveform) >= _FULL_SCALE).mean() > _CLIPPED_SHARE) if len(waveform) else False
