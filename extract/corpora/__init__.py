"""Corpus readers: one file per release layout, each a function (root, manifest) -> list of utterances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from common.manifests import Manifest
from extract.corpora import iemocap, msp_improv, msp_podcast, table
from extract.corpora.utterance import UNKNOWN, Utterance

Reader = Callable[[Path, Manifest], list[Utterance]]

READERS: dict[str, Reader] = {
    "iemocap": iemocap.read,
    "msp-improv": msp_improv.read,
    "msp-podcast": msp_podcast.read,
    "table": table.read,
}

__all__ = ["READERS", "UNKNOWN", "Reader", "Utterance"]
