"""Any corpus whose labels are in CSV, TSV or JSON Lines: its manifest names the columns."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ser_memory.common.conventions import UNKNOWN
from ser_memory.common.errors import SerError, listing
from ser_memory.common.manifests import Manifest
from ser_memory.extract.corpora.files import (
    Transcripts,
    gender_of,
    is_rating,
    label_files,
    rating,
    unique,
    walk,
)
from ser_memory.extract.corpora.names import RECORDINGS, Files, id_of, report_near
from ser_memory.extract.corpora.utterance import Utterance
from ser_memory.extract.tables import read_table, what_it_has

_REQUIRED = ("file", "activation", "valence")
_OPTIONAL = ("id", "speaker", "gender", "session", "split", "transcript", "dominance")
_MEASURED = ("duration",)  # allowed, and not read: the recording has it


@dataclass(frozen=True)
class Row:
    """One row, with our names of the columns."""

    where: str  # for messages: file and row
    cells: dict[str, str | None]  # None where the table has no value


def read(root: Path, manifest: Manifest) -> list[Utterance]:
    """All turns in the order of the table; recordings in the manifest's audio folders without a row come last."""
    texts = Transcripts(root, manifest)
    files = Files([root, *(root / folder for folder in manifest.audio)])
    turns = []
    for path in label_files(root, manifest):
        for row in rows(path, manifest):
            file = row.cells["file"] or ""
            audio = files.locate(file) if file else None
            literal = (
                audio is not None and "\\" in audio.name
            )  # a name with a backslash, not a path of Windows
            name = row.cells["id"] or (audio.stem if audio is not None and literal else id_of(file))
            if not name:
                raise SerError(f"{row.where}: the name of the recording is blank.")
            transcript = row.cells["transcript"]
            if transcript is None:
                transcript = texts.find(name)
            turns.append(utterance(row, manifest, name, audio, transcript))
    report_near(files.near, "recordings")
    texts.report()
    labelled = unique(turns)
    return labelled + _orphans(root, manifest, labelled)


def rows(path: Path, manifest: Manifest) -> Iterator[Row]:
    """The rows of a table, with its columns under our names.

    Raises SerError if the file is not a table, or lacks a column that is required, is named by the manifest, or is
    needed to split by the manifest's protocol.
    """
    known = (*_REQUIRED, *_OPTIONAL, *_MEASURED)
    strange = sorted(set(manifest.columns) - set(known))
    if strange:
        raise SerError(
            f"The manifest of {manifest.title} names a column for {listing(strange)}: "
            f"[columns] may name {listing(known)}."
        )
    columns = {name: manifest.columns.get(name, name) for name in known}
    needed = {*_REQUIRED, *manifest.columns, manifest.protocol.by}
    present, records = read_table(path)
    missing = [columns[name] for name in known if name in needed and columns[name] not in present]
    if missing:
        raise SerError(
            f"{path} lacks the column {listing(missing)}: {what_it_has(path, present, columns.values())}. "
            "Name its columns under [columns] in the manifest."
        )
    for number, record in records:
        yield Row(f"{path}, row {number}", {name: record.get(columns[name]) for name in known})


def utterance(
    row: Row,
    manifest: Manifest,
    name: str,
    audio: Path | None,
    transcript: str | None,
    withheld: bool = False,
) -> Utterance:
    """The utterance of a row, with its recording and transcript; of labels that are withheld, only those usable."""

    def rated(dimension: str) -> float:
        column = manifest.columns.get(dimension, dimension)
        if withheld and not is_rating(row.cells[dimension], manifest):
            return math.nan
        return rating(row.cells[dimension], name, f"{row.where}, column {column!r}", manifest)

    speaker = row.cells["speaker"] or UNKNOWN
    speaker = UNKNOWN if speaker.lower() == UNKNOWN.lower() else speaker
    return Utterance(
        id=name,
        audio=audio,
        activation=rated("activation"),
        valence=rated("valence"),
        dominance=rated("dominance"),
        speaker=speaker,
        gender=gender_of(row.cells["gender"]),
        transcript=transcript,
        session=row.cells["session"] or "",
        release_split=row.cells["split"] or "",
    )


def _real(path: Path) -> str:
    return os.path.realpath(path)  # unlike Path.resolve, without an error for links in a circle


def _orphans(root: Path, manifest: Manifest, labelled: list[Utterance]) -> list[Utterance]:
    """Recordings that no row names; the id is the stem, or the path below the root if the stem is taken."""
    named = {_real(turn.audio) for turn in labelled if turn.audio}
    taken = {turn.id for turn in labelled}
    orphans: dict[str, Utterance] = {}
    for path in walk(root, manifest.audio, RECORDINGS):
        if _real(path) in named:
            continue
        named.add(_real(path))  # the manifest's folders may overlap
        name = path.stem if path.stem not in taken else Path(os.path.relpath(path, root)).as_posix()
        taken.add(name)
        orphans[name] = Utterance(name, path, listed=False)
    return [orphans[name] for name in sorted(orphans)]
