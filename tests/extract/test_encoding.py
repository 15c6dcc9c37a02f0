"""Recordings and texts -> rows, without a corpus, parts or a cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError
from ser_memory.extract.audio import load
from ser_memory.extract.encoders import EXACT, load_acoustic, load_text, relative_error
from ser_memory.extract.encoding import AcousticWorker, Item, Text, encode, encode_texts, gather, gather_texts
from tests.models import save_acoustic, save_text

SECONDS = (0.5, 3.0, 1.2, 2.0, 0.7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoding")
    save_acoustic(folder / "acoustic", "wav2vec2 with group norm")
    save_text(folder / "text")
    random = np.random.default_rng(1)
    for seconds in SECONDS:
        noise = random.standard_normal(int(seconds * SAMPLING_RATE)) * 0.1
        soundfile.write(folder / f"{seconds}.wav", noise, SAMPLING_RATE)
    (folder / "broken.wav").write_bytes(b"broken")
    return folder


@pytest.fixture
def worker(folder: Path) -> AcousticWorker:
    return AcousticWorker(load_acoustic(str(folder / "acoustic")))


def items(folder: Path) -> list[Item]:
    return [Item(str(seconds), folder / f"{seconds}.wav", seconds) for seconds in SECONDS]


def test_rows_are_those_of_each_item_alone_whatever_the_order(folder: Path, worker: AcousticWorker) -> None:
    given = items(folder)
    worker.batch_seconds = 4.0  # several batches, of one to three items
    batches = list(encode(given, worker))
    assert [len(batch) for batch in batches] == [1, 2, 2]
    rows = gather(given, batches, worker)
    assert rows.places.tolist() == [1, 3, 2, 4, 0]  # the longest first
    assert rows.durations.tolist() == pytest.approx([SECONDS[place] for place in rows.places])
    for row, place in enumerate(rows.places):
        item = given[place]
        assert item.audio is not None
        alone = worker.encoder.encode([load(item.audio)])
        assert relative_error(rows.acoustic[row : row + 1], alone) < EXACT


def test_reasons_against_a_row(folder: Path, worker: AcousticWorker) -> None:
    given = [
        *items(folder),
        Item("broken", folder / "broken.wav", 9.0),
        Item("nowhere", None, 1.0),
        Item("absent", folder / "absent.wav", 0.0),
    ]
    rows = gather(given, list(encode(given, worker, min_duration=0.6, max_duration=2.0)), worker)
    reasons = {given[place].id: reason for place, reason in rows.refused.items()}
    assert reasons == {
        "0.5": "too short",
        "3.0": "too long",
        "broken": "unreadable",
        "nowhere": "missing",
        "absent": "missing",
    }
    assert sorted(given[place].id for place in rows.places) == ["0.7", "1.2", "2.0"]


def test_nothing_to_encode(folder: Path, worker: AcousticWorker) -> None:
    assert list(encode([], worker)) == []
    broken = [Item("broken", folder / "broken.wav", 1.0)]
    rows = gather(broken, list(encode(broken, worker)), worker)
    assert rows.refused == {0: "unreadable"}
    assert rows.acoustic.size == len(rows.places) == 0


def test_one_item_that_does_not_fit_into_memory(
    folder: Path, worker: AcousticWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: list[np.ndarray]) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(worker.encoder, "encode", full)
    with pytest.raises(SerError, match=r"3\.0 alone \(3 s\) does not fit into the memory of cpu: lower"):
        list(encode(items(folder), worker))


def test_an_error_of_another_kind_is_not_hidden(
    folder: Path, worker: AcousticWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: list[np.ndarray]) -> torch.Tensor:
        raise RuntimeError("something else")

    monkeypatch.setattr(worker.encoder, "encode", fail)
    with pytest.raises(RuntimeError, match="something else"):
        list(encode(items(folder), worker))


def test_on_a_cpu_a_row_is_the_same_to_the_bit_whatever_is_encoded_with_it(
    folder: Path, worker: AcousticWorker
) -> None:
    """Rows of one extraction are reused in another, which has other recordings and texts."""
    given = items(folder)
    together = gather(given, list(encode(given, worker)), worker)
    for row, place in enumerate(together.places):
        alone = gather([given[place]], list(encode([given[place]], worker)), worker)
        np.testing.assert_array_equal(together.acoustic[row : row + 1], alone.acoustic)
    texts = [Text(str(i), "a good day " * i) for i in (1, 4, 0, 2)]
    encoder = load_text(str(folder / "text"))
    rows = gather_texts(texts, list(encode_texts(texts, encoder)))
    for row, text in zip(rows, texts, strict=True):
        np.testing.assert_array_equal(row, encoder.encode([text.text])[0].numpy())
