"""Compare transcribers: tables of word error rates, of the worst utterances and of suspicious transcripts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ser_memory.common.console import table
from ser_memory.common.conventions import in_split_order
from ser_memory.common.errors import SerError
from ser_memory.extract.transcripts.quality.word_error_rate import (
    NORMALISATION,
    WordErrors,
    word_errors,
    worst,
)

_WORST = 5  # utterances shown per transcriber
_WIDTH = 60  # characters of a text shown


@dataclass(frozen=True)
class CorpusTranscripts:
    """The transcripts of one corpus by one transcriber."""

    texts: dict[str, str]  # id -> text
    splits: dict[str, str]  # id -> split, of every utterance of the corpus
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)  # id -> why the text may be wrong


Transcripts = Mapping[str, Mapping[str, CorpusTranscripts]]  # corpus -> transcriber -> its transcripts
Errors = dict[str, dict[str, WordErrors]]  # corpus -> id -> word errors


def compare(transcripts: Transcripts, names: Sequence[str]) -> dict[str, Errors]:
    """Word errors of the transcribers `names[1:]` against the reference `names[0]`, by transcriber.

    Raises SerError if no utterance has a text of both.
    """
    reference, *others = names
    errors = {}
    for name in others:
        errors[name] = {
            corpus: word_errors(each[reference].texts, each[name].texts)
            for corpus, each in transcripts.items()
        }
        if not any(errors[name].values()):
            raise SerError(
                f"No utterance has a transcript of both {reference} and {name}: there is nothing to compare."
            )
    return errors


def print_comparison(transcripts: Transcripts, names: Sequence[str]) -> None:
    """Print the tables of a comparison against the reference `names[0]`. Raises SerError as `compare` does."""
    errors = compare(transcripts, names)
    table(
        f"Word error rate against {names[0]}: {NORMALISATION}",
        ["corpus", "split", "transcriber", "n", "words", "WER", "substituted", "deleted", "inserted"],
        [row for name in errors for row in _error_rows(name, errors[name], transcripts)],
        left=3,
    )
    table(
        f"Transcripts; missing: those that {names[0]} has",
        ["corpus", "transcriber", "why suspicious", "n", "missing", "empty", "suspicious"],
        [_count_row(corpus, name, transcripts[corpus], names[0]) for corpus in transcripts for name in names],
        left=3,
    )
    for name in errors:
        rows = _worst_rows(name, errors[name], transcripts, names[0])
        if rows:
            table(f"Most word errors of {name}", ["id", "text", "errors", "words"], rows, left=2)


def _error_rows(name: str, errors: Errors, transcripts: Transcripts) -> list[list[str]]:
    """A row for each corpus and each of its splits, and one for all corpora."""
    rows = []
    for corpus, found in errors.items():
        rows.append(_error_row(corpus, "all", name, found.values()))
        splits = transcripts[corpus][name].splits
        present = in_split_order(splits[each] for each in found if splits.get(each))
        if len(present) > 1:
            for split in present:
                part = [counts for each, counts in found.items() if splits.get(each) == split]
                rows.append(_error_row(corpus, split, name, part))
    if len(errors) > 1:
        everything = [counts for found in errors.values() for counts in found.values()]
        rows.append(_error_row("all", "all", name, everything))
    return rows


def _error_row(corpus: str, split: str, name: str, errors: Collection[WordErrors]) -> list[str]:
    sums = sum(errors, WordErrors())
    rate = "-" if math.isnan(sums.rate) else f"{sums.rate:.3f}"
    counts = (sums.substitutions, sums.deletions, sums.insertions)
    return [corpus, split, name, str(len(errors)), str(sums.words), rate, *map(str, counts)]


def _count_row(
    corpus: str, name: str, transcribers: Mapping[str, CorpusTranscripts], reference: str
) -> list[str]:
    texts, flags = transcribers[name].texts, transcribers[name].flags
    kinds = sorted({flag for found in flags.values() for flag in found})
    reasons = ", ".join(f"{sum(kind in found for found in flags.values())} {kind}" for kind in kinds)
    missing = set(transcribers[reference].texts) - set(texts)
    empty = [text for text in texts.values() if not text.strip()]
    return [corpus, name, reasons or "-", *(str(len(each)) for each in (texts, missing, empty, flags))]


def _worst_rows(name: str, errors: Errors, transcripts: Transcripts, reference: str) -> list[list[str]]:
    """Two rows for each of the worst utterances: the reference's text, and the transcriber's with its flags."""
    corpora = {each: corpus for corpus, found in errors.items() for each in found}
    merged = {each: counts for found in errors.values() for each, counts in found.items()}
    rows = []
    for each in worst(merged, _WORST):
        transcribers = transcripts[corpora[each]]
        flags = "".join(f" ({flag})" for flag in transcribers[name].flags.get(each, ()))
        expected, given = (_cut(transcribers[one].texts[each]) for one in (reference, name))
        counts = merged[each]
        rows.append([each, f"{reference}: {expected}", str(counts.count), str(counts.words)])
        rows.append(["", f"{name}: {given}{flags}", "", ""])
    return rows


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
