"""Feature caches -> tensors: labels in memory, embeddings mapped from the file.

A mapped file is read as it is needed and shared by all processes that map it, so that a corpus costs its size in
memory once, however many train on it, and one larger than memory can be trained on at all.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.cache import (
    EMBEDDINGS,
    ENCODER_ATTRIBUTES,
    LATER_COLUMNS,
    SUFFIX,
    FeatureCache,
    Version,
    cache_path,
)
from ser_memory.common.conventions import DIMENSIONS, NO_SPLIT, RATED, UNKNOWN, in_split_order
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.labels import to_unit
from ser_memory.common.machine import memory
from ser_memory.common.manifests import extraction_of
from ser_memory.common.protocols import NEEDED, Splits, in_natural_order
from ser_memory.common.reporting import notice
from ser_memory.train.samples import UNKNOWN_SPEAKER, Samples
from ser_memory.train.settings import DataSettings
from ser_memory.train.splits import Division, check_splits, division_of, refuse_unequal_folds, splits_of

Digests = tuple[Mapping[str, str], ...]  # of each fold the digest of every split

WEIGHTED = "weighted"  # all cached layers, with weights that are learned


@dataclass(frozen=True)
class Corpus:
    """One cache, by split; with folds, `folds` has it once for each, and the splits are those of the first."""

    name: str
    splits: dict[str, Samples]  # train, validation, test, test2, ...
    speakers: tuple[str, ...]  # names, by code
    digests: Mapping[str, str]  # of each split: of what training and evaluation see of its utterances
    dimensions: tuple[str, ...] = DIMENSIONS  # columns of the targets
    fold: str = ""  # "1", "2", ..., or "" without folds
    folds: tuple[Corpus, ...] = ()

    @property
    def digest(self) -> str:
        """Of all that training and evaluation see of it, in all folds."""
        told = json.dumps([dict(fold.digests) for fold in self.each_fold], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def at(self, fold: str) -> Corpus:
        """The corpus in one fold: "1", "2", ...; without folds itself, whichever fold others are in."""
        return self.folds[int(fold) - 1] if self.folds else self

    @property
    def each_fold(self) -> tuple[Corpus, ...]:
        """The corpus in every fold; without folds itself."""
        return self.folds or (self,)

    @property
    def title(self) -> str:
        """Its name, and its fold if it is one."""
        return f"fold {self.fold} of {self.name}" if self.fold else self.name

    @property
    def evaluated(self) -> dict[str, Samples]:
        """The splits that results are given for: all but train."""
        return {split: samples for split, samples in self.splits.items() if split != "train"}

    @property
    def tested(self) -> dict[str, Samples]:
        """The test splits: all but those that training sees."""
        return {split: samples for split, samples in self.splits.items() if split not in NEEDED}


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
    divisions: tuple[Division, ...] = ()  # how each corpus is split; without them by the column `split`
    # Of each corpus and fold the digests of its splits, if they are known already.
    digests: tuple[Digests, ...] = ()
    transcripts: str | None = (
        None  # the part of a cache's name between the corpus and .h5, where there is one
    )
    versions: tuple[Version, ...] = ()  # of the files that were checked; another one is refused
    dimensions: tuple[str, ...] = DIMENSIONS  # columns of the targets

    def path(self, name: str) -> Path:
        """The cache of a corpus: with the transcripts that were asked for, or without them if it has no such cache."""
        other = cache_path(self.folder, f"{name}.{self.transcripts}")
        return other if self.transcripts and other.exists() else cache_path(self.folder, name)


def source_of(
    data: DataSettings, device: str, memory_share: float, dimensions: tuple[str, ...] = DIMENSIONS
) -> Source:
    """The source of checked caches; embeddings beyond a share of this machine's memory are streamed, with a notice.

    Raises SerError or UsageError in one sentence as `open_caches` does, and for splits that cannot be used.
    """
    source = Source(
        data.folder, data.stages, data.label_scale, data.layer, device,
        transcripts=data.transcripts, dimensions=dimensions,
    )  # fmt: skip
    _report_transcripts(source)
    caches = open_caches(source)
    divisions = tuple(
        division_of(cache, name, data.protocols.get(name))
        for name, cache in zip(data.stages, caches, strict=True)
    )
    _report_ratings(caches, data.stages, dimensions)
    checked = zip(caches, data.stages, divisions, strict=True)
    refuse_unequal_folds({name: check_splits(cache, name, each) for cache, name, each in checked})
    versions = tuple(cache.version for cache in caches if cache.version)
    source = replace(source, divisions=divisions, versions=versions)
    size = sum(_bytes_used(cache, source.layer) for cache in caches)
    if size <= memory_share * memory():
        return source
    notice(
        f"The embeddings, {size / 1e9:.3g} GB, are more than {memory_share:.0%} of this machine's "
        f"{memory() / 1e9:.3g} GB of memory: they are read from the disk in shuffled blocks."
    )
    return replace(source, streamed=True)


def transcripts_in(folder: Path, stages: Iterable[str]) -> list[str]:
    """The transcripts for which --text-only has made a cache of some of these corpora, in the order of their names."""
    found = [
        path.name.removesuffix(SUFFIX).removeprefix(f"{stage}.")
        for stage in stages
        for path in folder.glob(f"{glob.escape(stage)}.*{SUFFIX}")
        if not _has_condition(path)
    ]
    return in_natural_order(set(found))


def _has_condition(path: Path) -> bool:
    """Whether a cache is of test recordings in another acoustic condition; what is wrong with it is not said here."""
    try:
        return FeatureCache(path).info.condition != ""
    except SerError:
        return False


def _report_transcripts(source: Source) -> None:
    """Raise UsageError if no corpus has a cache of these transcripts; report corpora that have none."""
    if source.transcripts is None:
        return
    without = [name for name in source.names if source.path(name) == cache_path(source.folder, name)]
    if len(without) == len(source.names):
        raise UsageError(
            f"No corpus has a cache of the transcripts {source.transcripts!r} in {source.folder}: there are those of "
            f"{listing(transcripts_in(source.folder, source.names))}; ser-extract --text-only makes them."
        )
    for name in without:
        notice(f"{name} has no cache of the transcripts {source.transcripts}: its own are used.")
    for name in (name for name in source.names if name not in without):
        _refuse_other_labels(FeatureCache(source.path(name)), cache_path(source.folder, name))


def _refuse_other_labels(cache: FeatureCache, base: Path) -> None:
    """Raise SerError if a cache with other transcripts has other labels or splits than the corpus's own cache."""
    if not base.exists():
        return
    differing = count_differing(cache, FeatureCache(base), (*RATED, "speaker", "split", *LATER_COLUMNS))
    if differing:
        raise SerError(
            f"{cache.path} has other labels, splits or recordings than {base} for {differing} "
            f"utterances: bring it up to date with {extraction_of(cache.path.stem)} --overwrite, which encodes no recording."
        )


def count_differing(one: FeatureCache, other: FeatureCache, columns: Iterable[str]) -> int:
    """How many of the utterances that two caches have in common differ in a column that both have."""
    rows = {name: row for row, name in enumerate(other.read("id"))}
    places = [(here, rows[name]) for here, name in enumerate(one.read("id")) if name in rows]
    if not places:
        return 0
    ours, theirs = np.array(places).T
    differing = np.zeros(len(places), bool)
    for name in (name for name in columns if one.has(name) and other.has(name)):
        a, b = one.read(name)[ours], other.read(name)[theirs]
        equal = a == b if a.dtype == object else (a == b) | (np.isnan(a) & np.isnan(b))
        differing |= ~np.asarray(equal, bool)
    return int(np.count_nonzero(differing))


def _report_ratings(caches: Iterable[FeatureCache], names: Iterable[str], dimensions: Iterable[str]) -> None:
    """Report corpora that do not rate every utterance in a dimension; activation and valence are always there.

    Raises UsageError if no corpus has any rating of one.
    """
    for dimension in set(dimensions) - set(DIMENSIONS):
        absent = {
            name: int(np.isnan(cache.read(dimension)).sum())
            for cache, name in zip(caches, names, strict=True)
        }
        sizes = {name: len(cache) for cache, name in zip(caches, names, strict=True)}
        if absent == sizes:
            raise UsageError(f"No corpus has ratings of {dimension}: leave it out of --dimensions.")
        for name, missing in absent.items():
            if missing == sizes[name]:
                if tuple(dimensions) == (dimension,):
                    raise UsageError(
                        f"{name} has no ratings of {dimension}, and nothing else is trained: leave {name} out of "
                        "--stages, or name more --dimensions."
                    )
                notice(f"{name} has no ratings of {dimension}: it trains and tests the other dimensions.")
            elif missing:
                notice(
                    f"{missing} of {sizes[name]} utterances of {name} have no rating of {dimension} and do not count in it."
                )


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
    absent = [name for name in source.names if not source.path(name).exists()]
    if absent:
        commands = " && ".join(f"{extraction_of(name)} --cache {source.folder}" for name in absent)
        raise SerError(f"There is no cache of {listing(absent)} in {source.folder}: make it with {commands}")
    caches = [FeatureCache(source.path(name)) for name in source.names]
    for cache in caches:
        if cache.info.condition:
            raise UsageError(
                f"{cache.path} has test recordings in the condition {cache.info.condition}, not transcripts or a corpus to "
                f"train on: choose others with --transcripts or --stages, such as {cache.info.corpus}."
            )
        same_encoders(caches[0], cache, source.layer)
        cache.validate()
        if cache.info.limit:
            notice(f"{cache.path} is a trial: it was extracted with --limit {cache.info.limit}.")
        if not cache.info.has_texts:
            notice(
                f"{cache.path} has no texts: one neutral text stands for all of them, so that models learn and are tested "
                "there by voice alone."
            )
    return caches


def load_corpora(source: Source) -> list[Corpus]:
    """The corpora of caches that `source_of` has checked.

    Raises SerError when one lacks the layer asked for, or is not the file that was checked.
    """
    unknown = (None,) * len(source.names)
    facts = (source.divisions or (Division(),) * len(source.names), source.digests or unknown)
    return [
        _load(name, FeatureCache(source.path(name), version), source, division, digests)
        for name, version, division, digests in zip(
            source.names, source.versions or unknown, *facts, strict=True
        )
    ]


def _load(
    name: str, cache: FeatureCache, source: Source, division: Division, digests: Digests | None
) -> Corpus:
    # A GPU gets its own copy, unless that would be too much; a CPU reads the mapped file.
    device = torch.device("cpu" if source.streamed else source.device)
    read = (*DIMENSIONS, *(each for each in source.dimensions if each not in DIMENSIONS))
    labels = np.stack([scaled(cache, each, source.label_scale) for each in read], axis=1)
    targets = torch.from_numpy(labels.astype(np.float32)).to(device)
    names = cache.read("speaker")
    speakers = sorted(set(names) - {UNKNOWN})
    codes = {speaker: code for code, speaker in enumerate(speakers)}
    acoustic, text = acoustic_of(cache, source.layer), cache.mapped("text")
    trained = [read.index(each) for each in source.dimensions]
    everything = Samples(
        acoustic=torch.from_numpy(acoustic).to(device),
        text=torch.from_numpy(text).to(device),
        rows=torch.arange(len(cache), device=device),
        targets=targets[:, trained].contiguous(),
        speakers=torch.tensor([codes.get(speaker, UNKNOWN_SPEAKER) for speaker in names], device=device),
        streamed=source.streamed,
        rated=targets[:, : len(DIMENSIONS)].contiguous(),
    )
    folds = [_rows_by_split(splits) for splits in splits_of(cache, name, division)]
    if digests is None:
        each = digests_of_rows(labels, names, acoustic, text)
        digests = tuple(
            {split: hashlib.sha256(each[rows].tobytes()).hexdigest() for split, rows in fold.items()}
            for fold in folds
        )
    has_folds = division.protocol is not None and division.protocol.has_folds
    made = tuple(
        Corpus(
            name,
            {split: _part(everything, torch.from_numpy(rows).to(device)) for split, rows in fold.items()},
            tuple(speakers),
            digest,
            source.dimensions,
            str(number) if has_folds else "",
        )
        for number, (fold, digest) in enumerate(zip(folds, digests, strict=True), start=1)
    )
    return replace(made[0], fold="", folds=made) if has_folds else made[0]


def _rows_by_split(splits: Splits) -> dict[str, npt.NDArray[np.int64]]:
    """The rows of each split, rising; those in no split are left out."""
    return {split: np.flatnonzero(splits == split) for split in in_split_order(splits) if split != NO_SPLIT}


def _part(whole: Samples, rows: Tensor) -> Samples:
    """Some rows, without copying their embeddings."""
    return replace(
        whole,
        rows=rows,
        targets=whole.targets[rows],
        speakers=whole.speakers[rows],
        rated=None if whole.rated is None else whole.rated[rows],
    )


def scaled(cache: FeatureCache, dimension: str, label_scale: str) -> npt.NDArray[np.float64]:
    """(N,) ratings in [-1, 1]. Raises SerError if all are the same on the observed scale."""
    ratings = cache.read(dimension)
    declared = (cache.info.scale_min, cache.info.scale_max)
    rated = ratings[np.isfinite(ratings)]  # of dominance, which not every corpus rates
    if not len(rated):
        return np.asarray(ratings, np.float64)
    observed = (float(rated.min()), float(rated.max()))
    if label_scale == "observed" and observed[0] == observed[1]:
        raise SerError(
            f"All {dimension} labels of {cache.path} are {observed[0]:g}: use --label-scale declared."
        )
    return to_unit(ratings, *(observed if label_scale == "observed" else declared))


def digests_of_rows(
    targets: npt.NDArray[np.float64], speakers: npt.NDArray[np.object_], *embeddings: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """(N, 32) SHA-256 of all that training and evaluation see of each utterance."""
    made = np.empty((len(targets), hashlib.sha256().digest_size), np.uint8)
    for row, (target, speaker) in enumerate(zip(targets, speakers, strict=True)):
        digest = hashlib.sha256(target.tobytes())
        for values in embeddings:
            digest.update(np.ascontiguousarray(values[row]).data)
        digest.update(speaker.encode())
        made[row] = np.frombuffer(digest.digest(), np.uint8)
    return made


def acoustic_of(cache: FeatureCache, layer: str | None) -> npt.NDArray[np.float32]:
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


def same_encoders(first: FeatureCache, other: FeatureCache, layer: str | None) -> None:
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
