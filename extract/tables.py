"""Tables of labels or of transcripts from the user: CSV, TSV and JSON Lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path

from ser_memory.common.errors import SerError, listing

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")

_SEPARATOR = re.compile(r'"?sep=(?P<sign>[;,\t|])"?', re.IGNORECASE)

Record = tuple[int, dict[str, str | None]]  # line, column -> cell; None for no value


def read_text(path: Path) -> str:
    """A text file in UTF-8, else in Windows-1252 as older releases and spreadsheets write; lines end in "\\n" only.

    Split it at "\\n", not with `splitlines`, which also splits at characters inside a transcript. Raises SerError for
    a file that cannot be read or is not text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SerError(f"{path} cannot be read: {error.strerror}.") from None
    if b"\0" in data:
        raise SerError(f"{path} is not a text file: save it as plain text in UTF-8, or remove it.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_table(path: Path, blank: str | None = None) -> tuple[list[str], list[Record]]:
    """Columns and rows of a table; a row has the number of its line in an editor or a spreadsheet.

    A blank cell of CSV or TSV becomes `blank`; in JSON Lines null is None, and "" is a value. Raises SerError, with
    the line, for a file that is none of these.
    """
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        return _separated(path, DELIMITERS[suffix], blank)
    if suffix in JSON_LINES:
        return _json_lines(path)
    raise SerError(
        f"{path} ends in {suffix!r}: a table is read from {listing((*DELIMITERS, *JSON_LINES))}, "
        "so save it as one of these."
    )


def what_it_has(path: Path, columns: list[str], wanted: Iterable[str]) -> str:
    """`it has id, words`, for a message about missing columns; it says so if the table seems to have no header."""
    if path.suffix.lower() in DELIMITERS and not set(columns) & set(wanted):
        return f"its first row, which should name the columns, is {listing(columns)}"
    return f"it has {listing(columns)}"


def _separated(path: Path, delimiter: str, blank: str | None) -> tuple[list[str], list[Record]]:
    # Strict, because a quote that is never closed would otherwise take the rest of the table.
    text = read_text(path)
    header, _, rest = text.partition("\n")
    stated = _SEPARATOR.fullmatch(header.rstrip())
    skipped = 0
    if stated is not None:  # Excel writes and reads this line, which is no part of the table
        delimiter, text, skipped = stated["sign"], rest, 1
    elif header.count(";") > header.count(delimiter):
        delimiter = ";"  # so do spreadsheets in countries where the comma is the decimal sign
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    records: list[Record] = []
    try:
        columns = [cell.strip() for cell in next(reader, [])]
        twice = [column for column in columns if column and columns.count(column) > 1]
        if twice:
            raise SerError(
                f"{path} has the column {twice[0]!r} more than once: rename or remove one of them."
            )
        for cells in reader:
            if any(cell.strip() for cell in cells):  # spreadsheets leave rows that have only commas
                _refuse_misfit(cells, columns, f"{path}, row {reader.line_num + skipped}")
                texts = (cell.strip() or blank for cell in cells)
                records.append((reader.line_num + skipped, dict(zip(columns, texts, strict=False))))
    except csv.Error as error:
        raise SerError(
            f"{path}, row {reader.line_num + skipped}: it cannot be read as a table: {error}."
        ) from None
    return columns, records


def _refuse_misfit(cells: list[str], columns: list[str], where: str) -> None:
    """Raise SerError if a cell after the last column is not blank, or the cell of a named column is missing."""
    named = max((i for i, column in enumerate(columns, start=1) if column), default=0)
    if any(cells[len(columns) :]):
        expected, remedy = len(columns), "Put a cell that holds the separator in quotes."
    elif len(cells) < named:
        expected, remedy = named, "Restore what was cut off, or add blank cells to the row."
    else:
        return
    raise SerError(f"{where}: it has {len(cells)} cells, and the header {expected}. {remedy}")


def _refuse_unstorable(path: Path, number: int, cells: dict[str, str | None]) -> None:
    """Raise SerError for characters of JSON that our files cannot hold: NUL, and halves of surrogate pairs."""
    for column, cell in cells.items():
        if cell and ("\0" in cell or any("\ud800" <= character <= "\udfff" for character in cell)):
            raise SerError(f"{path}, row {number}: the {column} holds a NUL or half a character: remove it.")


def _json_lines(path: Path) -> tuple[list[str], list[Record]]:
    columns: dict[str, None] = {}
    records: list[Record] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise SerError(f"{path}, row {number}: it cannot be read as JSON: {error}.") from None
        if not isinstance(values, dict):
            raise SerError(
                f'{path}, row {number}: it should be an object, {{"file": ...}}, not {line.strip()!r}.'
            )
        columns |= dict.fromkeys(values)
        # Unlike a blank cell, "" is a value here: a transcript of a recording in which nobody speaks.
        texts = {column: None if value is None else str(value) for column, value in values.items()}
        _refuse_unstorable(path, number, texts)
        records.append((number, texts))
    return list(columns), records
