"""How far two transcripts of the same utterances differ: word error rate, and which utterances are worst."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jiwer

NORMALISATION = "words in lower case, without punctuation, dashes as spaces, without sounds in brackets such as [LAUGHTER]"
_DASHES = r"[-‐-―/]"
_SOUNDS = r"\[[^\]]*\]|<[^>]*>"


@dataclass(frozen=True)
class Errors:
    """Word errors of one utterance or of many."""

    words: int = 0  # of the reference
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def count(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Word error rate, errors per word of the reference; above 1 where much is inserted, NaN without words."""
        return self.count / self.words if self.words else math.nan

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def word_errors(reference: Mapping[str, str], heard: Mapping[str, str]) -> dict[str, Errors]:
    """id -> word errors of the utterances that both tell of, in the reference's order, after normalisation."""
    import jiwer

    ids = [name for name in reference if name in heard]
    if not ids:
        return {}
    steps = normalisation()
    output = jiwer.process_words(
        [reference[name] for name in ids],
        [heard[name] for name in ids],
        reference_transform=steps,
        hypothesis_transform=steps,
    )
    errors = {}
    for name, words, chunks in zip(ids, output.references, output.alignments, strict=True):
        counted = {"substitute": 0, "delete": 0, "insert": 0}
        for chunk in chunks:
            if chunk.type != "equal":
                spans = (chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
                counted[chunk.type] += max(spans)
        errors[name] = Errors(len(words), *counted.values())
    return errors


def total(errors: Mapping[str, Errors]) -> Errors:
    """Over all utterances at once: long ones count for more."""
    return sum(errors.values(), Errors())


def worst(errors: Mapping[str, Errors], most: int) -> list[str]:
    """Ids with the most word errors, and of equals those with the higher rate; none without errors."""
    wrong = [name for name, each in errors.items() if each.count]
    return sorted(wrong, key=lambda name: (-errors[name].count, errors[name].words, name))[:most]


def normalised(text: str) -> list[str]:
    """The words of a text as they are compared."""
    (words,) = normalisation()([text])
    return list(words)


@cache
def normalisation() -> jiwer.Compose:
    """NORMALISATION, as a transformation of jiwer that ends in lists of words."""
    import jiwer

    return jiwer.Compose(
        [
            jiwer.SubstituteRegexes({_SOUNDS: " ", _DASHES: " "}),
            jiwer.ToLowerCase(),
            jiwer.RemovePunctuation(),  # type: ignore[no-untyped-call]
            jiwer.SubstituteRegexes({r"\s+": " "}),
            jiwer.Strip(),
            jiwer.ReduceToListOfListOfWords(),
        ]
    )
