"""What is written is read back by the programs that it is for."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ser_memory.common.errors import UsageError
from ser_memory.common.reporting import Silent, reporting_to
from ser_memory.train.predict.formats import WRITERS, table_rows
from ser_memory.train.predict.plot import write_plot
from ser_memory.train.predict.ratings import FLAGS, Heard, Rating, rating_of
from ser_memory.train.predict.settings import OutputSettings

DIMENSIONS = ("activation", "valence", "dominance")
FILES = ("calls/ä, b.wav", "c.flac")


class Notices(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def notice(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def ratings() -> list[Rating]:
    random = np.random.default_rng(0)
    made = []
    for number, file in enumerate(FILES):
        ends = np.array([29.25, 7150.0625])[: 2 - number]
        n = len(ends)
        heard = Heard(
            np.array([0.0, *ends[:-1]]), ends, np.zeros(n, bool), np.ones(n, bool), np.full(n, 0.5),
            random.uniform(-1.2, 1.2, (3, n, 3)), ["good; \"day\"", None][:n] if number == 0 else [None],
        )  # fmt: skip
        made.append(rating_of(file, DIMENSIONS, heard, 3.0))
    return made


def test_csv_and_json_lines_have_the_same_content(ratings: list[Rating]) -> None:
    rows = list(csv.DictReader(io.StringIO(WRITERS["csv"](ratings, DIMENSIONS, False))))
    objects = [json.loads(line) for line in WRITERS["jsonl"](ratings, DIMENSIONS, False).splitlines()]
    assert [row["file"] for row in rows] == list(FILES)
    for row, each, rating in zip(rows, objects, ratings, strict=True):
        assert rating.values is not None
        for name, value in rating.values.items():
            assert float(row[name]) == each[name] == pytest.approx(value, abs=1e-6)
        assert float(row["duration"]) == each["duration"] == rating.duration
        assert row["flags"].split() == each["flags"] == ["clipped"]
        assert row["text"] == each.get("text", "")
    assert rows[0]["text"] == 'good; "day"'
    assert float(rows[0]["valence_spread"]) > 0


def test_a_row_per_window(ratings: list[Rating]) -> None:
    rows = list(csv.DictReader(io.StringIO(WRITERS["csv"](ratings, DIMENSIONS, True))))
    assert [(row["file"], float(row["start"]), float(row["end"])) for row in rows] == [
        (FILES[0], 0, 29.25), (FILES[0], 29.25, 7150.0625), (FILES[1], 0, 29.25),
    ]  # fmt: skip
    assert len(table_rows(ratings, DIMENSIONS, True)) == 1 + 3


@pytest.mark.parametrize("track", [False, True])
def test_audformat_reads_its_table(ratings: list[Rating], track: bool, tmp_path: Path) -> None:
    audformat = pytest.importorskip("audformat")
    path = tmp_path / "ratings.csv"
    path.write_text(WRITERS["audformat"](ratings, DIMENSIONS, track), encoding="utf-8")
    table = audformat.utils.read_csv(path)
    assert audformat.is_segmented_index(table.index)
    assert list(table.columns) == ["arousal", "valence", "dominance", *FLAGS]
    expected = [part for rating in ratings for part in (rating.track if track else [rating])]
    assert len(table) == len(expected)
    values_of, flags_of = table[["arousal", "valence", "dominance"]].to_numpy(), table[list(FLAGS)]
    assert set(flags_of.dtypes) == {np.dtype(bool)}
    for (file, start, end), values, flags, part in zip(
        table.index, values_of, flags_of.to_numpy(), expected, strict=True
    ):
        assert file in FILES
        assert start.total_seconds() == getattr(part, "start", 0.0)
        assert end.total_seconds() == getattr(part, "end", getattr(part, "duration", None))
        assert part.values is not None
        assert values == pytest.approx(list(part.values.values()), abs=1e-6)
        assert tuple(np.array(FLAGS)[flags]) == part.flags == ("clipped",)


def test_ids_of_a_table(ratings: list[Rating], tmp_path: Path) -> None:
    """Every format that may has them; a recording without an id has an empty cell."""
    named = [replace(ratings[0], id="ä, 1"), replace(ratings[0], id="2"), ratings[1]]
    rows = list(csv.DictReader(io.StringIO(WRITERS["csv"](named, DIMENSIONS, False))))
    assert [(row["file"], row["id"]) for row in rows] == [(FILES[0], "ä, 1"), (FILES[0], "2"), (FILES[1], "")]
    objects = [json.loads(line) for line in WRITERS["jsonl"](named, DIMENSIONS, True).splitlines()]
    assert [each.get("id") for each in objects] == ["ä, 1"] * 2 + ["2"] * 2 + [None]
    headers, *shown = table_rows(named, DIMENSIONS, False)
    assert [row[headers.index("id")] for row in shown] == ["ä, 1", "2", "-"]
    assert "id" not in table_rows(ratings, DIMENSIONS, False)[0]
    assert WRITERS["msp"](named, DIMENSIONS, False).startswith("FileName,EmoAct,EmoVal,EmoDom\n")
    audformat = pytest.importorskip("audformat")
    path = tmp_path / "ratings.csv"
    path.write_text(WRITERS["audformat"](named, DIMENSIONS, False), encoding="utf-8")
    assert list(audformat.utils.read_csv(path)["id"].fillna("")) == ["ä, 1", "2", ""]


@pytest.mark.parametrize(("kind", "column"), [("msp", "FileName"), ("audformat", "file")])
def test_rows_that_cannot_be_told_apart_are_named(ratings: list[Rating], kind: str, column: str) -> None:
    twice, notices = replace(ratings[0], id="2"), Notices()
    with reporting_to(notices):
        WRITERS[kind](ratings, DIMENSIONS, False)
        assert not [line for line in notices.lines if "tell apart" in line]
        WRITERS[kind]([*ratings, twice], DIMENSIONS, False)
    (line,) = [line for line in notices.lines if "tell apart" in line]
    assert f"since {column} is all they are known by: " in line
    assert Path(FILES[0]).name in line


def test_the_challenge_table(ratings: list[Rating]) -> None:
    lines = WRITERS["msp"]([rating.on_scale(1, 7) for rating in ratings], DIMENSIONS, False).splitlines()
    assert lines[0] == "FileName,EmoAct,EmoVal,EmoDom"
    name, *numbers = next(csv.reader(lines[1:]))
    assert name == "ä, b.wav"
    assert ratings[0].values is not None
    assert [float(n) for n in numbers] == pytest.approx(
        [4 + 3 * v for v in ratings[0].values.values()], abs=1e-5
    )


def test_the_challenge_table_without_dominance(ratings: list[Rating]) -> None:
    two = [replace(rating, values={"activation": 2.0, "valence": 3.0}) for rating in ratings]
    notices = Notices()
    with reporting_to(notices):
        lines = WRITERS["msp"](two, DIMENSIONS[:2], False).splitlines()
    assert lines[0] == "FileName,EmoAct,EmoVal"
    assert notices.lines == [
        "EmoDom is left out: the bundle does not predict dominance.",
        "2 of 2 recordings have flags (clipped), which this format has no column for: --format csv has one.",
    ]


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".png", b"\x89PNG")])
def test_a_drawing_of_the_track(ratings: list[Rating], suffix: str, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"track{suffix}"
    write_plot(path, ratings, DIMENSIONS, (-1, 1))
    drawn = path.read_bytes()
    assert drawn.startswith(start)
    if suffix == ".svg":
        for word in ("seconds", "minutes", "dominance", "calls/ä, b.wav", "<desc>"):
            assert word in drawn.decode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "7:1"}, "--scale '7:1' must be two rising numbers, such as"),
        ({"scale": "1"}, "--scale '1' must be"),
        ({"scale": "0:inf"}, "--scale '0:inf' must be"),
        ({"scale": "a:b"}, "--scale 'a:b' must be"),
        ({"plot": Path("x.jpg")}, "must end in .svg, .png or .pdf"),
        ({"output": Path("x.txt")}, "needs a --format"),
        ({"format": "msp", "track": True}, "leave out --track and --scale"),
        ({"format": "msp", "scale": "0:1"}, "leave out --track and --scale"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OutputSettings.take(options)


def test_the_format_follows_the_name_of_the_output() -> None:
    assert OutputSettings(output=Path("a.jsonl")).kind == "jsonl"
    assert OutputSettings(output=Path("a.CSV")).kind == "csv"
    assert OutputSettings(output=Path("a.csv"), format="audformat").kind == "audformat"
    assert OutputSettings().kind == "table"
    assert OutputSettings(format="msp").ends == (1, 7)
    assert OutputSettings(scale="0:1").ends == (0, 1)
