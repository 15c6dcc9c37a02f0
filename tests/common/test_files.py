"""Files are whole or not there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ser_memory.common import files


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_content_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.csv"
    files.write_whole(path, "é\r\n")
    assert path.read_bytes() == "é\r\n".encode()
    files.write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["a.csv"]


def test_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    files.write_whole(path, "one")
    with pytest.raises(TypeError):
        files.write_whole(path, 2)  # type: ignore[arg-type]
    assert (path.read_text(), names(tmp_path)) == ("one", ["a.csv"])


def test_two_writers_of_one_file_have_different_partial_files(tmp_path: Path) -> None:
    """Also when both have the same process id, as in two containers that share a folder."""
    path = tmp_path / "a.csv"
    with files.replacing(path) as one, files.replacing(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (path.read_text(), names(tmp_path)) == ("one", ["a.csv"])


def test_only_abandoned_partial_files_are_removed(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "a.csv") as running, files.replacing(tmp_path / "b.csv") as killed:
        running.write_text("")
        killed.write_text("")
        hours_ago = time.time() - 7200
        os.utime(killed, (hours_ago, hours_ago))
        files.remove_abandoned(tmp_path)
        assert running.exists()
        assert not killed.exists()
        killed.write_text("")  # so that the block can end


def test_partial_files_of_one_file_are_removed(tmp_path: Path) -> None:
    for name in ("a[1].csv.0123.partial", "a1.csv.0123.partial", "a[1].csv"):
        (tmp_path / name).touch()
    files.remove_partial(tmp_path / "a[1].csv")
    assert names(tmp_path) == ["a1.csv.0123.partial", "a[1].csv"]
