"""Other transcripts of the same recordings: a cache of their own, whose acoustic rows are those of the first."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from ser_memory.common.manifests import extraction_of
from ser_memory.extract.encoders.log_mel import LogMelEncoder
from tests.extract.test_reuse import ROWS, Clinic
from tests.models import save_text


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_text(tmp_path_factory.mktemp("text-only"))


@pytest.fixture
def clinic(tmp_path: Path, text_encoder: str) -> Clinic:
    clinic = Clinic(tmp_path / "clinic", text_encoder)
    clinic.extract()
    return clinic


def heard(clinic: Clinic, name: str, word: str) -> Path:
    """A file of transcripts in which one word of each text is another; a text of n words has a rate of 1 / n."""
    path = clinic.root / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for row, cells in clinic.table.items():
            writer.writerow([row, " ".join([word, *cells["transcript"].split()[1:]])])
    return path


def test_only_transcripts_are_encoded(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a recording was encoded")

    monkeypatch.setattr(LogMelEncoder, "encode", refuse)
    path = heard(clinic, "typist", "the")
    made = clinic.extract(transcripts=path, text_only=True)
    assert made.path.name == "clinic.typist.h5"
    base = clinic.extract()
    assert (made.read("acoustic") == base.read("acoustic")).all()
    assert not (made.read("text") == base.read("text")).all()
    assert list(made.read("id")) == list(base.read("id"))
    words = [len(cells["transcript"].split()) for cells in clinic.table.values()]
    assert made.info.compared == {
        "reference": "release",
        "word_error_rate": pytest.approx(ROWS / sum(words)),
        "words": sum(words),
    }
    assert base.info.compared == {}


def test_the_bytes_are_those_of_a_cache_from_nothing_but_for_the_comparison(clinic: Clinic) -> None:
    path = heard(clinic, "typist", "the")
    made = clinic.extract(transcripts=path, text_only=True)
    alone = clinic.extract("nothing", transcripts=path)
    for column in made.shapes:
        assert np.array_equal(made.read(column), alone.read(column), equal_nan=column == "dominance"), column


def test_it_is_made_once(clinic: Clinic) -> None:
    path = heard(clinic, "typist", "the")
    made = clinic.extract(transcripts=path, text_only=True)
    before = made.path.read_bytes()
    clinic.extract(transcripts=path, text_only=True)
    assert any("already has this content" in line for line in clinic.said)
    assert made.path.read_bytes() == before
    heard(clinic, "typist", "some")
    message = clinic.refused(transcripts=path, text_only=True)
    assert (
        f"add --overwrite, which encodes {len(set(_texts(path)))} transcripts and reuses {ROWS} rows"
        in message
    )
    again = clinic.extract(transcripts=path, text_only=True, overwrite=True)
    assert again.path.read_bytes() != before


def _texts(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def test_what_it_needs(clinic: Clinic) -> None:
    path = heard(clinic, "typist", "the")
    message = clinic.refused(cache="elsewhere", transcripts=path, text_only=True)
    assert (
        "elsewhere/clinic.h5, which does not exist: make it with ser-extract --corpus clinic.toml" in message
    )
    clinic.add("r99", 99)
    heard(clinic, "typist", "the")
    message = clinic.refused(transcripts=path, text_only=True)
    assert "has no acoustic row by the same encoder of 1 recording (r99)" in message
    assert "--overwrite" in message


def test_the_command_that_makes_such_a_cache() -> None:
    assert (
        extraction_of("iemocap.whisper") == "ser-extract --corpus iemocap --text-only --transcriber whisper"
    )
    assert extraction_of("clinic.2") == "ser-extract --corpus clinic.2.toml"
