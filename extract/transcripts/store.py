"""Transcripts from a file of id and text, in place of the release's own."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import SerError, UsageError, listing
from extract.corpora import Utterance

_COLUMNS = ("id", "text")


def read_transcripts(path: Path) -> dict[str, str]:
    """id -> text, from CSV, TSV or JSON Lines with the columns `id` and `text`; "" is a value.

    Raises SerError for another kind of file, a missing column, an id given twice, or text that is not UTF-8.
    """
    if path.suffix.lower() not in {".csv", ".tsv", ".jsonl"}:
        raise UsageError(
            f"Transcripts are read from .csv, .tsv or .jsonl with the columns id and text, not from {path.name}."
        )
    texts: dict[str, str] = {}
    for line, row in _rows(path):
        absent = [name for name in _COLUMNS if not isinstance(row.get(name), str)]
        if absent:
            raise SerError(f"{path}, line {line}, has no {listing(absent)}; it has {listing(row)}.")
        if row["id"] in texts:
            raise SerError(f"{path}, line {line}, gives {row['id']!r} a second time: each id may stand once.")
        texts[row["id"]] = row["text"]
    return texts


def with_transcripts(utterances: list[Utterance], texts: dict[str, str]) -> list[Utterance]:
    """The utterances with these transcripts and no others; ids without a text have none (None)."""
    return [replace(utterance, transcript=texts.get(utterance.id)) for utterance in utterances]


def _rows(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"There is no transcript file at {path}.") from None
    except UnicodeDecodeError as error:
        raise SerError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8."
        ) from None
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SerError(f"{path}, line {number}, is not JSON: {error.msg}.") from None
            yield number, row if isinstance(row, dict) else {}
        return
    table = csv.DictReader(
        text.splitlines(keepends=True), delimiter="\t" if path.suffix.lower() == ".tsv" else ","
    )
    for row in table:
        yield table.line_num, row
