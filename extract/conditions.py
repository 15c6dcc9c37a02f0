"""Acoustic conditions that test recordings are put into before they are encoded: a telephone, noise, a room.

A condition keeps the length of a recording, so that every row of a corpus has its counterpart. Random numbers come from
a seed of the recording: its row does not depend on the batch, the order or the workers. Caches know a condition by its
name, so a formula here that changes needs a new name.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import UsageError

Audio = npt.NDArray[np.float32]
_Array = npt.NDArray[np.float64]

LOWEST_SNR, HIGHEST_SNR = -10.0, 60.0  # dB
_KNOWN = "telephone, room, or noise:SNR with a signal-to-noise ratio in dB, such as noise:10"

BAND = (300.0, 3400.0)  # Hz, which a telephone passes whole
_STOPPED = (200.0, 3800.0)  # Hz, beyond which it passes nothing
PINK_ABOVE = 50.0  # Hz: the power of the noise is proportional to 1 / frequency, and even below
DECAY, ECHO = 0.6, 1.0  # of the room: seconds until it has lost 60 dB, energy relative to the direct sound
FRAME = SAMPLING_RATE // 50  # samples, in which the level of speech is measured
PAUSE = 10.0**-2.5  # of the power of the loudest frame: what has less is no speech


@dataclass(frozen=True)
class Condition:
    """One of the conditions; its text is what the option --condition takes, such as noise:10."""

    kind: str  # telephone, noise or room
    snr: float | None = None  # dB, of noise

    def __str__(self) -> str:
        return self.kind if self.snr is None else f"{self.kind}:{self.snr:g}"

    @property
    def in_file_names(self) -> str:
        """Such as noise-10: a colon is not allowed in the names of files everywhere."""
        return str(self).replace(":", "-")


def parse_condition(text: str) -> Condition:
    """The condition of this text. Raises UsageError, in one sentence, for another text."""
    kind, colon, value = text.partition(":")
    if kind in ("telephone", "room") and not colon:
        return Condition(kind)
    if kind != "noise":
        raise UsageError(f"There is no condition {text!r}: give {_KNOWN}.")
    try:
        snr = float(f"{float(value):g}") + 0.0  # as exact as its name; -0 is 0
    except ValueError:
        raise UsageError(
            f"--condition {text} needs a signal-to-noise ratio in dB after a colon, such as noise:10."
        ) from None
    if not LOWEST_SNR <= snr <= HIGHEST_SNR:
        raise UsageError(
            f"--condition {text} has a signal-to-noise ratio of {value} dB: give one from {LOWEST_SNR:g} to "
            f"{HIGHEST_SNR:g}, such as noise:10."
        )
    return Condition(kind, snr)


def heard_in(waveform: Audio, condition: Condition, key: str) -> Audio:
    """A recording as it is heard in a condition: (samples,) float32 at 16 kHz, of the same length, in [-1, 1].

    `key` identifies the recording: the same key gives the same noise and the same place in the room, and others give
    others. A recording that is silent or empty stays as it is.
    """
    if not np.any(waveform):
        return waveform
    if condition.kind == "telephone":
        return telephone(waveform)
    digest = hashlib.sha256(f"{condition}\n{key}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    return reverberate(waveform, rng) if condition.snr is None else add_noise(waveform, condition.snr, rng)


def telephone(waveform: Audio) -> Audio:
    """A fixed-line telephone call: 300 to 3400 Hz, 8 kHz, 8 bits by the mu-law of ITU-T G.711.

    The band is cut before the quantisation and after it, as both ends of a line do, without a delay. Beyond full scale
    the line clips.
    """
    narrow = _filtered(waveform.astype(np.float64))
    wide = np.zeros_like(narrow)
    wide[::2] = 2.0 * mu_law(narrow[::2])  # nothing above 4 kHz is left, so every second sample has it all
    return np.clip(_filtered(wide), -1.0, 1.0).astype(np.float32)


def mu_law(samples: _Array) -> _Array:
    """(n,) samples in [-1, 1], quantised to the 255 different values of G.711's mu-law and decoded again.

    Of 14-bit magnitude plus a bias of 33, a segment and four bits below the leading one are kept.
    """
    magnitude = np.minimum(np.floor(np.abs(samples) * 8192.0), 8158.0) + 33.0
    step = np.exp2(np.floor(np.log2(magnitude)) - 4.0)
    decoded = (np.floor(magnitude / step) + 0.5) * step - 33.0
    return np.asarray(np.copysign(decoded, samples) / 8192.0)


def add_noise(waveform: Audio, snr: float, rng: np.random.Generator) -> Audio:
    """Add pink noise: the level of the speech is `snr` dB above the noise's mean power.

    Its power is proportional to 1 / frequency from 50 Hz to 8 kHz, and even below. If the sum exceeds full scale, all
    of it gets quieter, which keeps the ratio.
    """
    n = len(waveform)
    frequencies = np.fft.rfftfreq(_length(n), 1.0 / SAMPLING_RATE)
    white = np.fft.rfft(rng.standard_normal(_length(n)))
    noise = np.fft.irfft(white / np.sqrt(np.maximum(frequencies, PINK_ABOVE)))[:n]
    power = speech_power(waveform) * 10.0 ** (-snr / 10.0)
    return _within_scale(waveform + noise * np.sqrt(power / np.mean(noise**2)))


def reverberate(waveform: Audio, rng: np.random.Generator) -> Audio:
    """Record a voice in a room that reverberates: 60 dB in 0.6 s, as much energy as the direct sound has.

    The mean power stays the same; if a sample exceeds full scale then, all of it gets quieter.
    """
    from ser_memory.extract.simulation.rooms import response  # which imports scipy

    room = response(DECAY, ECHO, rng)
    n = _length(len(waveform) + len(room))
    wet = np.fft.irfft(np.fft.rfft(waveform, n) * np.fft.rfft(room, n))[: len(waveform)]
    before, after = np.mean(np.square(waveform, dtype=np.float64)), np.mean(wet**2)
    return _within_scale(wet * np.sqrt(before / after))


def speech_power(waveform: Audio) -> float:
    """The mean power of the frames in which somebody speaks; 1 is that of a constant at full scale.

    These are the frames of 20 ms whose power is at most 25 dB below that of the loudest. 0 for silence.
    """
    if not len(waveform):
        return 0.0
    starts = np.arange(0, len(waveform), FRAME)
    energy = np.add.reduceat(np.square(waveform, dtype=np.float64), starts)
    lengths = np.diff(starts, append=len(waveform))
    power = energy / lengths
    spoken = power >= PAUSE * power.max()
    return float(energy[spoken].sum() / lengths[spoken].sum())


def _filtered(samples: _Array) -> _Array:
    """(n,) samples in the band of a telephone, with the edges of a raised cosine and without a delay."""
    n = _length(len(samples) + SAMPLING_RATE // 10)  # what rings at one end must not reach the other
    frequencies = np.fft.rfftfreq(n, 1.0 / SAMPLING_RATE)
    rising = np.clip((frequencies - _STOPPED[0]) / (BAND[0] - _STOPPED[0]), 0.0, 1.0)
    falling = np.clip((_STOPPED[1] - frequencies) / (_STOPPED[1] - BAND[1]), 0.0, 1.0)
    passed = (0.5 - 0.5 * np.cos(np.pi * rising)) * (0.5 - 0.5 * np.cos(np.pi * falling))
    return np.fft.irfft(np.fft.rfft(samples, n) * passed)[: len(samples)]


def _within_scale(samples: _Array) -> Audio:
    return (samples / max(1.0, float(np.abs(samples).max()))).astype(np.float32)


def _length(least: int) -> int:
    """A length of at least so many samples, even, that is quick to transform."""
    return 1 << max(1, (least - 1).bit_length())
