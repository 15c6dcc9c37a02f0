"""Whether several runs can be reported together, and what each is called there."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ser_memory.common.conventions import DIMENSIONS
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.train.report.continued import continues
from ser_memory.train.report.data import RunData
from ser_memory.train.results import BUNDLES
from ser_memory.train.settings import LaterStageSettings, MemorySettings
from ser_memory.train.strategies import STRATEGIES

_GROWING = ("variants", "seeds")  # may be more in one run than in another
_ASIDE = (
    "word_errors",
    "cache",
    "versions",
    "torch",
    "complete",
    "command",
    "digests",
    "device",
    "streamed",
    "conditions",
)


def labelled(runs: Sequence[RunData]) -> dict[str, RunData]:
    """The runs by what tells them apart: the options in which they differ, or their folders; one run has no label.

    A run that continues from bundles of another one comes after it. Raises SerError, which says what differs, if others
    were trained on other corpora, caches or label scales, or if a run contradicts the one that it continues, and
    UsageError for a folder that is given twice.
    """
    if len(runs) == 1:
        return {"": runs[0]}
    twice = [str(path) for path, times in Counter(run.folder.resolve() for run in runs).items() if times > 1]
    if twice:
        raise UsageError(f"{listing(twice)} is given twice: give each run once.")
    runs = sorted(runs, key=lambda run: run.begun)
    continuing = [run for run in runs if any(continues(run, other) for other in runs)]
    for other in runs[1:]:
        if other not in continuing:
            _refuse_incomparable(runs[0], other)
    if continuing:
        return _by_folder(runs)
    flat = [_options(run.config) for run in runs]
    # An option that not all of them have belongs to a strategy that not all of them train.
    names = [
        name
        for name in flat[0]
        if all(name in one for one in flat) and len({_typed(one[name]) for one in flat}) > 1
    ]
    labels = [", ".join(f"{name.replace('_', '-')} {_typed(one[name])}" for name in names) for one in flat]
    if not names or len(set(labels)) < len(labels):
        return _by_folder(runs, labels)
    return dict(zip(labels, runs, strict=True))


def _by_folder(runs: Sequence[RunData], labels: Sequence[str] = ()) -> dict[str, RunData]:
    """The runs by the names of their folders and a label of each, or by the whole paths if these are the same."""
    names = [
        f"{run.folder.name}{f' ({label})' if label else ''}"
        for run, label in itertools.zip_longest(runs, labels)
    ]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    return dict(zip(names, runs, strict=True))


def _refuse_incomparable(one: RunData, other: RunData) -> None:
    if other.origin and other.begun > one.begun:
        raise SerError(
            f"{other.folder} continues from bundles that are not in {one.folder / BUNDLES}: report it apart, or copy "
            "these bundles there."
        )
    stages = [listing(run.config.get("experiment", {}).get("stages", ())) for run in (one, other)]
    if stages[0] != stages[1]:
        raise SerError(
            f"{one.folder} and {other.folder} have different stages ({stages[0]}; {stages[1]}): report them apart."
        )
    protocols = [run.config.get("protocols", {}) for run in (one, other)]
    moved = [
        f"{corpus}: {name} and {protocols[1][corpus]}"
        for corpus, name in protocols[0].items()
        if corpus in protocols[1] and protocols[1][corpus] != name
    ]
    if moved:
        raise SerError(
            f"{one.folder} and {other.folder} split their corpora by different protocols ({listing(moved)}): report "
            "them apart."
        )
    differing = _other_caches(one, other)
    if differing:
        raise SerError(
            f"{one.folder} and {other.folder} were trained on different caches ({listing(sorted(differing))}): "
            "report them apart."
        )
    for name in ("label_scale",):
        values = [run.config.get(name) for run in (one, other)]
        if values[0] != values[1]:
            raise SerError(
                f"{one.folder} and {other.folder} have different figures, their {name} is {values[0]} and {values[1]}: "
                "report them apart."
            )


def _other_caches(one: RunData, other: RunData) -> set[str]:
    """The corpora of which two runs had other caches, as far as that can be told."""
    if one.config.get("transcripts") != other.config.get("transcripts"):
        return set()  # caches of other transcripts are other caches
    rated = [set(_options(run.config)["dimensions"]) - set(DIMENSIONS) for run in (one, other)]
    if rated[0] != rated[1]:
        # A digest has activation and valence always, and ratings of another dimension only if it is trained.
        sizes = [
            {(row.corpus, row.split, row.fold, row.dimension): row.n for row in run.results}
            for run in (one, other)
        ]
        return {place[0] for place in sizes[0].keys() & sizes[1].keys() if sizes[0][place] != sizes[1][place]}
    digests = [run.config.get("digests", {}) for run in (one, other)]
    corpora = digests[0].keys() | digests[1].keys()
    return {corpus for corpus in corpora if digests[0].get(corpus) != digests[1].get(corpus)}


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a run by its name. One that an older version did not have has its default, which is what it did."""
    experiment = dict(config.get("experiment", {}))
    flat = {name: value for name, value in config.items() if name not in (*_ASIDE, "experiment")}
    defaults = asdict(LaterStageSettings()) | asdict(MemorySettings())
    flat |= defaults | {"dimensions": DIMENSIONS} | experiment.pop("training", {})
    if heads := flat.pop(
        "heads", None
    ):  # of an older version: one network for both dimensions, or for one of them
        flat["dimensions"] = DIMENSIONS if heads == "joint" else (heads,)
    flat["dimensions"] = tuple(flat["dimensions"])
    for strategy, options in experiment.pop("options", {}).items():
        known = STRATEGIES[strategy].options if strategy in STRATEGIES else ()
        for each in known:
            flat |= asdict(each())
        flat |= options
    return flat | {name: value for name, value in experiment.items() if name not in _GROWING}


def _typed(value: Any) -> str:
    """A value as it is typed on the command line."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
