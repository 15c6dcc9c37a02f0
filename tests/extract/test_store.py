"""The transcript store: records are on disk, damage is repaired or refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.transcripts.store import (
    Transcript,
    TranscriptStore,
    read_store,
    refuse_other_version,
    store_path,
    stored_transcribers,
    write_store,
)


def record(name: str, text: str = "so it goes", version: str = "v1") -> Transcript:
    return Transcript(
        name, text, "en", 0.9, "whisper", version, 3.2, "2024-01-01T00:00:00+00:00", "done", ("repetition",)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return store_path(tmp_path / "cache", "clinic", "whisper")


def fill(path: Path, *records: Transcript) -> None:
    with TranscriptStore.open(path) as store:
        for each in records:
            store.append(each)


def test_what_is_appended_is_read_again(path: Path) -> None:
    records = [record("a"), record("b", ""), record("c", 'a "quote"\n, a line, and \u2028 ümlauts 😀')]
    fill(path, *records[:2])
    fill(path, records[2])
    assert path.name == "clinic.whisper.transcripts.jsonl"
    assert list(read_store(path).values()) == records
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["id"] for line in lines[:-1]] == ["a", "b", "c"]


def test_a_record_is_on_disk_when_append_returns(path: Path) -> None:
    with TranscriptStore.open(path) as store:
        store.append(record("a"))
        assert list(read_store(path)) == ["a"]


def test_an_id_cannot_come_twice(path: Path) -> None:
    with TranscriptStore.open(path) as store:
        store.append(record("a"))
        with pytest.raises(ValueError, match="already"):
            store.append(record("a", "something else"))
    assert read_store(path)["a"].text == "so it goes"


def test_threads_may_append_at_once(path: Path) -> None:
    with TranscriptStore.open(path) as store, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.append(record(f"u{i}")), range(50)))
    assert set(read_store(path)) == {f"u{i}" for i in range(50)}


@pytest.mark.parametrize("tail", [b'{"id": "c", "te', b"\xff\xfe", b"\0" * 40, b'{"id": "c"}\n', b"\0\0\0\n"])
def test_a_last_line_cut_off_is_repaired(path: Path, tail: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    fill(path, record("a"), record("b"))
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert list(read_store(path)) == ["a", "b"]  # a reader ignores it
    assert path.read_bytes() == whole + tail
    with TranscriptStore.open(path) as store:
        assert f"its last line was incomplete and is removed ({len(tail)} bytes)" in capsys.readouterr().err
        assert path.read_bytes() == whole
        store.append(record("c"))
    assert list(read_store(path)) == ["a", "b", "c"]


def test_every_cut_of_the_file_is_repaired(path: Path) -> None:
    fill(path, *(record(name) for name in "abc"))
    data = path.read_bytes()
    line = len(data) // 3
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with TranscriptStore.open(path) as store:
            assert list(store.records) == list("abc"[: length // line])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["{}", "{a}", "{b}"], "line 1: it is not a transcript record"),
        (["{a}", '{"id": 7, "text": "x"}', "{b}"], "line 2: it is not a transcript record"),
        (["{a}", "{b}", "{a}"], "line 3: it has the id 'a' a second time"),
    ],
)
def test_damage_elsewhere_is_refused(path: Path, lines: list[str], says: str) -> None:
    for name in "ab":
        lines = [line.replace(f"{{{name}}}", json.dumps(asdict(record(name)))) for line in lines]
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    with pytest.raises(SerError, match=says), TranscriptStore.open(path):
        pass
    assert path.read_bytes() == before


def test_two_runs_do_not_write_one_store(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from ser_memory.extract.transcripts.store import TranscriptStore\n"
        f"with TranscriptStore.open(Path({str(path)!r})):\n"
        "    print('open', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(SerError, match="being written by another run"), TranscriptStore.open(path):
            pass
        os.kill(other.pid, signal.SIGKILL)
    fill(path, record("a"))  # the lock ends with its process


def test_a_full_disk_leaves_the_store_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(path, record("a"))
    before = path.read_bytes()
    parts: Iterator[int] = iter([1])
    real = os.write

    def write(handle: int, data: bytes) -> int:
        for _ in parts:
            return real(handle, data[:10])
        raise OSError(28, "No space left on device")

    with TranscriptStore.open(path) as store:
        monkeypatch.setattr("os.write", write)
        with pytest.raises(SerError, match=r"of b could not be written .* No space left on device"):
            store.append(record("b"))
        monkeypatch.undo()
        assert path.read_bytes() == before
        store.append(record("b"))
    assert list(read_store(path)) == ["a", "b"]


def test_versions_do_not_mix(path: Path) -> None:
    records = {"a": record("a")}
    refuse_other_version(path, records, "v1")
    with pytest.raises(SerError, match=r"holds transcripts of v1, and this is v2.* rename the file"):
        refuse_other_version(path, records, "v2")
    refuse_other_version(path, {}, "v2")


def test_an_empty_store_is_none(path: Path) -> None:
    with TranscriptStore.open(path):
        pass
    assert stored_transcribers(path.parent, "clinic") == []


def test_an_append_that_is_interrupted_leaves_no_half_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    with TranscriptStore.open(path) as store:
        store.append(record("a"))
        monkeypatch.setattr("os.fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append(record("b"))
        monkeypatch.undo()
        store.append(record("b", "again"))
    assert [each.text for each in read_store(path).values()] == ["so it goes", "again"]


def test_stores_are_found_by_name(tmp_path: Path) -> None:
    for name in ("whisper", "whisper-wer0.1"):
        write_store(store_path(tmp_path, "clinic", name), [record("a"), record("b")])
    write_store(store_path(tmp_path, "other", "azure"), [])
    assert stored_transcribers(tmp_path, "clinic") == ["whisper", "whisper-wer0.1"]
    assert list(read_store(store_path(tmp_path, "clinic", "whisper-wer0.1"))) == ["a", "b"]
    with pytest.raises(UsageError, match="make it with ser-transcribe"):
        read_store(store_path(tmp_path, "clinic", "azure"))
