"""Recordings of any length are cut where they are quiet, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract import audio
from ser_memory.extract.windows import windows


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@given(
    n=st.integers(0, 400), most=st.integers(2, 60), least=st.integers(0, 60), size=st.integers(1, 90),
    seed=st.integers(0, 5),
)  # fmt: skip
def test_windows_joined_are_the_recording_and_none_is_too_long(
    n: int, most: int, least: int, size: int, seed: int
) -> None:
    waveform = noise(n, seed)
    cut = list(windows((waveform[i : i + size] for i in range(0, n, size)), most, least))
    np.testing.assert_array_equal(np.concatenate(cut), waveform)
    assert max(map(len, cut)) <= most
    assert n == 0 or min(map(len, cut)) >= min(n, least, most // 2, 1 + most // 4)
    # Where it is cut does not depend on the blocks in which it was decoded.
    assert [len(each) for each in cut] == [len(each) for each in windows([waveform], most, least)]
    assert len(cut) == 1 or n > most


def test_speech_is_cut_in_its_pauses() -> None:
    second, pause = SAMPLING_RATE, np.zeros(SAMPLING_RATE // 2, np.float32)
    spoken = [4, 3, 2, 4, 4, 3, 1, 4, 2]
    speech = np.concatenate([np.concatenate([noise(n * second, n), pause]) for n in spoken])
    cut = list(windows([speech], 12 * second, 3 * second))
    ends = np.cumsum([len(each) for each in cut])[:-1]
    for end in ends:
        assert not speech[end - 10 : end + 10].any()


def test_the_last_window_is_not_too_short() -> None:
    """A second more than two windows hold would be a window of its own."""
    second = SAMPLING_RATE
    cut = list(windows([noise(25 * second)], 12 * second, 3 * second))
    assert min(map(len, cut)) >= 3 * second


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1)])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_blocks_are_the_whole_recording(
    rate: int, channels: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"noise.{suffix}"
    soundfile.write(path, noise(5 * rate * channels).reshape(-1, channels), rate)
    monkeypatch.setattr(audio, "_BLOCK", 30_011)
    blocks = list(audio.blocks(path))
    assert len(blocks) > 1
    # libsndfile rounds MP3 in blocks in another way.
    np.testing.assert_allclose(
        np.concatenate(blocks), audio.load(path), rtol=0, atol=2e-7 * (suffix == "mp3")
    )


def test_what_cannot_be_decoded_is_refused_in_blocks_too(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(20, np.nan), 16_000, subtype="FLOAT")
    whole = tmp_path / "whole.wav"
    soundfile.write(whole, noise(32_000), 16_000)
    (tmp_path / "cut.wav").write_bytes(whole.read_bytes()[:30_000])
    for name, reason in (
        ("text", "unreadable"), ("empty", "unreadable"), ("nan", "not finite"), ("cut", "unreadable"),
        ("absent", "missing"),
    ):  # fmt: skip
        with pytest.raises(audio.UnusableAudioError, match=reason):
            list(audio.blocks(tmp_path / f"{name}.wav"))


def test_a_wav_whose_writer_did_not_know_its_length(tmp_path: Path) -> None:
    path = tmp_path / "piped.wav"
    soundfile.write(path, noise(48_000), 16_000)
    expected = audio.load(path)
    data = bytearray(path.read_bytes())
    data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    np.testing.assert_array_equal(np.concatenate(list(audio.blocks(path))), expected)
    assert audio.stated_seconds(path) == pytest.approx(3)
