"""Training from Python."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.reporting import Advance, Silent
from ser_memory.train.api import Result, read_results, train
from tests.train.test_cli import caches, rows, run

assert caches  # the fixture
QUICK: dict[str, Any] = {
    "epochs": 3, "batch_size": 16, "learning_rate": 0.01, "memory_size": 20, "jobs": 1, "seeds": 1,
}  # fmt: skip


def test_it_is_the_command(caches: Path, tmp_path: Path) -> None:
    command = run("--cache", caches, "--seeds", 1, "--strategy", "gem", "--output", tmp_path / "command")
    assert command.exit_code == 0
    made = train(
        cache=str(caches),
        strategy="gem",
        output=tmp_path / "api",
        trained=tmp_path / "t",
        reporter=Silent(),
        **QUICK,
    )
    for name in ("results.csv", "memory.csv"):
        assert (tmp_path / "api" / name).read_bytes() == (tmp_path / "command" / name).read_bytes()
    assert (made.folder, made.failures) == (tmp_path / "api", [])
    assert made.results == read_results(made.folder) == read_results(str(made.folder / "results.csv"))
    assert isinstance(made.results[0], Result)
    assert [str(value) for value in vars(made.results[0]).values()] == [*rows(made.folder)[0].values()]


def test_reports_go_to_the_caller_also_from_a_thread(
    caches: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Listed(Silent):
        lines: list[str] = []  # noqa: RUF012
        epochs: list[float] = []  # noqa: RUF012

        def notice(self, line: str) -> None:
            self.lines.append(line)

        def progress(
            self, label: str, total: float, unit: str, done: float = 0.0
        ) -> AbstractContextManager[Advance]:
            self.lines.append(f"{label}: {total} {unit}")
            return nullcontext(self.epochs.append)

    def work() -> None:
        options = {**QUICK, "memory_size": 100, "stages": ["msp-podcast", "iemocap"], "strategy": "gem"}
        train(cache=caches, output=tmp_path / "r", trained=tmp_path / "t", reporter=Listed(), **options)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert Listed.lines == [
        "The memory of msp-podcast holds all of its 60 training utterances.", "training: 6 epochs",
        "predictions: 2 stages",
    ]  # fmt: skip
    assert sum(Listed.epochs) == 6 + 2
    assert capfd.readouterr() == ("", "")
    assert read_results(tmp_path / "r")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epoch": 3}, "There is no option 'epoch': the options are stages, cache,"),
        ({"epochs": 0}, "--epochs 0 must be at least 1."),
        ({"batch_size": "128"}, "--batch-size '128' must be a whole number."),
        ({"strategy": ["gem", "gam"]}, "There is no strategy 'gam'"),
        ({"loss": "mae"}, "--loss 'mae' must be one of ccc, mse."),
        ({"seeds": 2, "seed": 4}, "Give --seeds N or --seed S, not both."),
        ({"stages": []}, "--stages is an empty list: give at least one."),
        ({"strategy": []}, "--strategy is an empty list: give at least one."),
        ({"stages": None}, "--stages None must be text."),
        ({"learning_rate": float("nan")}, "--learning-rate nan must be above 0."),
    ],
)
def test_wrong_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as error:
        train(**options)
    assert says in str(error.value)


def test_folders_that_cannot_be_used_are_errors_that_a_caller_can_solve(caches: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = {
        **QUICK,
        "cache": caches,
        "strategy": "gem",
        "trained": tmp_path / "t",
        "reporter": Silent(),
    }
    for output in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(SerError, match="The system says: "):
            train(output=output, **options)
    with pytest.raises(SerError, match="read_results takes the folder of a run as text or path, not 3"):
        read_results(3)  # type: ignore[arg-type]


def test_results_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SerError, match=r"There is no .*results.csv: give the folder of a run"):
        read_results(tmp_path)
    (tmp_path / "results.csv").write_text("strategy,value\ngem,1\n")
    with pytest.raises(SerError, match="has no column sampler, memory_size"):
        read_results(tmp_path)
    names = "strategy,sampler,memory_size,seed,stage,stage_name,corpus,split,dimension,metric,value,n,fold"
    (tmp_path / "results.csv").write_text(f"{names}\ngem,random,10,0,1,P,iemo")
    with pytest.raises(SerError, match=r"results\.csv was cut off at line 2: run the same ser-train command"):
        read_results(tmp_path)
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(SerError, match="cannot be read as results of ser-train"):
        read_results(tmp_path)
