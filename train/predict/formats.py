"""Ratings as text: CSV, JSON Lines, the table of the MSP challenges, audformat, and rows for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from ser_memory.common.conventions import RATED
from ser_memory.common.reporting import notice
from ser_memory.train.predict.ratings import Moment, Rating

Write = Callable[[Sequence[Rating], Sequence[str], bool], str]

_MSP = {"activation": "EmoAct", "valence": "EmoVal", "dominance": "EmoDom"}
_AUDFORMAT = {"activation": "arousal"}
_DECIMALS = 6


def as_csv(ratings: Sequence[Rating], dimensions: Sequence[str], track: bool) -> str:
    """A row per recording, or per window; columns of spread and of text only where there are some."""
    records = [_record(rating, part) for rating in ratings for part in _parts(rating, track)]
    names = list(dict.fromkeys(name for record in records for name in record))
    rows = [[_cell(record.get(name)) for name in names] for record in records]
    return _separated(names, rows)


def as_json_lines(ratings: Sequence[Rating], dimensions: Sequence[str], track: bool) -> str:
    """An object per recording, or per window, with the keys of the CSV's columns; flags are a list."""
    records = (_record(rating, part) for rating in ratings for part in _parts(rating, track))
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def as_msp(ratings: Sequence[Rating], dimensions: Sequence[str], track: bool) -> str:
    """FileName, EmoAct, EmoVal, EmoDom, as the MSP-Podcast challenges want them; ratings are from 1 to 7.

    A notice names the columns that the bundle does not predict.
    """
    del track
    shown = [name for name in RATED if name in dimensions]
    for name in RATED:
        if name not in dimensions:
            notice(f"{_MSP[name]} is left out: the bundle does not predict {name}.")
    rows = [[Path(each.file).name, *(_number(_values(each)[name]) for name in shown)] for each in ratings]
    return _separated(["FileName", *(_MSP[name] for name in shown)], rows)


def as_audformat(ratings: Sequence[Rating], dimensions: Sequence[str], track: bool) -> str:
    """A segmented table of audformat: file, start, end, and a column per dimension; activation is called arousal."""
    rows = [
        [rating.file, *map(_timedelta, _span(part)), *(_number(_values(part)[name]) for name in dimensions)]
        for rating in ratings
        for part in _parts(rating, track)
    ]
    return _separated(["file", "start", "end", *(_AUDFORMAT.get(name, name) for name in dimensions)], rows)


WRITERS: dict[str, Write] = {
    "csv": as_csv,
    "jsonl": as_json_lines,
    "msp": as_msp,
    "audformat": as_audformat,
}


def table_rows(ratings: Sequence[Rating], dimensions: Sequence[str], track: bool) -> list[list[str]]:
    """Rows for a terminal: file, seconds or span, each dimension with its spread, and flags."""
    return [
        [
            rating.file,
            f"{_span(part)[0]:.1f} to {_span(part)[1]:.1f}" if track else f"{rating.duration:.1f}",
            *(_shown(_values(part)[name], (part.spread or {}).get(name)) for name in dimensions),
            ", ".join(part.flags) or "-",
        ]
        for rating in ratings
        for part in _parts(rating, track)
    ]


def _parts(rating: Rating, track: bool) -> Sequence[Rating | Moment]:
    return rating.track if track else (rating,)


def _values(part: Rating | Moment) -> dict[str, float]:
    return part.values or {}


def _span(part: Rating | Moment) -> tuple[float, float]:
    return (0.0, part.duration) if isinstance(part, Rating) else (part.start, part.end)


def _record(rating: Rating, part: Rating | Moment) -> dict[str, Any]:
    start, end = _span(part)
    span = {"duration": end} if isinstance(part, Rating) else {"start": start, "end": end}
    spread = {f"{name}_spread": value for name, value in (part.spread or {}).items()}
    numbers = {**span, **_values(part), **spread, "distance": part.distance}
    rounded = {name: round(value, _DECIMALS) for name, value in numbers.items()}
    text = {} if part.text is None else {"text": part.text}
    return {"file": rating.file, **rounded, "flags": list(part.flags), **text}


def _cell(value: Any) -> Any:
    return " ".join(value) if isinstance(value, list) else "" if value is None else value


def _number(value: float) -> str:
    return str(round(value, _DECIMALS))


def _shown(value: float, spread: float | None) -> str:
    return f"{value:.2f}" if spread is None else f"{value:.2f} ± {spread:.2f}"


def _timedelta(seconds: float) -> str:
    """`0 days 00:00:02.500000`, as pandas reads it."""
    days, rest = divmod(timedelta(seconds=seconds), timedelta(days=1))
    minutes, last = divmod(rest.total_seconds(), 60)
    return f"{days} days {int(minutes // 60):02d}:{int(minutes % 60):02d}:{last:09.6f}"


def _separated(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue()
