"""Add word errors to transcripts at a given rate, to find out how good transcripts must be."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.transcripts.quality.word_error_rate import normalised, total, word_errors

SUBSTITUTE, DELETE, INSERT = range(3)
_SHARES = (0.6, 0.2, 0.2)  # of the three kinds of errors, roughly as engines make them
_CLOSE, _TOLERANCE = (
    0.002,
    0.02,
)  # difference of the rate at which the search stops, and the largest allowed one
_MOST_TRIES = 25
HIGHEST = 0.9


def degrade(texts: Mapping[str, str], rate: float, seed: int = 0) -> dict[str, str]:
    """Texts, id -> text, with word errors whose measured word error rate, over all texts together, is `rate`.

    New words are drawn from all texts, as often as they occur there. The seed decides for each word at which rate it
    becomes wrong, how, and which word replaces it, so the errors of a lower rate are among those of a higher rate.
    Raises UsageError for a rate outside (0, HIGHEST], and SerError if the texts have too few words for a rate within
    0.02 of `rate`.
    """
    check_rate(rate)
    plan = _Plan(texts, seed)
    # Neighbouring errors can merge (a deletion beside an insertion is one substitution), so the share of wrong words
    # must be a little higher than the rate. It is found by search.
    low, high, share = 0.0, 1.0, rate
    for _ in range(_MOST_TRIES):
        made = plan.at(share)
        measured = total(word_errors(texts, made)).rate
        if abs(measured - rate) <= _CLOSE:
            break
        low, high = (share, high) if measured < rate else (low, share)
        guess = share * rate / measured if measured else 1.0
        share = guess if low < guess < high else (low + high) / 2
    if not abs(measured - rate) <= _TOLERANCE:
        raise SerError(
            f"These {len(texts)} texts have too few words for a word error rate of {rate:g}: the closest is "
            f"{measured:.3f}. Use more texts."
        )
    return made


def check_rate(rate: float) -> None:
    """Raise UsageError for a rate outside (0, HIGHEST]."""
    if not 0.0 < rate <= HIGHEST:
        raise UsageError(
            f"A word error rate of {rate:g} is not possible: give a rate above 0, up to {HIGHEST:g}."
        )


class _Plan:
    """For each word of the texts: the share at which it becomes wrong, how, and the word that replaces it."""

    def __init__(self, texts: Mapping[str, str], seed: int) -> None:
        self._words = {name: text.split() for name, text in texts.items()}
        candidates = [word for words in self._words.values() for word in words if _bare(word)]
        if len({_bare(word) for word in candidates}) < 2:  # noqa: PLR2004
            raise SerError("Texts with fewer than two different words cannot be degraded: use more texts.")
        random = np.random.default_rng(seed)
        n = sum(map(len, self._words.values()))
        self._when = random.random(n)
        self._how = random.choice(3, size=n, p=_SHARES)
        self._what = [candidates[i] for i in random.integers(len(candidates), size=n)]
        others = sorted(set(candidates))
        for i, word in enumerate(word for words in self._words.values() for word in words):
            if not _bare(word):
                self._when[i] = 2.0  # a dash alone is not a word: it never becomes wrong
            while self._how[i] == SUBSTITUTE and _bare(self._what[i]) == _bare(word):
                self._what[i] = others[int(random.integers(len(others)))]

    def at(self, share: float) -> dict[str, str]:
        """The texts with this share, 0 to 1, of their words wrong."""
        made = {}
        place = 0
        for name, words in self._words.items():
            kept: list[str] = []
            for word in words:
                kept += self._wrong(word, place) if self._when[place] < share else [word]
                place += 1
            made[name] = " ".join(kept)
        return made

    def _wrong(self, word: str, place: int) -> list[str]:
        how, what = self._how[place], self._what[place]
        if how == SUBSTITUTE:
            return [what]
        return [] if how == DELETE else [word, what]


@cache
def _bare(word: str) -> str:
    """The word in the form in which it is compared; "" for a dash alone."""
    return " ".join(normalised(word))
