"""Any recordings -> rows: those of an extraction, and those of the windows of a long recording."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract.audio import load
from ser_memory.extract.encoders import EXACT, load_acoustic, relative_error
from ser_memory.extract.encoding import AcousticWorker, Item, encode, gather
from ser_memory.extract.recordings import Bounds, Encoded, Recording, encode_windows, stated_seconds
from tests.models import save_acoustic

BOUNDS = Bounds(1.0, 2.0)
SECONDS = {"a.wav": 0.5, "b.flac": 2.0, "c.wav": 1.2, "long.wav": 7.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    save_acoustic(folder / "acoustic", "wav2vec2 with group norm")
    for seed, (name, seconds) in enumerate(SECONDS.items()):
        noise = np.random.default_rng(seed).normal(0, 0.1, int(seconds * SAMPLING_RATE))
        soundfile.write(folder / name, noise, SAMPLING_RATE)
    (folder / "broken.wav").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def worker(folder: Path) -> AcousticWorker:
    return AcousticWorker(load_acoustic(str(folder / "acoustic")))


def encoded(
    sounds: Sequence[Path | np.ndarray], worker: AcousticWorker, workers: int = 2
) -> list[Encoded | str]:
    recordings = [Recording(str(number), sound) for number, sound in enumerate(sounds)]
    seconds = [stated_seconds(recording) for recording in recordings]
    return encode_windows(recordings, seconds, BOUNDS, [worker] * workers, lambda _: None)


def test_short_recordings_have_the_rows_of_an_extraction_to_the_bit(
    folder: Path, worker: AcousticWorker
) -> None:
    names = [name for name, seconds in SECONDS.items() if seconds <= BOUNDS.longest]
    items = [Item(name, folder / name, SECONDS[name]) for name in names]
    rows = gather(items, list(encode(items, worker)), worker)
    made = encoded([folder / name for name in names], worker)
    for place, row, seconds in zip(rows.places, rows.acoustic, rows.durations, strict=True):
        one = made[place]
        assert isinstance(one, Encoded)
        np.testing.assert_array_equal(one.acoustic, row[None])
        assert one.windows[0].start == 0
        assert one.seconds == pytest.approx(seconds)


@pytest.mark.parametrize("batch_seconds", [0.0, 7.0])
def test_a_long_recording_has_the_rows_of_its_windows_alone(
    folder: Path, worker: AcousticWorker, batch_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "batch_seconds", batch_seconds)
    (one,) = encoded([folder / "long.wav"], worker)
    assert isinstance(one, Encoded)
    whole = load(folder / "long.wav")
    assert one.windows[0].start == 0
    assert one.seconds == pytest.approx(7.3)
    for window, after in zip(one.windows, one.windows[1:], strict=False):
        assert window.end == after.start
    for window, row in zip(one.windows, one.acoustic, strict=True):
        assert BOUNDS.shortest <= window.end - window.start <= BOUNDS.longest
        part = whole[round(window.start * SAMPLING_RATE) : round(window.end * SAMPLING_RATE)]
        assert relative_error(row[None], worker.encoder.encode([part])) < EXACT


def test_reasons_come_back_in_place(folder: Path, worker: AcousticWorker) -> None:
    tiny, loud = np.full(100, 0.1, np.float32), np.ones(16_000, np.float32)
    faint = np.full(16_000, 1e-5, np.float32)
    sounds: list[Path | np.ndarray] = [
        folder / "absent.wav",
        folder / "broken.wav",
        tiny,
        folder / "a.wav",
        loud,
        faint,
    ]
    made = encoded(sounds, worker)
    assert made[:3] == ["missing", "unreadable", "too short"]
    windows = [one.windows[0] for one in made[3:] if isinstance(one, Encoded)]
    assert [window.clipped for window in windows] == [False, True, False]
    assert [window.near_silent for window in windows] == [False, False, True]


def test_a_file_that_is_longer_than_it_states_is_cut(folder: Path, worker: AcousticWorker) -> None:
    """As MPEG audio can be, of which only the sound itself gives the length."""
    recording = Recording("long", folder / "long.wav")
    (stated, wrong) = (
        encode_windows([recording], [seconds], BOUNDS, [worker], lambda _: None)[0] for seconds in (7.3, 1.5)
    )
    assert isinstance(stated, Encoded)
    assert isinstance(wrong, Encoded)
    np.testing.assert_array_equal(wrong.acoustic, stated.acoustic)
