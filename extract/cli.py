"""ser-extract: a release on disk -> one HDF5 feature cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ser_memory.common import __version__, manifests
from ser_memory.common.cache import FeatureCache
from ser_memory.common.console import Command, say
from ser_memory.common.errors import listing
from ser_memory.extract.options import (
    cache_folder,
    check_durations,
    release_root,
    root_option,
    utterance_options,
)
from ser_memory.extract.transcripts.options import sources_of, transcriber_options

ACOUSTIC_ENCODER = "facebook/wav2vec2-base"
TEXT_ENCODER = "google-bert/bert-base-uncased"

EXAMPLES = """
\b
Examples:
  ser-extract --corpus msp-podcast --root /corpora/MSP-PODCAST-1.11 --device cuda
  ser-extract --corpus iemocap --acoustic-encoder models/wav2vec2-base --text-encoder models/bert
  ser-extract --corpus msp-improv --device cuda:0,cuda:1 --precision bfloat16 --layers 7,9,11
  ser-extract --corpus msp-podcast --transcriber release,whisper --whisper-model openai/whisper-small.en
  ser-extract --corpus my-corpus.toml --root recordings --limit 50
"""


@click.command("ser-extract", cls=Command, epilog=EXAMPLES)
@click.option(
    "--corpus", required=True, help="Corpus by name, or the path of a manifest (.toml) of your own."
)
@root_option
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the caches; writes <cache>/<corpus>.h5.  [default: $SER_CACHE, else cache]",
)
@click.option(
    "--acoustic-encoder",
    default=ACOUSTIC_ENCODER,
    show_default=True,
    help="Hugging Face name or local folder of a wav2vec2-family or Whisper model, or log-mel.",
)
@click.option(
    "--text-encoder",
    default=TEXT_ENCODER,
    show_default=True,
    help="Hugging Face name or local folder of a BERT-class model.",
)
@transcriber_options(default="release")
@click.option(
    "--transcripts",
    type=click.Path(path_type=Path),
    help="CSV, TSV or JSON Lines of id and text, in place of the release's own transcripts.",
)
@click.option(
    "--protocol", help="Split protocol of the corpus's manifest.  [default: the manifest's first choice]"
)
@click.option(
    "--layers",
    default="last",
    show_default=True,
    help="Hidden states to keep: last, all, or numbers such as 7,9,11 for ser-train --layer to choose among.",
)
@click.option(
    "--pooling",
    type=click.Choice(("mean", "mean+std")),
    help="Over time.  [default: mean; mean+std for log-mel]",
)
@click.option(
    "--precision",
    type=click.Choice(("float32", "bfloat16")),
    default="float32",
    show_default=True,
    help="In which the encoders compute; bfloat16 is quicker on a GPU, and no longer exact.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where the encoders run: auto, cpu, mps, cuda, or several cards such as cuda:0,cuda:1.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Encoders side by side on a CPU.  [default: one per core]",
)
@utterance_options
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a cache that is there. Finished parts of these settings are used; to compute them again too, "
    "remove <cache>/<corpus>.parts.",
)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(
    corpus: str, root: Path | None, cache: Path | None, acoustic_encoder: str, text_encoder: str,
    transcripts: Path | None, protocol: str | None, layers: str, pooling: str | None, precision: str, device: str,
    workers: int | None, min_duration: float, max_duration: float, limit: int | None, overwrite: bool, **engine: Any,
) -> None:  # fmt: skip
    """Extract pooled embeddings of a corpus into a feature cache, once.

    Runs a frozen acoustic encoder over the recordings and a frozen text encoder over their transcripts,
    and writes one row per utterance to <cache>/<corpus>.h5, which ser-train reads. It works in parts, a twentieth
    of the corpus each (30 s to 10 min of audio): stopped or killed, the same command goes on from the finished ones.
    """
    check_durations(min_duration, max_duration)
    manifest = manifests.load(corpus, protocol)
    settings_root = release_root(root, manifest.name)
    folder = cache_folder(cache)
    sources = sources_of(manifest.name, folder, device, transcripts, **engine)

    # Everything from here on needs torch, which --help and wrong usage should not wait for.
    from ser_memory.common.machine import resolve_devices
    from ser_memory.extract.encoders import Options, load_acoustic, load_text
    from ser_memory.extract.pipeline import Settings, extract_corpus
    from ser_memory.extract.workers import Worker, per_core

    devices = resolve_devices(device)
    options = Options(layers, pooling, precision)

    def load_workers() -> list[Worker]:
        loaded = [
            Worker(load_acoustic(acoustic_encoder, where, options), load_text(text_encoder, where))
            for where in devices
        ]
        return per_core(loaded[0], workers) if devices[0].type == "cpu" else loaded

    settings = Settings(
        manifest=manifest,
        root=settings_root,
        cache=folder,
        transcripts=transcripts,
        min_duration=min_duration,
        max_duration=max_duration,
        precision=precision,
        limit=limit,
        overwrite=overwrite,
        sources=sources,
    )
    made = extract_corpus(settings, load_workers)
    report(made)


def report(cache: FeatureCache) -> None:
    """What was kept, and what was dropped by reason."""
    splits = ", ".join(f"{split} {count}" for split, count in cache.describe().items())
    hours = float(cache.read("duration").sum()) / 3600
    say(f"{cache.path}: {len(cache)} utterances, {hours:.2f} h ({splits}).")
    for reason, ids in cache.info.dropped.items():
        say(f"  dropped {len(ids)}, {reason}: {listing(ids, most=3)}")


if __name__ == "__main__":
    main()
