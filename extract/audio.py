"""A recording on disk -> mono float32 at 16 kHz, or a reason why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

SAMPLING_RATE = 16_000  # Hz, what every encoder here was trained on

Waveform = npt.NDArray[np.float32]  # (samples,)


class UnusableAudioError(Exception):
    """A recording without a row; `reason` is one of `common.cache.REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def duration(path: Path) -> float:
    """Seconds of audio as the file's header tells, without decoding it.

    Raises UnusableAudioError("missing" or "unreadable").
    """
    try:
        header = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError, RuntimeError):
        raise UnusableAudioError("unreadable" if path.exists() else "missing") from None
    return float(header.frames / header.samplerate) if header.samplerate else 0.0


def load(path: Path) -> Waveform:
    """Decode any rate and channel count to (samples,) float32 at 16 kHz.

    Channels are averaged; other rates are resampled by soxr at high quality. Samples are in the file's
    full scale, -1 to 1 for integer formats.

    Raises UnusableAudioError: "missing", "unreadable" (cannot be decoded, or is empty) or "not finite"
    (a sample, or the power of all of them).
    """
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError):
        raise UnusableAudioError("unreadable" if path.exists() else "missing") from None
    if not samples.size:
        raise UnusableAudioError("unreadable")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if rate != SAMPLING_RATE:
        mono = soxr.resample(mono, rate, SAMPLING_RATE)
    with np.errstate(over="ignore"):
        power = np.square(mono).sum()  # what every normalisation divides by
    if not np.isfinite(power):
        raise UnusableAudioError("not finite")
    return np.ascontiguousarray(mono, dtype=np.float32)
