"""MSP-Podcast: one CSV of labels, one folder of recordings, and since release 1.11 one of transcripts."""

from __future__ import annotations

from pathlib import Path

from ser_memory.common.errors import SerError
from ser_memory.common.manifests import Manifest
from ser_memory.extract.corpora.files import Transcripts, by_stem, label_files, unique
from ser_memory.extract.corpora.names import RECORDINGS, id_of, report_near
from ser_memory.extract.corpora.table import rows, utterance
from ser_memory.extract.corpora.utterance import Utterance

# Splits whose labels the release does not give; some releases fill their columns with 0, X or -.
WITHHELD = frozenset({"Test3"})


def read(root: Path, manifest: Manifest) -> list[Utterance]:
    """All turns in the order of the labels; recordings without a row (such as those of Test3) come last."""
    recordings = by_stem(root, manifest.audio, RECORDINGS)
    texts = Transcripts(root, manifest)
    turns = []
    for path in label_files(root, manifest):
        for row in rows(path, manifest):
            name = id_of(row.cells["file"] or "")
            if not name:
                raise SerError(f"{row.where}: the name of the recording is blank.")
            withheld = row.cells["split"] in WITHHELD
            turns.append(utterance(row, manifest, name, recordings.find(name), texts.find(name), withheld))
    labelled = unique(turns)
    report_near(recordings.near, "recordings")
    texts.report()
    orphans = recordings.others(turn.id for turn in labelled)
    return labelled + [Utterance(name, recordings[name], transcript=texts.find(name)) for name in orphans]
