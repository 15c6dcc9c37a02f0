"""Plain lines where there is no terminal, and errors as one sentence."""

from __future__ import annotations

import errno
import io
import time

import click
import pytest
from click.testing import CliRunner, Result

from ser_memory.common import console
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.reporting import spare


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
        "counting: 25 of 100 beans, 4.2 beans/s, 18 s left",
        "counting: 75 of 100 beans, 4.2 beans/s, 6 s left",
        "counting: 100 beans in 24 s",
    ]


def test_work_that_is_spared_is_not_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with console.TERMINAL.progress("training", 1000, "epochs") as advance:
        now += 4
        advance(20)
        spare(advance, 960)
        now += 4
        advance(20)
    assert capsys.readouterr().err.splitlines() == [
        "training: 20 of 1,000 epochs, 5.0 epochs/s, 3 min 16 s left",
        "training: 40 epochs in 8 s",
    ]
    told: list[float] = []
    spare(told.append, 3)  # of a program that knows nothing of this
    assert told == [3]


def test_a_sign_of_life_before_the_first_unit_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_PLAIN_FIRST", 0.05)
    with console.TERMINAL.progress("training", 1000, "epochs"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "training: 0 of 1,000 epochs so far\n"


def test_a_terminal_without_signs_gets_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    shown = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr("sys.stdout", shown)
    console.say("0.5 ± 0.1†+ é")
    shown.flush()
    assert written.getvalue() == b"0.5 +- 0.1r+ ?\n"


def test_an_option_of_one_value_is_given_once() -> None:
    @click.command(cls=console.Command)
    @click.option("--rate", type=float)
    @click.option("--kinds", help="Names with commas.")
    @click.option("--row", multiple=True)
    @click.option("--wet", is_flag=True)
    def command(**values: object) -> None:
        click.echo(values)

    assert CliRunner().invoke(command, ["--rate=1", "--row=1", "--row=2", "--wet", "--wet"]).exit_code == 0
    for line, says in (
        ("--rate 1 --row 1 --rate=2", "--rate is given 2 times, and it takes one value: give it once."),
        (
            "--kinds a --kinds b",
            "--kinds is given 2 times, and it takes one value: give it once, with commas between",
        ),
    ):
        result = CliRunner().invoke(command, line.split())
        assert result.exit_code == 2
        assert says in " ".join(result.stderr.split())


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
