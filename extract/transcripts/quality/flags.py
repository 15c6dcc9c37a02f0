"""Signs that a transcript is wrong, from its text and audio alone, without a reference."""

from __future__ import annotations

import math
import re
import zlib

import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract.levels import FRAME, NEAR_SILENCE, levels

REPETITION = "repetition"  # the engine repeats itself in a loop
ON_SILENCE = "text on silence"  # engines invent words where there is no speech
FEW_WORDS = "few words"  # for the amount of sound: engines sometimes stop at a pause
FLAGS = (REPETITION, ON_SILENCE, FEW_WORDS)

_COMPRESSION = 2.4  # bytes of text per byte of its zlib stream; the limit of Whisper's authors
_REPEATS, _REPEATED_WORDS = 4, 8  # "thank you" four times is a loop; people do say "no, no, no, no"
_LONGEST_PHRASE = 8  # words
_NO_SPEECH, _LOG_PROBABILITY = 0.6, -1.0  # the limits of Whisper's authors; both must be exceeded
_SOUNDING = 10 ** (-30 / 20)  # of the level of loud frames: softer frames are pauses
_WORDS_PER_SECOND = 0.5  # slow speech has two


def flags(
    text: str,
    waveform: npt.NDArray[np.float32],
    no_speech: float | None = None,
    confidence: float | None = None,
) -> tuple[str, ...]:
    """The flags, of FLAGS, for a text and its (samples,) waveform at 16 kHz; none for an empty text.

    `no_speech` is the engine's probability, 0 to 1, of no speech; `confidence` is its mean token probability,
    0 to 1. Both may be None.
    """
    if not text.strip():
        return ()
    level = levels(waveform)
    found = []
    if is_repetitive(text):
        found.append(REPETITION)
    unsure = confidence is not None and confidence < math.exp(_LOG_PROBABILITY)
    if level.max() < NEAR_SILENCE or (no_speech is not None and no_speech > _NO_SPEECH and unsure):
        found.append(ON_SILENCE)
    elif len(text.split()) < _WORDS_PER_SECOND * _sounding_seconds(level):
        found.append(FEW_WORDS)
    return tuple(found)


def is_repetitive(text: str) -> bool:
    """Whether a text is a loop: it compresses too well, or a phrase occurs many times in a row."""
    data = text.encode()
    if data and len(data) / len(zlib.compress(data)) > _COMPRESSION:
        return True
    words = re.findall(r"\w+", text.lower())
    return any(
        _longest_run(words, size) * size >= max(_REPEATED_WORDS, _REPEATS * size)
        for size in range(1, _LONGEST_PHRASE + 1)
    )


def _longest_run(words: list[str], size: int) -> int:
    """The largest number of times that a phrase of `size` words occurs in a row."""
    best = run = 0  # words in a row that equal the word `size` places before
    for i in range(size, len(words)):
        run = run + 1 if words[i] == words[i - size] else 0
        best = max(best, run)
    return best // size + 1


def _sounding_seconds(level: npt.NDArray[np.float64]) -> float:
    return float((level > _SOUNDING * np.quantile(level, 0.95)).sum() * FRAME / SAMPLING_RATE)
