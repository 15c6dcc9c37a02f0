"""A recording on disk -> mono float32 at 16 kHz, or the reason why that is not possible."""

from __future__ import annotations

import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract import containers
from ser_memory.extract.containers import Stated

_TOLERATED = 0.1  # seconds that a recording may lack: some programs count the header as sound
_LONGEST_READ = 3600.0  # seconds that are read at once; a header with more may be wrong about it
_HALF_A_STEP = 2.0**-16  # of 16 bits: opposite phases are rounded apart by so much
_BLOCK = 1 << 20  # frames
# Of the other formats of libsndfile, these refuse a file that is cut off, or say so in libsndfile's log.
_TELLS = {"HTK", "SD2", "SDS", "MAT4", "WVE"}
_LOG_OF_A_CUT = re.compile(r"truncated|should be")

Waveform = npt.NDArray[np.float32]  # (samples,)


class UnusableAudioError(Exception):
    """A recording without a row; `reason` is one of `ser_memory.common.cache.REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """What can be known of a recording before its sound is needed."""

    seconds: float
    tells_length: bool  # if not, nobody can tell whether the file is cut off


def duration(path: Path) -> float:
    """Seconds of audio, as `header` finds them."""
    return header(path).seconds


def header(path: Path) -> Header:
    """Look at a recording without decoding it, unless its header leaves the length out.

    Raises UnusableAudioError("missing" or "unreadable"); a file that is cut off is unreadable.
    """
    with _reading(path):
        info, told = _look(path)
        if not told.known and (info.frames > _LONGEST_READ * info.samplerate or told.patch is not None):
            return Header(_decode(path, info, told).shape[0] / info.samplerate, False)
        frames = info.frames if told.samples is None else told.samples
        return Header(float(frames / info.samplerate) if info.samplerate else 0.0, told.known)


def stated_seconds(path: Path) -> float:
    """Seconds of audio as the container states them: the sound is never decoded, and they may be wrong.

    Raises UnusableAudioError as `header` does.
    """
    with _reading(path):
        info, told = _look(path)
        frames = info.frames if told.samples is None else told.samples
        return float(frames / info.samplerate) if info.samplerate else 0.0


def load(path: Path) -> Waveform:
    """Decode any rate and number of channels to (samples,) float32 at 16 kHz.

    Channels are averaged. Other rates are resampled by soxr at high quality. Samples are relative to the file's full
    scale, -1 to 1 for integer formats.

    Raises UnusableAudioError: "missing", "unreadable" (the file cannot be decoded, is cut off, or is empty) or "not
    finite" (a sample is not, or the power of all samples).
    """
    with _reading(path):
        info, told = _look(path)
        samples, rate = _decode(path, info, told), info.samplerate
    if not samples.size:
        raise UnusableAudioError("unreadable")
    return _at_16_khz(samples, rate, partial(soxr.resample, in_rate=rate, out_rate=SAMPLING_RATE))


def blocks(path: Path) -> Iterator[Waveform]:
    """The waveform of `load` (of MP3 perhaps with other rounding) in blocks of at most a minute, as they are decoded.

    Raises UnusableAudioError as `load` does, for a recording that is cut off perhaps after its last block.
    """
    with _reading(path):
        info, told = _look(path)
        resampler = soxr.ResampleStream(info.samplerate, SAMPLING_RATE, 1, dtype="float32")
        size, done = min(_BLOCK, 60 * info.samplerate), 0
        with _sound(path, info, told) as file:
            for samples in _read_blocks(file, size):
                done, last = done + len(samples), len(samples) < size
                yield _at_16_khz(samples, info.samplerate, partial(resampler.resample_chunk, last=last))
        if not done or _lacks(done, info, told):
            raise UnusableAudioError("unreadable")


def _at_16_khz(samples: npt.NDArray[np.float32], rate: int, resample: Callable[..., Any]) -> Waveform:
    """Mix (samples, channels) to one channel and resample it.

    Raises UnusableAudioError if the power, which every normalisation divides by, is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
        mono = mono if rate == SAMPLING_RATE else resample(mono)
        power = np.square(mono).sum()
    if not np.isfinite(power):
        raise UnusableAudioError("not finite")
    return np.ascontiguousarray(mono, dtype=np.float32)


def reason_against(path: Path | None) -> str | None:
    """Why a recording cannot be used, or None."""
    if path is None:
        return "missing"
    try:
        load(path)
    except UnusableAudioError as problem:
        return problem.reason
    return None


def is_silent(waveform: Waveform) -> bool:
    """Whether no sample reaches a step of 16 bits, as after two channels of opposite phase are averaged."""
    return bool(np.abs(waveform).max(initial=0) <= _HALF_A_STEP)


def out_of_bounds(seconds: float, min_duration: float, max_duration: float) -> str | None:
    """The reason against a duration in seconds, or None."""
    if seconds < min_duration:
        return "too short"
    return "too long" if seconds > max_duration else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn every error of the block, which reads the file, into an UnusableAudioError."""
    try:
        # A pipe would wait for a writer for ever, and a folder can have the name of a recording.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  a dangling link raises here
            raise UnusableAudioError("unreadable")
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableAudioError("missing") from None
    except (soundfile.LibsndfileError, OSError, RuntimeError, ValueError, OverflowError):
        raise UnusableAudioError("unreadable" if _exists(path) else "missing") from None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no permission to look
        return True


def _look(path: Path) -> tuple[Any, Stated]:
    """libsndfile's view of the file, and the container's own. Raises UnusableAudioError if the file is cut off."""
    told = containers.stated(path)
    if told is not None and told.ends_early:
        raise UnusableAudioError("unreadable")
    with _source(path, told) as source:
        info = soundfile.info(source, verbose=told is None)
    if told is None:
        told = Stated(known=info.format in _TELLS)
        if _LOG_OF_A_CUT.search(info.extra_info):
            raise UnusableAudioError("unreadable")
    if told.lacking and told.present and info.samplerate:
        seconds = info.frames / info.samplerate * told.lacking / told.present
        if seconds > _TOLERATED:
            raise UnusableAudioError("unreadable")
    return info, told


def _decode(path: Path, info: Any, told: Stated) -> npt.NDArray[np.float32]:
    """(samples, channels) to the end of the file. Raises UnusableAudioError if there are fewer than it promises."""
    if info.frames <= _LONGEST_READ * info.samplerate and not _is_miscounted(info, told):
        with _source(path, told) as source:
            samples: npt.NDArray[np.float32] = soundfile.read(source, dtype="float32", always_2d=True)[0]
    else:
        with _sound(path, info, told) as file:
            samples = np.concatenate(list(_read_blocks(file)))
    if _lacks(len(samples), info, told):
        raise UnusableAudioError("unreadable")
    return samples


def _lacks(frames: int, info: Any, told: Stated) -> bool:
    """Whether so many frames are fewer than the file promises."""
    return told.known and frames < info.frames - _TOLERATED * info.samplerate


def _is_miscounted(info: Any, told: Stated) -> bool:
    """libsndfile guesses the length of MPEG audio, and reads no further."""
    return told.samples is not None and abs(told.samples - info.frames) > _TOLERATED * info.samplerate


class _Unseekable(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """soundfile seeks after each read, which fails in a file whose length is not known."""

    def seekable(self) -> bool:
        return False


@contextmanager
def _source(path: Path, told: Stated | None) -> Iterator[Any]:
    """What libsndfile opens: the file, or a view of it with the length that its writer left out."""
    if told is None or told.patch is None:
        yield str(path)
        return
    with containers.patched(path, told.patch) as file:
        yield file


@contextmanager
def _sound(path: Path, info: Any, told: Stated) -> Iterator[Any]:
    """The file opened for reading block by block, to its true end."""
    if _is_miscounted(info, told):
        with _piped(path) as file:
            yield file
        return
    with _source(path, told) as source, _Unseekable(source) as file:
        yield file


def _read_blocks(file: Any, frames: int = _BLOCK) -> Iterator[npt.NDArray[np.float32]]:
    """(frames, channels) until the file ends; the last block is shorter, perhaps empty."""
    while True:
        block = file.read(frames, dtype="float32", always_2d=True)
        yield block
        if len(block) < frames:
            return


@contextmanager
def _piped(path: Path) -> Iterator[Any]:
    """The file opened through a pipe, where libsndfile cannot guess its length."""
    reading, writing = os.pipe()

    def feed() -> None:
        try:
            with path.open("rb") as source, os.fdopen(writing, "wb") as pipe:
                shutil.copyfileobj(source, pipe)
        except OSError:  # the decoder has stopped reading
            pass

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        with soundfile.SoundFile(reading, closefd=False) as file:
            yield file
    finally:
        os.close(reading)
        feeder.join()
