"""Test recordings in other acoustic conditions: the same utterances and labels, other acoustic rows."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ser_memory.common.cache import SUFFIX, FeatureCache
from ser_memory.common.conventions import RATED
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.manifests import names_condition
from ser_memory.common.reporting import notice
from ser_memory.train.corpora import (
    Corpus,
    Source,
    acoustic_of,
    count_differing,
    digests_of_rows,
    same_encoders,
)
from ser_memory.train.samples import Samples
from ser_memory.train.splits import extraction_again

ALL, NONE = "all", "none"  # in place of the names of conditions

# By name, such as noise:10, the corpora of which there is a cache. They have test splits only.
Conditions = Mapping[str, Sequence[Corpus]]


def load_conditions(asked: Sequence[str], source: Source, corpora: Sequence[Corpus]) -> Conditions:
    """The test splits of loaded corpora in other conditions, from the caches that are in the same folder.

    Args:
        asked: names of conditions, or ALL or NONE alone.
        source: that of the corpora.
        corpora: their test splits, folds, labels and dimensions are those of the result.

    Raises SerError in one sentence for a cache that is damaged, of another release or by other encoders, or that lacks
    a test utterance, and UsageError if no corpus has a condition that was asked for.
    """
    if NONE in asked:
        return {}
    versions = dict(zip(source.names, source.versions, strict=True)) if source.versions else {}
    known: set[str] = set()
    found: dict[str, list[Corpus]] = {}
    for corpus in corpora:
        own = FeatureCache(source.path(corpus.name), versions.get(corpus.name))
        for cache in _caches(own, source.folder, corpus.name):
            condition = cache.info.condition
            known.add(condition)
            if ALL not in asked and condition not in asked:
                continue
            if cache.info.transcriber != own.info.transcriber:
                notice(
                    f"{cache.path} has the transcripts of {cache.info.transcriber}, and this run uses those of "
                    f"{own.info.transcriber}: it is left out."
                )
                continue
            found.setdefault(condition, []).append(_Counterpart(cache, own, corpus, source).load())
    _report([each for each in asked if each != ALL], source, known, found)
    return dict(sorted(found.items()))


def digests_of(conditions: Conditions) -> dict[str, dict[str, str]]:
    """Corpus -> condition -> digest of what evaluation sees."""
    made: dict[str, dict[str, str]] = {}
    for condition, corpora in conditions.items():
        for corpus in corpora:
            made.setdefault(corpus.name, {})[condition] = corpus.digest
    return made


def _report(named: Sequence[str], source: Source, known: set[str], found: Conditions) -> None:
    """Raise UsageError if a condition that was named is nowhere; report corpora that lack one, and what was found."""
    for condition in named:
        there = [corpus.name for corpus in found.get(condition, ())]
        if not there:
            raise UsageError(
                f"No corpus can be evaluated in the condition {condition!r}: {source.folder} has caches in the conditions "
                f"{listing(sorted(known))}; ser-extract --condition makes others."
            )
        without = [name for name in source.names if name not in there]
        if without:
            notice(f"There is no cache of {listing(without)} in the condition {condition}.")
    if found:
        told = listing(
            f"{condition} ({listing(corpus.name for corpus in there)})" for condition, there in found.items()
        )
        notice(f"Also evaluated in other acoustic conditions: {told}.")


def _caches(own: FeatureCache, folder: Path, name: str) -> Iterator[FeatureCache]:
    """The caches of a corpus in other conditions, in the order of their names."""
    for path in sorted(folder.glob(f"{glob.escape(name)}.*{SUFFIX}")):
        kind = path.name.removesuffix(SUFFIX).removeprefix(f"{name}.")
        try:
            cache = FeatureCache(path)
        except SerError:
            if names_condition(kind):
                raise
            continue  # other transcripts, which this run does not use
        # The name of another corpus may begin with this one and a dot.
        if cache.info.condition and (names_condition(kind) or cache.info.corpus == own.info.corpus):
            yield cache


@dataclass(frozen=True)
class _Counterpart:
    """One cache in another condition, and what it must agree with."""

    cache: FeatureCache
    own: FeatureCache  # of the recordings as they are
    corpus: Corpus
    source: Source

    def load(self) -> Corpus:
        """The test splits of the corpus, in all folds, with the embeddings of this cache. Raises SerError."""
        same_encoders(self.own, self.cache, self.source.layer)
        self.cache.validate()
        self._refuse_other_release()
        places = self._places()
        device = self.corpus.splits["train"].acoustic.device
        acoustic, text = acoustic_of(self.cache, self.source.layer), self.cache.mapped("text")
        nothing = np.empty((len(self.cache), 0), np.float64)
        each = digests_of_rows(nothing, self.cache.read("speaker"), acoustic, text)
        heard = [torch.from_numpy(values).to(device) for values in (acoustic, text)]

        def counterpart(samples: Samples) -> tuple[Samples, str]:
            rows = places[samples.rows.cpu().numpy()]
            digest = hashlib.sha256(each[rows].tobytes() + samples.targets.cpu().numpy().tobytes())
            moved = torch.from_numpy(rows).to(samples.rows.device)
            return replace(samples, acoustic=heard[0], text=heard[1], rows=moved), digest.hexdigest()

        def fold_of(corpus: Corpus) -> Corpus:
            made = {split: counterpart(samples) for split, samples in corpus.tested.items()}
            splits = {split: samples for split, (samples, _) in made.items()}
            return replace(
                corpus,
                splits=splits,
                digests={split: digest for split, (_, digest) in made.items()},
                folds=(),
            )

        folds = tuple(map(fold_of, self.corpus.folds))
        return replace(folds[0], fold="", folds=folds) if folds else fold_of(self.corpus)

    def _refuse_other_release(self) -> None:
        ours, theirs = self.own.info, self.cache.info
        if (ours.corpus, ours.release) != (theirs.corpus, theirs.release):
            raise SerError(
                f"{self.cache.path} is of {theirs.corpus}, release {theirs.release}, and {self.own.path} of "
                f"{ours.corpus}, release {ours.release}: {self._again}."
            )
        columns = (*RATED, "speaker", "transcript", "recording")
        differing = count_differing(self.cache, self.own, columns)
        if differing:
            raise SerError(
                f"{self.cache.path} has other labels, speakers, transcripts or recordings than {self.own.path} for "
                f"{differing} utterances: {self._again}."
            )

    def _places(self) -> npt.NDArray[np.int64]:
        """(N,) for each row of the corpus's own cache, the row of this one; -1 where there is none.

        Raises SerError if a test utterance has none.
        """
        here = {name: row for row, name in enumerate(self.cache.read("id"))}
        ids = self.own.read("id")
        places = np.array([here.get(name, -1) for name in ids])
        tested = np.concatenate(
            [samples.rows.cpu().numpy() for fold in self.corpus.each_fold for samples in fold.tested.values()]
        )
        absent = [ids[row] for row in np.unique(tested) if places[row] < 0]
        if absent:
            raise SerError(
                f"{self.cache.path} lacks {len(absent)} of the test utterances of {self.own.path}, such as {absent[0]}, "
                f"which another protocol or another release may have: {self._again}."
            )
        return places

    @property
    def _again(self) -> str:
        again = extraction_again(self.own, self.corpus.name)
        return (
            f"make it again with {again} --condition {self.cache.info.condition}, or leave it out with --conditions none or "
            "the names of others"
        )
