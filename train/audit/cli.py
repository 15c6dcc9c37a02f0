"""ser-bundle audit: what a bundle reveals about a corpus, in a table."""

from __future__ import annotations

from pathlib import Path

import click

from ser_memory.common.console import Command
from ser_memory.common.errors import UsageError

EXAMPLES = """
\b
Examples:
  ser-bundle audit runs/first/bundles/gem-random-1000/seed-0/stage-3 cache/iemocap.h5 --members runs/first/members.csv
  ser-bundle audit BUNDLE cache/iemocap.h5 --members members.csv --variant mp3=reencoded/iemocap.h5 --format json
"""
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("audit", cls=Command, epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("cache", type=_FILE)
@click.option(
    "--members", type=_FILE, help="members.csv of the run that wrote the bundle: which utterances it keeps."
)
@click.option(
    "--variant",
    multiple=True,
    help="NAME=CACHE: a cache of the same utterances as an attacker may have them, such as re-encoded recordings; "
    "repeatable.",
)
@click.option(
    "--before",
    type=click.Path(path_type=Path),
    help="A bundle of the same run from before this corpus: the attacker compares the two.",
)
@click.option("--protocol", help="The split protocol of the run, if it is not that of the cache.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="csv has the attacks alone; json also has the bytes of every tensor.",
)
@click.option("--output", type=_FILE, help="Write to this file instead.  [default: standard output]")
def audit(
    bundle: Path, cache: Path, members: Path | None, variant: tuple[str, ...], before: Path | None,
    protocol: str | None, form: str, output: Path | None,
) -> None:  # fmt: skip
    """Measure what a bundle reveals about its training utterances.

    CACHE is of a corpus that the bundle has learned from. The attacker has the bundle and some recordings, and asks which of
    them are in it. AUC is 0.5 for an attack that knows nothing, and 1 for one that is always right. "found" is the share of
    the members that are found while 1 % of the others are taken for members.
    """
    variants = dict(_named(item) for item in variant)
    if len(variants) < len(variant):
        raise UsageError("--variant gives a name twice: each has a name of its own.")
    from ser_memory.train.audit.audit import audit as audited
    from ser_memory.train.audit.output import as_csv, as_json, show
    from ser_memory.train.bundle_files import read_one

    earlier = None if before is None else read_one(before)
    found = audited(read_one(bundle), cache, members, before=earlier, variants=variants, protocol=protocol)
    show(found, {"json": as_json, "csv": as_csv}.get(form), output)


def _named(item: str) -> tuple[str, Path]:
    name, _, path = item.partition("=")
    if not (name and path):
        raise UsageError(f"--variant {item!r} must be NAME=CACHE, such as mp3=reencoded/iemocap.h5.")
    return name, Path(path)
