"""Published figures beside ours.

The table is a CSV file with a figure per row and the columns strategy, stage_name, corpus, dimension, metric and value, and
if you like sampler, split and note. Names are those of results.csv. A blank dimension is not known: the figure stands
beside ours of every dimension. A blank sampler likewise; a blank split is test.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ser_memory.common.errors import SerError, listing
from ser_memory.train.report.summary import TEST, Runs
from ser_memory.train.report.variants import variant_of
from ser_memory.train.results import Result
from ser_memory.train.runs import Variant

NEEDED = ("strategy", "stage_name", "corpus", "dimension", "metric", "value")
OPTIONAL = ("sampler", "split", "note")
_BLANK = ("dimension", "sampler")  # of these a blank stands for any
_NAMES = ("strategy", "sampler", "stage_name", "corpus", "split", "dimension", "metric")


@dataclass(frozen=True)
class Published:
    """A figure that somebody published."""

    strategy: str
    stage_name: str
    corpus: str
    metric: str
    value: float
    dimension: str = ""  # "" where it is not given, as the next
    sampler: str = ""
    split: str = TEST
    note: str = ""
    source: str = ""  # file and line, for a message


@dataclass(frozen=True)
class Beside:
    """A published figure and ours. If a run has none that fits, there is no variant and no figure of ours."""

    published: Published
    label: str  # of our run
    dimension: str  # of ours; the published one if we have none
    variant: Variant | None = None
    ours: float | None = None  # mean over the seeds
    seeds: int = 0
    n: int = 0  # utterances

    @property
    def split(self) -> str:
        """Of both."""
        return self.published.split

    @property
    def difference(self) -> float | None:
        """Ours - published."""
        return None if self.ours is None else self.ours - self.published.value


def read_published(path: Path) -> list[Published]:
    """The rows of a published table.

    Raises SerError in one sentence if it cannot be read, lacks a column or a name, or has a value that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            absent = [name for name in NEEDED if name not in (reader.fieldnames or [])]
            if absent:
                raise SerError(
                    f"{path} has no column {listing(absent)}: a published table has {listing(NEEDED)}, and may have "
                    f"{listing(OPTIONAL)}."
                )
            rows = [_published(row, f"{path}, line {reader.line_num},") for row in reader]
    except FileNotFoundError:
        raise SerError(f"There is no {path}: give a CSV file with the columns {listing(NEEDED)}.") from None
    except OSError as error:
        raise SerError(f"{path} cannot be opened: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise SerError(f"{path} cannot be read as a CSV file in UTF-8: {error}.") from None
    if not rows:
        raise SerError(f"{path} has no rows: give one per published figure.")
    return rows


def _published(row: Mapping[str, str | None], source: str) -> Published:
    if None in row:
        raise SerError(
            f"{source} has more cells than the header: write decimals with a point, such as 0.578."
        )
    cells = {name: (row.get(name) or "").strip() for name in (*NEEDED, *OPTIONAL)}
    for name in NEEDED:
        if row[name] is None or (not cells[name] and name not in _BLANK):
            raise SerError(f"{source} has no {name}: fill it in.")
    try:
        value = float(cells["value"])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SerError(f"{source} has the value {cells['value']!r}: give a number such as 0.578.")
    return Published(
        cells["strategy"],
        cells["stage_name"],
        cells["corpus"],
        cells["metric"].lower(),
        value,
        cells["dimension"].lower(),
        cells["sampler"],
        cells["split"] or TEST,
        cells["note"],
        source,
    )


def beside(published: Sequence[Published], runs: Runs) -> list[Beside]:
    """Each published figure beside those of ours that fit it: of all runs, dimensions, samplers and memory sizes.

    Raises SerError in one sentence for a name that none of our runs has; it lists the names they have.
    """
    results = [row for rows in runs.values() for row in rows]
    for figure in published:
        for name in _NAMES:
            value = getattr(figure, name)
            have = list(dict.fromkeys(getattr(row, name) for row in results))
            if value not in have and not (value == "" and name in _BLANK):
                raise SerError(
                    f"{figure.source} has the {name} {value!r}, which is not in these results: "
                    f"they have {listing(have)}."
                )
    return [
        row for figure in published for label, rows in runs.items() for row in _beside(figure, label, rows)
    ]


def _beside(figure: Published, label: str, results: Sequence[Result]) -> list[Beside]:
    fitting: dict[tuple[str, Variant], dict[int, Result]] = {}
    for row in results:
        if all(getattr(figure, name) in ("", getattr(row, name)) for name in _NAMES):
            fitting.setdefault((row.dimension, variant_of(row)), {})[row.seed] = row
    return [
        Beside(
            figure,
            label,
            dimension,
            variant,
            float(np.mean([row.value for row in rows.values()])),
            len(rows),
            max(row.n for row in rows.values()),
        )
        for (dimension, variant), rows in fitting.items()
    ] or [Beside(figure, label, figure.dimension)]
