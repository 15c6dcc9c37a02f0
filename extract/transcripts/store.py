"""Transcripts from a file of id and text, in place of the release's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from common.errors import SerError, UsageError, listing
from extract.corpora import Utterance
from extract.tables import read_table

_COLUMNS = ("id", "text")


def read_transcripts(path: Path) -> dict[str, str]:
    """id -> text, from CSV, TSV or JSON Lines with the columns `id` and `text`; a blank text is a value.

    Raises SerError for another kind of file, a missing column or text, or an id given twice.
    """
    if not path.exists():
        raise UsageError(f"There is no transcript file at {path}.")
    columns, records = read_table(path, blank="")
    absent = [name for name in _COLUMNS if name not in columns]
    if absent:
        raise SerError(f"{path} lacks the column {listing(absent)}: it has {listing(columns)}.")
    texts: dict[str, str] = {}
    for line, record in records:
        name, text = record.get("id"), record.get("text")
        if not name or text is None:
            raise SerError(f"{path}, row {line}, has no {'text' if name else 'id'}: every row needs both.")
        if name in texts:
            raise SerError(f"{path}, row {line}, gives {name!r} a second time: each id may stand once.")
        texts[name] = text
    return texts


def with_transcripts(utterances: list[Utterance], texts: dict[str, str]) -> list[Utterance]:
    """The utterances with these transcripts and no others; ids without a text have none (None)."""
    return [replace(utterance, transcript=texts.get(utterance.id)) for utterance in utterances]
