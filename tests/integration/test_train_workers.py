"""ser-train --worker as real processes: whoever is killed, the results are those of one process, to the byte."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ser_memory.common.claims import Claims
from tests.train.test_cli import caches, quick, run

assert caches  # the fixture
FILES = ("results.csv", "memory.csv", "epochs.csv", "predictions.h5")
EPOCHS = 60
TRAINING = [
    "--seeds",
    2,
    "--strategy",
    "finetune",
    "--strategy",
    "gem",
    "--epochs",
    EPOCHS,
    "--patience",
    EPOCHS,
]
STAGES = 2 * (1 + 2 * 2)
NAMESPACES = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")  # each sees itself as process 1


class Folder:
    """A folder that workers share, and what is seen of their work."""

    def __init__(self, caches: Path, path: Path, timeout: float = 10) -> None:
        self.output, self.store = path / "run", path / "trained"
        self._options = ["--cache", caches, "--output", self.output, "--trained", self.store]
        self._sharing = ["--worker", "--claim-timeout", timeout]
        self.written: dict[str, int] = {}  # stage -> when it was written first

    def start(
        self, before: Sequence[str] = (), training: Sequence[object] = TRAINING, alone: bool = False
    ) -> subprocess.Popen[str]:
        """A worker, or a process that works alone; `before` comes before its command."""
        options = [*self._options, *training, *([] if alone else self._sharing)]
        command = [sys.executable, "-m", "ser_memory.train.cli", *quick(*options)]
        return subprocess.Popen(
            [*before, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_for(self, stages: int, going: Callable[[], bool] = lambda: True) -> None:
        """Until so many stages are finished."""
        deadline = time.monotonic() + 240
        while going() and len(self.look()) < stages:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def look(self) -> dict[str, int]:
        """When each stage was written; asserts that none is written again."""
        now = {path.name: path.stat().st_mtime_ns for path in self.store.glob("*.safetensors")}
        assert all(now[name] == when for name, when in self.written.items())
        self.written = now
        return now

    def claims_without_end(self) -> int:
        """Tasks that were claimed and not finished by whoever claimed them."""
        texts = [path.read_text() for path in (self.output / ".claims").rglob("*-seed-*")]
        return sum("\n" not in text for text in texts) - sum("\n" in text for text in texts)


@pytest.fixture(scope="module")
def whole(caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("whole")
    result = run("--cache", caches, *TRAINING, "--output", folder)
    assert result.exit_code == 0, result.output
    return folder


@contextmanager
def observed(output: Path) -> Iterator[None]:
    """As long as it is there, the claims are not removed."""
    with Claims(output / ".claims", timeout=10):
        yield


def kill(process: subprocess.Popen[str]) -> bool:
    """Whether it was alive until then."""
    was_there = process.poll() is None
    process.kill()
    process.communicate()
    return was_there


@pytest.mark.parametrize(
    ("seed", "before"), [(0, ()), (1, ()), (2, NAMESPACES), (3, NAMESPACES)], ids=lambda each: str(each)[:12]
)
def test_two_of_three_are_killed_at_any_moment(
    seed: int, before: tuple[str, ...], caches: Path, whole: Path, tmp_path: Path
) -> None:
    if before and (not shutil.which(before[0]) or subprocess.run([*before, "true"], check=False).returncode):
        pytest.skip("no namespaces of process ids are allowed here")
    chance, folder = random.Random(seed), Folder(caches, tmp_path)
    with observed(folder.output):
        workers = [folder.start(before=before) for _ in range(3)]
        kills = 0
        for _ in range(2):
            folder.wait_for(
                chance.randint(1, STAGES - 2), lambda: any(each.poll() is None for each in workers)
            )
            time.sleep(chance.uniform(0, 1))
            folder.look()
            kills += kill(workers.pop(chance.randrange(len(workers))))
        folder.wait_for(STAGES)
        printed, errors = workers[0].communicate(timeout=240)
        assert workers[0].returncode == 0, errors
        folder.look()
        assert folder.claims_without_end() <= kills
    assert len(folder.written) == STAGES
    for name in FILES:
        assert (folder.output / name).read_bytes() == (whole / name).read_bytes()
    assert "Traceback" not in errors
    assert f"All figures: {folder.output / 'results.csv'}" in printed


def test_all_workers_end_alike_and_leave_nothing(caches: Path, whole: Path, tmp_path: Path) -> None:
    folder = Folder(caches, tmp_path)
    workers = [folder.start() for _ in range(3)]
    ends = [(*worker.communicate(timeout=240), worker.returncode) for worker in workers]
    assert {code for *_, code in ends} == {0}, ends
    assert len({printed for printed, *_ in ends}) == 1
    assert {path.suffix for path in folder.store.iterdir()} == {".safetensors", ".figures"}
    for name in FILES:
        assert (folder.output / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(path.name for path in folder.output.iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )


def test_a_full_disk_or_a_missing_cache_ends_one_worker_only(
    caches: Path, whole: Path, tmp_path: Path
) -> None:
    folder = Folder(caches, tmp_path)
    full = folder.start(before=["prlimit", "--fsize=300000"])  # a finished stage is larger
    absent = Folder(tmp_path / "nothing", tmp_path).start()
    _, errors = full.communicate(timeout=240)
    assert full.returncode == 1
    assert f"Error: Finished stages cannot be kept in {folder.store} (File too large)." in errors
    _, errors = absent.communicate(timeout=240)
    assert absent.returncode == 1
    assert f"Error: There is no cache of msp-podcast, msp-improv, iemocap in {tmp_path}/nothing" in errors
    other = folder.start()
    _, errors = other.communicate(timeout=240)
    assert other.returncode == 0, errors
    for name in FILES:
        assert (folder.output / name).read_bytes() == (whole / name).read_bytes()


def test_a_worker_that_is_stopped_leaves_its_task_to_the_others(
    caches: Path, whole: Path, tmp_path: Path
) -> None:
    folder = Folder(caches, tmp_path, timeout=600)
    first, second = folder.start(), folder.start()
    folder.wait_for(1)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=240)
    assert first.returncode == 128 + signal.SIGTERM, errors
    assert f"Error: Stopped by SIGTERM: what was trained is kept in {folder.store}." in errors
    _, errors = second.communicate(timeout=240)  # long before the timeout
    assert second.returncode == 0, errors
    for name in FILES:
        assert (folder.output / name).read_bytes() == (whole / name).read_bytes()
    assert not (folder.output / ".claims").exists()


def test_the_results_of_a_worker_that_is_killed_over_them_are_written_by_another(
    caches: Path, whole: Path, tmp_path: Path
) -> None:
    folder = Folder(caches, tmp_path)
    first = folder.start()
    while not any(folder.output.glob(".claims/*/results.1")) and first.poll() is None:
        time.sleep(0.001)
    assert kill(first)
    second = folder.start()
    _, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    for name in FILES:
        assert (folder.output / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((folder.output / "config.json").read_text())["complete"] is True
    assert not (folder.output / ".claims").exists()


MORE = ["--seeds", 3, *TRAINING[2:]]


@pytest.mark.parametrize(
    ("training", "alone"),
    [(TRAINING, False), (MORE, False), (MORE, True)],
    ids=["same command", "one seed more", "one seed more, without --worker"],
)
def test_after_all_were_killed_the_work_goes_on(
    training: list[object], alone: bool, caches: Path, tmp_path: Path
) -> None:
    folder = Folder(caches, tmp_path, timeout=5)
    workers = [folder.start(), folder.start()]
    folder.wait_for(2)
    for worker in workers:
        assert kill(worker)
    folder.look()
    assert (folder.output / ".claims").exists()
    workers = [folder.start(training=training, alone=alone) for _ in range(1 if alone else 2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors
        assert ("has claims on other work" in errors) == (training is MORE)
    folder.look()
    assert not (folder.output / ".claims").exists()
    assert run("--cache", caches, *training, "--output", tmp_path / "whole").exit_code == 0
    for name in FILES:
        assert (folder.output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
