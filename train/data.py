"""Feature caches -> tensors: labels in memory, embeddings mapped from the file.

A mapped file is read as it is needed and shared by all processes that map it, so that a corpus costs its size in
memory once, however many train on it, and one larger than memory can be trained on at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.cache import EMBEDDINGS, ENCODER_ATTRIBUTES, SUFFIX, FeatureCache, cache_path
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.labels import to_unit
from ser_memory.common.manifests import extraction_of
from ser_memory.common.reporting import notice

DIMENSIONS = ("activation", "valence")  # the columns of every target and prediction, in this order
UNKNOWN_SPEAKER = -1
WEIGHTED = "weighted"  # all cached layers, with weights that are learned

# Rows beyond memory are read in runs of _BLOCK, and those of _WINDOW are in memory, and shuffled, together.
_BLOCK = 256
_WINDOW = 64 * _BLOCK


class Batch(NamedTuple):
    """What a step or a prediction is computed on."""

    acoustic: Tensor  # (..., D) float32, or (..., L, D)
    text: Tensor  # (..., E) float32
    targets: Tensor  # (..., 2) float32

    def to(self, device: torch.device) -> Batch:
        return Batch(*(values.to(device) for values in self))

    def expand(self, runs: int) -> Batch:
        """(R, ...): the same for all runs, not copied."""
        return Batch(*(values.expand(runs, *values.shape) for values in self))

    def unflatten(self, dim: int, sizes: tuple[int, ...]) -> Batch:
        return Batch(*(values.unflatten(dim, sizes) for values in self))


@dataclass(frozen=True)
class Samples:
    """Utterances: the embeddings of a whole cache, and which of its rows these utterances are."""

    acoustic: Tensor  # (M, D) float32, or (M, L, D) with the layers to be weighted
    text: Tensor  # (M, E) float32
    rows: Tensor  # (N,) int64
    targets: Tensor  # (N, 2) float32, DIMENSIONS in [-1, 1]
    speakers: Tensor  # (N,) int64, a code per speaker of the corpus, UNKNOWN_SPEAKER where not told
    streamed: bool = False  # more than memory should hold: shuffle so that rows are read near each other

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> Batch:
        """The utterances at (K,) int64 `index`, copied."""
        rows = self.rows.index_select(0, index)
        return Batch(
            self.acoustic.index_select(0, rows),
            self.text.index_select(0, rows),
            self.targets.index_select(0, index),
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """All utterances in order, `size` at a time."""
        for index in torch.arange(len(self), device=self.rows.device).split(size):
            yield self.batch(index)

    def select(self, index: Tensor) -> Samples:
        """The utterances at (K,) int64 `index`, copied: nothing of the others is kept."""
        index = index.to(self.rows.device)
        acoustic, text, targets = self.batch(index)
        rows = torch.arange(len(index), device=index.device)
        return Samples(acoustic, text, rows, targets, self.speakers.index_select(0, index))

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """The utterances of all parts, in order, copied. Speaker codes of different corpora may coincide."""
        whole = [part.select(torch.arange(len(part))) for part in parts]
        acoustic, text, targets, speakers = (
            torch.cat([getattr(part, name) for part in whole])
            for name in ("acoustic", "text", "targets", "speakers")
        )
        return Samples(acoustic, text, torch.arange(len(targets), device=targets.device), targets, speakers)

    def shuffled(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """(N,) a random order; of streamed samples, one that reads the file in runs."""
        return _shuffled(len(self), self.streamed, generator)


def _shuffled(n: int, streamed: bool, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """A random order of n; streamed, of blocks of neighbours, and then within every window of blocks."""
    if not streamed:
        return generator.permutation(n)
    blocks = generator.permutation(-(-n // _BLOCK))
    order = (blocks[:, None] * _BLOCK + np.arange(_BLOCK)).ravel()
    order = order[order < n]
    for start in range(0, n, _WINDOW):
        generator.shuffle(order[start : start + _WINDOW])
    return order


class Pool:
    """Samples of several corpora addressed as one, without copying them together.

    The first part is common to all runs of a stack. Of each further part, a run has a share of its own where
    `owned`: rows r * n / R to (r + 1) * n / R.
    """

    def __init__(
        self, common: Samples, further: Sequence[Samples] = (), runs: int = 1, owned: bool = True
    ) -> None:
        self._parts = [common, *further]
        self._shares = [runs if owned and number else 1 for number in range(len(self._parts))]
        self._sizes = [len(part) // share for part, share in zip(self._parts, self._shares, strict=True)]

    def __len__(self) -> int:
        return sum(self._sizes)

    def shuffled(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """(N,) a random order of one run's numbers, of all parts together."""
        return _shuffled(len(self), any(part.streamed for part in self._parts), generator)

    def batch(self, index: Tensor) -> Batch:
        """(R, B) int64 on the host, each run's own numbers -> tensors of (R, B, ...)."""
        device = self._parts[0].rows.device
        if len(self._parts) == 1:
            flat = self._parts[0].batch(index.reshape(-1).to(device))
            return flat.unflatten(0, tuple(index.shape))
        run = torch.arange(len(index))[:, None]
        whole: list[Tensor] = []
        start = 0
        for part, share, size in zip(self._parts, self._shares, self._sizes, strict=True):
            # Chosen on the host, so that a GPU need not tell how many there are.
            place = ((index >= start) & (index < start + size)).reshape(-1).nonzero()[:, 0]
            source = (index - start + (run * size if share > 1 else 0)).reshape(-1)[place]
            values = part.batch(source.to(device))
            whole = whole or [value.new_empty(index.numel(), *value.shape[1:]) for value in values]
            for into, value in zip(whole, values, strict=True):
                into.index_copy_(0, place.to(device), value)
            start += size
        return Batch(*whole).unflatten(0, tuple(index.shape))


@dataclass(frozen=True)
class Corpus:
    """One cache, by split."""

    name: str
    splits: dict[str, Samples]  # train, validation, test, test2, ...
    speakers: tuple[str, ...]  # names, by code
    digest: str  # of what training and evaluation see of it

    @property
    def evaluated(self) -> dict[str, Samples]:
        """The splits that results are given for: all but train."""
        return {split: samples for split, samples in self.splits.items() if split != "train"}


@dataclass(frozen=True)
class Source:
    """Which caches, and how they are read; small, so that every process can open them for itself."""

    folder: Path
    names: tuple[str, ...]
    label_scale: str = (
        "declared"  # what becomes -1 and 1: "declared", the ends of the rating scale, or "observed", the
    )
    # smallest and largest label of the whole corpus (as published; it looks at test labels)
    layer: str | None = (
        None  # the number of one of the cached layers, WEIGHTED for all, None for the last states
    )
    device: str = "cpu"
    streamed: bool = False  # the embeddings are more than memory should hold
    digests: tuple[str, ...] = ()  # of the corpora, where they are known already


def open_caches(source: Source) -> list[FeatureCache]:
    """The caches, checked: all there, whole, finite, and by the same encoders.

    Raises SerError or UsageError in one sentence otherwise.
    """
    paths = [name for name in source.names if "/" in name or name.endswith(SUFFIX)]
    if paths:
        raise UsageError(
            f"--stages has {listing(paths)}: give names of caches such as iemocap, and their folder as --cache."
        )
    absent = [name for name in source.names if not cache_path(source.folder, name).exists()]
    if absent:
        commands = " && ".join(f"{extraction_of(name)} --cache {source.folder}" for name in absent)
        raise SerError(f"There is no cache of {listing(absent)} in {source.folder}: make it with {commands}")
    caches = [FeatureCache(cache_path(source.folder, name)) for name in source.names]
    for cache in caches:
        _same_encoders(caches[0], cache, source.layer)
        cache.validate()
        if cache.info.limit:
            notice(f"{cache.path} is a trial: it was extracted with --limit {cache.info.limit}.")
    return caches


def load_corpora(source: Source) -> list[Corpus]:
    """The corpora of caches that `open_caches` has checked.

    Raises SerError when one lacks a train or validation split, or the layer asked for.
    """
    digests = source.digests or (None,) * len(source.names)
    return [
        _load(name, FeatureCache(cache_path(source.folder, name)), source, digest)
        for name, digest in zip(source.names, digests, strict=True)
    ]


def _load(name: str, cache: FeatureCache, source: Source, digest: str | None) -> Corpus:
    targets = np.stack([_scaled(cache, dimension, source.label_scale) for dimension in DIMENSIONS], axis=1)
    names = cache.read("speaker")
    speakers = sorted(set(names) - {"Unknown"})
    codes = {speaker: code for code, speaker in enumerate(speakers)}
    splits = cache.read("split")
    present = list(cache.describe())
    for needed in ("train", "validation"):
        if needed not in present:
            raise SerError(
                f"{cache.path} has no {needed} split, which a stage needs; it has {listing(present)}."
            )
    acoustic, text = _of_layer(cache, source.layer), cache.mapped("text")
    # A GPU gets its own copy, unless that would be too much; a CPU reads the mapped file.
    device = torch.device("cpu" if source.streamed else source.device)
    everything = Samples(
        acoustic=torch.from_numpy(acoustic).to(device),
        text=torch.from_numpy(text).to(device),
        rows=torch.arange(len(cache), device=device),
        targets=torch.from_numpy(targets.astype(np.float32)).to(device),
        speakers=torch.tensor([codes.get(speaker, UNKNOWN_SPEAKER) for speaker in names], device=device),
        streamed=source.streamed,
    )
    where = {split: torch.from_numpy(np.flatnonzero(splits == split)).to(device) for split in present}
    return Corpus(
        name,
        {split: _part(everything, index) for split, index in where.items()},
        tuple(speakers),
        digest or _digest(cache, targets, names, splits, acoustic, text),
    )


def _part(whole: Samples, rows: Tensor) -> Samples:
    """Some rows, without copying their embeddings."""
    return Samples(
        whole.acoustic, whole.text, rows, whole.targets[rows], whole.speakers[rows], whole.streamed
    )


def _scaled(cache: FeatureCache, dimension: str, label_scale: str) -> npt.NDArray[np.float64]:
    ratings = cache.read(dimension)
    declared = (cache.info.scale_min, cache.info.scale_max)
    observed = (float(ratings.min()), float(ratings.max()))
    if label_scale == "observed" and observed[0] == observed[1]:
        raise SerError(
            f"All {dimension} labels of {cache.path} are {observed[0]:g}: use --label-scale declared."
        )
    return to_unit(ratings, *(observed if label_scale == "observed" else declared))


def _digest(cache: FeatureCache, *columns: npt.NDArray[np.generic]) -> str:
    """Of a cache's fingerprint and of what is in it, every row."""
    digest = hashlib.sha256(cache.info.fingerprint.encode())
    for column in columns:
        digest.update(f"{column.shape}".encode())
        for start in range(0, len(column), _WINDOW):
            part = column[start : start + _WINDOW]
            digest.update("\0".join(part).encode() if column.dtype == object else part.tobytes())
    return digest.hexdigest()


def _of_layer(cache: FeatureCache, layer: str | None) -> npt.NDArray[np.float32]:
    """The acoustic rows of one layer (N, D), or of all layers (N, L, D) if they are to be weighted."""
    layers = cache.info.acoustic_layers
    if layers == "last":
        if layer is None:
            return cache.mapped("acoustic")
        remedy = (
            "." if cache.info.acoustic_encoder == "log-mel" else ", or extract it again with --layers all."
        )
        raise UsageError(
            f"{cache.path} holds the last hidden states only, so leave --layer {layer} out{remedy}"
        )
    if layer == WEIGHTED:
        return cache.mapped("acoustic")
    numbers = layers.split(",")
    if layer not in numbers:
        asked = f"--layer {layer} is not among them" if layer else "say which with --layer"
        raise UsageError(
            f"{cache.path} holds the layers {layers}: {asked}; {WEIGHTED} takes them all, weighted."
        )
    return cache.mapped("acoustic")[:, numbers.index(layer)]


def _same_encoders(first: FeatureCache, other: FeatureCache, layer: str | None) -> None:
    one_layer = layer not in (None, WEIGHTED)
    # The same weights in another folder are the same encoder: the revision tells, not the name. And where a single
    # layer is used, it does not matter which others lie beside it.
    alike_or_not = {"acoustic_encoder", "text_encoder"} | ({"acoustic_layers"} if one_layer else set())
    differing = [
        key
        for key in ENCODER_ATTRIBUTES
        if key not in alike_or_not and getattr(first.info, key) != getattr(other.info, key)
    ]
    if differing:
        key = differing[0]
        model = "acoustic_encoder" if key.startswith("acoustic") else "text_encoder"
        raise SerError(
            f"{first.path} and {other.path} were made by different encoders and cannot be used together ({model}: "
            f"{getattr(first.info, model)} with {key} {getattr(first.info, key)}, and {getattr(other.info, model)} with "
            f"{getattr(other.info, key)}): extract one of them again with the other's encoders."
        )
    for name in EMBEDDINGS:
        ours, theirs = (cache.shapes[name][-1 if one_layer else 1 :] for cache in (first, other))
        if ours != theirs:
            raise SerError(
                f"The {name} rows of {first.path} and {other.path} differ in shape, {ours} and {theirs}: "
                "one of the files was changed; extract it again."
            )
