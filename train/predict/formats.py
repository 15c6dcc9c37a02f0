"""Ratings as text: CSV, JSON Lines, the table of the MSP challenges, audformat, and rows for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from ser_memory.common.conventions import RATED
from ser_memory.common.errors import listing
from ser_memory.common.reporting import notice
from ser_memory.train.predict.ratings import FLAGS, Moment, Rating

Write = Callable[[Sequence[Rating], Sequence[str], bool], str]

_MSP = {"activation": "EmoAct", "valence": "EmoVal", "dominance": "EmoDom"}
_AUDFORMAT = {"activation": "arousal"}
_DECIMALS = 6


def as_csv(ratings: Sequence[Rating], dimensions: Sequence[str], track: bool) -> str:
    """A row per recording, or per window; columns of ids, of spread and of text only where there are some."""
    return _separated([_record(rating, part) for rating in ratings for part in _parts(rating, track)])


def as_json_lines(ratings: Sequence[Rating], dimensions: Sequence[str], track: bool) -> str:
    """An object per recording, or per window, with the keys of the CSV's columns; flags are a list."""
    records = (_record(rating, part) for rating in ratings for part in _parts(rating, track))
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def as_msp(ratings: Sequence[Rating], dimensions: Sequence[str], track: bool) -> str:
    """FileName, EmoAct, EmoVal, EmoDom, as the MSP-Podcast challenges want them; ratings are from 1 to 7.

    Notices name the columns that the bundle does not predict, the flags, for which there is no column, and names that
    several recordings have.
    """
    del track
    _name_alike("FileName", [Path(each.file).name for each in ratings])
    shown = [name for name in RATED if name in dimensions]
    for name in RATED:
        if name not in dimensions:
            notice(f"{_MSP[name]} is left out: the bundle does not predict {name}.")
    flagged = [each for each in ratings if each.flags]
    if flagged:
        flags = listing(flag for flag in FLAGS if any(flag in each.flags for each in flagged))
        notice(
            f"{len(flagged)} of {len(ratings)} recordings have flags ({flags}), which this format has no column for: "
            "--format csv has one."
        )
    return _separated(
        [
            {"FileName": Path(each.file).name} | {_MSP[name]: _rounded(_values(each)[name]) for name in shown}
            for each in ratings
        ]
    )


def as_audformat(ratings: Sequence[Rating], dimensions: Sequence[str], track: bool) -> str:
    """A segmented table of audformat: file, start, end, a column per dimension and per flag, and ids where there are some.

    Activation is called arousal, and flags are True or False. A notice names files that have several rows of one span.
    """
    _name_alike("file", [each.file for each in ratings])

    def record(rating: Rating, part: Rating | Moment) -> dict[str, Any]:
        start, end = map(_timedelta, _span(part))
        values = {_AUDFORMAT.get(name, name): _rounded(_values(part)[name]) for name in dimensions}
        flags = {flag: flag in part.flags for flag in FLAGS}
        return {"file": rating.file, "start": start, "end": end, **values, **flags, **_id(rating)}

    return _separated([record(rating, part) for rating in ratings for part in _parts(rating, track)])


WRITERS: dict[str, Write] = {
    "csv": as_csv,
    "jsonl": as_json_lines,
    "msp": as_msp,
    "audformat": as_audformat,
}


def table_rows(ratings: Sequence[Rating], dimensions: Sequence[str], track: bool) -> list[list[str]]:
    """Rows for a terminal, after their headers: file, id where there are some, seconds or span, each dimension with its
    spread, and flags.
    """
    ids = any(rating.id is not None for rating in ratings)
    headers = ["file", *["id"] * ids, "seconds", *dimensions, "flags"]
    return [headers] + [
        [
            rating.file,
            *[rating.id or "-"] * ids,
            f"{_span(part)[0]:.1f} to {_span(part)[1]:.1f}" if track else f"{rating.duration:.1f}",
            *(_shown(_values(part)[name], (part.spread or {}).get(name)) for name in dimensions),
            ", ".join(part.flags) or "-",
        ]
        for rating in ratings
        for part in _parts(rating, track)
    ]


def _name_alike(column: str, names: Sequence[str]) -> None:
    alike = [name for name, times in Counter(names).items() if times > 1]
    if alike:
        notice(
            f"Rows that this format cannot tell apart, since {column} is all they are known by: "
            f"{listing(alike, most=3)}. --format csv has paths and ids."
        )


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
    rounded = {name: _rounded(value) for name, value in numbers.items()}
    text = {} if part.text is None else {"text": part.text}
    return {"file": rating.file, **_id(rating), **rounded, "flags": list(part.flags), **text}


def _id(rating: Rating) -> dict[str, str]:
    return {} if rating.id is None else {"id": rating.id}


def _cell(value: Any) -> Any:
    return " ".join(value) if isinstance(value, list) else "" if value is None else value


def _rounded(value: float) -> float:
    return round(value, _DECIMALS)


def _shown(value: float, spread: float | None) -> str:
    return f"{value:.2f}" if spread is None else f"{value:.2f} ± {spread:.2f}"


def _timedelta(seconds: float) -> str:
    """`0 days 00:00:02.500000`, as pandas reads it."""
    days, rest = divmod(timedelta(seconds=seconds), timedelta(days=1))
    minutes, last = divmod(rest.total_seconds(), 60)
    return f"{days} days {int(minutes // 60):02d}:{int(minutes % 60):02d}:{last:09.6f}"


def _separated(records: Sequence[Mapping[str, Any]]) -> str:
    """CSV with the columns that any of the records has."""
    names = list(dict.fromkeys(name for record in records for name in record))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(record.get(name)) for name in names] for record in records)
    return text.getvalue()
