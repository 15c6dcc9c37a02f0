"""ser-extract: a release on disk -> one HDF5 feature cache."""

from __future__ import annotations

from typing import Any

import click

from ser_memory.common import __version__
from ser_memory.common.cache import FeatureCache
from ser_memory.common.console import Command, GroupedOption, say
from ser_memory.common.errors import listing
from ser_memory.common.options import options_of
from ser_memory.common.variation import flat_splits_of
from ser_memory.extract.api import extract
from ser_memory.extract.settings import GROUPS

EXAMPLES = """
\b
Several workers, as an array job of Slurm (sbatch FILE):
  #!/bin/bash
  #SBATCH --array=1-8 --gres=gpu:1 --requeue
  ser-extract --corpus msp-podcast --root /shared/MSP-PODCAST-1.11 --cache /shared/cache --worker

\b
Examples:
  ser-extract --corpus msp-podcast --root /corpora/MSP-PODCAST-1.11 --device cuda
  ser-extract --corpus iemocap --acoustic-encoder models/wav2vec2-base --text-encoder models/bert
  ser-extract --corpus msp-improv --device cuda:0,cuda:1 --precision bfloat16 --layers 7,9,11
  ser-extract --corpus msp-podcast --transcriber release,whisper --whisper-model openai/whisper-small.en
  ser-extract --corpus iemocap --text-only --transcriber whisper
  ser-extract --corpus iemocap --condition noise:10
  ser-extract --corpus msp-podcast --cache /shared/cache --worker
  ser-extract --corpus msp-podcast --cache /shared/cache --engine ray --address auto
  ser-extract --corpus my-corpus.toml --root recordings --limit 50
"""


@click.command("ser-extract", cls=Command, epilog=EXAMPLES)
@click.option(
    "--corpus",
    cls=GroupedOption,
    group="Release",
    required=True,
    help="Corpus by name, or the path of a manifest (.toml) of your own.",
)
@options_of(*GROUPS)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(corpus: str, **options: Any) -> None:
    """Extract pooled embeddings of a corpus into a feature cache, once.

    Runs a frozen acoustic encoder over the recordings and a frozen text encoder over their transcripts, and writes
    one row per utterance to <cache>/<corpus>.h5, which ser-train reads. It works in parts, a twentieth of the corpus
    each (30 s to 10 min of audio): after a stop or a kill, the same command continues from the finished parts.

    With --overwrite, a row of the old cache is reused if its recording, its transcript and the encoders are the same:
    changed labels, splits or names encode nothing. --fresh computes every row again.

    With --worker, any number of processes share the parts, on hosts that share the folders of the release and of the
    cache, which must exist. One of them writes the cache, the same as a single process would; the others wait for it.

    With --engine ray, each core or GPU of a Ray cluster takes parts; the part of a node that dies is done again. All
    nodes need the same versions and see the same files under the same paths, which is checked before the work.

    With --condition, it writes another cache, of the test recordings by telephone, in noise or in a room.
    """
    report(extract(corpus, **options))


def report(cache: FeatureCache) -> None:
    """Print what was kept, what was dropped by reason, and the splits from which nothing can be learned."""
    report_kept(cache)
    for line in flat_splits_of(cache):
        say(f"  {line}")


def report_kept(cache: FeatureCache) -> None:
    """Print what was kept, and what was dropped by reason."""
    splits = ", ".join(f"{split} {count}" for split, count in cache.describe().items())
    hours = float(cache.read("duration").sum()) / 3600
    say(f"{cache.path}: {len(cache)} utterances, {hours:.2f} h ({splits}).")
    for reason, ids in cache.info.dropped.items():
        say(f"  dropped {len(ids)}, {reason}: {listing(ids, most=3)}")
    if told := cache.info.compared:
        rate = told["word_error_rate"]
        shown = "is not defined: the reference has no words" if rate is None else f"is {rate:.3f}"
        say(f"  word error rate against {told['reference']} {shown} ({told['words']:,} words).")


if __name__ == "__main__":
    main()
