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
from ser_memory.extract.encoding import EncoderPair, Item, encode, gather
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
def pair(folder: Path) -> EncoderPair:
    return EncoderPair(load_acoustic(str(folder / "acoustic")), load_text(str(folder / "text")))


def items(folder: Path) -> list[Item]:
    return [
        Item(str(seconds), folder / f"{seconds}.wav", f"a good day {seconds}", seconds) for seconds in SECONDS
    ]


def test_rows_are_those_of_each_item_alone_whatever_the_order(folder: Path, pair: EncoderPair) -> None:
    given = items(folder)
    pair.batch_seconds = 4.0  # several batches, of one to three items
    batches = list(encode(given, pair))
    assert [len(batch) for batch in batches] == [1, 2, 2]
    rows = gather(given, batches, pair)
    assert rows.places.tolist() == [1, 3, 2, 4, 0]  # the longest first
    assert rows.durations.tolist() == pytest.approx([SECONDS[place] for place in rows.places])
    for row, place in enumerate(rows.places):
        item = given[place]
        assert item.audio is not None
        alone = pair.acoustic.encode([load(item.audio)])
        assert relative_error(rows.acoustic[row : row + 1], alone) < EXACT
        assert relative_error(rows.text[row : row + 1], pair.text.encode([item.transcript])) < EXACT


def test_reasons_against_a_row(folder: Path, pair: EncoderPair) -> None:
    given = [
        *items(folder),
        Item("broken", folder / "broken.wav", "", 9.0),
        Item("nowhere", None, "", 1.0),
        Item("absent", folder / "absent.wav", "", 0.0),
    ]
    rows = gather(given, list(encode(given, pair, min_duration=0.6, max_duration=2.0)), pair)
    reasons = {given[place].id: reason for place, reason in rows.refused.items()}
    assert reasons == {
        "0.5": "too short",
        "3.0": "too long",
        "broken": "unreadable",
        "nowhere": "missing",
        "absent": "missing",
    }
    assert sorted(given[place].id for place in rows.places) == ["0.7", "1.2", "2.0"]


def test_nothing_to_encode(folder: Path, pair: EncoderPair) -> None:
    assert list(encode([], pair)) == []
    broken = [Item("broken", folder / "broken.wav", "", 1.0)]
    rows = gather(broken, list(encode(broken, pair)), pair)
    assert rows.refused == {0: "unreadable"}
    assert rows.acoustic.size == rows.text.size == len(rows.places) == 0


def test_one_item_that_does_not_fit_into_memory(
    folder: Path, pair: EncoderPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: list[np.ndarray]) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(pair.acoustic, "encode", full)
    with pytest.raises(SerError, match=r"3\.0 alone \(3 s\) does not fit into the memory of cpu: lower"):
        list(encode(items(folder), pair))


def test_an_error_of_another_kind_is_not_hidden(
    folder: Path, pair: EncoderPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: list[str]) -> torch.Tensor:
        raise RuntimeError("something else")

    monkeypatch.setattr(pair.text, "encode", fail)
    with pytest.raises(RuntimeError, match="something else"):
        list(encode(items(folder), pair))
