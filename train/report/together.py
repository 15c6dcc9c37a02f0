"""Whether several runs can be reported together, and what each is called there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.train.report.data import RunData

_GROWING = ("variants", "seeds")  # may be more in one run than in another
_ASIDE = ("word_errors", "cache", "versions", "torch", "complete", "command", "digests", "device", "streamed")


def labelled(runs: Sequence[RunData]) -> dict[str, RunData]:
    """The runs by what tells them apart: the options in which they differ, or their folders; one run has no label.

    Raises SerError, which says what differs, if they were trained on other corpora, caches or label scales, and
    UsageError for a folder that is given twice.
    """
    if len(runs) == 1:
        return {"": runs[0]}
    twice = [str(path) for path, times in Counter(run.folder.resolve() for run in runs).items() if times > 1]
    if twice:
        raise UsageError(f"{listing(twice)} is given twice: give each run once.")
    for other in runs[1:]:
        _refuse_incomparable(runs[0], other)
    flat = [_options(run.config) for run in runs]
    # An option that not all of them have belongs to a strategy that not all of them train.
    names = [
        name
        for name in flat[0]
        if all(name in one for one in flat) and len({str(one[name]) for one in flat}) > 1
    ]
    labels = [", ".join(f"{name.replace('_', '-')} {one[name]}" for name in names) for one in flat]
    if not names or len(set(labels)) < len(labels):
        labels = [
            f"{run.folder.name}{f' ({label})' if label else ''}"
            for run, label in zip(runs, labels, strict=True)
        ]
    if len(set(labels)) < len(labels):
        labels = [str(run.folder) for run in runs]
    return dict(zip(labels, runs, strict=True))


def _refuse_incomparable(one: RunData, other: RunData) -> None:
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
    names = [run.config.get("digests", {}) for run in (one, other)]
    transcripts = [run.config.get("transcripts") for run in (one, other)]  # caches of others are other caches
    differing = [
        corpus for corpus in names[0].keys() | names[1].keys() if names[0].get(corpus) != names[1].get(corpus)
    ]
    if differing and transcripts[0] == transcripts[1]:
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


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a run by its name; those of a strategy with its name before them."""
    experiment = dict(config.get("experiment", {}))
    flat = {name: value for name, value in config.items() if name not in (*_ASIDE, "experiment")}
    flat |= experiment.pop("training", {})
    for strategy, options in experiment.pop("options", {}).items():
        flat |= {f"{strategy} {name}": value for name, value in options.items()}
    return flat | {name: value for name, value in experiment.items() if name not in _GROWING}
