"""Word error rates against jiwer's own worked examples and a distance written out; degraded texts."""

from __future__ import annotations

import math

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.simulation.words import sentence
from ser_memory.extract.transcripts.quality.degrade import degrade
from ser_memory.extract.transcripts.quality.word_error_rate import (
    WordErrors,
    normalised,
    total,
    word_errors,
    worst,
)


def rate(reference: str, text: str) -> float:
    return word_errors({"x": reference}, {"x": text})["x"].rate


@pytest.mark.parametrize(
    ("references", "texts", "wer"),
    [  # from jiwer's documentation and tests
        (["hello world"], ["hello duck"], 0.5),
        (["hello world", "i like monthy python"], ["hello duck", "i like python"], 2 / 6),
        (["i love cold pizza"], ["the sugar bear"], 1.0),
        (["yes please"], ["no thank you"], 1.5),
        (["X X X"], ["X X Y Y"], 2 / 3),
        (["i can spell", "i hope"], ["i kan cpell", "i hop"], 0.6),
    ],
)
def test_jiwers_examples(references: list[str], texts: list[str], wer: float) -> None:
    one, other = dict(enumerate(references)), dict(enumerate(texts))
    errors = word_errors({str(k): v for k, v in one.items()}, {str(k): v for k, v in other.items()})
    assert total(errors).rate == pytest.approx(wer)
    assert total(errors).rate == pytest.approx(jiwer.wer(references, texts))


def levenshtein(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_errors_are_the_edit_distance(a: list[str], b: list[str]) -> None:
    errors = word_errors({"x": " ".join(a)}, {"x": " ".join(b)})["x"]
    assert errors.count == levenshtein(a, b)
    assert errors.words == len(a)
    assert len(b) == len(a) - errors.deletions + errors.insertions


def test_normalisation() -> None:
    assert normalised("  Don’t you—well-known, 'friend' -\n[LAUGHTER] say <noise> “Hi”?! ") == [
        *("dont", "you", "well", "known", "friend", "say", "hi")
    ]
    assert normalised("Ärger… (20%)") == ["ärger", "20"]
    assert normalised(" - [BREATHING] ") == []
    assert rate("It's a well-known fact.", "its a well known FACT") == 0.0


def test_only_what_both_have_counts() -> None:
    errors = word_errors({"a": "one two", "b": "three", "c": ""}, {"c": "four", "a": "one", "z": "no"})
    assert list(errors) == ["a", "c"]
    assert errors["a"] == WordErrors(words=2, deletions=1)
    assert errors["c"] == WordErrors(words=0, insertions=1)
    assert total(errors).rate == 1.0
    assert math.isnan(errors["c"].rate)
    assert word_errors({"a": "x"}, {}) == {}


def test_the_worst_come_first() -> None:
    errors = {
        "a": WordErrors(10, 2),
        "b": WordErrors(2, 2),
        "c": WordErrors(5),
        "d": WordErrors(5, insertions=40),
    }
    assert worst(errors, 5) == ["d", "b", "a"]
    assert worst(errors, 1) == ["d"]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    random = np.random.default_rng(0)
    made = {
        f"u{i}": sentence(random.uniform(-1, 1), random, "podcast", 12).capitalize() + "." for i in range(300)
    }
    return {**made, "silent": "", "sound": "[LAUGHTER]", "dash": "Well - that is well-known - so."}


@pytest.mark.parametrize("asked", [0.02, 0.1, 0.2, 0.4, 0.6, 0.8])
def test_the_measured_rate_is_the_one_asked_for(asked: float, texts: dict[str, str]) -> None:
    made = degrade(texts, asked, seed=1)
    assert list(made) == list(texts)
    measured = jiwer.wer(
        [" ".join(normalised(text)) for text in texts.values()],
        [" ".join(normalised(made[name])) for name in texts],
    )
    assert measured == pytest.approx(asked, abs=0.02)
    assert {word for text in made.values() for word in normalised(text)} <= {
        word for text in texts.values() for word in normalised(text)
    }
    assert made["silent"] == ""
    assert made["sound"] == "[LAUGHTER]"
    errors = total(word_errors(texts, made))
    assert min(errors.substitutions, errors.deletions, errors.insertions) > 0.1 * errors.count


def test_seeds_decide(texts: dict[str, str]) -> None:
    assert degrade(texts, 0.2, seed=1) == degrade(texts, 0.2, seed=1)
    assert degrade(texts, 0.2, seed=1) != degrade(texts, 0.2, seed=2)


def test_the_errors_of_a_lower_rate_are_among_those_of_a_higher(texts: dict[str, str]) -> None:
    low, high = degrade(texts, 0.1), degrade(texts, 0.4)
    touched = {name for name in texts if low[name] != texts[name]}
    assert touched <= {name for name in texts if high[name] != texts[name]}


def test_rates_that_cannot_be_made() -> None:
    for asked in (0.0, -0.1, 0.95, math.nan):
        with pytest.raises(UsageError, match=r"give a rate above 0, up to 0\.9"):
            degrade({"a": "one two three"}, asked)
    with pytest.raises(SerError, match="too few words"):
        degrade({"a": "one two three"}, 0.1)
    with pytest.raises(SerError, match="fewer than two different words"):
        degrade({"a": "one One, one!", "b": ""}, 0.1)
