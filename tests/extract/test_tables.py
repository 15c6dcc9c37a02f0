"""Tables as spreadsheets and scripts really write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ser_memory.common.errors import SerError
from ser_memory.extract.tables import read_table


def read(path: Path, content: str | bytes) -> list[dict[str, str | None]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [cells for _, cells in read_table(path)[1]]


def test_semicolons_where_the_comma_is_the_decimal_sign(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", "id;text\na;x, y\n") == [{"id": "a", "text": "x, y"}]


def test_rows_of_only_commas_are_skipped(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", "id,text\na,x\n,,\n\n ,\n") == [{"id": "a", "text": "x"}]


def test_separators_at_the_headers_end_name_no_column(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", "id,text,,\na,x\nb,y,\n")[1]["text"] == "y"


def test_windows_quotes(tmp_path: Path) -> None:
    content = "id,text\na,\u201cit\u2019s\u201d\n".encode("cp1252")
    assert read(tmp_path / "t.csv", content) == [{"id": "a", "text": "\u201cit\u2019s\u201d"}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.csv", "id,text,id\na,b,c\n", "has the column 'id' more than once"),
        ("t.jsonl", '{"id": "a", "text": "x\\u0000"}\n', "row 1: the text holds a NUL"),
        ("t.jsonl", '{"id": "a", "text": "x\\ud83d"}\n', "row 1: the text holds a NUL or half a character"),
        ("t.csv", b"id,text\n\0", "is not a text file"),
        (
            "t.csv",
            "id,text,split\na,x,train\nb,y\n",
            "row 3: it has 2 cells, and the header 3. Restore what was cut",
        ),
        ("t.xlsx", "", "ends in '.xlsx': a table is read from .csv, .tsv, .jsonl, .ndjson"),
    ],
)
def test_what_is_refused(name: str, content: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(SerError, match=says):
        read(tmp_path / name, content)
