"""What a bundle reveals about one corpus that it has learned from: every attack on everything that it keeps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from ser_memory.common.cache import SUFFIX
from ser_memory.common.errors import SerError, listing
from ser_memory.train.audit import attacks
from ser_memory.train.audit.measures import FALSE_POSITIVES, Estimate, auc, share, threshold
from ser_memory.train.audit.rows import Corpus, Variant, read_corpus, read_variant
from ser_memory.train.audit.target import Attack, Target
from ser_memory.train.bundle import Bundle, Seen
from ser_memory.train.report.statistics import (
    FEWEST_GROUPS,
    Scores,
    interval,
    resample_speakers,
    resample_utterances,
)

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

AS_EXTRACTED = "as extracted"
OTHER_ROWS = "other training rows of known speakers"
_QUERIES = 2000  # recordings of known speakers that are linked


@dataclass(frozen=True)
class Finding:
    """How well one attack on a bundle works: a row of the table."""

    what: str  # of the bundle
    attack: str
    recordings: str  # as the attacker has them: AS_EXTRACTED, or the name of a variant
    members: int
    others: int
    compared_with: str  # who the others are
    auc: Estimate
    found: Estimate  # share of the members that are found while 1 % of the others are taken for members
    by_chance: float  # what `found` would be
    # AUC of validation rows against test rows, neither of which are members.
    between_others: float | None = None
    # Of rows, the share of the members whose nearest row is their own, however far it is; 1 / members by chance.
    named: Estimate | None = None


@dataclass(frozen=True)
class Audit:
    """All attacks on one bundle with one corpus."""

    findings: list[Finding]
    tensors: dict[str, int]  # bytes of everything in the bundle
    audited: str  # a sentence: what the bundle keeps, and what was attacked
    notes: list[str] = field(default_factory=list)


def audit(
    bundle: Bundle, cache: Path, members: Path | None = None, *, before: Bundle | None = None,
    variants: Mapping[str, Path] | None = None, protocol: str | None = None,
) -> Audit:  # fmt: skip
    """Attack a bundle with the recordings of one corpus.

    Args:
        bundle: what is attacked.
        cache: of a corpus that it has learned from.
        members: members.csv of its run; needed if it keeps utterances.
        before: an earlier bundle of the same run, from before that corpus: the attacker has both.
        variants: further caches of the same utterances, by name, such as re-encoded recordings.
        protocol: that gave the splits, if it is not the cache's own.

    Raises SerError or UsageError in one sentence.
    """
    seen, info = _seen(bundle, cache), bundle.info
    like = partial(
        read_corpus, name=seen.name, encoders=info.encoders, layer=info.layer, dimensions=info.dimensions,
        label_scale=info.label_scale, protocol=protocol, fold=info.fold,
    )  # fmt: skip
    corpus = like(cache)
    if len(corpus.train) != seen.n:
        raise SerError(
            f"The bundle has learned from {seen.n} training utterances of {seen.name}, and {cache} has {len(corpus.train)}: "
            "give the cache, and the --protocol, that it was trained with."
        )
    heard = [None, *(read_variant(name, path, corpus, like) for name, path in (variants or {}).items())]
    target = Target(bundle, seen, corpus, members, before)
    found: list[Finding] = []
    skipped: dict[str, list[str]] = {}
    for attack, variant in itertools.product(target.attacks(), heard):
        finding = _measured(attack, corpus, variant)
        if finding is None:
            skipped.setdefault(_name(variant), []).append(f"{attack.what} by {attack.name}")
        else:
            found.append(finding)
    notes = [
        f"Not measured with the recordings {name}, which have fewer than {FEWEST_GROUPS} members or others: "
        f"{listing(lacking)}."
        for name, lacking in skipped.items()
    ]
    if target.untried:
        notes.append(f"No attack is aimed at what the strategy also keeps: {listing(target.untried)}.")
    found += _linked(target, heard, notes)
    return Audit(found, tensors_of(bundle), target.audited, notes)


def _linked(target: Target, heard: Sequence[Variant | None], notes: list[str]) -> Iterator[Finding]:
    """Whether other recordings of a speaker find the memory's rows of that speaker."""
    corpus, memory, kept = target.corpus, target.memory, target.remembered
    if kept is None:
        return
    known = np.flatnonzero(corpus.speakers[memory] >= 0)
    held = corpus.speakers[memory][known]
    others = np.setdiff1d(corpus.train, memory)
    queries = others[np.isin(corpus.speakers[others], held)]
    if len(np.unique(held)) < 2 or not len(queries):  # noqa: PLR2004
        notes.append(
            f"Speakers were not linked: the memory has rows of {len(np.unique(held))} known speakers, and there are "
            f"{len(queries)} other training recordings of them."
        )
        return
    if len(queries) > _QUERIES:
        queries = np.sort(np.random.default_rng(0).choice(queries, _QUERIES, replace=False))
    rows, codes = kept.acoustic.flatten(1).numpy()[known], kept.speakers.numpy()[known]
    ways: dict[str, Integers | None] = {"nearest row": None}
    if (codes >= 0).all():
        ways["nearest mean of a code"] = codes
    else:
        notes.append("The memory has no speaker codes.")
    for variant in heard:
        asked, source = _also_heard(queries, corpus, variant)
        if len(asked):
            acoustic = (corpus if variant is None else variant.corpus).at(source).flat
            own = corpus.speakers[asked]
            for name, groups in ways.items():
                yield _of_linkage(
                    attacks.link(acoustic, own, rows, held, groups), name, variant, own, len(rows)
                )


def _of_linkage(
    linkage: attacks.Linkage, name: str, variant: Variant | None, speakers: Integers, rows: int
) -> Finding:
    """The interval of the AUC is over speakers, or over recordings if there are fewer than ten speakers."""
    resamples = resample_speakers([str(each) for each in speakers])
    if resamples.note:
        resamples = resample_utterances(len(speakers))
    size = resamples.counts.shape[1]
    sums = [np.bincount(resamples.groups, each, size) for each in (linkage.apart, np.ones(len(speakers)))]
    counts = resamples.counts.astype(np.float64)
    mean = float(linkage.apart.mean())
    ends = interval(Scores(resamples, mean, (counts @ sums[0]) / (counts @ sums[1])))
    estimate = Estimate(mean, 0.0 if ends.low is None else ends.low, 1.0 if ends.high is None else ends.high)
    right = share(int(linkage.right.sum()), len(linkage.right))
    return Finding(
        "speakers", name, _name(variant), rows, len(speakers), OTHER_ROWS, estimate, right,
        linkage.chance,
    )  # fmt: skip


def _measured(attack: Attack, corpus: Corpus, variant: Variant | None) -> Finding | None:
    """An attack with the recordings as they were extracted, or as a variant has them.

    None if that has fewer than ten members or others.
    """

    def scores(rows: Integers) -> tuple[Floats, Integers]:
        own, source = _also_heard(rows, corpus, variant)
        read = corpus if variant is None else variant.corpus
        return (read.scored(source, attack.score) if len(own) else np.zeros(0)), own

    (members, own), (others, _) = scores(attack.members), scores(attack.others)
    if min(len(members), len(others)) < FEWEST_GROUPS:
        return None
    named = members.ndim == 2  # noqa: PLR2004
    plain = [each[:, 0] if named else each for each in (members, others)]
    hits = plain[0] > threshold(plain[1])
    own_row = None
    if named:  # as the member that it is
        right = attack.members[members[:, 1].astype(np.int64)] == own
        hits &= right
        own_row = share(int(right.sum()), len(right))
    between = None
    if attack.shifted:
        unseen = [scores(rows)[0] for rows in (corpus.validation, corpus.test)]
        if min(map(len, unseen)) >= FEWEST_GROUPS:
            between = auc(*(each[:, 0] if named else each for each in unseen)).value
    return Finding(
        attack.what, attack.name, _name(variant), len(members), len(others),
        attack.compared_with, auc(*plain), share(int(hits.sum()), len(hits)), 0.0 if named else FALSE_POSITIVES, between,
        own_row,
    )  # fmt: skip


def _name(variant: Variant | None) -> str:
    return variant.name if variant else AS_EXTRACTED


def _also_heard(rows: Integers, corpus: Corpus, variant: Variant | None) -> tuple[Integers, Integers]:
    """Of rows of a corpus those that a variant has too, and its rows."""
    if variant is None:
        return rows, rows
    there = [
        (row, place) for row in rows.tolist() if (place := variant.rows.get(corpus.ids[row])) is not None
    ]
    own, source = np.array(there, np.int64).reshape(-1, 2).T
    return own, source


def _seen(bundle: Bundle, cache: Path) -> Seen:
    """Which of the bundle's corpora a cache is of. Raises SerError if it is none of them."""
    name = cache.name.removesuffix(SUFFIX)
    for seen in bundle.info.seen:
        if name == seen.name or name.startswith(f"{seen.name}."):
            return seen
    raise SerError(
        f"The bundle has learned from {listing(each.name for each in bundle.info.seen)}, and not from {name}: give the "
        "cache of one of them."
    )


def tensors_of(bundle: Bundle) -> dict[str, int]:
    """Bytes of every tensor in the files of a bundle."""
    found = {}
    for path in sorted(bundle.folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping
                found[name] = int(file.get_tensor(name).nbytes)
    return found
