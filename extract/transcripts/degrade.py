"""Transcripts with word errors of a chosen rate, for the question how good a transcript must be."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np

from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.transcripts.quality import normalised, total, word_errors

SUBSTITUTE, DELETE, INSERT = range(3)
# About how recognisers err.
_SHARES = (0.6, 0.2, 0.2)
_CLOSE, _TOLERANCE = 0.002, 0.02
_MOST_TRIES = 25
HIGHEST = 0.9


def degrade(texts: Mapping[str, str], rate: float, seed: int = 0) -> dict[str, str]:
    """id -> text with word errors such that the measured word error rate is `rate`, over all texts at once.

    Words are drawn from all texts as often as they occur there. A seed decides, for every word, whether it errs
    early or late, how, and to what: the errors of a lower rate are among those of a higher one. Raises
    UsageError for a rate outside (0, HIGHEST], SerError when the texts have too few words to come within 0.02.
    """
    check_rate(rate)
    plan = _Plan(texts, seed)
    # Neighbouring errors merge (a deletion beside an insertion is one substitution), so a few more are needed
    # than the rate says: the share of words that err is searched for.
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
            f"A word error rate of {rate:g} cannot be made of these {len(texts)} texts: {measured:.3f} is the "
            "closest, since they have too few words."
        )
    return made


def check_rate(rate: float) -> None:
    """Raise UsageError for a rate outside (0, HIGHEST]."""
    if not 0.0 < rate <= HIGHEST:
        raise UsageError(
            f"A word error rate of {rate:g} cannot be made: give one above 0, up to {HIGHEST:g}."
        )


class _Plan:
    """For every word of the texts: when it errs, how, and to what."""

    def __init__(self, texts: Mapping[str, str], seed: int) -> None:
        self._words = {name: text.split() for name, text in texts.items()}
        spoken = [word for words in self._words.values() for word in words if _bare(word)]
        if len({_bare(word) for word in spoken}) < 2:  # noqa: PLR2004
            raise SerError("Texts with fewer than two different words cannot be degraded.")
        random = np.random.default_rng(seed)
        n = sum(map(len, self._words.values()))
        self._when = random.random(n)
        self._how = random.choice(3, size=n, p=_SHARES)
        self._what = [spoken[i] for i in random.integers(len(spoken), size=n)]
        others = sorted(set(spoken))
        for i, word in enumerate(word for words in self._words.values() for word in words):
            if not _bare(word):
                self._when[i] = 2.0  # a dash alone is no word: it never errs
            while self._how[i] == SUBSTITUTE and _bare(self._what[i]) == _bare(word):
                self._what[i] = others[int(random.integers(len(others)))]

    def at(self, share: float) -> dict[str, str]:
        """The texts with this share of their words in error."""
        made = {}
        place = 0
        for name, words in self._words.items():
            kept: list[str] = []
            for word in words:
                kept += self._said(word, place) if self._when[place] < share else [word]
                place += 1
            made[name] = " ".join(kept)
        return made

    def _said(self, word: str, place: int) -> list[str]:
        how, what = self._how[place], self._what[place]
        if how == SUBSTITUTE:
            return [what]
        return [] if how == DELETE else [word, what]


@cache
def _bare(word: str) -> str:
    """The word as it is compared; "" for a dash alone."""
    return " ".join(normalised(word))
