"""A training that is killed or stopped as a real process loses nothing, and leaves no process behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from ser_memory.train.corpora import Source, load_corpora
from ser_memory.train.engines import processes
from ser_memory.train.engines.inline import Inline
from ser_memory.train.plan import Experiment
from ser_memory.train.runs import Run
from ser_memory.train.settings import StrategySettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.trainer import Trainer
from tests.train.test_cli import caches, quick, run
from tests.train.test_resume import alive, start, workers_of
from tests.train.worlds import STAGES

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
        60,
        "--patience",
        60,
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
               "--epochs", 250, "--patience", 250]  # fmt: skip
    broken = [*command, "--jobs", jobs, "--output", tmp_path / "broken", "--trained", tmp_path / "t"]
    process = start(*broken)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "t").glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # into the next stage, which takes seconds
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


def test_a_worker_that_is_killed_is_told(caches: Path, tmp_path: Path) -> None:
    process = start("--cache", caches, "--seeds", 2, "--jobs", 2, "--epochs", 10_000, "--patience", 10_000,
                    "--output", tmp_path / "r", "--trained", tmp_path / "t")  # fmt: skip
    deadline = time.monotonic() + 60
    while len(workers_of(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Error: A worker process was killed" in errors
    assert "Traceback" not in errors


def test_the_last_runs_take_turns(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs on two workers are handed back and forth, and come to the same."""
    turns: list[tuple[int, bool]] = []
    decide = processes.is_near_the_end

    def noted(tasks: int, workers: int) -> bool:
        turns.append((tasks, decide(tasks, workers)))
        return turns[-1][1]

    monkeypatch.setattr(processes, "is_near_the_end", noted)
    chosen = StrategySettings(strategy=("finetune",), seeds=3)
    training = TrainingSettings(epochs=30, patience=30, batch_size=16, learning_rate=0.01)
    experiment = Experiment(chosen.variants, STAGES[:1], chosen.chosen_seeds, training)
    source, tasks = Source(caches, STAGES[:1]), [Run(None, seed) for seed in range(3)]
    trainer = Trainer(experiment, load_corpora(source), Store(tmp_path / "one"), torch.device("cpu"))
    side_by_side = processes.Processes(experiment, source, tmp_path / "two", jobs=2, turn=0.05)
    epochs: list[float] = []
    outcomes = dict(side_by_side.run(tasks, epochs.append))
    assert outcomes == dict(Inline(trainer).run(tasks, lambda _: None))
    assert sum(epochs) == 3 * 30
    assert (3, True) in turns
    assert len(turns) > 3
    assert not list((tmp_path / "two").glob("*.paused"))


def test_an_interrupted_run_without_output_goes_on_in_its_folder(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folders() -> list[Path]:
        return sorted(Path("runs").iterdir())

    monkeypatch.chdir(tmp_path)
    options = ["--cache", caches, "--seed", 0, "--strategy", "finetune"]
    long = [*options, "--trained", tmp_path / "t", "--epochs", 3000, "--patience", 3000]
    command = [sys.executable, "-m", "ser_memory.train.cli", *quick(*long)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 100
        while not list(tmp_path.glob("runs/*/config.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    (folder,) = folders()
    assert f"To continue, run the same command with --output {folder}." in errors
    assert ("what was trained is kept" in errors) == bool(list((tmp_path / "t").glob("*.paused")))
    assert json.loads((folder / "config.json").read_text())["complete"] is False
    # Another experiment has nothing to do with it.
    other = run(*options)
    assert "Continuing" not in other.stderr
    assert len(folders()) == 2
    # It is under way in another process.
    with FileLock(folder / ".lock"):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while len(folders()) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.communicate()
    assert len(folders()) == 3
    shutil.rmtree(folders()[-1])
