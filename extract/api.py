"""Extraction from Python: what ser-extract does, callable.

from ser_memory.extract.api import extract

cache = extract("iemocap", root="/corpora/IEMOCAP", acoustic_encoder="models/wav2vec2")
cache.read("acoustic")  # (N, 768) float32
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_memory.common import manifests
from ser_memory.common.cache import FeatureCache
from ser_memory.common.cluster import refuse_no_ray
from ser_memory.common.conventions import cache_folder
from ser_memory.common.errors import UsageError, system_errors
from ser_memory.common.options import refuse_unknown
from ser_memory.common.reporting import Reporter, reporting_to
from ser_memory.extract.folders import release_root
from ser_memory.extract.settings import GROUPS, Extraction, ExtractionSettings
from ser_memory.extract.transcripts.sources import RELEASE, Sources

if TYPE_CHECKING:
    from ser_memory.extract.neutral import NeutralText

__all__ = ["extract"]


def extract(
    corpus: str | Path,
    *,
    reporter: Reporter | None = None,
    neutral: NeutralText | None = None,
    **options: Any,
) -> FeatureCache:
    """Extract pooled embeddings of a corpus into a feature cache, once, as the command ser-extract does.

    A cache that already has this content is returned as it is. With `overwrite`, rows of the old cache whose recording,
    transcript and encoders are the same are used again. An extraction that was interrupted continues from its finished
    parts. With `worker`, it shares them with others that do the same. It may run in any thread, also beside an event
    loop; in the main thread, SIGINT and SIGTERM end it in order.

    Args:
        corpus: the name of a corpus, or the path of a manifest (.toml) of your own.
        reporter: where progress and notices go; standard error if None,
            `ser_memory.common.reporting.Silent()` for nowhere.
        neutral: a text row for every utterance, in place of all transcripts. The text encoder is not needed then.
        **options: the options of ser-extract, with underscores in place of dashes (see `ser-extract --help`, or
            `ser_memory.extract.settings`, which declares them).

    Returns:
        The cache: a row per utterance that can be used, and the ids of the others by reason in `info.dropped`.

    Raises:
        UsageError: an option that does not exist, a value that is not allowed, or the name of something that does
            not exist.
        SerError: the release, a model or the disk does not permit it; the message says what to do. An existing
            cache and all finished parts stay as they were.
        InterruptedRunError: SIGINT or SIGTERM; the same call continues.
    """
    refuse_unknown(options, *GROUPS)
    settings = ExtractionSettings.take(options)
    with reporting_to(reporter), system_errors():
        return _run(_prepare(str(corpus), settings, neutral))


def _prepare(corpus: str, settings: ExtractionSettings, neutral: NeutralText | None) -> Extraction:
    """Everything that can be found wrong at once: it needs no torch."""
    if settings.engine == "ray":
        refuse_no_ray()
    manifest = manifests.load(corpus, settings.protocol)
    root, cache = release_root(settings.root, manifest.name), cache_folder(settings.cache)
    if neutral is not None:
        _refuse_texts(settings)
        return Extraction(manifest, root, cache, settings, Sources(cache, manifest.name, ()), neutral=neutral)
    sources = Sources.of(
        settings.transcriber, settings, manifest.name, cache, settings.device, settings.transcripts
    )
    return Extraction(manifest, root, cache, settings, sources)


def _refuse_texts(settings: ExtractionSettings) -> None:
    """Raise UsageError for options about texts, of which there are none."""
    for option, is_given in (
        (f"--transcriber {settings.transcriber}", settings.transcriber != RELEASE),
        (f"--transcripts {settings.transcripts}", settings.transcripts is not None),
        ("--text-only", settings.text_only),
    ):
        if is_given:
            raise UsageError(f"No text is used here, so that {option} would have no effect: leave it out.")


def _run(extraction: Extraction) -> FeatureCache:
    from ser_memory.extract.pipeline import extract_corpus
    from ser_memory.extract.workers import Encoders

    settings, neutral = extraction.settings, extraction.neutral
    # With Ray, this process only identifies the encoders, and needs no GPU.
    here = replace(settings, device="cpu") if settings.engine == "ray" else settings
    return extract_corpus(extraction, Encoders(here, None if neutral is None else neutral.encoder))
