"""ser-train --engine ray on a Ray of this machine: the results are those of one process, to the byte."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from ser_memory.common.cluster import connected
from tests.train.test_cli import caches, run
from tests.train.test_resume import start

ray = pytest.importorskip("ray")
assert caches  # the fixture
TRAINING = ["--seeds", 2, "--strategy", "finetune", "--strategy", "gem", "--epochs", 100, "--patience", 100]


def training_under(pid: int) -> list[int]:
    """Processes of Ray that have a task: children of its raylet, which is one of the command's."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if (folder / "cmdline").read_bytes().startswith(b"ray::train") and parent(
                parent(int(folder.name))
            ) == pid:
                found.append(int(folder.name))
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def wait_for(store: Path, stages: int) -> None:
    deadline = time.monotonic() + 240
    while len(list(store.glob("*.safetensors"))) < stages:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_ray_says_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Its first line. Also what it keeps back because it has said it already: it says that when it shuts down."""
    message = {
        "lines": ["The node is dead. Last lines:\n  [state-dump] a\n  [state-dump] b"],
        "pid": "raylet",
        "is_err": False,
    }
    with connected(None, cores=1):
        for _ in range(3):
            ray._private.worker.print_to_stdstream(message, ignore_prefix=False)
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count("The node is dead. Last lines:") == 2
    assert "state-dump" not in printed.err


def test_a_process_of_ray_that_is_killed_costs_its_stage_only(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, *TRAINING]
    process = start(*command, "--engine", "ray", "--jobs", 2, "--output", tmp_path / "ray",
                    "--trained", tmp_path / "t")  # fmt: skip
    wait_for(tmp_path / "t", 1)
    time.sleep(0.3)
    (killed, *_) = training_under(process.pid)
    os.kill(killed, signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert run(*command, "--output", tmp_path / "alone").exit_code == 0
    for name in ("results.csv", "memory.csv", "epochs.csv", "predictions.h5"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_signal_loses_no_epoch(caches: Path, tmp_path: Path) -> None:
    process = start("--cache", caches, *TRAINING, "--engine", "ray", "--jobs", 2, "--output", tmp_path / "ray",
                    "--trained", tmp_path / "t")  # fmt: skip
    wait_for(tmp_path / "t", 1)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert f"Error: Stopped by SIGTERM: what was trained is kept in {tmp_path / 't'}." in errors
    assert list((tmp_path / "t").glob("*.paused"))
    assert not list((tmp_path / "t").glob("*.stop"))
