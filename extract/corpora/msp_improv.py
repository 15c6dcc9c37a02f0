"""MSP-Improv: one file of ratings, a recording per turn, a transcript file for most turns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from ser_memory.common.conventions import UNKNOWN
from ser_memory.common.errors import SerError
from ser_memory.common.manifests import Manifest
from ser_memory.extract.corpora.files import (
    Transcripts,
    by_stem,
    gender_of,
    label_files,
    rating,
    unique,
)
from ser_memory.extract.corpora.names import RECORDINGS, report_near
from ser_memory.extract.corpora.utterance import Utterance
from ser_memory.extract.tables import read_text

# MSP-IMPROV-S01A-F01-P-FM01: sentence and intended emotion, speaker, scenario, genders, turn.
_TURN = re.compile(r"MSP-IMPROV-[^-]+-(?P<speaker>[FM](?P<session>\d+))-[^-]+-[^-]+")
_HEADER = re.compile(r"\s*(?:UTD|MSP)(?P<rest>-IMPROV-[^;\s.]*)(?P<fields>.*)")
_STORED = {"A": "activation", "V": "valence", "D": "dominance"}  # N, naturalness, is not used

Ratings = tuple[float, float, float]  # activation, valence, dominance
_UNRATED: Ratings = (math.nan, math.nan, math.nan)


def read(root: Path, manifest: Manifest) -> list[Utterance]:
    """All turns in the order of the labels; recordings without a rating come last."""
    recordings = by_stem(root, manifest.audio, RECORDINGS)
    texts = Transcripts(root, manifest)

    def turn(name: str, ratings: Ratings) -> Utterance:
        known = _facts_in(name)
        activation, valence, dominance = ratings
        return Utterance(
            id=name,
            audio=recordings.find(name),
            activation=activation,
            valence=valence,
            dominance=dominance,
            speaker=known.get("speaker", UNKNOWN),
            gender=gender_of(known.get("speaker", "")[:1]),
            transcript=texts.find(name),
            session=known.get("session", ""),
        )

    labelled = unique(turn(name, ratings) for name, ratings in _rated(root, manifest))
    report_near(recordings.near, "recordings")
    texts.report()
    orphans = recordings.others(utterance.id for utterance in labelled)
    return labelled + [turn(name, _UNRATED) for name in orphans]


def _facts_in(name: str) -> dict[str, str]:
    match = _TURN.fullmatch(name)
    return {"session": str(int(match["session"])), "speaker": match["speaker"]} if match else {}


def _rated(root: Path, manifest: Manifest) -> Iterator[tuple[str, Ratings]]:
    """Turn and averaged ratings; the lines of single raters below a turn's header are skipped."""
    for path in label_files(root, manifest):
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            header = _HEADER.match(line)
            if header is None:
                continue
            where = f"{path}, line {number}"
            name = "MSP" + header["rest"]  # labels name the video, UTD-...avi
            if not _facts_in(name):
                raise SerError(
                    f"{where}: {name} is not the name of a turn, such as MSP-IMPROV-S01A-F01-P-FM01."
                )
            parts = (part.partition(":") for part in header["fields"].split(";"))
            values = {key.strip(): value for key, colon, value in parts if colon}
            if not {"A", "V"} <= values.keys():
                raise SerError(f"{where}: {name} should have ratings A: and V:, not {line.strip()!r}.")
            stored, valence, dominance = (
                rating(values.get(key, "").strip(), name, f"{where}, {dimension}", manifest)
                for key, dimension in _STORED.items()
            )
            # Stored from high to low: 1 is the most active.
            yield name, (manifest.scale_min + manifest.scale_max - stored, valence, dominance)
