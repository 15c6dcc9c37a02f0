"""The contract of every registered corpus reader; a new one needs a builder in tests.releases, and no change here."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ser_memory.common import manifests
from ser_memory.common.conventions import NO_SPLIT, UNKNOWN
from ser_memory.common.manifests import Manifest
from ser_memory.common.protocols import SPLIT_NAME
from ser_memory.extract.corpora import READERS, Utterance, read_release
from tests.releases import BUILDERS, Truth

Release = tuple[Truth, Manifest, Path]


@pytest.fixture(params=sorted(READERS))
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    layout = str(request.param)
    if layout not in BUILDERS:
        pytest.fail(f"The layout {layout!r} has a reader and no builder: add one to tests.releases.BUILDERS.")
    truth = BUILDERS[layout](tmp_path)
    manifest = manifests.load(truth.corpus)
    assert manifest.layout == layout
    return truth, manifest, tmp_path


def read(release: Release) -> list[Utterance]:
    _, manifest, root = release
    return read_release(root, manifest)


def test_returns_a_list_of_utterances(release: Release) -> None:
    utterances = read(release)
    assert isinstance(utterances, list)
    assert utterances
    assert all(isinstance(utterance, Utterance) for utterance in utterances)


def test_ids_are_unique(release: Release) -> None:
    ids = [utterance.id for utterance in read(release)]
    assert all(ids)
    assert len(set(ids)) == len(ids)


def test_order_does_not_vary(release: Release) -> None:
    first, second = read(release), read(release)
    assert str(first) == str(second)  # as text, NaN equals NaN


def test_lists_every_turn_of_the_release(release: Release) -> None:
    truth, _, _ = release
    ids = [utterance.id for utterance in read(release)]
    assert [name for name in ids if name in truth.kept] == list(truth.kept)
    assert set(ids) == {
        *truth.kept,
        *truth.unlisted,
        *(name for names in truth.dropped.values() for name in names),
    }


def test_splits_are_known(release: Release) -> None:
    for utterance in read(release):
        unlabelled = math.isnan(utterance.activation) and math.isnan(utterance.valence)
        assert SPLIT_NAME.fullmatch(utterance.split) or (utterance.split == NO_SPLIT and unlabelled)


def test_recordings_exist_or_are_none(release: Release) -> None:
    for utterance in read(release):
        assert utterance.audio is None or utterance.audio.is_file()


def test_no_resource_fork_is_taken_for_a_turn(release: Release) -> None:
    for utterance in read(release):
        assert not utterance.id.startswith("._")
        assert utterance.audio is None or not utterance.audio.name.startswith("._")


def test_labels_are_in_the_scale_or_nan(release: Release) -> None:
    _, manifest, _ = release
    for utterance in read(release):
        for value in (utterance.activation, utterance.valence, utterance.dominance):
            assert math.isnan(value) or manifest.scale_min <= value <= manifest.scale_max


def test_genders_are_of_three_kinds_and_speakers_named(release: Release) -> None:
    for utterance in read(release):
        assert utterance.gender in ("Female", "Male", UNKNOWN)
        assert utterance.speaker
