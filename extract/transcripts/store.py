"""What was heard, by whom: one append-only file per corpus and transcriber, which survives a kill at any moment."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.reporting import notice

SUFFIX = ".transcripts.jsonl"


@dataclass(frozen=True)
class Transcript:
    """One line of a store."""

    id: str
    text: str  # "" is a value: nothing was said
    language: str | None
    confidence: float | None  # 0 to 1, on the engine's own scale
    engine: str
    version: str  # of model, revision and language
    duration: float  # seconds of audio
    time: str  # when it was heard, ISO 8601, UTC
    status: str  # as the engine told it
    flags: tuple[str, ...] = ()  # why it may be wrong: keys of extract.transcripts.suspicion


class TranscriptStore:
    """A store opened for writing, by this process alone. Every record is on disk when `append` returns.

    `records` maps id -> Transcript. Threads may append at once; an id can be appended only once.
    """

    def __init__(self, path: Path, records: dict[str, Transcript], handle: int) -> None:
        self.path = path
        self.records = records
        self._handle = handle
        self._mutex = threading.Lock()

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[TranscriptStore]:
        """Open or create the store; a last line that was cut off is removed, and a notice says so.

        A store that is empty in the end is no store, and is removed. Raises SerError when another process
        writes it, or when it is damaged elsewhere.
        """
        from filelock import FileLock, Timeout

        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SerError(
                f"{path} is being written by another run: wait until that has ended, since what both would "
                "ask for would be asked twice."
            ) from None
        try:
            records, whole = _scan(path)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                _repair(handle, path, whole)
                yield cls(path, records, handle)
            finally:
                if not os.fstat(handle).st_size:
                    path.unlink(missing_ok=True)
                os.close(handle)
        finally:
            lock.release()

    def append(self, record: Transcript) -> None:
        """Add one record and flush it to the disk.

        Raises ValueError for an id that is there, SerError when the disk refuses; the file is then as before.
        """
        line = _line(record)
        with self._mutex:
            if record.id in self.records:
                raise ValueError(f"{record.id} is in {self.path} already")
            before = os.fstat(self._handle).st_size
            try:
                _write(self._handle, line)
                os.fsync(self._handle)
            except BaseException as error:  # Ctrl-C too leaves no half line
                os.ftruncate(self._handle, before)
                if not isinstance(error, OSError):
                    raise
                raise SerError(
                    f"The transcript of {record.id} could not be written to {self.path}: {error.strerror}."
                ) from error
            self.records[record.id] = record


def refuse_other_version(path: Path, records: Mapping[str, Transcript], version: str) -> None:
    """Raise SerError if a store holds what another version of its engine heard."""
    others = sorted({record.version for record in records.values()} - {version})
    if others:
        aside = path.name.removesuffix(SUFFIX) + "-1" + SUFFIX
        raise SerError(
            f"{path} holds what {others[0]} heard, and this is {version}: go on with the same model and "
            f"language, or rename the file (to {aside}, say), whose transcripts remain usable by that name."
        )


def store_path(folder: Path, corpus: str, transcriber: str) -> Path:
    """<folder>/<corpus>.<transcriber>.transcripts.jsonl"""
    return folder / f"{corpus}.{transcriber}{SUFFIX}"


def stored_transcribers(folder: Path, corpus: str) -> list[str]:
    """Names of the transcribers of which the folder has a store for this corpus."""
    prefix = f"{corpus}."
    return sorted(
        path.name.removeprefix(prefix).removesuffix(SUFFIX)
        for path in folder.glob(f"*{SUFFIX}")
        if path.name.startswith(prefix)
    )


def read_store(path: Path) -> dict[str, Transcript]:
    """id -> Transcript of a store that is only read; a last line that was cut off does not count.

    Raises UsageError when there is none, SerError for a damaged one.
    """
    if not path.exists():
        raise UsageError(f"There is no transcript store at {path}: make it with ser-transcribe.")
    return _scan(path)[0]


def write_store(path: Path, records: Iterable[Transcript]) -> None:
    """Write a whole store to `path`, or nothing, in place of one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    try:
        with aside.open("wb") as file:
            file.writelines(_line(record) for record in records)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _line(record: Transcript) -> bytes:
    return (json.dumps(asdict(record), ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _scan(path: Path) -> tuple[dict[str, Transcript], int]:
    """The records of a store, and the length in bytes of its whole lines."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}, 0
    records: dict[str, Transcript] = {}
    whole = 0
    lines = data.split(b"\n")  # what follows the last newline is cut off, or nothing
    for number, line in enumerate(lines[:-1], start=1):
        record = _parse(line)
        if record is None and number == len(lines) - 1 and lines[-1] == b"":
            break  # the last line: a disk that lost power keeps the length and not always the content
        if record is None:
            raise SerError(f"{path}, line {number}: it is no transcript record. Correct or remove the line.")
        if record.id in records:
            raise SerError(
                f"{path}, line {number}: it has {record.id!r} a second time. Remove one of the two."
            )
        records[record.id] = record
        whole += len(line) + 1
    return records, whole


def _parse(line: bytes) -> Transcript | None:
    """The record of a line; None when it is none."""
    try:
        told = json.loads(line)
        known = {name: told[name] for name in (item.name for item in fields(Transcript)) if name in told}
        record = Transcript(**{**known, "flags": tuple(known.get("flags", ()))})
    except (ValueError, TypeError):
        return None
    return record if record.id and isinstance(record.id, str) and isinstance(record.text, str) else None


def _repair(handle: int, path: Path, whole: int) -> None:
    beyond = os.fstat(handle).st_size - whole
    if beyond > 0:
        os.ftruncate(handle, whole)
        os.fsync(handle)
        notice(f"{path}: its last line was cut off and is removed ({beyond} bytes); it will be heard again.")
