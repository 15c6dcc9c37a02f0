"""Feature caches -> tensors: labels in memory, embeddings mapped from the file.

A mapped file is read as it is needed and shared by all processes that map it, so that a corpus costs its size in
memory once, however many train on it, and one larger than memory can be trained on at all.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.cache import EMBEDDINGS, ENCODER_ATTRIBUTES, SUFFIX, FeatureCache, Version, cache_path
from ser_memory.common.conventions import DIMENSIONS, UNKNOWN
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.labels import to_unit
from ser_memory.common.machine import memory
from ser_memory.common.manifests import extraction_of
from ser_memory.common.reporting import notice
from ser_memory.train.samples import UNKNOWN_SPEAKER, WINDOW, Samples
from ser_memory.train.settings import DataSettings

WEIGHTED = "weighted"  # all cached layers, with weights that are learned


@dataclass(frozen=True)
class Corpus:
    """One cache, by split."""

    name: str
    splits: dict[str, Samples]  # train, validation, test, test2, ...
    speakers: tuple[str, ...]  # names, by code
    digest: str  # of what training and evaluation see of it
    dimensions: tuple[str, ...] = DIMENSIONS  # columns of the targets

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
        "declared"  # or "observed": the smallest and largest label in the corpus, test labels too
    )
    layer: str | None = None  # the number of a cached layer, WEIGHTED for all, None for the last states
    device: str = "cpu"
    streamed: bool = False  # the embeddings are more than memory should hold
    digests: tuple[str, ...] = ()  # of the corpora, if they are known already
    versions: tuple[Version, ...] = ()  # of the files that were checked; another one is refused
    dimensions: tuple[str, ...] = DIMENSIONS  # columns of the targets


def source_of(data: DataSettings, device: str, memory_share: float) -> Source:
    """The source of checked caches; embeddings beyond a share of this machine's memory are streamed, with a notice.

    Raises SerError or UsageError in one sentence as `open_caches` does.
    """
    source = Source(data.folder, data.stages, data.label_scale, data.layer, device)
    caches = open_caches(source)
    source = replace(source, versions=tuple(cache.version for cache in caches if cache.version))
    size = sum(_bytes_used(cache, source.layer) for cache in caches)
    if size <= memory_share * memory():
        return source
    notice(
        f"The embeddings, {size / 1e9:.3g} GB, are more than {memory_share:.0%} of this machine's "
        f"{memory() / 1e9:.3g} GB of memory: they are read from the disk in shuffled blocks."
    )
    return replace(source, streamed=True)


def _bytes_used(cache: FeatureCache, layer: str | None) -> int:
    """Bytes of the embeddings that training reads: of a cache with several layers perhaps one."""
    rows, *layers, width = cache.shapes["acoustic"]
    read = math.prod(layers) if layer == WEIGHTED else 1
    return 4 * rows * (read * width + cache.shapes["text"][1])


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

    Raises SerError when one lacks a train or validation split, or the layer asked for, or is not the file that was
    checked.
    """
    unknown = (None,) * len(source.names)
    digests, versions = source.digests or unknown, source.versions or unknown
    return [
        _load(name, FeatureCache(cache_path(source.folder, name), version), source, digest)
        for name, digest, version in zip(source.names, digests, versions, strict=True)
    ]


def _load(name: str, cache: FeatureCache, source: Source, digest: str | None) -> Corpus:
    targets = np.stack([_scaled(cache, name, source.label_scale) for name in source.dimensions], axis=1)
    names = cache.read("speaker")
    speakers = sorted(set(names) - {UNKNOWN})
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
        source.dimensions,
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
        for start in range(0, len(column), WINDOW):
            part = column[start : start + WINDOW]
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
    # The same weights in another folder are the same encoder: revisions are compared, not names. If a single layer is
    # used, the other layers of a cache do not matter.
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
