"""What ser-transcribe does with a corpus, as functions: transcribe it, read its transcripts, degrade them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.manifests import Manifest
from ser_memory.common.reporting import progress
from ser_memory.extract.corpora import read_release
from ser_memory.extract.settings import UtteranceSettings
from ser_memory.extract.transcripts.quality.comparison import CorpusTranscripts
from ser_memory.extract.transcripts.quality.degrade import degrade
from ser_memory.extract.transcripts.quality.flags import REPETITION, is_repetitive
from ser_memory.extract.transcripts.quality.word_error_rate import WordErrors, total, word_errors
from ser_memory.extract.transcripts.sources import RELEASE, Sources
from ser_memory.extract.transcripts.store import (
    Transcript,
    read_store,
    store_path,
    stored_transcribers,
    write_store,
)


@dataclass(frozen=True)
class Counts:
    """The usable utterances of a corpus, by where their transcripts come from."""

    usable: int
    stored: int  # had a text before
    transcribed: int  # have a text of the engine, of this run or an earlier one
    empty: int  # of those transcribed
    refused: int  # by the engine

    @property
    def undecodable(self) -> int:
        """Utterances whose recordings cannot be decoded."""
        return self.usable - self.stored - self.transcribed - self.refused


def transcribe_corpus(
    manifest: Manifest,
    root: Path,
    sources: Sources,
    settings: UtteranceSettings,
) -> Counts:
    """Transcribe the utterances that ser-extract can use and that have no text, and write them to the store.

    Raises UsageError if `sources` has no engine, and SerError if no utterance is usable or as `Sources.fill` does.
    """
    from ser_memory.extract.screening import screen, spread, summary

    if sources.engine is None:
        raise UsageError(
            f"{listing(sources.stored)}: this list has no engine. Put whisper, faster-whisper or azure last."
        )
    utterances = sources.settle(read_release(root, manifest))
    with progress(f"{manifest.title}: reading headers", len(utterances), "recordings") as advance:
        bounds = settings.min_duration, settings.max_duration
        screened = screen(utterances, *bounds, advance, needs_texts=False)
    chosen = spread(screened.kept, settings.limit)
    if not chosen:
        raise SerError(f"No utterance of {root} can be used: {summary(screened)}.")
    texts, refused = sources.fill(chosen)
    stored = sum(utterance.transcript is not None for utterance, _ in chosen)
    empty = sum(not text for text in texts.values())
    return Counts(len(chosen), stored, len(texts), empty, len(refused))


def corpus_transcripts(manifest: Manifest, root: Path, cache: Path, name: str) -> CorpusTranscripts:
    """The transcripts of a corpus by `name`: `release`, or a transcriber with a store in the folder `cache`.

    Raises UsageError if there is no such store, and SerError if the store or the release cannot be read.
    """
    utterances = read_release(root, manifest)
    splits = {utterance.id: utterance.split for utterance in utterances}
    if name == RELEASE:
        texts = {each.id: each.transcript for each in utterances if each.transcript is not None}
        loops = [each for each, text in texts.items() if is_repetitive(text)]
        return CorpusTranscripts(texts, splits, dict.fromkeys(loops, (REPETITION,)))
    stores = stored_transcribers(cache, manifest.name)
    if name not in stores:
        raise UsageError(
            f"There are no transcripts of {manifest.name} by {name!r} in {cache}: it has those of "
            f"{listing([RELEASE, *stores])}."
        )
    records = read_store(store_path(cache, manifest.name, name)).values()
    return CorpusTranscripts(
        {record.id: record.text for record in records},
        splits,
        {record.id: record.flags for record in records if record.flags},
    )


def write_degraded(
    texts: Mapping[str, Mapping[str, str]], cache: Path, name: str, rates: Sequence[float], seed: int = 0
) -> list[tuple[Path, int, WordErrors]]:
    """Write a store <name>-wer<rate> for each corpus and rate, or none if `degrade` raises an error for one.

    `texts` is corpus -> id -> text, by the transcriber `name`. Returns for each store its path, its number of texts,
    and their word errors against the originals.
    """
    made = {(corpus, rate): degrade(texts[corpus], rate, seed) for corpus in texts for rate in rates}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    blank = Transcript("", "", None, None, "degraded", "", 0.0, now, "made")
    written = []
    for (corpus, rate), wrong in made.items():
        version = f"{name}, word error rate {rate:g}, seed {seed}"
        path = store_path(cache, corpus, f"{name}-wer{rate:g}")
        write_store(
            path, (replace(blank, id=each, text=text, version=version) for each, text in wrong.items())
        )
        written.append((path, len(wrong), total(word_errors(texts[corpus], wrong))))
    return written
