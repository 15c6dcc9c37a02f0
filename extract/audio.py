"""A recording on disk -> mono float32 at 16 kHz, or the reason why that is not possible."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ser_memory.common.conventions import SAMPLING_RATE

_UNKNOWN_LENGTH = 0x7FFF_0000  # bytes: programs that do not know a WAV's length yet write this or more
_TOLERATED = 0.1  # seconds that a WAV may lack: some programs count its header as sound

Waveform = npt.NDArray[np.float32]  # (samples,)


class UnusableAudioError(Exception):
    """A recording without a row; `reason` is one of `ser_memory.common.cache.REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def duration(path: Path) -> float:
    """Seconds of audio according to the file's header, without decoding the file.

    Raises UnusableAudioError("missing" or "unreadable").
    """
    try:
        header = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError, RuntimeError):
        raise UnusableAudioError("unreadable" if path.exists() else "missing") from None
    return float(header.frames / header.samplerate) if header.samplerate else 0.0


def load(path: Path) -> Waveform:
    """Decode any rate and number of channels to (samples,) float32 at 16 kHz.

    Channels are averaged. Other rates are resampled by soxr at high quality. Samples are relative to the file's full
    scale, -1 to 1 for integer formats.

    Raises UnusableAudioError: "missing", "unreadable" (the file cannot be decoded, is cut off, or is empty) or "not
    finite" (a sample is not, or the power of all samples).
    """
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
        cut_off = _is_cut_off(path)
    except (soundfile.LibsndfileError, OSError, RuntimeError):
        raise UnusableAudioError("unreadable" if path.exists() else "missing") from None
    if cut_off or not samples.size:
        raise UnusableAudioError("unreadable")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if rate != SAMPLING_RATE:
        mono = soxr.resample(mono, rate, SAMPLING_RATE)
    with np.errstate(over="ignore"):
        power = np.square(mono).sum()  # what every normalisation divides by
    if not np.isfinite(power):
        raise UnusableAudioError("not finite")
    return np.ascontiguousarray(mono, dtype=np.float32)


def out_of_bounds(seconds: float, min_duration: float, max_duration: float) -> str | None:
    """The reason against a duration in seconds, or None."""
    if seconds < min_duration:
        return "too short"
    return "too long" if seconds > max_duration else None


def _is_cut_off(path: Path) -> bool:
    """Whether a WAV is shorter than its header says: libsndfile reads the rest of it without an error."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return False
        file.seek(12)  # after the length of the file and the word WAVE
        bytes_per_second = 0
        while len(header := file.read(8)) == 8:  # noqa: PLR2004
            kind, length = header[:4], int.from_bytes(header[4:], "little")
            start = file.tell()
            if kind == b"fmt ":
                bytes_per_second = int.from_bytes(file.read(12)[8:], "little")
            if kind == b"data":
                lacking = start + length - os.fstat(file.fileno()).st_size
                return length < _UNKNOWN_LENGTH and lacking > _TOLERATED * bytes_per_second
            file.seek(start + length + length % 2)
    return False
