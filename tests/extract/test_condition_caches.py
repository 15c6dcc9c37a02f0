"""ser-extract --condition: a cache of the test splits, in another acoustic condition."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ser_memory.common.cache import FeatureCache
from ser_memory.common.manifests import extraction_of, load
from ser_memory.extract import audio
from ser_memory.extract.cli import main
from ser_memory.extract.conditions import heard_in, parse_condition
from ser_memory.extract.corpora import Utterance, of_test_splits, with_splits
from ser_memory.extract.encoders import EncoderOptions, load_acoustic
from ser_memory.extract.encoders.text import BertEncoder
from ser_memory.extract.parts import Parts
from ser_memory.extract.rows import ACOUSTIC_HALF, TEXT_HALF
from tests.extract.test_reuse import Clinic
from tests.models import save_text

CONDITIONS = ("telephone", "noise:10", "room")


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_text(tmp_path_factory.mktemp("conditions-text"))


@pytest.fixture
def clinic(tmp_path: Path, text_encoder: str) -> Clinic:
    clinic = Clinic(tmp_path / "clinic", text_encoder)
    clinic.extract()
    return clinic


@pytest.mark.parametrize("condition", CONDITIONS)
def test_rows_are_those_of_the_test_recordings_in_the_condition(clinic: Clinic, condition: str) -> None:
    plain, made = clinic.extract(), clinic.extract(condition=condition)
    assert made.path.name == f"clinic.{condition.replace(':', '-')}.h5"
    assert made.info.condition == condition
    here = plain.read("split") == "test"
    assert 0 < here.sum() < len(here)
    for column in plain.shapes:
        if column != "acoustic":
            ours, theirs = made.read(column), plain.read(column)[here]
            assert np.array_equal(ours, theirs, equal_nan=column == "dominance"), column
    encoder = load_acoustic("log-mel", torch.device("cpu"), EncoderOptions())
    for name, recording, row in zip(
        made.read("id"), made.read("recording"), made.read("acoustic"), strict=True
    ):
        waveform = audio.load(clinic.root / "audio" / f"{name}.wav")
        heard = heard_in(waveform, parse_condition(condition), recording)
        np.testing.assert_array_equal(encoder.encode([heard])[0].numpy(), row)
        assert not np.array_equal(encoder.encode([waveform])[0].numpy(), row)


def test_rows_do_not_depend_on_workers_names_and_order(clinic: Clinic) -> None:
    made = clinic.extract(condition="noise:10")
    several = clinic.extract("several", condition="noise:10", workers=3)
    assert several.path.read_bytes() == made.path.read_bytes()
    rows = dict(zip(made.read("recording"), made.read("acoustic"), strict=True))
    shutil.move(clinic.root / "audio/r02.wav", clinic.root / "audio/z.wav")
    clinic.table["z"] = clinic.table.pop("r02") | {"file": "z.wav"}
    again = clinic.extract("again", condition="noise:10")
    assert sorted(again.read("id")) != sorted(made.read("id"))
    for recording, row in zip(again.read("recording"), again.read("acoustic"), strict=True):
        np.testing.assert_array_equal(row, rows[recording])


def test_text_rows_come_from_the_corpuss_own_cache(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = clinic.extract("alone", condition="room")

    def refuse(*_: object) -> None:
        raise AssertionError("a transcript was encoded")

    monkeypatch.setattr(BertEncoder, "encode", refuse)
    assert clinic.extract(condition="room").path.read_bytes() == alone.path.read_bytes()


def test_it_is_made_once_and_follows_the_release(clinic: Clinic) -> None:
    made = clinic.extract(condition="telephone")
    before = made.path.read_bytes()
    clinic.extract(condition="telephone")
    assert any("already has this content" in line for line in clinic.said)
    clinic.table["r00"]["activation"] = "1.5"  # of a training utterance
    clinic.extract(condition="telephone")
    assert any("already has this content" in line for line in clinic.said)
    clinic.table["r02"]["activation"] = "1.5"
    assert "the activation of 1 utterance" in clinic.refused(condition="telephone")
    assert clinic.reused(condition="telephone") == "4 rows are reused, nothing is encoded."
    assert made.path.read_bytes() != before


def test_conditions_do_not_mix(clinic: Clinic) -> None:
    made = clinic.extract(condition="noise:10")
    for other in ("clinic.h5", "clinic.noise-20.h5"):
        shutil.copy(made.path, made.path.with_name(other))
    assert "it differs in condition" in clinic.refused(condition="noise:20")
    assert "encodes 4 recordings" in clinic.refused(condition="noise:20")
    assert "it differs in condition" in clinic.refused()
    from_nothing = clinic.extract("nothing", condition="noise:20")
    louder = clinic.extract(condition="noise:20", overwrite=True)
    assert louder.path.read_bytes() == from_nothing.path.read_bytes()
    plain = clinic.extract(overwrite=True)
    assert plain.path.read_bytes() == clinic.extract("nothing").path.read_bytes()
    assert plain.info.condition == ""


def test_parts_of_conditions_are_apart() -> None:
    encoders = {name: name for name in (*ACOUSTIC_HALF, *TEXT_HALF) if name != "condition"}
    asked = [encoders, *(encoders | {"condition": each} for each in ("noise:10", "noise:20"))]
    folders = {Parts(Path("c.h5"), each, (3.0, 30.0)).folder for each in asked}
    assert len(folders) == len(asked)


def test_an_older_cache_has_none(clinic: Clinic) -> None:
    cache = clinic.extract()
    with h5py.File(cache.path, "a") as file:
        del file.attrs["condition"]
    assert FeatureCache(cache.path).info.condition == ""
    clinic.extract()
    assert any("already has this content" in line for line in clinic.said)


def test_the_release_keeps_its_name(clinic: Clinic) -> None:
    assert clinic.extract(condition="room").info.release == clinic.extract().info.release == "of 12 turns"


def test_what_is_refused(clinic: Clinic) -> None:
    assert "encodes no recording, so that --condition room would" in clinic.refused(
        condition="room", text_only=True
    )
    assert "There is no condition 'car'" in clinic.refused(condition="car")
    clinic.table = {name: cells | {"split": "a"} for name, cells in clinic.table.items()}
    assert "Protocol 'one' of clinic tests no utterance" in clinic.refused(condition="room")
    result = CliRunner().invoke(main, ["--corpus", "iemocap", "--condition", "noise:loud"])
    assert result.exit_code == 2
    assert result.output.count("\n") <= 2
    assert "needs a signal-to-noise ratio in dB after a colon" in result.output


def test_folds_are_all_tested() -> None:
    manifest = load("iemocap", "sessions")
    turns = [
        Utterance(
            f"s{session}", None, activation=3.0, valence=3.0, speaker=f"0{session}F", session=f"{session}"
        )
        for session in range(1, 6)
    ]
    assert of_test_splits(turns, manifest) == turns
    fixed = with_splits(turns, load("iemocap"))
    assert [turn.session for turn in of_test_splits(fixed, load("iemocap"))] == ["5"]
    unlabelled = [*turns, replace(turns[0], id="s", session="", speaker="Unknown", activation=float("nan"))]
    assert of_test_splits(unlabelled, manifest) == turns


@pytest.mark.parametrize("condition", [*CONDITIONS, "noise:2.5", "noise:-5"])
def test_the_command_that_makes_such_a_cache(condition: str) -> None:
    name = f"iemocap.{parse_condition(condition).in_file_names}"
    assert extraction_of(name) == f"ser-extract --corpus iemocap --condition {condition}"
    assert re.search("--transcriber rooms$", extraction_of("iemocap.rooms"))
