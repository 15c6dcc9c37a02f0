"""ser-transcribe: transcribe a corpus, or judge its transcripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ser_memory.common import __version__, manifests
from ser_memory.common.console import Command, GroupedOption, say
from ser_memory.common.conventions import cache_folder
from ser_memory.common.errors import UsageError, listing
from ser_memory.common.manifests import Manifest
from ser_memory.common.options import options_of
from ser_memory.extract.folders import release_root
from ser_memory.extract.settings import EngineSettings, ReleaseSettings, TranscribeSettings, UtteranceSettings
from ser_memory.extract.transcripts.corpus import (
    Counts,
    corpus_transcripts,
    transcribe_corpus,
    write_degraded,
)
from ser_memory.extract.transcripts.quality.comparison import print_comparison
from ser_memory.extract.transcripts.quality.degrade import check_rate
from ser_memory.extract.transcripts.sources import Sources, split_names

EXAMPLES = """
\b
Examples:
  ser-transcribe --corpus msp-podcast --transcriber whisper --whisper-model openai/whisper-small.en --device cuda
  ser-transcribe --corpus msp-podcast --transcriber azure --language en-US --price-per-hour 1 --max-cost 250
  ser-transcribe --corpus iemocap --corpus msp-improv --compare release,whisper
  ser-transcribe --corpus iemocap --transcriber release --degrade 0.1,0.2,0.4
"""


@click.command("ser-transcribe", cls=Command, epilog=EXAMPLES)
@click.option(
    "--corpus",
    "corpora",
    cls=GroupedOption,
    group="Release",
    multiple=True,
    required=True,
    help="Corpus by name, or a manifest (.toml); repeatable.",
)
@options_of(ReleaseSettings, TranscribeSettings, EngineSettings, UtteranceSettings)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(corpora: tuple[str, ...], root: Path | None, **options: Any) -> None:
    """Transcribe the utterances of a corpus, or judge transcripts that exist.

    An engine transcribes the utterances that ser-extract can use. Each result is on disk before the next
    request, so an interrupted run continues where it stopped. ser-extract --transcriber NAME uses the results.
    """
    asked, utterances = TranscribeSettings.take(options), UtteranceSettings.take(options)
    engine = EngineSettings.take(options)
    if root is not None and len(corpora) > 1:
        raise UsageError(
            "--root is the folder of one corpus: set SER_DATA to the folder that holds all of them, or give one --corpus."
        )
    cache = cache_folder(asked.cache)
    found = [(manifest, release_root(root, manifest.name)) for manifest in map(manifests.load, corpora)]
    if asked.compare is not None:
        if asked.transcriber is not None or asked.degrade is not None:
            raise UsageError("--compare only reads stores: use it without --transcriber and --degrade.")
        _compare(found, cache, split_names(asked.compare))
        return
    if asked.transcriber is None:
        raise UsageError("There is nothing to do: give --transcriber NAME, or --compare A,B.")
    if asked.degrade is not None:
        _degrade(found, cache, split_names(asked.transcriber), _rates(asked.degrade), asked.seed)
        return
    for manifest, place in found:
        sources = Sources.of(asked.transcriber, engine, manifest.name, cache, asked.device)
        counts = transcribe_corpus(manifest, place, sources, utterances)
        say(f"{manifest.name}: {counts.usable} usable utterances: {_listed(counts, sources)}.")


def _listed(counts: Counts, sources: Sources) -> str:
    parts = [f"{counts.transcribed} transcribed by {sources.engine} ({counts.empty} of them empty)"]
    if sources.stored:
        parts.insert(0, f"{counts.stored} with a text of {listing(sources.stored)}")
    if counts.refused:
        parts.append(f"{counts.refused} refused by {sources.engine}")
    if counts.undecodable:
        parts.append(f"{counts.undecodable} that cannot be decoded")
    return ", ".join(parts)


def _compare(found: list[tuple[Manifest, Path]], cache: Path, names: list[str]) -> None:
    if len(names) < 2:  # noqa: PLR2004
        raise UsageError(f"--compare {names[0]} has one name: give two or more, the reference first.")
    transcripts = {
        manifest.name: {name: corpus_transcripts(manifest, root, cache, name) for name in names}
        for manifest, root in found
    }
    print_comparison(transcripts, names)


def _degrade(
    found: list[tuple[Manifest, Path]], cache: Path, names: list[str], rates: list[float], seed: int
) -> None:
    if len(names) > 1:
        raise UsageError(f"--degrade uses the texts of one transcriber, not of {listing(names)}.")
    texts = {
        manifest.name: corpus_transcripts(manifest, root, cache, names[0]).texts for manifest, root in found
    }
    for path, number, errors in write_degraded(texts, cache, names[0], rates, seed):
        say(f"{path}: {number} texts, {errors.words} words, word error rate {errors.rate:.3f}.")


def _rates(given: str) -> list[float]:
    try:
        rates = [float(each) for each in given.split(",")]
    except ValueError:
        raise UsageError(
            f"--degrade {given!r} is not a list of rates: give numbers such as 0.1,0.2,0.4."
        ) from None
    if len(set(rates)) < len(rates):
        raise UsageError(f"--degrade {given} has the same rate twice: give each rate once.")
    for rate in rates:
        check_rate(rate)
    return rates


if __name__ == "__main__":
    main()
