"""ser-transcribe: only the transcripts, and how good they are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ser_memory.common import __version__, manifests
from ser_memory.common.console import Command, say
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.manifests import Manifest
from ser_memory.common.reporting import progress
from ser_memory.extract.options import (
    cache_folder,
    check_durations,
    release_root,
    root_option,
    utterance_options,
)
from ser_memory.extract.transcripts.comparison import Told, print_comparison
from ser_memory.extract.transcripts.options import sources_of, transcriber_options
from ser_memory.extract.transcripts.sources import RELEASE, Sources, split_names

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
    "--compare", metavar="A,B", help="Print the word error rates of B (and C, ...) against A, its reference."
)
@click.option(
    "--degrade", metavar="RATES", help="Write stores of --transcriber's texts with these word error rates."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of --degrade.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where Whisper runs: auto, cpu, mps, cuda or cuda:1.",
)
@utterance_options
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(
    corpora: tuple[str, ...], root: Path | None, cache: Path | None, transcriber: str | None, compare: str | None,
    degrade: str | None, seed: int, device: str, min_duration: float, max_duration: float, limit: int | None,
    **engine: Any,
) -> None:  # fmt: skip
    """Have the utterances of a corpus transcribed, or judge transcripts that are there.

    An engine hears those that ser-extract could use, and each answer is on disk before the next is asked
    for: a run that was cut off goes on where it was. ser-extract --transcriber NAME uses what is stored.
    """
    check_durations(min_duration, max_duration)
    if root is not None and len(corpora) > 1:
        raise UsageError(
            "--root holds one corpus: set SER_DATA to the folder that holds them all, or give one."
        )
    folder = cache_folder(cache)
    found = [(manifest, release_root(root, manifest.name)) for manifest in map(manifests.load, corpora)]
    if compare is not None:
        if transcriber is not None or degrade is not None:
            raise UsageError("--compare reads what is stored: run it without --transcriber and --degrade.")
        _compare(found, folder, split_names(compare))
        return
    if transcriber is None:
        raise UsageError("Say what to do: --transcriber NAME, or --compare A,B.")
    if degrade is not None:
        _degrade(found, folder, split_names(transcriber), _rates(degrade), seed)
        return
    for manifest, place in found:
        sources = sources_of(manifest.name, folder, device, transcriber=transcriber, **engine)
        _transcribe(manifest, place, sources, (min_duration, max_duration), limit)


def _transcribe(
    manifest: Manifest, root: Path, sources: Sources, durations: tuple[float, float], limit: int | None
) -> None:
    from ser_memory.extract.corpora import read_release
    from ser_memory.extract.screening import screen, spread, summary

    if sources.engine is None:
        raise UsageError(
            f"{listing(sources.stored)} needs no hearing: name whisper, faster-whisper or azure last."
        )
    turns = sources.settle(read_release(root, manifest))
    with progress(f"{manifest.title}: reading headers", len(turns), "recordings") as advance:
        screened = screen(turns, *durations, advance, heard_later=True)
    chosen = spread(screened.kept, limit)
    if not chosen:
        raise SerError(f"No utterance of {root} can be used: {summary(screened.dropped)}.")
    texts, refused = sources.fill(chosen)
    there = sum(each.transcript is not None for each, _ in chosen)
    empty = sum(not text for text in texts.values())
    undecodable = len(chosen) - there - len(texts) - len(refused)
    counts = [f"{len(texts)} heard by {sources.engine} ({empty} of them empty)"]
    if sources.stored:
        counts.insert(0, f"{there} with a text of {listing(sources.stored)}")
    if refused:
        counts.append(f"{len(refused)} that {sources.engine} refused")
    if undecodable:
        counts.append(f"{undecodable} that cannot be decoded")
    say(f"{manifest.name}: {len(chosen)} usable utterances: {', '.join(counts)}.")


def _compare(found: list[tuple[Manifest, Path]], cache: Path, names: list[str]) -> None:
    if len(names) < 2:  # noqa: PLR2004
        raise UsageError(
            f"--compare {names[0]} compares nothing: give two names or more, the reference first."
        )
    told = {
        manifest.name: {name: _told(manifest, root, cache, name) for name in names}
        for manifest, root in found
    }
    print_comparison(told, names)


def _told(manifest: Manifest, root: Path, cache: Path, name: str) -> Told:
    """What one transcriber tells of one corpus, without hearing anything."""
    from ser_memory.extract.corpora import read_release
    from ser_memory.extract.transcripts.store import read_store, store_path, stored_transcribers
    from ser_memory.extract.transcripts.suspicion import REPETITION, is_repetitive

    turns = read_release(root, manifest)
    splits = {turn.id: turn.split for turn in turns}
    if name == RELEASE:
        texts = {turn.id: turn.transcript for turn in turns if turn.transcript is not None}
        return Told(
            texts, splits, {each: (REPETITION,) for each, text in texts.items() if is_repetitive(text)}
        )
    if name not in stored_transcribers(cache, manifest.name):
        raise UsageError(
            f"There are no transcripts of {manifest.name} by {name!r} in {cache}: it has those of "
            f"{listing([RELEASE, *stored_transcribers(cache, manifest.name)])}."
        )
    records = read_store(store_path(cache, manifest.name, name))
    return Told(
        {each: record.text for each, record in records.items()},
        splits,
        {each: record.flags for each, record in records.items() if record.flags},
    )


def _degrade(
    found: list[tuple[Manifest, Path]], cache: Path, names: list[str], rates: list[float], seed: int
) -> None:
    """Write the stores of all rates and corpora, or, where one of them cannot be made, none."""
    from ser_memory.extract.transcripts.degrade import degrade
    from ser_memory.extract.transcripts.quality import total, word_errors
    from ser_memory.extract.transcripts.store import Transcript, store_path, write_store

    if len(names) > 1:
        raise UsageError(f"--degrade takes the texts of one transcriber, not of {listing(names)}.")
    name = names[0]
    texts = {manifest.name: _told(manifest, root, cache, name).texts for manifest, root in found}
    made = {(corpus, rate): degrade(texts[corpus], rate, seed) for corpus in texts for rate in rates}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    blank = Transcript("", "", None, None, "degraded", "", 0.0, now, "made")
    for (corpus, rate), wrong in made.items():
        version = f"{name}, word error rate {rate:g}, seed {seed}"
        path = store_path(cache, corpus, f"{name}-wer{rate:g}")
        write_store(
            path, (replace(blank, id=each, text=text, version=version) for each, text in wrong.items())
        )
        errors = total(word_errors(texts[corpus], wrong))
        say(f"{path}: {len(wrong)} texts, {errors.words} words, word error rate {errors.rate:.3f}.")


def _rates(asked: str) -> list[float]:
    from ser_memory.extract.transcripts.degrade import check_rate

    try:
        rates = [float(each) for each in asked.split(",")]
    except ValueError:
        raise UsageError(
            f"--degrade {asked!r} is no list of rates: give numbers such as 0.1,0.2,0.4."
        ) from None
    if len(set(rates)) < len(rates):
        raise UsageError(f"--degrade {asked} gives a rate twice.")
    for rate in rates:
        check_rate(rate)
    return rates


if __name__ == "__main__":
    main()
