"""What the user names on the command line -> recordings with their texts, as far as a table has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.reporting import notice
from ser_memory.extract.corpora.files import walk
from ser_memory.extract.corpora.names import RECORDINGS, Files, as_path, by_id
from ser_memory.extract.tables import DELIMITERS, JSON_LINES, read_table, what_it_has
from ser_memory.extract.transcripts.files import read_transcripts

STANDARD_INPUT = "-"
_FILE, _TEXT = ("file", "path", "filename"), ("text", "transcript")  # names of columns, in any case


@dataclass(frozen=True)
class Input:
    """A recording to rate."""

    path: Path
    id: str | None = None  # None: no table has one
    text: str | None = None  # None: no table has one

    @property
    def key(self) -> str:
        """By which a file of id and text names it."""
        return self.id or self.path.stem


def find_inputs(named: Iterable[str], standard_input: Iterable[str]) -> list[Input]:
    """The recordings that files, folders, tables and `-`, a list of paths on standard input, name.

    Each is there once, or once for every pair of id and text that tables give it. Raises UsageError for a folder without
    recordings, and SerError for a table that cannot be used.
    """
    found: list[Input] = []
    for name in named:
        if name == STANDARD_INPUT:
            found += (Input(Path(line.strip())) for line in standard_input if line.strip())
        else:
            found += _named(Path(name))
    if not found:
        raise UsageError(
            "No recording is named: give files, folders, a table with the column file, or - for a list."
        )
    described = {each.path for each in found if each != Input(each.path)}
    return [each for each in dict.fromkeys(found) if each != Input(each.path) or each.path not in described]


def with_texts(inputs: Sequence[Input], file: Path) -> list[Input]:
    """The recordings with the texts of a file of id and text; its texts come before those of a table.

    A notice counts ids that no recording has. Raises SerError if two recordings have the same id.
    """
    paths: dict[str, Path] = {}
    for each in inputs:
        if paths.setdefault(each.key, each.path) != each.path:
            raise SerError(
                f"{paths[each.key]} and {each.path} have the same id {each.key!r}, so that the texts of {file} fit both: "
                "give a table with the columns file and text instead."
            )
    texts, unknown = by_id(read_transcripts(file), list(paths), file)
    if unknown:
        notice(f"{len(unknown)} ids of {file} are of no recording here: {listing(sorted(unknown), most=5)}.")
    return [replace(each, text=texts.get(each.key, each.text)) for each in inputs]


def _named(path: Path) -> list[Input]:
    if path.is_dir():
        recordings = [Input(each) for each in walk(path, ["."], RECORDINGS)]
        if not recordings:
            raise UsageError(
                f"The folder {path} has no recordings: {listing(sorted(RECORDINGS))} are looked for."
            )
        return recordings
    if path.suffix.lower() in (*DELIMITERS, *JSON_LINES):
        return list(_of_table(path))
    return [Input(path)]


def _of_table(path: Path) -> Iterator[Input]:
    """The rows of a table; a path is relative to the table's folder, or else to the current one."""
    if not path.exists():
        raise UsageError(f"There is no table {path}: check its path.")
    columns, records = read_table(path)
    column = {name.lower(): name for name in reversed(columns)}
    file, text = (next((column[name] for name in names if name in column), None) for names in (_FILE, _TEXT))
    if file is None:
        raise SerError(f"{path} lacks the column file: {what_it_has(path, columns, _FILE)}.")
    files = Files([path.parent, Path()])
    for line, record in records:
        named = record.get(file)
        if not named:
            raise SerError(f"{path}, row {line}, names no file: every row needs one.")
        found = files.locate(named) or path.parent / as_path(named)
        yield Input(found, record.get(column.get("id", "")) or None, record.get(text or ""))
