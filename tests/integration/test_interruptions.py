"""An extraction that is killed again and again, or run twice at once, loses nothing and mixes nothing."""

from __future__ import annotations

import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from ser_memory.common.errors import SerError
from tests.extract.test_interruptions import Life, extract, parts, unbroken, wait_until, world

assert unbroken  # the fixtures
assert world


def test_killed_at_random_moments_of_one_extraction(world: Path, unbroken: bytes, tmp_path: Path) -> None:
    """SIGKILL, many times; finished parts are never lost, changed or made twice."""
    chance = random.Random(8)
    cache = tmp_path / "cache"
    kept: dict[str, bytes] = {}
    for _ in range(20):
        life = Life(world, cache, pause=0.2)
        if chance.random() < 1 / 3:  # so that the extraction advances, every third life finishes something
            wait_until(partial(_more_than, cache, len(kept)), life)
        time.sleep(chance.uniform(0.0, 0.3))
        assert life.running, "it was over before it could be killed"
        assert life.end(signal.SIGKILL) == -signal.SIGKILL
        assert not (cache / "own.h5").exists()
        now = parts(cache)
        assert kept.items() <= now.items()
        kept = now
    assert extract(world, cache).path.read_bytes() == unbroken
    assert sorted(item.name for item in cache.iterdir()) == [".own.lock", "own.h5"]


def test_two_at_once(world: Path, unbroken: bytes, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = Life(world, cache, pause=0.1)
    wait_until(lambda: len(parts(cache)) >= 1, first)
    with pytest.raises(SerError, match="Another ser-extract is writing"):
        extract(world, cache)
    assert first.end() == 0
    assert (cache / "own.h5").read_bytes() == unbroken


def test_fresh_continues_from_its_own_parts_and_uses_no_older_row(
    world: Path, unbroken: bytes, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    life = Life(world, cache, pause=0.1)
    wait_until(lambda: len(parts(cache)) >= 3, life)
    life.end(signal.SIGKILL)
    older = len(parts(cache))
    (cache / "own.h5").write_bytes(unbroken)
    life = Life(world, cache, pause=0.1, fresh=True)
    wait_until(lambda: len(parts(cache)) >= older + 3, life)
    life.end(signal.SIGKILL)
    assert "reused" not in life.said
    assert (cache / "own.h5").read_bytes() == unbroken
    begun = {path: path.stat().st_mtime_ns for path in cache.glob("own.parts/*/fresh/*")}
    whole = [path for path in begun if path.suffix == ".safetensors"]
    life = Life(world, cache, pause=0.1, fresh=True)
    wait_until(lambda: len(parts(cache)) > older + len(whole), life)
    life.end(signal.SIGKILL)
    assert {path: path.stat().st_mtime_ns for path in whole} == {path: begun[path] for path in whole}
    assert f"Continuing: {len(whole)} finished parts are in {whole[0].parent}." in life.said
    life = Life(world, cache, pause=0, fresh=True)
    assert life.end() == 0
    assert (cache / "own.h5").read_bytes() == unbroken
    assert sorted(item.name for item in cache.iterdir()) == [".own.lock", "own.h5"]
    # With no parts left, everything is computed again.
    life = Life(world, cache, pause=0, fresh=True)
    wait_until(lambda: len(parts(cache)) > 0, life)
    assert life.end() == 0
    assert "Continuing" not in life.said
    assert (cache / "own.h5").read_bytes() == unbroken


def _more_than(cache: Path, kept: int) -> bool:
    return len(parts(cache)) > kept
