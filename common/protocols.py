"""Split protocols: which utterances train, validate and test, by speaker, session or the release's own split.

A protocol needs no features. Extraction applies one, so that a cache can be read alone; training may apply another.

[protocols.speakers]
by = "speaker"                       # what decides the split: speaker, session or split (the release's own)
train = ["01", "02"]                 # split = the values that fall into it; "*" is every other value
validation = ["03"]
test = ["04"]

[protocols.sessions]
folds = "session"                    # or "speaker": each one is tested once, the next validates, all others train

[protocols.listed]
by = "speaker"
folds = [                            # or each fold as a protocol of its own
    { train = "*", validation = ["01"], test = ["02", "03"] },
    { train = "*", validation = ["02"], test = ["01", "04"] },
]
shared_speakers = true               # allows a speaker in two splits of a fold; otherwise that is refused
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import NO_SPLIT, UNKNOWN
from ser_memory.common.errors import SerError, listing

SPLIT_NAME = re.compile(r"train|validation|test[0-9]*")
SPLIT_BY = ("speaker", "session", "split")
FOLDS_BY = ("speaker", "session")
ANY_OTHER = "*"
NEEDED = ("train", "validation")  # splits without which nothing can be trained

_FEWEST_FOLDS = 3  # one is tested, one validates, one trains
_OPTIONS = ("by", "folds", "shared_speakers")

Splits = npt.NDArray[np.object_]  # (N,) the split of each utterance
Facts = Mapping[str, Sequence[str]]  # of SPLIT_BY, as far as they are known: (N,) values


@dataclass(frozen=True)
class Protocol:
    """A rule that gives every utterance its split, or its split in each of several folds."""

    by: str  # one of SPLIT_BY
    splits: dict[str, str]  # value of `by` -> split; empty with folds
    name: str = ""
    folds: tuple[dict[str, str], ...] = ()  # the same for each fold that the protocol lists
    each: bool = False  # a fold for each value that occurs
    shared_speakers: bool = False  # whether a speaker may be in two splits

    @property
    def has_folds(self) -> bool:
        """Whether the corpus is used several times, with different splits."""
        return self.each or bool(self.folds)

    def assign(self, ids: Sequence[str], facts: Facts, labelled: Sequence[bool], corpus: str) -> list[Splits]:
        """The (N,) splits of the utterances, once for each fold, or once if the protocol has no folds.

        Args:
            ids: (N,) for messages.
            facts: (N,) values of each of SPLIT_BY that the corpus has.
            labelled: (N,) whether an utterance has its labels. Only then it must have a split; otherwise, and in a
                protocol with a fold for each value, an utterance without a value has the split NO_SPLIT.
            corpus: its name, for messages.

        Raises SerError in one sentence if the corpus lacks the fact that decides, if an utterance has a value that
        no split names, or if there are too few values for folds.
        """
        values = facts.get(self.by)
        if values is None:
            raise SerError(
                f"Protocol {self.name!r} splits {corpus} by {self.by}, which is not known: "
                f"split by {listing(name for name in SPLIT_BY if name in facts)}."
            )
        if self.each:
            return self._one_out(values, corpus)
        return [
            np.array(
                [
                    self._split_of(value, rule, name, needed)
                    for name, value, needed in zip(ids, values, labelled, strict=True)
                ],
                dtype=object,
            )
            for rule in self.folds or (self.splits,)
        ]

    def _split_of(self, value: str, rule: Mapping[str, str], utterance: str, needed: bool) -> str:
        if not needed and value in ("", UNKNOWN):
            return rule.get(value, NO_SPLIT)
        split = rule.get(value) or rule.get(ANY_OTHER)
        if split is None and needed:
            fold = f" in fold {self.folds.index(dict(rule)) + 1}" if self.folds else ""
            raise SerError(
                f"{utterance} has the {self.by} {value!r}, which no split of the protocol {self.name!r} names{fold}: "
                f'known are {listing(in_natural_order(rule))}. Name it in the manifest, or add "*" for all others.'
            )
        return split or NO_SPLIT

    def _one_out(self, values: Sequence[str], corpus: str) -> list[Splits]:
        names = in_natural_order(set(values) - {"", UNKNOWN})
        if len(names) < _FEWEST_FOLDS:
            raise SerError(
                f"Protocol {self.name!r} makes a fold for each {self.by} of {corpus}, and there "
                f"{'is' if len(names) == 1 else 'are'} only {len(names)} ({listing(names)}): it needs at least "
                f"{_FEWEST_FOLDS}, to test, to validate and to train."
            )
        given = np.array([value if value not in ("", UNKNOWN) else None for value in values], dtype=object)
        folds = []
        for test, validation in zip(names, [*names[1:], names[0]], strict=True):
            splits = np.where(given == test, "test", np.where(given == validation, "validation", "train"))
            folds.append(np.where(given == None, NO_SPLIT, splits).astype(object))  # noqa: E711  elementwise
        return folds

    def refuse_shared_speakers(self, splits: Splits, speakers: Sequence[str], where: str) -> None:
        """Raise SerError if a known speaker is in two splits of a fold, unless the protocol allows it."""
        shared = speakers_in_two_splits(splits, speakers)
        if shared and not self.shared_speakers:
            raise SerError(
                f"{where} has {_speakers(shared)} in more than one split, so that its test is not of new speakers: "
                "split by speaker, or allow it with shared_speakers = true in the protocol."
            )


def parse_protocol(name: str, table: object, source: str) -> Protocol:
    """A protocol from its table in a manifest, `source`. Raises SerError for a table that says too little."""
    if not isinstance(table, dict):
        raise SerError(f"The manifest {source} must give {name!r} as a table.")
    folds = table.get("folds")
    shared = table.get("shared_speakers", False)
    if not isinstance(shared, bool):
        raise SerError(
            f"Protocol {name!r} of {source} has shared_speakers = {shared!r}: it is true or false."
        )
    by = table.get("by", folds if isinstance(folds, str) else None)
    if by not in SPLIT_BY:
        raise SerError(f"Protocol {name!r} of {source} splits by {by!r}: 'by' is one of {listing(SPLIT_BY)}.")
    named = {split: values for split, values in table.items() if split not in _OPTIONS}
    if folds is None:
        return Protocol(by, _rule(name, by, named, source), name, shared_speakers=shared)
    if named:
        raise SerError(
            f"Protocol {name!r} of {source} has folds and also {listing(named)}: the folds name the splits."
        )
    if isinstance(folds, str):
        if folds not in FOLDS_BY or by != folds:
            raise SerError(
                f"Protocol {name!r} of {source} has folds = {folds!r}{f' and by = {by!r}' if by != folds else ''}: give "
                f"one of {listing(FOLDS_BY)}, or a list of folds."
            )
        return Protocol(by, {}, name, each=True, shared_speakers=shared)
    if not isinstance(folds, list) or not folds or not all(isinstance(fold, dict) for fold in folds):
        raise SerError(
            f"Protocol {name!r} of {source} must give its folds as one of {listing(FOLDS_BY)}, or as a list such as "
            'folds = [{ train = "*", validation = ["01"], test = ["02"] }].'
        )
    rules = tuple(
        _rule(name, by, fold, f"{source}, fold {number},") for number, fold in enumerate(folds, start=1)
    )
    return Protocol(by, {}, name, folds=rules, shared_speakers=shared)


def _rule(name: str, by: str, table: Mapping[str, Any], source: str) -> dict[str, str]:
    """value of `by` -> split, from split -> its values."""
    splits: dict[str, str] = {}
    for split, values in table.items():
        if not SPLIT_NAME.fullmatch(split):
            raise SerError(
                f"Protocol {name!r} of {source} has the split {split!r}: "
                "splits are train, validation, test, test2, test3 and so on."
            )
        items = values if isinstance(values, list) else [values]
        if not all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in items):
            raise SerError(f"Protocol {name!r} of {source} must give the split {split} as a list of texts.")
        for value in map(str, items):
            if value in splits:
                raise SerError(f"Protocol {name!r} of {source} puts {by} {value!r} into two splits.")
            splits[value] = split
    if not splits:
        raise SerError(
            f"Protocol {name!r} of {source} splits by {by}, and has no list of them: add for example "
            f'train = ["..."] and validation = ["..."].'
        )
    return splits


def speakers_in_two_splits(splits: Iterable[str], speakers: Iterable[str]) -> list[str]:
    """The known speakers of (N,) utterances with more than one split; NO_SPLIT is none."""
    found: dict[str, set[str]] = {}
    for split, speaker in zip(splits, speakers, strict=True):
        if split != NO_SPLIT and speaker != UNKNOWN:
            found.setdefault(speaker, set()).add(split)
    return in_natural_order(speaker for speaker, where in found.items() if len(where) > 1)


def in_natural_order(values: Iterable[str]) -> list[str]:
    """Sorted, with numbers by their size: 2 comes before 10."""
    return sorted(values, key=lambda value: [(part.isdigit(), int(part) if part.isdigit() else 0, part)
                                             for part in re.split(r"(\d+)", value)])  # fmt: skip


def _speakers(names: Sequence[str]) -> str:
    return f"the speaker{'' if len(names) == 1 else 's'} {listing(names, most=3)}"
