"""Word error rate: how much two transcripts of the same utterances differ."""

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
class WordErrors:
    """Word errors of one utterance or of many."""

    words: int = 0  # of the reference
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def count(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Word error rate, errors / words of the reference: 0 or more, above 1 with many insertions, NaN without words."""
        return self.count / self.words if self.words else math.nan

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def word_errors(reference: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, WordErrors]:
    """Word errors of `texts`, id -> text, against the texts of `reference`, after normalisation (NORMALISATION).

    Returns id -> WordErrors for the ids in both, in the order of the reference.
    """
    import jiwer

    ids = [name for name in reference if name in texts]
    if not ids:
        return {}
    steps = normalisation()
    output = jiwer.process_words(
        [reference[name] for name in ids],
        [texts[name] for name in ids],
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
        errors[name] = WordErrors(len(words), *counted.values())
    return errors


def total(errors: Mapping[str, WordErrors]) -> WordErrors:
    """The sum over all utterances. In its rate, each word counts the same, so long utterances count more."""
    return sum(errors.values(), WordErrors())


def worst(errors: Mapping[str, WordErrors], most: int) -> list[str]:
    """The at most `most` ids with the most word errors, the higher rate first if equal; only ids with errors."""
    wrong = [name for name, each in errors.items() if each.count]
    return sorted(wrong, key=lambda name: (-errors[name].count, errors[name].words, name))[:most]


def normalised(text: str) -> list[str]:
    """The words of a text, in the form in which they are compared."""
    (words,) = normalisation()([text])
    return list(words)


@cache
def normalisation() -> jiwer.Compose:
    """NORMALISATION as a transformation of jiwer, from texts to lists of words."""
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
