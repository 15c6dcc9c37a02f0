"""Feature caches -> tensors that stay in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.cache import EMBEDDINGS, ENCODER_ATTRIBUTES, SUFFIX, FeatureCache, cache_path
from common.console import notice
from common.errors import SerError, UsageError, listing
from common.labels import to_unit
from common.manifests import extraction_of

DIMENSIONS = ("activation", "valence")  # the columns of every target and prediction, in this order
UNKNOWN_SPEAKER = -1
WEIGHTED = "weighted"  # all cached layers, with weights that are learned


@dataclass(frozen=True)
class Samples:
    """Utterances as tensors; row i of each is the same utterance."""

    acoustic: Tensor  # (N, D) float32, or (N, L, D) with the layers to be weighted
    text: Tensor  # (N, E) float32
    targets: Tensor  # (N, 2) float32, DIMENSIONS in [-1, 1]
    speakers: Tensor  # (N,) int64, a code per speaker of the corpus, UNKNOWN_SPEAKER where not told

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, index: Tensor) -> Samples:
        """The rows at (M,) int64 `index`, copied."""
        return Samples(*(getattr(self, item.name).index_select(0, index) for item in fields(self)))

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """The rows of all parts, in order. Speaker codes of different corpora may coincide."""
        if len(parts) == 1:
            return parts[0]
        return Samples(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(Samples)))


@dataclass(frozen=True)
class Corpus:
    """One cache as tensors, by split."""

    name: str
    splits: dict[str, Samples]  # train, validation, test, test2, ...

    @property
    def evaluated(self) -> dict[str, Samples]:
        """The splits that results are given for: all but train."""
        return {split: samples for split, samples in self.splits.items() if split != "train"}


def load_corpora(
    folder: Path, names: Sequence[str], label_scale: str, layer: str | None, device: torch.device
) -> tuple[list[Corpus], dict[str, str]]:
    """The caches of these corpora as tensors on `device`, and each one's fingerprint.

    `label_scale` says what becomes -1 and 1: "declared", the ends of the rating scale, or "observed", the
    smallest and largest label of the whole corpus (as published; it looks at test labels). `layer` is the
    number of one of the cached layers, WEIGHTED for all of them, or None for caches of the last states.
    Raises SerError when a cache is missing, made by other encoders than the first, or without a train or
    validation split.
    """
    paths = [name for name in names if "/" in name or name.endswith(SUFFIX)]
    if paths:
        raise UsageError(
            f"--stages has {listing(paths)}: give names of caches such as iemocap, and their folder as --cache."
        )
    absent = [name for name in names if not cache_path(folder, name).exists()]
    if absent:
        commands = " && ".join(f"{extraction_of(name)} --cache {folder}" for name in absent)
        raise SerError(f"There is no cache of {listing(absent)} in {folder}: make it with {commands}")
    caches = [FeatureCache(cache_path(folder, name)) for name in names]
    for cache in caches:
        _same_encoders(caches[0], cache)
        cache.validate()
        if cache.info.limit:
            notice(f"{cache.path} is a trial: it was extracted with --limit {cache.info.limit}.")
    corpora = [
        _load(name, cache, label_scale, layer, device) for name, cache in zip(names, caches, strict=True)
    ]
    return corpora, {name: cache.info.fingerprint for name, cache in zip(names, caches, strict=True)}


def _load(
    name: str, cache: FeatureCache, label_scale: str, layer: str | None, device: torch.device
) -> Corpus:
    ratings = {dimension: cache.read(dimension) for dimension in DIMENSIONS}
    scaled = []
    for dimension in DIMENSIONS:
        declared = (cache.info.scale_min, cache.info.scale_max)
        observed = (float(ratings[dimension].min()), float(ratings[dimension].max()))
        if label_scale == "observed" and observed[0] == observed[1]:
            raise SerError(
                f"All {dimension} labels of {cache.path} are {observed[0]:g}: use --label-scale declared."
            )
        scaled.append(to_unit(ratings[dimension], *(observed if label_scale == "observed" else declared)))
    speakers = cache.read("speaker")
    codes = {speaker: code for code, speaker in enumerate(sorted(set(speakers) - {"Unknown"}))}
    everything = Samples(
        acoustic=torch.from_numpy(_of_layer(cache, layer)).to(device),
        text=torch.from_numpy(cache.read("text")).to(device),
        targets=torch.from_numpy(np.stack(scaled, axis=1).astype(np.float32)).to(device),
        speakers=torch.tensor([codes.get(speaker, UNKNOWN_SPEAKER) for speaker in speakers], device=device),
    )
    splits = cache.read("split")
    present = list(cache.describe())
    for needed in ("train", "validation"):
        if needed not in present:
            raise SerError(
                f"{cache.path} has no {needed} split, which a stage needs; it has {listing(present)}."
            )
    where = {split: torch.from_numpy(np.flatnonzero(splits == split)).to(device) for split in present}
    return Corpus(name, {split: everything.select(index) for split, index in where.items()})


def _of_layer(cache: FeatureCache, layer: str | None) -> npt.NDArray[np.float32]:
    """The acoustic rows of one layer (N, D), or of all layers (N, L, D) if they are to be weighted."""
    layers = cache.info.acoustic_layers
    if layers == "last":
        if layer is None:
            return cache.read("acoustic")
        raise UsageError(
            f"{cache.path} holds the last hidden states only, so leave --layer {layer} out, "
            "or extract it again with --layers all."
        )
    if layer == WEIGHTED:
        return cache.read("acoustic")
    numbers = layers.split(",")
    if layer not in numbers:
        asked = f"--layer {layer} is not among them" if layer else "say which with --layer"
        raise UsageError(
            f"{cache.path} holds the layers {layers}: {asked}; {WEIGHTED} takes them all, weighted."
        )
    return np.ascontiguousarray(cache.read("acoustic")[:, numbers.index(layer)])


def _same_encoders(first: FeatureCache, other: FeatureCache) -> None:
    names = ("acoustic_encoder", "text_encoder")
    # The same weights in another folder are the same encoder: the revision tells, not the name.
    differing = [
        key
        for key in ENCODER_ATTRIBUTES
        if key not in names and getattr(first.info, key) != getattr(other.info, key)
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
        if first.shapes[name][1:] != other.shapes[name][1:]:
            raise SerError(
                f"The {name} rows of {first.path} and {other.path} differ in shape, {first.shapes[name][1:]} and "
                f"{other.shapes[name][1:]}: one of the files was changed; extract it again."
            )
