"""A training that is killed or stopped as a real process loses nothing, and leaves no process behind."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.train.test_cli import caches, run
from tests.train.test_resume import alive, start, workers_of

assert caches  # the fixture


def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(caches: Path, tmp_path: Path) -> None:
    command = [
        "--cache",
        caches,
        "--seeds",
        2,
        "--strategy",
        "finetune",
        "--strategy",
        "gem",
        "--epochs",
        10,
        "--patience",
        10,
    ]
    assert run(*command, "--output", tmp_path / "whole").exit_code == 0
    chance = random.Random(6)
    broken = [*command, "--jobs", 2, "--output", tmp_path / "broken", "--trained", tmp_path / "t"]
    store, kills = tmp_path / "t", 0
    for target in (1, 6):  # stages finished before the next kill
        process = start(*broken)
        while process.poll() is None and len(list(store.glob("*.safetensors"))) < target:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        time.sleep(0.5)  # for its workers to notice
    assert kills >= 2
    process = start(*broken)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for name in ("results.csv", "memory.csv", "epochs.csv", "predictions.h5"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_a_signal_loses_no_epoch(caches: Path, tmp_path: Path, number: signal.Signals, jobs: int) -> None:
    command = ["--cache", caches, "--seeds", 2, "--strategy", "finetune", "--stages", "msp-podcast,iemocap",
               "--epochs", 50, "--patience", 50]  # fmt: skip
    broken = [*command, "--jobs", jobs, "--output", tmp_path / "broken", "--trained", tmp_path / "t"]
    process = start(*broken)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "t").glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # into the next stage
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert (
        f"Error: Stopped by {number.name}: what was trained is kept in {tmp_path / 't'}. To continue"
        in errors
    )
    assert f"--output {tmp_path / 'broken'}." in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "t").glob("*.paused"))
    assert json.loads((tmp_path / "broken/config.json").read_text())["complete"] is False
    process = start(*broken)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads((tmp_path / "broken/config.json").read_text())["complete"] is True
    assert run(*command, "--output", tmp_path / "whole").exit_code == 0
    assert (tmp_path / "broken/results.csv").read_bytes() == (tmp_path / "whole/results.csv").read_bytes()


def test_workers_do_not_outlive_the_main_process(caches: Path, tmp_path: Path) -> None:
    process = start("--cache", caches, "--seeds", 2, "--jobs", 2, "--epochs", 10_000, "--patience", 10_000,
                    "--output", tmp_path / "r", "--trained", tmp_path / "t")  # fmt: skip
    children: list[int] = []
    deadline = time.monotonic() + 60
    while len(children) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        children = workers_of(process.pid)
    assert len(children) >= 2
    process.kill()
    process.communicate()
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, children))
