"""What the readers share: how to find a release's files, and the rules for every turn."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import fields
from pathlib import Path

from ser_memory.common.conventions import UNKNOWN
from ser_memory.common.errors import SerError, listing
from ser_memory.common.manifests import Manifest
from ser_memory.common.reporting import notice
from ser_memory.extract.corpora.names import Named, report_near
from ser_memory.extract.corpora.utterance import Utterance
from ser_memory.extract.tables import read_text

TEXTS = frozenset({".txt"})
RESOURCE_FORK = "._"  # macOS writes one beside every file it copies: binary, with the real file's suffix

_GENDERS = {"f": "Female", "female": "Female", "m": "Male", "male": "Male"}


def label_files(root: Path, manifest: Manifest) -> list[Path]:
    """The files of the first of the manifest's candidates that the release has.

    Raises SerError naming all the candidates when it has none, or if one of the files is a link that leads nowhere.
    """
    for candidate in manifest.labels:
        matches = _matches(root, candidate)
        broken = [path for path in matches if path.is_symlink() and not path.exists()]
        if broken:
            raise SerError(
                f"The labels {broken[0]} are a link to a file that does not exist: fetch the file."
            )
        found = [path for path in matches if path.is_file()]
        if found:
            return found
    sought = f"There are no labels of {manifest.title} in {root}: looked for {listing(manifest.labels)}. "
    elsewhere = _elsewhere(root, manifest.labels)
    if elsewhere is not None:
        raise SerError(
            f"{sought}There is {elsewhere}: name it under [files] in the manifest, or give its --root."
        )
    if any(_matches(root, folder) for folder in manifest.audio):
        raise SerError(f"{sought}The recordings are there: name the labels under [files] in the manifest.")
    raise SerError(
        f"{sought}Give the folder that holds the release, or name the labels under [files] in the manifest."
    )


def _elsewhere(root: Path, candidates: Iterable[str]) -> Path | None:
    """A file of a candidate's name in the root, in a folder of it, or beside it; capital letters do not count."""
    wanted = {Path(candidate).name.lower() for candidate in candidates}
    folders = [root, *sorted(path for path in _entries(root) if path.is_dir()), root.resolve().parent]
    entries = (path for folder in folders for path in _entries(folder))
    return next((path for path in entries if path.name.lower() in wanted and path.is_file()), None)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def walk(root: Path, folders: Iterable[str], suffixes: Collection[str]) -> Iterator[Path]:
    """Every file with one of these suffixes in the existing folders and below them, always in the same order.

    Whole folders are listed, which is faster than to look for file after file: a release has 150,000 recordings,
    often on a network disk. Raises SerError for a folder that cannot be listed.
    """
    for candidate in folders:
        for top in _matches(root, candidate):
            if not top.is_dir():
                continue
            seen: set[tuple[int, int]] = set()
            for folder, inner, names in os.walk(top, onerror=_refuse, followlinks=True):
                status = os.stat(folder)  # noqa: PTH116
                if (status.st_dev, status.st_ino) in seen:  # a link to a folder above would never end
                    inner.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                inner.sort()
                here = Path(folder)
                for name in sorted(names):
                    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122  a Path for every name is slow
                    if suffix in suffixes and not name.startswith(RESOURCE_FORK):
                        yield here / name


def by_stem(root: Path, folders: Iterable[str], suffixes: Collection[str]) -> Named[Path]:
    """File stem -> path; of two files with the same stem, the one in the folder named first."""
    found: dict[str, Path] = {}
    for path in walk(root, folders, suffixes):
        found.setdefault(path.stem, path)
    return Named(found)


class Transcripts:
    """The texts of a release: a file for each utterance, opened when it is asked for.

    A file that cannot be opened, such as a link that leads nowhere, costs that transcript. `report` names them.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self._files = by_stem(root, manifest.transcripts, TEXTS)
        self._lost: list[Path] = []

    def find(self, name: str) -> str | None:
        """The text of the utterance with this id."""
        path = self._files.find(name)
        return None if path is None else self._read(path)

    def all(self) -> Iterator[str]:
        """The content of every file, in the order of the folders."""
        for path in self._files.values():
            text = self._read(path)
            if text is not None:
                yield text

    def report(self) -> None:
        """Report the files that were not opened, and those that nearly have the name of an utterance."""
        report_near(self._files.near, "transcripts")
        if self._lost:
            notice(
                f"{len(self._lost)} transcripts cannot be opened ({listing(self._lost, most=3)}): not used."
            )

    def _read(self, path: Path) -> str | None:
        try:
            path.open("rb").close()
        except OSError:
            self._lost.append(path)
            return None
        return read_text(path).strip()


def rating(text: str | None, utterance: str, where: str, manifest: Manifest) -> float:
    """One rating in the rating scale; NaN if it is blank.

    Raises SerError with the place, the utterance and the value if it is not a number or is outside the scale. If the
    manifest drops ratings outside the scale, a notice reports it and the rating is NaN.
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


def is_rating(text: str | None, manifest: Manifest) -> bool:
    """Whether a cell is a number in the rating scale."""
    try:
        return manifest.scale_min <= float(text or "") <= manifest.scale_max
    except ValueError:
        return False


def gender_of(text: str | None) -> str:
    """Female, Male or Unknown, from a word or a letter."""
    return _GENDERS.get((text or "").strip().lower(), UNKNOWN)


def unique(utterances: Iterable[Utterance]) -> list[Utterance]:
    """The utterances without repeats, in order. Raises SerError if two with the same id differ."""
    kept: dict[str, Utterance] = {}
    for utterance in utterances:
        first = kept.setdefault(utterance.id, utterance)
        if first is not utterance:
            _refuse_conflict(first, utterance)
    return list(kept.values())


def _refuse_conflict(first: Utterance, second: Utterance) -> None:
    for name in (field.name for field in fields(Utterance)):
        values = [str(getattr(utterance, name)) for utterance in (first, second)]  # as text, NaN equals NaN
        if values[0] != values[1]:
            raise SerError(
                f"{first.id} is listed twice, with the {name} {values[0]} and {values[1]}: "
                "keep one of the two, or give each its own id."
            )


def _matches(root: Path, candidate: str) -> list[Path]:
    """The path itself if it exists, else the sorted matches of the pattern, such as `Session*/wav`."""
    literal = root / candidate
    if literal.exists():
        return [literal]
    return sorted(root / match for match in glob.glob(candidate, root_dir=root))  # noqa: PTH207  takes any path


def _refuse(error: OSError) -> None:
    raise SerError(f"The folder {error.filename} cannot be listed: {error.strerror}.")
