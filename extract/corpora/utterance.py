"""What every corpus reader returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ser_memory.common.conventions import NO_SPLIT, UNKNOWN


@dataclass(frozen=True)
class Utterance:
    """One turn of a release; what the release does not say keeps its default.

    Readers list every turn that has a label or a recording and drop none: a missing recording is `audio=None`, a
    missing label NaN, a missing transcript None. One place decides whether that excludes the turn, and counts by
    reason: `ser_memory.extract.screening`.
    """

    id: str  # the recording's file stem
    audio: Path | None
    split: str = NO_SPLIT  # train, validation, test, test2, ...: what the protocol makes of the facts below
    activation: float = math.nan  # in the rating scale, low to high
    valence: float = math.nan  # in the rating scale
    dominance: float = math.nan  # in the rating scale; NaN is allowed
    speaker: str = UNKNOWN
    gender: str = UNKNOWN  # Female, Male or Unknown
    transcript: str | None = None  # "" is a value: nobody speaks
    listed: bool = True  # False: the user's table has no row of this recording
    session: str = ""
    release_split: str = ""  # the release's own name of the split, such as Development
