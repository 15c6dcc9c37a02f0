"""Stage 1 on one screen: a release on disk becomes one feature cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ser_memory.common.cache import FeatureCache, cache_path
from ser_memory.common.errors import SerError
from ser_memory.common.files import remove_abandoned
from ser_memory.common.reporting import notice, progress
from ser_memory.extract import audio
from ser_memory.extract.corpora import Utterance, read_release
from ser_memory.extract.encoding import EncoderPair, Item
from ser_memory.extract.identity import Glimpses, describe, is_made
from ser_memory.extract.merge import merge
from ser_memory.extract.parts import Parts, plan_parts, sole_writer
from ser_memory.extract.screening import (
    Chosen,
    Screening,
    report_doubts,
    report_splits,
    screen,
    spread,
    summary,
)
from ser_memory.extract.settings import Extraction
from ser_memory.extract.transcripts.files import read_transcripts, texts_of, with_transcripts
from ser_memory.extract.workers import Work, encode_parts


def extract_corpus(
    extraction: Extraction, load_encoders: Callable[[], Sequence[EncoderPair]]
) -> FeatureCache:
    """Read, screen, encode and write one corpus; encoders are loaded after the release has proved readable.

    Finished parts of an interrupted extraction with the same settings are used, also to overwrite a cache. A cache
    that already has this content is returned as it is unless it is to be overwritten. Raises SerError for
    everything that the user can repair, and then leaves an existing cache and all finished parts as they are.
    """
    settings = extraction.settings
    target = cache_path(extraction.cache, extraction.manifest.name)
    with sole_writer(target) as denied:
        turns, glimpses, screened = read_corpus(extraction)
        chosen = spread(screened.kept, settings.limit)
        _refuse_nothing(extraction, chosen, screened)
        limit = settings.limit if len(chosen) < len(screened.kept) else None  # a trial, or not
        report_splits(extraction.manifest, turns, chosen, screened, trial=limit is not None)
        pairs = load_encoders()
        pairs[0].acoustic.refuse_beyond_window(settings.max_duration)
        turns, chosen = transcribe_missing(extraction, turns, chosen, screened)
        _refuse_nothing(extraction, chosen, screened)
        identify = partial(describe, extraction, turns, pairs[0].attributes(), limit, glimpses)
        info = identify()
        if not settings.overwrite and is_made(target, info, turns):
            report_doubts(screened, chosen)
            return FeatureCache(target)
        if denied is not None:
            raise denied
        plan = plan_parts([seconds for _, seconds in chosen], extraction.part_seconds)
        parts = Parts(target, info.fingerprint, plan)
        encode_missing(extraction, chosen, parts, pairs, glimpses)
        _refuse_changed(turns, chosen, glimpses)
        utterances = [utterance for utterance, _ in chosen]
        silent = merge(target, info, utterances, screened, parts, without=identify)
        parts.clear()
        report_doubts(screened, chosen, silent)
        return FeatureCache(target)


def _refuse_nothing(extraction: Extraction, chosen: Chosen, screened: Screening) -> None:
    if not chosen:
        raise SerError(f"No utterance of {extraction.root} can be used: {summary(screened)}.")


def _refuse_changed(turns: Sequence[Utterance], chosen: Chosen, glimpses: Glimpses) -> None:
    """Raise SerError if a recording that was not encoded is another now: it may deserve a row."""
    encoded = {utterance.audio for utterance, _ in chosen}
    glimpses.refuse_changed(turn.audio for turn in turns if turn.audio and turn.audio not in encoded)


def read_corpus(extraction: Extraction) -> tuple[list[Utterance], Glimpses, Screening]:
    """All utterances of the release, with the transcripts asked for, and which of them can be used.

    The glimpses at the recordings come first: a file that is replaced later is noticed.
    """
    manifest, settings = extraction.manifest, extraction.settings
    turns = read_release(extraction.root, manifest)
    if settings.transcripts is not None:
        texts = read_transcripts(settings.transcripts)
        turns = with_transcripts(turns, texts_of(settings.transcripts, texts, turns))
    if extraction.sources is not None:
        turns = extraction.sources.settle(turns)
    with progress(f"{manifest.title}: reading headers", len(turns), "recordings") as advance:
        bounds = settings.min_duration, settings.max_duration
        glimpses = Glimpses(turns)
        return turns, glimpses, screen(turns, *bounds, advance, heard_later=extraction.transcribes)


def transcribe_missing(
    extraction: Extraction, turns: list[Utterance], chosen: Chosen, screened: Screening
) -> tuple[list[Utterance], Chosen]:
    """Both lists with the texts of the transcriber, if there is one; utterances that it refuses are dropped."""
    if extraction.sources is None or not extraction.transcribes:
        return turns, chosen
    texts, refused = extraction.sources.fill(chosen)
    screened.dropped["no transcript"] += refused
    heard = {each.id: replace(each, transcript=texts[each.id]) for each, _ in chosen if each.id in texts}
    kept = []
    for each, seconds in chosen:
        if each.transcript is not None or each.id in texts:
            kept.append((heard.get(each.id, each), seconds))
        elif each.id not in refused:  # the engine never had it, because it could not be decoded
            screened.dropped[audio.reason_against(each.audio) or "no transcript"].append(each.id)
    return [heard.get(turn.id, turn) for turn in turns], kept


def encode_missing(
    extraction: Extraction, chosen: Chosen, parts: Parts, pairs: Sequence[EncoderPair], glimpses: Glimpses
) -> None:
    """Encode the parts that do not exist yet."""
    remove_abandoned(parts.folder)
    pending = parts.pending()
    total = sum(seconds for _, seconds in chosen)
    left = sum(chosen[place][1] for part in pending for place in part.places)
    if len(pending) < len(parts.plan):
        done = len(parts.plan) - len(pending)
        notice(f"Continuing: {done} of {len(parts.plan)} parts are in {parts.folder}.")
    items = [Item(each.id, each.audio, each.transcript or "", seconds) for each, seconds in chosen]
    bounds = extraction.settings.min_duration, extraction.settings.max_duration
    work = Work(items, *bounds, glimpses.refuse_changed)
    with progress(
        f"{extraction.manifest.title}: encoding", total, "s of audio", done=total - left
    ) as advance:
        encode_parts(work, pending, parts, pairs, advance)
