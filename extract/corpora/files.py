"""What the readers share: finding a release's files, reading them, and the rules every turn obeys."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path

from ser_memory.common.conventions import UNKNOWN
from ser_memory.common.errors import SerError, listing
from ser_memory.common.manifests import Manifest
from ser_memory.common.reporting import notice
from ser_memory.extract.corpora.utterance import Utterance

RECORDINGS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff"})
TEXTS = frozenset({".txt"})
RESOURCE_FORK = "._"  # macOS keeps one beside every file it copies: binary, under the real file's suffix

_GENDERS = {"f": "Female", "female": "Female", "m": "Male", "male": "Male"}


def label_files(root: Path, manifest: Manifest) -> list[Path]:
    """The files of the first of the manifest's candidates that the release has.

    Raises SerError naming all the candidates when it has none.
    """
    for candidate in manifest.labels:
        found = [path for path in _matches(root, candidate) if path.is_file()]
        if found:
            return found
    raise SerError(
        f"There are no labels of {manifest.title} in {root}: looked for {listing(manifest.labels)}. "
        "Give the folder that holds the release, or name the labels under [files] in the manifest."
    )


def walk(root: Path, folders: Iterable[str], suffixes: Collection[str]) -> Iterator[Path]:
    """Every file of these suffixes in the folders that exist and below them, in an order that never varies.

    Folders are listed rather than asked file by file: a release holds 150,000 recordings, often on a
    network disk.
    """
    for candidate in folders:
        for top in _matches(root, candidate):
            if not top.is_dir():
                continue
            for folder, inner, names in os.walk(top, onerror=_refuse, followlinks=True):
                inner.sort()
                here = Path(folder)
                for name in sorted(names):
                    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  a Path for every name is slow
                    if suffix in suffixes and not name.startswith(RESOURCE_FORK):
                        yield here / name


def by_stem(root: Path, folders: Iterable[str], suffixes: Collection[str]) -> dict[str, Path]:
    """File stem -> path; of two files with one stem, the one in the folder named first."""
    found: dict[str, Path] = {}
    for path in walk(root, folders, suffixes):
        found.setdefault(path.stem, path)
    return found


def rating(text: str | None, utterance: str, where: str, manifest: Manifest) -> float:
    """One rating as the release writes it; blank or NaN is a label the release does not tell.

    Raises SerError naming the place, the utterance and the value if it is no number or outside the scale;
    where the manifest drops what is outside the scale, a line says so and the rating counts as not told.
    """
    try:
        value = float((text or "").strip() or math.nan)
    except ValueError:
        raise SerError(f"{where}: {utterance} has the rating {text!r}, which is not a number.") from None
    if math.isnan(value):
        return math.nan
    if manifest.scale_min <= value <= manifest.scale_max:
        return value
    problem = (
        f"{where}: {utterance} has the rating {value:g}, outside the scale "
        f"{manifest.scale_min:g} to {manifest.scale_max:g} of {manifest.title}"
    )
    if manifest.outside_scale == "drop":
        notice(f"{problem}: not used.")
        return math.nan
    raise SerError(f'{problem}: correct it, leave it blank, or set outside_scale = "drop" in a manifest.')


def split_of(told: Mapping[str, str], utterance: str, manifest: Manifest) -> str:
    """The split of an utterance of which `told` says its speaker, session or split, as far as known.

    A recording of which nothing is known has no split, "". Raises SerError when the protocol asks for
    something this layout does not tell, or knows no split for what it tells.
    """
    if not told:
        return ""
    protocol = manifest.protocol
    if protocol.by not in told:
        raise SerError(
            f"Protocol {manifest.protocol_name!r} splits {manifest.title} by {protocol.by}, which the layout "
            f"{manifest.layout!r} does not tell: split by {listing(told)}."
        )
    return protocol.split_of(told[protocol.by], utterance)


def gender_of(text: str | None) -> str:
    """Female, Male or Unknown, of a word or a letter."""
    return _GENDERS.get((text or "").strip().lower(), UNKNOWN)


def unique(utterances: Iterable[Utterance]) -> list[Utterance]:
    """The utterances without repeats, in order; SerError for two of one id that say different things."""
    kept: dict[str, Utterance] = {}
    for utterance in utterances:
        first = kept.setdefault(utterance.id, utterance)
        if first is not utterance:
            _refuse_conflict(first, utterance)
    return list(kept.values())


def _refuse_conflict(first: Utterance, second: Utterance) -> None:
    for name in (field.name for field in fields(Utterance)):
        told = [str(getattr(utterance, name)) for utterance in (first, second)]  # as text, NaN equals NaN
        if told[0] != told[1]:
            raise SerError(
                f"{first.id} is listed twice, with the {name} {told[0]} and {told[1]}: "
                "keep one of the two, or give each its own id."
            )


def _matches(root: Path, candidate: str) -> list[Path]:
    """The path itself if it exists, else, sorted, what it matches as a pattern such as `Session*/wav`."""
    literal = root / candidate
    if literal.exists():
        return [literal]
    return sorted(root / match for match in glob.glob(candidate, root_dir=root))  # noqa: PTH207  takes any path


def _refuse(error: OSError) -> None:
    raise SerError(f"The folder {error.filename} cannot be listed: {error.strerror}.")
