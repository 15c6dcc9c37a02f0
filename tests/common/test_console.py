"""Plain lines where there is no terminal, and errors as one sentence."""

from __future__ import annotations

import errno

import click
import pytest
from click.testing import CliRunner, Result

from ser_memory.common import console
from ser_memory.common.errors import SerError, UsageError, listing


def failing(error: Exception) -> Result:
    @click.command(cls=console.Command)
    def command() -> None:
        raise error

    return CliRunner().invoke(command)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SerError("It cannot be done."), 1, "Error: It cannot be done."),
        (UsageError("Not this way."), 2, "Error: Not this way."),
        (
            OSError(errno.ENOSPC, "No space left on device", "x.h5"),
            1,
            "The system says: No space left on device: x.h5.",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "The system says: Permission denied."),
    ],
)
def test_errors_end_in_one_sentence(error: Exception, code: int, line: str) -> None:
    result = failing(error)
    assert result.exit_code == code
    assert result.stderr.strip().endswith(line)
    assert "Traceback" not in result.output


def test_our_own_mistakes_keep_their_traceback() -> None:
    assert isinstance(failing(ZeroDivisionError()).exception, ZeroDivisionError)


def test_progress_in_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with console.TERMINAL.progress("counting", 100, "beans") as advance:
        for _ in range(4):
            now += 6
            advance(25)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "counting: 50 of 100 beans, 4.2 beans/s, 12 s left",
        "counting: 100 of 100 beans, 4.2 beans/s, 0 s left",
        "counting: 100 beans in 24 s",
    ]


def test_what_is_over_at_once_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.TERMINAL.progress("counting", 1, "beans") as advance:
        advance(1)
    assert capsys.readouterr().err == ""


def test_a_table_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("Beans", ["kind", "n"], [["runner", "10"], ["broad", "2"]])
    assert capsys.readouterr().out == "Beans\n  kind     n\n  runner  10\n  broad    2\n\n"


def test_listing_and_clock() -> None:
    assert listing([]) == "none"
    assert listing("abcd", most=2) == "a, b and 2 more"
    assert [console.clock(s) for s in (0.4, 59, 61, 3599.6, 7500)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "1 h 00 min",
        "2 h 05 min",
    ]


@pytest.mark.parametrize(("columns", "drawn"), [(200, True), (80, True), (30, False)])
def test_a_table_on_a_terminal_is_never_cut(
    columns: int, drawn: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    console.table(
        "A [title] [/b]",
        ["stage", "strategy", "n"],
        [["P+M+I", "experience-replay", "0.436 ± 0.032*"]],
        left=2,
    )
    shown = capsys.readouterr().out
    assert "A [title] [/b]" in shown
    for cell in ("P+M+I", "experience-replay", "0.436 ± 0.032*"):
        assert cell in shown
    assert ("─" in shown) == drawn


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_are_finite(value: str) -> None:
    @click.command()
    @click.option("--rate", type=console.Number(min=0))
    def command(rate: float) -> None:
        raise AssertionError(rate)

    assert CliRunner().invoke(command, ["--rate", value]).exit_code == 2
