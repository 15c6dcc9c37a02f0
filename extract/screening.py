"""Which utterances get a row, and why the others do not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ser_memory.common.cache import REASONS
from ser_memory.common.conventions import UNKNOWN
from ser_memory.common.errors import SerError, listing
from ser_memory.common.manifests import Manifest
from ser_memory.common.protocols import ANY_OTHER, NEEDED, in_natural_order
from ser_memory.common.reporting import Advance, notice
from ser_memory.extract import audio
from ser_memory.extract.corpora import Utterance

# If more than this share lacks a transcript, the command is wrong and not the corpus.
_MOST = 0.5

_NO_HEADER = audio.Header(0.0, True)

Chosen = list[tuple[Utterance, float]]  # in the reader's order, with the seconds of the recording's header


class NoTextsError(SerError):
    """Most utterances that could be used otherwise have no transcript."""


@dataclass
class Screening:
    """Utterances that may get a row, and the ids of the others by reason."""

    kept: Chosen = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unlisted: int = 0  # recordings of which the user's table has no row: only their number is of use
    unsure: set[str] = field(default_factory=set)  # ids of `kept` that may be cut off, which nobody can tell


def screen(
    utterances: list[Utterance],
    min_duration: float,
    max_duration: float,
    advance: Advance = lambda _: None,
    needs_texts: bool = True,
) -> Screening:
    """Decide by the release and by each recording's header; `advance` gets 1 per utterance.

    Durations are in seconds, both ends included. Without `needs_texts` a missing transcript is no reason, such as
    when a transcriber will supply it. Raises NoTextsError if most utterances that could be used otherwise have none.
    """
    result = Screening()
    for utterance in utterances:
        if not utterance.listed:
            result.unlisted += 1
            advance(1)
            continue
        header, reason = _look(utterance, min_duration, max_duration)
        if reason is None and needs_texts and utterance.transcript is None:
            reason = "no transcript"
        if reason is None:
            result.kept.append((utterance, header.seconds))
            if not header.tells_length:
                result.unsure.add(utterance.id)
        else:
            result.dropped[reason].append(utterance.id)
        advance(1)
    silent = len(result.dropped.get("no transcript", []))
    if silent > _MOST * (len(result.kept) + silent):
        raise NoTextsError(
            f"{silent} of {len(result.kept) + silent} otherwise usable utterances have no transcript: "
            "give a file of id and text with --transcripts FILE, or use a transcriber with "
            "--transcriber release,whisper."
        )
    return result


def spread(kept: Chosen, limit: int | None) -> Chosen:
    """`limit` of the utterances, evenly spread over the release so that every split has its share; None means all."""
    if limit is None or limit >= len(kept):
        return kept
    return [kept[i * len(kept) // limit] for i in range(limit)]


def summary(screened: Screening) -> str:
    """`12 too short (such as x), 3 missing (such as y)`, in the order of REASONS."""
    dropped = screened.dropped
    counts = [
        f"{len(dropped[reason])} {reason} (such as {dropped[reason][0]})"
        for reason in REASONS
        if dropped.get(reason)
    ]
    if screened.unlisted:
        counts.append(f"{screened.unlisted} not in the table")
    return ", ".join(counts) or "the release lists none"


def report_doubts(screened: Screening, chosen: Chosen, silent: Sequence[str] = ()) -> None:
    """Report what the reasons do not say: recordings outside the table, of unknown length, and without any sound."""
    if screened.unlisted:
        notice(f"{_recordings(screened.unlisted)} not in the table, and not used.")
    unsure = [utterance.id for utterance, _ in chosen if utterance.id in screened.unsure]
    if unsure:
        notice(
            f"{_recordings(len(unsure))} of a length that the file does not say ({listing(unsure, most=3)}): read to "
            "the end, and whether something was cut off cannot be told."
        )
    if silent:
        notice(
            f"{_recordings(len(silent))} digitally silent after mixing down to mono ({listing(silent, most=3)}): such "
            "a row says nothing about a voice."
        )


def _recordings(count: int) -> str:
    return f"{count} recording is" if count == 1 else f"{count} recordings are"


def report_splits(
    manifest: Manifest, turns: Sequence[Utterance], chosen: Chosen, screened: Screening, trial: bool = False
) -> None:
    """Compare the split protocol with the utterances that it gave a split; of a protocol with folds, with the first.

    Raises SerError, which shows what exists, if a named speaker does not exist, or if a split that training needs is
    empty, unless it is a trial of a few utterances. Everything else without effect is reported.
    """
    protocol, name = manifest.protocol, repr(manifest.protocol.name)
    if protocol.each:
        return  # each split is one of the values that exist
    rule = protocol.folds[0] if protocol.folds else protocol.splits
    seen = {_fact(turn, protocol.by) for turn in turns}
    named = [value for value in rule if value not in (ANY_OTHER, UNKNOWN)]
    exist = listing((repr(value) for value in in_natural_order(seen - {UNKNOWN, ""})), most=40)
    absent = [repr(value) for value in named if value not in seen]
    if absent and protocol.by == "speaker":
        raise SerError(
            f"Protocol {name} of {manifest.title} names the speakers {listing(absent)}, who do not exist. The speakers "
            f"that exist are {exist}: correct the protocol in the manifest."
        )
    filled = {utterance.split for utterance, _ in chosen}
    for split in dict.fromkeys([*rule.values(), *NEEDED]):
        if split in filled:
            continue
        if split not in rule.values():
            notice(f"Protocol {name} has no split {split}, which ser-train needs.")
        elif split not in NEEDED or trial:
            notice(f"No usable utterance falls into the split {split}, which protocol {name} names.")
        else:
            values = [repr(value) for value, where in rule.items() if where == split]
            dropped = f" Not usable: {summary(screened)}." if any(screened.dropped.values()) else ""
            raise SerError(
                f"No usable utterance falls into the split {split}, which training needs. Protocol {name} fills it with "
                f"the {protocol.by} {listing(values)}, and the release has {exist}: correct the protocol in the "
                f"manifest, or choose another with --protocol.{dropped}"
            )
    if protocol.by == "split":
        return  # a manifest names the splits of all releases
    usable = {utterance.speaker for utterance, _ in chosen} if protocol.by == "speaker" else seen
    lost = [value for value in named if value not in usable]
    if lost:
        notice(f"No usable utterance is of the {protocol.by}s {listing(lost)} of protocol {name}.")
    unknown = sum(utterance.speaker == UNKNOWN for utterance, _ in chosen)
    if protocol.by == "speaker" and unknown and UNKNOWN not in rule:
        others = rule[ANY_OTHER]
        notice(f"{unknown} utterances of unknown speakers fall into {others}, as all other speakers.")


def _fact(utterance: Utterance, by: str) -> str:
    return utterance.release_split if by == "split" else str(getattr(utterance, by))


def _look(utterance: Utterance, min_duration: float, max_duration: float) -> tuple[audio.Header, str | None]:
    if utterance.audio is None:
        return _NO_HEADER, "missing"
    if math.isnan(utterance.activation) or math.isnan(utterance.valence):
        return _NO_HEADER, "no label"
    try:
        header = audio.header(utterance.audio)
    except audio.UnusableAudioError as problem:
        return _NO_HEADER, problem.reason
    return header, audio.out_of_bounds(header.seconds, min_duration, max_duration)
