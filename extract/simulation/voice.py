"""A source-filter voice: glottal pulses and breath through the resonances of a vocal tract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import signal

from ser_memory.common.conventions import SAMPLING_RATE

Audio = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Gender = Literal["Female", "Male"]

# Formant frequencies in Hz of an adult man's vowels (Peterson and Barney 1952), with the same fourth one for all.
VOWELS = {
    "a": (730.0, 1090.0, 2440.0, 3400.0),
    "e": (530.0, 1840.0, 2480.0, 3400.0),
    "i": (270.0, 2290.0, 3010.0, 3400.0),
    "o": (570.0, 840.0, 2410.0, 3400.0),
    "u": (300.0, 870.0, 2240.0, 3400.0),
}
BANDWIDTHS = np.array([70.0, 100.0, 140.0, 220.0])
PAUSE = 0.5  # a pause between words, in syllables
RING = int(
    0.03 * SAMPLING_RATE
)  # samples for which a vocal tract still resonates after the source has stopped


@dataclass(frozen=True)
class Speaker:
    """What is the same in all utterances of a speaker."""

    gender: Gender
    pitch: float  # Hz, at rest
    formants: float  # 1 for a man's vocal tract; a shorter one has higher formants
    breath: float  # aspiration noise, as a share of the voiced source
    pace: float  # syllables per second, at rest
    level: float  # dB, habitual loudness

    @classmethod
    def draw(cls, gender: Gender, rng: np.random.Generator) -> Speaker:
        """Draw a new speaker."""
        female = gender == "Female"
        return cls(
            gender=gender,
            pitch=(205.0 if female else 115.0) * float(2.0 ** rng.normal(0.0, 0.12)),
            formants=(1.16 if female else 1.0) * float(2.0 ** rng.normal(0.0, 0.05)),
            breath=float(rng.uniform(0.02, 0.15)),
            pace=float(rng.uniform(3.9, 4.7)),
            level=float(rng.normal(0.0, 1.5)),
        )

    def pace_at(self, activation: float) -> float:
        """Syllables per second, including pauses, at an activation in [-1, 1]: excited speech is faster."""
        return self.pace * float(2.0 ** (0.25 * activation))


def syllables(word: str) -> str:
    """The vowels of a word, one per syllable: a run of vowel letters counts as its first letter."""
    before = " " + word[:-1]
    return "".join(b for a, b in zip(before, word, strict=True) if b in VOWELS and a not in VOWELS) or "e"


def speak(words: str, speaker: Speaker, activation: float, valence: float, rng: np.random.Generator) -> Audio:
    """Synthesise words: (samples,) float32 at 16 kHz, with a root mean square of about 0.05 at rest.

    The mean and range of the pitch, the level, the tempo and the strength of the high frequencies rise with
    activation, in [-1, 1]. Valence, in [-1, 1], has a small effect, as in real speech: a smile shortens the vocal
    tract a little.
    """
    vowels, starts, lengths = _timing(words, speaker.pace_at(activation), rng)
    n = int(np.ceil(starts[-1] + lengths[-1])) + 2 * RING
    time = np.arange(n)

    middles = starts + lengths / 2.0
    semitones = (1.5 + 1.2 * (1.0 + activation)) * rng.normal(size=len(vowels)) - 2.0 * middles / n
    pitch = speaker.pitch * 2.0 ** (0.35 * activation + semitones / 12.0)
    cycles = np.cumsum(np.interp(time, middles, pitch)) / SAMPLING_RATE
    pulses = np.diff(np.floor(cycles), prepend=0.0)

    corner = 350.0 * 2.0 ** (
        1.1 * activation
    )  # tense voices close the glottis faster, which gives a flatter spectrum
    keep = np.exp(-2.0 * np.pi * corner / SAMPLING_RATE)
    voiced = signal.lfilter([1.0 - keep], [1.0, -keep], pulses)
    noise = rng.standard_normal(n)
    voiced = voiced / voiced.std() + speaker.breath * noise

    # Each syllable is a burst of noise, the consonant, followed by the vowel.
    stress = rng.uniform(0.6, 1.0, size=len(vowels))
    silence = np.zeros_like(stress)
    vowel_at = _knots(starts, lengths, (0.2, 0.4, 0.75, 1.0))
    burst_at = _knots(starts, lengths, (0.0, 0.1, 0.2, 0.35))
    source = voiced * np.interp(time, vowel_at, _heights(silence, stress, stress, silence))
    hiss = np.diff(noise, prepend=0.0) * np.interp(time, burst_at, _heights(silence, stress, stress, silence))

    smile = speaker.formants * (1.0 + 0.03 * valence)
    sound = np.zeros(n)
    for vowel, start, length in zip(vowels, starts, lengths, strict=True):
        first, last = int(start), int(start + length)
        part = np.pad(source[first:last], (0, RING))
        sound[first : last + RING] += signal.sosfilt(_tract(vowel, smile), part)
    sound = np.diff(sound, prepend=0.0)  # radiation from the lips
    sound = sound / sound.std() + 0.12 * 2.0 ** (0.5 * activation) * hiss
    level = 0.05 * 10.0 ** ((speaker.level + 6.0 * activation) / 20.0)
    audio: Audio = (level * sound / sound.std()).astype(np.float32)
    return audio


def _timing(words: str, pace: float, rng: np.random.Generator) -> tuple[str, Array, Array]:
    """The vowels, and the first sample and the length in samples of each syllable; there are pauses between words."""
    spoken = [syllables(word) for word in words.lower().split()]
    vowels = "".join(spoken)
    ends_word = np.concatenate([np.arange(1, len(each) + 1) == len(each) for each in spoken])
    # `pace` includes pauses, so that the length of an utterance depends on its syllables alone.
    share = len(vowels) / (len(vowels) + PAUSE * len(spoken))
    lengths = SAMPLING_RATE / pace * share * rng.uniform(0.8, 1.2, size=len(vowels))
    pauses = ends_word * SAMPLING_RATE / pace * share * PAUSE * rng.uniform(0.5, 1.5, size=len(vowels))
    starts = RING + np.cumsum(lengths + pauses) - lengths - pauses
    return vowels, starts, lengths


def _knots(starts: Array, lengths: Array, shares: tuple[float, ...]) -> Array:
    knots: Array = (starts[:, None] + lengths[:, None] * np.array(shares)).ravel()
    return knots


def _heights(*columns: Array) -> Array:
    return np.stack(columns, axis=1).ravel()


def _tract(vowel: str, scale: float) -> Array:
    """Second-order sections, (4, 6): one per formant, each with unit gain at 0 Hz."""
    angles = 2.0 * np.pi * scale * np.array(VOWELS[vowel]) / SAMPLING_RATE
    radii = np.exp(-np.pi * BANDWIDTHS / SAMPLING_RATE)
    first, second = -2.0 * radii * np.cos(angles), radii**2
    ones, zeros = np.ones_like(angles), np.zeros_like(angles)
    return np.stack([ones + first + second, zeros, zeros, ones, first, second], axis=1)
