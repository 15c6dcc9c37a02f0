"""Which utterances get a row, and for what reason the others do not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from ser_memory.common.cache import REASONS
from ser_memory.common.errors import SerError
from ser_memory.extract import audio
from ser_memory.extract.corpora import Utterance

_MOST = (
    0.5  # a share beyond which missing transcripts are a mistake in the command, not a trait of the corpus
)


@dataclass
class Screening:
    """Utterances that may have a row, with their header's duration, and the ids of the others by reason."""

    kept: list[tuple[Utterance, float]] = field(default_factory=list)  # utterance, seconds
    dropped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def screen(
    utterances: list[Utterance],
    min_duration: float,
    max_duration: float,
    advance: Callable[[float], None] = lambda _: None,
    heard_later: bool = False,
) -> Screening:
    """Decide by what the release tells and by each recording's header; `advance` is told of each one done.

    Durations are in seconds, both ends included. A missing transcript is no reason when a transcriber hears
    the recording later. Raises SerError when most utterances that could be used have no transcript.
    """
    result = Screening()
    for utterance in utterances:
        seconds, reason = _look(utterance, min_duration, max_duration)
        if reason is None and utterance.transcript is None and not heard_later:
            reason = "no transcript"
        if reason is None:
            result.kept.append((utterance, seconds))
        else:
            result.dropped[reason].append(utterance.id)
        advance(1)
    silent = len(result.dropped.get("no transcript", []))
    if silent > _MOST * (len(result.kept) + silent):
        raise SerError(
            f"{silent} of {len(result.kept) + silent} otherwise usable utterances have no transcript: "
            "give a file of id and text with --transcripts FILE, or have them heard with "
            "--transcriber release,whisper."
        )
    return result


def out_of_bounds(seconds: float, min_duration: float, max_duration: float) -> str | None:
    """The reason a duration is refused for, or None."""
    if seconds < min_duration:
        return "too short"
    return "too long" if seconds > max_duration else None


def spread(kept: list[tuple[Utterance, float]], limit: int | None) -> list[tuple[Utterance, float]]:
    """`limit` of them, evenly spread over the release so that every split has its share."""
    if limit is None or limit >= len(kept):
        return kept
    return [kept[i * len(kept) // limit] for i in range(limit)]


def summary(dropped: dict[str, list[str]]) -> str:
    """`12 too short (such as x), 3 missing (such as y)`, in the order of REASONS."""
    counts = [
        f"{len(dropped[reason])} {reason} (such as {dropped[reason][0]})"
        for reason in REASONS
        if dropped.get(reason)
    ]
    return ", ".join(counts) or "the release lists none"


def _look(utterance: Utterance, min_duration: float, max_duration: float) -> tuple[float, str | None]:
    if utterance.audio is None:
        return 0.0, "missing"
    if math.isnan(utterance.activation) or math.isnan(utterance.valence):
        return 0.0, "no label"
    try:
        seconds = audio.duration(utterance.audio)
    except audio.UnusableAudioError as problem:
        return 0.0, problem.reason
    return seconds, out_of_bounds(seconds, min_duration, max_duration)
