"""IEMOCAP: ratings in a file per dialog, or in one file; recordings and transcriptions in a folder per session."""

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

# Ses01F_impro01_M004: session 1, in which the woman wore the markers; the man speaks, in his turn 4.
_TURN = re.compile(r"Ses(?P<session>\d{2})[FM]_\w+_(?P<letter>[FM])[^\W_]*")
_RATINGS = re.compile(r"\[([^\[\]]*)\]\s*$")
_SPOKEN = re.compile(rf"\s*(?P<turn>{_TURN.pattern})\s*\[[^\]]*\]\s*:?(?P<words>.*)")

_STORED = ("valence", "activation", "dominance")  # not the field's usual order

Ratings = tuple[float, float, float]  # activation, valence, dominance
_UNRATED: Ratings = (math.nan, math.nan, math.nan)


def read(root: Path, manifest: Manifest) -> list[Utterance]:
    """All turns, by dialog and then in the order of the labels; recordings without a rating come last."""
    recordings = by_stem(root, manifest.audio, RECORDINGS)
    spoken = _transcripts(root, manifest)

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
            gender=gender_of(known.get("speaker", "")[-1:]),
            transcript=spoken.get(name),
            session=known.get("session", ""),
        )

    # Sorted, so that both layouts of the labels give the same order; the sort is stable within a dialog.
    rated = sorted(_rated(root, manifest), key=lambda pair: pair[0].rpartition("_")[0])
    labelled = unique(turn(name, ratings) for name, ratings in rated)
    report_near(recordings.near, "recordings")
    orphans = recordings.others(utterance.id for utterance in labelled)
    return labelled + [turn(name, _UNRATED) for name in orphans]


def _facts_in(name: str) -> dict[str, str]:
    match = _TURN.fullmatch(name)
    if match is None:
        return {}
    return {"session": str(int(match["session"])), "speaker": match["session"] + match["letter"]}


def _rated(root: Path, manifest: Manifest) -> Iterator[tuple[str, Ratings]]:
    """Turn and averaged ratings; the lines of single raters name no turn and are skipped."""
    for path in label_files(root, manifest):
        for number, line in enumerate(read_text(path).split("\n"), start=1):
            match = _TURN.search(line)
            if match is None or line.startswith("%"):
                continue
            where = f"{path}, line {number}"
            triple = _RATINGS.search(line, match.end())
            values = triple[1].split(",") if triple else []
            if len(values) != len(_STORED):
                raise SerError(
                    f"{where}: {match[0]} should have [valence, activation, dominance] at its end, "
                    f"not {line.strip()!r}."
                )
            valence, activation, dominance = (
                rating(value.strip(), match[0], f"{where}, {dimension}", manifest)
                for dimension, value in zip(_STORED, values, strict=True)
            )
            yield match[0], (activation, valence, dominance)


def _transcripts(root: Path, manifest: Manifest) -> dict[str, str]:
    spoken: dict[str, str] = {}
    texts = Transcripts(root, manifest)
    for text in texts.all():
        for line in text.split("\n"):
            match = _SPOKEN.fullmatch(line)
            if match:  # lines without a turn are words between turns
                spoken.setdefault(match["turn"], match["words"].strip())
    texts.report()
    return spoken
