"""A search that is stopped as a real process, with workers, and the report of its best trial."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ser_memory.train.report.cli import main as ser_report
from tests.train.test_cli import caches
from tests.train.test_search import RATES, searched, trials, typed

assert caches  # the fixture


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, 1), (signal.SIGKILL, 2)])
def test_a_signal_loses_no_trial(caches: Path, tmp_path: Path, number: signal.Signals, jobs: int) -> None:
    command = ["--cache", caches, "--search", RATES, "--search", "replay-share=0.2..0.8", "--seeds", 2,
               "--epochs", 60, "--patience", 60]  # fmt: skip
    broken = [*command, "--jobs", jobs, "--output", tmp_path / "broken", "--trained", tmp_path / "t"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ser_memory.train.cli", *typed(*broken)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (tmp_path / "broken/trials.csv").exists():
        time.sleep(0.02)
    finished = len(list((tmp_path / "t").glob("*.safetensors")))
    while time.monotonic() < deadline and len(list((tmp_path / "t").glob("*.safetensors"))) == finished:
        time.sleep(0.01)  # into a later stage of the second trial
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number, errors
        assert (
            f"Error: Stopped by {number.name}: what was trained is kept in {tmp_path / 't'}. To continue"
            in errors
        )
    assert 1 <= len(trials(tmp_path / "broken")) < 3
    searched(*broken)
    searched(*command, "--output", tmp_path / "whole", "--trained", tmp_path / "u")
    assert trials(tmp_path / "broken") == trials(tmp_path / "whole")
    for name in ("results.csv", "epochs.csv", "memory.csv", "predictions.h5"):
        made, expected = (tmp_path / place / "best" / name for place in ("broken", "whole"))
        assert made.read_bytes() == expected.read_bytes()
    report = CliRunner().invoke(ser_report, [str(tmp_path / "broken/best")])
    assert report.exit_code == 0, report.output


def test_killed_and_continued_it_is_as_if_it_had_not_been(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--search", RATES, "--epochs", 100, "--patience", 100,
               "--stages", "msp-podcast,iemocap"]  # fmt: skip
    broken = [*command, "--trained", tmp_path / "t", "--output", tmp_path / "broken"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ser_memory.train.cli", *typed(*broken)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "broken/trials.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)  # into the next trial
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 1 <= len(trials(tmp_path / "broken")) < 3
    searched(*broken)
    searched(*command, "--trained", tmp_path / "u", "--output", tmp_path / "whole")
    assert trials(tmp_path / "broken") == trials(tmp_path / "whole")
    assert (tmp_path / "broken/best/results.csv").read_bytes() == (
        tmp_path / "whole/best/results.csv"
    ).read_bytes()
