"""One row in place of all texts: it is found again and never mixed up with the rows of texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ser_memory.extract.encoders import identify_text
from ser_memory.extract.neutral import NeutralText
from tests.extract.test_reuse import Clinic, Spy, clinic, spy, text

assert text  # the fixtures
assert clinic
assert spy


@pytest.fixture
def neutral(clinic: Clinic) -> NeutralText:
    rows = clinic.extract("cache").read("text")
    return NeutralText(rows.mean(axis=0), identify_text(clinic.text))


def test_no_transcript_is_needed_and_no_text_encoder(clinic: Clinic, spy: Spy, neutral: NeutralText) -> None:
    texted = clinic.extract()
    for row in clinic.table.values():
        row["transcript"] = ""
    made = clinic.extract("neutral", neutral=neutral, text_encoder="/not/there")
    assert len(made) == len(texted)
    assert spy.counts == (1, len(made), 0)
    assert not any("reused" in line for line in clinic.said)
    assert (made.read("text") == neutral.row).all()
    assert (made.read("acoustic") == texted.read("acoustic")).all()
    assert made.info.transcriber == neutral.name
    clinic.extract("neutral", neutral=neutral, text_encoder="/not/there")
    assert "already has this content" in clinic.said[0]


def test_rows_of_texts_and_the_neutral_row_do_not_mix(clinic: Clinic, neutral: NeutralText) -> None:
    """In both directions and from one neutral row to another; "" is a text too, and its row another."""
    clinic.extract(overwrite=True, transcripts=empty_texts(clinic))
    assert clinic.reused(neutral=neutral) == "12 rows are reused, nothing is encoded."
    other = NeutralText(neutral.row + 1, neutral.encoder)
    message = clinic.refused(neutral=other)
    assert "it differs in transcriber" in message
    assert "encodes nothing and reuses 12 rows" in message
    assert clinic.reused(neutral=other) == "12 rows are reused, nothing is encoded."
    assert clinic.reused(transcripts=empty_texts(clinic)) == "12 rows are reused, 1 transcript is encoded."


def test_parts_of_texts_do_not_mix_either(
    clinic: Clinic, neutral: NeutralText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extraction that was stopped just before its cache left a part with the row of the text ""."""
    with monkeypatch.context() as patch:
        patch.setattr("ser_memory.extract.pipeline.merge", _stop)
        with pytest.raises(KeyboardInterrupt):
            clinic.extract("stopped", transcripts=empty_texts(clinic))
    assert len(list((clinic.root / "stopped" / "clinic.parts").rglob("part-*"))) == 2
    made = clinic.extract("stopped", neutral=neutral)
    assert any("Continuing: 2 finished parts" in line for line in clinic.said)
    assert any("nothing is encoded" in line for line in clinic.said)
    assert (made.read("text") == neutral.row).all()
    assert made.path.read_bytes() == clinic.extract("whole", neutral=neutral).path.read_bytes()


def empty_texts(clinic: Clinic) -> Path:
    """A file that says of every recording that nothing was said."""
    path = clinic.root / "texts.csv"
    path.write_text("id,text\n" + "".join(f"{name},\n" for name in clinic.table))
    return path


def _stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"transcriber": "whisper"}, "--transcriber whisper would have no effect"),
        ({"transcripts": Path("t.csv")}, "--transcripts t.csv would have no effect"),
        ({"text_only": True}, "--text-only would have no effect"),
    ],
)
def test_options_about_texts_are_refused(
    clinic: Clinic, neutral: NeutralText, options: dict[str, object], says: str
) -> None:
    assert says in clinic.refused(neutral=neutral, **options)


def test_the_name_tells_rows_apart(neutral: NeutralText) -> None:
    assert neutral.name == NeutralText(neutral.row.copy(), neutral.encoder).name
    assert neutral.name != NeutralText(np.nextafter(neutral.row, 9), neutral.encoder).name
