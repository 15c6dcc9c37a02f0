"""The rows of a cache as an audit needs them: who is a training row, and what an attacker can compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ser_memory.common.cache import ENCODER_ATTRIBUTES, FeatureCache
from ser_memory.common.conventions import NO_SPLIT, UNKNOWN
from ser_memory.common.errors import SerError, listing
from ser_memory.train.corpora import acoustic_of, scaled
from ser_memory.train.splits import division_of, splits_of

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ROWS = 4096  # that are scored together


class Heard(NamedTuple):
    """Rows that an attacker computed from recordings, and their labels."""

    acoustic: npt.NDArray[np.float32]  # (n, D) or (n, L, D)
    text: npt.NDArray[np.float32]  # (n, E)
    targets: npt.NDArray[np.float32]  # (n, K), NaN without a rating

    @property
    def flat(self) -> npt.NDArray[np.float32]:
        """(n, D) acoustic rows; of several layers one after the other."""
        return self.acoustic.reshape(len(self.acoustic), -1)


@dataclass(frozen=True)
class Corpus:
    """One cache; its embeddings are mapped from the file."""

    path: Path
    name: str
    ids: npt.NDArray[np.object_]  # (N,)
    splits: npt.NDArray[np.object_]  # (N,)
    speakers: Integers  # (N,) -1 if unknown
    acoustic: npt.NDArray[np.float32]
    text: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float32]

    @property
    def train(self) -> Integers:
        """Rows that training read."""
        return np.flatnonzero(self.splits == "train")

    @property
    def validation(self) -> Integers:
        """Rows that early stopping read."""
        return np.flatnonzero(self.splits == "validation")

    @property
    def test(self) -> Integers:
        """Rows that nothing read: of all test splits."""
        return np.flatnonzero(~np.isin(self.splits.astype(str), ["train", "validation", NO_SPLIT]))

    @property
    def places(self) -> dict[str, int]:
        """Rows by id."""
        return {name: row for row, name in enumerate(self.ids.tolist())}

    def at(self, rows: Integers) -> Heard:
        """Some rows, copied."""
        return Heard(np.asarray(self.acoustic[rows]), np.asarray(self.text[rows]), self.targets[rows])

    def scored(self, rows: Integers, score: Callable[[Heard], Floats]) -> Floats:
        """(n, ...) scores of rows, computed a block at a time."""
        parts = np.split(rows, range(_ROWS, len(rows), _ROWS))
        return np.concatenate([score(self.at(part)) for part in parts])


@dataclass(frozen=True)
class Variant:
    """The same utterances as they are heard elsewhere: re-encoded, or by telephone."""

    name: str
    corpus: Corpus
    rows: Mapping[str, int]  # by id


def read_corpus(
    path: Path, name: str, encoders: Mapping[str, str], layer: str | None, dimensions: tuple[str, ...],
    label_scale: str = "declared", protocol: str | None = None, fold: str = "",
) -> Corpus:  # fmt: skip
    """A cache, with splits as a bundle was trained on them.

    Raises SerError if it is no cache of these encoders, or UsageError if it knows no such protocol.
    """
    cache = FeatureCache(path)
    refuse_other_encoders(cache, encoders, layer)
    division = division_of(cache, name, protocol)
    folds = splits_of(cache, name, division)
    number = int(fold or "1") if len(folds) > 1 else 1  # a corpus without folds is the same in all of them
    if number > len(folds):
        raise SerError(
            f"The bundle was trained in fold {fold}, and {path} has {len(folds)} folds: give the protocol of the run as "
            "--protocol."
        )
    names = cache.read("speaker")
    known = sorted(set(names) - {UNKNOWN})
    codes = {speaker: code for code, speaker in enumerate(known)}
    return Corpus(
        path,
        name,
        cache.read("id"),
        folds[number - 1],
        np.array([codes.get(speaker, -1) for speaker in names]),
        acoustic_of(cache, layer),
        cache.mapped("text"),
        np.stack([scaled(cache, each, label_scale) for each in dimensions], axis=1).astype(np.float32),
    )


def read_variant(name: str, path: Path, original: Corpus, like: Callable[[Path], Corpus]) -> Variant:
    """The same utterances from another cache; `like` reads it. Raises SerError if they have no id in common."""
    corpus = like(path)
    rows = corpus.places
    if not rows.keys() & set(original.ids.tolist()):
        raise SerError(
            f"{path} and {original.path} have no id in common: --variant {name} must be a cache of the same utterances."
        )
    return Variant(name, corpus, rows)


def refuse_other_encoders(cache: FeatureCache, encoders: Mapping[str, str], layer: str | None) -> None:
    """Raise SerError if a cache was not made by the encoders of a bundle. Revisions are compared, not names."""
    names = {"acoustic_encoder", "text_encoder"} | (
        {"acoustic_layers"} if layer not in (None, "weighted") else set()
    )
    for key in ENCODER_ATTRIBUTES:
        ours = getattr(cache.info, key)
        if key not in names and key in encoders and str(ours) != str(encoders[key]):
            raise SerError(
                f"{cache.path} was made by other encoders than the bundle's ({key}: {ours}, and {encoders[key]} in the "
                f"bundle): give a cache with {encoders.get('acoustic_encoder')} and {encoders.get('text_encoder')}, which "
                f"ser-extract makes."
            )


def known_ids(corpus: Corpus, ids: list[str], members: Path, of_training: bool) -> Integers:
    """The rows of ids. Raises SerError if the cache lacks some, or has one in another split than it should be in."""
    places = corpus.places
    absent = [name for name in ids if name not in places]
    if absent:
        raise SerError(
            f"{members} names {len(absent)} utterances that {corpus.path} does not have ({listing(absent, most=3)}): give "
            f"the members file and the cache of the same run."
        )
    rows = np.array([places[name] for name in ids])
    right = corpus.train if of_training else corpus.test
    outside = [name for name, there in zip(ids, np.isin(rows, right), strict=True) if not there]
    if outside:
        split = "training" if of_training else "test"
        raise SerError(
            f"{members} names {len(outside)} utterances that are not in the {split} split of {corpus.path} "
            f"({listing(outside, most=3)}): give the --protocol of the run."
        )
    return rows
