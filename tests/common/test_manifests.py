"""The rules a manifest obeys, and the sentence for each that is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from ser_memory.common import manifests
from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.protocols import SPLIT_NAME, Protocol

GOOD = """\
name = "own"
layout = "table"
scale = { min = 1, max = 5 }

[protocols.people]
by = "speaker"
train = ["01", "02"]
validation = "03"
test = "*"

[protocols.given]
by = "split"
train = ["fit"]

[files]
labels = ["labels.csv"]
audio = "clips"

[columns]
file = "path"

[expected]
"2024" = 12
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(GOOD)
    return path


def complaint(path: Path, old: str, new: str) -> str:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(SerError) as caught:
        manifests.load(str(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_shipped_corpora() -> None:
    assert manifests.shipped() == ["iemocap", "msp-improv", "msp-podcast"]


@pytest.mark.parametrize(
    ("corpus", "scale", "by"),
    [
        ("iemocap", (1, 5), "session"),
        ("msp-improv", (1, 5), "session"),
        ("msp-podcast", (1, 7), "split"),
    ],
)
def test_a_shipped_manifest(corpus: str, scale: tuple[float, float], by: str) -> None:
    manifest = manifests.load(corpus)
    assert manifest.name == corpus
    assert (manifest.scale_min, manifest.scale_max) == scale
    assert manifest.protocol.by == by
    assert {"train", "validation", "test"} <= set(manifest.protocol.splits.values())
    assert all(SPLIT_NAME.fullmatch(split) for split in manifest.protocol.splits.values())
    assert manifest.labels
    assert manifest.audio


def test_a_manifest_of_ones_own(own: Path) -> None:
    manifest = manifests.load(str(own))
    assert (manifest.name, manifest.title, manifest.protocol.name) == ("own", "own", "people")
    assert manifest.protocol == Protocol(
        "speaker", {"01": "train", "02": "train", "03": "validation", "*": "test"}, "people"
    )
    assert (manifest.labels, manifest.audio, manifest.transcripts) == (("labels.csv",), ("clips",), ())
    assert manifest.columns == {"file": "path"}
    assert manifests.load(str(own), "given").protocol == Protocol("split", {"fit": "train"}, "given")


def test_a_release_is_known_by_its_size(own: Path) -> None:
    manifest = manifests.load(str(own))
    assert manifest.release_of(12) == "2024"
    assert manifest.release_of(13) == "of 13 turns"
    assert manifests.load("msp-podcast").release_of(151_654) == "1.11"


def test_an_unknown_corpus() -> None:
    with pytest.raises(
        UsageError, match=r"'emodb' is not known: give one of iemocap, msp-improv, msp-podcast"
    ):
        manifests.load("emodb")
    with pytest.raises(UsageError, match=r"There is no manifest at nowhere\.toml"):
        manifests.load("nowhere.toml")


def test_an_unknown_protocol(own: Path) -> None:
    with pytest.raises(UsageError, match=r"Protocol 'folds' is not in .*: it has people, given"):
        manifests.load(str(own), "folds")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "own"\n', "", "lacks 'name'"),
        ('layout = "table"\n', "", "lacks 'layout'"),
        ("scale = { min = 1, max = 5 }\n", "", "lacks 'scale'"),
        ("name =", "nmae =", "has nmae; it may have name, title"),
        ('"own"', '"../own"', "is named '../own'"),
        ("max = 5", "top = 5", "must give its scale as { min = 1, max = 5 }"),
        ("max = 5", 'max = "five"', "must give its scale in numbers"),
        ("max = 5", "max = 1", "has the scale 1 to 1: the maximum must exceed the minimum"),
        ('by = "speaker"', 'by = "mood"', "splits by 'mood': 'by' is one of speaker, session, split"),
        ("validation =", "dev =", "has the split 'dev': splits are train, validation, test"),
        ('"03"', '"02"', "puts speaker '02' into two splits"),
        ('name = "own"', "name = own", "cannot be read as TOML"),
        (
            'train = ["01", "02"]\nvalidation = "03"\ntest = "*"\n',
            "",
            "splits by speaker, and has no list of them: add for example train",
        ),
        ('"03"', "{ a = 1 }", "must give the split validation as a list of texts"),
    ],
)
def test_a_broken_rule(own: Path, old: str, new: str, says: str) -> None:
    assert says in complaint(own, old, new)


def test_splits_of_the_release_need_lists_too(own: Path) -> None:
    own.write_text(GOOD.replace('train = ["fit"]', ""))
    with pytest.raises(SerError, match=r"splits by split, and has no list of them: add"):
        manifests.load(str(own), "given")


def test_a_byte_order_mark_is_no_part_of_the_text(own: Path) -> None:
    own.write_text(GOOD, "utf-8-sig")
    assert manifests.load(str(own)).name == "own"


def test_a_manifest_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "own.toml").mkdir()
    with pytest.raises(SerError, match="cannot be opened: Is a directory"):
        manifests.load(str(tmp_path / "own.toml"))


def test_no_protocol(own: Path) -> None:
    own.write_text('name = "own"\nlayout = "table"\nscale = { min = 1, max = 5 }\n')
    with pytest.raises(SerError, match="lacks 'protocols'"):
        manifests.load(str(own))
    own.write_text('name = "own"\nlayout = "table"\nscale = { min = 1, max = 5 }\nprotocols = {}\n')
    with pytest.raises(SerError, match=r"needs a table \[protocols\.NAME\]"):
        manifests.load(str(own))


def test_a_file_that_is_no_text(own: Path) -> None:
    own.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SerError, match="cannot be read as TOML"):
        manifests.load(str(own))
