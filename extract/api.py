"""ser-extract from Python: `extract("iemocap", root="/corpora/IEMOCAP")`."""

from __future__ import annotations

import os
from pathlib import Path

from ser_memory.common import manifests
from ser_memory.common.cache import FeatureCache
from ser_memory.common.errors import UsageError
from ser_memory.common.options import names_of
from ser_memory.common.reporting import Reporter, reporting_to
from ser_memory.extract.options import cache_folder, release_root
from ser_memory.extract.settings import Extraction, ExtractionSettings, TranscriptionSettings
from ser_memory.extract.transcripts.options import sources_of

_Default = ExtractionSettings  # its class attributes are the defaults


def extract(
    corpus: str | Path,
    *,
    root: str | Path | None = _Default.root,
    protocol: str | None = _Default.protocol,
    transcripts: str | Path | None = _Default.transcripts,
    transcriber: str = _Default.transcriber,
    whisper_model: str | Path = _Default.whisper_model,
    language: str | None = _Default.language,
    concurrency: int = _Default.concurrency,
    retry_for: float = _Default.retry_for,
    price_per_hour: float | None = _Default.price_per_hour,
    max_cost: float | None = _Default.max_cost,
    yes: bool = _Default.yes,
    acoustic_encoder: str | Path = _Default.acoustic_encoder,
    text_encoder: str | Path = _Default.text_encoder,
    layers: str = _Default.layers,
    pooling: str | None = _Default.pooling,
    precision: str = _Default.precision,
    device: str = _Default.device,
    workers: int | None = _Default.workers,
    min_duration: float = _Default.min_duration,
    max_duration: float = _Default.max_duration,
    limit: int | None = _Default.limit,
    cache: str | Path | None = _Default.cache,
    overwrite: bool = _Default.overwrite,
    reporter: Reporter | None = None,
) -> FeatureCache:
    """Extract pooled embeddings of a corpus into a feature cache, once, and return it.

        from ser_memory.extract.api import extract
        cache = extract("iemocap", root="/corpora/IEMOCAP", acoustic_encoder="models/wav2vec2")
        cache.read("acoustic")  # (N, 768) float32

    A cache that already has this content is returned as it is. An extraction that was interrupted continues from
    its finished parts. It may run in any thread, also beside an event loop; in the main thread, SIGINT and SIGTERM
    end it in order.

    Args:
        corpus: Name of a corpus, or the path of a manifest (.toml) of your own.
        root: Folder of the release. None: $SER_DATA/<corpus>, else data/<corpus>.
        protocol: Split protocol of the manifest. None: the manifest's first choice.
        transcripts: CSV, TSV or JSON Lines of id and text, in place of the release's own transcripts.
        transcriber: Where transcripts come from: release, whisper, faster-whisper, azure, the name of a store in the
            cache, or a list such as "release,whisper": each name provides the texts that the names before it lack.
        whisper_model: Hugging Face name or local folder; for faster-whisper a size or a converted model's folder.
        language: Spoken language, such as "en"; for Azure with the region, "en-US". None: the engine detects it.
        concurrency: Azure: number of simultaneous requests, 1 to 64.
        retry_for: Azure: stop after this many seconds without an answer, 0 or more.
        price_per_hour: Azure: your price for an hour of audio, 0 or more. None: $SER_PRICE_PER_HOUR.
        max_cost: Azure: do not start if the estimate is higher; 0 or more, in the currency of the price.
        yes: Azure: agree to the cost without a question.
        acoustic_encoder: Hugging Face name or local folder of a wav2vec2-family or Whisper model, or "log-mel".
        text_encoder: Hugging Face name or local folder of a BERT-class model.
        layers: Hidden states to keep: "last", "all", or numbers in rising order such as "7,9,11"; 0 is the input of
            the first layer.
        pooling: Over time, "mean" or "mean+std". None: mean, and mean+std for log-mel.
        precision: "float32", or "bfloat16", which is faster on a GPU and not exact.
        device: "auto", "cpu", "mps", "cuda", or several cards such as "cuda:0,cuda:1".
        workers: Encoders that run at the same time on a CPU, 1 or more. None: one per core.
        min_duration: Shorter utterances are left out; seconds, 0 or more.
        max_duration: Longer utterances are left out; seconds, `min_duration` or more.
        limit: Only this many utterances, 1 or more, spread over the release, for a trial. None: all.
        cache: Folder of the caches; the file is <cache>/<corpus>.h5. None: $SER_CACHE, else ./cache.
        overwrite: Replace an existing cache. Finished parts of the same settings are used.
        reporter: Where progress and notices go. None: the choice of the caller's context, else standard error.

    Returns:
        The cache: a row per utterance that can be used, and the ids of the others by reason in `info.dropped`.

    Raises:
        UsageError: An option has a value that is not allowed, or names something that does not exist.
        SerError: The release, a model or the disk does not permit it; the message says what to do. An existing
            cache and all finished parts stay as they were.
        InterruptedRunError: SIGINT or SIGTERM; the same call continues.
        OSError: The folder of the cache cannot be written.
    """
    settings = ExtractionSettings(
        root=_path(root), protocol=protocol, transcripts=_path(transcripts), transcriber=transcriber,
        whisper_model=str(whisper_model), language=language, concurrency=concurrency, retry_for=retry_for,
        price_per_hour=_price(price_per_hour), max_cost=max_cost, yes=yes, acoustic_encoder=str(acoustic_encoder),
        text_encoder=str(text_encoder), layers=layers, pooling=pooling, precision=precision, device=device,
        workers=workers, min_duration=min_duration, max_duration=max_duration, limit=limit, cache=_path(cache),
        overwrite=overwrite,
    )  # fmt: skip
    with reporting_to(reporter):
        return _run(_prepare(str(corpus), settings))


def _prepare(corpus: str, settings: ExtractionSettings) -> Extraction:
    """Everything that can be found wrong at once: it needs no torch."""
    manifest = manifests.load(corpus, settings.protocol)
    root, cache = release_root(settings.root, manifest.name), cache_folder(settings.cache)
    engine = {name: getattr(settings, name) for name in names_of(TranscriptionSettings)}
    sources = sources_of(manifest.name, cache, settings.device, settings.transcripts, **engine)
    return Extraction(manifest, root, cache, settings, sources)


def _run(extraction: Extraction) -> FeatureCache:
    from ser_memory.common.machine import resolve_devices
    from ser_memory.extract.encoders import EncoderOptions, load_acoustic, load_text
    from ser_memory.extract.encoding import EncoderPair
    from ser_memory.extract.pipeline import extract_corpus
    from ser_memory.extract.workers import per_core

    settings = extraction.settings
    devices = resolve_devices(settings.device)
    options = EncoderOptions(settings.layers, settings.pooling, settings.precision)

    def load_encoders() -> list[EncoderPair]:
        pairs = [
            EncoderPair(
                load_acoustic(settings.acoustic_encoder, where, options),
                load_text(settings.text_encoder, where),
            )
            for where in devices
        ]
        return per_core(pairs[0], settings.workers) if devices[0].type == "cpu" else pairs

    return extract_corpus(extraction, load_encoders)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _price(given: float | None) -> float | None:
    """The price given, else that of the environment."""
    text = os.environ.get("SER_PRICE_PER_HOUR")
    if given is not None or not text:
        return given
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"SER_PRICE_PER_HOUR {text!r} must be a number.") from None
