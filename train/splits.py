"""Which rows of a cache train, validate and test: its column `split`, or a split protocol, perhaps in folds."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ser_memory.common import manifests
from ser_memory.common.cache import FeatureCache
from ser_memory.common.conventions import NO_SPLIT, UNKNOWN, in_split_order
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.manifests import extraction_of
from ser_memory.common.protocols import (
    ANY_OTHER,
    NEEDED,
    Protocol,
    Splits,
    parse_protocol,
    speakers_in_two_splits,
)
from ser_memory.common.reporting import notice

# The column that has what a protocol splits by.
_COLUMNS = {"speaker": "speaker", "session": "session", "split": "release_split"}
# Options of ser-extract that determine what is encoded: the fact of the cache, and the option's default.
EXTRACTION = {
    "acoustic_encoder": ("acoustic_encoder", "facebook/wav2vec2-base"),
    "text_encoder": ("text_encoder", "google-bert/bert-base-uncased"),
    "layers": ("acoustic_layers", "last"),
    "precision": ("precision", "float32"),
    "transcriber": ("transcriber", "release"),
    "min_duration": ("min_duration", 3.0),
    "max_duration": ("max_duration", 30.0),
}


@dataclass(frozen=True)
class Division:
    """How one cache is split."""

    name: str = ""  # of the protocol, "" if the cache does not tell it
    protocol: Protocol | None = None  # None: the column `split` as it is


def division_of(cache: FeatureCache, corpus: str, asked: str | None) -> Division:
    """The protocol that was asked for, or the cache's own if it has folds, or else the column `split`.

    Raises UsageError for a protocol that neither the cache nor a manifest of that name knows.
    """
    own = manifests.load(corpus).protocols if corpus in manifests.shipped() else {}
    known = {**own, **cache.info.protocols}
    name = asked or cache.info.protocol
    if asked and asked not in known:
        raise UsageError(
            f"There is no protocol {asked!r} of {corpus}: {cache.path} knows {listing(known)}. After adding it to "
            f"the manifest, {extraction_again(cache, corpus)} takes it into the cache and encodes nothing."
        )
    protocol = parse_protocol(name, known[name], str(cache.path)) if name in known else None
    return Division(name, protocol if protocol and (asked or protocol.has_folds) else None)


def splits_of(cache: FeatureCache, corpus: str, division: Division) -> list[Splits]:
    """The (N,) splits of a cache's rows in each fold; one item if there are no folds.

    Raises SerError if the cache does not know what the protocol splits by, or has a value that it does not name.
    """
    protocol = division.protocol
    if protocol is None:
        return [cache.read("split")]
    ids = cache.read("id").tolist()
    facts = {protocol.by: _fact(cache, corpus, protocol)}
    return protocol.assign(ids, facts, [True] * len(ids), corpus)


def check_splits(cache: FeatureCache, corpus: str, division: Division) -> int:
    """The number of folds, 0 without; a notice counts utterances that are in no split.

    Raises SerError if a fold lacks a split that it needs, or has a speaker in two of them. If the cache's own column
    has one, a notice names it.
    """
    folds, protocol = splits_of(cache, corpus, division), division.protocol
    speakers = cache.read("speaker").tolist()
    unused = int(np.all([splits == NO_SPLIT for splits in folds], axis=0).sum())
    if unused:
        notice(f"{unused} utterances of {corpus} are in no split and are not used.")
    if protocol is None:
        _check_column(cache, corpus, folds[0], speakers)
        return 0
    for number, splits in enumerate(folds, start=1):
        where = f"{f'Fold {number} of protocol' if protocol.has_folds else 'Protocol'} {protocol.name!r} of {corpus}"
        rule = (protocol.folds[number - 1] if protocol.folds else protocol.splits) or {}
        _refuse_empty(where, splits, rule, protocol.by, facts=set(_fact(cache, corpus, protocol)))
        protocol.refuse_shared_speakers(splits, speakers, where)
    return len(folds) if protocol.has_folds else 0


def refuse_unequal_folds(folds: dict[str, int]) -> None:
    """Raise UsageError if corpora have different numbers of folds, since the k-th of each is used together."""
    several = {corpus: number for corpus, number in folds.items() if number}
    if len(set(several.values())) > 1:
        told = listing(f"{corpus} {number}" for corpus, number in several.items())
        raise UsageError(
            f"The corpora have different numbers of folds ({told}), and the k-th fold of each is used together: give "
            "another protocol with --protocol CORPUS=NAME, or leave a corpus out of --stages."
        )


def extraction_again(cache: FeatureCache, corpus: str) -> str:
    """The command that writes a cache again with its encoders and its other settings, for a message."""
    asked = {
        option: getattr(cache.info, fact)
        for option, (fact, default) in EXTRACTION.items()
        if getattr(cache.info, fact) != default
    }
    if cache.info.limit:
        asked["limit"] = cache.info.limit
    words = [
        word
        for option, value in asked.items()
        for word in (
            f"--{option.replace('_', '-')}",
            f"{value:g}" if isinstance(value, float) else str(value),
        )
    ]
    return f"{extraction_of(corpus)} {shlex.join(['--cache', str(cache.path.parent), *words, '--overwrite'])}"


def _fact(cache: FeatureCache, corpus: str, protocol: Protocol) -> Sequence[str]:
    """(N,) the values that a protocol splits by."""
    column = _COLUMNS[protocol.by]
    what = "split of the release" if protocol.by == "split" else protocol.by
    if not cache.has(column):
        raise SerError(
            f"Protocol {protocol.name!r} splits {corpus} by {protocol.by}, and {cache.path} has no {what}, because an "
            f"older version wrote it: {extraction_again(cache, corpus)} adds it and encodes nothing."
        )
    values: list[str] = cache.read(column).tolist()
    if not set(values) - {"", UNKNOWN}:
        raise SerError(
            f"Protocol {protocol.name!r} splits {corpus} by {protocol.by}, and {cache.path} has no {what} of any "
            "utterance, because the release does not tell it: choose a protocol that splits by something else."
        )
    return values


def _check_column(cache: FeatureCache, corpus: str, splits: Splits, speakers: Sequence[str]) -> None:
    present = in_split_order(set(splits) - {NO_SPLIT})
    for needed in NEEDED:
        if needed not in present:
            raise SerError(
                f"{cache.path} has no {needed} split, which a stage needs; it has {listing(present)}."
            )
    shared = speakers_in_two_splits(splits, speakers)
    if shared:
        names = f"the speaker{'' if len(shared) == 1 else 's'} {listing(shared, most=3)}"
        notice(
            f"{corpus} has {names} in more than one split, so that its test is not of new speakers. Another "
            "--protocol may split by speaker."
        )


def _refuse_empty(where: str, splits: Splits, rule: dict[str, str], by: str, facts: set[str]) -> None:
    """Raise SerError, which names the values that should be in it, if a split is empty that is needed or named."""
    present = set(splits)
    lacking = [split for split in in_split_order([*NEEDED, *rule.values()]) if split not in present]
    if not any(split.startswith("test") for split in present | set(lacking)):
        lacking.append("test")
    if lacking:
        split = lacking[0]
        named = [value for value, its in rule.items() if its == split]
        says = f"it should have the {by} {listing('all others' if value == ANY_OTHER else value for value in named)}"
        raise SerError(
            f"{where} has no {split} utterances: {says if named else 'it names none'}, and the corpus has "
            f"{listing(in_split_order(facts))}. Correct the protocol, or choose another with --protocol."
        )
