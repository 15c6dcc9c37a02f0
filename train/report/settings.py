"""The options of ser-report. Free of torch and matplotlib."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ser_memory.common.options import Options, option

FIGURES = (
    "stages",
    "heat",
    "forest",
    "agreement",
    "memory",
    "learning",
    "bent",
    "cost",
    "transcripts",
    "conditions",
)


@dataclass(frozen=True)
class ReportSettings(Options):
    """What is reported, and where the report goes."""

    title = "Report"

    output: Path | None = option(
        None, folder=True, unset="<first run>/report", help="Folder of the page, the tables and the figures."
    )
    split: str = option("test", help="The split that is reported: test, test2, ... or validation.")
    against: Path | None = option(
        None,
        help="CSV of published figures to put beside ours: strategy, stage_name, corpus, dimension, metric, value.",
    )
    quiet: bool = option(False, help="Print no tables, only where the page is.")
    figure: tuple[str, ...] = option(
        (),
        choices=FIGURES,
        unset="everything",
        help="Draw only figures of this kind, and no page; repeatable.",
    )
