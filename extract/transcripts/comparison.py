"""`ser-transcribe --compare`: tables of word error rates, the worst utterances, and what is to be doubted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ser_memory.common.console import table
from ser_memory.common.errors import SerError
from ser_memory.extract.transcripts.quality import NORMALISATION, Errors, total, word_errors, worst

_WORST = 5  # utterances shown per transcriber
_WIDTH = 60  # characters of a text shown


@dataclass(frozen=True)
class Told:
    """What one transcriber tells of one corpus."""

    texts: dict[str, str]
    splits: dict[str, str]  # of every utterance of the corpus
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)  # id -> why it may be wrong


def print_comparison(told: Mapping[str, Mapping[str, Told]], names: list[str]) -> None:
    """corpus -> transcriber -> Told; the first of `names` is the reference.

    Raises SerError when no utterance has a text of both.
    """
    reference, *others = names
    rows: list[list[str]] = []
    worsts: dict[str, list[list[str]]] = {}
    for name in others:
        errors: dict[str, dict[str, Errors]] = {
            corpus: word_errors(each[reference].texts, each[name].texts) for corpus, each in told.items()
        }
        if not any(errors.values()):
            raise SerError(
                f"No utterance has a transcript of both {reference} and {name}: nothing to compare."
            )
        for corpus, found in errors.items():
            rows += _corpus_rows(corpus, name, found, told[corpus])
        if len(errors) > 1:
            rows.append(
                _row(
                    "all",
                    "all",
                    name,
                    {f"{c} {i}": e for c, found in errors.items() for i, e in found.items()},
                )
            )
        worsts[name] = _worst_rows(errors, told, reference, name)
    table(
        f"Word error rate against {reference}: {NORMALISATION}",
        ["corpus", "split", "transcriber", "n", "words", "WER", "substituted", "deleted", "inserted"],
        rows,
        left=3,
    )
    _print_counts(told, names)
    for name, found_rows in worsts.items():
        if found_rows:
            table(f"Most word errors of {name}", ["id", "text", "errors", "words"], found_rows, left=2)


def _corpus_rows(
    corpus: str, name: str, errors: dict[str, Errors], told: Mapping[str, Told]
) -> list[list[str]]:
    splits = next(iter(told.values())).splits
    rows = [_row(corpus, "all", name, errors)]
    present = sorted(
        {splits[each] for each in errors if splits.get(each)},
        key=lambda split: (split != "train", "val" not in split, split),
    )
    if len(present) > 1:
        for split in present:
            rows.append(
                _row(corpus, split, name, {i: e for i, e in errors.items() if splits.get(i) == split})
            )
    return rows


def _row(corpus: str, split: str, name: str, errors: dict[str, Errors]) -> list[str]:
    sums = total(errors)
    rate = "-" if math.isnan(sums.rate) else f"{sums.rate:.3f}"
    counts = (sums.substitutions, sums.deletions, sums.insertions)
    return [corpus, split, name, str(len(errors)), str(sums.words), rate, *map(str, counts)]


def _print_counts(told: Mapping[str, Mapping[str, Told]], names: list[str]) -> None:
    rows = []
    for corpus, each in told.items():
        for name in names:
            texts, flags = each[name].texts, each[name].flags
            kinds = sorted({flag for found in flags.values() for flag in found})
            doubted = ", ".join(f"{sum(kind in found for found in flags.values())} {kind}" for kind in kinds)
            lacking = len(set(each[names[0]].texts) - set(texts))
            rows.append(
                [corpus, name, doubted or "-", str(len(texts)), str(lacking),
                 str(sum(not text.strip() for text in texts.values())), str(len(flags))]
            )  # fmt: skip
    table(
        f"Transcripts; missing: those that {names[0]} has",
        ["corpus", "transcriber", "why suspicious", "n", "missing", "empty", "suspicious"],
        rows,
        left=3,
    )


def _worst_rows(
    errors: dict[str, dict[str, Errors]], told: Mapping[str, Mapping[str, Told]], reference: str, name: str
) -> list[list[str]]:
    corpora = {each: corpus for corpus, found in errors.items() for each in found}
    merged = {each: found[each] for found in errors.values() for each in found}
    rows = []
    for each in worst(merged, _WORST):
        texts = told[corpora[each]]
        doubts = "".join(f" ({flag})" for flag in texts[name].flags.get(each, ()))
        truth, heard = _cut(texts[reference].texts[each]), _cut(texts[name].texts[each])
        found = merged[each]
        rows.append([each, f"{reference}: {truth}", str(found.count), str(found.words)])
        rows.append(["", f"{name}: {heard}{doubts}", "", ""])
    return rows


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…"
