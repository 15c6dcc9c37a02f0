"""Facts about a corpus as data: reads `data_manifests/*.toml`, or a user's own TOML in the same form.

name = "clinic"                      # names the cache, <cache>/clinic.h5
title = "Clinic recordings"
layout = "table"                     # a key of extract.corpora.READERS
scale = { min = 1, max = 5 }         # ends of the rating scale
outside_scale = "refuse"             # what a rating beyond them gets; with "drop" it counts as no label
protocol = "speakers"                # which of the protocols below is the default

[protocols.speakers]                 # who trains, validates and tests; also with folds, see common/protocols.py
by = "speaker"
train = ["01", "02"]
validation = ["03"]
test = "*"

[files]                              # looked for below the release's root, first found wins
labels = ["labels.csv"]
audio = ["audio"]

[columns]                            # layout "table": our name = the column's
file = "path"
activation = "arousal"
valence = "valence"

[expected]                           # release = turns it holds, to tell a release by its size
"2024" = 1200
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.protocols import Protocol, parse_protocol
from ser_memory.common.toml_files import read_toml

_FILE_KEYS = ("labels", "audio", "transcripts")
_CONDITIONS = r"telephone|room|noise-[-+.e\d]+"  # as the names of caches have them
_OUTSIDE_SCALE = ("refuse", "drop")
_KNOWN_KEYS = (
    "name",
    "title",
    "letter",
    "layout",
    "scale",
    "outside_scale",
    "protocol",
    "protocols",
    "files",
    "columns",
    "expected",
)


@dataclass(frozen=True)
class Manifest:
    """One corpus: its rating scale, splits, expected counts, where its files lie, and its columns."""

    name: str
    title: str
    layout: str
    scale_min: float
    scale_max: float
    protocol: Protocol  # the one in use
    protocols: dict[str, dict[str, Any]]  # all of them, as the manifest writes them
    outside_scale: str = "refuse"  # one of _OUTSIDE_SCALE
    labels: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    transcripts: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    letter: str = ""  # of its stage in the paper's names, where the corpus comes with the project

    def release_of(self, turns: int) -> str:
        """The release that holds this many turns, else a plain count."""
        matches = [release for release, count in self.expected.items() if count == turns]
        return matches[0] if matches else f"of {turns} turns"


def shipped() -> list[str]:
    """Names of the corpora that come with the project."""
    folder = resources.files("ser_memory.data_manifests")
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def stage_name(corpora: Iterable[str]) -> str:
    """`P+M` for msp-podcast, then msp-improv; corpora that do not come with the project keep their names."""
    return "+".join(_letters().get(name) or name for name in corpora)


@cache
def _letters() -> dict[str, str]:
    return {name: load(name).letter for name in shipped()}


def names_condition(kind: str) -> bool:
    """Whether the part of a cache's name between the corpus and .h5 is that of an acoustic condition."""
    return re.fullmatch(_CONDITIONS, kind) is not None


def extraction_of(name: str) -> str:
    """The command that makes the cache of this name, for a message."""
    corpus, _, kind = name.partition(".")
    if kind and corpus in shipped():
        if names_condition(kind):
            return f"ser-extract --corpus {corpus} --condition {kind.replace('noise-', 'noise:')}"
        return f"ser-extract --corpus {corpus} --text-only --transcriber {kind}"
    return f"ser-extract --corpus {name if name in shipped() else f'{name}.toml'}"


def load(corpus: str, protocol: str | None = None) -> Manifest:
    """The manifest of a shipped corpus by name, or of any corpus by the path of its TOML file.

    `protocol` picks one of the manifest's split protocols; None its default.
    Raises UsageError for an unknown corpus or protocol, SerError for a manifest that says too little.
    """
    if corpus in shipped():
        source = str(resources.files("ser_memory.data_manifests") / f"{corpus}.toml")
    elif corpus.endswith(".toml"):
        source = corpus
    else:
        raise UsageError(
            f"Corpus {corpus!r} is not known: give one of {listing(shipped())}, "
            "or the path of a manifest that ends in .toml."
        )
    return _parse(read_toml(Path(source), "manifest"), source, protocol)


def _parse(table: dict[str, Any], source: str, protocol: str | None) -> Manifest:
    unknown = sorted(set(table) - set(_KNOWN_KEYS))
    if unknown:
        raise SerError(f"The manifest {source} has {listing(unknown)}; it may have {listing(_KNOWN_KEYS)}.")
    for key in ("name", "layout", "scale", "protocols"):
        if key not in table:
            raise SerError(f"The manifest {source} lacks {key!r}.")
    name = str(table["name"])
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise SerError(
            f"The manifest {source} is named {name!r}: use letters, digits, '.', '_' and '-', "
            "since the name becomes a file's."
        )
    outside = table.get("outside_scale", "refuse")
    if outside not in _OUTSIDE_SCALE:
        raise SerError(
            f"The manifest {source} has outside_scale = {outside!r}: it is one of {listing(_OUTSIDE_SCALE)}."
        )
    low, high = _scale(table["scale"], source)
    files = _table(table, "files", source)
    strange = sorted(set(files) - set(_FILE_KEYS))
    if strange:
        raise SerError(f"[files] of {source} has {listing(strange)}; it may have {listing(_FILE_KEYS)}.")
    protocols = _protocols(table, source)
    chosen = protocol or str(table.get("protocol", next(iter(protocols))))
    if chosen not in protocols:
        raise UsageError(f"Protocol {chosen!r} is not in {source}: it has {listing(protocols)}.")
    return Manifest(
        name=name,
        title=str(table.get("title", name)),
        letter=str(table.get("letter", "")),
        layout=str(table["layout"]),
        scale_min=low,
        scale_max=high,
        protocol=protocols[chosen],
        protocols=dict(table["protocols"]),
        outside_scale=str(outside),
        columns={name: str(column) for name, column in _table(table, "columns", source).items()},
        expected=_counts(_table(table, "expected", source), source),
        **{key: tuple(_list(files.get(key, []))) for key in _FILE_KEYS},
    )


def _scale(scale: object, source: str) -> tuple[float, float]:
    if not isinstance(scale, dict) or {"min", "max"} - scale.keys():
        raise SerError(f"The manifest {source} must give its scale as {{ min = 1, max = 5 }}.")
    try:
        low, high = float(scale["min"]), float(scale["max"])
    except (TypeError, ValueError):
        raise SerError(f"The manifest {source} must give its scale in numbers.") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SerError(
            f"The manifest {source} has the scale {low:g} to {high:g}: give its ends as finite numbers."
        )
    if not low < high:
        raise SerError(
            f"The manifest {source} has the scale {low:g} to {high:g}: the maximum must exceed the minimum."
        )
    return low, high


def _protocols(table: dict[str, Any], source: str) -> dict[str, Protocol]:
    protocols = table["protocols"]
    if not isinstance(protocols, dict) or not protocols:
        raise SerError(f"The manifest {source} needs a table [protocols.NAME] that gives the splits.")
    return {str(name): parse_protocol(str(name), rule, source) for name, rule in protocols.items()}


def _list(values: object) -> list[str]:
    return [str(value) for value in values] if isinstance(values, list) else [str(values)]


def _table(parent: dict[str, Any], key: str, source: str) -> dict[str, Any]:
    table = parent.get(key, {})
    if not isinstance(table, dict):
        raise SerError(f"The manifest {source} must give {key!r} as a table.")
    return table


def _counts(table: dict[str, Any], source: str) -> dict[str, int]:
    for release, count in table.items():
        if not isinstance(count, int):
            raise SerError(f"[expected] of {source} gives {count!r} for {release!r}: give a number of turns.")
    return table
