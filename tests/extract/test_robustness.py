"""ser-extract on corpora in which something is wrong: it costs the utterance, and the summary says so."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from ser_memory.common import manifests
from ser_memory.common.cache import FeatureCache
from ser_memory.common.errors import SerError
from ser_memory.common.protocols import Protocol
from ser_memory.extract import audio
from ser_memory.extract.cli import main
from ser_memory.extract.corpora import Utterance, read_release
from ser_memory.extract.corpora.names import by_id, id_of
from ser_memory.extract.identity import Glimpses
from ser_memory.extract.screening import Screening, report_splits
from ser_memory.extract.tables import read_table
from tests.models import save_text
from tests.releases import write_msp_podcast

MANIFEST = """\
name = "clinic"
layout = "table"
scale = { min = 1, max = 5 }
[protocols.s]
by = "speaker"
train = ["1"]
validation = ["2"]
test = "*"
[files]
labels = ["l.csv"]
audio = ["audio"]
transcripts = ["texts"]
"""


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_text(tmp_path_factory.mktemp("text"))


class Clinic:
    """A corpus of recordings c0, c1, ... of 4 s, and its table."""

    def __init__(self, root: Path, text_model: str, count: int = 6) -> None:
        self.root, self.count, self._text_model = root, count, text_model
        (root / "audio").mkdir()
        for i in range(count):
            self.sound(i)
        self.table([f"c{i}.wav" for i in range(count)])
        (root / "clinic.toml").write_text(MANIFEST)

    def sound(self, number: int, seconds: float = 4.0) -> None:
        noise = np.random.default_rng(number).standard_normal(int(seconds * 16_000)) / 9
        soundfile.write(self.root / f"audio/c{number}.wav", noise, 16_000)

    def table(self, files: list[str], transcript: str = "hello", start: str = "") -> None:
        rows = [f"{file},{1 + i % 5},{1 + i % 4},{1 + i % 3},{transcript}" for i, file in enumerate(files)]
        header = "file,activation,valence,speaker,transcript"
        (self.root / "l.csv").write_text(start + "\n".join([header, *rows]) + "\n", encoding="utf-8")

    def extract(self, *options: object) -> Result:
        given = ["--corpus", self.root / "clinic.toml", "--root", self.root, "--cache", self.root / "cache",
                 "--acoustic-encoder", "log-mel", "--text-encoder", self._text_model, *options]  # fmt: skip
        return CliRunner().invoke(main, [str(each) for each in given])

    def refused(self, *options: object) -> str:
        result = self.extract(*options)
        assert isinstance(result.exception, SystemExit), result.output
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        return line

    def cache(self) -> FeatureCache:
        return FeatureCache(self.root / "cache/clinic.h5")

    def ids(self, *options: object) -> list[str]:
        result = self.extract(*options)
        assert result.exit_code == 0, result.output
        return list(self.cache().read("id"))

    def read(self) -> dict[str, Utterance]:
        manifest = manifests.load(str(self.root / "clinic.toml"))
        return {turn.id: turn for turn in read_release(self.root, manifest)}


@pytest.fixture
def clinic(tmp_path: Path, text_model: str) -> Clinic:
    return Clinic(tmp_path, text_model)


class TestPartsInWhichNothingSurvives:
    @pytest.mark.parametrize("broken", [[0], [5], [0, 1, 2, 3, 4]])
    def test_the_rest_gets_its_rows(
        self, broken: list[int], clinic: Clinic, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each recording is a part of its own; the longest is the first part."""
        monkeypatch.setattr("ser_memory.extract.parts.SHORTEST_PART", 1.0)
        for i in range(6):
            clinic.sound(i, 20 - 2 * i)
        for i in broken:
            samples, rate = soundfile.read(clinic.root / f"audio/c{i}.wav", dtype="float32")
            samples[7] = np.nan
            soundfile.write(clinic.root / f"audio/c{i}.wav", samples, rate, subtype="FLOAT")
        kept = [f"c{i}" for i in range(6) if i not in broken]
        assert clinic.ids() == kept
        assert clinic.cache().info.dropped == {"not finite": [f"c{i}" for i in broken]}

    def test_nothing_at_all_is_one_sentence(self, clinic: Clinic) -> None:
        for i in range(6):
            samples, rate = soundfile.read(clinic.root / f"audio/c{i}.wav", dtype="float32")
            soundfile.write(
                clinic.root / f"audio/c{i}.wav", np.full_like(samples, np.inf), rate, subtype="FLOAT"
            )
        assert "No utterance can be used: 6 not finite (such as c" in clinic.refused()
        assert (
            "No utterance can be used: 6 not finite (such as c" in clinic.refused()
        )  # from the finished parts


def dangling(path: Path) -> None:
    path.symlink_to("../annex/gone")


def folder(path: Path) -> None:
    path.mkdir()


def circle(path: Path) -> None:
    path.symlink_to(path.name)


class TestFilesThatCannotBeOpened:
    @pytest.mark.parametrize(
        ("make", "reason"),
        [(dangling, "missing"), (circle, "missing"), (folder, "unreadable"), (os.mkfifo, "unreadable")],
    )
    def test_cost_their_utterance(self, make: Callable[[Path], None], reason: str, clinic: Clinic) -> None:
        path = clinic.root / "audio/c5.wav"
        path.unlink()
        make(path)
        assert clinic.ids() == ["c0", "c1", "c2", "c3", "c4"]
        assert clinic.cache().info.dropped == {reason: ["c5"]}
        assert "already has this content" in clinic.extract().stderr

    def test_without_permission(self, clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = Path.open

        def denied(self: Path, *arguments: object, **named: object) -> object:
            if self.name == "c5.wav":
                raise PermissionError(13, "Permission denied", str(self))
            return opened(self, *arguments, **named)  # type: ignore[call-overload]

        monkeypatch.setattr(Path, "open", denied)  # the tests may run as root
        assert len(clinic.ids()) == 5
        assert clinic.cache().info.dropped == {"unreadable": ["c5"]}

    def test_that_vanish_before_they_are_decoded(
        self, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The fingerprint is then that of a release without the recording."""
        load = audio.load

        def late(path: Path) -> audio.Waveform:
            if path.name == "c5.wav":
                path.unlink()
            return load(path)

        monkeypatch.setattr(audio, "load", late)
        assert len(clinic.ids()) == 5
        assert clinic.cache().info.dropped == {"missing": ["c5"]}
        assert "already has this content" in clinic.extract().stderr
        clinic.sound(5)
        assert "it differs in the release's recordings" in clinic.refused()

    def test_a_transcript(self, clinic: Clinic) -> None:
        clinic.table([f"c{i}.wav" for i in range(6)], transcript="")
        (clinic.root / "texts").mkdir()
        for i in range(5):
            (clinic.root / f"texts/c{i}.txt").write_text("hello")
        (clinic.root / "texts/c5.txt").symlink_to("gone")
        result = clinic.extract()
        assert "1 transcripts cannot be opened" in result.stderr
        assert clinic.cache().info.dropped == {"no transcript": ["c5"]}

    def test_labels_that_are_a_dangling_link(self, clinic: Clinic) -> None:
        (clinic.root / "l.csv").rename(clinic.root / "elsewhere")
        (clinic.root / "l.csv").symlink_to("gone")
        assert "are a link to a file that does not exist" in clinic.refused()


class TestRecordingsThatChangeMeanwhile:
    def test_stop_the_extraction_and_leave_no_part(
        self, clinic: Clinic, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load = audio.load

        def late(path: Path) -> audio.Waveform:
            if path.name == "c5.wav":
                clinic.sound(77)
                (clinic.root / "audio/c77.wav").replace(path)
            return load(path)

        monkeypatch.setattr(audio, "load", late)
        assert "1 recordings were changed while they were read" in clinic.refused()
        monkeypatch.undo()
        assert len(clinic.ids()) == 6

    def test_the_same_content_is_no_change(self, clinic: Clinic) -> None:
        turns = list(clinic.read().values())
        glimpses = Glimpses(turns)
        path = clinic.root / "audio/c0.wav"
        path.write_bytes(path.read_bytes())
        glimpses.refuse_changed([path])
        clinic.sound(0, 3.5)
        with pytest.raises(SerError, match="were changed"):
            glimpses.refuse_changed([path])


class TestTheSummary:
    def test_counts_silent_recordings(self, clinic: Clinic) -> None:
        sound = soundfile.read(clinic.root / "audio/c1.wav")[0]
        soundfile.write(clinic.root / "audio/c0.wav", np.zeros(64_000), 16_000)
        soundfile.write(clinic.root / "audio/c1.wav", np.stack([sound, -sound], axis=1), 16_000)
        result = clinic.extract()
        assert "2 recordings are digitally silent after mixing down to mono (c0, c1)" in result.stderr

    def test_counts_recordings_of_unknown_length(self, clinic: Clinic) -> None:
        path = clinic.root / "audio/c3.wav"
        data = bytearray(path.read_bytes())
        data[40:44] = b"\xff" * 4
        path.write_bytes(data)
        result = clinic.extract()
        assert "1 recording is of a length that the file does not say (c3)" in result.stderr
        assert len(clinic.cache()) == 6

    def test_counts_recordings_outside_the_table(self, clinic: Clinic) -> None:
        clinic.table(["c0.wav", "c1.wav", "c2.wav"])
        result = clinic.extract()
        assert "3 recordings are not in the table, and not used." in result.stderr
        assert clinic.cache().info.dropped == {}
        clinic.sound(2, 1.0)
        assert "differs" in clinic.refused()


class TestNames:
    @pytest.mark.parametrize(
        "form",
        ["audio\\{}.wav", ".\\audio\\{}.wav", "audio/{}.wav", "./audio/{}.wav", "./{}.wav", "{}.wav", " {}.wav ",
         "audio/{}.WAV", "{root}/audio/{}.wav", "audio/../audio/{}.wav"],
    )  # fmt: skip
    @pytest.mark.parametrize("stem", ["c 1", "Zoë", unicodedata.normalize("NFD", "Zoë")])
    def test_a_table_may_write_them_as_its_system_does(
        self, form: str, stem: str, clinic: Clinic, tmp_path: Path
    ) -> None:
        other = unicodedata.normalize("NFD" if unicodedata.is_normalized("NFC", stem) else "NFC", stem)
        (clinic.root / "audio/c0.wav").rename(clinic.root / f"audio/{other}.wav")
        (clinic.root / "texts").mkdir()
        (clinic.root / f"texts/{other}.TXT").write_text("a word")
        clinic.table([form.format(stem, root=tmp_path)], transcript="")
        turn = clinic.read()[stem]
        assert turn.audio is not None
        assert turn.audio.is_file()
        assert turn.transcript == "a word"
        assert not [each for each in clinic.read().values() if each.id == other and other != stem]

    def test_a_near_miss_is_named(self, clinic: Clinic, capsys: pytest.CaptureFixture[str]) -> None:
        clinic.table(["C0.wav", "audio/c1.wav"])
        assert clinic.read()["C0"].audio is None
        assert "1 recordings are not found under their names" in (said := capsys.readouterr().err)
        assert f"C0.wav (there is {clinic.root}/audio/c0.wav)" in said

    def test_a_suffix_that_fits_two_files_fits_none(self, clinic: Clinic) -> None:
        (clinic.root / "audio/c0.Wav").write_bytes(b"")
        clinic.table(["c0.WAV"])
        assert clinic.read()["c0"].audio is None

    def test_ids_of_a_file_of_transcripts(self, capsys: pytest.CaptureFixture[str]) -> None:
        ids = ["c0", "c1", "Zoë", "d.e"]
        given = {
            "audio\\c0.wav": "a",
            "./c1.WAV": "b",
            unicodedata.normalize("NFD", "Zoë"): "c",
            "d.e": "d",
            "C1": "e",
        }
        found, unknown = by_id(given, ids, "t.csv")
        assert found == {"c0": "a", "c1": "b", "Zoë": "c", "d.e": "d"}
        assert unknown == ["C1"]
        assert "C1 (there is c1)" in capsys.readouterr().err
        with pytest.raises(SerError, match="both for the utterance c0, with different texts"):
            by_id({"c0": "a", "x/c0.wav": "b"}, ids, "t.csv")

    def test_transcripts_given_by_path(self, clinic: Clinic) -> None:
        (clinic.root / "heard.csv").write_text(
            "id,text\n" + "".join(f"audio\\c{i}.wav,hi\n" for i in range(6))
        )
        assert len(clinic.ids("--transcripts", clinic.root / "heard.csv")) == 6
        assert set(clinic.cache().read("transcript")) == {"hi"}

    def test_id_of(self) -> None:
        assert [id_of(text) for text in ("C:\\a\\b.c.wav", "./x/y.WAV", "z", "")] == ["b.c", "y", "z", ""]


class TestLinksToFoldersAbove:
    def test_the_search_ends(self, clinic: Clinic) -> None:
        (clinic.root / "audio/up").symlink_to("..")
        (clinic.root / "audio/here").symlink_to(".")
        clinic.table(["c0.wav"])
        assert sorted(clinic.read()) == ["c0", "c1", "c2", "c3", "c4", "c5"]


class TestTables:
    @pytest.mark.parametrize("first", ["sep=;\n", "SEP=;\r\n", '"sep=;"\n', "\ufeffsep=;\n"])
    def test_the_separator_that_excel_states(self, first: str, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text(f"{first}id;text\n1;a,b\n", encoding="utf-8")
        assert read_table(tmp_path / "t.csv") == (["id", "text"], [(3, {"id": "1", "text": "a,b"})])

    @pytest.mark.parametrize("label", ["0", "X", "-", "9"])
    def test_labels_that_are_withheld(self, label: str, tmp_path: Path) -> None:
        truth = write_msp_podcast(tmp_path)
        path = tmp_path / "Labels/labels_consensus.csv"
        lines = path.read_text().splitlines()
        row = next(i for i, line in enumerate(lines) if "Test3" in line)
        columns = lines[0].split(",")
        cells = lines[row].split(",")
        for name in ("EmoAct", "EmoVal", "EmoDom"):
            cells[columns.index(name)] = label
        lines[row] = ",".join(cells)
        path.write_text("\n".join(lines) + "\n")
        turns = read_release(tmp_path, manifests.load("msp-podcast"))
        assert {turn.id for turn in turns} >= set(truth.kept)
        path.write_text(path.read_text().replace("Test3", "Train"))
        with pytest.raises(SerError, match="rating"):
            read_release(tmp_path, manifests.load("msp-podcast"))

    def test_labels_that_lie_elsewhere(self, clinic: Clinic) -> None:
        (clinic.root / "meta").mkdir()
        (clinic.root / "l.csv").rename(clinic.root / "meta/L.csv")
        assert f"There is {clinic.root}/meta/L.csv: name it under [files]" in clinic.refused()
        (clinic.root / "meta/L.csv").rename(clinic.root / "meta/ratings.csv")
        assert "The recordings are there: name the labels under [files]" in clinic.refused()


def test_what_differs_from_an_existing_cache_is_named(clinic: Clinic) -> None:
    assert len(clinic.ids()) == 6
    swapped = MANIFEST.replace('["1"]', "[]").replace('["2"]', '["1"]').replace("[]", '["2"]')
    (clinic.root / "clinic.toml").write_text(swapped)
    assert "(it differs in protocols, the split of 4 utterances)" in clinic.refused()
    (clinic.root / "clinic.toml").write_text(MANIFEST)
    clinic.table([f"c{i}.wav" for i in range(6)], transcript="other")
    assert "(it differs in the transcript of 6 utterances)" in clinic.refused()
    clinic.table([f"c{i}.wav" for i in range(5)])
    assert "it differs in" in clinic.refused()


def test_an_empty_split_says_what_was_not_usable() -> None:
    """The reason why nothing is left of a split may be the recordings, not the protocol."""
    protocol = Protocol("speaker", {"1": "train", "2": "validation"}, "s")
    manifest = replace(manifests.load("iemocap"), protocol=protocol)
    screened = Screening(dropped={"unreadable": ["c0", "c1"]})
    turns = [Utterance(f"c{i}", None, speaker="2" if i == 2 else "1") for i in range(3)]
    chosen = [(replace(turns[2], split="validation"), 4.0)]
    with pytest.raises(SerError, match=r"the split train, .*Not usable: 2 unreadable \(such as c0\)\."):
        report_splits(manifest, turns, chosen, screened)
