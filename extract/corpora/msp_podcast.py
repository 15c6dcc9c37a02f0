"""MSP-Podcast: one CSV of labels, one folder of recordings, and since release 1.11 one of transcripts."""

from __future__ import annotations

from pathlib import Path, PurePath

from ser_memory.common.errors import SerError
from ser_memory.common.manifests import Manifest
from ser_memory.extract.corpora.files import RECORDINGS, TEXTS, by_stem, label_files, unique
from ser_memory.extract.corpora.table import rows, utterance
from ser_memory.extract.corpora.utterance import Utterance
from ser_memory.extract.tables import read_text


def read(root: Path, manifest: Manifest) -> list[Utterance]:
    """All turns in the order of the labels; recordings without a row (such as those of Test3) come last."""
    recordings = by_stem(root, manifest.audio, RECORDINGS)
    texts = by_stem(root, manifest.transcripts, TEXTS)

    def transcript(name: str) -> str | None:
        return read_text(texts[name]).strip() if name in texts else None

    turns = []
    for path in label_files(root, manifest):
        for row in rows(path, manifest):
            name = PurePath(row.cells["file"] or "").stem
            if not name:
                raise SerError(f"{row.where}: the name of the recording is blank.")
            turns.append(utterance(row, manifest, name, recordings.get(name), transcript(name)))
    labelled = unique(turns)
    orphans = sorted(recordings.keys() - {turn.id for turn in labelled})
    return labelled + [Utterance(name, recordings[name], "", transcript=transcript(name)) for name in orphans]
