"""Overwriting that is killed again and again leaves a whole cache, the old one or the new one."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time

from tests.extract.test_reuse import Clinic, clinic, text

assert clinic  # the fixtures
assert text


def test_killed_at_any_moment_there_is_the_old_cache_or_the_new_one(clinic: Clinic) -> None:
    """SIGKILL during reuse, many times; then the same command completes it."""
    path = clinic.root / "cache/clinic.h5"
    old = path.read_bytes()
    for i in range(6):
        clinic.add(f"m{i}", 60 + i)
    clinic.table["r03"]["activation"] = "4.75"
    clinic.table["r04"]["transcript"] = "not so lovely"
    new = clinic.extract("new").path.read_bytes()
    chance = random.Random(5)
    start = time.monotonic()
    clinic.extract("cache", overwrite=True)
    takes = time.monotonic() - start
    assert path.read_bytes() == new
    ended = {"old": 0, "new": 0}
    for _ in range(12):
        path.write_bytes(old)
        process = multiprocessing.get_context("fork").Process(target=_overwrite, args=(clinic,))
        process.start()
        time.sleep(chance.uniform(0.0, 1.2 * takes))
        assert process.pid is not None
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        now = path.read_bytes()
        assert now in (old, new)
        ended["old" if now == old else "new"] += 1
        assert clinic.extract(overwrite=True).path.read_bytes() == new
    print(f"killed {sum(ended.values())} times: {ended}")
    assert ended["old"]
    leftovers = [each.name for each in path.parent.iterdir() if not each.name.endswith(".partial")]
    assert sorted(leftovers) == [".clinic.lock", "clinic.h5"]


def _overwrite(clinic: Clinic) -> None:
    clinic.extract(overwrite=True)
