"""Split protocols: who trains, validates and tests, once or in folds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_memory.common import manifests
from ser_memory.common.conventions import NO_SPLIT
from ser_memory.common.errors import SerError
from ser_memory.common.protocols import Protocol, in_natural_order, parse_protocol, speakers_in_two_splits


def assign(protocol: Protocol, values: list[str], labelled: bool = True) -> list[list[str]]:
    ids = [f"u{i}" for i in range(len(values))]
    splits = protocol.assign(ids, {protocol.by: values}, [labelled] * len(values), "a corpus")
    return [list(fold) for fold in splits]


def test_splits_by_value() -> None:
    rule = Protocol("speaker", {"01": "train", "*": "test"})
    assert assign(rule, ["01", "99", "Unknown"]) == [["train", "test", "test"]]
    named = Protocol("session", {"1": "train", "2": "test"})
    with pytest.raises(SerError, match=r"u0 has the session '9', which no split .*: known are 1, 2\."):
        assign(named, ["9"])


def test_without_labels_no_split_is_needed() -> None:
    named = Protocol("session", {"1": "train", "2": "test"})
    assert assign(named, ["", "9", "2"], labelled=False) == [[NO_SPLIT, NO_SPLIT, "test"]]
    others = Protocol("speaker", {"*": "train"})
    assert assign(others, ["Unknown", "x"], labelled=False) == [[NO_SPLIT, "train"]]


def test_the_fact_that_decides_must_be_known() -> None:
    with pytest.raises(
        SerError, match=r"'s' splits clinic by session, which is not known: split by speaker\."
    ):
        Protocol("session", {"1": "train"}, "s").assign(["x"], {"speaker": ["a"]}, [True], "clinic")


def test_one_fold_per_session_by_hand() -> None:
    protocol = parse_protocol("loso", {"folds": "session"}, "m.toml")
    assert assign(protocol, ["10", "2", "1", "2", ""]) == [
        ["train", "validation", "test", "validation", NO_SPLIT],  # session 1 is tested
        ["validation", "test", "train", "test", NO_SPLIT],
        ["test", "train", "validation", "train", NO_SPLIT],
    ]


@given(st.lists(st.sampled_from(["1", "2", "3", "10", "b", "Unknown", ""]), min_size=5, max_size=60))
def test_in_folds_each_value_is_tested_once_and_validates_once(values: list[str]) -> None:
    protocol = Protocol("speaker", {}, "people", each=True)
    known = set(values) - {"Unknown", ""}
    if len(known) < 3:
        with pytest.raises(SerError, match=r"it needs at least 3, to test, to validate and to train"):
            assign(protocol, values)
        return
    folds = assign(protocol, values)
    assert len(folds) == len(known)
    for row, value in enumerate(values):
        counts = Counter(fold[row] for fold in folds)
        once = {"test": 1, "validation": 1, "train": len(known) - 2}
        assert counts == (once if value in known else {NO_SPLIT: len(folds)})
    for fold in folds:
        assert not speakers_in_two_splits(fold, values)


def test_folds_may_be_listed() -> None:
    table = {
        "by": "speaker",
        "folds": [
            {"train": "*", "validation": ["1"], "test": [2, "3"]},
            {"train": ["1"], "test2": "2"},
        ],
    }
    protocol = parse_protocol("mine", table, "m.toml")
    assert protocol.has_folds
    assert assign(protocol, ["1", "2"]) == [["validation", "test"], ["train", "test2"]]
    with pytest.raises(
        SerError, match=r"u0 has the speaker '3', which no split of the protocol 'mine' names in fold 2"
    ):
        assign(protocol, ["3"])


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"folds": "split"}, "has folds = 'split': give one of speaker, session, or a list of folds"),
        ({"by": "speaker", "folds": "session"}, "has folds = 'session' and by = 'speaker'"),
        ({"folds": "actor"}, "splits by 'actor'"),
        ({"folds": [{"test": ["1"]}]}, "splits by None"),
        ({"by": "speaker", "folds": []}, "must give its folds as one of speaker, session, or as a list"),
        ({"by": "speaker", "folds": [["1"], ["2"]]}, "must give its folds as one of speaker, session"),
        ({"by": "speaker", "folds": [{"test": ["1"], "train": ["1"]}]}, "fold 1, puts speaker '1' into two"),
        ({"by": "speaker", "folds": [{"test": "1"}, {"dev": "1"}]}, "fold 2, has the split 'dev'"),
        ({"folds": "speaker", "train": ["1"]}, "has folds and also train"),
        ({"folds": "speaker", "shared_speakers": "yes"}, "shared_speakers = 'yes': it is true or false"),
        ("all", "must give 'p' as a table"),
    ],
)
def test_protocols_that_say_too_little(table: object, says: str) -> None:
    with pytest.raises(SerError) as caught:
        parse_protocol("p", table, "m.toml")
    assert says in str(caught.value)
    assert "m.toml" in str(caught.value)


def test_a_speaker_in_two_splits() -> None:
    protocol = Protocol("session", {"1": "train", "2": "test"}, "s")
    splits = np.array(["train", "test", "train", NO_SPLIT, "test", "train"], dtype=object)
    speakers = ["a", "a", "b", "b", "Unknown", "Unknown"]
    assert speakers_in_two_splits(splits, speakers) == ["a"]
    with pytest.raises(
        SerError,
        match=r"^Fold 2 of clinic has the speaker a in more than one split, .* shared_speakers = true",
    ):
        protocol.refuse_shared_speakers(splits, speakers, "Fold 2 of clinic")
    Protocol("session", {}, "s", shared_speakers=True).refuse_shared_speakers(splits, speakers, "it")


def test_numbers_are_sorted_by_size() -> None:
    assert in_natural_order({"10", "9", "s2", "s10", "a"}) == ["9", "10", "a", "s2", "s10"]


@pytest.mark.parametrize("corpus", ["iemocap", "msp-improv"])
def test_leave_one_session_out_is_shipped(corpus: str) -> None:
    protocol = manifests.load(corpus, "sessions").protocol
    assert (protocol.by, protocol.each, protocol.has_folds) == ("session", True, True)
    assert not manifests.load(corpus).protocol.has_folds
