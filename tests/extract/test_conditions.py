"""A telephone, noise and a room: what they do to a recording, and the caches of test splits in them."""

from __future__ import annotations

import io
import re
from itertools import combinations

import numpy as np
import pytest
import soundfile

from ser_memory.common.errors import UsageError
from ser_memory.extract.conditions import (
    HIGHEST_SNR,
    LOWEST_SNR,
    Audio,
    Condition,
    add_noise,
    heard_in,
    mu_law,
    parse_condition,
    reverberate,
    speech_power,
    telephone,
)

CONDITIONS = ("telephone", "noise:10", "noise:-5", "room")
RATE = 16_000


def words(seconds: float = 3.0, seed: int = 0, level: float = 0.1) -> Audio:
    """White noise in four bursts with silence between them: energy at all frequencies, and pauses."""
    time = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(time)) * level
    return np.where(time * 4 / seconds % 1.0 < 0.6, noise, 0.0).astype(np.float32)


def energy(samples: Audio, low: float, high: float) -> float:
    """Between two frequencies in Hz."""
    power = np.abs(np.fft.rfft(samples.astype(np.float64))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(power[(frequencies >= low) & (frequencies <= high)].sum())


def decibel(ratio: float) -> float:
    return float(10 * np.log10(ratio))


@pytest.mark.parametrize("text", CONDITIONS)
def test_length_range_and_repeatability(text: str) -> None:
    condition = parse_condition(text)
    for level in (0.001, 0.1, 0.5):  # of the last one, some samples exceed full scale
        voice = words(level=level)
        before = voice.copy()
        heard = heard_in(voice, condition, "r1")
        assert heard.shape == voice.shape
        assert str(heard.dtype) == "float32"
        assert np.abs(heard).max() <= 1.0
        assert np.array_equal(heard, heard_in(voice, condition, "r1"))
        assert np.array_equal(voice, before)
        assert not np.array_equal(heard, voice)


@pytest.mark.parametrize("text", CONDITIONS)
@pytest.mark.parametrize("samples", [0, 1, 2, 3, 100, 319, 321])
@pytest.mark.parametrize("value", [0.0, 0.5, -1.0, 1e-6])
def test_short_and_silent_recordings(text: str, samples: int, value: float) -> None:
    voice = np.full(samples, value, np.float32)
    heard = heard_in(voice, parse_condition(text), "r1")
    assert len(heard) == samples
    assert np.isfinite(heard).all()
    assert not samples or np.abs(heard).max() <= 1.0
    if value == 0.0:
        assert np.array_equal(heard, voice)


def test_recordings_and_conditions_have_random_numbers_of_their_own() -> None:
    voice = words()
    asked = [("noise:10", "r1"), ("noise:10", "r2"), ("room", "r1"), ("room", "r2")]
    heard = [heard_in(voice, parse_condition(text), key) for text, key in asked]
    assert not any(np.array_equal(one, other) for one, other in combinations(heard, 2))


def test_a_telephone_passes_its_band_only() -> None:
    voice = words()
    heard = telephone(voice)
    assert decibel(energy(heard, 300, 3400) / energy(voice, 300, 3400)) == pytest.approx(0.0, abs=0.1)
    for low, high in ((0, 190), (3850, 8000)):
        assert decibel(energy(heard, low, high) / energy(voice, low, high)) < -50
    # Eight bits of mu-law are 38 dB above their error, over a wide range of levels (G.711, G.712).
    for level in (0.01, 0.03, 0.1):
        tone = (level * np.sin(2 * np.pi * 1000.3 * np.arange(RATE) / RATE)).astype(np.float32)
        middle = slice(RATE // 4, -RATE // 4)
        assert 33 < decibel(np.mean(tone[middle] ** 2) / np.mean((telephone(tone) - tone)[middle] ** 2)) < 45


def test_a_telephone_adds_no_delay() -> None:
    """The correlation with the recording is largest at lag 0."""
    voice = words().astype(np.float64)
    heard = telephone(words()).astype(np.float64)
    lags = range(-20, 21)
    correlation = [float(np.dot(voice, np.roll(heard, lag))) for lag in lags]
    assert lags[int(np.argmax(correlation))] == 0


def test_mu_law_is_libsndfiles() -> None:
    every = np.arange(-(2**15), 2**15).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, every, 8000, format="WAV", subtype="ULAW")
    file.seek(0)
    expected, _ = soundfile.read(file, dtype="int16")
    assert np.array_equal(mu_law(every / 2.0**15) * 2.0**15, expected)


def literal_power(voice: Audio) -> float:
    """The mean square of the frames of 20 ms within 25 dB of the loudest, frame by frame."""
    frames = [voice[start : start + 320].astype(np.float64) for start in range(0, len(voice), 320)]
    loudest = max(float(np.mean(frame**2)) for frame in frames)
    spoken = [frame for frame in frames if np.mean(frame**2) >= loudest / 10**2.5]
    return float(np.mean(np.concatenate(spoken) ** 2))


@pytest.mark.parametrize("snr", [-10.0, 0.0, 10.0, 30.0])
def test_the_ratio_of_speech_to_noise(snr: float) -> None:
    voice = words(seconds=3.005, level=0.01)  # far below full scale
    noise = add_noise(voice, snr, np.random.default_rng(1)).astype(np.float64) - voice
    assert decibel(literal_power(voice) / float(np.mean(noise**2))) == pytest.approx(snr, abs=0.1)


def test_the_ratio_stays_when_the_sum_exceeds_full_scale() -> None:
    voice = words(level=0.3)
    heard = add_noise(voice, 0.0, np.random.default_rng(1)).astype(np.float64)
    quiet = 100 * add_noise(words(level=0.003), 0.0, np.random.default_rng(1)).astype(np.float64)
    assert np.abs(heard).max() == pytest.approx(1.0)
    scale = float(heard @ quiet / (quiet @ quiet))
    assert scale < 1.0
    np.testing.assert_allclose(heard, scale * quiet, atol=1e-5)


def test_pauses_do_not_count_as_speech() -> None:
    voice = words()
    assert speech_power(voice) == pytest.approx(literal_power(voice))
    padded = np.concatenate([np.zeros(RATE, np.float32), voice, np.zeros(RATE, np.float32)])
    assert speech_power(padded) == pytest.approx(speech_power(voice), rel=0.01)
    assert speech_power(np.zeros(0, np.float32)) == 0.0


def test_the_noise_is_pink() -> None:
    """Equal energy in each octave."""
    noise = add_noise(words(20.0, level=0.01), 0.0, np.random.default_rng(1)) - words(20.0, level=0.01)
    octaves = [energy(noise, low, 2 * low) for low in (100, 200, 400, 800, 1600, 3200)]
    assert max(abs(decibel(octave / float(np.mean(octaves)))) for octave in octaves) < 1.0


def test_a_room_fades_and_keeps_the_level() -> None:
    voice = np.zeros(2 * RATE, np.float32)
    voice[:1600] = words(0.1, level=0.2)
    heard = reverberate(voice, np.random.default_rng(0)).astype(np.float64)
    assert np.mean(heard**2) == pytest.approx(np.mean(voice.astype(np.float64) ** 2), rel=1e-3)
    early, late = (
        float(np.mean(heard[int(start * RATE) : int((start + 0.05) * RATE)] ** 2)) for start in (0.15, 0.45)
    )
    assert decibel(late / early) == pytest.approx(-60 * 0.3 / 0.6, abs=3)  # 60 dB in 0.6 s
    assert np.abs(heard[int(0.75 * RATE) :]).max() < 1e-4


@pytest.mark.parametrize(
    ("text", "canonical", "name"),
    [
        ("telephone", "telephone", "telephone"),
        ("room", "room", "room"),
        ("noise:10", "noise:10", "noise-10"),
        ("noise:10.0", "noise:10", "noise-10"),
        ("noise:2.5", "noise:2.5", "noise-2.5"),
        ("noise:-5", "noise:-5", "noise--5"),
        ("noise:-0", "noise:0", "noise-0"),
    ],
)
def test_names(text: str, canonical: str, name: str) -> None:
    condition = parse_condition(text)
    assert (str(condition), condition.in_file_names) == (canonical, name)
    assert parse_condition(canonical) == condition


def test_equal_names_are_equal_conditions() -> None:
    assert parse_condition("noise:10.00000001") == Condition("noise", 10.0) == parse_condition("noise:1e1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("noise", "--condition noise needs a signal-to-noise ratio in dB after a colon, such as noise:10."),
        ("noise:", "--condition noise: needs a signal-to-noise ratio in dB"),
        ("noise:abc", "--condition noise:abc needs a signal-to-noise ratio in dB"),
        ("noise:999", "has a signal-to-noise ratio of 999 dB: give one from -10 to 60"),
        ("noise:nan", "give one from -10 to 60"),
        ("noise:-inf", "give one from -10 to 60"),
        ("car", "There is no condition 'car': give telephone, room, or noise:SNR"),
        ("telephone:8", "There is no condition 'telephone:8'"),
        ("room:", "There is no condition 'room:'"),
        ("", "There is no condition ''"),
        ("Telephone", "There is no condition 'Telephone'"),
    ],
)
def test_what_is_no_condition(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        parse_condition(text)
    assert (LOWEST_SNR, HIGHEST_SNR) == (-10, 60)
