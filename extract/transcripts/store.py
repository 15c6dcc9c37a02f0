"""Transcript stores: one append-only file per corpus and transcriber, which survives a kill at any moment."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.files import write_whole
from ser_memory.common.reporting import notice

SUFFIX = ".transcripts.jsonl"


@dataclass(frozen=True)
class Transcript:
    """One line of a store."""

    id: str
    text: str  # "" is a result: there is no speech
    language: str | None
    confidence: float | None  # 0 to 1, on the engine's own scale
    engine: str
    version: str  # of model, revision and language
    duration: float  # seconds of audio
    time: str  # of the transcription, ISO 8601, UTC
    status: str  # as the engine reported it
    flags: tuple[str, ...] = ()  # why it may be wrong, of FLAGS in transcripts.quality.flags


class TranscriptStore:
    """A store that this process alone may write. Every record is on disk when `append` returns.

    `records` maps id -> Transcript. Threads may append at the same time. Each id can be appended only once.
    """

    def __init__(self, path: Path, records: dict[str, Transcript], handle: int) -> None:
        self.path = path
        self.records = records
        self._handle = handle
        self._mutex = threading.Lock()

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[TranscriptStore]:
        """Open or create the store. An incomplete last line is removed, with a notice.

        The file is removed at the end if it is empty. Raises SerError if another process has it open, or if a
        line before the last is damaged.
        """
        from ser_memory.common.locks import sole_access

        path.parent.mkdir(parents=True, exist_ok=True)
        busy = SerError(
            f"{path} is being written by another run: wait until that run ends, because both would transcribe the same "
            "recordings."
        )
        with sole_access(path.with_name(f".{path.name}.lock"), busy, "--cache"):
            records, whole = _scan(path)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                _repair(handle, path, whole)
                yield cls(path, records, handle)
            finally:
                if not os.fstat(handle).st_size:
                    path.unlink(missing_ok=True)
                os.close(handle)

    def append(self, record: Transcript) -> None:
        """Add one record and write it to the disk.

        Raises ValueError if the store has the id, and SerError if the disk fails; the file then stays as it was.
        """
        line = _line(record)
        with self._mutex:
            if record.id in self.records:
                raise ValueError(f"{record.id} is already in {self.path}")
            before = os.fstat(self._handle).st_size
            try:
                _write(self._handle, line)
                os.fsync(self._handle)
            except BaseException as error:  # also Ctrl-C: no half line may remain
                os.ftruncate(self._handle, before)
                if not isinstance(error, OSError):
                    raise
                raise SerError(
                    f"The transcript of {record.id} could not be written to {self.path}: {error.strerror}."
                ) from error
            self.records[record.id] = record


def refuse_other_version(path: Path, records: Mapping[str, Transcript], version: str) -> None:
    """Raise SerError if a record of the store is from another version of its engine."""
    others = sorted({record.version for record in records.values()} - {version})
    if others:
        aside = path.name.removesuffix(SUFFIX) + "-1" + SUFFIX
        raise SerError(
            f"{path} holds transcripts of {others[0]}, and this is {version}: use the same model and language, or "
            f"rename the file (for example to {aside}), and its transcripts stay usable under the new name."
        )


def store_path(folder: Path, corpus: str, transcriber: str) -> Path:
    """The store's path, <folder>/<corpus>.<transcriber>.transcripts.jsonl."""
    return folder / f"{corpus}.{transcriber}{SUFFIX}"


def stored_transcribers(folder: Path, corpus: str) -> list[str]:
    """The sorted names of the transcribers whose stores for this corpus are in the folder."""
    prefix = f"{corpus}."
    return sorted(
        path.name.removeprefix(prefix).removesuffix(SUFFIX)
        for path in folder.glob(f"*{SUFFIX}")
        if path.name.startswith(prefix)
    )


def read_store(path: Path) -> dict[str, Transcript]:
    """Read a store, id -> Transcript, without changing it; an incomplete last line is ignored.

    Raises UsageError if the store does not exist, and SerError if another line is damaged.
    """
    if not path.exists():
        raise UsageError(f"There is no transcript store {path}: make it with ser-transcribe.")
    return _scan(path)[0]


def write_store(path: Path, records: Iterable[Transcript]) -> None:
    """Write a whole store to `path`, or nothing if that fails. Replaces a store that exists. Raises OSError."""
    write_whole(path, b"".join(map(_line, records)))


def _line(record: Transcript) -> bytes:
    return (json.dumps(asdict(record), ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _scan(path: Path) -> tuple[dict[str, Transcript], int]:
    """The records of a store, and the length in bytes of its complete lines."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}, 0
    records: dict[str, Transcript] = {}
    whole = 0
    lines = data.split(b"\n")  # after the last newline there is an incomplete line, or nothing
    for number, line in enumerate(lines[:-1], start=1):
        record = _parse(line)
        if record is None and number == len(lines) - 1 and lines[-1] == b"":
            break  # the last line: after a power cut a file may have its length but not its content
        if record is None:
            raise SerError(
                f"{path}, line {number}: it is not a transcript record. Correct or remove the line."
            )
        if record.id in records:
            raise SerError(
                f"{path}, line {number}: it has the id {record.id!r} a second time. Remove one of the two."
            )
        records[record.id] = record
        whole += len(line) + 1
    return records, whole


def _parse(line: bytes) -> Transcript | None:
    """The record of a line, or None if the line is not a record."""
    try:
        values = json.loads(line)
        known = {field.name: values[field.name] for field in fields(Transcript) if field.name in values}
        record = Transcript(**{**known, "flags": tuple(known.get("flags", ()))})
    except (ValueError, TypeError):
        return None
    return record if record.id and isinstance(record.id, str) and isinstance(record.text, str) else None


def _repair(handle: int, path: Path, whole: int) -> None:
    beyond = os.fstat(handle).st_size - whole
    if beyond > 0:
        os.ftruncate(handle, whole)
        os.fsync(handle)
        notice(
            f"{path}: its last line was incomplete and is removed ({beyond} bytes); that recording will be "
            "transcribed again."
        )
