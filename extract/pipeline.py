"""Stage 1 on one screen: a release on disk becomes one feature cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from ser_memory.common.cache import CacheInfo, FeatureCache, cache_path
from ser_memory.common.claims import Claims, remove_left
from ser_memory.common.errors import SerError
from ser_memory.common.files import remove_abandoned, remove_partial
from ser_memory.common.reporting import notice, progress
from ser_memory.extract import audio
from ser_memory.extract.corpora import Utterance, of_test_splits, read_release
from ser_memory.extract.identity import Glimpses, describe
from ser_memory.extract.merge import merge
from ser_memory.extract.on_ray import on_ray
from ser_memory.extract.parts import Parts, plan_parts, plan_texts, sole_writer
from ser_memory.extract.reuse import (
    Missing,
    Release,
    base_of,
    existing,
    is_made,
    missing,
    refuse_other_encoders,
    refuse_unasked,
    refuse_unheard,
    silent_of,
    stores_of,
    word_errors_against,
)
from ser_memory.extract.rows import Known, Store
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
from ser_memory.extract.sharing import ALONE, Share, claims_folder, complete_together
from ser_memory.extract.transcripts.files import read_transcripts, texts_of, with_transcripts
from ser_memory.extract.workers import Crew, Encoders, Threads, Work


def extract_corpus(extraction: Extraction, encoders: Encoders) -> FeatureCache:
    """Read, screen, encode and write one corpus; an encoder is loaded if one of its rows is missing.

    Rows of an existing cache and of finished parts are reused, unless the settings ask for fresh ones. A cache that
    already has this content is returned as it is unless it is to be replaced. Raises SerError for everything that the
    user can repair, and then leaves an existing cache and all finished parts as they are.
    """
    settings = extraction.settings
    bounds = settings.min_duration, settings.max_duration
    target = cache_path(extraction.cache, extraction.cache_name)
    with sole_writer(target, several=settings.worker) as denied:
        turns, name, glimpses, screened = read_corpus(extraction)
        chosen = spread(screened.kept, settings.limit)
        _refuse_nothing(extraction, chosen, screened)
        limit = settings.limit if len(chosen) < len(screened.kept) else None  # a trial, or not
        if extraction.condition is None:
            report_splits(extraction.manifest, turns, chosen, screened, trial=limit is not None)
        encoders.acoustic_identity.refuse_beyond_window(settings.max_duration)
        turns, chosen = transcribe_missing(extraction, turns, chosen, screened)
        _refuse_nothing(extraction, chosen, screened)
        release = Release(turns, chosen, glimpses)
        base = base_of(extraction.cache, extraction.manifest.name, settings)
        compared = word_errors_against(base, chosen) if base and settings.text_only else {}
        determining = encoders.attributes()
        if extraction.condition is not None and base is not None:
            refuse_other_encoders(base, determining)
        if extraction.condition is not None:
            determining["condition"] = str(extraction.condition)
        identify = partial(
            describe, extraction, turns, determining, limit, glimpses, compared=compared, release=name
        )
        info, old = identify(), existing(target, settings.replaces)
        parts = Parts(target, determining, bounds, settings.fresh)
        if old is not None and (not settings.replaces or (settings.worker and _has(old, info))):
            if is_made(old, info, release):
                report_doubts(screened, chosen, silent_of(old))
                return old
            stores = stores_of((old, base), info, release, trusted=True)
            known = Known([*_neutral(extraction), *stores, *parts.stores()])
            refuse_unasked(old, info, release, missing(release, known, *bounds))
        if denied is not None:
            raise denied
        stores = stores_of((None if settings.fresh else old, base), info, release)
        if base is not None and settings.text_only:
            refuse_unheard(base, missing(release, Known(stores), *bounds))
        compute = partial(compute_missing, extraction, release, stores, parts, encoders)

        def write(known: Known) -> list[str]:
            utterances = [utterance for utterance, _ in chosen]
            return merge(target, info, utterances, release.recordings, screened, known, without=identify)

        if settings.worker:
            silent = _together(extraction, target, info, parts, release, compute, write)
        else:
            busy = SerError(f"Workers make {target}: wait for them, or give another --cache.")
            remove_left(claims_folder(target), busy)
            remove_abandoned(parts.folder)
            silent = write(compute())
            _clean(target, parts, release)
        report_doubts(screened, chosen, silent)
        return FeatureCache(target)


def _together(
    extraction: Extraction,
    target: Path,
    info: CacheInfo,
    parts: Parts,
    release: Release,
    compute: Callable[..., Known],
    write: Callable[[Known], object],
) -> list[str]:
    """Make a cache with other workers; returns the ids of silent recordings."""
    bounds = info.min_duration, info.max_duration

    def complete(known: Known) -> None:
        todo = missing(release, known, *bounds)  # such as the rows of a part that was damaged since
        write(compute() if todo.items or todo.texts else known)

    work = json.dumps([asdict(info), extraction.part_seconds], sort_keys=True, default=str)
    claims = Claims(claims_folder(target), extraction.settings.claim_timeout)
    if complete_together(claims, work, parts, partial(_is_there, target, info), compute, complete):
        _clean(target, parts, release)
        claims.remove()
    if not claims.wait_for(target.exists):
        raise SerError(
            f"{target} was made and then removed, and what its workers noted in {claims.folder} was not: run the same "
            "command again."
        )
    return silent_of(FeatureCache(target))


def _is_there(target: Path, info: CacheInfo) -> bool:
    cache = existing(target, replaces=True)
    return cache is not None and _has(cache, info)


def _has(cache: FeatureCache, info: CacheInfo) -> bool:
    return cache.info.fingerprint == info.fingerprint


def _clean(target: Path, parts: Parts, release: Release) -> None:
    """Remove what is beside a cache that is made; nobody else may make it."""
    parts.clear(release.recordings)
    remove_partial(target)


def _refuse_nothing(extraction: Extraction, chosen: Chosen, screened: Screening) -> None:
    if not chosen:
        raise SerError(f"No utterance of {extraction.root} can be used: {summary(screened)}.")


def read_corpus(extraction: Extraction) -> tuple[list[Utterance], str, Glimpses, Screening]:
    """All utterances of the release, with the transcripts asked for, its name, and which of them can be used.

    With a condition, only those that are tested. The glimpses at the recordings come first: a file that is replaced
    later is noticed.
    """
    manifest, settings = extraction.manifest, extraction.settings
    turns = read_release(extraction.root, manifest)
    if settings.transcripts is not None:
        texts = read_transcripts(settings.transcripts)
        turns = with_transcripts(turns, texts_of(settings.transcripts, texts, turns))
    if extraction.sources is not None:
        turns = extraction.sources.settle(turns)
    release = manifest.release_of(len(turns))
    if extraction.condition is not None:
        turns = of_test_splits(turns, manifest)
        if not turns:
            raise SerError(
                f"Protocol {manifest.protocol.name!r} of {manifest.title} tests no utterance, and --condition is for "
                "test splits: choose another --protocol."
            )
    with progress(f"{manifest.title}: reading headers", len(turns), "recordings") as advance:
        bounds = settings.min_duration, settings.max_duration
        glimpses = Glimpses(turns)
        return turns, release, glimpses, screen(turns, *bounds, advance, extraction.needs_texts)


def transcribe_missing(
    extraction: Extraction, turns: list[Utterance], chosen: Chosen, screened: Screening
) -> tuple[list[Utterance], Chosen]:
    """Both lists with the texts of the transcriber, if there is one; utterances that it refuses are dropped."""
    if extraction.sources is None or not extraction.transcribes:
        return turns, chosen
    texts, refused = extraction.sources.fill(chosen, only_stored=extraction.settings.worker)
    screened.dropped["no transcript"] += refused
    heard = {each.id: replace(each, transcript=texts[each.id]) for each, _ in chosen if each.id in texts}
    kept = []
    for each, seconds in chosen:
        if each.transcript is not None or each.id in texts:
            kept.append((heard.get(each.id, each), seconds))
        elif each.id not in refused:  # the engine never had it, because it could not be decoded
            screened.dropped[audio.reason_against(each.audio) or "no transcript"].append(each.id)
    return [heard.get(turn.id, turn) for turn in turns], kept


def compute_missing(
    extraction: Extraction,
    release: Release,
    stores: Sequence[Store],
    parts: Parts,
    encoders: Encoders,
    share: Share = ALONE,
) -> Known:
    """Compute the rows that neither these stores nor finished parts have, recordings first; returns all rows.

    With others to share the work with, it ends once all rows are there.
    """
    bounds = extraction.settings.min_duration, extraction.settings.max_duration
    found = parts.stores()
    has_rows = bool(stores or parts.count())
    stores = [*_neutral(extraction), *stores]
    known = Known([*stores, *found])
    todo = missing(release, Known([*stores, *share.agreed(found, heard=False)]), *bounds)
    if parts.count():
        notice(f"Continuing: {parts.count()} finished parts are in {parts.folder}.")
    if has_rows:
        notice(str(todo if share is ALONE else missing(release, known, *bounds)))
    title = f"{extraction.manifest.title}: encoding"
    with _crew(extraction, release, encoders, todo, share) as crew:
        if todo.items:
            parts.expect(len(todo.items))
            seconds = [item.seconds for item in todo.items]
            total = sum(seconds for _, seconds in release.chosen)
            work = Work(todo.items, *bounds, extraction.condition, release.glimpses.refuse_changed)
            planned = plan_parts(seconds, extraction.part_seconds)
            plan = share.plan(planned, [item.recording for item in todo.items], known.has_heard)
            with progress(title, total, "s of audio", done=total - sum(seconds)) as advance:
                crew.encode_recordings(work, plan, parts, advance)
        if todo.texts:
            found = parts.stores()
            known = Known([*stores, *found])
            # Without those of recordings that were refused.
            texts = missing(release, Known([*stores, *share.agreed(found, heard=True)]), *bounds).texts
            parts.expect(len(texts))
            plan = share.plan(plan_texts(len(texts)), [each.text for each in texts], known.has_read)
            with progress(f"{title} transcripts", len(texts), "transcripts") as advance:
                crew.encode_transcripts(texts, plan, parts, advance)
    encoded = {item.audio for item in todo.items}
    # A recording that was not encoded and is another now may deserve a row.
    release.glimpses.refuse_changed(
        turn.audio for turn in release.turns if turn.audio and turn.audio not in encoded
    )
    return Known([*stores, *parts.stores()]) if encoded or todo.texts else known


def _neutral(extraction: Extraction) -> list[Store]:
    """The row in place of all texts, if there is one; it comes before all others, which may be of real texts."""
    return [] if extraction.neutral is None else [extraction.neutral.store]


@contextmanager
def _crew(
    extraction: Extraction, release: Release, encoders: Encoders, todo: Missing, share: Share
) -> Iterator[Crew]:
    """Who encodes. Both encoders are loaded before the work, so that the second one cannot fail after hours."""
    needed = bool(todo.items), bool(todo.texts)
    if extraction.settings.engine == "ray" and any(needed):
        recordings = [turn.audio for turn in release.turns if turn.audio is not None]
        with on_ray(extraction, encoders, needed, recordings) as crew:
            yield crew
    else:
        yield Threads(encoders.acoustic() if needed[0] else [], encoders.text() if needed[1] else [], share)
