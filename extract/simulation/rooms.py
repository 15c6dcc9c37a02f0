"""Acoustic environments: the effect of a room, a microphone and a channel on a voice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract.simulation.voice import Audio

LOUDEST = 0.99  # of full scale: recorders clip


@dataclass(frozen=True)
class Environment:
    """The place in which a corpus was recorded."""

    decay: float  # seconds until the reverberation has lost 60 dB
    echo: float  # energy of the reverberation relative to the direct sound
    band: tuple[float, float]  # Hz, where the channel passes half the energy
    noise: float  # dB relative to full scale
    colour: float  # the noise's power is proportional to 1 / frequency ** colour
    hum: float  # dB relative to full scale, of the mains at 60 Hz and its harmonics
    gain: float  # dB
    levelling: float  # share of the differences in loudness that automatic gain control removes


# They differ in all that reaches a frozen encoder, so that a model trained on one makes errors in the others.
STUDIO = Environment(
    decay=0.15, echo=0.05, band=(60.0, 7800.0), noise=-65.0, colour=1.0, hum=-90.0, gain=0.0, levelling=0.0
)
STAGE = Environment(
    decay=0.4, echo=0.35, band=(110.0, 5800.0), noise=-54.0, colour=0.5, hum=-80.0, gain=-4.0, levelling=0.3
)
HALL = Environment(
    decay=0.8, echo=0.6, band=(150.0, 5000.0), noise=-55.0, colour=1.0, hum=-59.0, gain=2.5, levelling=0.0
)


def between(near: Environment, far: Environment, distance: float) -> Environment:
    """An environment at `distance` from `near`: 0 is `near`, 1 is `far`, beyond 1 it is farther away.

    Frequencies change in equal ratios, all else in equal steps. Raises ValueError if the distance is negative.
    """
    if distance < 0.0:
        raise ValueError(f"The distance {distance} is negative.")
    if distance == 1.0:
        return far
    low, high = (a * (b / a) ** distance for a, b in zip(near.band, far.band, strict=True))
    steps = {
        name: value + distance * (getattr(far, name) - value)
        for name, value in vars(near).items()
        if name != "band"
    }
    return Environment(band=(low, high), **steps)


def response(decay: float, echo: float, rng: np.random.Generator) -> Audio:
    """The impulse response of a room, (decay * 16000,) float32: the direct sound, 1, and noise that fades after it.

    `decay` is in seconds until the reverberation has lost 60 dB, `echo` its energy relative to the direct sound. Each
    call draws a new position in the room. The model is Polack's (1988).
    """
    tail = int(decay * SAMPLING_RATE)
    fading = rng.standard_normal(tail, np.float32) * 10.0 ** (-3.0 * np.arange(tail, dtype=np.float32) / tail)
    room: Audio = np.sqrt(echo / np.sum(fading**2)) * fading
    room[0] = 1.0
    return room


def place(voice: Audio, environment: Environment, rng: np.random.Generator) -> Audio:
    """Record a (samples,) float32 voice at 16 kHz in an environment: same length, values within [-1, 1].

    Each call draws a new position in the room, new noise and a slightly different gain.
    """
    room = response(environment.decay, environment.echo, rng)
    n = fft.next_fast_len(len(voice) + len(room), real=True)
    frequencies = fft.rfftfreq(n, 1.0 / SAMPLING_RATE)
    low, high = environment.band
    passed = 1.0 / np.sqrt(
        (1.0 + (low / np.maximum(frequencies, 1.0)) ** 6) * (1.0 + (frequencies / high) ** 12)
    )
    reverberant = fft.rfft(voice, n) * fft.rfft(room, n)
    coloured = fft.rfft(rng.standard_normal(n, np.float32)) * np.maximum(frequencies, 20.0) ** (
        -environment.colour / 2.0
    )

    recorded = fft.irfft(reverberant * passed, n)[: len(voice)]
    noise = fft.irfft(coloured * passed, n)[: len(voice)]
    loudness = np.sqrt(np.mean(recorded**2))
    gain = _ratio(environment.gain + rng.normal(0.0, 1.0)) * (0.05 / loudness) ** environment.levelling
    disturbed = _ratio(environment.noise) * noise / noise.std() + _hum(len(voice), environment, rng)
    audio: Audio = np.clip(gain * recorded + disturbed, -LOUDEST, LOUDEST).astype(np.float32)
    return audio


def _hum(n: int, environment: Environment, rng: np.random.Generator) -> Audio:
    time = np.arange(n, dtype=np.float32) / np.float32(SAMPLING_RATE) + np.float32(rng.uniform())
    waves = sum(np.sin(2.0 * np.pi * 60.0 * k * time) / k for k in (1, 2, 3))
    hum: Audio = (_ratio(environment.hum) * waves).astype(np.float32)
    return hum


def _ratio(decibel: float) -> float:
    return float(10.0 ** (decibel / 20.0))
