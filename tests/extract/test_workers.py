"""Workers that make one cache together: killed, stopped, late, on disks without locks, and beside other work."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ser_memory.common.claims import Claims
from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract import api
from ser_memory.extract.parts import Parts, sole_writer
from ser_memory.extract.rows import Known
from ser_memory.extract.settings import ExtractionSettings
from ser_memory.extract.sharing import Share, claims_folder, complete_together
from tests.extract.test_interruptions import TURNS, Life, extract, parts, unbroken, wait_until, world

assert world
assert unbroken  # fixtures


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder for the cache, which workers do not make."""
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The recordings and texts in the parts that this process writes."""
    counts: Counter[str] = Counter()
    write = Parts._write

    def counting(self: Parts, tensors: dict[str, Any], told: dict[str, Any]) -> str:
        counts.update(told.get("recordings", told.get("transcripts")))
        return write(self, tensors, told)

    monkeypatch.setattr(Parts, "_write", counting)
    return counts


def test_one_killed_one_stopped_and_one_that_comes_late(
    world: Path, unbroken: bytes, cache: Path, written: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    killed, stopped = (Life(world, cache, pause=0.05, worker=True) for _ in range(2))
    wait_until(lambda: len(parts(cache)) >= 4, killed)
    assert killed.end(signal.SIGKILL) == -signal.SIGKILL
    assert stopped.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "Stopped as asked: " in stopped.said
    done = len(parts(cache))
    heard = len(list(cache.glob("own.parts/**/part-*.safetensors")))
    assert extract(world, cache, worker=True).path.read_bytes() == unbroken
    assert f"Continuing: {done} finished parts are in " in (said := capsys.readouterr().err)
    assert f"{heard} rows are reused" in said
    assert max(written.values()) == 1
    assert len(written) <= 2 * (TURNS - 1) - done
    assert sorted(item.name for item in cache.iterdir()) == [".own.lock", "own.h5"]
    # Who comes when all is done has nothing to do, also if it may replace the cache.
    for overwrite in (False, True):
        before = (cache / "own.h5").stat().st_ino
        assert extract(world, cache, worker=True, overwrite=overwrite).path.read_bytes() == unbroken
        assert (cache / "own.h5").stat().st_ino == before


def test_what_others_made_is_found_by_name(
    world: Path, unbroken: bytes, cache: Path, written: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulation of a shared folder that lists nothing of what others wrote."""
    other = Life(world, cache, pause=0.05, worker=True)
    wait_until(lambda: len(parts(cache)) >= 4, other)
    assert other.end(signal.SIGTERM) == 128 + signal.SIGTERM
    done = len(parts(cache))
    rglob = Path.rglob
    monkeypatch.setattr(
        Path, "rglob", lambda path, pattern: [] if pattern.startswith("part-") else rglob(path, pattern)
    )
    assert extract(world, cache, worker=True).path.read_bytes() == unbroken
    assert max(written.values()) == 1
    assert len(written) <= 2 * (TURNS - 1) - done


def test_a_part_that_is_damaged_later_is_made_again(
    world: Path, unbroken: bytes, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Life(world, cache, pause=0.05, worker=True)
    wait_until(lambda: len(parts(cache)) >= 3, other)
    assert other.end(signal.SIGTERM) == 128 + signal.SIGTERM
    damaged, lost = sorted(cache.glob("own.parts/**/*.safetensors"))[:2]
    damaged.write_bytes(damaged.read_bytes()[:100])
    lost.unlink()
    assert extract(world, cache, worker=True).path.read_bytes() == unbroken
    assert f"{damaged} is damaged and will be made again." in capsys.readouterr().err


def test_it_works_where_there_are_no_locks(
    world: Path, unbroken: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulation: the call for a lock fails as it does on such a disk."""

    def fails(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fails)
    assert extract(world, tmp_path, worker=True).path.read_bytes() == unbroken


def test_a_worker_and_an_extraction_that_is_none(world: Path, tmp_path: Path) -> None:
    for first in (False, True):
        cache = tmp_path / str(first)
        cache.mkdir()
        with sole_writer(cache / "own.h5", several=first):
            with pytest.raises(SerError, match="Another ser-extract is writing"):
                extract(world, cache, worker=not first)
            if first:
                with sole_writer(cache / "own.h5", several=True):
                    pass  # there may be any number


def test_an_extraction_continues_and_removes_what_workers_left(
    world: Path, unbroken: bytes, cache: Path, written: Counter[str]
) -> None:
    life = Life(world, cache, pause=0.05, worker=True)
    wait_until(lambda: len(parts(cache)) >= 3, life)
    life.end(signal.SIGKILL)
    done = len(parts(cache))
    assert extract(world, cache).path.read_bytes() == unbroken
    assert len(written) <= 2 * (TURNS - 1) - done
    assert sorted(item.name for item in (cache).iterdir()) == [".own.lock", "own.h5"]


def test_other_work_follows_killed_workers(world: Path, unbroken: bytes, cache: Path) -> None:
    life = Life(world, cache, pause=0.05, worker=True)
    wait_until(lambda: len(parts(cache)) >= 3, life)
    life.end(signal.SIGKILL)
    assert len(extract(world, cache, worker=True, limit=4)) == 4
    assert sorted(item.name for item in cache.iterdir()) == [".own.lock", "own.h5", "own.parts"]
    (cache / "own.h5").unlink()
    assert extract(world, cache, worker=True).path.read_bytes() == unbroken


def test_an_extraction_alone_is_refused_while_a_worker_lives(world: Path, cache: Path) -> None:
    """Where the disk has locks for each host only."""
    with (
        Claims(claims_folder(cache / "own.h5"), 1).on("other", SerError("")),
        pytest.raises(SerError, match=r"Workers make .*own\.h5: wait for them, or give another --cache\."),
    ):
        extract(world, cache)


def test_workers_on_other_work_are_refused(world: Path, unbroken: bytes, tmp_path: Path) -> None:
    life = Life(world, tmp_path, pause=0.05, worker=True)
    wait_until(lambda: len(parts(tmp_path)) >= 1, life)
    with pytest.raises(SerError, match=r"Workers make another cache in .*\.own\.claims: .* the same command"):
        extract(world, tmp_path, worker=True, limit=4)
    assert life.end() == 0
    assert (tmp_path / "own.h5").read_bytes() == unbroken


def test_a_worker_whose_claims_were_removed_meanwhile(world: Path, unbroken: bytes, cache: Path) -> None:
    """The others took it for dead, finished without it and cleaned up."""
    life = Life(world, cache, pause=0.1, worker=True)
    wait_until(lambda: len(parts(cache)) >= 1, life)
    (cache / "own.h5").write_bytes(unbroken)
    shutil.rmtree(claims_folder(cache / "own.h5"))
    assert life.end() == 0, life.said
    assert (cache / "own.h5").read_bytes() == unbroken
    assert sorted(item.name for item in (cache).iterdir()) == [".own.lock", "own.h5"]


def test_a_worker_that_slept_leaves_what_others_have_there(cache: Path) -> None:
    """The cache that it has made is there, and others are at work on another one: it does not clean up."""
    claims = Claims(claims_folder(cache / "own.h5"))
    other = Claims(claims.folder).on("other", SerError(""))
    made = []

    def compute(share: Share) -> Known:
        del share
        shutil.rmtree(claims.folder)
        other.__enter__()
        made.append(True)
        return Known(())

    parts = Parts(cache / "own.h5", {}, (0.0, 30.0))
    assert not complete_together(claims, "this", parts, lambda: bool(made), compute, lambda _: None)
    assert other.take("x")
    other.leave()


def test_a_worker_that_does_not_see_the_folder(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"The folder .*elsewhere does not exist on this host"):
        extract(world, tmp_path / "elsewhere", worker=True)
    assert not (tmp_path / "elsewhere").exists()


def test_a_cache_that_somebody_removed_while_its_claims_stayed(world: Path, cache: Path) -> None:
    with sole_writer(cache / "own.h5", several=True), Claims(claims_folder(cache / "own.h5"), 1.0):
        extract(world, cache, worker=True)
    (cache / "own.h5").unlink()
    with pytest.raises(SerError, match=r"own.h5 was made and then removed.*own\.claims was not"):
        extract(world, cache, worker=True)
    assert len(extract(world, cache, worker=True)) == TURNS - 1


def test_options_that_do_not_go_with_it() -> None:
    with pytest.raises(UsageError, match="--fresh computes every row again"):
        ExtractionSettings(worker=True, fresh=True)
    with pytest.raises(UsageError, match="--claim-timeout 5 has no effect without --worker"):
        ExtractionSettings(claim_timeout=5)


def test_workers_do_not_transcribe(world: Path, tmp_path: Path) -> None:
    """What no engine could transcribe is no work: the broken recording has no transcript either."""
    options: dict[str, Any] = {
        "worker": True,
        "transcriber": "whisper",
        "min_duration": 0,
        "acoustic_encoder": "log-mel",
    }
    with pytest.raises(
        SerError, match=r"59 recordings have no transcript of whisper yet \(000, .*ser-transcribe"
    ):
        api.extract(
            world / "own.toml", root=world, cache=tmp_path, text_encoder=str(world / "text"), **options
        )
