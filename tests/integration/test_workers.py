"""ser-extract --worker as real processes that are killed: one cache, the same as one process makes, nothing done twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ser_memory.common.claims import Claims
from ser_memory.extract.sharing import claims_folder
from tests.models import save_acoustic, save_text
from tests.recordings import write_noises

RECORDINGS, TIMEOUT = 240, 10.0
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def in_namespaces() -> bool:
    """Whether each process may have a PID namespace of its own here, as containers do: all are process 1."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[list[Path]]:
    """A folder as three hosts see it that for five seconds do not look for a file again that did not exist.

    A simulation of NFS: three mounts of the same folder by bindfs, each with a cache of its own in the kernel.
    """
    real, seen = tmp_path / "real", [tmp_path / f"host{number}" for number in range(3)]
    caching = "negative_timeout=5,entry_timeout=5,attr_timeout=0"
    for folder in (real, *seen):
        folder.mkdir()
    mounted: list[Path] = []
    try:
        for folder in seen:
            command = ["bindfs", "-o", caching, str(real), str(folder)]
            if shutil.which("bindfs") is None or subprocess.run(command, check=False).returncode:
                pytest.skip("bindfs is not there, or may not mount here")
            mounted.append(folder)
        yield seen
    finally:
        for folder in mounted:
            subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    save_acoustic(folder / "acoustic", "wav2vec2 with group norm")
    save_text(folder / "text")
    texts = {f"n{i:02d}": f"a good day {i}" for i in range(RECORDINGS)}
    recordings = write_noises(folder / "release", RECORDINGS, texts)
    recordings["n07"].write_bytes(b"broken")
    return folder


def start(
    world: Path, cache: Path, *options: str, before: list[str] | None = None, workers: int | None = 1
) -> subprocess.Popen[str]:
    command = [
        *(before or []), sys.executable, "-m", "ser_memory.extract.cli", "--corpus", str(world / "release/noises.toml"),
        "--root", str(world / "release"), "--cache", str(cache), "--acoustic-encoder", str(world / "acoustic"),
        "--text-encoder", str(world / "text"), "--device", "cpu", *options,
    ]  # fmt: skip
    if workers is not None:
        command += ["--workers", str(workers)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def start_worker(world: Path, cache: Path, before: list[str]) -> subprocess.Popen[str]:
    return start(world, cache, "--worker", "--claim-timeout", f"{TIMEOUT:g}", before=before)


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode != 0


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    """The cache that one process makes, and what it prints about it."""
    cache = tmp_path_factory.mktemp("whole")
    said, errors = (process := start(world, cache)).communicate(timeout=120)
    assert process.returncode == 0, errors
    return (cache / "noises.h5").read_bytes(), said.replace(str(cache), "CACHE")


def finished(cache: Path) -> int:
    return len(list(cache.glob("noises.parts/**/part-*.safetensors")))


def claims_made_anew(folder: Path) -> list[str]:
    """The workers that had claimed what another claimed later; also checks that each piece was finished once."""
    alive = {path.stem: path.read_text() for path in folder.glob("*.alive")}
    lost: list[str] = []
    for first in folder.rglob("*.1"):
        entries, number = [], 1
        while (path := first.with_suffix(f".{number}")).exists():
            entries.append(path.read_text())
            number += 1
        *claims, done = entries
        assert "\n" in done
        assert not any("\n" in claim for claim in claims)
        assert done.splitlines()[0] == claims[-1]
        lost += claims[:-1]
    # One that was killed over its claim has left it without an id.
    assert all(alive[worker] != "gone" for worker in lost if worker), (
        "only a killed worker's piece is claimed anew"
    )
    return lost


@pytest.mark.parametrize("namespaces", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_two_of_three_are_killed(
    world: Path, whole: tuple[bytes, str], tmp_path: Path, seed: int, namespaces: bool
) -> None:
    if namespaces and not in_namespaces():
        pytest.skip("PID namespaces are not permitted here")
    chance, cache = random.Random(seed), tmp_path / "cache"
    before = NAMESPACE if namespaces else []
    # One that claims nothing is there all the time, so that the last of the others does not clean up.
    with Claims(claims_folder(cache / "noises.h5"), TIMEOUT) as witness:
        processes = [start_worker(world, cache, before) for _ in range(3)]
        deadline = time.monotonic() + 120
        for target in sorted(chance.sample(range(1, 18), 2)):
            while finished(cache) < target:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.2))
            kill(processes.pop(chance.randrange(len(processes))))
        assert not (cache / "noises.h5").exists(), "the end came before the second kill"
        said, errors = processes[0].communicate(timeout=120)
        assert processes[0].returncode == 0, errors
        assert (cache / "noises.h5").read_bytes() == whole[0]
        assert said.replace(str(cache), "CACHE") == whole[1]
        assert len(claims_made_anew(witness.folder)) <= 2
    assert witness.is_last()


@pytest.mark.parametrize("kills", [0, 2])
def test_hosts_that_see_files_late(
    world: Path, whole: tuple[bytes, str], mounts: list[Path], kills: int
) -> None:
    chance, real = random.Random(4), mounts[0].parent / "real"
    with Claims(claims_folder(real / "noises.h5"), TIMEOUT) as witness:
        processes = [start_worker(world, cache, []) for cache in mounts]
        deadline = time.monotonic() + 120
        for target in (4, 10)[:kills]:
            while finished(real) < target:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            kill(processes.pop(chance.randrange(len(processes))))
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        assert (real / "noises.h5").read_bytes() == whole[0]
        assert len(claims_made_anew(witness.folder)) <= kills
    assert witness.is_last()


def test_one_sleeps_until_the_others_have_ended(
    world: Path, whole: tuple[bytes, str], tmp_path: Path
) -> None:
    """They take it for dead and clean up; it finds what they made."""
    sleeper = start_worker(world, tmp_path, [])
    deadline = time.monotonic() + 120
    while finished(tmp_path) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    sleeper.send_signal(signal.SIGSTOP)
    _, errors = (other := start_worker(world, tmp_path, [])).communicate(timeout=120)
    assert other.returncode == 0, errors
    assert sorted(path.name for path in tmp_path.iterdir()) == [".noises.lock", "noises.h5"]
    sleeper.send_signal(signal.SIGCONT)
    said, errors = sleeper.communicate(timeout=120)
    assert sleeper.returncode == 0, errors
    assert said.replace(str(tmp_path), "CACHE") == whole[1]
    assert (tmp_path / "noises.h5").read_bytes() == whole[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".noises.lock", "noises.h5"]


def test_the_last_one_cleans_up(world: Path, whole: tuple[bytes, str], tmp_path: Path) -> None:
    """Three workers, none of them killed, and one that comes when all is done."""
    processes = [start_worker(world, tmp_path, []) for _ in range(3)]
    for process in processes:
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert said.replace(str(tmp_path), "CACHE") == whole[1]
    assert (tmp_path / "noises.h5").read_bytes() == whole[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".noises.lock", "noises.h5"]
    _, errors = (late := start_worker(world, tmp_path, [])).communicate(timeout=120)
    assert late.returncode == 0
    assert "already has this content; nothing to do" in errors
