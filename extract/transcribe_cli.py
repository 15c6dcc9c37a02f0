"""ser-transcribe: transcribe a corpus, or judge its transcripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ser_memory.common import __version__, manifests
from ser_memory.common.console import Command, say
from ser_memory.common.errors import UsageError, listing
from ser_memory.common.manifests import Manifest
from ser_memory.extract.options import (
    cache_folder,
    check_durations,
    release_root,
    root_option,
    utterance_options,
)
from ser_memory.extract.transcripts.corpus import (
    Counts,
    corpus_transcripts,
    transcribe_corpus,
    write_degraded,
)
from ser_memory.extract.transcripts.options import sources_of, transcriber_options
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
    multiple=True,
    required=True,
    help="Corpus by name, or a manifest (.toml); repeatable.",
)
@root_option
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the stores, <cache>/<corpus>.<transcriber>.transcripts.jsonl.  [default: $SER_CACHE, else cache]",
)
@transcriber_options(default=None)
@click.option(
    "--compare", metavar="A,B", help="Print the word error rates of B (and C, ...) against the reference A."
)
@click.option(
    "--degrade", metavar="RATES", help="Write stores of --transcriber's texts with these word error rates."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of --degrade.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Device for Whisper: auto, cpu, mps, cuda or cuda:1.",
)
@utterance_options
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(
    corpora: tuple[str, ...], root: Path | None, cache: Path | None, transcriber: str | None, compare: str | None,
    degrade: str | None, seed: int, device: str, min_duration: float, max_duration: float, limit: int | None,
    **engine: Any,
) -> None:  # fmt: skip
    """Transcribe the utterances of a corpus, or judge transcripts that exist.

    An engine transcribes the utterances that ser-extract can use. Each result is on disk before the next
    request, so an interrupted run continues where it stopped. ser-extract --transcriber NAME uses the results.
    """
    check_durations(min_duration, max_duration)
    if root is not None and len(corpora) > 1:
        raise UsageError(
            "--root is the folder of one corpus: set SER_DATA to the folder that holds all of them, or give one --corpus."
        )
    folder = cache_folder(cache)
    found = [(manifest, release_root(root, manifest.name)) for manifest in map(manifests.load, corpora)]
    if compare is not None:
        if transcriber is not None or degrade is not None:
            raise UsageError("--compare only reads stores: use it without --transcriber and --degrade.")
        _compare(found, folder, split_names(compare))
        return
    if transcriber is None:
        raise UsageError("There is nothing to do: give --transcriber NAME, or --compare A,B.")
    if degrade is not None:
        _degrade(found, folder, split_names(transcriber), _rates(degrade), seed)
        return
    for manifest, place in found:
        sources = sources_of(manifest.name, folder, device, transcriber=transcriber, **engine)
        counts = transcribe_corpus(manifest, place, sources, min_duration, max_duration, limit)
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
