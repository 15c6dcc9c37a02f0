"""ser-cache: what is in a feature cache, whether it is whole, and how two of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import click
import numpy as np

from ser_memory.common import __version__
from ser_memory.common.cache import COLUMNS, EMBEDDINGS, TEXT_COLUMNS, CacheInfo, FeatureCache
from ser_memory.common.console import Command, say, table
from ser_memory.common.conventions import RATED, UNKNOWN
from ser_memory.common.errors import UsageError, listing
from ser_memory.common.variation import flat_splits_of

_BAR = 40  # characters of the longest bar of a histogram
_HISTOGRAM_BINS = 8
_NO_DIGEST = "every value plausible (this file is too old to say whether a value was changed later)"

EXAMPLES = """
\b
Examples:
  ser-cache cache/iemocap.h5
  ser-cache --verify cache/msp-podcast.h5 cache/msp-improv.h5 cache/iemocap.h5
  ser-cache --diff cache/iemocap.h5 backup/iemocap.h5
"""


@click.command("ser-cache", cls=Command, epilog=EXAMPLES)
@click.argument("caches", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--verify",
    is_flag=True,
    help="Read everything and check shapes, plausible values, unique ids, and that no value was changed later.",
)
@click.option("--diff", is_flag=True, help="Compare two caches; exit code 1 if their content differs.")
@click.option("--dropped", is_flag=True, help="List all ids without a row, by reason.")
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
@click.pass_context
def main(context: click.Context, caches: Sequence[Path], verify: bool, diff: bool, dropped: bool) -> None:
    """Look inside feature caches."""
    opened = [FeatureCache(path) for path in caches]
    if diff:
        if len(opened) != 2:  # noqa: PLR2004
            raise UsageError(f"--diff compares two caches, not {len(opened)}.")
        context.exit(0 if _say_differences(*opened) else 1)
    for cache in opened:
        if verify:
            cache.validate()
            told = "every value as it was written" if cache.refuse_altered() else _NO_DIGEST
            say(f"{cache.path}: whole. {len(cache)} utterances, {told}.")
        elif dropped:
            for reason, ids in cache.info.dropped.items():
                for name in ids:
                    say(f"{reason}\t{name}")
        else:
            describe(cache)


def describe(cache: FeatureCache) -> None:
    """Counts per split, durations, label histograms, encoders and drops by reason."""
    info = cache.info
    say(f"{cache.path}: {info.corpus}, release {info.release}, {len(cache)} utterances")
    if info.limit:
        say(f"A trial, extracted with --limit {info.limit}.")
    say()
    split, duration = cache.read("split"), cache.read("duration")
    speaker = cache.read("speaker")
    rows = []
    for name, count in cache.describe().items():
        seconds = duration[split == name]
        known = set(speaker[split == name]) - {UNKNOWN}
        spread = f"{seconds.min():.1f} / {np.median(seconds):.1f} / {seconds.max():.1f}"
        rows.append([name, str(count), f"{seconds.sum() / 3600:.2f}", spread, str(len(known))])
    table(
        "Splits", ["split", "utterances", "hours", "shortest / median / longest (s)", "known speakers"], rows
    )
    flat = flat_splits_of(cache)
    for line in flat:
        say(line)
    if flat:
        say()
    for dimension in RATED:
        _histogram(dimension, cache.read(dimension), info.scale_min, info.scale_max)
    facts = [(item.name, getattr(info, item.name)) for item in fields(CacheInfo) if item.name != "dropped"]
    shapes = [(name, " x ".join(map(str, cache.shapes[name]))) for name in EMBEDDINGS]
    table(
        "Attributes and shapes",
        ["name", "value"],
        [[name, str(value)] for name, value in facts + shapes],
        left=2,
    )
    if info.dropped:
        counts = [[reason, str(len(ids)), listing(ids, most=3)] for reason, ids in info.dropped.items()]
        table("Dropped (--dropped lists all)", ["reason", "utterances", "such as"], counts)


def _histogram(name: str, values: np.ndarray, low: float, high: float) -> None:
    told = values[np.isfinite(values)]
    if not len(told):
        say(f"{name}: no value\n")
        return
    counts, edges = np.histogram(told, bins=_HISTOGRAM_BINS, range=(low, high))
    say(f"{name}: mean {told.mean():.2f}, standard deviation {told.std():.2f}, {len(told)} utterances")
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        say(f"  {left:5.2f} to {right:5.2f} {count:8d} {'#' * round(_BAR * count / counts.max())}")
    say()


def _say_differences(one: FeatureCache, other: FeatureCache) -> bool:
    """Print what differs; whether nothing but names and versions does."""
    same = True
    for item in fields(CacheInfo):
        values = [getattr(cache.info, item.name) for cache in (one, other)]
        if values[0] != values[1]:
            counts = (
                [{reason: len(ids) for reason, ids in value.items()} for value in values]
                if item.name == "dropped"
                else values
            )
            say(f"{item.name}: {counts[0]} and {counts[1]}")
    ids = [list(cache.read("id")) for cache in (one, other)]
    for here, there, path in ((0, 1, one.path), (1, 0, other.path)):
        alone = sorted(set(ids[here]) - set(ids[there]))
        if alone:
            same = False
            say(f"only in {path}: {len(alone)} utterances, {listing(alone, most=3)}")
    places = [{name: row for row, name in enumerate(names)} for names in ids]
    common = [name for name in ids[0] if name in places[1]]
    if same and ids[0] != ids[1]:
        same = False
        say("The same utterances, in another order.")
    rows = [[place[name] for name in common] for place in places]
    for column in COLUMNS:
        if common:
            same &= _same_column(column, one.read(column)[rows[0]], other.read(column)[rows[1]], common)
    if same:
        say(f"The rows of {one.path} and {other.path} are the same.")
    return same


def _same_column(column: str, a: np.ndarray, b: np.ndarray, ids: Sequence[str]) -> bool:
    if a.shape != b.shape:
        say(f"{column}: shapes {a.shape[1:]} and {b.shape[1:]}")
        return False
    equal = a == b if column in TEXT_COLUMNS else (a == b) | (np.isnan(a) & np.isnan(b))
    rows = equal.reshape(len(ids), -1).all(axis=1)
    if rows.all():
        return True
    first = ids[int(np.argmin(rows))]
    by = "" if column in TEXT_COLUMNS else _by_how_much(a, b, ~equal)
    say(f"{column}: {np.count_nonzero(~rows)} of {len(ids)} rows differ{by}, {first} for one")
    return False


def _by_how_much(a: np.ndarray, b: np.ndarray, differing: np.ndarray) -> str:
    """`, by at most 0.1, 3 values not finite in one of them`"""
    with np.errstate(invalid="ignore"):  # of infinities
        gaps = np.abs(a - b)[differing]
    finite = gaps[np.isfinite(gaps)]
    told = f", by at most {finite.max():.3g}" if len(finite) else ""
    strange = len(gaps) - len(finite)
    return told + (f", {strange} values not finite in one of the two" if strange else "")
