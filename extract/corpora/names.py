"""What a table says about a recording -> its file and its id; and names that are nearly the same.

Tables come from other systems: Windows writes backslashes, macOS writes letters with accents in two characters (NFD)
where others write one (NFC), and cameras write .WAV. All readers, transcripts and stores compare names here.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ser_memory.common.errors import SerError, listing
from ser_memory.common.reporting import notice

RECORDINGS = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff"})

Value = TypeVar("Value")


def as_path(text: str) -> str:
    """A path as a table gives it, with forward slashes."""
    return text.strip().replace("\\", "/")


def id_of(text: str) -> str:
    """The id of a recording whose file a table gives: its name without folders and suffix."""
    return PurePosixPath(as_path(text)).stem


class Named(dict[str, Value]):
    """Values by the stems of their files, found also under the other spelling of an accent."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        super().__init__(values)
        self._composed = {_composed(name): name for name in reversed(self)}
        self._folded = {_folded(name): name for name in reversed(self)}
        self.near: dict[str, str] = {}  # name asked for in vain -> name that differs in capital letters only

    def find(self, name: str) -> Value | None:
        """The value of this name, or None."""
        known = name if name in self else self._composed.get(_composed(name))
        if known is not None:
            return self[known]
        if _folded(name) in self._folded:
            self.near[name] = self._folded[_folded(name)]
        return None

    def others(self, names: Iterable[str]) -> list[str]:
        """The sorted names of the values that none of `names` finds."""
        found = {_composed(name) for name in names}
        return sorted(name for name in self if _composed(name) not in found)


class Files:
    """Finds the files that a table names, below some folders; each folder is listed once, and only if needed."""

    def __init__(self, places: Iterable[Path]) -> None:
        self._places = list(places)
        self._listed: dict[Path, dict[str, list[str]]] = {}
        self.near: dict[str, str] = {}  # as `Named.near`

    def locate(self, text: str) -> Path | None:
        """The file, or what is in its place, such as a link that leads nowhere; None if there is nothing."""
        named = [place / name for name in dict.fromkeys((text, as_path(text))) for place in self._places]
        for is_there in (os.path.isfile, os.path.lexists):  # both are False for what is no valid file name
            for path in named:
                if is_there(path):
                    return path
        return self._like(as_path(text))

    def _like(self, name: str) -> Path | None:
        """The only file whose name differs in the spelling of accents, or in the case of its suffix."""
        if "\0" in name:
            return None
        nearly: list[tuple[Path, PurePosixPath]] = []  # place, and the path from it
        for place in self._places:
            paths = [PurePosixPath()]
            for part in PurePosixPath(name).parts:
                paths = [path / like for path in paths for like in self._similar(place / path, part)]
            nearly += [(place, path) for path in paths]
        wanted = _suffix_folded(name)
        same = list(
            dict.fromkeys(place / path for place, path in nearly if _suffix_folded(str(path)) == wanted)
        )
        if len(same) == 1:
            return same[0]
        if nearly:
            place, path = nearly[0]
            self.near[name] = str(place / path)
        return None

    def _similar(self, folder: Path, part: str) -> list[str]:
        if part in ("/", ".."):
            return [part]
        if folder not in self._listed:
            names: dict[str, list[str]] = {}
            self._listed[folder] = names
            try:
                for entry in sorted(os.listdir(folder)):  # noqa: PTH208  names are enough
                    names.setdefault(_folded(entry), []).append(entry)
            except OSError:
                pass
        return self._listed[folder].get(_folded(part), [])


def report_near(near: Mapping[str, str], what: str) -> None:
    """Report names that were not found, and that differ from an existing one in capital letters only."""
    if near:
        pairs = [f"{name} (there is {other})" for name, other in near.items()]
        notice(
            f"{len(near)} {what} are not found under their names, only with other capital letters: "
            f"{listing(pairs, most=3)}. Correct the names."
        )


def by_id(
    texts: Mapping[str, Value], ids: Collection[str], source: object
) -> tuple[dict[str, Value], list[str]]:
    """The values under the ids of a release, and the names that fit none.

    A name may also be the path of the recording, or spell accents in the other way. A near miss is reported. Raises
    SerError if two names of one utterance have different values.
    """
    known = Named({name: name for name in ids})
    found: dict[str, Value] = {}
    names: dict[str, str] = {}
    unknown = []
    for name, value in texts.items():
        plain = as_path(name)
        is_path = "/" in plain or PurePosixPath(plain).suffix.lower() in RECORDINGS
        target = known.find(name)
        if target is None and is_path:
            target = known.find(id_of(name))
        if target is None:
            unknown.append(name)
        elif found.setdefault(target, value) != value:
            raise SerError(
                f"{source} has {names[target]!r} and {name!r}, both for the utterance {target}, with different texts: "
                "keep one of the two."
            )
        else:
            names.setdefault(target, name)
    report_near(known.near, f"ids of {source}")
    return found, unknown


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    return _composed(_composed(text).casefold())


def _suffix_folded(name: str) -> str:
    path = PurePosixPath(_composed(name))
    return str(path.with_suffix(path.suffix.lower())) if path.name else str(path)
