"""Files, folders, tables and lists name recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from ser_memory.common.errors import SerError, UsageError
from ser_memory.train.predict.inputs import Input, find_inputs, with_texts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "calls/b.wav",
        "calls/a.FLAC",
        "calls/deep/c.mp3",
        "calls/notes.txt",
        "calls/._b.wav",
        "d.wav",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_folders_and_a_list_each_recording_once(folder: Path) -> None:
    found = find_inputs(["d.wav", "calls", "-", "absent.wav"], ["calls/b.wav\n", "\n", "e f.wav\n"])
    assert [str(each.path) for each in found] == [
        "d.wav", "calls/a.FLAC", "calls/b.wav", "calls/deep/c.mp3", "e f.wav", "absent.wav",
    ]  # fmt: skip
    assert [each.key for each in found] == ["d", "a", "b", "c", "e f", "absent"]
    assert {each.id for each in found} == {None}


def test_a_table_is_relative_to_itself_or_to_here(folder: Path) -> None:
    (folder / "calls" / "list.csv").write_text(
        "ID,File,Transcript\nx,b.wav,so good\n,deep\\c.mp3,\n,d.wav,bad\n,nowhere.wav,\ny,b.wav,so good\nx,b.wav,so good\n"
    )
    found = find_inputs(["calls/list.csv"], [])
    assert found == [
        Input(Path("calls/b.wav"), "x", "so good"),
        Input(Path("calls/deep/c.mp3"), None, None),
        Input(Path("d.wav"), None, "bad"),
        Input(Path("calls/nowhere.wav"), None, None),
        Input(Path("calls/b.wav"), "y", "so good"),
    ]


def test_what_a_table_says_of_a_recording_counts_beside_its_folder(folder: Path) -> None:
    (folder / "calls" / "list.csv").write_text("file,id\nb.wav,x\nb.wav,y\n")
    found = find_inputs(["calls", "calls/list.csv", "d.wav"], [])
    assert [(str(each.path), each.id) for each in found] == [
        ("calls/a.FLAC", None), ("calls/deep/c.mp3", None), ("calls/b.wav", "x"), ("calls/b.wav", "y"), ("d.wav", None),
    ]  # fmt: skip


def test_json_lines_know_a_text_without_words(folder: Path) -> None:
    (folder / "list.jsonl").write_text(
        '{"path": "d.wav", "text": ""}\n{"path": "calls/b.wav", "text": null}\n'
    )
    assert [each.text for each in find_inputs(["list.jsonl"], [])] == ["", None]


def test_texts_of_a_file_come_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [
        Input(Path("calls/b.wav"), "b", "old"),
        Input(Path("d.wav"), "d", "kept"),
        Input(Path("e.wav"), "e"),
    ]
    (folder / "texts.csv").write_text("id,text\nb.wav,new\nstrange,x\n")
    assert [each.text for each in with_texts(inputs, Path("texts.csv"))] == ["new", "kept", None]
    assert "1 ids of texts.csv are of no recording here: strange." in capsys.readouterr().err


def test_what_cannot_be_used(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "bad.csv").write_text("name\nx\n")
    (folder / "blank.csv").write_text("file,text\nd.wav,a\n,b\n")
    for named, error, message in (
        ("empty", UsageError, "The folder empty has no recordings: .aif"),
        ("none.csv", UsageError, "There is no table none.csv"),
        ("bad.csv", SerError, "bad.csv lacks the column file"),
        ("blank.csv", SerError, "blank.csv, row 3, names no file"),
        ("-", UsageError, "No recording is named"),
    ):
        with pytest.raises(error, match=message):
            find_inputs([named], [])
    with pytest.raises(SerError, match="have the same id 'a'"):
        with_texts([Input(Path("x/a.wav"), "a"), Input(Path("y/a.wav"), "a")], Path("texts.csv"))
