"""Stage 1 on one screen: a release on disk becomes one feature cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from ser_memory.common import __version__
from ser_memory.common.cache import CacheInfo, FeatureCache, Pieces, cache_path, write_cache
from ser_memory.common.conventions import SAMPLING_RATE, UNKNOWN
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.manifests import ANY_OTHER, Manifest
from ser_memory.common.reporting import notice, progress
from ser_memory.extract.corpora import Utterance, read_release
from ser_memory.extract.encoders import AcousticEncoder
from ser_memory.extract.screening import Screening, screen, spread, summary
from ser_memory.extract.shards import Shards, plan_parts
from ser_memory.extract.transcripts.files import read_transcripts, report_unknown_ids, with_transcripts
from ser_memory.extract.transcripts.sources import Sources
from ser_memory.extract.workers import Job, Worker, encode_parts

_GLIMPSE = 4096  # bytes

Chosen = Sequence[tuple[Utterance, float]]  # in the reader's order, with the seconds that the header tells


@dataclass(frozen=True)
class Settings:
    """What the user decides; all of it but the folders determines the cache's content."""

    manifest: Manifest
    root: Path
    cache: Path  # folder
    transcripts: Path | None = None  # a file in place of the release's own
    min_duration: float = 3.0  # seconds
    max_duration: float = 30.0  # seconds
    precision: str = "float32"
    limit: int | None = None
    overwrite: bool = False
    part_seconds: float | None = None  # of audio per part; None goes by the corpus
    sources: Sources | None = None  # of transcripts; None is the release, or the file in its place


def extract_corpus(settings: Settings, load_workers: Callable[[], Sequence[Worker]]) -> FeatureCache:
    """Read, screen, encode and write one corpus; encoders are loaded once the release has proved readable.

    Finished parts of an interrupted extraction with the same settings are taken up, to overwrite a cache too. A
    cache that already has this content is returned as it is unless it is to be overwritten. Raises SerError for
    whatever is the user's to mend, and then leaves an existing cache and all finished parts untouched.
    """
    target = cache_path(settings.cache, settings.manifest.name)
    with _alone(target) as denied:
        turns = read_corpus(settings)
        with progress(f"{settings.manifest.title}: reading headers", len(turns), "recordings") as advance:
            heard_later = settings.sources is not None and settings.sources.engine is not None
            screened = screen(
                turns, settings.min_duration, settings.max_duration, advance, heard_later=heard_later
            )
        chosen = spread(screened.kept, settings.limit)
        if not chosen:
            raise SerError(f"No utterance of {settings.root} can be used: {summary(screened.dropped)}.")
        if len(chosen) == len(screened.kept):
            settings = replace(settings, limit=None)  # no trial
        _note_splits(settings.manifest, chosen)
        workers = load_workers()
        _refuse_beyond_window(settings, workers[0].acoustic)
        turns, chosen = hear_missing(settings, turns, chosen, screened)
        info = _describe(settings, turns, workers[0])
        if _is_there(target, info, settings.overwrite):
            return FeatureCache(target)
        if denied is not None:
            raise denied
        seconds = [header for _, header in chosen]
        shards = Shards(target, info.fingerprint, plan_parts(seconds, settings.part_seconds))
        encode(settings, chosen, shards, workers)
        merge(target, info, chosen, screened, shards)
        shards.clear()
        return FeatureCache(target)


def read_corpus(settings: Settings) -> list[Utterance]:
    """The release's utterances, with the transcripts asked for."""
    turns = read_release(settings.root, settings.manifest)
    if settings.transcripts is not None:
        texts = read_transcripts(settings.transcripts)
        report_unknown_ids(settings.transcripts, texts, turns)
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


def encode(settings: Settings, chosen: Chosen, shards: Shards, workers: Sequence[Worker]) -> None:
    """Encode the parts that are not there yet."""
    pending = shards.pending()
    total = sum(header for _, header in chosen)
    left = sum(chosen[place][1] for part in pending for place in part.places)
    if len(pending) < len(shards.parts):
        notice(
            f"Going on: {len(shards.parts) - len(pending)} of {len(shards.parts)} parts are in {shards.folder}."
        )
    with progress(f"{settings.manifest.title}: encoding", total, "s of audio", done=total - left) as advance:
        job = Job(chosen, settings.min_duration, settings.max_duration)
        encode_parts(job, pending, shards, workers, advance)


def merge(target: Path, info: CacheInfo, chosen: Chosen, screened: Screening, shards: Shards) -> None:
    """All parts into one cache, in the reader's order; memory does not grow with the embeddings."""
    durations = np.full(len(chosen), np.nan, np.float32)
    widths: dict[str, tuple[int, ...]] = {}
    for rows in shards.read_all():
        durations[rows.places] = rows.durations
        for place, reason in rows.refused.items():
            screened.dropped[reason].append(chosen[place][0].id)
        if len(rows.places):
            widths = {"acoustic": rows.acoustic.shape[1:], "text": rows.text.shape[1:]}
    kept = np.flatnonzero(~np.isnan(durations))
    if not len(kept):
        raise SerError(f"No utterance can be used: {summary(screened.dropped)}.")
    row_of = np.full(len(chosen), -1, np.int64)
    row_of[kept] = np.arange(len(kept))
    utterances = [chosen[place][0] for place in kept.tolist()]

    def pieces(name: str) -> Pieces:
        blocks = ((row_of[rows.places], getattr(rows, name)) for rows in shards.read_all())
        return Pieces((len(kept), *widths[name]), blocks)

    names = ("id", "speaker", "gender", "split", "activation", "valence", "dominance")
    columns = {name: [getattr(utterance, name) for utterance in utterances] for name in names}
    transcripts = [utterance.transcript or "" for utterance in utterances]
    dropped = {reason: sorted(ids) for reason, ids in screened.dropped.items() if ids}
    write_cache(
        target,
        replace(info, dropped=dropped),
        {
            **columns,
            "transcript": transcripts,
            "duration": durations[kept],
            "acoustic": pieces("acoustic"),
            "text": pieces("text"),
        },
    )


def fingerprint(info: CacheInfo, settings: Settings, turns: list[Utterance]) -> str:
    """SHA-256 of everything that determines a cache's content.

    Names and folders do not count, revisions do: the same release and models elsewhere are the same content.
    Of a recording, its size and three blocks are looked at.
    """
    aside = {"acoustic_encoder", "text_encoder", "created_by", "fingerprint", "dropped", "transcriber"}
    facts = {key: value for key, value in vars(info).items() if key not in aside}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for turn in turns:
        told = [value for name, value in vars(turn).items() if name != "audio"]
        digest.update(json.dumps(told).encode())
        if turn.audio is not None:
            digest.update(_glimpse(turn.audio))
    return digest.hexdigest()


def _glimpse(path: Path) -> bytes:
    """A recording's size and blocks of its start, middle and end.

    Enough to notice that a corpus was processed in place, and far quicker than reading 150,000 files whole.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        blocks = [str(size).encode()]
        for start in (0, size // 2, max(0, size - _GLIMPSE)):
            file.seek(start)
            blocks.append(file.read(_GLIMPSE))
    return hashlib.sha256(b"".join(blocks)).digest()


def _note_splits(manifest: Manifest, chosen: Chosen) -> None:
    """Say what of the split protocol has no effect: mistyped speakers would go unnoticed until training."""
    protocol = manifest.protocol
    filled = {utterance.split for utterance, _ in chosen}
    for split in dict.fromkeys(protocol.splits.values()):
        if split not in filled:
            notice(
                f"No usable utterance falls into the split {split}, which protocol {manifest.protocol_name!r} names."
            )
    if protocol.by != "speaker":
        return
    speakers = {utterance.speaker for utterance, _ in chosen}
    absent = [speaker for speaker in protocol.splits if speaker not in speakers and speaker != ANY_OTHER]
    if absent:
        notice(
            f"No usable utterance is by the speakers {listing(absent)} of protocol {manifest.protocol_name!r}."
        )
    unknown = sum(utterance.speaker == UNKNOWN for utterance, _ in chosen)
    if unknown and UNKNOWN not in protocol.splits:
        notice(
            f"{unknown} utterances of unknown speakers fall into {protocol.splits[ANY_OTHER]}, as all other speakers."
        )


def _refuse_beyond_window(settings: Settings, acoustic: AcousticEncoder) -> None:
    """Whisper hears 30 s: what is longer would be dropped although it is within the durations asked for."""
    if acoustic.max_samples is None:
        return
    window = acoustic.max_samples / SAMPLING_RATE
    if settings.max_duration > window:
        raise UsageError(
            f"{acoustic.name} hears {window:g} s at most, and --max-duration is {settings.max_duration:g}: give "
            f"--max-duration {window:g}, or an --acoustic-encoder of the wav2vec2 family."
        )


@contextmanager
def _alone(target: Path) -> Iterator[OSError | None]:
    """Keep a second extraction of the same cache out; the system frees the lock of a killed process.

    Where there is a cache already, a folder that cannot be written is no reason to fail yet: yields the reason.
    """
    denied: OSError | None = None
    with ExitStack() as held:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(target.with_name(f".{target.stem}.lock"), timeout=0))
        except Timeout:
            raise SerError(
                f"Another ser-extract is writing {target}: wait for it, or give another --cache."
            ) from None
        except OSError as error:
            if not target.exists():
                raise
            denied = error
        yield denied


def _is_there(target: Path, info: CacheInfo, overwrite: bool) -> bool:
    """Whether the cache has this content; SerError if it has another and may not be overwritten."""
    if overwrite or not target.exists():
        return False
    found = FeatureCache(target).info
    if found.fingerprint == info.fingerprint:
        notice(f"{target} already has this content; nothing to do (--overwrite extracts it again).")
        return True
    aside = {"dropped", "created_by", "fingerprint"}
    differing = [
        name for name, value in vars(info).items() if name not in aside and getattr(found, name) != value
    ]
    raise SerError(
        f"{target} exists and was made from other settings or files (it differs in "
        f"{listing(differing) if differing else 'the release'}): add --overwrite, or give another --cache."
    )


def _describe(settings: Settings, turns: list[Utterance], worker: Worker) -> CacheInfo:
    manifest, acoustic, text = settings.manifest, worker.acoustic, worker.text
    layers = acoustic.layers
    info = CacheInfo(
        corpus=manifest.name,
        release=manifest.release_of(len(turns)),
        scale_min=manifest.scale_min,
        scale_max=manifest.scale_max,
        acoustic_encoder=acoustic.name,
        acoustic_revision=acoustic.revision,
        acoustic_pooling=acoustic.pooling,
        acoustic_layers="last" if layers is None else ",".join(map(str, layers)),
        text_encoder=text.name,
        text_revision=text.revision,
        text_pooling=text.pooling,
        transcriber=_transcriber(settings),
        min_duration=settings.min_duration,
        max_duration=settings.max_duration,
        sampling_rate=SAMPLING_RATE,
        precision=settings.precision,
        created_by=f"ser-memory {__version__}",
        fingerprint="",
        limit=settings.limit or 0,
        dropped={},
    )
    return replace(info, fingerprint=fingerprint(info, settings, turns))


def _transcriber(settings: Settings) -> str:
    file = settings.transcripts.name if settings.transcripts else None
    if settings.sources is not None:
        return settings.sources.description(file)
    return f"file {file}" if file else "release"
