"""Rows are reused by what they were computed from: labels, splits and names cost nothing, and no byte changes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ser_memory.common.cache import LATER_COLUMNS, FeatureCache
from ser_memory.common.errors import SerError
from ser_memory.common.manifests import load
from ser_memory.common.reporting import Silent
from ser_memory.extract.api import extract
from ser_memory.extract.corpora import read_release
from ser_memory.extract.encoders import identify_acoustic, identify_text, load_acoustic, load_text
from ser_memory.extract.encoders.contract import EncoderOptions
from ser_memory.extract.encoders.log_mel import LogMelEncoder
from ser_memory.extract.encoders.text import BertEncoder
from ser_memory.extract.identity import Glimpses, earlier_fingerprint
from ser_memory.extract.workers import Encoders
from tests.models import ACOUSTIC, save_acoustic, save_text, save_whisper

MANIFEST = """\
name = "clinic"
layout = "table"
scale = {{ min = 1, max = 5 }}
protocol = "{protocol}"
files = {{ labels = ["l.csv"], audio = ["audio"] }}
[protocols.one]
by = "split"
train = ["a"]
validation = ["b"]
test = "*"
[protocols.other]
by = "speaker"
train = ["s0"]
validation = ["s1"]
test = "*"
"""
ROWS = 12


class Reports(Silent):
    """Keeps the notices."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def notice(self, line: str) -> None:
        self.lines.append(line)


class Clinic:
    """A release of recordings of a second, and its caches; every change goes through the files."""

    def __init__(self, root: Path, text: str) -> None:
        self.root, self.text = root, text
        (root / "audio").mkdir(parents=True)
        self.protocol = "one"
        self.table: dict[str, dict[str, str]] = {}
        for i in range(ROWS):
            self.add(f"r{i:02d}", i)
        self.said: list[str] = []

    def add(self, name: str, sound: int) -> None:
        self.record(name, sound)
        self.table[name] = {
            "file": f"{name}.wav", "activation": str(1 + sound % 5), "valence": "2.5", "split": "abc"[sound % 3],
            "speaker": f"s{sound % 3}", "transcript": ("a good day", "it was bad", f"so very late {sound}")[sound % 3],
            "dominance": "",
        }  # fmt: skip

    def record(self, name: str, sound: int) -> None:
        noise = np.random.default_rng(sound).standard_normal(int((1 + sound % 4 / 4) * 16_000)) / 9
        soundfile.write(self.root / f"audio/{name}.wav", noise, 16_000)

    def spoil(self, name: str) -> None:
        """Samples that are not finite: only decoding finds out."""
        samples, rate = soundfile.read(self.root / f"audio/{name}.wav", dtype="float32")
        samples[100] = np.nan
        soundfile.write(self.root / f"audio/{name}.wav", samples, rate, subtype="FLOAT")

    def write(self) -> None:
        (self.root / "clinic.toml").write_text(MANIFEST.format(protocol=self.protocol))
        with (self.root / "l.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(next(iter(self.table.values()))))
            writer.writeheader()
            writer.writerows(self.table[name] for name in sorted(self.table))

    def extract(self, cache: str = "cache", **options: Any) -> FeatureCache:
        self.write()
        reports = Reports()
        given: dict[str, Any] = {
            "root": self.root, "cache": self.root / cache, "acoustic_encoder": "log-mel", "text_encoder": self.text,
            "min_duration": 0.5, "device": "cpu", "workers": 1, "reporter": reports, **options,
        }  # fmt: skip
        try:
            return extract(self.root / "clinic.toml", **given)
        finally:
            self.said = reports.lines

    def refused(self, **options: Any) -> str:
        with pytest.raises(SerError) as caught:
            self.extract(**options)
        return str(caught.value)

    def reused(self, **options: Any) -> str:
        """Overwrite the cache, compare it with one from nothing, and return the line about the counts."""
        made = self.extract(overwrite=True, **options)
        (line,) = [line for line in self.said if "reused" in line and "encoded" in line]
        doubts = [line for line in self.said if "silent" in line or "length" in line]
        shutil.rmtree(self.root / "nothing", ignore_errors=True)
        assert made.path.read_bytes() == self.extract("nothing", **options).path.read_bytes()
        assert doubts == [line for line in self.said if "silent" in line or "length" in line]
        assert not (made.path.parent / "clinic.parts").exists()
        return line


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_text(tmp_path_factory.mktemp("reuse-text"))


@pytest.fixture
def clinic(tmp_path: Path, text: str) -> Clinic:
    clinic = Clinic(tmp_path / "clinic", text)
    clinic.extract()
    return clinic


class Spy:
    """Counts what encoders are loaded, and what they are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recordings = self.texts = self.loaded = 0
        self._count(monkeypatch, LogMelEncoder, "recordings")
        self._count(monkeypatch, BertEncoder, "texts")
        for name in ("acoustic", "text"):
            monkeypatch.setattr(Encoders, name, self._loading(getattr(Encoders, name)))

    def _count(self, monkeypatch: pytest.MonkeyPatch, encoder: type, what: str) -> None:
        encode = getattr(encoder, "encode")  # noqa: B009  of any encoder

        def counted(this: object, batch: list[object]) -> object:
            setattr(self, what, getattr(self, what) + len(batch))
            return encode(this, batch)

        monkeypatch.setattr(encoder, "encode", counted)

    def _loading(self, load: object) -> object:
        def counted(this: Encoders) -> object:
            result = load(this)  # type: ignore[operator]  # a method of Encoders
            self.recordings = self.texts = 0  # what loading itself tries
            self.loaded += 1
            return result

        return counted

    @property
    def counts(self) -> tuple[int, int, int]:
        """Encoders loaded, recordings and texts encoded."""
        return self.loaded, self.recordings, self.texts


@pytest.fixture
def spy(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def test_labels_splits_and_names_cost_nothing(clinic: Clinic, spy: Spy) -> None:
    clinic.table["r03"]["activation"] = "4.75"
    clinic.table["r04"]["split"] = "a"
    clinic.table["r05"]["dominance"] = "2"
    clinic.extract(overwrite=True)
    assert spy.counts == (0, 0, 0)
    clinic.protocol = "other"
    assert clinic.extract(overwrite=True).describe() == {"train": 4, "validation": 4, "test": 4}
    for old, new in (("r00", "z00"), ("r07", "a07")):
        (clinic.root / f"audio/{old}.wav").rename(clinic.root / f"audio/{new}.wav")
        clinic.table[new] = clinic.table.pop(old) | {"file": f"{new}.wav"}
    clinic.extract(overwrite=True)
    assert spy.counts == (0, 0, 0)
    assert clinic.reused() == "12 rows are reused, nothing is encoded."


def test_a_transcript_costs_a_text_row(clinic: Clinic, spy: Spy) -> None:
    clinic.table["r03"]["transcript"] = "not so lovely"
    clinic.table["r04"]["transcript"] = "not so lovely"
    clinic.extract(overwrite=True)
    assert spy.counts == (1, 0, 1)
    clinic.table["r03"]["transcript"] = "a"
    assert clinic.reused() == "12 rows are reused, 1 transcript is encoded."


def test_another_text_encoder_costs_no_recording(clinic: Clinic, spy: Spy, tmp_path: Path) -> None:
    other = save_text(tmp_path / "other", seed=1)
    clinic.extract(overwrite=True, text_encoder=other)
    assert spy.counts == (1, 0, 6)
    clinic.text = other
    clinic.table["r00"]["transcript"] = "a day"
    assert clinic.reused() == "12 rows are reused, 1 transcript is encoded."


def test_another_acoustic_encoder_costs_no_text(clinic: Clinic, spy: Spy, tmp_path: Path) -> None:
    other = save_acoustic(tmp_path / "other", "wav2vec2 with group norm")
    assert clinic.reused(acoustic_encoder=other) == ("0 rows are reused, 12 recordings are encoded.")
    moved = shutil.copytree(other, tmp_path / "moved")
    assert clinic.extract(overwrite=True, acoustic_encoder=str(moved)).info.acoustic_encoder == str(moved)
    assert "12 rows are reused, nothing is encoded." in clinic.said


def test_recordings_that_come_go_and_change(clinic: Clinic, spy: Spy) -> None:
    for i in range(10):
        clinic.add(f"m{i}", 50 + i)
    clinic.record("r02", 99)
    del clinic.table["r05"]
    (clinic.root / "audio/r05.wav").unlink()
    texts = {"so very late " + str(50 + i) for i in range(10) if (50 + i) % 3 == 2}
    clinic.extract(overwrite=True)
    assert spy.counts == (2, 11, len(texts))
    clinic.record("r01", 98)
    assert clinic.reused() == "20 rows are reused, 1 recording is encoded."


def test_durations_are_judged_again(clinic: Clinic, spy: Spy) -> None:
    """The bounds drop rows that exist, and what they refused is decoded when they allow it."""
    assert clinic.reused(max_duration=1.5) == "9 rows are reused, nothing is encoded."
    clinic.extract(overwrite=True)
    assert "9 rows are reused, 3 recordings and 1 transcript are encoded." in clinic.said
    assert clinic.reused(min_duration=1.25, max_duration=1.5) == "6 rows are reused, nothing is encoded."


def test_decoding_is_what_decides_about_a_duration(clinic: Clinic, spy: Spy) -> None:
    """By its header a recording is just long enough, and at 16 kHz it is a part of a sample shorter."""
    frames, rate = 22_501, 22_050
    noise = np.random.default_rng(0).standard_normal(frames) / 9
    soundfile.write(clinic.root / "audio/r00.wav", noise, rate)
    before = clinic.extract(overwrite=True)
    (recording, *_), (seconds, *_) = before.read("recording"), before.read("duration")
    assert seconds < frames / rate
    options: dict[str, Any] = {"min_duration": frames / rate}
    assert clinic.reused(**options) == "9 rows are reused, nothing is encoded."
    cache = clinic.extract(**options)
    assert "r00" in cache.info.dropped["too short"]
    assert cache.info.refused == {recording: "too short"}
    loaded = spy.loaded
    clinic.table["r03"]["activation"] = "1.5"
    clinic.extract(overwrite=True, **options)
    assert spy.loaded == loaded
    assert "r00" in clinic.extract(overwrite=True).read("id")


def test_a_broken_recording_is_remembered(clinic: Clinic, spy: Spy) -> None:
    clinic.spoil("r04")
    cache = clinic.extract(overwrite=True)
    assert cache.info.dropped == {"not finite": ["r04"]}
    assert list(cache.info.refused.values()) == ["not finite"]
    loaded = spy.loaded
    clinic.table["r03"]["valence"] = "1"
    clinic.extract(overwrite=True)
    assert spy.loaded == loaded
    assert "11 rows are reused, nothing is encoded." in clinic.said
    assert clinic.reused(max_duration=1.6) == "8 rows are reused, nothing is encoded."
    clinic.record("r04", 4)
    assert clinic.reused() == "8 rows are reused, 4 recordings and 1 transcript are encoded."


def test_silence_is_reported_whenever_it_is_there(clinic: Clinic) -> None:
    soundfile.write(clinic.root / "audio/r06.wav", np.zeros(16_000), 16_000)
    says = "1 recording is digitally silent after mixing down to mono (r06)"
    clinic.extract(overwrite=True)
    assert any(says in line for line in clinic.said)
    clinic.extract()
    assert any("already has this content" in line for line in clinic.said)
    assert any(says in line for line in clinic.said)
    clinic.table["r01"]["valence"] = "1"
    clinic.extract(overwrite=True)
    assert any(says in line for line in clinic.said)
    clinic.reused()


def test_the_same_recording_twice_is_encoded_once(clinic: Clinic, spy: Spy) -> None:
    for name in ("n0", "n1"):
        clinic.add(name, 70)
    cache = clinic.extract(overwrite=True)
    assert spy.recordings == 1
    assert np.array_equal(cache.read("acoustic")[0], cache.read("acoustic")[1])
    clinic.reused()


def test_recordings_that_only_look_the_same(clinic: Clinic) -> None:
    """They begin, go on and end in silence, so that the blocks that are looked at are equal."""
    for name, at in (("n0", 6_000), ("n1", 11_000)):
        samples = np.zeros(32_000)
        samples[at : at + 1_000] = np.random.default_rng(at).standard_normal(1_000) / 9
        clinic.add(name, 70)
        soundfile.write(clinic.root / f"audio/{name}.wav", samples, 16_000)
    cache = clinic.extract(overwrite=True)
    assert len(set(cache.read("recording"))) == ROWS + 2
    assert not np.array_equal(cache.read("acoustic")[0], cache.read("acoustic")[1])
    clinic.reused()


def test_a_refusal_says_what_overwriting_would_cost(clinic: Clinic, spy: Spy) -> None:
    before = (clinic.root / "cache/clinic.h5").read_bytes()
    clinic.table["r03"]["activation"] = "4.75"
    assert (
        "add --overwrite, which encodes nothing and reuses 12 rows, or give another --cache"
        in clinic.refused()
    )
    for i in range(10):
        clinic.add(f"m{i}", 3 * i + 60)
    clinic.table["m0"]["transcript"] = "a lovely day"
    says = clinic.refused()
    assert "add --overwrite, which encodes 10 recordings and 1 transcript and reuses 12 rows" in says
    assert "(it differs in release, the activation of 1 utterance)" in says
    assert spy.counts == (0, 0, 0)
    assert (clinic.root / "cache/clinic.h5").read_bytes() == before


def test_fresh_computes_everything(clinic: Clinic, spy: Spy) -> None:
    before = clinic.extract()
    content = before.path.read_bytes()
    clinic.extract(fresh=True)
    assert spy.counts == (2, 12, 6)
    assert (clinic.root / "cache/clinic.h5").read_bytes() == content
    assert not any("reused" in line for line in clinic.said)


def test_a_cache_with_another_value_is_not_used(clinic: Clinic, spy: Spy) -> None:
    with h5py.File(clinic.root / "cache/clinic.h5", "r+") as file:
        file["acoustic"][3, 5] += 1
    clinic.extract(overwrite=True)
    assert spy.counts == (2, 12, 6)
    assert any("is damaged, so that none of its rows is reused" in line for line in clinic.said)
    (clinic.root / "cache/clinic.h5").write_bytes(b"cut off")
    clinic.extract(overwrite=True)
    assert any("cannot be read, so that none of its rows is reused" in line for line in clinic.said)
    clinic.reused()


class TestACacheOfAnEarlierVersion:
    @pytest.fixture(autouse=True)
    def _earlier(self, clinic: Clinic) -> None:
        manifest = load(str(clinic.root / "clinic.toml"))
        turns = read_release(clinic.root, manifest)
        path = clinic.root / "cache/clinic.h5"
        fingerprint = earlier_fingerprint(FeatureCache(path).info, turns, Glimpses(turns))
        with h5py.File(path, "r+") as file:
            for name in LATER_COLUMNS:
                del file[name]
            for name in ("protocol", "protocols", "refused", "silent", "digest"):
                del file.attrs[name]
            file.attrs["fingerprint"] = fingerprint

    def test_stays_as_it_is_if_it_is_what_was_asked_for(self, clinic: Clinic) -> None:
        before = (clinic.root / "cache/clinic.h5").read_bytes()
        clinic.extract()
        assert any(
            "already has this content, in the form of an earlier version" in line for line in clinic.said
        )
        assert (clinic.root / "cache/clinic.h5").read_bytes() == before

    def test_gives_all_its_rows_if_the_release_is_the_same(self, clinic: Clinic, spy: Spy) -> None:
        assert "(it differs in max_duration)" in clinic.refused(max_duration=1.5)
        clinic.extract(overwrite=True)
        assert spy.counts == (0, 0, 0)
        assert any("may differ in the last bit" in line for line in clinic.said)
        assert clinic.reused() == "12 rows are reused, nothing is encoded."

    def test_gives_its_text_rows_if_the_release_is_another(self, clinic: Clinic, spy: Spy) -> None:
        clinic.table["r03"]["activation"] = "4.75"
        clinic.table["r04"]["transcript"] = "not so lovely"
        clinic.extract(overwrite=True)
        assert spy.counts == (2, 12, 1)
        assert any("only its transcripts' rows are reused" in line for line in clinic.said)
        clinic.reused()

    def test_the_fingerprint_is_that_of_the_earlier_version(self, clinic: Clinic) -> None:
        """The formula of version 0.1.0, written out for this corpus by hand."""
        import hashlib
        import json

        info = FeatureCache(clinic.root / "cache/clinic.h5").info
        facts = {
            "corpus": "clinic", "release": f"of {ROWS} turns", "scale_min": 1.0, "scale_max": 5.0,
            "acoustic_revision": "40 bands", "acoustic_pooling": "mean+std", "acoustic_layers": "last",
            "text_revision": info.text_revision, "text_pooling": "last hidden state of the first token",
            "min_duration": 0.5, "max_duration": 30.0, "sampling_rate": 16000, "precision": "float32", "limit": 0,
        }  # fmt: skip
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, row in sorted(clinic.table.items()):
            split = {"a": "train", "b": "validation", "c": "test"}[row["split"]]
            ratings = [float(row["activation"]), float(row["valence"]), float("nan")]
            values = [name, split, *ratings, row["speaker"], "Unknown", row["transcript"]]
            digest.update(json.dumps(values).encode())
            data = (clinic.root / f"audio/{name}.wav").read_bytes()
            middle = len(data) // 2
            blocks = [str(len(data)).encode(), data[:4096], data[middle : middle + 4096], data[-4096:]]
            digest.update(hashlib.sha256(b"".join(blocks)).digest())
        assert info.fingerprint == digest.hexdigest()


def edit_table(clinic: Clinic, edit: str, name: str, number: int) -> None:
    row = clinic.table[name]
    if edit == "label":
        row["activation"] = str(1 + number % 4)
    elif edit == "split":
        row["split"] = "abc"[number % 3]
    elif edit == "transcript":
        row["transcript"] = ("a", "bad", "it is late", "a good day")[number % 4]
    elif edit == "protocol":
        clinic.protocol = ("one", "other")[number % 2]


def edit_recordings(clinic: Clinic, edit: str, name: str, number: int) -> None:
    audio = clinic.root / "audio"
    if edit == "add":
        clinic.add(f"x{number}", number)
    elif edit == "remove":
        del clinic.table[name]
        (audio / f"{name}.wav").unlink()
    elif edit == "record":
        clinic.record(name, number)
    elif edit == "spoil":
        clinic.spoil(name)
    elif edit == "rename":
        (audio / f"{name}.wav").rename(audio / f"y{number}{name}.wav")
        clinic.table[f"y{number}{name}"] = clinic.table.pop(name) | {"file": f"y{number}{name}.wav"}
    elif edit == "swap":
        first, second = audio / f"{name}.wav", audio / f"{max(clinic.table)}.wav"
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)


EDITS = {
    **dict.fromkeys(("label", "split", "transcript", "protocol"), edit_table),
    **dict.fromkeys(("add", "remove", "record", "spoil", "rename", "swap"), edit_recordings),
}


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    edits=st.lists(st.tuples(st.sampled_from(sorted(EDITS)), st.integers(0, 1000)), min_size=1, max_size=6),
    longest=st.lists(st.sampled_from((1.6, 30.0)), min_size=7, max_size=7),
)
def test_any_edits_then_overwriting_equals_extracting_from_nothing(
    edits: list[tuple[str, int]], longest: list[float], text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clinic = Clinic(tmp_path_factory.mktemp("edits") / "clinic", text)
    clinic.extract(max_duration=longest[-1])
    for (edit, number), seconds in zip(edits, longest, strict=False):
        # Three utterances stay as they are, so that no split is ever empty.
        names = [name for name in sorted(clinic.table) if name > "r02"]
        EDITS[edit](clinic, edit, names[number % len(names)], number)
        if number % 3 == 0:  # sometimes several edits come between two extractions
            clinic.extract(overwrite=True, max_duration=seconds)
    clinic.reused(max_duration=longest[-2])


@pytest.mark.parametrize("kind", [*ACOUSTIC, "whisper", "log-mel"])
def test_an_encoder_is_identified_without_its_weights(kind: str, tmp_path: Path) -> None:
    if kind in ACOUSTIC:
        name = save_acoustic(tmp_path / "model", kind)
    else:
        name = save_whisper(tmp_path / "model") if kind == "whisper" else kind
    layers = "last" if kind == "log-mel" else "all"
    for options in (None, EncoderOptions(layers=layers, pooling="mean+std")):
        identity, encoder = identify_acoustic(name, options), load_acoustic(name, options=options)
        assert identity.attributes() == encoder.attributes()
        assert identity.max_samples == encoder.max_samples
    if layers == "all":  # as many as the loaded model gives
        row = encoder.encode([np.ones(16_000, np.float32)])
        assert row.shape[1] == len(identity.attributes()["acoustic_layers"].split(","))


def test_a_text_encoder_is_identified_without_its_weights(text: str) -> None:
    assert identify_text(text).attributes() == load_text(text).attributes()
