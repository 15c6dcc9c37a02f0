"""Stage 1 on one screen: a release on disk becomes one feature cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from common import __version__
from common.cache import CacheInfo, FeatureCache, cache_path, write_cache
from common.console import notice, progress
from common.errors import SerError, listing
from common.manifests import Manifest
from extract import audio
from extract.audio import SAMPLING_RATE, Waveform
from extract.corpora import Utterance, read_release
from extract.encoders import Rows
from extract.screening import Screening, out_of_bounds, screen, spread, summary
from extract.transcripts.files import read_transcripts, tell_of_strangers, with_transcripts
from extract.transcripts.sources import Sources

# Audio in a batch. Padding buys a CPU nothing, so this only has to hide what a call costs.
BATCH_SECONDS = 60.0


class Acoustic(Protocol):
    """What the pipeline asks of an acoustic encoder."""

    name: str
    revision: str
    pooling: str

    @property
    def min_samples(self) -> int: ...
    def encode(self, waveforms: list[Waveform]) -> Rows: ...


class Text(Protocol):
    """What the pipeline asks of a text encoder."""

    name: str
    revision: str
    pooling: str

    def encode(self, texts: list[str]) -> Rows: ...


@dataclass(frozen=True)
class Settings:
    """What the user decides; all of it but the folders determines the cache's content."""

    manifest: Manifest
    root: Path
    cache: Path  # folder
    transcripts: Path | None = None  # a file in place of the release's own
    min_duration: float = 3.0  # seconds
    max_duration: float = 30.0  # seconds
    limit: int | None = None
    overwrite: bool = False
    sources: Sources | None = None  # of transcripts; None is the release, or the file in its place


@dataclass
class Embedded:
    """Rows of the utterances that could be encoded, by their place in the reader's order."""

    durations: dict[int, float] = field(default_factory=dict)
    acoustic: dict[int, Rows] = field(default_factory=dict)
    text: dict[int, Rows] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)  # place -> reason


def extract_corpus(settings: Settings, load_encoders: Callable[[], tuple[Acoustic, Text]]) -> FeatureCache:
    """Read, screen, encode and write one corpus; encoders are loaded once the release has proved readable.

    A cache that already has this content is returned as it is. Raises SerError for whatever is the user's
    to mend, and then leaves an existing cache untouched.
    """
    turns = read_corpus(settings)
    with progress(f"{settings.manifest.title}: reading headers", len(turns), "recordings") as advance:
        later = settings.sources is not None and settings.sources.engine is not None
        screened = screen(turns, settings.min_duration, settings.max_duration, advance, heard_later=later)
    chosen = spread(screened.kept, settings.limit)
    if not chosen:
        raise SerError(f"No utterance of {settings.root} can be used: {summary(screened.dropped)}.")
    acoustic, text = load_encoders()
    turns, chosen = hear_missing(settings, turns, chosen, screened)
    info = _describe(settings, turns, acoustic, text)
    target = cache_path(settings.cache, settings.manifest.name)
    existing = _existing(target, info, settings.overwrite)
    if existing is not None:
        return existing

    utterances = [utterance for utterance, _ in chosen]
    embedded = embed(chosen, acoustic, text, settings)
    for place, reason in embedded.refused.items():
        screened.dropped[reason].append(utterances[place].id)
    places = sorted(embedded.durations)
    if not places:
        raise SerError(f"No utterance of {settings.root} can be used: {summary(screened.dropped)}.")
    rows = [utterances[place] for place in places]
    info.dropped.update({reason: sorted(ids) for reason, ids in screened.dropped.items() if ids})
    write_cache(
        target,
        info,
        {
            **{name: [getattr(row, name) for row in rows] for name in ("id", "speaker", "gender", "split")},
            **{name: [getattr(row, name) for row in rows] for name in ("activation", "valence", "dominance")},
            "transcript": [row.transcript or "" for row in rows],
            "duration": [embedded.durations[place] for place in places],
            "acoustic": np.stack([embedded.acoustic[place] for place in places]),
            "text": np.stack([embedded.text[place] for place in places]),
        },
    )
    return FeatureCache(target)


def read_corpus(settings: Settings) -> list[Utterance]:
    """The release's utterances, with the transcripts asked for."""
    turns = read_release(settings.root, settings.manifest)
    if settings.transcripts is not None:
        texts = read_transcripts(settings.transcripts)
        tell_of_strangers(settings.transcripts, texts, turns)
        turns = with_transcripts(turns, texts)
    return turns if settings.sources is None else settings.sources.settle(turns)


def hear_missing(
    settings: Settings, turns: list[Utterance], chosen: list[tuple[Utterance, float]], screened: Screening
) -> tuple[list[Utterance], list[tuple[Utterance, float]]]:
    """Both lists with the texts that the transcriber heard, where one was asked for; whom it refused is dropped."""
    if settings.sources is None or settings.sources.engine is None:
        return turns, chosen
    texts, refused = settings.sources.fill(chosen)
    screened.dropped["no transcript"] += refused
    heard = {each.id: replace(each, transcript=texts[each.id]) for each, _ in chosen if each.id in texts}
    kept = [(heard.get(each.id, each), seconds) for each, seconds in chosen if each.id not in refused]
    return [heard.get(turn.id, turn) for turn in turns], kept


def embed(
    chosen: list[tuple[Utterance, float]], acoustic: Acoustic, text: Text, settings: Settings
) -> Embedded:
    """Encode audio and transcripts in one pass, in batches of similar length."""
    result = Embedded()
    total = sum(seconds for _, seconds in chosen)
    with progress(f"{settings.manifest.title}: encoding", total, "s of audio") as advance:
        for batch in batches([seconds for _, seconds in chosen], BATCH_SECONDS):
            waveforms: dict[int, Waveform] = {}
            for place in batch:
                try:
                    waveforms[place] = _waveform(chosen[place][0], acoustic, settings)
                except audio.UnusableAudioError as problem:
                    result.refused[place] = problem.reason
            if waveforms:
                places = list(waveforms)
                texts = [chosen[place][0].transcript or "" for place in places]
                acoustic_rows, text_rows = acoustic.encode(list(waveforms.values())), text.encode(texts)
                for row, place in enumerate(places):
                    result.durations[place] = len(waveforms[place]) / SAMPLING_RATE
                    result.acoustic[place] = acoustic_rows[row]
                    result.text[place] = text_rows[row]
            advance(sum(chosen[place][1] for place in batch))
    return result


def batches(seconds: list[float], budget: float) -> Iterator[list[int]]:
    """Places of utterances in batches of similar length, longest first, each within `budget` seconds padded.

    The longest come first so that what does not fit into memory fails at once and not at dawn.
    """
    batch: list[int] = []
    for place in sorted(range(len(seconds)), key=lambda i: (-seconds[i], i)):
        if batch and (len(batch) + 1) * seconds[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _waveform(utterance: Utterance, acoustic: Acoustic, settings: Settings) -> Waveform:
    """Decode, and judge by what was decoded: a header may claim another length."""
    assert utterance.audio is not None  # screening kept no other
    waveform = audio.load(utterance.audio)
    if len(waveform) < acoustic.min_samples:
        raise audio.UnusableAudioError("too short")
    reason = out_of_bounds(len(waveform) / SAMPLING_RATE, settings.min_duration, settings.max_duration)
    if reason is not None:
        raise audio.UnusableAudioError(reason)
    return waveform


def _existing(target: Path, info: CacheInfo, overwrite: bool) -> FeatureCache | None:
    if overwrite or not target.exists():
        return None
    cache = FeatureCache(target)
    if cache.info.fingerprint == info.fingerprint:
        notice(f"{target} already has this content; nothing to do (--overwrite extracts it again).")
        return cache
    differing = [
        name
        for name, value in vars(info).items()
        if name not in {"dropped", "created_by", "fingerprint"} and getattr(cache.info, name) != value
    ]
    raise SerError(
        f"{target} exists and was made from other settings or files (it differs in "
        f"{listing(differing) if differing else 'the release'}): add --overwrite, or give another --cache."
    )


def _describe(settings: Settings, turns: list[Utterance], acoustic: Acoustic, text: Text) -> CacheInfo:
    manifest = settings.manifest
    info = CacheInfo(
        corpus=manifest.name,
        release=manifest.release_of(len(turns)),
        scale_min=manifest.scale_min,
        scale_max=manifest.scale_max,
        acoustic_encoder=acoustic.name,
        acoustic_revision=acoustic.revision,
        acoustic_pooling=acoustic.pooling,
        text_encoder=text.name,
        text_revision=text.revision,
        text_pooling=text.pooling,
        transcriber=_transcriber(settings),
        min_duration=settings.min_duration,
        max_duration=settings.max_duration,
        sampling_rate=SAMPLING_RATE,
        created_by=f"ser-memory {__version__}",
        fingerprint="",
        dropped={},
    )
    return CacheInfo(**{**vars(info), "fingerprint": fingerprint(info, settings, turns)})


def _transcriber(settings: Settings) -> str:
    file = settings.transcripts.name if settings.transcripts else None
    if settings.sources is not None:
        return settings.sources.description(file)
    return f"file {file}" if file else "release"


def fingerprint(info: CacheInfo, settings: Settings, turns: list[Utterance]) -> str:
    """SHA-256 of everything that determines a cache's content.

    Names and folders do not count, revisions do: the same release and models elsewhere are the same content.
    """
    aside = {"acoustic_encoder", "text_encoder", "created_by", "fingerprint", "dropped", "transcriber"}
    facts = {key: value for key, value in vars(info).items() if key not in aside}
    digest = hashlib.sha256(json.dumps([facts, settings.limit], sort_keys=True).encode())
    for turn in turns:
        size = turn.audio.stat().st_size if turn.audio else None
        told = [value for name, value in vars(turn).items() if name != "audio"]
        digest.update(json.dumps([*told, size]).encode())
    return digest.hexdigest()
