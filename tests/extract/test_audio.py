"""Any recording ends as mono float32 at 16 kHz, or as a reason."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract.audio import UnusableAudioError, duration, header, is_silent, load
from tests.containers import CONTAINERS, LENGTH_UNKNOWN, frames_of_mp3, write


def tone(seconds: float, rate: int, channels: int = 1, hertz: float = 440.0) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return np.repeat(0.5 * np.sin(2 * np.pi * hertz * time)[:, None], channels, axis=1)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channel_count(rate: int, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(1.0, rate, channels), rate)
    waveform = load(path)
    assert waveform.dtype == np.float32
    assert waveform.shape == (SAMPLING_RATE,)
    assert duration(path) == pytest.approx(1.0)
    # The tone itself is still there, at its pitch and level.
    inside = waveform[1000:-1000]
    expected = tone(1.0, SAMPLING_RATE)[1000:-1000, 0]
    np.testing.assert_allclose(inside, expected, atol=0.02)


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    soundfile.write(
        path, np.stack([np.full(16_000, 0.5), np.full(16_000, -0.25)], axis=1), 16_000, subtype="FLOAT"
    )
    np.testing.assert_allclose(load(path), 0.125)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_sample_formats(subtype: str, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(0.5, 16_000), 16_000, subtype=subtype)
    np.testing.assert_allclose(load(path), tone(0.5, 16_000)[:, 0], atol=0.02)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not a recording at all" * 100])
def test_what_cannot_be_decoded_is_unreadable(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    for ask in (load, duration):
        with pytest.raises(UnusableAudioError) as caught:
            ask(path)
        assert caught.value.reason == "unreadable"


def test_absent_empty_and_not_finite(tmp_path: Path) -> None:
    with pytest.raises(UnusableAudioError, match="missing"):
        load(tmp_path / "absent.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 16_000)
    with pytest.raises(UnusableAudioError, match="unreadable"):
        load(tmp_path / "empty.wav")
    assert duration(tmp_path / "empty.wav") == 0
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        samples = np.zeros(16_000, np.float32)
        samples[77] = value
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000, subtype="FLOAT")
        with pytest.raises(UnusableAudioError, match="not finite"):
            load(tmp_path / f"{name}.wav")


def test_samples_too_large_to_be_normalised_are_not_finite(tmp_path: Path) -> None:
    """Each is finite, but their power is not, and normalisation would give NaN."""
    soundfile.write(tmp_path / "huge.wav", np.full(16_000, 1e25, np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(UnusableAudioError, match="not finite"):
        load(tmp_path / "huge.wav")


class TestAWavThatIsCutOff:
    """libsndfile reads the rest of it without an error."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "tone.wav"
        soundfile.write(path, tone(4.0, 16_000), 16_000, subtype="PCM_16")
        return path

    def test_is_unreadable(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:100_000])
        assert soundfile.info(path).duration == pytest.approx(3.1, abs=0.1)
        with pytest.raises(UnusableAudioError, match="unreadable"):
            load(path)

    @pytest.mark.parametrize("told", [128_000 + 44, 0x7FFFFFFF, 0xFFFFFFFF])
    def test_but_not_where_its_writer_did_not_know_the_length(self, told: int, path: Path) -> None:
        """A program that writes to a pipe does not know the length, and some count the header as sound."""
        data = bytearray(path.read_bytes())
        data[40:44] = told.to_bytes(4, "little")
        path.write_bytes(data)
        assert len(load(path)) == 64_000

    def test_with_other_chunks_before_the_sound(self, path: Path) -> None:
        data = path.read_bytes()
        data = data[:12] + b"LIST\x05\x00\x00\x00abcde\x00" + data[12:]
        path.write_bytes(data)
        assert len(load(path)) == 64_000
        path.write_bytes(data[:100_000])
        with pytest.raises(UnusableAudioError, match="unreadable"):
            load(path)


@pytest.mark.parametrize("container", CONTAINERS)
class TestEveryContainer:
    def test_is_read_to_its_end_when_it_is_whole(self, container: str, tmp_path: Path) -> None:
        path = write(tmp_path, container, tone(4.0, 16_000)[:, 0])
        assert header(path).tells_length
        assert header(path).seconds == pytest.approx(4.0, abs=0.15)
        assert len(load(path)) == pytest.approx(64_000, abs=2400)

    @pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9, 0.96])
    def test_is_unreadable_when_it_is_cut_off(self, container: str, share: float, tmp_path: Path) -> None:
        noise = np.random.default_rng(1).standard_normal(64_000) / 9
        path = write(tmp_path, container, noise)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(UnusableAudioError, match="unreadable"):
            load(path)


@pytest.mark.parametrize("kind", LENGTH_UNKNOWN)
def test_a_length_that_the_writer_did_not_know_is_found_by_decoding(kind: str, tmp_path: Path) -> None:
    sound = tone(4.0, 16_000)[:, 0].astype(np.float32)
    container, unknown = LENGTH_UNKNOWN[kind]
    path = write(tmp_path, container, sound)
    whole = load(path)
    path.write_bytes(unknown(path.read_bytes()))
    found = header(path)
    assert not found.tells_length
    assert found.seconds == pytest.approx(4.0)
    np.testing.assert_array_equal(load(path), whole)


class TestMpegAudioWithoutALength:
    """libsndfile guesses a length from the first frames, and reads no further."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        quiet_then_loud = np.concatenate(
            [np.zeros(48_000), np.random.default_rng(0).standard_normal(48_000) / 9]
        )
        path = tmp_path / "speech.mp3"
        soundfile.write(path, quiet_then_loud, 16_000, bitrate_mode="VARIABLE")
        path.write_bytes(b"".join(frames_of_mp3(path.read_bytes())[1:]))  # the first frame holds the length
        return path

    def test_is_read_to_its_end(self, path: Path) -> None:
        assert not header(path).tells_length
        assert header(path).seconds == pytest.approx(6.0, abs=0.3)
        assert len(load(path)) == pytest.approx(96_000, abs=4000)

    def test_is_unreadable_when_it_ends_within_a_frame(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-7])
        for ask in (load, duration):
            with pytest.raises(UnusableAudioError, match="unreadable"):
                ask(path)


def test_a_wav_of_no_sound_and_other_chunks_is_empty(tmp_path: Path) -> None:
    """The length 0 means unknown only where bytes follow that are no chunks."""
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros((0, 1)), 16_000)
    path.write_bytes(path.read_bytes()[:44] + b"LIST\x04\x00\x00\x00INFO")
    assert duration(path) == 0
    with pytest.raises(UnusableAudioError, match="unreadable"):
        load(path)


class TestWhatIsNoFile:
    def test_a_dangling_link_is_missing(self, tmp_path: Path) -> None:
        (tmp_path / "a.wav").symlink_to("../annex/gone")
        (tmp_path / "loop.wav").symlink_to("loop.wav")
        self.ends(tmp_path / "a.wav", "missing")
        self.ends(tmp_path / "loop.wav", "missing")

    def test_a_folder_and_a_pipe_are_unreadable(self, tmp_path: Path) -> None:
        (tmp_path / "folder.wav").mkdir()
        os.mkfifo(tmp_path / "pipe.wav")
        self.ends(tmp_path / "folder.wav", "unreadable")
        self.ends(tmp_path / "pipe.wav", "unreadable")

    def test_no_permission_is_unreadable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        soundfile.write(tmp_path / "a.wav", tone(1.0, 16_000), 16_000)

        def denied(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)  # the tests may run as root, who may read everything
        self.ends(tmp_path / "a.wav", "unreadable")

    def ends(self, path: Path, reason: str) -> None:
        for ask in (load, duration):
            with pytest.raises(UnusableAudioError) as caught:
                ask(path)
            assert caught.value.reason == reason


def test_stereo_of_opposite_phase_is_silent(tmp_path: Path) -> None:
    sound = tone(1.0, 16_000)
    soundfile.write(tmp_path / "a.wav", np.hstack([sound, -sound]), 16_000)
    assert is_silent(load(tmp_path / "a.wav"))
    soundfile.write(tmp_path / "b.wav", sound, 16_000)
    assert not is_silent(load(tmp_path / "b.wav"))
