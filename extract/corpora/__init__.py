"""Corpus readers: one file per release layout, each a function (root, manifest) -> list of utterances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ser_memory.common.errors import SerError, listing
from ser_memory.common.manifests import Manifest
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
    """Every turn of a release, in the order of its layout's reader. Raises SerError for a layout without a reader."""
    if manifest.layout not in READERS:
        raise SerError(
            f"The manifest {manifest.name} has the layout {manifest.layout!r}: it is one of {listing(READERS)}."
        )
    return READERS[manifest.layout](root, manifest)


__all__ = ["READERS", "Reader", "Utterance", "read_release"]
