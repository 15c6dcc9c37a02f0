"""Cut a recording of any length where it is quiet, into windows that an encoder or a transcriber takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ser_memory.common.conventions import SAMPLING_RATE

if TYPE_CHECKING:
    from ser_memory.extract.audio import Waveform

_CUT_WITHIN = (
    5 * SAMPLING_RATE
)  # samples before the latest end of a window in which the quietest moment is searched
_MOMENT = SAMPLING_RATE // 10  # samples whose level is compared


def windows(blocks: Iterable[Waveform], most: int, least: int = 0) -> Iterator[Waveform]:
    """Cut the (samples,) blocks of one recording at 16 kHz into windows of at most `most` samples.

    The windows joined are the recording. Each cut is in the middle of the quietest tenth of a second in the last part
    of the window (at most 5 s, at most half of it), and leaves at least `least` samples, at most half of `most`, for
    the last window. Only one window and one block are in memory. A recording of at most `most` samples is one window.
    """
    least = min(least, most // 2)
    left = np.zeros(0, np.float32)
    for block in blocks:
        left = np.concatenate([left, block]) if len(left) else block
        while len(left) > most + least:  # so much that the last window cannot become too short
            end = _quiet_end(left, most)
            yield left[:end]
            left = left[end:]
    while len(left) > most:
        end = _quiet_end(left, min(most, len(left) - least))
        yield left[:end]
        left = left[end:]
    yield left


def _quiet_end(waveform: Waveform, latest: int) -> int:
    """Where to cut, at the latest after `latest` samples."""
    first = max(1, latest - _CUT_WITHIN, latest // 2)
    tail = waveform[first:latest].astype(np.float64)
    moment = min(_MOMENT, len(tail))
    level = np.convolve(tail**2, np.ones(moment), mode="valid")
    return first + int(level.argmin()) + moment // 2
