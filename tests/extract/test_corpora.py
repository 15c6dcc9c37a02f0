"""Every layout variant and trap of the corpus readers, and the sentence for every bad input."""

from __future__ import annotations

import csv
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_memory.common import manifests
from ser_memory.common.conventions import NO_SPLIT, UNKNOWN
from ser_memory.common.errors import SerError
from ser_memory.common.protocols import SPLIT_NAME, Protocol
from ser_memory.extract.corpora import Utterance, read_release
from tests.releases import (
    TABLE_MANIFEST,
    Truth,
    write_iemocap,
    write_msp_improv,
    write_msp_podcast,
    write_table,
)


def read(root: Path, corpus: str, protocol: str | None = None) -> dict[str, Utterance]:
    manifest = manifests.load(corpus, protocol)
    utterances = read_release(root, manifest)
    return {utterance.id: utterance for utterance in utterances}


def ratings(utterance: Utterance) -> tuple[str, ...]:
    """Activation, valence, dominance, as text so that NaN equals NaN."""
    return tuple(f"{value:.6g}" for value in (utterance.activation, utterance.valence, utterance.dominance))


def complaint(root: Path, corpus: str) -> str:
    with pytest.raises(SerError) as caught:
        read(root, corpus)
    return str(caught.value)


def told(turns: dict[str, Utterance]) -> dict[str, Utterance]:
    """The turns without where their recordings lie, as text, to compare two copies of one release."""
    return {
        name: replace(turn, audio=Path(turn.audio.name) if turn.audio else None)
        for name, turn in turns.items()
    }


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


VARIANTS: dict[str, Callable[[Path], Truth]] = {
    "iemocap": write_iemocap,
    "iemocap, one labels file": lambda root: write_iemocap(root, concatenated=True),
    "msp-improv": write_msp_improv,
    "msp-improv, no Audio": lambda root: write_msp_improv(root, audio="."),
    "msp-improv, respelled": lambda root: write_msp_improv(root, labels="Evaluation.txt", transcripts="Text"),
    "msp-podcast 1.11": write_msp_podcast,
    "msp-podcast 1.11, Test3 absent": lambda root: write_msp_podcast(root, withheld="absent"),
    "msp-podcast 1.8": lambda root: write_msp_podcast(root, version="1.8"),
    "msp-podcast 1.8, 16 kHz": lambda root: write_msp_podcast(root, version="1.8", audio="audio_16kHz"),
    "table, csv": write_table,
    "table, tsv": lambda root: write_table(root, kind="tsv"),
    "table, jsonl": lambda root: write_table(root, kind="jsonl"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_reader_lists_every_turn_and_nothing_else(variant: str, tmp_path: Path) -> None:
    truth = VARIANTS[variant](tmp_path)
    turns = read(tmp_path, truth.corpus)

    assert [name for name in turns if name in truth.kept] == list(truth.kept)
    assert set(turns) == {
        *truth.kept,
        *truth.unlisted,
        *(name for names in truth.dropped.values() for name in names),
    }
    for name in truth.kept:
        assert not any(math.isnan(value) for value in (turns[name].activation, turns[name].valence))
        assert turns[name].transcript is not None
        assert SPLIT_NAME.fullmatch(turns[name].split)
    for name in truth.dropped["no transcript"]:
        assert turns[name].transcript is None
    for name in truth.dropped["no label"]:
        assert math.isnan(turns[name].activation) or math.isnan(turns[name].valence)
    assert {name for name, turn in turns.items() if turn.audio is None} == set(truth.dropped["missing"])


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "jsonl" not in name])
def test_lines_may_end_as_on_windows(variant: str, tmp_path: Path) -> None:
    truth = VARIANTS[variant](tmp_path)
    before = read(tmp_path, truth.corpus)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".txt", ".csv", ".tsv") and not path.name.startswith("._"):
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert str(read(tmp_path, truth.corpus)) == str(before)


class TestIemocap:
    def test_one_turn_in_full(self, tmp_path: Path) -> None:
        write_iemocap(tmp_path)
        assert read(tmp_path, "iemocap")["Ses01F_impro01_F000"] == Utterance(
            id="Ses01F_impro01_F000",
            audio=tmp_path / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav",
            split="train",
            activation=3.5,  # the release gives valence first
            valence=2.5,
            dominance=4.5,
            speaker="01F",
            gender="Female",
            transcript="Excuse me.",
            session="1",
        )

    def test_the_speaker_is_the_last_letter(self, tmp_path: Path) -> None:
        write_iemocap(tmp_path)
        turns = read(tmp_path, "iemocap")
        people = {name: (turns[name].speaker, turns[name].gender) for name in turns}
        assert people["Ses01F_impro01_M004"] == ("01M", "Male")
        assert people["Ses02M_impro01_F000"] == ("02F", "Female")
        assert {speaker for speaker, _ in people.values()} == {
            f"0{session}{letter}" for session in range(1, 6) for letter in "FM"
        }

    def test_splits_are_sessions(self, tmp_path: Path) -> None:
        write_iemocap(tmp_path)
        splits = {(name[3:5], turn.split) for name, turn in read(tmp_path, "iemocap").items()}
        assert splits == {
            ("01", "train"),
            ("02", "train"),
            ("03", "train"),
            ("04", "validation"),
            ("05", "test"),
        }

    def test_order_is_by_dialog_then_as_labelled_then_orphans(self, tmp_path: Path) -> None:
        write_iemocap(tmp_path)
        assert list(read(tmp_path, "iemocap")) == [
            "Ses01F_impro01_F000",
            "Ses01F_impro01_M004",
            "Ses01F_impro01_F001",
            "Ses01F_script01_1b_M000",
            "Ses02M_impro01_F000",
            "Ses02M_impro01_M001",
            "Ses03M_script03_2_M007",
            "Ses03M_script03_2_F008",
            "Ses04F_impro02_F000",
            "Ses04F_impro02_M000",
            "Ses05M_impro03_M000",
            "Ses05M_impro03_F001",
            "Ses03M_script03_2_F009",
        ]

    def test_both_layouts_say_the_same(self, tmp_path: Path) -> None:
        write_iemocap(tmp_path / "a")
        write_iemocap(tmp_path / "b", concatenated=True)
        one, other = (told(read(tmp_path / folder, "iemocap")) for folder in "ab")
        assert str(list(one.values())) == str(list(other.values()))

    def test_transcripts(self, tmp_path: Path) -> None:
        write_iemocap(tmp_path)
        turns = read(tmp_path, "iemocap")
        # Latin-1, with a character at which str.splitlines would break the line
        assert turns["Ses03M_script03_2_M007"].transcript == "At the caf\xe9 \u2026 again."
        assert turns["Ses05M_impro03_F001"].transcript == ""
        assert turns["Ses04F_impro02_M000"].transcript is None

    def test_a_recording_without_a_rating(self, tmp_path: Path) -> None:
        write_iemocap(tmp_path)
        stray = tmp_path / "Session1/sentences/wav/odd.wav"
        stray.write_bytes(b"")
        turns = read(tmp_path, "iemocap")
        known, odd = turns["Ses03M_script03_2_F009"], turns["odd"]
        assert (known.speaker, known.split, ratings(known)) == ("03F", "train", ("nan", "nan", "nan"))
        assert (odd.speaker, odd.gender, odd.split, odd.audio) == (UNKNOWN, UNKNOWN, NO_SPLIT, stray)

    def test_a_repeat_is_kept_once_and_a_conflict_refused(self, tmp_path: Path) -> None:
        write_iemocap(tmp_path)
        labels = tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
        count = len(read(tmp_path, "iemocap"))
        again = labels.read_text() + "[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 3.5000, {}]\n"
        labels.write_text(again.format("4.5000"))
        assert len(read(tmp_path, "iemocap")) == count
        labels.write_text(again.format("1.0000"))
        message = complaint(tmp_path, "iemocap")
        assert "Ses01F_impro01_F000 is listed twice, with the dominance 4.5 and 1.0" in message

    @pytest.mark.parametrize(
        ("triple", "says"),
        [
            (
                "[2.5000, x, 4.5000]",
                "line 3, activation: Ses01F_impro01_F000 has the rating 'x', which is not a",
            ),
            ("[2.5000, 3.5000]", "line 3: Ses01F_impro01_F000 should have [valence, activation, dominance]"),
            ("", "line 3: Ses01F_impro01_F000 should have [valence, activation, dominance]"),
        ],
    )
    def test_bad_ratings(self, triple: str, says: str, tmp_path: Path) -> None:
        write_iemocap(tmp_path)
        labels = tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
        edit(labels, "[2.5000, 3.5000, 4.5000]", triple)
        message = complaint(tmp_path, "iemocap")
        assert message.startswith(f"{labels}, {says}")

    def test_a_rating_beyond_the_scale_is_no_label_and_gets_a_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_iemocap(tmp_path)
        labels = tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
        edit(labels, "[2.5000, 3.5000, 4.5000]", "[5.5000, 3.5000, 0.5000]")
        turn = read(tmp_path, "iemocap")["Ses01F_impro01_F000"]
        assert math.isnan(turn.valence)
        assert math.isnan(turn.dominance)
        assert turn.activation == 3.5
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].endswith("has the rating 5.5, outside the scale 1 to 5 of IEMOCAP: not used.")
        assert len(lines) == 2

    def test_no_labels(self, tmp_path: Path) -> None:
        message = complaint(tmp_path, "iemocap")
        assert f"in {tmp_path}: looked for Session*/dialog/EmoEvaluation/*.txt, " in message
        assert "IEMOCAP_EmoEvaluation.txt" in message

    def test_a_split_of_its_own_is_not_told(self, tmp_path: Path) -> None:
        write_iemocap(tmp_path)
        manifest = manifests.load("iemocap")
        asked = replace(manifest, protocol=Protocol("split", {"train": "train"}))
        with pytest.raises(SerError, match="by split, which is not known: split by speaker, session"):
            read_release(tmp_path, asked)


class TestMspImprov:
    def test_one_turn_in_full(self, tmp_path: Path) -> None:
        write_msp_improv(tmp_path)
        turn = read(tmp_path, "msp-improv")["MSP-IMPROV-S01A-F01-P-FM01"]
        assert turn.activation == pytest.approx(6 - 2.142857)
        assert replace(turn, activation=0.0) == Utterance(
            id="MSP-IMPROV-S01A-F01-P-FM01",
            audio=tmp_path / "Audio/session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav",
            split="train",
            activation=0.0,
            valence=3.8,
            dominance=3.2,
            speaker="F01",
            gender="Female",
            transcript="How can I not?",
            session="1",
        )

    def test_the_activation_is_turned_round(self, tmp_path: Path) -> None:
        write_msp_improv(tmp_path)
        turns = read(tmp_path, "msp-improv")
        assert ratings(turns["MSP-IMPROV-S01A-M01-P-FM02"]) == ("5", "5", "nan")  # D:NaN, N:NaN
        assert ratings(turns["MSP-IMPROV-S02H-F02-R-MF01"]) == ("1", "1", "2.5")

    @pytest.mark.parametrize("audio", ["Audio", "."])
    @pytest.mark.parametrize("labels", ["Evalution.txt", "Evaluation.txt"])
    @pytest.mark.parametrize("transcripts", ["All_human_transcriptions", "Text"])
    def test_all_layouts_say_the_same(
        self, audio: str, labels: str, transcripts: str, tmp_path: Path
    ) -> None:
        write_msp_improv(tmp_path / "a")
        write_msp_improv(tmp_path / "b", audio=audio, labels=labels, transcripts=transcripts)
        one, other = (told(read(tmp_path / folder, "msp-improv")) for folder in "ab")
        assert str(list(one.values())) == str(list(other.values()))

    def test_order_is_the_labels_then_orphans(self, tmp_path: Path) -> None:
        write_msp_improv(tmp_path)
        names = list(read(tmp_path, "msp-improv"))
        assert [name.removeprefix("MSP-IMPROV-")[5:8] for name in names] == [
            *("F01", "M01", "F02", "M03", "F04", "M04", "F05", "M05", "F06", "M06", "F06")
        ]
        assert names[-1] == "MSP-IMPROV-S06H-F06-P-MF09"

    @pytest.mark.parametrize(
        ("protocol", "splits"),
        [
            ("fixed", {"train": "F01 F02 F04 M01 M03 M04", "validation": "F05 M05", "test": "F06 M06"}),
            ("author", {"train": "F01 F05 F06 M03 M04 M06", "validation": "F02 M01", "test": "F04 M05"}),
        ],
    )
    def test_protocols(self, protocol: str, splits: dict[str, str], tmp_path: Path) -> None:
        write_msp_improv(tmp_path)
        turns = read(tmp_path, "msp-improv", protocol).values()
        found = {s: " ".join(sorted({turn.speaker for turn in turns if turn.split == s})) for s in splits}
        assert found == splits

    def test_a_recording_without_a_rating(self, tmp_path: Path) -> None:
        write_msp_improv(tmp_path)
        (tmp_path / "Audio/odd.wav").write_bytes(b"")
        turns = read(tmp_path, "msp-improv")
        known = turns["MSP-IMPROV-S06H-F06-P-MF09"]
        assert (known.speaker, known.split, ratings(known)) == ("F06", "test", ("nan", "nan", "nan"))
        assert (turns["odd"].speaker, turns["odd"].split) == (UNKNOWN, NO_SPLIT)

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            (
                "A:2.142857",
                "A:much",
                "activation: MSP-IMPROV-S01A-F01-P-FM01 has the rating 'much', which is not",
            ),
            (
                "V:3.800000",
                "V:7",
                "valence: MSP-IMPROV-S01A-F01-P-FM01 has the rating 7, outside the scale 1 to 5",
            ),
            ("A:2.142857", "A:0.5", "activation: MSP-IMPROV-S01A-F01-P-FM01 has the rating 0.5, outside the"),
            ("A:2.142857 ; V:3.8", "3.8", "MSP-IMPROV-S01A-F01-P-FM01 should have ratings A: and V:"),
            ("-F01-P-FM01.avi", "-P-FM01.avi", "MSP-IMPROV-S01A-P-FM01 is not the name of a turn"),
        ],
    )
    def test_bad_lines(self, old: str, new: str, says: str, tmp_path: Path) -> None:
        write_msp_improv(tmp_path)
        edit(tmp_path / "Evalution.txt", old, new)
        message = complaint(tmp_path, "msp-improv")
        assert message.startswith(f"{tmp_path / 'Evalution.txt'}, line 1")
        assert says in message

    def test_no_labels(self, tmp_path: Path) -> None:
        assert "looked for Evalution.txt, Evaluation.txt" in complaint(tmp_path, "msp-improv")

    def test_a_speaker_of_no_split(self, tmp_path: Path) -> None:
        write_msp_improv(tmp_path)
        edit(tmp_path / "Evalution.txt", "-F01-", "-F07-")
        message = complaint(tmp_path, "msp-improv")
        assert (
            "MSP-IMPROV-S01A-F07-P-FM01 has the session '7', which no split of the protocol 'fixed' names"
            in message
        )

    def test_labels_that_are_no_text(self, tmp_path: Path) -> None:
        write_msp_improv(tmp_path)
        (tmp_path / "Evalution.txt").write_bytes(b"PK\x03\x04\x00\x00")
        assert f"{tmp_path / 'Evalution.txt'} is not a text file" in complaint(tmp_path, "msp-improv")


class TestMspPodcast:
    def test_turns_in_full(self, tmp_path: Path) -> None:
        write_msp_podcast(tmp_path)
        turns = read(tmp_path, "msp-podcast")
        assert turns["MSP-PODCAST_0001_0008"] == Utterance(
            id="MSP-PODCAST_0001_0008",
            audio=tmp_path / "Audios/MSP-PODCAST_0001_0008.wav",
            split="train",
            activation=4.2,
            valence=4.0,
            dominance=4.6,
            speaker="1",
            gender="Female",
            transcript="And that is why.",
            release_split="Train",
        )
        unknown = turns["MSP-PODCAST_0001_0019"]
        assert (unknown.speaker, unknown.gender, ratings(unknown)) == (UNKNOWN, UNKNOWN, ("7", "1", "6.4"))
        assert turns["MSP-PODCAST_0004_0002"].transcript == ""
        assert turns["MSP-PODCAST_0006_0001"].transcript is None

    @pytest.mark.parametrize("version", ["1.8", "1.11"])
    def test_splits(self, version: str, tmp_path: Path) -> None:
        write_msp_podcast(tmp_path, version=version)
        splits = {name[12:]: turn.split for name, turn in read(tmp_path, "msp-podcast").items()}
        assert splits == {
            "0001_0008": "train",
            "0001_0019": "train",
            "0002_0033": "validation",
            "1023_0235": "test",
            "0003_0001": "test",
            "0004_0002": "test2",
            "0004_0003": "test2",
            "0005_0001": "train",
            "0005_0002": "train",
            "0006_0001": "train",
            "0007_0001": "test3",
            "0008_0001": NO_SPLIT,
        }
        assert list(splits)[-1] == "0008_0001"

    def test_withheld_labels(self, tmp_path: Path) -> None:
        write_msp_podcast(tmp_path / "blank")
        write_msp_podcast(tmp_path / "absent", withheld="absent")
        blank, absent = (
            read(tmp_path / folder, "msp-podcast")["MSP-PODCAST_0007_0001"] for folder in ("blank", "absent")
        )
        assert (blank.split, absent.split) == ("test3", NO_SPLIT)
        assert ratings(blank) == ratings(absent) == ("nan", "nan", "nan")
        assert absent.audio is not None
        assert absent.transcript == "Withheld."

    def test_a_copy_in_two_folders_is_one_recording(self, tmp_path: Path) -> None:
        write_msp_podcast(tmp_path, version="1.8", audio="audio_16kHz")
        write_msp_podcast(tmp_path, version="1.8")
        turns = read(tmp_path, "msp-podcast")
        assert len(turns) == 12
        assert {turn.audio.parent.name for turn in turns.values() if turn.audio} == {"Audios"}

    def test_no_transcripts_in_1_8(self, tmp_path: Path) -> None:
        write_msp_podcast(tmp_path, version="1.8")
        assert {turn.transcript for turn in read(tmp_path, "msp-podcast").values()} == {None}

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("4.2,4.0", "4.2,high", "row 2, column 'EmoVal': MSP-PODCAST_0001_0008 has the rating 'high'"),
            ("4.2,4.0", "7.01,4.0", "has the rating 7.01, outside the scale 1 to 7 of MSP-Podcast"),
            ("EmoVal", "Valence", "lacks the column EmoVal: it has FileName, EmoClass, EmoAct, Valence, "),
            (
                "Female,Train",
                "Female,Trian",
                "0001_0008 has the split 'Trian', which no split of the protocol 'release'",
            ),
            ("MSP-PODCAST_0001_0008.wav", "", "row 2: the name of the recording is blank"),
            (
                "_0001_0019.wav",
                "_0001_0008.wav",
                "MSP-PODCAST_0001_0008 is listed twice, with the activation",
            ),
        ],
    )
    def test_bad_rows(self, old: str, new: str, says: str, tmp_path: Path) -> None:
        write_msp_podcast(tmp_path)
        edit(tmp_path / "Labels/labels_consensus.csv", old, new)
        assert says in complaint(tmp_path, "msp-podcast")

    def test_no_labels(self, tmp_path: Path) -> None:
        says = "looked for Labels/labels_consensus.csv, Labels/labels_concensus.csv"
        assert says in complaint(tmp_path, "msp-podcast")

    def test_size_is_no_burden(self, tmp_path: Path) -> None:
        (tmp_path / "Labels").mkdir()
        rows = [f"MSP-PODCAST_{i:06d}.wav,N,4,4,4,{i % 99},Male,Train" for i in range(20_000)]
        header = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
        (tmp_path / "Labels/labels_consensus.csv").write_text("\n".join([header, *rows]))
        start = time.process_time()
        assert len(read(tmp_path, "msp-podcast")) == 20_000
        assert (
            time.process_time() - start < 5
        )  # about 0.3 s; the bound is for what grows faster than the rows


class TestTable:
    @pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
    def test_turns_in_full(self, kind: str, tmp_path: Path) -> None:
        truth = write_table(tmp_path, kind=kind)
        turns = read(tmp_path, truth.corpus)
        assert list(turns) == [f"c{i}" for i in range(1, 10)]
        assert str(turns["c1"]) == str(
            Utterance(
                id="c1",
                audio=tmp_path / "clips/c1.wav",
                split="train",
                activation=0.0,
                valence=10.0,
                speaker="anna",
                gender="Female",
                transcript='She said "no", twice.',
                release_split="fit",
            )
        )
        assert turns["c2"].audio == tmp_path / "clips/c2.wav"
        assert turns["c2"].transcript == "two\nlines"
        assert [turns[name].split for name in ("c1", "c2", "c3", "c9")] == [
            "train",
            "validation",
            "test",
            NO_SPLIT,
        ]
        assert (turns["c3"].speaker, turns["c3"].gender, ratings(turns["c3"])) == (
            UNKNOWN,
            UNKNOWN,
            ("2.25", "7", "nan"),
        )
        assert ratings(turns["c8"]) == ("nan", "5", "nan")
        assert turns["c9"] == Utterance("c9", tmp_path / "clips/c9.wav", listed=False)

    def test_a_blank_transcript_is_a_value_in_json_only(self, tmp_path: Path) -> None:
        write_table(tmp_path, kind="jsonl")
        edit(tmp_path / "labels.jsonl", '"transcript": "yes"', '"transcript": ""')
        assert read(tmp_path, str(tmp_path / "manifest.toml"))["c4"].transcript == ""
        write_table(tmp_path, kind="csv")
        edit(tmp_path / "labels.csv", ",yes,", ",,")
        assert read(tmp_path, str(tmp_path / "manifest.toml"))["c4"].transcript is None

    def test_the_speaker_may_decide_the_split(self, tmp_path: Path) -> None:
        truth = write_table(tmp_path)
        turns = read(tmp_path, truth.corpus, "people")
        assert [turns[name].split for name in ("c1", "c2", "c3")] == ["train", "test", "train"]

    def test_ids_sessions_and_absolute_files(self, tmp_path: Path) -> None:
        sound = tmp_path / "elsewhere/x.wav"
        for path in (sound, tmp_path / "root/a/x.wav", tmp_path / "root/b/x.wav", tmp_path / "root/b/y.wav"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        (tmp_path / "root/labels.csv").write_text(
            f"id,file,activation,valence,dominance,session\none,{sound},1,2,3,s1\nx,x.wav,1,2,,s2\nz,,1,2,,s2\n"
        )
        (tmp_path / "own.toml").write_text(
            'name = "own"\nlayout = "table"\nscale = { min = 1, max = 5 }\n'
            '[protocols.p]\nby = "session"\ntrain = "s1"\ntest = "s2"\n'
            '[files]\nlabels = ["labels.csv"]\naudio = ["a", "."]\n'
        )
        turns = read(tmp_path / "root", str(tmp_path / "own.toml"))
        assert {name: (turn.audio, turn.split) for name, turn in turns.items()} == {
            "one": (sound, "train"),
            "x": (tmp_path / "root/a/x.wav", "test"),
            "z": (None, "test"),
            "b/x.wav": (tmp_path / "root/b/x.wav", NO_SPLIT),  # the stem is another turn's id
            "y": (tmp_path / "root/b/y.wav", NO_SPLIT),
        }
        assert ratings(turns["one"]) == ("1", "2", "3")

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            (
                "c1.wav,0,",
                "c1.wav,calm,",
                "labels.csv, row 2, column 'arousal': c1 has the rating 'calm', which",
            ),
            (
                "c1.wav,0,",
                "c1.wav,-1,",
                "c1 has the rating -1, outside the scale 0 to 10 of Clinic recordings",
            ),
            ("c1.wav,0,", "c1.wav,inf,", "c1 has the rating inf, outside the scale"),
            (
                "arousal",
                "energy",
                "lacks the column arousal: it has path, energy, valence, person, gender, split",
            ),
            ("split", "part", "lacks the column split: it has"),
            ("person", "who", "lacks the column person: it has"),
            ("clips/c1.wav", "", "row 2: the name of the recording is blank"),
            ("c2.wav", "c1.wav", "c1 is listed twice, with the activation 0.0 and 9.5"),
            (",Ärger,", ",Ärger, Wut,", "row 5: it has 9 cells, and the header 8"),
            (",yes,", ',"yes,', "it cannot be read as a table: "),
            ("path,", "path\0,", "labels.csv is not a text file"),
        ],
    )
    def test_bad_tables(self, old: str, new: str, says: str, tmp_path: Path) -> None:
        truth = write_table(tmp_path)
        edit(tmp_path / "labels.csv", old, new)
        assert says in complaint(tmp_path, truth.corpus)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('{"path": ', "labels.jsonl, row 1: it cannot be read as JSON"),
            ('["c1.wav"]', "labels.jsonl, row 1: it should be an object"),
            ("", "labels.jsonl lacks the column path, arousal, valence, person, split: it has none"),
        ],
    )
    def test_bad_json(self, text: str, says: str, tmp_path: Path) -> None:
        truth = write_table(tmp_path, kind="jsonl")
        (tmp_path / "labels.jsonl").write_text(text)
        assert says in complaint(tmp_path, truth.corpus)

    @pytest.mark.parametrize("value", [True, [1], {"mean": 1}, "x"])
    def test_json_ratings_are_numbers(self, value: object, tmp_path: Path) -> None:
        truth = write_table(tmp_path, kind="jsonl")
        edit(tmp_path / "labels.jsonl", '"arousal": 0', f'"arousal": {json.dumps(value)}')
        assert "column 'arousal': c1 has the rating " in complaint(tmp_path, truth.corpus)

    def test_labels_are_never_unpickled(self, tmp_path: Path) -> None:
        (tmp_path / "labels.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        (tmp_path / "own.toml").write_text(TABLE_MANIFEST.replace("labels.csv", "labels.pkl"))
        message = complaint(tmp_path, str(tmp_path / "own.toml"))
        assert "ends in '.pkl': a table is read from .csv, .tsv, .jsonl, .ndjson" in message

    def test_a_column_that_is_not_ours(self, tmp_path: Path) -> None:
        truth = write_table(tmp_path)
        edit(tmp_path / "manifest.toml", "activation =", "arousal =")
        message = complaint(tmp_path, truth.corpus)
        assert "names a column for arousal: [columns] may name file, activation, valence" in message

    def test_no_labels(self, tmp_path: Path) -> None:
        truth = write_table(tmp_path)
        (tmp_path / "labels.csv").unlink()
        message = complaint(tmp_path, truth.corpus)
        assert f"no labels of Clinic recordings in {tmp_path}: looked for labels.csv" in message

    @settings(max_examples=30, deadline=None)
    @given(
        rows=st.lists(
            st.tuples(
                st.floats(0, 10),
                st.one_of(st.none(), st.floats(0, 10)),
                st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
            ),
            max_size=5,
        ),
        kind=st.sampled_from(["csv", "tsv", "jsonl"]),
    )
    def test_what_is_written_is_read(self, rows: list[tuple[float, float | None, str]], kind: str) -> None:
        header = ["path", "arousal", "valence", "person", "split", "transcript"]
        table = [[f"{i}.wav", a, v, "anna", "fit", words] for i, (a, v, words) in enumerate(rows)]
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            with (root / f"labels.{kind}").open("w", encoding="utf-8", newline="") as file:
                if kind == "jsonl":
                    file.writelines(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in table)
                else:
                    csv.writer(file, delimiter="\t" if kind == "tsv" else ",").writerows([header, *table])
            (root / "own.toml").write_text(TABLE_MANIFEST.replace("labels.csv", f"labels.{kind}"))
            if kind == "jsonl" and not rows:
                return  # no object, no columns
            turns = read(root, str(root / "own.toml"))
        assert list(turns) == [f"{i}" for i in range(len(rows))]
        for turn, (activation, valence, words) in zip(turns.values(), rows, strict=True):
            assert turn.activation == activation
            assert turn.valence == valence or (valence is None and math.isnan(turn.valence))
            assert turn.transcript == (words if kind == "jsonl" else words.strip() or None)
