"""Caches as tensors, samples addressed together, and the orders they are gone through in."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ser_memory.common.cache import EMBEDDINGS, FeatureCache
from ser_memory.train import corpora as train_corpora
from ser_memory.train import samples as rows
from ser_memory.train.corpora import Source, load_corpora, source_of
from ser_memory.train.samples import Pool
from ser_memory.train.settings import DataSettings
from tests.train.worlds import ACOUSTIC_WIDTH, TEXT_WIDTH, samples, write_caches


def test_splits_are_the_rows_of_the_cache(tmp_path: Path) -> None:
    write_caches(tmp_path)
    (corpus,) = load_corpora(Source(tmp_path, ("iemocap",)))
    with h5py.File(tmp_path / "iemocap.h5") as file:
        split = file["split"].asstr()[:]
        for name, made in corpus.splits.items():
            batch = made.batch(torch.arange(len(made)))
            np.testing.assert_array_equal(batch.acoustic.numpy(), file["acoustic"][:][split == name])
            np.testing.assert_array_equal(batch.text.numpy(), file["text"][:][split == name])
            ratings = np.stack([file["activation"][:], file["valence"][:]], axis=1)[split == name]
            np.testing.assert_allclose(batch.targets.numpy(), (ratings - 1) / 2 - 1, atol=1e-6)
            speakers = file["speaker"].asstr()[:][split == name]
            named = [corpus.speakers[code] if code >= 0 else "Unknown" for code in made.speakers]
            assert named == speakers.tolist()


def test_embeddings_are_mapped_and_another_programs_cache_is_read(tmp_path: Path) -> None:
    write_caches(tmp_path)
    mapped = FeatureCache(tmp_path / "iemocap.h5").mapped("acoustic")
    assert isinstance(mapped, np.memmap)
    before = mapped.copy()
    with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
        for name in EMBEDDINGS:
            values = file[name][:]
            del file[name]
            file.create_dataset(name, data=values, chunks=(7, 3), compression="gzip")
    read = FeatureCache(tmp_path / "iemocap.h5").mapped("acoustic")
    np.testing.assert_array_equal(read, before)


@pytest.mark.parametrize(("layer", "times"), [("9", 1), ("7", 1), ("weighted", 2)])
def test_a_cache_is_sized_by_the_layers_that_are_read(
    layer: str,
    times: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise one layer would be streamed, and give other results than a cache of that layer."""
    write_caches(tmp_path, acoustic_layers="7,9")
    rows = 60 + 20 + 25
    size = 4 * rows * (times * ACOUSTIC_WIDTH + TEXT_WIDTH)
    data = DataSettings(("iemocap",), tmp_path, layer=layer)
    for room, streamed in ((size, False), (size - 1, True)):
        monkeypatch.setattr(train_corpora, "memory", lambda room=room: room)
        assert source_of(data, "cpu", memory_share=1.0).streamed == streamed
    assert "are read from the disk in shuffled blocks" in capsys.readouterr().err


def test_a_digest_tells_what_changed(tmp_path: Path) -> None:
    write_caches(tmp_path)

    def digest(**changes: object) -> str:
        return load_corpora(Source(tmp_path, ("iemocap",), **changes))[0].digest  # type: ignore[arg-type]

    before = digest()
    assert digest() == before
    assert digest(label_scale="observed") != before
    for column, row in (("acoustic", 3), ("text", 0), ("valence", 9)):
        with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
            old = file[column][row]
            file[column][row] = old * 0.5
        assert digest() != before, column
        with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
            file[column][row] = old
    assert digest() == before


def test_a_pool_is_its_parts_one_after_the_other() -> None:
    """Each run of a stack has its own share of a memory, and the common corpus whole."""
    common, memory, other = samples(10, 0), samples(3 * 4, 1), samples(3 * 2, 2)
    pool = Pool(common, [memory, other], runs=3)
    assert len(pool) == 10 + 4 + 2
    index = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    batch = pool.batch(index)
    for run in range(3):
        own = [
            common,
            memory.select(torch.arange(4 * run, 4 * run + 4)),
            other.select(torch.arange(2 * run, 2 * run + 2)),
        ]
        expected = rows.Samples.concatenate(own).batch(index[run])
        for ours, theirs in zip(batch, expected, strict=True):
            assert torch.equal(ours[run], theirs)


def test_whole_corpora_are_shared_by_all_runs() -> None:
    first, second = samples(10, 0), samples(6, 1)
    index = torch.tensor([[0, 12, 15], [9, 10, 12]])
    batch = Pool(first, [second], runs=2, owned=False).batch(index)
    expected = rows.Samples.concatenate([first, second])
    for run in range(2):
        assert torch.equal(batch.targets[run], expected.targets[index[run]])


@pytest.mark.parametrize("n", [1, 255, 256, 5000, 40_000])
def test_streamed_orders_are_permutations_that_stay_near(n: int) -> None:
    order = rows._shuffled(n, True, np.random.default_rng(0))
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, rows._shuffled(n, True, np.random.default_rng(0)))
    assert n == 1 or not np.array_equal(order, np.arange(n))
    for start in range(0, n, rows.WINDOW):  # a window is of few blocks, each read as a whole
        window = order[start : start + rows.WINDOW]
        assert len(np.unique(window // rows._BLOCK)) <= rows.WINDOW // rows._BLOCK + 1
