"""A program may take the reports, or drop them."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from ser_memory.common.conventions import in_split_order
from ser_memory.common.errors import UsageError
from ser_memory.common.reporting import Advance, Silent, notice, progress, reporting_to


class Listed:
    """Keeps the reports."""

    def __init__(self) -> None:
        self.reports: list[object] = []

    def notice(self, line: str) -> None:
        self.reports.append(line)

    def progress(
        self, label: str, total: float, unit: str, done: float = 0.0
    ) -> AbstractContextManager[Advance]:
        self.reports.append((label, total, unit, done))
        return nullcontext(self.reports.append)


def test_reports_go_where_the_caller_says(capsys: pytest.CaptureFixture[str]) -> None:
    outer, inner = Listed(), Listed()
    with reporting_to(outer):
        notice("one")
        with reporting_to(inner), progress("counting", 3, "beans") as advance:
            advance(2)
        with reporting_to(None):
            notice("two")
    assert (outer.reports, inner.reports) == (["one", "two"], [("counting", 3, "beans", 0.0), 2])
    with reporting_to(Silent()), progress("counting", 3, "beans") as advance:
        advance(1)
        notice("three")
    assert capsys.readouterr() == ("", "")
    notice("four")
    assert capsys.readouterr().err == "four\n"


def test_threads_report_to_different_places() -> None:
    here, there = Listed(), Listed()

    def work() -> None:
        with reporting_to(there):
            notice("there")

    with reporting_to(here):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        notice("here")
    assert (here.reports, there.reports) == (["here"], ["there"])


@pytest.mark.parametrize("reporter", [3, print, Silent])
def test_what_cannot_report_is_refused(reporter: Any) -> None:
    with pytest.raises(UsageError, match="must be an object with the methods notice and progress"):  # noqa: SIM117
        with reporting_to(reporter):
            notice("lost")


def test_splits_have_one_order() -> None:
    assert in_split_order(["test2", "train", "test", "validation", "test"]) == [
        "train", "validation", "test", "test2"
    ]  # fmt: skip
