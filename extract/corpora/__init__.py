"""Corpus readers: one file per release layout, each a function (root, manifest) -> list of utterances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ser_memory.common.conventions import NO_SPLIT
from ser_memory.common.errors import SerError, listing
from ser_memory.common.manifests import Manifest
from ser_memory.common.protocols import NEEDED, Splits
from ser_memory.extract.corpora import iemocap, msp_improv, msp_podcast, table
from ser_memory.extract.corpora.utterance import Utterance

Reader = Callable[[Path, Manifest], list[Utterance]]

READERS: dict[str, Reader] = {
    "iemocap": iemocap.read,
    "msp-improv": msp_improv.read,
    "msp-podcast": msp_podcast.read,
    "table": table.read,
}


def read_release(root: Path, manifest: Manifest) -> list[Utterance]:
    """Every turn of a release with its split, in the order of its layout's reader.

    Where the manifest's protocol has folds, the splits are those of the first. Raises SerError for a layout without a
    reader, and for a turn that the protocol has no split for.
    """
    if manifest.layout not in READERS:
        raise SerError(
            f"The manifest {manifest.name} has the layout {manifest.layout!r}: it is one of {listing(READERS)}."
        )
    return with_splits(READERS[manifest.layout](root, manifest), manifest)


def with_splits(turns: Sequence[Utterance], manifest: Manifest) -> list[Utterance]:
    """The turns with the splits that the manifest's protocol gives them."""
    splits = _assigned(turns, manifest)[0]
    return [replace(turn, split=str(split)) for turn, split in zip(turns, splits, strict=True)]


def of_test_splits(turns: Sequence[Utterance], manifest: Manifest) -> list[Utterance]:
    """Those of the turns that the manifest's protocol tests, in some fold if it has folds."""
    folds = _assigned(turns, manifest)
    seen = {NO_SPLIT, *NEEDED}
    return [turn for turn, *splits in zip(turns, *folds, strict=True) if not seen.issuperset(splits)]


def _assigned(turns: Sequence[Utterance], manifest: Manifest) -> list[Splits]:
    """The split of each turn in every fold; without folds there is one."""
    facts = {
        "speaker": [turn.speaker for turn in turns],
        "session": [turn.session for turn in turns],
        "split": [turn.release_split for turn in turns],
    }
    labelled = [not (math.isnan(turn.activation) or math.isnan(turn.valence)) for turn in turns]
    known = {
        name: values
        for name, values in facts.items()
        if name == "speaker" or any(values) or not any(labelled)
    }
    return manifest.protocol.assign([turn.id for turn in turns], known, labelled, manifest.title)


__all__ = ["READERS", "Reader", "Utterance", "of_test_splits", "read_release", "with_splits"]
