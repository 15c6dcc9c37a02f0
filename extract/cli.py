"""ser-extract: a release on disk -> one HDF5 feature cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from common import __version__, manifests
from common.cache import FeatureCache
from common.console import Command, say
from common.devices import DEVICES
from common.errors import UsageError, listing
from extract.transcripts.options import sources_of, transcriber_options

ACOUSTIC_ENCODER = "facebook/wav2vec2-base"
TEXT_ENCODER = "google-bert/bert-base-uncased"

EXAMPLES = """
\b
Examples:
  ser-extract --corpus msp-podcast --root /corpora/MSP-PODCAST-1.11 --device cuda
  ser-extract --corpus iemocap --acoustic-encoder models/wav2vec2-base --text-encoder models/bert
  ser-extract --corpus msp-podcast --transcriber release,whisper --whisper-model openai/whisper-small.en
  ser-extract --corpus my-corpus.toml --root recordings --limit 50
"""


@click.command("ser-extract", cls=Command, epilog=EXAMPLES)
@click.option(
    "--corpus", required=True, help="Corpus by name, or the path of a manifest (.toml) of your own."
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Folder of the release.  [default: $SER_DATA/<corpus>, else data/<corpus>]",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the caches; writes <cache>/<corpus>.h5.  [default: $SER_CACHE, else cache]",
)
@click.option(
    "--acoustic-encoder",
    default=ACOUSTIC_ENCODER,
    show_default=True,
    help="Hugging Face name or local folder of a wav2vec2-family model.",
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
    "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="Where the encoders run."
)
@click.option(
    "--min-duration",
    type=click.FloatRange(min=0),
    default=3.0,
    show_default=True,
    help="Shorter utterances are dropped; seconds.",
)
@click.option(
    "--max-duration",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Longer utterances are dropped; seconds.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Only this many utterances, spread over the release, for a trial.",
)
@click.option("--overwrite", is_flag=True, help="Replace a cache that was made from other settings.")
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(
    corpus: str, root: Path | None, cache: Path | None, acoustic_encoder: str, text_encoder: str,
    transcripts: Path | None, protocol: str | None, device: str, min_duration: float, max_duration: float,
    limit: int | None, overwrite: bool, **engine: Any,
) -> None:  # fmt: skip
    """Extract pooled embeddings of a corpus into a feature cache, once.

    Runs a frozen acoustic encoder over the recordings and a frozen text encoder over their transcripts,
    and writes one row per utterance to <cache>/<corpus>.h5, which ser-train reads.
    """
    if min_duration > max_duration:
        raise UsageError(f"--min-duration {min_duration:g} exceeds --max-duration {max_duration:g}.")
    manifest = manifests.load(corpus, protocol)
    settings_root = release_root(root, manifest.name)
    folder = cache or Path(os.environ.get("SER_CACHE", "cache"))
    sources = sources_of(manifest.name, folder, device, transcripts, **engine)

    from common.devices import resolve_device
    from extract.encoders import AcousticEncoder, TextEncoder
    from extract.pipeline import Settings, extract_corpus

    chosen_device = resolve_device(device)
    settings = Settings(
        manifest=manifest,
        root=settings_root,
        cache=folder,
        transcripts=transcripts,
        min_duration=min_duration,
        max_duration=max_duration,
        limit=limit,
        overwrite=overwrite,
        sources=sources,
    )
    made = extract_corpus(
        settings,
        lambda: (
            AcousticEncoder.from_pretrained(acoustic_encoder, chosen_device),
            TextEncoder.from_pretrained(text_encoder, chosen_device),
        ),
    )
    report(made)


def report(cache: FeatureCache) -> None:
    """What was kept, and what was dropped by reason."""
    splits = ", ".join(f"{split} {count}" for split, count in cache.describe().items())
    hours = float(cache.read("duration").sum()) / 3600
    say(f"{cache.path}: {len(cache)} utterances, {hours:.2f} h ({splits}).")
    for reason, ids in cache.info.dropped.items():
        say(f"  dropped {len(ids)}, {reason}: {listing(ids, most=3)}")


def release_root(root: Path | None, corpus: str) -> Path:
    """The folder of a release: the one given, or where SER_DATA says. Raises UsageError if it is not there."""
    folder = root or Path(os.environ.get("SER_DATA", "data")) / corpus
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {folder}: give the release with --root FOLDER, "
            f"or set SER_DATA to the folder that holds {corpus}/."
        )
    return folder
